"""One model that answers calls: what runs in a replica, and in tests without Ray."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import asdict
from functools import partial
from typing import Any, TypeVar

import torch

from codex_ray.config.fields import build
from codex_ray.config.serve import Serve
from codex_ray.errors import CodexRayError
from codex_ray.rollout.load import load_with_tokenizer, tokenizer_folder
from codex_ray.rollout.request import Request
from codex_ray.rollout.sampler import Sampler, check_prompt, end_ids
from codex_ray.serve.calls import Call
from codex_ray.serve.engine import Engine, Job
from codex_ray.serve.errors import ApiError, overloaded
from codex_ray.serve.events import Delta, End, Entry, Event, Failed, Mailbox, Started
from codex_ray.serve.json_grammar import JsonGrammars
from codex_ray.serve.prompts import Prompts
from codex_ray.serve.scoring import Scored, embedding, scores
from codex_ray.serve.tracks import entry_of, tracks_of

Result = TypeVar("Result")

LONGEST = 8192
"""Tokens of a sequence where neither settings nor the model name a limit below."""


class ModelServer:
    """A model with its tokenizer and engine.

    Args:
        settings: of serving, as plain data.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = build(Serve, settings)
        engine, compute = self._settings.engine, self._settings.compute
        torch.set_num_threads(engine.threads or os.cpu_count() or 1)
        self._model, self._tokenizer = load_with_tokenizer(
            self._settings.model, self._settings.revision, compute
        )
        folder = tokenizer_folder(self._settings.model, self._settings.revision)
        self._engine = Engine(self._sampler, waiting=engine.queue)
        ends = end_ids(self._model, self._tokenizer)
        vocabulary = self._model.config.get_text_config().vocab_size
        self._ends, self._vocabulary = ends, vocabulary
        self._prompts = Prompts(self._tokenizer, folder)
        self._grammars = JsonGrammars(self._tokenizer, vocabulary, ends)
        self._asides = 0  # calls beside sampling that are under way
        self._created = int(time.time())
        self._warm()

    def _sampler(self) -> Sampler:
        engine = self._settings.engine
        return Sampler(
            self._model,
            self._tokenizer,
            slots=engine.slots,
            capacity=engine.max_tokens or LONGEST,
            cache_bytes=engine.cache_bytes,
        )

    def _warm(self) -> None:
        """Draw two tokens, so that a model which cannot is found before anybody asks."""

        def draw() -> None:
            first = self._tokenizer.bos_id if self._tokenizer.bos_id is not None else 0
            self._engine.sampler.submit(Request([first], 2))
            while self._engine.sampler.running:
                self._engine.sampler.step()

        self._engine.call(draw).result()

    async def generate(self, call: Call) -> AsyncGenerator[list[Event], None]:
        """Continue texts: events, some at a time; the first is :class:`Started` or :class:`Failed`.

        Whoever stops reading early cancels what is under way.
        """
        job: Job | None = None
        try:
            job, started = await self._job(call)
            if call.max_tokens != 0:
                self._engine.submit(job)
            yield [started]
            if call.echo:
                async for events in self._echoes(call, job):
                    yield events
            if call.max_tokens == 0:
                yield [End(track.index, "length", 0) for track in job.tracks]
                return
            left = len(job.tracks)
            while left > 0:
                events = await job.mailbox.take()
                left -= sum(isinstance(one, End) for one in events)
                left -= len(job.tracks) * any(isinstance(one, Failed) for one in events)
                if events:
                    yield events
        except ApiError as error:
            yield [Failed(error)]
        finally:
            if job is not None:
                self._engine.cancel(job)

    async def _job(self, call: Call) -> tuple[Job, Started]:
        prompts = await asyncio.to_thread(self._prompts.encode, call)
        longest = self._engine.sampler.capacity
        for place, prompt in enumerate(prompts, 1):
            try:
                check_prompt(prompt, place, longest, self._vocabulary)
            except CodexRayError as error:
                code = "context_length_exceeded" if len(prompt) >= longest else None
                raise ApiError(
                    400, str(error), param="messages" if call.messages else "prompt", code=code
                ) from error
        for token in call.bias:
            if not 0 <= token < self._vocabulary:
                raise ApiError(
                    400, f"logit_bias names token {token} of {self._vocabulary}", param="logit_bias"
                )
        grammar = None
        if call.schema is not None:
            grammar = await asyncio.to_thread(self._grammars.compile, call.schema)
        seed = secrets.randbits(62) if call.seed is None else call.seed % 2**62
        tracks = tracks_of(call, prompts, seed, grammar, self._tokenizer, self._ends)
        job = Job(call.owner, tracks, time.monotonic() + call.seconds, Mailbox())
        return job, Started(sum(map(len, prompts)))

    async def _echoes(self, call: Call, job: Job) -> AsyncIterator[list[Event]]:
        """The prompts themselves, before what is drawn; with their tokens where these are asked for."""
        for place in range(0, len(job.tracks), call.choices):
            ids = list(job.tracks[place].request.prompt)
            given = call.prompts[place // call.choices] if call.prompts else ids
            text = given if isinstance(given, str) else self._tokenizer.decode(ids)
            entries: list[Entry] = []
            if call.top is not None:
                parts, empty = scores(self._model, ids, call.top), list[Scored]()
                while part := await self._aside(partial(next, parts, empty), job.deadline):
                    entries += [entry_of(self._tokenizer, one.token, one.logprob, one.top) for one in part]
            yield [Delta(place + choice, text, entries) for choice in range(call.choices)]

    async def _aside(self, work: Callable[[], Result], deadline: float) -> Result:
        """Have the engine's thread do something between two steps.

        Raises:
            ApiError: too much of it waits already, or it was too late.
        """
        if self._asides >= self._engine.sampler.slots + self._settings.engine.queue:
            raise overloaded(1)
        self._asides += 1
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await asyncio.wrap_future(self._engine.call(work))
        except TimeoutError:
            raise ApiError(504, "the answer was not ready in time", code="deadline") from None
        finally:
            self._asides -= 1

    async def embed(self, texts: list[str] | list[list[int]]) -> tuple[list[list[float]], int] | Failed:
        """Embeddings of texts, and how many tokens these have."""
        try:
            prompts = await asyncio.to_thread(self._prompts.encode, Call(prompts=texts))
            for place, ids in enumerate(prompts, 1):
                check_prompt(ids, place, self._engine.sampler.capacity + 1, self._vocabulary)
            deadline = time.monotonic() + self._settings.engine.request_seconds
            found = [await self._aside(partial(embedding, self._model, ids), deadline) for ids in prompts]
        except ApiError as error:
            return Failed(error)
        except CodexRayError as error:
            return Failed(ApiError(400, str(error), param="input"))
        return found, sum(map(len, prompts))

    async def tokenize(self, call: Call) -> list[int] | Failed:
        """Ids of a text or of a chat, as the model would read it."""
        try:
            return (await asyncio.to_thread(self._prompts.encode, call))[0]
        except ApiError as error:
            return Failed(error)

    async def detokenize(self, ids: list[int]) -> str | Failed:
        """The text of ids."""
        try:
            return self._tokenizer.decode(ids)
        except CodexRayError as error:
            return Failed(ApiError(400, str(error), param="tokens"))

    async def stand(self) -> dict[str, Any]:
        """What the model is and how busy the engine is."""
        return {
            **asdict(self._engine.load),
            "slots": self._engine.sampler.slots,
            "max_model_len": self._engine.sampler.capacity,
            "created": self._created,
            "fingerprint": f"fp_{self._prompts.digest}",
        }

    async def check_health(self) -> None:
        """Called by Ray Serve, which replaces a replica that raises here."""
        if not self._engine.healthy:
            raise RuntimeError("the engine's thread has ended, or its last steps all failed")

    def close(self, seconds: float) -> None:
        """Let requests end in so many seconds, and stop."""
        self._engine.close(seconds)

    def __del__(self) -> None:
        """Called by Ray Serve when a replica ends; its requests have ended, or their time is up."""
        with contextlib.suppress(AttributeError):  # where loading the model failed
            self.close(0)
