"""The ledger balances whatever happens, and refuses what must not."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from codex_ray.rollout.ledger import Ledger, LedgerError


class Books(RuleBasedStateMachine):
    """Any order of events, beside the plainest account of them."""

    @initialize(staleness=st.integers(0, 2))
    def open(self, staleness: int) -> None:
        self.ledger = Ledger(staleness)
        self.running: dict[int, int] = {}  # sequence: version
        self.ended = 0
        self.next = 0
        self.held: dict[int, int] = {}  # task: actor
        self.lost: list[int] = []

    @rule(count=st.integers(1, 4), behind=st.integers(0, 3))
    def submit(self, count: int, behind: int) -> None:
        sequences = range(self.next, self.next + count)
        self.ledger.submit(sequences)
        self.running |= {one: self.ledger.newest - behind for one in sequences}
        self.next += count

    @rule(more=st.integers(0, 1))
    def publish(self, more: int) -> None:
        self.ledger.publish(self.ledger.newest + more)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def accept(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(sorted(self.running)))
        if self.ledger.newest - self.running[sequence] > self.ledger.staleness:
            with pytest.raises(LedgerError, match="behind the newest"):
                self.ledger.accept(sequence, self.running[sequence])
            self.ledger.filter(sequence, "stale")
        else:
            self.ledger.accept(sequence, self.running[sequence])
        del self.running[sequence]
        self.ended += 1
        with pytest.raises(LedgerError, match="ended twice"):
            self.ledger.accept(sequence, self.ledger.newest)

    @rule(task=st.integers(0, 3), actor=st.integers(0, 1))
    def start(self, task: int, actor: int) -> None:
        if task in self.held:
            with pytest.raises(LedgerError, match="has it"):
                self.ledger.start(task, actor)
        else:
            self.ledger.start(task, actor)
            self.held[task] = actor

    @precondition(lambda self: self.held)
    @rule(data=st.data(), die=st.booleans())
    def end_task(self, data: st.DataObject, die: bool) -> None:
        task = data.draw(st.sampled_from(sorted(self.held)))
        actor = self.held.pop(task)
        with pytest.raises(LedgerError, match="answered for"):
            self.ledger.finish(task, actor + 10)
        if not die:
            self.ledger.finish(task, actor)
            return
        self.ledger.lose(task, actor)
        self.ledger.resubmit(task)
        with pytest.raises(LedgerError, match="once more than actors were lost"):
            self.ledger.resubmit(task)

    @invariant()
    def balances(self) -> None:
        if not hasattr(self, "ledger"):
            return
        self.ledger.check()
        assert self.ledger.submitted == self.next
        assert self.ledger.running == len(self.running)
        assert self.ledger.accepted + self.ledger.filtered.total() == self.ended
        assert self.ledger.deaths == self.ledger.resubmitted


Books.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBooks = Books.TestCase


def test_a_task_counts_the_actors_that_it_costs_until_it_is_done() -> None:
    ledger = Ledger(0)
    for losses in (1, 2):
        ledger.start("task", losses)
        assert ledger.lose("task", losses) == losses
        ledger.resubmit("task")
    ledger.start("task", 3)
    ledger.finish("task", 3)
    ledger.start("task", 4)
    assert ledger.lose("task", 4) == 1


def test_a_book_that_does_not_balance_is_said() -> None:
    ledger = Ledger(0)
    ledger.submit(["one"])
    ledger.accepted += 1
    with pytest.raises(LedgerError, match="1 sequences were submitted, but 1 were accepted"):
        ledger.check()


def test_versions_are_published_in_order() -> None:
    ledger = Ledger(1)
    ledger.publish(3)
    with pytest.raises(LedgerError, match="published after version 3"):
        ledger.publish(2)


def test_a_sequence_is_submitted_once() -> None:
    ledger = Ledger(0)
    ledger.submit(["one"])
    with pytest.raises(LedgerError, match="on its way"):
        ledger.submit(["one"])
