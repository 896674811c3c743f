"""What a pool does, without actors: any order of answers and any losses give the same rollouts, once each."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_ray.config.rollout import Rollouts
from codex_ray.errors import CodexRayError
from codex_ray.rollout.actor import Sampled
from codex_ray.rollout.episode import Failure, Outcome, Prompt, Rollout, Turn
from codex_ray.rollout.ledger import LedgerError
from codex_ray.rollout.sampling import Sampling
from codex_ray.rollout.scheduler import Assignment, Judgement, Published, Scheduler
from codex_ray.rollout.steps import Order, to_submit

PROMPTS = [Prompt([1, 10 + place], place) for place in range(4)]


def order(step: int, version: int) -> Order:
    return Order(step, version, PROMPTS, 3, Sampling())


class Worker:
    """Somebody who never works."""

    def busy_seconds(self) -> float:
        return 0.0


def scheduler(*, scored: bool = True, **changes: Any) -> Scheduler:
    chosen: dict[str, Any] = {"slots": 2, "task_sequences": 5, "max_turns": 3, "attempts": 50}
    return Scheduler(Rollouts(**chosen | changes), 1, scored=scored, workers=[Worker()])


def write(assignment: Assignment) -> Sampled:
    """What a model would: it follows from seed and version."""
    turns, version = [], assignment.task.version
    for one in assignment.task.continuations:
        draw = random.Random(one.seed + version)
        ids = [draw.randrange(90) for _ in range(3)]
        turns.append(Turn(one.observation, [], ids, "", "", [-1.0] * 3, [-1.0] * 3, "stop"))
    return Sampled(turns, version, 100 + version, 0.1)


def answer(judgement: Judgement) -> Outcome | Failure:
    """What an environment would: it follows from what was written."""
    total = sum(judgement.step.episode(judgement.number).turns[-1].ids)
    if total % 11 == 0:
        return Failure("bad", f"{total} cannot be scored")
    if total % 3 and judgement.step.may_go_on(judgement.number):
        return Outcome(observation="more")
    return Outcome(reward=float(total))


class Crew:
    """All actors and scorers: they answer in any order, and some are lost."""

    def __init__(self, state: Scheduler, seed: int, losses: float) -> None:
        self._state, self._draw, self._losses = state, random.Random(seed), losses
        self._tasks: list[tuple[Assignment, str]] = []
        self._episodes: list[Judgement] = []
        self._actors = 0

    def work(self, step: int) -> list[Rollout]:
        """Go on until a step is there."""
        state, draw = self._state, self._draw
        while step not in state.deliveries:
            self._actors += 1
            actor = f"actor {self._actors}"
            if (task := state.take_task(actor)) is not None:
                self._tasks.append((task, actor))
            if (episode := state.take_episode()) is not None:
                self._episodes.append(episode)
            if self._tasks and draw.random() < 0.5:
                self._finish(*self._tasks.pop(draw.randrange(len(self._tasks))))
            elif self._episodes:
                judgement = self._episodes.pop(draw.randrange(len(self._episodes)))
                state.judged(judgement, answer(judgement))
            state.ledger.check()
        return state.deliveries.pop(step).rollouts

    def _finish(self, assignment: Assignment, actor: str) -> None:
        if self._draw.random() < self._losses:
            self._state.lost(assignment, actor, f"{actor} died")
        else:
            self._state.sampled(assignment, actor, write(assignment))


def run(staleness: int, seed: int, losses: float, count: int = 3) -> tuple[list[list[Rollout]], Scheduler]:
    """Take a few steps as a trainer does."""
    state, taken = scheduler(staleness=staleness), []
    crew = Crew(state, seed, losses)
    for step in range(count):
        state.publish(step, Published([f"weights {step}"], 100 + step))
        for ahead in to_submit(step, 0, staleness):
            state.submit(order(ahead, step))
        taken.append(crew.work(step))
    return taken, state


@given(staleness=st.integers(0, 2), seed=st.integers(0, 999), losses=st.floats(0, 0.6))
@settings(deadline=None, max_examples=60)
def test_losses_and_order_change_nothing_and_the_book_is_exact(
    staleness: int, seed: int, losses: float
) -> None:
    expected, _ = run(staleness, 0, 0.0)
    found, state = run(staleness, seed, losses)
    assert found == expected
    versions = [{one.version for one in rollouts} for rollouts in found]
    assert versions == [{max(0, step - staleness)} for step in range(3)]
    ledger = state.ledger
    assert ledger.submitted == 12 * (3 + staleness)
    assert ledger.submitted == ledger.accepted + ledger.filtered.total() + ledger.running
    assert ledger.deaths == ledger.resubmitted
    assert sum(map(len, found)) <= ledger.accepted


@given(seed=st.integers(0, 99), moment=st.integers(1, 20))
@settings(deadline=None, max_examples=40)
def test_who_begins_again_gets_the_same_and_nothing_of_before(seed: int, moment: int) -> None:
    expected, _ = run(0, 0, 0.0, count=1)
    state, draw = scheduler(), random.Random(seed)
    state.publish(0, Published([], 100))
    state.submit(order(0, 0))
    before = [one for one in (state.take_task(f"old {place}") for place in range(moment)) if one is not None]
    state.begin()
    state.publish(0, Published([], 100))
    state.submit(order(0, 0))
    for place, one in enumerate(before):
        state.lost(one, f"old {place}", "died") if draw.random() < 0.5 else state.sampled(
            one, f"old {place}", replace(write(one), checksum=7)
        )
    assert Crew(state, seed, 0.2).work(0) == expected[0]
    assert state.ledger.filtered["begun again"] == 12 and state.ledger.running == 0


def test_the_earliest_tasks_come_first_and_later_turns_before_later_steps() -> None:
    state = scheduler(staleness=1)
    state.publish(0, Published([], 100))
    state.submit(order(0, 0))
    state.submit(order(1, 0))
    first = state.take_task("one")
    assert first is not None and first.task.key == (0, 0, 0)
    state.lost(first, "one", "died")
    keys = []
    for _ in range(6):
        taken = state.take_task("two")
        assert taken is not None
        keys.append(taken.task.key)
    assert keys == [(0, 0, 0), (0, 1, 0), (0, 2, 0), (1, 0, 0), (1, 1, 0), (1, 2, 0)]
    assert state.take_task("two") is None


def test_without_scores_a_step_is_there_with_its_last_task() -> None:
    state = scheduler(scored=False)
    state.submit(order(0, 0))
    rollouts = Crew(state, 3, 0.3).work(0)
    assert len(rollouts) == 12 and {one.reward for one in rollouts} == {None}
    assert state.ledger.accepted == 12 and state.take_task("one") is None


def test_a_task_may_cost_so_many_actors_and_no_more() -> None:
    state = scheduler(attempts=2)
    state.submit(order(4, 0))
    for losses in (1, 2):
        taken = state.take_task("one")
        assert taken is not None
        if losses == 1:
            state.lost(taken, "one", "one died")
        else:
            with pytest.raises(
                CodexRayError, match=r"turn 1 of 5 .* number 0 of step 4 has cost 2 .*one died"
            ):
                state.lost(taken, "one", "one died")


def test_weights_are_kept_while_they_are_needed() -> None:
    state = scheduler(staleness=1)
    for version in range(3):
        state.publish(version, Published([f"weights {version}"], 100 + version))
    assert [state.weights(version) for version in range(3)] == [[], ["weights 1"], ["weights 2"]]
    with pytest.raises(CodexRayError, match="asks for weights of version 0, and the pool has 1, 2"):
        state.submit(order(2, 0))
    state.submit(order(2, 1))
    state.publish(3, Published(["weights 3"], 103))
    state.publish(4, Published(["weights 4"], 104))
    assert state.weights(1) == ["weights 1"] and state.weights(2) == []
    with pytest.raises(LedgerError, match=r"version 1, 3 behind the newest, and rollout.staleness=1"):
        Crew(state, 0, 0.0).work(2)


def test_other_weights_than_those_asked_for_are_an_error_and_the_same_again_a_note() -> None:
    state = scheduler()
    for version in (0, 1):
        state.publish(version, Published([], 100))
        state.submit(order(version, version))
        while version not in state.deliveries:
            task = state.take_task("one")
            if task is not None:
                state.sampled(task, "one", replace(write(task), checksum=100))
            while (episode := state.take_episode()) is not None:
                state.judged(episode, Outcome(reward=1.0))
    assert any("version 1 are those of version 0 bit for bit" in note for note in state.deliveries[1].notes)
    assert state.deliveries[1].figures["rollout/unchanged_weights"] == 1
    state.publish(2, Published([], 5))
    state.submit(order(2, 2))
    task = state.take_task("one")
    assert task is not None
    with pytest.raises(
        CodexRayError, match=r"version 2 and checksum 0{14}66, which are not those published as version 2"
    ):
        state.sampled(task, "one", write(task))


def test_failures_are_said_once_for_each_kind() -> None:
    state = scheduler()
    state.submit(order(0, 0))
    count = 0
    while 0 not in state.deliveries:
        task = state.take_task("one")
        if task is not None:
            state.sampled(task, "one", write(task))
        while (episode := state.take_episode()) is not None:
            count += 1
            state.judged(episode, Failure("late", "slow") if count in (3, 9) else Outcome(reward=0.0))
    (note,) = state.deliveries[0].notes
    assert note == "2 of 12 scores of step 0 failed, the first of sample 2 of prompt 0: slow"
    assert state.counts()["filtered/late"] == 2
