"""Attention over pages: of one new token of each sequence, and of prompts, in one pass.

Tensor names end in their shape: M tokens of a pass, R rows, S slots, N pages, H heads, G key/value heads, A
heads of queries, keys and values together, E head size, F heads times size, T positions looked at, B pages
times key/value heads, Q queries of one of these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from codex_ray.rollout import native
from codex_ray.rollout.lora import Adapter
from codex_ray.rollout.norms import normed
from codex_ray.rollout.pages import PagedCache

Attend = Callable[[int, Tensor, Tensor | None], Tensor]
"""Normalises and turns queries and keys, keeps a layer's keys and values, and returns what queries attend to,
[M, H*E].

Given the layer's number; queries, keys and values one after the other, [M, A, E], which are written to;
and the weights of their heads' norms, [H + G, E], fp32, if they have any.
"""

Turns = tuple[Tensor, Tensor]
"""Cosines and sines of a pass's tokens, each [M, E/2], fp32."""


class Span(NamedTuple):
    """The rest of a prompt to be read: slot, tokens, how many the slot holds before them, and its adapter."""

    slot: int
    tokens: list[int]
    past: int
    adapter: Adapter | None = None


class PagedAttention:
    """Attention on a CPU over a cache of pages.

    Args:
        cache: of the pages; ``heads``: of queries.
        scaling: of scores; ``eps``: of heads' norms.
        paired: neighbours of a head turn together, as in our decoder, and not its halves.
    """

    def __init__(self, cache: PagedCache, heads: int, scaling: float, eps: float, *, paired: bool) -> None:
        self._cache, self._heads, self._scaling = cache, heads, scaling
        self._eps, self._paired = eps, paired
        self._groups, self._size = cache.groups, cache.size
        self._kernels = native.kernels(cache.dtype)

    def over(self, positions: list[int], spans: Sequence[Span], count: int, turns: Turns) -> Attend:
        """What a pass over ``count`` tokens keeps and looks at: rows at their positions, then prompts."""
        rows = len(positions)
        step = (self._plain if self._kernels is None else self._compiled)(positions, spans, turns)

        def attend(layer: int, qkv_MAE: Tensor, norms_PE: Tensor | None) -> Tensor:
            attended = qkv_MAE.new_zeros(count, self._heads * self._size)
            step(layer, qkv_MAE, norms_PE, attended[:rows])
            start = rows
            for span in spans:
                end = start + len(span.tokens)
                attended[start:end] = self._read(span, layer, qkv_MAE[start:end])
                start = end
            return attended

        return attend

    def _lines(self, positions: list[int], spans: Sequence[Span]) -> np.ndarray:
        """Where keys of a pass's tokens are kept, [M, G]."""
        cache = self._cache
        kept = [cache.places(span.slot, span.past, span.past + len(span.tokens)) for span in spans]
        return np.concatenate([cache.last_places(positions), *kept])

    def step_of(self, positions: list[int], spans: Sequence[Span], turns: Turns) -> native.Step:
        """What the compiled kernel is told of a pass; it holds what it has the addresses of."""
        cache = self._cache
        lines_M = np.ascontiguousarray(self._lines(positions, spans)[:, 0])
        lengths_R, table_SN = np.array(positions, np.int64) + 1, cache.table_SN
        step = native.Step(
            tokens=len(lines_M),
            rows=len(positions),
            heads=self._heads,
            groups=self._groups,
            size=self._size,
            page=cache.page,
            values=cache.half * self._size,
            longest=table_SN.shape[1],
            paired=self._paired,
            threads=torch.get_num_threads(),
            scaling=self._scaling,
            eps=self._eps,
            lines=lines_M.ctypes.data,
            lengths=lengths_R.ctypes.data,
            tables=table_SN.ctypes.data,
            cosine=turns[0].data_ptr(),
            sine=turns[1].data_ptr(),
        )
        step.held = (lines_M, lengths_R, table_SN, turns)
        return step

    def _compiled(
        self, positions: list[int], spans: Sequence[Span], turns: Turns
    ) -> Callable[[int, Tensor, Tensor | None, Tensor], None]:
        """Attention of one query a row by the compiled kernel."""
        cache, kernels, step = self._cache, self._kernels, self.step_of(positions, spans, turns)
        assert kernels is not None

        def attend(layer: int, qkv_MAE: Tensor, norms_PE: Tensor | None, out_RF: Tensor) -> None:
            kernels.attend(qkv_MAE, cache.kept[layer], norms_PE, out_RF, step)

        return attend

    def _plain(
        self, positions: list[int], spans: Sequence[Span], turns: Turns
    ) -> Callable[[int, Tensor, Tensor | None, Tensor], None]:
        """The same by PyTorch's operations."""
        cache, heads, size, both = self._cache, self._heads, self._size, self._heads + self._groups
        stepped = self._stepped(positions)  # first: it may move pages
        keys_MG = self._lines(positions, spans)
        lines, real = torch.from_numpy(np.hstack([keys_MG, keys_MG + cache.half]).ravel()), len(keys_MG)

        def attend(layer: int, qkv_MAE: Tensor, norms_PE: Tensor | None, out_RF: Tensor) -> None:
            both_RPE = qkv_MAE[:, :both].float()
            if norms_PE is not None:
                both_RPE = normed(both_RPE, norms_PE, self._eps)
            qkv_MAE[:, :both] = self._turned(both_RPE, turns)
            new = qkv_MAE[:real, heads:].reshape(-1, size)
            cache.kept[layer].view(-1, size).index_copy_(0, lines, new)
            if positions:
                out_RF.copy_(stepped(layer, qkv_MAE))

        return attend

    def _turned(self, both_MPE: Tensor, turns: Turns) -> Tensor:
        """Turn queries and keys to their positions."""
        cosine, sine = turns
        if self._paired:
            pairs = torch.view_as_complex(both_MPE.unflatten(-1, (-1, 2)))
            return torch.view_as_real(pairs * torch.complex(cosine, sine)[:, None]).flatten(-2)
        cosine, sine = torch.cat([cosine, cosine], -1)[:, None], torch.cat([-sine, sine], -1)[:, None]
        return torch.addcmul(both_MPE * cosine, both_MPE.roll(self._size // 2, -1), sine)

    def _stepped(self, positions: list[int]) -> Callable[[int, Tensor], Tensor]:
        """Attention of one query a row over the row's pages, to [R, H*E].

        Each page is compared with its row's query, scores are put side by side for the softmax, and what the
        pages give is added up row by row.
        """
        if not positions:
            return lambda layer, qkv_MAE: qkv_MAE
        rows = len(positions)
        heads, groups, size, page = self._heads, self._groups, self._size, self._cache.page
        dtype = self._cache.dtype
        reading = self._cache.read_by(positions)
        hidden_N1T, rows_N = reading.hidden(dtype), torch.from_numpy(reading.slot_N)
        lines, longest = reading.lines(heads)
        asking_N, pages = rows_N.clamp(max=rows - 1), len(rows_N)
        side_by_side = torch.full(((rows + 1) * heads, longest * page), -torch.inf, dtype=dtype)

        def attention(layer: int, qkv_MAE: Tensor) -> Tensor:
            keys_BTE, values_BTE = self._cache.kept[layer][:, :pages].flatten(1, 2).unbind()
            query_NHE = qkv_MAE[:, :heads].index_select(0, asking_N)
            query_BQE = query_NHE.view(pages * groups, heads // groups, size)
            scores_BQT = torch.bmm(query_BQE, keys_BTE.transpose(1, 2))
            scores_NHT = torch.add(hidden_N1T, scores_BQT.view(pages, heads, page), alpha=self._scaling)
            side_by_side.view(-1, page).index_copy_(0, lines, scores_NHT.view(-1, page))
            weights = side_by_side.softmax(-1).view(-1, page).index_select(0, lines)
            weights_BQT = weights.view(pages * groups, heads // groups, page)
            parts_BQE = torch.bmm(weights_BQT, values_BTE)
            sums_RF = torch.zeros(rows + 1, heads * size)  # the last may be of nobody's pages
            sums_RF.index_add_(0, rows_N, parts_BQE.view(pages, -1).float())
            return sums_RF[:rows]

        return attention

    def _read(self, span: Span, layer: int, qkv_MAE: Tensor) -> Tensor:
        """Attention of a prompt's new tokens over all its tokens, [M, H*E]."""
        end, seen_MT = span.past + len(span.tokens), None
        query_HME, key_GTE, value_GTE = qkv_MAE.transpose(0, 1).split(
            [self._heads, self._groups, self._groups]
        )
        if span.past:
            keys_GT = self._cache.places(span.slot, 0, end).T.ravel()
            lines = torch.from_numpy(np.concatenate([keys_GT, keys_GT + self._cache.half]))
            kept = self._cache.kept[layer].view(-1, self._size).index_select(0, lines)
            key_GTE, value_GTE = kept.view(2, self._groups, end, -1).unbind()
            seen_MT = torch.arange(end) <= torch.arange(span.past, end)[:, None]
        attended_HME = functional.scaled_dot_product_attention(
            query_HME[None],
            key_GTE[None],
            value_GTE[None],
            attn_mask=seen_MT,
            is_causal=seen_MT is None,
            scale=self._scaling,
            enable_gqa=True,
        )[0]
        return attended_HME.transpose(0, 1).flatten(1)
