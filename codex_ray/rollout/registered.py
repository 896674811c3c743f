"""What MLflow calls to load a registered model.

A language model completes prompts, a reward model gives texts a score.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from codex_ray.errors import CodexRayError
from codex_ray.track.registry import COMPLETING


class Registered:
    """A language model, or a reward model, as MLflow runs it."""

    def __init__(self, folder: Path) -> None:
        from codex_ray.model import load_model
        from codex_ray.model.reward import is_classifier, load_reward_model
        from codex_ray.tokenizer import Tokenizer

        self._scores = is_classifier(folder)
        self.model: Any = (load_reward_model if self._scores else load_model)(folder)
        self.tokenizer = Tokenizer.load(folder)

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> list[Any]:
        """Return the completion, or the score, of each text.

        Args:
            model_input: texts: a list, or a table with one column.
            params: some of ``COMPLETING``, for a language model.

        Raises:
            CodexRayError: it is not texts.
        """
        from codex_ray.rollout.generate import generate, prompt_ids

        texts = _texts(model_input)
        rows = prompt_ids(self.tokenizer, texts)
        if self._scores:
            return [self._score(ids) for ids in rows]
        chosen: Any = COMPLETING | (params or {})
        return [done.text for done in generate(self.model, rows, tokenizer=self.tokenizer, **chosen)]

    def _score(self, ids: list[int]) -> float:
        import torch

        with torch.inference_mode():
            row = torch.tensor([ids])
            return float(self.model(input_ids=row, attention_mask=torch.ones_like(row)).logits.squeeze())


def _texts(given: Any) -> list[str]:
    """Return a list of texts: of a list, an array, or a table's one column."""
    columns = getattr(given, "columns", None)
    if columns is not None and len(columns) == 1:
        given = given[columns[0]]
    texts = list(given) if isinstance(given, Iterable) and not isinstance(given, str | dict) else [given]
    if (columns is not None and len(columns) != 1) or not all(isinstance(text, str) for text in texts):
        raise CodexRayError("give the model texts: a list of them, or a table with one column of them")
    return texts


def _load_pyfunc(path: str) -> Registered:
    """What MLflow calls; ``path`` is the model folder."""
    return Registered(Path(path))
