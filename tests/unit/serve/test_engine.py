"""The engine's thread: joining, leaving, cancelling, deadlines, refusals, failures."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from codex_ray.config.common import Device
from codex_ray.rollout.load import load_with_tokenizer
from codex_ray.rollout.request import Request
from codex_ray.rollout.sampler import Sampler
from codex_ray.rollout.sampling import Sampling
from codex_ray.serve.engine import Engine
from codex_ray.serve.errors import ApiError
from codex_ray.serve.events import Delta, End, Entry, Event, Failed, Mailbox, merged
from codex_ray.serve.jobs import Job, Lane, Track

PROMPT = [1, 5, 6]
GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def make(model_folder: Path) -> Callable[[], Sampler]:
    model, tokenizer = load_with_tokenizer(str(model_folder), None, Device("cpu", "float32"))
    return lambda: Sampler(model, tokenizer, slots=2, capacity=64)


@pytest.fixture
def engine() -> Iterator[Engine]:
    one = Engine(slots=2, waiting=2)
    yield one
    one.close(0)
    assert not one._thread.is_alive() and one._taken == 0


@pytest.fixture
def lane(make: Callable[[], Sampler]) -> Lane:
    return Lane(make)


def job(lane: Lane, count: int = 1, tokens: int = 5, seconds: float = 30.0, **settings: Any) -> Job:
    tracks = [Track(place, Request(PROMPT, tokens, streamed=True, **settings)) for place in range(count)]
    return Job("me", tracks, lane, time.monotonic() + seconds, Mailbox())


async def events_of(one: Job, count: int = 1) -> list[Event]:
    """All events, up to the end of every sequence or a failure."""
    found: list[Event] = []
    while not any(isinstance(event, Failed) for event in found):
        if sum(isinstance(event, End) for event in found) == count:
            break
        found += await asyncio.wait_for(one.mailbox.take(), 30)
    return found


class Held:
    """Keeps the engine's thread busy until it is let go."""

    def __init__(self, engine: Engine) -> None:
        self._go, entered = threading.Event(), threading.Event()
        engine.call(lambda: (entered.set(), self._go.wait(30)))
        assert entered.wait(30)

    def let_go(self) -> None:
        self._go.set()


def test_sequences_are_those_of_the_sampler_alone(
    engine: Engine, lane: Lane, make: Callable[[], Sampler]
) -> None:
    async def run() -> list[str]:
        jobs = [job(lane, tokens=12, seed=seed) for seed in (1, 2)]
        for one in jobs:
            engine.submit(one)
        return [
            "".join(event.text for event in await events_of(one) if isinstance(event, Delta)) for one in jobs
        ]

    sampler, wanted = make(), {}
    for seed in (1, 2):
        sampler.submit(Request(PROMPT, 12, seed=seed, streamed=True))
    while sampler.running:
        for drawn in sampler.step():
            if drawn.completion:
                wanted[drawn.request] = drawn.completion.text
    assert asyncio.run(run()) == [wanted[0], wanted[1]]


def test_a_full_queue_refuses_and_says_for_how_long(engine: Engine, lane: Lane) -> None:
    async def run() -> None:
        held = Held(engine)
        taken = [job(lane), job(lane), job(lane), job(lane)]
        for one in taken:
            engine.submit(one)
        with pytest.raises(ApiError) as refusal:
            engine.submit(job(lane))
        assert refusal.value.status == 503 and refusal.value.retry_after
        held.let_go()
        for one in taken:
            assert isinstance((await events_of(one))[-1], End)
        engine.submit(again := job(lane))
        assert isinstance((await events_of(again))[-1], End)

    asyncio.run(run())


def test_a_request_may_fill_the_engine_and_no_more(engine: Engine, lane: Lane) -> None:
    async def run() -> None:
        with pytest.raises(ApiError, match="full"):
            engine.submit(job(lane, count=5))
        engine.submit(one := job(lane, count=4, tokens=3))
        ends = [event for event in await events_of(one, 4) if isinstance(event, End)]
        assert sorted(end.choice for end in ends) == list(range(4)) and {end.tokens for end in ends} == {3}

    asyncio.run(run())


def test_cancelled_requests_leave_at_once_wherever_they_are(engine: Engine, lane: Lane) -> None:
    async def run() -> None:
        running, waiting = job(lane, count=2, tokens=60), job(lane, count=2, tokens=60)
        engine.submit(running)
        engine.submit(waiting)
        await running.mailbox.take()
        engine.cancel(waiting)
        engine.cancel(running)
        engine.cancel(running)
        engine.call(lambda: None).result(30)
        assert not engine._jobs and not lane.running and not len(engine._waiting)
        assert lane.sampler.running == 0

    asyncio.run(run())


