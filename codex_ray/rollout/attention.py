"""Attention over pages: of one new token of each sequence, and of prompts, in one pass.

Tensor names end in their shape: M tokens of a pass, R rows, N pages, H heads, G key/value heads, A heads of
queries, keys and values together, E head size, F heads times size, T positions looked at, B pages times
key/value heads, Q queries of one of these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from codex_ray.rollout.pages import PagedCache

Attend = Callable[[int, Tensor], Tensor]
"""Keeps a layer's keys and values, and returns what queries attend to, [M, H*E].

Given the layer's number, and queries, keys and values one after the other, [M, A, E].
"""


class Span(NamedTuple):
    """The rest of a prompt to be read: its slot, its tokens, and how many its slot holds before them."""

    slot: int
    tokens: list[int]
    past: int


class PagedAttention:
    """Attention on a CPU over a cache of pages; ``heads`` of queries, scores times ``scaling``."""

    def __init__(self, cache: PagedCache, heads: int, scaling: float) -> None:
        self._cache, self._heads, self._scaling = cache, heads, scaling
        self._groups, self._size = cache.groups, cache.size

    def over(self, positions: list[int], spans: Sequence[Span], count: int) -> Attend:
        """What a pass over ``count`` tokens keeps and looks at: rows at their positions, then prompts."""
        cache, heads, size, rows = self._cache, self._heads, self._size, len(positions)
        stepped = self._stepped(positions, rows if spans else count)  # first: it may move pages
        kept = [cache.places(span.slot, span.past, span.past + len(span.tokens)) for span in spans]
        keys_MG = np.concatenate([cache.last_places(positions), *kept])
        lines, real = torch.from_numpy(np.hstack([keys_MG, keys_MG + cache.half]).ravel()), len(keys_MG)

        def attend(layer: int, qkv_MAE: Tensor) -> Tensor:
            new = qkv_MAE[:real, heads:].reshape(-1, size)
            cache.kept[layer].view(-1, size).index_copy_(0, lines, new)
            if not spans:
                return stepped(layer, qkv_MAE)
            attended = qkv_MAE.new_zeros(count, heads * size)
            if rows:
                attended[:rows] = stepped(layer, qkv_MAE)
            start = rows
            for span in spans:
                end = start + len(span.tokens)
                attended[start:end] = self._read(span, layer, qkv_MAE[start:end])
                start = end
            return attended

        return attend

    def _stepped(self, positions: list[int], count: int) -> Attend:
        """Attention of one query a row over the row's pages, to [count, H*E].

        Each page is compared with its row's query, scores are put side by side for the softmax, and what the
        pages give is added up row by row.
        """
        if not positions:
            return lambda layer, qkv_MAE: qkv_MAE
        heads, groups, size, page = self._heads, self._groups, self._size, self._cache.page
        dtype = self._cache.dtype
        reading = self._cache.read_by(positions)
        hidden_N1T, rows_N = reading.hidden(dtype), torch.from_numpy(reading.slot_N)
        lines, longest = reading.lines(heads)
        asking_N, pages = rows_N.clamp(max=len(positions) - 1), len(rows_N)
        side_by_side = torch.full(((len(positions) + 1) * heads, longest * page), -torch.inf, dtype=dtype)

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
            sums_RF = torch.zeros(count + 1, heads * size)  # the last may be of nobody's pages
            sums_RF.index_add_(0, rows_N, parts_BQE.view(pages, -1).float())
            return sums_RF[:count].to(dtype)

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
