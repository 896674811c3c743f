"""``codex-ray chat``: a conversation in the terminal, with a model's folder or an endpoint."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from codex_ray.config.fields import to_dict
from codex_ray.config.serve import Chat, Engine, Serve
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.files import unwritable
from codex_ray.serve.calls import Call
from codex_ray.serve.events import Delta, Failed

_COMMAND = re.compile(r"/[a-z]+")
HELP = "/again answers anew, /new forgets all, /quit (or Ctrl-D) ends; Ctrl-C stops an answer"

Messages = list[dict[str, Any]]


class Talker(Protocol):
    """Whoever answers."""

    name: str

    def answer(self, messages: Messages) -> AsyncIterator[str]:
        """Text, as it comes."""

    def close(self) -> None:
        """Let go of it."""


class Local:
    """A model of a folder, in this process."""

    def __init__(self, settings: Chat) -> None:
        from codex_ray.serve.model_server import ModelServer

        serve = Serve(
            model=settings.model,
            revision=settings.revision,
            compute=settings.compute,
            engine=Engine(slots=1),
        )
        self.name, self._settings = Path(settings.model).name, settings
        self._server = ModelServer(to_dict(serve))

    async def answer(self, messages: Messages) -> AsyncIterator[str]:
        """See :class:`Talker`."""
        one = self._settings
        call = Call(
            messages=messages,
            temperature=one.temperature,
            top_p=one.top_p,
            max_tokens=one.max_tokens,
            seed=one.seed,
            stream=True,
            seconds=86_400.0,
        )
        async with aclosing(self._server.generate(call)) as parts:
            async for events in parts:
                for event in events:
                    if isinstance(event, Failed):
                        raise CodexRayError(str(event.error))
                    if isinstance(event, Delta):
                        yield event.text

    def close(self) -> None:
        """See :class:`Talker`."""
        self._server.close(0)


class Endpoint:
    """A model behind an OpenAI-compatible address."""

    def __init__(self, settings: Chat) -> None:
        import openai

        key = settings.key or os.environ.get("OPENAI_API_KEY") or "none"
        url = settings.model.rstrip("/")
        self._openai, self._settings = openai, settings
        self._client = openai.AsyncOpenAI(base_url=url if url.endswith("/v1") else f"{url}/v1", api_key=key)
        self.name = settings.name or self._first(openai.OpenAI(base_url=self._client.base_url, api_key=key))

    def _first(self, client: Any) -> str:
        try:
            return str(next(iter(client.models.list())).id)
        except self._openai.OpenAIError as error:
            raise CodexRayError(f"{self._settings.model} does not answer: {error}") from error
        except StopIteration:
            raise CodexRayError(f"{self._settings.model} has no model") from None

    async def answer(self, messages: Messages) -> AsyncIterator[str]:
        """See :class:`Talker`."""
        one = self._settings
        given = {"max_tokens": one.max_tokens, "seed": one.seed}
        request: dict[str, Any] = {
            "model": self.name,
            "messages": messages,
            "temperature": one.temperature,
            "top_p": one.top_p,
            **{key: value for key, value in given.items() if value is not None},
        }
        try:
            stream: Any = await self._client.chat.completions.create(**request, stream=True)
            async with stream:
                async for chunk in stream:
                    if chunk.choices and chunk.choices[0].delta.content:
                        yield chunk.choices[0].delta.content
        except self._openai.OpenAIError as error:
            raise CodexRayError(str(error)) from error

    def close(self) -> None:
        """See :class:`Talker`."""


@dataclass
class Conversation:
    """What was said, kept in a file of JSON lines where there is one."""

    system: str | None
    file: Path | None
    messages: Messages = field(default_factory=list)

    def load(self) -> None:
        """Take up what the file holds.

        Raises:
            CodexRayError: it is no conversation.
        """
        if self.file is None or not self.file.exists():
            return
        try:
            lines = self.file.read_text(encoding="utf-8").splitlines()
            found = [json.loads(line) for line in lines if line.strip()]
            self.messages = [{"role": str(one["role"]), "content": str(one["content"])} for one in found]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CodexRayError(f"{self.file} holds no conversation ({error}); name another file") from error

    def save(self) -> None:
        """Write all of it."""
        if self.file is None:
            return
        text = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in self.messages)
        try:
            self.file.write_text(text, encoding="utf-8")
        except OSError as error:
            raise unwritable(self.file, error) from error

    def asked(self) -> Messages:
        """What the model is given."""
        return [*([{"role": "system", "content": self.system}] if self.system else []), *self.messages]


def chat_verb(settings: Chat) -> None:
    """Talk until the input ends; on a terminal with line editing, otherwise a turn per line.

    Raises:
        ConfigError: settings that cannot be right.
        CodexRayError: the model cannot be loaded, or the endpoint does not answer.
    """
    file = Path(settings.history).expanduser() if settings.history else None
    conversation = Conversation(settings.system, file)
    conversation.load()
    remote = settings.model.startswith(("http://", "https://"))
    if not remote and settings.name is not None:
        raise ConfigError("name is for endpoints, which have several models; leave it out for a folder")
    talker: Talker = Endpoint(settings) if remote else Local(settings)
    terminal = sys.stdin.isatty()
    if terminal:
        import readline  # noqa: F401  gives input() line editing and history

        print(f"{talker.name}: {HELP}")
        if conversation.messages:
            print(f"earlier messages taken up: {len(conversation.messages)}; /new forgets them")
    try:
        with asyncio.Runner() as runner:
            _talk(talker, conversation, runner, terminal)
    finally:
        talker.close()


def _talk(talker: Talker, conversation: Conversation, runner: asyncio.Runner, terminal: bool) -> None:
    while True:
        try:
            said = input("> " if terminal else "")
        except (EOFError, KeyboardInterrupt):
            if terminal:
                print()
            return
        if said.strip() == "/quit":
            return
        if said.strip() == "/new":
            conversation.messages = []
            conversation.save()
            if terminal:
                print("(forgotten)")
            continue
        if said.strip() == "/again":
            if conversation.messages and conversation.messages[-1]["role"] == "assistant":
                conversation.messages.pop()
        elif terminal and _COMMAND.fullmatch(said.strip()):
            print(HELP)
            continue
        elif said.strip():
            conversation.messages.append({"role": "user", "content": said})
        if not conversation.messages or not said.strip():
            continue
        _turn(talker, conversation, runner, terminal)


def _turn(talker: Talker, conversation: Conversation, runner: asyncio.Runner, terminal: bool) -> None:
    parts: list[str] = []

    async def answer() -> None:
        async for part in talker.answer(conversation.asked()):
            parts.append(part)
            print(part, end="", flush=True)

    try:
        runner.run(answer())
    except KeyboardInterrupt:
        print(" [stopped]", end="")
    except CodexRayError as error:
        if not terminal:
            raise
        print(f"codex-ray: error: {error}", file=sys.stderr)
    print(flush=True)
    if parts:
        conversation.messages.append({"role": "assistant", "content": "".join(parts)})
    conversation.save()
