"""From prompts to rollouts: tasks follow from positions and never from who answers first."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_ray.config.rollout import Rollouts
from codex_ray.errors import CodexRayError
from codex_ray.rollout.episode import Failure, Outcome, Prompt, Rollout, Task, Turn, turn_seed
from codex_ray.rollout.sampling import Sampling
from codex_ray.rollout.steps import Order, Step, share, to_submit


def order(prompts: int, samples: int, step: int = 3) -> Order:
    return Order(
        step, None, [Prompt([1, 10 + place], place) for place in range(prompts)], samples, Sampling()
    )


def write(task: Task) -> list[Turn]:
    """What some model would: tokens that follow from seed and place."""
    turns = []
    for one in task.continuations:
        draw = random.Random(one.seed)
        told = [7] * (0 if one.observation is None else len(one.observation))
        ids = [draw.randrange(20, 90) for _ in range(draw.randint(1, 3))]
        logs = [-1.0] * len(ids)
        turns.append(Turn(one.observation, told, ids, f"{ids}", f"{ids}", logs, logs, "stop"))
    return turns


def answer(step: Step, number: int) -> Outcome:
    """What some environment would: whether it goes on follows from what was written."""
    turns = step.episode(number).turns
    if sum(turns[-1].ids) % 3 and step.may_go_on(number):
        return Outcome(observation="ab" * len(turns))
    return Outcome(reward=float(sum(turns[-1].ids)))


def run(step: Step, draw: random.Random, log: list[Task]) -> list[Rollout]:
    """Do a step's tasks and judgements in any order."""
    tasks: list[Task] = step.tasks()
    waiting: list[int] = []
    while tasks or waiting:
        if tasks and (not waiting or draw.random() < 0.5):
            task = tasks.pop(draw.randrange(len(tasks)))
            log.append(task)
            waiting += step.sampled(task, write(task))
        else:
            number = waiting.pop(draw.randrange(len(waiting)))
            following = step.judged(number, answer(step, number))
            tasks += [] if following is None else [following]
    assert step.done
    return step.accepted()


@given(
    prompts=st.integers(1, 5),
    samples=st.integers(1, 4),
    together=st.integers(2, 7),
    seed=st.integers(0, 99),
    order_of_events=st.integers(0, 99),
)
@settings(deadline=None, max_examples=80)
def test_tasks_and_results_are_the_same_in_any_order_of_answers(
    prompts: int, samples: int, together: int, seed: int, order_of_events: int
) -> None:
    chosen = Rollouts(slots=2, task_sequences=together, max_new_tokens=200, max_turns=4)
    logs: list[list[Task]] = [[], []]
    results = [
        run(Step(order(prompts, samples), 2, chosen, seed, scored=True), random.Random(events), log)
        for events, log in zip((0, order_of_events), logs, strict=True)
    ]
    assert results[0] == results[1]
    assert sorted(logs[0], key=lambda task: task.key) == sorted(logs[1], key=lambda task: task.key)
    assert [(one.position, one.sample) for one in results[0]] == [
        (position, sample) for position in range(prompts) for sample in range(samples)
    ]


def test_observations_have_mask_0_and_all_lists_are_as_long() -> None:
    chosen = Rollouts(slots=4, max_new_tokens=200, max_turns=3)
    rollouts = run(Step(order(4, 3), 2, chosen, 0, scored=True), random.Random(0), [])
    assert any(len(one.text) > 1 for one in rollouts)
    for one in rollouts:
        assert len(one.completion_ids) == len(one.mask) == len(one.logprobs) == len(one.sampling_logprobs)
        assert one.ids == [*one.prompt_ids, *one.completion_ids] and len(one.ids_mask) == len(one.ids)
        assert one.over_prompt(one.logprobs) == [0.0, 0.0, *one.logprobs] and not any(one.ids_mask[:2])
        assert [not sampled for sampled in one.mask] == [token == 7 for token in one.completion_ids]
        assert all((log != 0) == sampled for log, sampled in zip(one.logprobs, one.mask, strict=True))
        group = [other.reward for other in rollouts if other.position == one.position]
        assert list(one.group_rewards) == group and one.reward == group[one.sample]


def test_what_may_still_be_written_is_what_is_left_of_the_completion() -> None:
    chosen = Rollouts(slots=2, max_new_tokens=10, max_turns=3)
    step = Step(order(1, 1), 2, chosen, 0, scored=True)
    (task,) = step.tasks()
    assert (task.continuations[0].room, task.continuations[0].ids) == (10, [1, 10])
    step.sampled(task, [Turn(None, [], [5, 6], "x", "x", [-1, -1], [-1, -1], "stop")])
    following = step.judged(0, Outcome(observation="y"))
    assert following is not None
    (continuation,) = following.continuations
    assert continuation.ids == [1, 10, 5, 6] and continuation.room == 8 and continuation.observation == "y"
    assert continuation.seed == turn_seed(0, 3, 0, 0, 1) != task.continuations[0].seed
    assert str(following) == "turn 2 of 1 sequences from number 0 of step 3"


