"""The thread that owns a model: requests join and leave its batch, are cancelled, expire, or are refused.

Everything that touches the model or the sampler runs in one thread. Other threads give it work through an
inbox, and get events back through mailboxes.
"""

from __future__ import annotations

import concurrent.futures
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from codex_ray.errors import CodexRayError
from codex_ray.rollout.request import Drawn, Request
from codex_ray.rollout.sampler import Sampler
from codex_ray.serve.adjusting import Adjuster
from codex_ray.serve.errors import ApiError, overloaded
from codex_ray.serve.events import Delta, End, Entry, Event, Failed, Mailbox
from codex_ray.serve.fairness import FairQueue

Result = TypeVar("Result")

IDLE_SECONDS = 1.0
"""Longest time that the thread waits for work before it looks at deadlines."""

HANG_SECONDS = 300.0
"""How long a step may take before the engine calls itself sick."""

FAILURES = 3
"""Steps in a row that fail before the engine calls itself sick."""


@dataclass(eq=False)
class Track:
    """One sequence of a job.

    Attributes:
        told: makes the entry of a drawn token, where tokens are asked for.
    """

    index: int
    request: Request
    adjuster: Adjuster | None = None
    told: Callable[[Drawn, Adjuster | None], Entry | None] | None = None
    number: int | None = None
    tokens: int = 0
    entries: list[Entry] = field(default_factory=list)


@dataclass(eq=False)
class Job:
    """A request: its sequences, whose it is, when it is late, and where its events go."""

    owner: str
    tracks: list[Track]
    deadline: float
    mailbox: Mailbox
    born: float = field(default_factory=time.monotonic)
    left: int = 0
    ended: bool = False


@dataclass
class Load:
    """How an engine stands; read from any thread."""

    running: int = 0
    waiting: int = 0
    prompt_tokens: int = 0
    drawn_tokens: int = 0
    steps: int = 0
    service_seconds: float = 1.0  # of a sequence, averaged


