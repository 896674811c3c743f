"""One model that answers calls: what runs in a replica, and in tests without Ray."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import asdict
from functools import partial
from typing import Any, TypeVar

import torch

from codex_ray.config.fields import build
from codex_ray.config.serve import Serve
from codex_ray.errors import CodexRayError
from codex_ray.rollout.lora import Adapter
from codex_ray.rollout.sampler import check_prompt
from codex_ray.serve.calls import Call
from codex_ray.serve.engine import Engine
from codex_ray.serve.errors import ApiError, overloaded
from codex_ray.serve.events import Delta, End, Entry, Event, Failed, Mailbox, Started, merged
from codex_ray.serve.ids import random_bits
from codex_ray.serve.jobs import Job, Track
from codex_ray.serve.loaded import Loaded
from codex_ray.serve.logs import mask_logs
from codex_ray.serve.scoring import Scored, embedding, scores
from codex_ray.serve.tracks import entry_of, tracks_of

Result = TypeVar("Result")

CARRIED_SECONDS, LONGEST_PAUSE = 0.004, 0.1
"""What two cores take to carry one piece of a stream from a replica to its client, and the longest pause."""


SHORT = 4096
"""Characters of a prompt that are encoded at once: handing them to a thread would take longer."""


class ModelServer:
    """A model with its tokenizer and engine.

    Args:
        settings: of serving, as plain data.
        deployment: names the deployment where its model may be changed; None elsewhere.
        carried: seconds that carrying one piece of a stream to its client takes.
    """

    def __init__(
        self, settings: dict[str, Any], deployment: str | None = None, *, carried: float = CARRIED_SECONDS
    ) -> None:
        self._settings, self._deployment, self._carried = build(Serve, settings), deployment, carried
        if deployment is not None and self._settings.guarding.mask_logs:
            mask_logs()
        engine = self._settings.engine
        torch.set_num_threads(engine.threads or os.cpu_count() or 1)
        self._loaded = Loaded(self._settings, self._wanted() or self._settings.model)
        self._next: Loaded | None = None
        self._changing = asyncio.Lock()
        self._following: asyncio.Task[str | None] | None = None
        self._engine = Engine(slots=engine.slots, waiting=engine.queue)
        self._asides = 0  # calls beside sampling that are under way
        self._engine.call(self._loaded.probe).result(self._settings.start_seconds)

    def _wanted(self) -> str | None:
        if self._deployment is None:
            return None
        from codex_ray.serve.current import current

        return current(self._deployment)

    async def prepare(self, source: str) -> str | None:
        """Load a model beside the present one and try it; returns why it cannot be served, or None."""
        async with self._changing:
            try:
                found = await asyncio.to_thread(Loaded, self._settings, source)
                await asyncio.wrap_future(self._engine.call(found.probe))
            except (CodexRayError, ApiError) as error:
                return str(error)
            except Exception as error:  # whatever it is, the present model stays
                return f"{type(error).__name__}: {error}"
            self._next = found
        return None

    async def commit(self) -> None:
        """Answer requests that come from now on by the prepared model; those under way end as they began."""
        if self._next is not None:
            self._loaded, self._next = self._next, None

    async def discard(self) -> None:
        """Forget the prepared model."""
        self._next = None

    async def generate(self, call: Call) -> AsyncGenerator[list[Event], None]:
        """Continue texts: events, some at a time; the first is :class:`Started` or :class:`Failed`.

        Whoever stops reading early cancels what is under way.
        """
        job: Job | None = None
        loaded = self._loaded  # for all of this request, whatever comes after it
        try:
            job, started = await self._job(loaded, call)
            tracks, left = list(job.tracks), len(job.tracks)
            if call.max_tokens != 0:
                self._engine.submit(job)
            yield [started]
            if call.echo:
                async for events in self._echoes(loaded, call, job, tracks):
                    yield events
            if call.max_tokens == 0:
                yield [End(track.index, "length", 0) for track in tracks]
                return
            while left > 0:
                events = await job.mailbox.take()
                left -= sum(isinstance(one, End) for one in events)
                left -= len(tracks) * any(isinstance(one, Failed) for one in events)
                if events:
                    yield merged(events)
                if left > 0:  # the first text goes at once; of later ones, what can be carried
                    others = self._engine.load.running - 1
                    await asyncio.sleep(min(self._carried * max(others, 0), LONGEST_PAUSE))
        except ApiError as error:
            yield [Failed(error)]
        finally:
            if job is not None:
                self._engine.cancel(job)

    async def _job(self, loaded: Loaded, call: Call) -> tuple[Job, Started]:
        prompts = await _encoded(loaded, call)
        longest = loaded.lane.sampler.capacity
        for place, prompt in enumerate(prompts, 1):
            try:
                check_prompt(prompt, place, longest, loaded.vocabulary)
            except CodexRayError as error:
                code = "context_length_exceeded" if len(prompt) >= longest else None
                raise ApiError(
                    400, str(error), param="messages" if call.messages else "prompt", code=code
                ) from error
        for token in call.bias:
            if not 0 <= token < loaded.vocabulary:
                raise ApiError(
                    400, f"logit_bias names token {token} of {loaded.vocabulary}", param="logit_bias"
                )
        grammar = None
        if call.schema is not None:
            grammar = await asyncio.to_thread(loaded.grammars.compile, call.schema)
        adapter = await self._adapter(loaded, call)
        seed = random_bits(62) if call.seed is None else call.seed % 2**62
        tracks = tracks_of(call, prompts, seed, grammar, adapter, loaded.tokenizer, loaded.ends)
        job = Job(call.owner, tracks, loaded.lane, time.monotonic() + call.seconds, Mailbox())
        return job, Started(sum(map(len, prompts)))

    async def _adapter(self, loaded: Loaded, call: Call) -> Adapter | None:
        return None if call.adapter is None else await asyncio.to_thread(loaded.adapter, call.adapter)

    async def _echoes(
        self, loaded: Loaded, call: Call, job: Job, tracks: list[Track]
    ) -> AsyncIterator[list[Event]]:
        """The prompts themselves, before what is drawn; with their tokens where these are asked for."""
        for place in range(0, len(tracks), call.choices):
            ids = list(tracks[place].request.prompt)
            given = call.prompts[place // call.choices] if call.prompts else ids
            text = given if isinstance(given, str) else loaded.tokenizer.decode(ids)
            entries: list[Entry] = []
            if call.top is not None:
                adapter = tracks[place].request.adapter
                parts, empty = scores(loaded.model, ids, call.top, adapter), list[Scored]()
                while part := await self._aside(partial(next, parts, empty), job.deadline):
                    entries += [entry_of(loaded.tokenizer, one.token, one.logprob, one.top) for one in part]
            yield [Delta(place + choice, text, entries) for choice in range(call.choices)]

    async def _aside(self, work: Callable[[], Result], deadline: float) -> Result:
        """Have the engine's thread do something between two steps.

        Raises:
            ApiError: too much of it waits already, or it was too late.
        """
        if self._asides >= self._engine.room:
            raise overloaded(1)
        self._asides += 1
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await asyncio.wrap_future(self._engine.call(work))
        except TimeoutError:
            raise ApiError(504, "the answer was not ready in time", code="deadline") from None
        finally:
            self._asides -= 1

    async def embed(self, call: Call) -> tuple[list[list[float]], int] | Failed:
        """Embeddings of a call's prompts, and how many tokens these have."""
        loaded = self._loaded
        try:
            prompts = await _encoded(loaded, call)
            for place, ids in enumerate(prompts, 1):
                check_prompt(ids, place, loaded.lane.sampler.capacity + 1, loaded.vocabulary)
            adapter = await self._adapter(loaded, call)
            deadline = time.monotonic() + call.seconds
            found = []
            for ids in prompts:
                parts, vector = embedding(loaded.model, ids, adapter), list[float]()
                while not vector:
                    vector = await self._aside(partial(next, parts), deadline)
                found.append(vector)
        except ApiError as error:
            return Failed(error)
        except CodexRayError as error:
            return Failed(ApiError(400, str(error), param="input"))
        return found, sum(map(len, prompts))

    async def tokenize(self, call: Call) -> list[int] | Failed:
        """Ids of a text or of a chat, as the model would read it."""
        try:
            return (await _encoded(self._loaded, call))[0]
        except ApiError as error:
            return Failed(error)

    async def detokenize(self, ids: list[int]) -> str | Failed:
        """The text of ids."""
        try:
            return await asyncio.to_thread(self._loaded.tokenizer.decode, ids)
        except CodexRayError as error:
            return Failed(ApiError(400, str(error), param="tokens"))

    async def stand(self) -> dict[str, Any]:
        """What the model is and how busy the engine is."""
        loaded = self._loaded
        return {
            **asdict(self._engine.load),
            "slots": self._settings.engine.slots,
            "max_model_len": loaded.lane.sampler.capacity,
            "created": loaded.created,
            "fingerprint": f"fp_{loaded.prompts.digest}",
            "source": loaded.source,
        }

    async def check_health(self) -> None:
        """Called by Ray Serve, which replaces a replica that raises here."""
        if not self._engine.healthy:
            raise RuntimeError("the engine's thread has ended, or its last steps all failed")
        wanted, following = self._wanted(), self._following
        if wanted is None or wanted == self._loaded.source:
            return
        if following is None or following.done():
            if following is not None and (refused := following.result()) is not None:
                raise RuntimeError(f"the model that this one was changed to cannot be served: {refused}")
            self._following = asyncio.create_task(self._follow(wanted))

    async def _follow(self, source: str) -> str | None:
        """Change to the model that the others changed to while this replica began."""
        refused = await self.prepare(source)
        if refused is None:
            await self.commit()
        return refused

    def close(self, seconds: float) -> None:
        """Let requests end in so many seconds, and stop."""
        self._engine.close(seconds)

    def __del__(self) -> None:
        """Called by Ray Serve when a replica ends; its requests have ended, or their time is up."""
        with contextlib.suppress(AttributeError):  # where loading the model failed
            self.close(0)


async def _encoded(loaded: Loaded, call: Call) -> list[list[int]]:
    """A call's prompts as ids.

    Raises:
        ApiError: they cannot be encoded.
    """
    given: list[Any] = [*(call.prompts or ()), *(call.messages or ()), *(call.tools or ())]
    if sum(len(one) if isinstance(one, str | list) else len(str(one)) for one in given) <= SHORT:
        return loaded.prompts.encode(call)
    return await asyncio.to_thread(loaded.prompts.encode, call)
