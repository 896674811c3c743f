"""What a pool has to do, and what becomes of it: a state machine without clock, processes or Ray.

It hands out the earliest task, and the earliest episode to be judged, whenever somebody asks for one; takes
in what came of them; keeps the ledger; and has finished steps ready to be delivered.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from codex_ray.config.rollout import Rollouts
from codex_ray.errors import CodexRayError
from codex_ray.rollout.actor import Sampled
from codex_ray.rollout.episode import Failure, Outcome, Rollout, Task
from codex_ray.rollout.ledger import Ledger
from codex_ray.rollout.meter import Meter, Worker
from codex_ray.rollout.steps import Order, Step


@dataclass(frozen=True)
class Published:
    """Weights that can be had: the reference to them, in a list as Ray wants it, and their checksum."""

    place: list[Any]
    checksum: int


@dataclass(frozen=True)
class Assignment:
    """A task for an actor; ``serial`` is the step's own number, also when its name is used again."""

    serial: int
    step: Step
    task: Task

    @property
    def key(self) -> tuple[int, ...]:
        """Name of the task; earlier ones come first."""
        return self.serial, *self.task.key

    def __lt__(self, other: Assignment) -> bool:
        return self.key < other.key


@dataclass(frozen=True)
class Judgement:
    """An episode for a scorer."""

    serial: int
    step: Step
    number: int


@dataclass
class Delivery:
    """A finished step, and which ranks have it."""

    rollouts: list[Rollout]
    figures: dict[str, float]
    notes: list[str]
    ranks: set[int]


