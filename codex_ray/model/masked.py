"""Masked language models (BERT's family): how likely a text is to them, and embeddings of texts.

Shape legend: B batch, S sequence, D hidden size, V vocabulary, M places masked at a time.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForMaskedLM, PreTrainedModel

from codex_ray.model.load import load_as

MASKED_AT_ONCE = 32  # copies of a text in one forward pass, each with another place masked


def load_masked_model(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    revision: str | None = None,
) -> PreTrainedModel:
    """Load a masked language model with its head; arguments and errors as of ``load_model``."""
    return load_as(AutoModelForMaskedLM, path, device, dtype, revision)


def load_encoder(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    revision: str | None = None,
) -> PreTrainedModel:
    """Load an encoder without any head, for embeddings; arguments and errors as of ``load_model``."""
    return load_as(AutoModel, path, device, dtype, revision)


@torch.no_grad()
def pseudo_log_likelihood(
    model: PreTrainedModel, ids_S: Tensor, mask_id: int, counted_S: Tensor | None = None
) -> Tensor:
    """Return the log-probability of each token given all others (Salazar et al. 2020), fp32, [S].

    Each counted token is masked in a forward pass of its own; their sum is the pseudo-log-likelihood.

    Args:
        model: from :func:`load_masked_model`.
        ids_S: token ids of one text, special tokens included.
        mask_id: id of the mask token.
        counted_S: which places to score; unset scores all. Others are zero.
    """
    places = torch.arange(len(ids_S)) if counted_S is None else counted_S.nonzero().flatten()
    scores_S = torch.zeros(len(ids_S))
    for some_M in places.split(MASKED_AT_ONCE):
        masked_MS = ids_S.repeat(len(some_M), 1)
        rows_M = torch.arange(len(some_M))
        masked_MS[rows_M, some_M] = mask_id
        attended = torch.ones_like(masked_MS).to(model.device)  # without it a token may count as padding
        logits_MSV = model(input_ids=masked_MS.to(model.device), attention_mask=attended).logits
        logs_MV = logits_MSV[rows_M, some_M].float().log_softmax(-1).cpu()
        scores_S[some_M] = logs_MV[rows_M, ids_S[some_M]]
    return scores_S


@torch.no_grad()
def embed(model: PreTrainedModel, ids_BS: Tensor, attention_mask_BS: Tensor) -> Tensor:
    """Return unit vectors of texts, fp32, [B, D]: the mean of the last states of their tokens.

    Args:
        model: from :func:`load_encoder`.
        ids_BS: token ids, padded.
        attention_mask_BS: one at tokens, zero at padding.
    """
    mask = attention_mask_BS.to(model.device)
    states_BSD = model(input_ids=ids_BS.to(model.device), attention_mask=mask).last_hidden_state.float()
    weights_BS1 = mask.unsqueeze(-1).float()
    means_BD = (states_BSD * weights_BS1).sum(1) / weights_BS1.sum(1).clamp(min=1)
    unit_BD: Tensor = torch.nn.functional.normalize(means_BD, dim=-1)
    return unit_BD
