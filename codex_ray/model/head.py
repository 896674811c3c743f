"""What is wanted of next-token distributions, without the logits of a whole batch in memory.

The output matrix is told which places of a batch count and what to make of their logits; it then takes so
many places at a time that their logits stay small, and makes these again in the backward pass. All of it
happens inside the output matrix's own forward pass, so that ZeRO-3 gathers the matrix as it always does.

Shape legend: B batch, S sequence, T places that count, D hidden size, V vocabulary, K figures per place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from codex_ray.errors import ConfigError

from .mixing import wide

LOGITS_AT_ONCE = 2**24  # 64 MiB in fp32

Reduction = Callable[[Tensor, slice], Tensor]
"""Makes [t, K] of logits, [t, V] in fp32 or wider, of the places that the slice takes from all T."""

VALUE_HEAD = "value_head"


class TokenHead:
    """Asks a causal language model for figures of its next-token distributions.

    Args:
        model: a Transformers causal language model, before an engine takes it: it runs once, on one token,
            to see whether it changes its logits after the output matrix, as models with soft-capped logits
            do. Of those the logits of a micro-batch are in memory all at once.
        logits_at_once: most logits that a product gives.

    Raises:
        ConfigError: the model has no output matrix, or a value head and changes its logits.
    """

    def __init__(self, model: Any, *, logits_at_once: int = LOGITS_AT_ONCE) -> None:
        head = model.get_output_embeddings()
        if head is None:
            raise ConfigError(f"a {type(model).__name__} has no output matrix; give a causal language model")
        self._model, self._head = model, head
        self._value: nn.Module | None = getattr(model, VALUE_HEAD, None)
        self._logits_at_once = logits_at_once
        self._whole = self._changes_logits(model)
        if self._whole and self._value is not None:
            raise ConfigError(
                f"a {type(model).__name__} changes its logits after the output matrix, which a value head "
                "cannot follow; use method=grpo, which needs none, or another model"
            )

    def figures(
        self,
        forward: Callable[..., Any],
        places_T: Tensor,
        reduce: Reduction,
        inputs: Mapping[str, Any],
        *,
        values: bool = False,
    ) -> Tensor:
        """Run the model once and return what ``reduce`` makes of the logits at some places, [T, K].

        Without gradients, as teachers and references are scored, the model is in evaluation mode meanwhile:
        it has no dropout.

        Args:
            forward: the model's forward, as the engine wants it called.
            places_T: places in the flattened batch, B * S, whose next token is looked at; may be none.
            reduce: makes figures of logits.
            inputs: what the forward takes, ``input_ids`` first of all.
            values: add what the value head says of each place as one column more.
        """
        compute = partial(self._in_parts, reduce, places_T, values)
        scoring = nullcontext() if torch.is_grad_enabled() else evaluating(self._model)
        if self._whole:
            with scoring:
                logits_TV = forward(**inputs, use_cache=False).logits.flatten(0, 1)[places_T]
            return self._chunks(lambda part: reduce(wide(logits_TV[part]), part), logits_TV)
        with scoring, self._instead(compute):
            figures_TK: Tensor = forward(**inputs, use_cache=False).logits[0]
        return figures_TK

    def _in_parts(
        self,
        reduce: Reduction,
        places_T: Tensor,
        values: bool,
        logits: Callable[[Tensor], Tensor],
        hidden_BSD: Tensor,
    ) -> Tensor:
        hidden_TD = hidden_BSD.flatten(0, 1)[places_T]
        weight = getattr(self._head, "weight", None)
        vocabulary = None if weight is None else getattr(weight, "ds_shape", weight.shape)[0]
        figures_TK = self._chunks(
            lambda part: reduce(wide(logits(hidden_TD[None, part])[0]), part), hidden_TD, vocabulary
        )
        if values:
            assert self._value is not None, "attach_value_head comes before TokenHead"
            figures_TK = torch.cat([figures_TK, wide(self._value(hidden_TD))], dim=-1)
        return figures_TK[None]

    def _chunks(
        self, compute: Callable[[slice], Tensor], along_T: Tensor, vocabulary: int | None = None
    ) -> Tensor:
        """Compute some places at a time, and again in the backward pass where there are several parts."""
        count, width = along_T.shape[0], vocabulary or along_T.shape[1]
        step = max(1, self._logits_at_once // width)
        parts = [slice(start, min(start + step, count)) for start in range(0, max(1, count), step)]
        if len(parts) == 1 or not torch.is_grad_enabled():
            return torch.cat([compute(part) for part in parts])
        return torch.cat([checkpoint(compute, part, use_reentrant=False) for part in parts])

    @contextmanager
    def _instead(self, compute: Callable[..., Tensor]) -> Iterator[None]:
        """Let the output matrix return what ``compute`` makes of its own forward and its input."""
        own, before = self._head.forward, vars(self._head).get("forward")
        self._head.forward = lambda hidden_BSD, *_: compute(own, hidden_BSD)
        try:
            yield
        finally:
            del self._head.forward
            if before is not None:
                self._head.forward = before

    @torch.no_grad()
    def _changes_logits(self, model: Any) -> bool:
        """Whether the model makes something else of what its output matrix gives."""
        device = next(model.parameters()).device
        probe = torch.tensor([[[-64.0, 0.5, 64.0]]], device=device)
        one_token = torch.zeros(1, 1, dtype=torch.int64, device=device)
        with evaluating(model), self._instead(lambda own, hidden: probe):
            found = model(input_ids=one_token, use_cache=False).logits
        return found.shape != probe.shape or not bool((found == probe).all())


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, and the mode that it was in afterwards."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def attach_value_head(model: Any) -> nn.Linear:
    """Give a model a value head, a linear map of its last hidden states that begins at zero; returns it.

    It is the model's own part from then on, ``value_head``, trained and saved with it; a model folder must
    leave it out.
    """
    embedding = model.get_input_embeddings().weight
    width = model.get_output_embeddings().weight.shape[1]
    head = nn.Linear(width, 1, device=embedding.device, dtype=embedding.dtype)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    setattr(model, VALUE_HEAD, head)
    return head