@pytest.mark.parametrize("reward", [None, -1.0])
def test_failed_scores_are_left_out_or_rewarded_as_asked(reward: float | None) -> None:
    step = Step(order(1, 3), 2, Rollouts(slots=4, failure_reward=reward), 0, scored=True)
    (task,) = step.tasks()
    failure = Failure("late", "did not answer")
    for number in step.sampled(task, write(task)):
        step.failed(number, failure) if number == 1 else step.judged(number, Outcome(reward=2.0))
    rewards: list[Any] = [one.reward for one in step.accepted()]
    assert step.done and step.failures == {1: failure}
    assert rewards == ([2.0, 2.0] if reward is None else [2.0, -1.0, 2.0])
    assert step.filtered == ({1: "late"} if reward is None else {})
    assert all(one.group_rewards == tuple(rewards) for one in step.accepted())


def test_turns_end_where_they_must() -> None:
    step = Step(order(1, 2), 2, Rollouts(slots=4, max_turns=2), 0, scored=True)
    turn = Turn(None, [], [5], "x", "x", [-1.0], [-1.0], "stop")
    cut = Turn(None, [], [5], "x", "x", [-1.0], [-1.0], "length")
    step.sampled(step.tasks()[0], [turn, cut])
    assert step.may_go_on(0) and not step.may_go_on(1)
    step.judged(1, Outcome(reward=0.0))
    following = step.judged(0, Outcome(observation="y"))
    assert following is not None
    step.sampled(following, [turn])
    assert not step.may_go_on(0)
    step.judged(0, Outcome(reward=1.0, cut=True))
    assert [one.finish_reason for one in step.accepted()] == ["turns", "length"]


def test_without_environment_sequences_end_when_they_are_sampled() -> None:
    step = Step(order(2, 2), 2, Rollouts(slots=4), 0, scored=False)
    (task,) = step.tasks()
    assert step.sampled(task, write(task)) == []
    assert step.done and {one.reward for one in step.accepted()} == {None}


def test_an_order_of_nothing_is_refused() -> None:
    with pytest.raises(CodexRayError, match="step 3 has 0 prompts"):
        Step(order(0, 1), 2, Rollouts(), 0, scored=True)


@given(count=st.integers(0, 40), world=st.integers(1, 7))
def test_shares_are_all_of_it_in_order_and_even(count: int, world: int) -> None:
    step = Step(order(max(count, 1), 1), 2, Rollouts(slots=64), 0, scored=False)
    (task,) = step.tasks()
    step.sampled(task, write(task))
    rollouts = step.accepted()[:count]
    shares = [share(rollouts, rank, world) for rank in range(world)]
    assert [one for part in shares for one in part] == rollouts
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(st.integers(0, 9), st.integers(1, 9), st.integers(0, 4))
def test_every_step_is_submitted_once_and_in_time(first: int, count: int, staleness: int) -> None:
    submitted: list[int] = []
    for step in range(first, first + count):
        submitted += to_submit(step, first, staleness, first + count - 1)
        assert step in submitted
        assert all(later - step <= staleness for later in submitted)
    assert submitted == list(range(first, first + count))


def test_seeds_are_all_different() -> None:
    places = [(a, b, c, d) for a in range(4) for b in range(4) for c in range(4) for d in range(4)]
    assert len({turn_seed(1, *place) for place in places}) == len(places)


def test_a_first_turn_that_is_cut_may_be_made_to_answer() -> None:
    chosen = Rollouts(slots=2, max_new_tokens=10, turn_tokens=4)
    step = Step(order(1, 2), 0, chosen, 0, scored=True)
    (task,) = step.tasks()
    assert [one.room for one in task.continuations] == [4, 4]
    cut = Turn(None, [], [5, 6, 7, 8], "abcd", "abcd", [-1.0] * 4, [-1.0] * 4, "length")
    ended = Turn(None, [], [5, 2], "a", "a", [-1.0] * 2, [-1.0] * 2, "stop")
    assert step.sampled(task, [cut, ended]) == [0, 1]
    assert step.may_go_on(0) and step.may_go_on(1)
    assert step.judged(0, Outcome(observation="now")) is None
    following = step.judged(1, Outcome(reward=1.0, detail="why"))
    assert following is not None
    (one,) = following.continuations
    assert one.observation == "now" and one.room == 6  # all that is left, what is forced included
    forced = Turn("now", [9, 9], [5, 6, 7, 8], "efgh", "efgh", [-1.0] * 4, [-1.0] * 4, "length")
    assert step.sampled(following, [forced]) == [0]
    assert not step.may_go_on(0)  # of as many tokens as the first, but nothing is left
    step.judged(0, Outcome(reward=0.0))
    first, second = step.accepted()
    assert first.mask == [True] * 4 + [False] * 2 + [True] * 4 and first.sampling_logprobs[4:6] == [0.0, 0.0]
    assert step.episode(0).answer == "abcdnowefgh" and second.detail == "why"


def test_an_order_may_have_its_own_length_and_stops() -> None:
    asked = Order(3, None, [Prompt([1, 10])], 1, Sampling(), max_new_tokens=3, stop=["\n"])
    (task,) = Step(asked, 2, Rollouts(slots=1, max_new_tokens=10, stop=["="]), 0, scored=False).tasks()
    assert (task.continuations[0].room, task.stop) == (3, ("\n",))
    (task,) = Step(order(1, 1), 2, Rollouts(slots=1, max_new_tokens=10, stop=["="]), 0, scored=False).tasks()
    assert (task.continuations[0].room, task.stop) == (10, ("=",))
