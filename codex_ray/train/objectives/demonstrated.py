"""Completions in two contexts: the student's prompt, and the teacher's, which shows a demonstration."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from codex_ray.errors import ConfigError
from codex_ray.train.objectives.batching import micro_batches
from codex_ray.train.objectives.sequences import Sequences

TEMPLATE = (
    "{question}\n\n"
    "Here is a response to the above, as an example:\n\n"
    "{demonstration}\n\n"
    "Now give your own response to it, with your own thinking."
)
"""What the teacher reads; that the response is to be its own keeps the model's style."""

KNOWLEDGE_TEMPLATE = (
    "{question}\n\n"
    "This text is known to be true:\n\n"
    "{source}\n\n"
    "Here is a response to the above, as an example:\n\n"
    "{demonstration}\n\n"
    "Now give your own response to it, with your own thinking."
)
"""With a text that the answer follows from: a teacher shown both is more often right than with either."""

_SLOT = re.compile(r"\{(question|demonstration|source)\}")


def check_template(template: str) -> None:
    """Refuse a template that does not show the demonstration.

    Raises:
        ConfigError: it lacks the question or the demonstration.
    """
    missing = {"question", "demonstration"} - set(_SLOT.findall(template))
    if missing:
        raise ConfigError(
            f"the teacher's template lacks {{{min(missing)}}}; write {{question}} and {{demonstration}}, and "
            "{source} if examples have one, where they are to stand"
        )


def teacher_text(template: str, question: str, demonstration: str, source: str = "") -> str:
    """Fill a template in; braces in what is filled in stay as they are."""
    filling = {"question": question, "demonstration": demonstration, "source": source}
    return _SLOT.sub(lambda slot: filling[slot[1]], template)


def teacher_messages(
    template: str, messages: Sequence[Mapping[str, Any]], demonstration: str, source: str = ""
) -> list[dict[str, Any]]:
    """Show the demonstration in the last user message of a chat; all others stay as they are.

    Without a demonstration the teacher reads what the student does.

    Raises:
        ConfigError: no message is the user's.
    """
    changed = [dict(message) for message in messages]
    if not demonstration:
        return changed
    asked = [place for place, message in enumerate(changed) if message.get("role") == "user"]
    if not asked:
        raise ConfigError("a chat without a user's message has no place for a demonstration; add one")
    last = changed[asked[-1]]
    last["content"] = teacher_text(template, last["content"], demonstration, source)
    return changed


@dataclass(frozen=True)
class Completed:
    """A sampled completion as token ids, with what the teacher reads before it.

    Attributes:
        prompt: the student's; ``teacher_prompt``: the teacher's, with the demonstration.
        completion: the sampled ids, the end token included.
        truncated: whether it ended for want of room.
        logprobs: the sampler's, of each token; may be empty.
    """

    prompt: Sequence[int]
    teacher_prompt: Sequence[int]
    completion: Sequence[int]
    truncated: bool = False
    logprobs: Sequence[float] = ()


@dataclass(frozen=True)
class Counts:
    """What became of completions: kept, of those truncated; and left out, over-long or truncated or empty."""

    kept: int
    truncated: int
    left_out_over_long: int
    left_out_truncated: int
    left_out_empty: int


@dataclass(frozen=True)
class Demonstrated:
    """The same completions, row by row, in the student's and in the teacher's context."""

    student: Sequences
    teacher: Sequences

    @classmethod
    def of(
        cls, completed: Sequence[Completed], *, window: int, learn_truncated: bool = True
    ) -> tuple[Demonstrated, Counts]:
        """Put completions behind both prompts.

        Args:
            completed: what was sampled.
            window: tokens that the model takes; a longer row, in either context, is left out and counted.
            learn_truncated: keep completions that ended for want of room.
        """
        fitting, over_long, cut, empty = [], 0, 0, 0
        for one in completed:
            longest = max(len(one.prompt), len(one.teacher_prompt)) + len(one.completion)
            if not one.completion:
                empty += 1
            elif longest > window:
                over_long += 1
            elif one.truncated and not learn_truncated:
                cut += 1
            else:
                fitting.append(one)
        completions = [one.completion for one in fitting]
        known = bool(fitting) and all(one.logprobs for one in fitting)
        student = Sequences.of_completions(
            [one.prompt for one in fitting],
            completions,
            logprobs=[one.logprobs for one in fitting] if known else None,
        )
        teacher = Sequences.of_completions([one.teacher_prompt for one in fitting], completions)
        counts = Counts(len(fitting), sum(one.truncated for one in fitting), over_long, cut, empty)
        return cls(student, teacher), counts

    @property
    def shape(self) -> torch.Size:
        """Shape of the student's batch."""
        return self.student.shape

    def to(self, device: torch.device) -> Demonstrated:
        """The same on another device."""
        return self._each(lambda rows: rows.to(device))

    def split(self, most_tokens: int, *, at_least: int = 1) -> list[Demonstrated]:
        """Cut into micro-batches, as :meth:`Sequences.split` does; the longer context counts."""
        longest = torch.maximum(self.student.lengths_B, self.teacher.lengths_B).tolist()
        parts = micro_batches(longest, most_tokens, at_least)
        return [
            self._each(lambda rows, part=part: rows.take(part) if part else rows.blank(1))  # type: ignore[misc]
            for part in parts
        ]

    def _each(self, change: Callable[[Sequences], Sequences]) -> Demonstrated:
        return Demonstrated(change(self.student), change(self.teacher))
