"""What a request changes about the logits of its sequence: bias, penalties, a grammar; and what it sees.

Tensor names end in their shape: V vocabulary, K tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from codex_ray.serve.json_grammar import JsonGrammar


class Adjuster:
    """The sampler's ``adjust`` of one sequence.

    Penalties are OpenAI's: a token's logit falls by ``frequency`` times how often it was drawn and once by
    ``presence``. An error in here is kept in ``error``, for the engine to end this request alone.
    """

    def __init__(
        self,
        *,
        bias: Mapping[int, float],
        presence: float = 0.0,
        frequency: float = 0.0,
        grammar: JsonGrammar | None = None,
        top: int = 0,
    ) -> None:
        self.error: Exception | None = None
        self._bias = (list(bias.keys()), list(bias.values()))
        self._presence, self._frequency = presence, frequency
        self._grammar, self._top = grammar, top
        self._counts: Counter[int] = Counter()
        self._seen = 0
        self._before_V: Tensor | None = None

    def __call__(self, ids: Sequence[int], logits_V: Tensor) -> Tensor:
        """Change the logits of the next token."""
        try:
            return self._adjusted(ids, logits_V)
        except Exception as error:
            self.error = error
            return logits_V

    def top(self, token: int, logprob: float) -> list[tuple[int, float]]:
        """The likeliest tokens at the last step, under the model itself, given what was drawn."""
        if not self._top or self._before_V is None:
            return []
        values_K, tokens_K = self._before_V.topk(min(self._top, len(self._before_V)))
        normaliser = float(self._before_V[token]) - logprob
        found = zip(tokens_K.tolist(), values_K.tolist(), strict=True)
        return [(other, value - normaliser) for other, value in found if value > -torch.inf]

    def _adjusted(self, ids: Sequence[int], logits_V: Tensor) -> Tensor:
        new = ids[self._seen :]
        self._seen = len(ids)
        if self._top:
            self._before_V = logits_V.clone()
        if self._bias[0]:
            logits_V[self._bias[0]] += torch.tensor(self._bias[1], device=logits_V.device)
        if self._presence or self._frequency:
            self._counts.update(new)
            if self._counts:
                counts_K = torch.tensor(list(self._counts.values()), device=logits_V.device)
                logits_V[list(self._counts)] -= self._presence + self._frequency * counts_K
        if self._grammar is not None:
            logits_V.masked_fill_(self._grammar.forbidden(new).to(logits_V.device), -torch.inf)
        return logits_V
