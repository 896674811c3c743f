"""A language model that can be enumerated: answers of two tokens out of three, after two prompts, in fp64."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

VOCABULARY = 3
STUDENT, TEACHER = 3, 4  # prompts, as ids beyond the answers'
SEQUENCES = list(itertools.product(range(VOCABULARY), repeat=2))
CONTEXTS = 2 * (1 + VOCABULARY)


class Tabular(nn.Module):
    """Logits of the next token are a column of a table, one for each prompt and first token."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = nn.Linear(CONTEXTS, VOCABULARY, bias=False, dtype=torch.float64)
        with torch.no_grad():
            self.table.weight.copy_(
                torch.randn(VOCABULARY, CONTEXTS, generator=generator, dtype=torch.float64)
            )

    def get_output_embeddings(self) -> nn.Module:
        return self.table

    def forward(self, input_ids: Tensor, **_: Any) -> Any:
        half = 1 + VOCABULARY
        first_BS = half * (input_ids[:, :1] == TEACHER).long().expand_as(input_ids)
        context_BS = torch.where(
            torch.arange(input_ids.shape[1]) == 0, first_BS, first_BS + 1 + input_ids % half
        )
        hidden_BSC = functional.one_hot(context_BS.clamp(max=CONTEXTS - 1), CONTEXTS).double()
        return SimpleNamespace(logits=self.table(hidden_BSC))

    def logprob(self, prompt: int, answer: tuple[int, ...]) -> Tensor:
        """Log-probability of a whole answer."""
        ids = torch.tensor([[prompt, *answer]])
        logs_TV = self(ids).logits[0].log_softmax(-1)
        return sum(
            (logs_TV[t, token] for t, token in enumerate(answer)), torch.zeros((), dtype=torch.float64)
        )


def gradient(value: Tensor, model: Tabular) -> Tensor:
    found: Tensor = torch.autograd.grad(value, model.table.weight, allow_unused=True)[0]
    return torch.zeros_like(model.table.weight) if found is None else found
