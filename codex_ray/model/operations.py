"""Norms, rotary positions, attention and the loss, with backward passes written by hand.

Where nothing is compiled, a small model on a CPU spends more time passing over memory than in
matrix products; these functions make few passes and keep little.

Shape legend: B batch, S sequence, H heads, G key/value heads, R query heads per key/value head,
E head size, M rows of queries, T tokens, D hidden size, V vocabulary; ``...`` is any shape.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .mixing import wide

# Queries that attend at a time; keys after the last of them are not even multiplied.
ATTENTION_ROWS = 64

# Longer rows go to the library's kernel, which keeps no attention weights for the backward pass.
ATTENTION_LENGTH = 1024

# Logits in memory at a time, and the fewest tokens that are worth a product.
LOSS_LOGITS = 2**21
LOSS_TOKENS = 512

IGNORED = -100


class RMSNorm(torch.autograd.Function):
    """RMSNorm over the last dimension (arXiv 1910.07467), in fp32, rounded once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        """Return x / sqrt(mean(x^2) + eps) * weight, [..., D]."""
        normed_TD, inverse_rms_T1 = _normalise(wide(x).flatten(0, -2), eps)
        ctx.save_for_backward(x, weight_D, inverse_rms_T1)
        return normed_TD.mul_(wide(weight_D)).to(x.dtype).view(x.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        """Gradients of x and of the weight."""
        x, weight_D, inverse_rms_T1 = ctx.saved_tensors
        gradient_TD = wide(gradients[0]).flatten(0, -2)
        normed_TD = wide(x).flatten(0, -2) * inverse_rms_T1
        x_gradient, weight_gradient = _normalise_backward(gradient_TD, normed_TD, inverse_rms_T1, weight_D)
        return x_gradient.to(x.dtype).view(x.shape), weight_gradient, None


def _normalise(x_TD: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    norm_T1 = torch.linalg.vector_norm(x_TD, dim=1, keepdim=True)
    inverse_rms_T1 = norm_T1.square_().div_(x_TD.shape[1]).add_(eps).rsqrt_()
    return x_TD * inverse_rms_T1, inverse_rms_T1


def _normalise_backward(
    gradient_TD: Tensor, normed_TD: Tensor, inverse_rms_T1: Tensor, weight_D: Tensor
) -> tuple[Tensor, Tensor]:
    weight = wide(weight_D)
    along_TD = gradient_TD * normed_TD
    weight_gradient = along_TD.sum(0).to(weight_D.dtype)
    shares_T1 = torch.mv(along_TD, weight).div_(-weight.numel()).unsqueeze(1)
    x_gradient = torch.mul(gradient_TD, weight, out=along_TD).addcmul_(normed_TD, shares_T1)
    return x_gradient.mul_(inverse_rms_T1), weight_gradient


class NormAndRotate(torch.autograd.Function):
    """RMSNorm per head (arXiv 2302.05442), then the rotary embedding (arXiv 2104.09864).

    Neighbours (2i, 2i+1) of a head are the parts of a complex number, so that turning them is one
    product. A missing weight means no norm.
    """

    @staticmethod
    def forward(ctx: Any, x_BSHE: Tensor, weight_E: Tensor | None, turn_BSE2: Tensor, eps: float) -> Tensor:
        """Return heads first, [B, H, S, E]; ``turn`` is cosine beside sine, [B or 1, S, E/2, 2]."""
        heads_TE, inverse_rms_T1 = wide(x_BSHE).reshape(-1, x_BSHE.shape[-1]), None
        if weight_E is not None:
            heads_TE, inverse_rms_T1 = _normalise(heads_TE, eps)
            heads_TE *= wide(weight_E)
        ctx.save_for_backward(x_BSHE, weight_E, turn_BSE2, inverse_rms_T1)
        return _turn(heads_TE.view(x_BSHE.shape), turn_BSE2).to(x_BSHE.dtype).transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        """Turn back, then the norm's gradients."""
        x_BSHE, weight_E, turn_BSE2, inverse_rms_T1 = ctx.saved_tensors
        gradient = wide(gradients[0].transpose(1, 2).contiguous())
        gradient_TE = _turn(gradient, turn_BSE2, back=True).view(-1, x_BSHE.shape[-1])
        if weight_E is None:
            return gradient_TE.to(x_BSHE.dtype).view(x_BSHE.shape), None, None, None
        normed_TE = wide(x_BSHE).reshape(gradient_TE.shape) * inverse_rms_T1
        x_gradient, weight_gradient = _normalise_backward(gradient_TE, normed_TE, inverse_rms_T1, weight_E)
        return x_gradient.to(x_BSHE.dtype).view(x_BSHE.shape), weight_gradient, None, None


def _turn(x_BSHE: Tensor, turn_BSE2: Tensor, *, back: bool = False) -> Tensor:
    pairs = x_BSHE.unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():  # Inductor makes one kernel of real operations, none of complex ones
        cosine, sine = turn_BSE2.unsqueeze(2).unbind(-1)
        sine = -sine if back else sine
        real, imaginary = pairs.unbind(-1)
        turned = (real * cosine - imaginary * sine, real * sine + imaginary * cosine)
        return torch.stack(turned, dim=-1).flatten(-2)
    turn = torch.view_as_complex(turn_BSE2).unsqueeze(2)
    return torch.view_as_real(torch.view_as_complex(pairs) * (turn.conj() if back else turn)).flatten(-2)


class CausalAttention(torch.autograd.Function):
    """Causal attention over rows without padding, as batched matrix products; keeps the weights.

    For short rows on a CPU, where PyTorch's fused kernel takes about three times as long in bf16:
    it multiplies small blocks outside the library of matrix products.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query_BHSE: Tensor,
        key_BGSE: Tensor,
        value_BGSE: Tensor,
        scaling: float,
        starts_BS: Tensor | None = None,
    ) -> Tensor:
        """Return [B, S, H, E]. Weights are computed in fp32 and kept in the model's precision.

        ``starts`` says where each query's document begins in its row; keys before it are not attended.
        """
        batch, heads, length, size = query_BHSE.shape
        groups = key_BGSE.shape[1]
        query = (query_BHSE * scaling).view(batch * groups, heads // groups, length, size)
        key, value = key_BGSE.reshape(-1, length, size), value_BGSE.reshape(-1, length, size)
        attended = torch.empty_like(query)
        blocks, kept = _row_blocks(length, starts_BS), []
        for first, start, stop in blocks:
            rows = query[:, :, start:stop].flatten(1, 2)
            scores = torch.bmm(rows, key[:, first:stop].transpose(1, 2))
            diagonal = scores.view(*attended.shape[:2], stop - start, stop - first)[..., start - first :]
            diagonal += torch.full_like(diagonal[0, 0], float("-inf")).triu_(1)
            if starts_BS is not None:
                _hide_other_documents(
                    scores.view(batch, -1, stop - start, stop - first), starts_BS, first, start
                )
            weights = scores.softmax(-1)
            through = torch.bmm(weights, value[:, first:stop])
            attended[:, :, start:stop] = through.view_as(query[:, :, start:stop])
            kept.append(weights)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.scaling, ctx.blocks = scaling, blocks
        return attended.view(query_BHSE.shape).transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """Gradients of queries, keys and values."""
        query, key, value, *kept = ctx.saved_tensors
        batch, length, _, size = gradients[0].shape
        gradient = gradients[0].transpose(1, 2).reshape(query.shape)
        query_gradient = torch.empty_like(query)
        key_gradient, value_gradient = torch.zeros_like(key), torch.zeros_like(value)
        for (first, start, stop), weights in zip(ctx.blocks, kept, strict=True):
            rows = gradient[:, :, start:stop].flatten(1, 2)
            weights_gradient = torch.bmm(rows, value[:, first:stop].transpose(1, 2))
            scores_gradient = torch._softmax_backward_data(weights_gradient, weights, -1, weights.dtype)
            through_keys = torch.bmm(scores_gradient, key[:, first:stop])
            query_gradient[:, :, start:stop] = through_keys.view_as(query[:, :, start:stop])
            queries = query[:, :, start:stop].flatten(1, 2)
            key_gradient[:, first:stop] += torch.bmm(scores_gradient.transpose(1, 2), queries)
            value_gradient[:, first:stop] += torch.bmm(weights.transpose(1, 2), rows)
        query_gradient *= ctx.scaling
        shape = (batch, -1, length, size)
        return query_gradient.view(shape), key_gradient.view(shape), value_gradient.view(shape), None, None


def _row_blocks(length: int, starts_BS: Tensor | None) -> list[tuple[int, int, int]]:
    """Return the blocks of queries, each with the first key that any of them attends to."""
    blocks = [(start, min(start + ATTENTION_ROWS, length)) for start in range(0, length, ATTENTION_ROWS)]
    if starts_BS is None:
        return [(0, start, stop) for start, stop in blocks]
    # Starts never fall along a row: a block's first query has the lowest of each row.
    return [(int(starts_BS[:, start].min()), start, stop) for start, stop in blocks]


def _hide_other_documents(scores_BHSK: Tensor, starts_BS: Tensor, first: int, start: int) -> None:
    """Forbid the keys, from ``first`` on, that lie before their query's document (queries from ``start``)."""
    queries, keys = scores_BHSK.shape[2:]
    places_K = torch.arange(first, first + keys, device=starts_BS.device)
    before_BSK = places_K < starts_BS[:, start : start + queries, None]
    scores_BHSK.masked_fill_(before_BSK.unsqueeze(1), float("-inf"))


def document_starts(position_ids_BS: Tensor) -> Tensor | None:
    """Return where in its row each token's document begins; None where no row holds more than one.

    A document begins wherever a position is not the one after the position before it.
    """
    places = torch.arange(position_ids_BS.shape[1], device=position_ids_BS.device)
    begins = torch.zeros_like(position_ids_BS, dtype=torch.bool)
    begins[:, 1:] = position_ids_BS.diff(dim=1) != 1
    if not begins.any():
        return None
    starts: Tensor = torch.where(begins, places, 0).cummax(1).values
    return starts


class TokenLoss(torch.autograd.Function):
    """Sum of the cross entropies of hidden states against targets, without all logits at once.

    The gradient is computed beside the loss, while the logits are at hand.
    """

    @staticmethod
    def forward(ctx: Any, hidden_TD: Tensor, weight_VD: Tensor, targets_T: Tensor) -> Tensor:
        """Return the sum in nats, fp32. Targets of -100 are not counted."""
        wanted = any(ctx.needs_input_grad)
        loss = hidden_TD.new_zeros((), dtype=wide(hidden_TD[:0]).dtype)
        hidden_gradient = torch.empty_like(hidden_TD) if wanted else None
        weight_gradient = torch.zeros_like(weight_VD, dtype=loss.dtype) if wanted else None
        step = max(LOSS_TOKENS, LOSS_LOGITS // weight_VD.shape[0])
        for start in range(0, hidden_TD.shape[0], step):
            hidden, targets = hidden_TD[start : start + step], targets_T[start : start + step]
            logits = hidden @ weight_VD.t()
            counted = targets != IGNORED
            places = targets.clamp(min=0).unsqueeze(1)
            shares = logits.softmax(-1, dtype=loss.dtype)
            chosen = shares.gather(1, places)
            loss += (_log_shares(chosen, logits, places).squeeze(1) * counted).sum().neg()
            if hidden_gradient is not None and weight_gradient is not None:
                change = shares.scatter_(1, places, chosen - 1).to(hidden.dtype)
                torch.mm(change, weight_VD, out=hidden_gradient[start : start + step])
                hidden_gradient[start : start + step] *= counted.unsqueeze(1)
                weight_gradient += change.t() @ (hidden * counted.unsqueeze(1))
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        ctx.dtype = weight_VD.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        """Scale what the forward pass has prepared."""
        hidden_gradient, weight_gradient = ctx.saved_tensors
        scale = gradients[0]
        return (
            hidden_gradient * scale.to(hidden_gradient.dtype),
            (weight_gradient * scale).to(ctx.dtype),
            None,
        )


def _log_shares(chosen_T1: Tensor, logits_TV: Tensor, places_T1: Tensor) -> Tensor:
    """Logarithms of the chosen probabilities, also of those too small for the type."""
    lost = (chosen_T1 < torch.finfo(chosen_T1.dtype).tiny).squeeze(1)
    logs_T1 = chosen_T1.log()
    if lost.any():
        exact = logits_TV[lost].log_softmax(-1, dtype=chosen_T1.dtype)
        logs_T1[lost] = exact.gather(1, places_T1[lost])
    return logs_T1
