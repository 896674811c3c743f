"""The actor behind a pool: it starts actors, gives each that is free the next work, replaces those lost.

All of it runs in one event loop, so that nothing changes while it looks. Actors that sample and scorers have
their own work to take, so that neither waits for the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from ray.exceptions import ObjectLostError

from codex_ray.config.rollout import Rollouts
from codex_ray.errors import CodexRayError
from codex_ray.rollout.episode import Failure, Outcome, Rollout
from codex_ray.rollout.lane import Lane, Lost
from codex_ray.rollout.layout import Layout
from codex_ray.rollout.scheduler import Judgement, Published, Scheduler
from codex_ray.rollout.steps import Order, share

RETRY_SECONDS = 1.0
SCORES_IN_TIME = 2  # times that an episode is given to scorers which do not answer in time

Work = TypeVar("Work")


@dataclass(frozen=True)
class Share:
    """A rank's part of a step.

    Attributes:
        rollouts: its sequences, in order.
        figures: of the whole step, by name.
        notes: sentences for the user that came up since the step before.
    """

    rollouts: list[Rollout]
    figures: dict[str, float]
    notes: list[str]


class Coordinator:
    """Gives out work and takes in results; an asynchronous actor.

    Args:
        settings: of the pool; ``seed``: that all draws derive from.
        samplers: start a sampling actor each; ``scorers``: a scoring actor each, none without environment.
    """

    def __init__(
        self,
        settings: Rollouts,
        seed: int,
        samplers: list[Callable[[], Any]],
        scorers: list[Callable[[], Any]],
    ) -> None:
        self._settings = settings
        self._samplers = [Lane(f"rollout actor {place}", spawn) for place, spawn in enumerate(samplers)]
        self._scorers = [Lane(f"scorer {place}", spawn) for place, spawn in enumerate(scorers)]
        self._scheduler = Scheduler(settings, seed, scored=bool(scorers), workers=self._samplers)
        self._error: CodexRayError | None = None
        self._layout: Layout | None = None
        self._open = False
        self._begun = 0
        self._loops: list[asyncio.Task[None]] = []

    async def open(self) -> Layout:
        """Start all actors; returns what parameters the models have.

        Raises:
            CodexRayError: an actor does not start.
        """
        self._changed = asyncio.Condition()
        self._loops = [
            *(asyncio.create_task(self._run(lane, self._sample)) for lane in self._samplers),
            *(asyncio.create_task(self._run(lane, self._judge)) for lane in self._scorers),
        ]
        lanes = [*self._samplers, *self._scorers]
        await self._until(lambda: all(lane.up for lane in lanes))
        self._open = True
        assert self._layout is not None
        return self._layout

    async def begin(self) -> None:
        """Forget what was asked for and not collected: a trainer starts again."""
        self._scheduler.begin()
        self._error = None
        self._begun += 1
        await self._notify()

    async def publish(self, version: int, place: list[Any], checksum: int) -> None:
        """Take note of weights that lie in the object store at the one reference in ``place``.

        Raises:
            LedgerError: they are older than others.
        """
        self._scheduler.publish(version, Published(place, checksum))

    async def submit(self, order: Order) -> None:
        """Begin a step's sequences.

        Raises:
            CodexRayError: it was submitted before, or its weights are too old or not there.
        """
        self._scheduler.submit(order)
        await self._notify()

    async def collect(self, step: int, rank: int, world_size: int) -> Share:
        """Return a rank's part of a step, once all of it is there.

        Raises:
            CodexRayError: something ended the step, its weights have become too old, or the pool began again.
        """
        begun = self._begun
        await self._until(lambda: begun != self._begun or step in self._scheduler.deliveries)
        if begun != self._begun:  # whoever asked is of a group of ranks that is lost
            raise CodexRayError(f"the pool began again while step {step} was waited for; call begin() first")
        deliveries = self._scheduler.deliveries
        delivery = deliveries[step]
        ledger, figures = self._scheduler.ledger, delivery.figures
        for rollout in delivery.rollouts[:1]:
            ledger.refuse_stale(rollout.version)
            figures["rollout/staleness"] = float(ledger.newest - rollout.version)
        delivery.ranks.add(rank)
        if len(delivery.ranks) >= world_size:
            del deliveries[step]
        return Share(share(delivery.rollouts, rank, world_size), figures, delivery.notes)

    async def counts(self) -> dict[str, int]:
        """Return the ledger's counts."""
        return self._scheduler.counts()

    async def progress(self) -> str:
        """Say what is being waited for."""
        lanes = [*self._samplers, *self._scorers]
        doing = [f"{lane.name} is at work" for lane in lanes if lane.working]
        starting = [f"{lane.name} is starting" for lane in lanes if not lane.up]
        return ", ".join([*self._scheduler.progress(), *doing, *starting]) or "nothing was submitted"

    async def processes(self) -> list[int]:
        """Return the process numbers of the actors, those that sample first."""
        lanes = [*self._samplers, *self._scorers]
        return [await lane.process(self._settings.start_seconds) for lane in lanes]

    async def close(self) -> None:
        """End all actors."""
        for loop in self._loops:
            loop.cancel()
        for lane in [*self._samplers, *self._scorers]:
            lane.kill()

    async def _run(self, lane: Lane, work: Callable[[Lane], Awaitable[None]]) -> None:
        """Keep an actor in its place, and give it work."""
        while True:
            try:
                if not lane.up:
                    await self._start(lane)
                await work(lane)
                await self._notify()
            except CodexRayError as error:
                await self._fail(error)
            except Exception as error:  # nobody else would ever hear of it
                await self._fail(CodexRayError(f"{lane.name} cannot work: {type(error).__name__}: {error}"))

    async def _start(self, lane: Lane) -> None:
        """Start an actor; one that does not start is tried again while others of its kind go on.

        Raises:
            CodexRayError: it does not start, and no other is there.
        """
        kind = self._samplers if lane in self._samplers else self._scorers
        while True:
            try:
                found = await lane.start(self._settings.start_seconds)
                break
            except Lost as lost:
                await asyncio.sleep(RETRY_SECONDS)
                if not self._open or not any(other.up for other in kind):
                    why = " (is there room for it in the cluster?)" if lost.late else ""
                    raise CodexRayError(
                        f"{lost} while starting{why}; give rollout.actors whose CPUs and GPUs the cluster "
                        "has, or a longer rollout.start_seconds"
                    ) from None
                self._scheduler.notes.append(f"{lost} while starting; it is tried again, the others go on")
            except Exception as error:
                await asyncio.sleep(RETRY_SECONDS)
                name = "" if isinstance(error, CodexRayError) else f"{type(error).__name__}: "
                raise CodexRayError(f"{lane.name} cannot start: {name}{error}") from None
        if isinstance(found, Layout):
            self._layout = found
        await self._notify()

    async def _sample(self, lane: Lane) -> None:
        """Have an actor do the next task."""
        actor = lane.actor
        assignment = await self._take(lambda: self._scheduler.take_task(actor))
        task = assignment.task
        weights = self._scheduler.weights(task.version)
        try:
            sampled = await lane.ask("sample", task, weights, seconds=self._settings.task_seconds)
        except Lost as lost:
            self._scheduler.lost(assignment, actor, str(lost))
        except (CodexRayError, ObjectLostError) as error:
            self._scheduler.refused(assignment, actor, error)
        except Exception as error:  # such as of a device: the process cannot be trusted any more
            lane.kill()
            self._scheduler.lost(assignment, actor, f"{actor} raised {type(error).__name__}: {error}")
        else:
            self._scheduler.sampled(assignment, actor, sampled)

    async def _judge(self, lane: Lane) -> None:
        """Have a scorer judge the next episode."""
        judgement = await self._take(self._scheduler.take_episode)
        self._scheduler.judged(judgement, await self._answer(lane, judgement))

    async def _answer(self, lane: Lane, judgement: Judgement) -> Outcome | Failure:
        """Ask a scorer, and a fresh one where it is lost; too often is a failure."""
        late = died = 0
        episode = judgement.step.episode(judgement.number)
        may_go_on = judgement.step.may_go_on(judgement.number)
        while True:
            if not lane.up:
                await self._start(lane)
            try:
                seconds = self._settings.score_seconds
                answer: Outcome | Failure = await lane.ask("judge", episode, may_go_on, seconds=seconds)
                return answer
            except Lost as lost:
                late, died = late + lost.late, died + (not lost.late)
                if late >= SCORES_IN_TIME:
                    return Failure("late", f"{lost} (rollout.score_seconds)")
                if died >= self._settings.attempts:
                    return Failure("died", str(lost))
                self._scheduler.notes.append(f"{lost}; its episode is given to a fresh scorer")

    async def _take(self, take: Callable[[], Work | None]) -> Work:
        async with self._changed:
            while (found := take()) is None:
                await self._changed.wait()
        return found

    async def _until(self, there: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._error is not None or there())
        if self._error is not None:
            raise self._error

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _fail(self, error: CodexRayError) -> None:
        self._error = self._error or error
        await self._notify()
