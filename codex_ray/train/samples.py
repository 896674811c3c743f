"""What the model writes while it trains: completions of a few prompts, by rank 0.

The other ranks go on to the next step and wait there. Drawing has its own random numbers, so a run with
samples trains as one without.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from codex_ray.config import common
from codex_ray.errors import CodexRayError
from codex_ray.files import unwritable
from codex_ray.rollout.generate import generate, prompt_ids
from codex_ray.tokenizer import Tokenizer

TOP_P = 0.95
SHOWN_CHARACTERS = 160


class SampleWriter:
    """Completes prompts and appends them to ``samples.jsonl``: ``step``, ``prompt``, ``completion``.

    Args:
        settings: the ``track.samples`` settings.
        tokenizer: the corpus's.
        seed: of the draws; the same at every step, so that completions can be compared.
        path: the file.
        note: tells the user one sentence.
    """

    def __init__(
        self,
        settings: common.Samples,
        tokenizer: Tokenizer,
        *,
        seed: int,
        path: Path,
        note: Callable[[str], None],
    ) -> None:
        self._settings, self._tokenizer, self._seed, self._path = settings, tokenizer, seed, path
        self._note = note
        self._ids = prompt_ids(tokenizer, settings.prompts)

    def write(self, model: Any, step: int) -> None:
        """Complete the prompts with the weights after ``step``.

        Raises:
            CodexRayError: the file cannot be written.
        """
        try:
            completions = generate(
                model,
                self._ids,
                max_new_tokens=self._settings.max_new_tokens,
                temperature=self._settings.temperature,
                top_p=TOP_P,
                seed=self._seed,
                tokenizer=self._tokenizer,
            )
        except CodexRayError as error:  # a model that writes nothing yet is no reason to end its training
            self._note(f"step {step} has no samples: {error}")
            return
        lines = []
        for prompt, completion in zip(self._settings.prompts, completions, strict=True):
            sample = {"step": step, "prompt": prompt, "completion": completion.text}
            lines.append(json.dumps(sample, ensure_ascii=False) + "\n")
            written = json.dumps(completion.text[:SHOWN_CHARACTERS], ensure_ascii=False)
            self._note(f"step {step}, {json.dumps(prompt, ensure_ascii=False)} goes on {written}")
        try:
            with self._path.open("a", encoding="utf-8", errors="backslashreplace") as stream:
                stream.write("".join(lines))
        except OSError as error:
            raise unwritable(self._path, error) from error
