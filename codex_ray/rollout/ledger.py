"""What becomes of every sequence that was asked for, in a book that must balance.

    submitted = accepted + filtered + running

A sequence is accepted once, by weights that are not too old; a task is held by one actor at a time, and goes
back once for every time that its actor is lost. Anything else is an error of this program and ends the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from codex_ray.errors import CodexRayError


class LedgerError(CodexRayError):
    """The book does not balance, or weights are staler than they may be."""


@dataclass
class Ledger:
    """Counts of sequences and tasks since the pool was opened.

    Attributes:
        staleness: most versions that accepted sequences may be behind the newest.
        submitted, accepted: sequences; ``filtered``: those left out, by reason.
        deaths: actors lost with a task in hand; ``resubmitted``: tasks that went back for it.
    """

    staleness: int
    submitted: int = 0
    accepted: int = 0
    filtered: Counter[str] = field(default_factory=Counter)
    deaths: int = 0
    resubmitted: int = 0
    newest: int = 0
    _running: set[Hashable] = field(default_factory=set)
    _holders: dict[Hashable, Hashable] = field(default_factory=dict)
    _losses: Counter[Hashable] = field(default_factory=Counter)

    @property
    def running(self) -> int:
        """Sequences that are neither accepted nor filtered."""
        return len(self._running)

    def publish(self, version: int) -> None:
        """Take note of newer weights.

        Raises:
            LedgerError: they are not newer.
        """
        if version < self.newest:
            raise LedgerError(
                f"weights of version {version} were published after version {self.newest}; publish versions "
                "in order, and call begin() when training starts again from an earlier step"
            )
        self.newest = version

    def submit(self, sequences: Iterable[Hashable]) -> None:
        """Take sequences that are to be sampled.

        Raises:
            LedgerError: one of them is on its way already.
        """
        for sequence in sequences:
            if sequence in self._running:
                raise LedgerError(f"sequence {sequence} was submitted while it is on its way; submit it once")
            self._running.add(sequence)
            self.submitted += 1

    def accept(self, sequence: Hashable, version: int) -> None:
        """Take a finished sequence, sampled by the weights of ``version``.

        Raises:
            LedgerError: it was not on its way, or its weights are too old.
        """
        self.refuse_stale(version)
        self._end(sequence)
        self.accepted += 1

    def filter(self, sequence: Hashable, reason: str) -> None:
        """Leave a sequence out.

        Raises:
            LedgerError: it was not on its way.
        """
        self._end(sequence)
        self.filtered[reason] += 1

    def refuse_stale(self, version: int) -> None:
        """Refuse what weights sampled that are further behind the newest than they may be.

        Raises:
            LedgerError: with both versions and the bound.
        """
        if self.newest - version > self.staleness:
            raise LedgerError(
                f"a sequence was sampled by weights of version {version}, {self.newest - version} behind the "
                f"newest, and rollout.staleness={self.staleness} allows no more; submit it before newer "
                "weights are published, or allow more"
            )

    def start(self, task: Hashable, actor: Hashable) -> None:
        """Give a task to an actor.

        Raises:
            LedgerError: another has it.
        """
        if task in self._holders:
            raise LedgerError(f"{task} was given to {actor} while {self._holders[task]} has it")
        self._holders[task] = actor

    def finish(self, task: Hashable, actor: Hashable) -> None:
        """Take a task's results from the actor that has it.

        Raises:
            LedgerError: that actor does not have it.
        """
        self._release(task, actor)
        self._losses.pop(task, None)

    def lose(self, task: Hashable, actor: Hashable) -> int:
        """Take a task back from an actor that is lost; returns how many actors it has cost.

        Raises:
            LedgerError: that actor does not have it.
        """
        self._release(task, actor)
        self.deaths += 1
        self._losses[task] += 1
        return self._losses[task]

    def resubmit(self, task: Hashable) -> None:
        """Count a task that goes back to be done by another actor.

        Raises:
            LedgerError: no actor was lost with it.
        """
        if self.resubmitted >= self.deaths or not self._losses[task]:
            raise LedgerError(f"{task} goes back once more than actors were lost with it")
        self.resubmitted += 1

    def check(self) -> None:
        """Compare the book's two sides.

        Raises:
            LedgerError: they differ.
        """
        filtered = self.filtered.total()
        if self.submitted != self.accepted + filtered + self.running:
            raise LedgerError(
                f"{self.submitted} sequences were submitted, but {self.accepted} were accepted, {filtered} "
                f"filtered and {self.running} are running; this is an error of codex_ray, please report it"
            )

    def _end(self, sequence: Hashable) -> None:
        if sequence not in self._running:
            raise LedgerError(f"sequence {sequence} ended twice, or was never submitted")
        self._running.remove(sequence)

    def _release(self, task: Hashable, actor: Hashable) -> None:
        if self._holders.get(task) != actor:
            raise LedgerError(f"{actor} answered for {task}, which {self._holders.get(task)} has")
        del self._holders[task]
