"""The thread that owns a replica's models: requests join their batches and leave, expire, or are refused.

Everything that touches the model or the sampler runs in one thread. Other threads give it work through an
inbox, and get events back through mailboxes.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from codex_ray.errors import CodexRayError
from codex_ray.rollout.request import Drawn
from codex_ray.serve.errors import ApiError, overloaded
from codex_ray.serve.events import Delta, End, Event, Failed
from codex_ray.serve.fairness import FairQueue
from codex_ray.serve.jobs import Job, Lane, Load, Track

Result = TypeVar("Result")

IDLE_SECONDS = 1.0
"""Longest time that the thread waits for work before it looks at deadlines."""

HANG_SECONDS = 300.0
"""How long a step may take before the engine calls itself sick."""

FAILURES = 3
"""Steps in a row that fail before the engine calls itself sick."""


class _Errand(NamedTuple):
    """Something for the thread to do, and what is done instead when the thread ends before."""

    work: Callable[[], Any]
    dropped: Callable[[], Any]
    beside: bool = False  # computes: one of these is done between two steps


class Engine:
    """Samplers in one thread, which takes requests for any of them.

    Several are there while one model takes over from another: each request ends where it began.

    Args:
        slots: most sequences that are drawn at a time; ``waiting``: most that wait.
    """

    def __init__(self, *, slots: int, waiting: int) -> None:
        self.load, self.room = Load(), slots + waiting
        self._slots = slots
        self._waiting: FairQueue[tuple[Job, Track]] = FairQueue()
        self._lanes: list[Lane] = []  # those with sequences
        self._jobs: set[Job] = set()
        self._inbox: queue.SimpleQueue[_Errand | None] = queue.SimpleQueue()
        self._beside: deque[_Errand] = deque()
        self._lock, self._taken = threading.Lock(), 0  # sequences, from when they are taken until they end
        self._failures = 0
        self._closing, self._ended, self._moved = False, False, time.monotonic()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def healthy(self) -> bool:
        """Whether the thread lives, and its steps succeed and end."""
        moves = time.monotonic() - self._moved < HANG_SECONDS
        return self._thread.is_alive() and moves and self._failures < FAILURES

    def submit(self, job: Job) -> None:
        """Take a job; its events begin to come.

        Raises:
            ApiError: more would wait than may, or the engine is ending.
        """
        count = len(job.tracks)
        with self._lock:
            if self._closing:
                raise overloaded(5)
            if self._taken + count > self.room:
                raise overloaded(self._taken / self._slots * self.load.service_seconds)
            self._taken += count
            self._inbox.put(
                _Errand(lambda: self._enter(job), lambda: self._fail(job, overloaded(IDLE_SECONDS)))
            )

    def cancel(self, job: Job) -> None:
        """End a job of which nobody wants more."""
        self._inbox.put(_Errand(lambda: self._end(job), lambda: None))

    def call(self, work: Callable[[], Result]) -> concurrent.futures.Future[Result]:
        """Run something between two steps, in the thread; the future is cancelled when that ends before.

        Raises:
            ApiError: the thread has ended.
        """
        future: concurrent.futures.Future[Result] = concurrent.futures.Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

        with self._lock:
            if self._ended:
                raise overloaded(IDLE_SECONDS)
            self._inbox.put(_Errand(run, future.cancel, beside=True))
        return future

    def close(self, seconds: float) -> None:
        """Take no more, let what there is end in so many seconds, then stop the thread."""
        self._closing = True
        deadline = time.monotonic() + seconds
        while self._taken and time.monotonic() < deadline and self._thread.is_alive():
            time.sleep(0.02)
        self._inbox.put(None)
        self._thread.join(IDLE_SECONDS + 5)

    def _run(self) -> None:
        try:
            while self._listen():
                if self._beside:
                    self._beside.popleft().work()
                self._expire()
                self._admit()
                for lane in list(self._lanes):
                    self._step(lane)
                self._lanes = [lane for lane in self._lanes if lane.running]
                self._count()
        finally:
            with self._lock:
                self._closing = self._ended = True
            for job in list(self._jobs):
                self._fail(job, overloaded(IDLE_SECONDS))
            while self._beside:
                self._beside.popleft().dropped()
            with contextlib.suppress(queue.Empty):
                while True:
                    if (errand := self._inbox.get_nowait()) is not None:
                        errand.dropped()

    def _listen(self) -> bool:
        """Do what the inbox holds, waiting for something where there is nothing else to do."""
        idle = not (self._lanes or self._beside or len(self._waiting))
        while True:
            try:
                errand = self._inbox.get(block=idle, timeout=IDLE_SECONDS if idle else None)
            except queue.Empty:
                return True
            if errand is None:
                return False
            if errand.beside:
                self._beside.append(errand)
            else:
                errand.work()
            idle = False

    def _enter(self, job: Job) -> None:
        if job.ended:
            return
        self._jobs.add(job)
        for track in job.tracks:
            self._waiting.push(job.owner, (job, track))

    def _expire(self) -> None:
        now = time.monotonic()
        for job in [job for job in self._jobs if job.deadline < now]:
            seconds = job.deadline - job.born
            self._fail(
                job,
                ApiError(504, f"the answer was not ready within {seconds:g} s", code="deadline")
                if job.began
                else overloaded(self.load.service_seconds),
            )

    def _admit(self) -> None:
        running = sum(len(lane.running) for lane in self._lanes)
        while len(self._waiting) and running < self._slots:
            job, track = self._waiting.pop()
            try:
                number = job.lane.sampler.submit(track.request)
            except CodexRayError as error:
                self._waiting.done(job.owner)
                self._settle(1)
                job.tracks.remove(track)
                self._fail(job, ApiError(400, str(error)))
                continue
            track.number, job.began = number, True
            self._waiting.charge(job.owner, read=len(track.request.prompt))
            self.load.prompt_tokens += len(track.request.prompt)
            job.lane.running[number] = (job, track)
            if job.lane not in self._lanes:
                self._lanes.append(job.lane)
            running += 1

    def _step(self, lane: Lane) -> None:
        try:
            drawn = lane.sampler.step()
            self._failures = 0
        except Exception as error:  # a sampler that failed holds nothing that can be relied on
            self._failures += 1
            lost, lane.running = list(lane.running.values()), {}
            for job, track in lost:
                track.number = None
                self._waiting.done(job.owner)
                self._settle(1)
                job.tracks.remove(track)
            for job, _ in lost:
                self._fail(job, ApiError(500, f"the model failed: {error}", code="engine"))
            lane.sampler = lane.make()
            return
        self.load.steps += 1
        for one in drawn:
            if (found := lane.running.get(one.request)) is not None:
                self._tell(*found, one)

    def _tell(self, job: Job, track: Track, drawn: Drawn) -> None:
        """Pass a drawn token on."""
        if track.adjuster is not None and track.adjuster.error is not None:
            self._fail(job, ApiError(500, str(track.adjuster.error), code="grammar"))
            return
        track.tokens += 1
        self.load.drawn_tokens += 1
        self._waiting.charge(job.owner, drawn=1)
        entry = track.told(drawn, track.adjuster) if track.told is not None else None
        if entry is not None:
            track.entries.append(entry)
        text, events = drawn.text if track.request.streamed else "", list[Event]()
        if drawn.completion is not None and not track.request.streamed:
            text = drawn.completion.text
        if text or (drawn.completion is not None and track.entries):
            events.append(Delta(track.index, text, track.entries, track.tokens))
            track.entries = []
        if drawn.completion is not None:
            events.append(End(track.index, drawn.completion.finish_reason, track.tokens))
            self._leave(job, track)
        if events:
            job.mailbox.put(*events)

    def _leave(self, job: Job, track: Track) -> None:
        """A sequence has ended by itself."""
        assert track.number is not None
        del job.lane.running[track.number]
        track.number = None
        job.tracks.remove(track)
        self._waiting.done(job.owner)
        self._settle(1)
        if not job.tracks:
            job.ended = True
            self._jobs.discard(job)
            took = time.monotonic() - job.born
            self.load.service_seconds += 0.1 * (took - self.load.service_seconds)

    def _fail(self, job: Job, error: ApiError) -> None:
        if not job.ended:
            self._end(job)
            job.mailbox.put(Failed(error))

    def _end(self, job: Job) -> None:
        """Take a job's sequences out of everything."""
        if job.ended:
            return
        job.ended = True
        self._jobs.discard(job)
        for track in job.tracks:
            if track.number is None:
                self._waiting.remove(job.owner, (job, track))
            else:
                del job.lane.running[track.number]
                self._waiting.done(job.owner)
                job.lane.sampler.cancel(track.number)
        self._settle(len(job.tracks))

    def _settle(self, sequences: int) -> None:
        with self._lock:
            self._taken -= sequences

    def _count(self) -> None:
        self._moved = time.monotonic()
        self.load.running = sum(len(lane.running) for lane in self._lanes)
        self.load.waiting = len(self._waiting)
