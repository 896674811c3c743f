"""Tasks: prompts with references, how they are to be answered, and what the answers are measured by.

    task = load_task("capitals.yaml")
    scored = score(task, {example.id: ["Paris"] for example in task.examples})
    scored.figures["exact_match"].low

Plain Python: nothing here needs Ray or a model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from codex_ray.config.evaluate import Answering, Bootstrap
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.evaluate.intervals import Interval, bootstrap
from codex_ray.evaluate.metrics import Answered, Example, Metric, find_metric, mean
from codex_ray.evaluate.verifiers import SECONDS, open_verifier

if TYPE_CHECKING:
    from codex_ray.config.sandbox import Sandbox
    from codex_ray.rollout.rewards import Reward

EMPTY = "empty_share"
"""Share of answers that hold nothing but blanks; among the figures of every task."""


@dataclass(frozen=True)
class Task:
    """Examples and how they are measured.

    Attributes:
        name: what it is called in tables; ``version``: raised when its examples or rules change.
        examples: in order; their ids differ.
        answering: how answers are generated.
        metrics: names of metrics.
        verifier: a reward that judges an answer, by name or dotted path; for ``verified`` and ``pass@k``.
        best: the highest value of metrics, where it is known that a model can reach it.
        description: what it measures, in a sentence.

    Raises:
        ConfigError: no examples, two of one id, or an unknown metric.
        CodexRayError: an example without what a metric needs.
    """

    name: str
    examples: tuple[Example, ...]
    answering: Answering
    metrics: tuple[str, ...]
    version: str = "1"
    verifier: str | None = None
    best: Mapping[str, float] = field(default_factory=dict)
    description: str = ""

    def __post_init__(self) -> None:
        if not self.examples:
            raise ConfigError(f"task {self.name} has no examples; give it data with at least one row")
        if not self.metrics:
            raise ConfigError(f"task {self.name} has no metrics; name some, such as exact_match")
        seen: set[str] = set()
        for example in self.examples:
            if example.id in seen:
                raise ConfigError(
                    f"task {self.name} has two examples of the id {example.id!r}; give each its own, or "
                    "leave the column of ids out"
                )
            seen.add(example.id)
        for metric in map(find_metric, self.metrics):
            self._check(metric)

    def _check(self, metric: Metric) -> None:
        if metric.verified and self.verifier is None:
            raise ConfigError(
                f"metric {metric.name} of task {self.name} needs a verifier; name one, such as verifier=exact"
            )
        if metric.samples > self.answering.samples:
            raise ConfigError(
                f"metric {metric.name} of task {self.name} needs {metric.samples} answers to each prompt and "
                f"answering.samples is {self.answering.samples}; raise it"
            )
        if metric.references:
            for example in self.examples:
                if not any(reference.strip() for reference in example.references):
                    raise CodexRayError(
                        f"example {example.id} of task {self.name} has no reference, which {metric.name} "
                        "needs; give it one, or name metrics that need none"
                    )

    @cached_property
    def data_digest(self) -> str:
        """SHA-256 of the examples: ids, prompts, references and the rows that verifiers read."""
        digest = hashlib.sha256()
        for example in self.examples:
            digest.update(json.dumps(asdict(example), sort_keys=True, default=str).encode() + b"\n")
        return digest.hexdigest()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that decides the task's figures, but for the model."""
        rules = [self.name, self.version, self.metrics, self.verifier, asdict(self.answering)]
        return hashlib.sha256(json.dumps([*rules, self.data_digest], sort_keys=True).encode()).hexdigest()

    def first(self, count: int | None) -> Task:
        """Return the task of the first ``count`` examples; None keeps all."""
        return self if count is None else replace(self, examples=self.examples[:count])


@dataclass(frozen=True)
class Scored:
    """A task with its answers and what they came to.

    Attributes:
        answers: by example, in the task's order.
        statistics: by metric ``[examples, numbers]``: what sums up to the metric.
        figures: by metric, its value over all examples and the interval around it.
    """

    task: Task
    answers: list[Answered]
    statistics: dict[str, NDArray[np.float64]]
    figures: dict[str, Interval]

    def values(self, metric: str) -> NDArray[np.float64]:
        """Return a metric of each example by itself."""
        return find_metric(metric).combine(self.statistics[metric])


def score(
    task: Task,
    texts: Mapping[str, Sequence[str]],
    settings: Bootstrap | None = None,
    verify: Reward | None = None,
    sandbox: Sandbox | None = None,
    seconds: float = SECONDS,
    key: str = "verifier_seconds",
) -> Scored:
    """Score the answers to a task's examples.

    Args:
        task: the task.
        texts: by example id, the texts of its answers: ``task.answering.samples`` of them, or any number of
            at least one where they come from elsewhere.
        settings: of the intervals.
        verify: judges an answer; unset is the task's own verifier.
        sandbox: limits of programs, where the verifier runs them.
        seconds, key: of the verifier, see :func:`codex_ray.evaluate.verifiers.open_verifier`.

    Raises:
        CodexRayError: an example has no answer, an answer belongs to no example, or the verifier fails.
        ConfigError: the verifier cannot be imported.
    """
    _match(task, texts)
    settings = settings or Bootstrap()
    with open_verifier(task, sandbox, seconds, key) as own:
        answers = [_answered(example, texts[example.id], verify or own) for example in task.examples]
    metrics = [find_metric(name) for name in task.metrics]
    statistics = {metric.name: metric.statistics(answers) for metric in metrics}
    figures = {
        metric.name: bootstrap(statistics[metric.name], metric.combine, settings) for metric in metrics
    }
    empty = np.array([[np.mean([not text.strip() for text in one.texts]), 1.0] for one in answers])
    figures[EMPTY] = bootstrap(empty, mean, settings)
    return Scored(task, answers, statistics, figures)


def _match(task: Task, texts: Mapping[str, Sequence[str]]) -> None:
    known = {example.id for example in task.examples}
    missing = [identity for identity in known if not texts.get(identity)]
    if missing:
        raise CodexRayError(
            f"{len(missing)} of {len(known)} examples of task {task.name} have no answer, such as "
            f"{min(missing)!r}; give one line for each"
        )
    foreign = sorted(set(texts) - known)
    if foreign:
        raise CodexRayError(
            f"the answer to {foreign[0]!r} belongs to no example of task {task.name} ({len(foreign)} such); "
            "leave it out, or give the task that it answers"
        )


def _answered(example: Example, texts: Sequence[str], verify: Reward | None) -> Answered:
    row = {**example.row, "prompt": example.prompt, "response": next(iter(example.references), "")}
    verdicts = () if verify is None else tuple(float(verify(row, text)) for text in texts)
    return Answered(example, tuple(texts), verdicts)
