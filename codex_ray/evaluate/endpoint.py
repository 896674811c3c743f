"""A model behind an OpenAI-compatible endpoint, asked through OpenAI's own client."""

from __future__ import annotations

import os
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any

from codex_ray.config.evaluate import Endpoint
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.evaluate.answering import Missing, Note, Replies, messages_of, step_of
from codex_ray.evaluate.metrics import Example
from codex_ray.evaluate.store import Answer
from codex_ray.evaluate.tasks import Task
from codex_ray.rollout.episode import STEP_PROMPTS, turn_seed

SEED_BITS = 31  # servers take a signed number of 32 bits


class EndpointModel:
    """Asks an endpoint; the text of a prompt for completions, messages for chat completions.

    Args:
        model: the name that the endpoint knows.
        settings: where it is and how it is asked.

    Raises:
        ConfigError: the client is not installed.
    """

    def __init__(self, model: str, settings: Endpoint) -> None:
        try:
            import openai
        except ImportError as error:
            raise ConfigError(
                "an endpoint is asked through the package openai, which is not installed; "
                "run pip install 'codex-ray[endpoint]'"
            ) from error
        self._openai, self._model, self._settings = openai, model, settings
        self._client = openai.OpenAI(
            base_url=settings.url,
            api_key=os.environ.get(settings.key_variable) or "none",
            timeout=settings.timeout_seconds,
            max_retries=settings.retries,
        )

    @property
    def identity(self) -> str:
        """Where it is and what it is called: its weights cannot be known."""
        return f"{self._settings.url} {self._model} {self._settings.chat}"

    def __enter__(self) -> EndpointModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def answers(self, missing: Missing, seed: int, note: Note) -> Replies:
        """See :class:`~codex_ray.evaluate.answering.Answerer`.

        Raises:
            CodexRayError: it cannot be reached, refuses a request, or answers with something else.
        """
        waiting = ((task, place) for task, places in missing for place in places)
        with ThreadPoolExecutor(self._settings.concurrency) as threads:
            running: dict[Future[list[Answer]], tuple[Task, int]] = {}
            try:
                while True:
                    while len(running) < self._settings.concurrency:
                        following = next(waiting, None)
                        if following is None:
                            break
                        running[threads.submit(self._ask, *following, seed)] = following
                    if not running:
                        return
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield *running.pop(future), future.result()
            finally:
                threads.shutdown(wait=False, cancel_futures=True)

    def _ask(self, task: Task, place: int, seed: int) -> list[Answer]:
        example, settings = task.examples[place], task.answering
        drawn = turn_seed(seed, step_of(task, place), place % STEP_PROMPTS, 0, 0) & (2**SEED_BITS - 1)
        asked: dict[str, Any] = {
            "model": self._model,
            "max_tokens": settings.max_new_tokens,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "n": settings.samples,
            "seed": drawn,
            "stop": settings.stop or None,
        }
        if settings.top_k:
            asked["extra_body"] = {"top_k": settings.top_k}
        try:
            return self._reply(example, asked, settings.chat)
        except self._openai.APITimeoutError as error:
            raise self._failure(
                f"did not answer within {self._settings.timeout_seconds:g} s; give a longer "
                "endpoint.timeout_seconds or a lower endpoint.concurrency"
            ) from error
        except self._openai.APIConnectionError as error:
            raise self._failure("cannot be reached; check the address and that the server runs") from error
        except self._openai.APIStatusError as error:
            raise self._failure(
                f"refused example {example.id} of task {task.name} with status {error.status_code} "
                f"({' '.join(str(error.message).split())[:200]}); check model, key and the prompt's length"
            ) from error
        except (AttributeError, TypeError, ValueError, self._openai.OpenAIError) as error:
            raise self._failure(
                f"answered example {example.id} of task {task.name} with something else than completions "
                f"({error}); check that its address ends as the server's documents say, often with /v1"
            ) from error

    def _reply(self, example: Example, asked: dict[str, Any], chat: bool) -> list[Answer]:
        if chat or self._settings.chat or not isinstance(example.prompt, str):
            messages: Any = messages_of(example)
            reply: Any = self._client.chat.completions.create(messages=messages, **asked)
            texts = [choice.message.content or "" for choice in reply.choices]
        else:
            reply = self._client.completions.create(prompt=example.prompt, **asked)
            texts = [choice.text for choice in reply.choices]
        if len(texts) != asked["n"] or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{len(texts)} choices, and {asked['n']} were asked for")
        reasons = [str(choice.finish_reason or "stop") for choice in reply.choices]
        return [Answer(text, None, reason) for text, reason in zip(texts, reasons, strict=True)]

    def _failure(self, what: str) -> CodexRayError:
        return CodexRayError(f"the endpoint {self._settings.url} {what}; answers that came are kept")