class Scheduler:
    """Orders in, tasks and episodes out, their results in, deliveries out.

    Args:
        settings: of the pool; ``seed``: that all draws derive from.
        scored: whether sequences are judged.
        workers: what samples, for figures.
    """

    def __init__(self, settings: Rollouts, seed: int, *, scored: bool, workers: Sequence[Worker]) -> None:
        self.ledger = Ledger(settings.staleness)
        self.meter = Meter(workers)
        self.notes: list[str] = []
        self.deliveries: dict[int, Delivery] = {}
        self._settings, self._seed, self._scored = settings, seed, scored
        self._serial, self._told_unchanged = 0, False
        self._steps: dict[int, tuple[int, Step]] = {}
        self._tasks: list[Assignment] = []
        self._episodes: deque[Judgement] = deque()
        self._weights: dict[int, Published] = {}
        self._checksums: dict[int, int] = {}  # of versions that have sampled

    def begin(self) -> None:
        """Forget what was asked for and not delivered, and all weights."""
        for serial, step in self._steps.values():
            for number, key in enumerate(step.keys):
                if number not in step.rollouts and number not in step.filtered:
                    self.ledger.filter((serial, *key), "begun again")
        self._steps, self.deliveries, self._weights, self._checksums = {}, {}, {}, {}
        self._tasks, self._episodes = [], deque()
        self.ledger.newest = 0
        self.ledger.check()

    def publish(self, version: int, published: Published) -> None:
        """Take note of new weights.

        Raises:
            LedgerError: they are older than others.
        """
        self.ledger.publish(version)
        self._weights[version] = published
        self._prune()

    def weights(self, version: int) -> list[Any]:
        """Return where a version's weights are: nowhere, where the models are as they were built."""
        return self._weights[version].place if version in self._weights else []

    def submit(self, order: Order) -> None:
        """Begin a step.

        Raises:
            CodexRayError: it was submitted before, or its weights are too old or not there.
        """
        if order.step in self._steps or order.step in self.deliveries:
            raise CodexRayError(f"step {order.step} was submitted before; submit each once, or call begin()")
        version = self.ledger.newest if order.version is None else order.version
        if version not in (self._weights or {0}):
            there = ", ".join(map(str, self._weights)) or "0, as it was built"
            raise CodexRayError(
                f"step {order.step} asks for weights of version {version}, and the pool has {there}; publish "
                "them first"
            )
        self.ledger.refuse_stale(version)
        self.meter.begin()
        step = Step(order, version, self._settings, self._seed, scored=self._scored)
        self._serial += 1
        self.ledger.submit((self._serial, *key) for key in step.keys)
        self._steps[order.step] = self._serial, step
        for task in step.tasks():
            heapq.heappush(self._tasks, Assignment(self._serial, step, task))

    def take_task(self, actor: str) -> Assignment | None:
        """Give an actor the earliest task, if there is one."""
        if not self._tasks:
            return None
        assignment = heapq.heappop(self._tasks)
        self.ledger.start(assignment.key, actor)
        return assignment

    def take_episode(self) -> Judgement | None:
        """Return the earliest episode to be judged, if there is one."""
        return self._episodes.popleft() if self._episodes else None

    def is_current(self, work: Assignment | Judgement) -> bool:
        """Whether a piece of work still belongs to something that was asked for."""
        name = work.step.order.step
        return name in self._steps and self._steps[name][0] == work.serial

    def sampled(self, assignment: Assignment, actor: str, sampled: Sampled) -> None:
        """Take a task's result.

        Raises:
            CodexRayError: other weights than those asked for sampled it.
        """
        self.ledger.finish(assignment.key, actor)
        if not self.is_current(assignment):
            return
        task, step = assignment.task, assignment.step
        step.tokens, step.seconds = step.tokens + sampled.tokens, step.seconds + sampled.seconds
        self._compare(task.version, sampled)
        numbers = step.sampled(task, sampled.turns)
        self._episodes.extend(Judgement(assignment.serial, step, number) for number in numbers)
        if not numbers:
            for number in range(task.first, task.first + len(task.continuations)):
                self._settle(assignment.serial, step, number)
            self._deliver(step)

    def lost(self, assignment: Assignment, actor: str, reason: str) -> None:
        """Have a task done again whose actor is lost.

        Raises:
            CodexRayError: it has cost too many.
        """
        losses = self.ledger.lose(assignment.key, actor)
        if not self.is_current(assignment):
            return
        if losses >= self._settings.attempts:
            raise CodexRayError(
                f"{assignment.task} has cost {losses} actors, the last because {reason}; look into the "
                "actors' logs, lower rollout.slots if memory runs out, or raise rollout.task_seconds if time "
                "does"
            )
        self.notes.append(f"{reason}; {assignment.task} is sampled again by another actor")
        self.ledger.resubmit(assignment.key)
        heapq.heappush(self._tasks, assignment)

    def refused(self, assignment: Assignment, actor: str, error: Exception) -> None:
        """Take note of a task that no actor can do.

        Raises:
            CodexRayError: always, while anybody wants it.
        """
        self.ledger.finish(assignment.key, actor)
        if self.is_current(assignment):
            raise CodexRayError(f"{assignment.task} cannot be sampled: {error}") from None

    def judged(self, judgement: Judgement, answer: Outcome | Failure) -> None:
        """Take an environment's answer, or that there is none.

        Raises:
            CodexRayError: not one of a step's sequences could be scored.
        """
        if not self.is_current(judgement):
            return
        step, number = judgement.step, judgement.number
        if isinstance(answer, Failure):
            self.meter.failures[answer.kind] += 1
            following = step.failed(number, answer)
        else:
            following = step.judged(number, answer)
        if following is not None:
            heapq.heappush(self._tasks, Assignment(judgement.serial, step, following))
        self._settle(judgement.serial, step, number)
        self._deliver(step)

    def progress(self) -> list[str]:
        """Say how far the steps are."""
        return [
            f"step {name} has {len(step.rollouts) + len(step.filtered)} of its {len(step.keys)} sequences"
            for name, (_, step) in sorted(self._steps.items())
        ]

    def counts(self) -> dict[str, int]:
        """Return the ledger's counts."""
        self.ledger.check()
        return {
            "submitted": self.ledger.submitted,
            "accepted": self.ledger.accepted,
            "filtered": self.ledger.filtered.total(),
            "running": self.ledger.running,
            "deaths": self.ledger.deaths,
            "resubmitted": self.ledger.resubmitted,
            **{f"filtered/{reason}": count for reason, count in self.ledger.filtered.items()},
        }

    def _compare(self, version: int, sampled: Sampled) -> None:
        """Look at the first sample of a version: the published weights sampled it, and they are new ones."""
        if version in self._checksums or version not in self._weights:
            return
        if sampled.version != version or sampled.checksum != self._weights[version].checksum:
            raise CodexRayError(
                f"an actor sampled with weights of version {sampled.version} and checksum "
                f"{sampled.checksum:016x}, which are not those published as version {version}; this is an "
                "error of codex_ray, please report it"
            )
        before = max(self._checksums, default=None)
        if before is not None and self._checksums[before] == sampled.checksum:
            self.meter.unchanged += 1
            if not self._told_unchanged:  # the figure has the others
                self.notes.append(
                    f"weights of version {version} are those of version {before} bit for bit: what was "
                    "trained between them changed nothing that is published"
                )
            self._told_unchanged = True
        self._checksums[version] = sampled.checksum

    def _settle(self, serial: int, step: Step, number: int) -> None:
        """Enter what became of a sequence, if it has ended."""
        key = (serial, *step.keys[number])
        if number in step.rollouts:
            self.ledger.accept(key, step.version)
        elif number in step.filtered:
            self.ledger.filter(key, step.filtered[number])
        self.ledger.check()

    def _deliver(self, step: Step) -> None:
        """Have a step ready, if it is done."""
        if not step.done:
            return
        name, total = step.order.step, len(step.keys)
        failures = _failures(step)
        if len(step.failures) == total:
            raise CodexRayError(
                f"none of the {total} sequences of step {name} could be scored: {failures[0]}; mend the "
                "environment"
            )
        self.notes += failures
        del self._steps[name]
        self._prune()
        figures = self.meter.read(step, self.ledger)
        self.deliveries[name] = Delivery(step.accepted(), figures, self.notes, set())
        self.notes = []

    def _prune(self) -> None:
        """Let go of weights that nothing needs any more."""
        newest = self.ledger.newest
        needed = {step.version for _, step in self._steps.values()}
        needed |= set(range(newest - self._settings.staleness, newest + 1))
        self._weights = {version: kept for version, kept in self._weights.items() if version in needed}


def _failures(step: Step) -> list[str]:
    """Say once for each kind of failure how often it was and what the first was."""
    kinds: dict[str, list[int]] = {}
    for number in sorted(step.failures):
        kinds.setdefault(step.failures[number].kind, []).append(number)
    sentences = []
    for numbers in kinds.values():
        name, position, sample = step.keys[numbers[0]]
        sentences.append(
            f"{len(numbers)} of {len(step.keys)} scores of step {name} failed, the first of sample {sample} "
            f"of prompt {position}: {step.failures[numbers[0]].reason}"
        )
    return sentences