class Engine:
    """A sampler in a thread of its own.

    Args:
        make: makes the sampler, in the thread; called again after a step that failed.
        waiting: most sequences that wait.
    """

    def __init__(self, make: Callable[[], Sampler], *, waiting: int) -> None:
        self.load = Load()
        self._make, self._limit = make, waiting
        self._sampler = make()
        self._waiting: FairQueue[tuple[Job, Track]] = FairQueue()
        self._running: dict[int, tuple[Job, Track]] = {}
        self._jobs: set[Job] = set()
        self._inbox: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
        self._lock, self._coming = threading.Lock(), 0  # sequences in the inbox
        self._failures = 0
        self._swap: tuple[Callable[[], Sampler], concurrent.futures.Future[None]] | None = None
        self._closing, self._moved = False, time.monotonic()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def sampler(self) -> Sampler:
        """The present one, to be asked for its sizes."""
        return self._sampler

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
        if self._closing:
            raise overloaded(5)
        job.left = len(job.tracks)
        with self._lock:
            busy = self._coming + len(self._waiting) + len(self._running)
            if busy and busy + job.left > self._limit + self._sampler.slots:
                raise overloaded(busy / self._sampler.slots * self.load.service_seconds)
            self._coming += job.left
        self._inbox.put(lambda: self._enter(job))

    def cancel(self, job: Job) -> None:
        """End a job of which nobody wants more."""
        self._inbox.put(lambda: self._end(job))

    def call(self, work: Callable[[], Result]) -> concurrent.futures.Future[Result]:
        """Run something between two steps, in the thread.

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

        if not self._thread.is_alive():
            raise overloaded(IDLE_SECONDS)
        self._inbox.put(run)
        return future

    def swap(self, make: Callable[[], Sampler]) -> concurrent.futures.Future[None]:
        """Go on with another sampler, once the sequences that run have ended; the others wait meanwhile."""
        future: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._inbox.put(lambda: setattr(self, "_swap", (make, future)))
        return future

    def close(self, seconds: float) -> None:
        """Take no more, let what there is end in so many seconds, then stop the thread."""
        self._closing = True
        deadline = time.monotonic() + seconds
        while self._jobs and time.monotonic() < deadline and self._thread.is_alive():
            time.sleep(0.02)
        self._inbox.put(None)
        self._thread.join(IDLE_SECONDS + 5)

    def _run(self) -> None:
        try:
            self._work()
        finally:
            self._closing = True
            for job in list(self._jobs):
                self._fail(job, overloaded(IDLE_SECONDS), leave=False)

    def _work(self) -> None:
        while self._listen():
            self._expire()
            if self._swap is not None and not self._running:
                self._exchange()
            if self._swap is None:
                self._admit()
            if self._running:
                self._step()
            self._count()

    def _listen(self) -> bool:
        """Do what the inbox holds, waiting for something where there is nothing else to do."""
        idle = not (self._running or len(self._waiting))
        while True:
            try:
                call = self._inbox.get(block=idle, timeout=IDLE_SECONDS if idle else None)
            except queue.Empty:
                return True
            if call is None:
                return False
            call()
            idle = False

    def _enter(self, job: Job) -> None:
        self._jobs.add(job)
        with self._lock:
            self._coming -= job.left
            for track in job.tracks:
                self._waiting.push(job.owner, (job, track))

    def _expire(self) -> None:
        now = time.monotonic()
        for job in [job for job in self._jobs if job.deadline < now]:
            began = any(track.number is not None for track in job.tracks)
            seconds = job.deadline - job.born
            self._fail(
                job,
                ApiError(504, f"the answer was not ready within {seconds:g} s", code="deadline")
                if began
                else overloaded(self.load.service_seconds),
            )

    def _admit(self) -> None:
        while len(self._waiting) and len(self._running) < self._sampler.slots:
            job, track = self._waiting.pop()
            try:
                track.number = self._sampler.submit(track.request)
            except CodexRayError as error:
                self._waiting.done(job.owner)
                job.tracks.remove(track)
                self._fail(job, ApiError(400, str(error)))
                continue
            self._waiting.charge(job.owner, read=len(track.request.prompt))
            self.load.prompt_tokens += len(track.request.prompt)
            self._running[track.number] = (job, track)

    def _step(self) -> None:
        try:
            drawn = self._sampler.step()
            self._failures = 0
        except Exception as error:  # a sampler that failed holds nothing that can be relied on
            self._failures += 1
            for job in {id(job): job for job, _ in self._running.values()}.values():
                self._fail(job, ApiError(500, f"the model failed: {error}", code="engine"), leave=False)
            self._running.clear()
            self._sampler = self._make()
            return
        self.load.steps += 1
        for one in drawn:
            if (found := self._running.get(one.request)) is not None:
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
        del self._running[track.number]
        self._waiting.done(job.owner)
        job.left -= 1
        if not job.left:
            job.ended = True
            self._jobs.discard(job)
            took = time.monotonic() - job.born
            self.load.service_seconds += 0.1 * (took - self.load.service_seconds)

    def _fail(self, job: Job, error: ApiError, *, leave: bool = True) -> None:
        if not job.ended:
            self._end(job, leave=leave)
            job.mailbox.put(Failed(error))

    def _end(self, job: Job, *, leave: bool = True) -> None:
        """Take a job's sequences out of everything."""
        if job.ended:
            return
        job.ended = True
        self._jobs.discard(job)
        for track in job.tracks:
            if track.number is None:
                self._waiting.remove(job.owner, (job, track))
            elif track.number in self._running:
                del self._running[track.number]
                self._waiting.done(job.owner)
                if leave:
                    self._sampler.cancel(track.number)

    def _exchange(self) -> None:
        assert self._swap is not None
        (make, future), self._swap = self._swap, None
        try:
            self._sampler = make()
            self._make = make
            future.set_result(None)
        except BaseException as error:
            future.set_exception(error)

    def _count(self) -> None:
        self._moved = time.monotonic()
        self.load.running, self.load.waiting = len(self._running), len(self._waiting)