def test_a_late_request_ends_with_an_error_whether_it_ran_or_waited(engine: Engine, lane: Lane) -> None:
    async def run() -> None:
        held = Held(engine)
        waiting = job(lane, seconds=0.05)
        engine.submit(waiting)
        time.sleep(0.1)
        held.let_go()
        failed = (await events_of(waiting))[-1]
        assert isinstance(failed, Failed) and failed.error.status == 503

        running = job(lane, tokens=60, seconds=1000)
        engine.submit(running)
        await running.mailbox.take()
        running.deadline = 0.0
        failed = (await events_of(running))[-1]
        assert isinstance(failed, Failed) and failed.error.status == 504
        assert engine.call(lambda: lane.sampler.running).result(30) == 0

    asyncio.run(run())


def test_a_step_that_fails_fails_its_requests_and_not_the_next(
    engine: Engine, lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        broken = lane.sampler
        monkeypatch.setattr(broken, "step", lambda: 1 / 0)
        engine.submit(one := job(lane))
        failed = (await events_of(one))[-1]
        assert isinstance(failed, Failed) and failed.error.status == 500
        engine.submit(two := job(lane))
        assert isinstance((await events_of(two))[-1], End)
        assert lane.sampler is not broken and engine.healthy

    asyncio.run(run())


def test_an_error_of_one_requests_own_ends_it_alone(engine: Engine, lane: Lane) -> None:
    from codex_ray.serve.adjusting import Adjuster

    async def run() -> None:
        adjuster = Adjuster(bias={10**6: 1.0})
        bad, good = job(lane, adjust=adjuster), job(lane, tokens=20)
        bad.tracks[0].adjuster = adjuster
        engine.submit(good)
        engine.submit(bad)
        failed = (await events_of(bad))[-1]
        assert isinstance(failed, Failed) and failed.error.status == 500
        assert isinstance((await events_of(good))[-1], End)

    asyncio.run(run())


def test_a_model_takes_over_while_another_ends_what_it_began(
    engine: Engine, lane: Lane, make: Callable[[], Sampler]
) -> None:
    async def run() -> None:
        before, after = job(lane, tokens=50), job(Lane(make), tokens=3)
        engine.submit(before)
        await before.mailbox.take()
        engine.submit(after)
        assert isinstance((await events_of(after))[-1], End)
        assert lane.running and lane in engine._lanes
        assert isinstance((await events_of(before))[-1], End)

    asyncio.run(run())


def test_what_comes_while_the_thread_ends_is_told_so(engine: Engine, lane: Lane) -> None:
    async def run() -> None:
        held = Held(engine)
        engine._inbox.put(None)
        engine.submit(late := job(lane))
        called = engine.call(lambda: None)
        held.let_go()
        failed = (await events_of(late))[-1]
        assert isinstance(failed, Failed) and failed.error.status == 503
        with pytest.raises(CancelledError):
            called.result(30)

    asyncio.run(run())


def test_one_call_between_two_steps(engine: Engine, lane: Lane) -> None:
    async def run() -> None:
        engine.submit(one := job(lane, tokens=40))
        await one.mailbox.take()
        held = Held(engine)
        steps: list[int] = []
        calls = [engine.call(lambda: steps.append(engine.load.steps)) for _ in range(5)]
        held.let_go()
        for call in calls:
            call.result(30)
        assert len(set(steps)) == 5

    asyncio.run(run())


def test_an_engine_whose_thread_hangs_is_sick(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine.healthy
    monkeypatch.setattr("codex_ray.serve.engine.HANG_SECONDS", 0.0)
    held = Held(engine)
    assert not engine.healthy
    held.let_go()


def test_closing_lets_requests_end_and_refuses_new_ones(make: Callable[[], Sampler]) -> None:
    async def run() -> None:
        engine, lane = Engine(slots=2, waiting=2), Lane(make)
        engine.submit(one := job(lane, tokens=10))
        closing = asyncio.create_task(asyncio.to_thread(engine.close, 30.0))
        await asyncio.sleep(0)
        assert isinstance((await events_of(one))[-1], End)
        await closing
        with pytest.raises(ApiError, match="full"):
            engine.submit(job(lane))
        with pytest.raises(ApiError):
            engine.call(lambda: None)

    asyncio.run(run())


def test_pieces_that_come_together_become_one() -> None:
    entry = Entry("a", [97], -1.0, [])
    given: list[Event] = [
        Delta(0, "a", [entry], 1),
        Delta(1, "x", [], 1),
        Delta(0, "b", [entry], 2),
        End(0, "stop", 2),
        Delta(1, "y", [], 2),
    ]
    assert merged(given) == [Delta(0, "ab", [entry, entry], 2), Delta(1, "xy", [], 2), End(0, "stop", 2)]
