"""vLLM through Ray Serve LLM in place of the engine, where it is installed (the extra ``gpu``).

Prompts and chats are encoded here, as they are for the engine, and vLLM continues token ids; so chat
templates, special tokens in requests, keys, masking and the audit log are the same. Its server yields what
OpenAI's API would, in lists of server-sent events.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from typing import Any

from codex_ray.config.serve import Serve
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.serve.calls import Call
from codex_ray.serve.errors import ApiError
from codex_ray.serve.events import Alternative, Delta, End, Entry, Event, Failed, Started
from codex_ray.serve.replicas import Replicas


def check_vllm(settings: Serve) -> None:
    """Refuse what vLLM cannot be asked for.

    Raises:
        ConfigError: it is not installed, or a setting is for the engine of this project only.
    """
    gpus = settings.replicas.gpus
    if gpus < 1 or gpus != int(gpus):
        raise ConfigError(
            f"engine.sampler=vllm computes on whole GPUs and replicas.gpus is {gpus:g}; set replicas.gpus=1"
        )
    if settings.adapters is not None:
        raise ConfigError(
            "engine.sampler=vllm takes no folder of adapters; serve them merged (codex-ray export), or leave "
            "engine.sampler out"
        )
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            "engine.sampler=vllm needs vLLM, which is not installed here; run pip install 'codex-ray[gpu]' "
            "on every node, or leave engine.sampler out"
        )


def llm_config(settings: Serve, scaling: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of ``ray.serve.llm.LLMConfig``.

    Args:
        scaling: Ray Serve's options of how many replicas there are.
    """
    from codex_ray.serve.app import name_of

    engine = settings.engine
    kwargs: dict[str, Any] = {
        "max_num_seqs": engine.slots,
        "tensor_parallel_size": int(settings.replicas.gpus),
        "dtype": settings.compute.dtype,
        "enable_prefix_caching": True,
        "revision": settings.revision,
        "max_model_len": engine.max_tokens,
        "kv_cache_memory_bytes": engine.cache_bytes,
    }
    in_work = engine.slots + engine.queue
    return {
        "model_loading_config": {"model_id": name_of(settings), "model_source": settings.model},
        "llm_engine": "vLLM",
        "engine_kwargs": {key: value for key, value in kwargs.items() if value is not None},
        "deployment_config": {
            "max_ongoing_requests": in_work,
            "max_queued_requests": in_work,
            "graceful_shutdown_timeout_s": settings.drain_seconds,
            **scaling,
        },
    }


def vllm_deployment(settings: Serve, name: str, scaling: Mapping[str, Any]) -> Any:
    """One model's replicas, as Ray Serve LLM makes them."""
    from ray.serve.llm import LLMConfig, build_llm_deployment

    config = LLMConfig(**llm_config(settings, scaling))
    return build_llm_deployment(config, override_serve_options={"name": name})


class VllmReplicas(Replicas):
    """Replicas of a model in vLLM.

    Args:
        handle: of the deployment.
        settings: of serving, with this model in the first place.
    """

    def __init__(self, handle: Any, settings: Serve) -> None:
        super().__init__(handle)
        from codex_ray.model.load import load_config, positions_of
        from codex_ray.rollout.load import tokenizer_folder
        from codex_ray.serve.app import name_of
        from codex_ray.serve.prompts import Prompts
        from codex_ray.tokenizer import Tokenizer

        folder = tokenizer_folder(settings.model, settings.revision)
        self._tokenizer = Tokenizer.load(folder)
        self._prompts = Prompts(self._tokenizer, folder)
        longest = positions_of(load_config(settings.model, settings.revision))
        self._name, self._source = name_of(settings), settings.model
        self._stand = {"created": int(time.time()), "max_model_len": settings.engine.max_tokens or longest}
        self._running = 0

    async def generate(self, call: Call) -> AsyncGenerator[list[Event], None]:
        """See :meth:`ModelServer.generate`."""
        from ray.serve.llm.openai_api_models import CompletionRequest

        try:
            prompts = await asyncio.to_thread(self._prompts.encode, call)
        except ApiError as error:
            yield [Failed(error)]
            return
        yield [Started(sum(map(len, prompts)))]
        request, reading = CompletionRequest(**completion(self._name, call, prompts)), Reading()
        self._running += 1
        try:
            async with asyncio.timeout(call.seconds):
                ask = self._streaming.completions
                async with aclosing(self._carried(lambda: ask.remote(request))) as parts:
                    async for part in parts:
                        if events := list(reading.events(part)):
                            yield events
        except TimeoutError:
            late = f"the answer was not ready within {call.seconds:g} s"
            yield [Failed(ApiError(504, late, code="deadline"))]
        finally:
            self._running -= 1

    async def embed(self, call: Call) -> Any:
        """Refused: vLLM embeds by models that are made for it."""
        return Failed(ApiError(400, f"{self._name} is served by vLLM and gives no embeddings", param="model"))

    async def tokenize(self, call: Call) -> Any:
        """See :meth:`ModelServer.tokenize`."""
        try:
            return (await asyncio.to_thread(self._prompts.encode, call))[0]
        except ApiError as error:
            return Failed(error)

    async def detokenize(self, ids: list[int]) -> Any:
        """See :meth:`ModelServer.detokenize`."""
        try:
            return await asyncio.to_thread(self._tokenizer.decode, ids)
        except CodexRayError as error:
            return Failed(ApiError(400, str(error), param="tokens"))

    async def stand(self) -> dict[str, Any]:
        """See :meth:`ModelServer.stand`; what runs is what this front has sent."""
        return {**self._stand, "running": self._running, "waiting": 0, "source": self._source}

    async def of_all(self, method: str, *arguments: Any, seconds: float) -> list[Any]:
        """Refuse to change the model."""
        return ["vLLM keeps the model that it began with; begin another server"]


def completion(name: str, call: Call, prompts: list[list[int]]) -> dict[str, Any]:
    """A call as vLLM's request of ``/v1/completions``, always as a stream."""
    given: dict[str, Any] = {
        "seed": call.seed,
        "max_tokens": call.max_tokens,
        "logprobs": call.top,
        "stop": call.stop or None,
        "logit_bias": {str(token): bias for token, bias in call.bias.items()} or None,
        "response_format": None
        if call.schema is None
        else {"type": "json_schema", "json_schema": {"name": "answer", "schema": call.schema}},
    }
    return {
        "model": name,
        "prompt": prompts,
        "n": call.choices,
        "temperature": call.temperature,
        "top_p": call.top_p,
        "top_k": call.top_k or -1,
        "min_p": call.min_p,
        "presence_penalty": call.presence_penalty,
        "frequency_penalty": call.frequency_penalty,
        "echo": call.echo,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        **{key: value for key, value in given.items() if value is not None},
    }


class Reading:
    """What vLLM's server yields, as events; keeps how many tokens each choice has."""

    def __init__(self) -> None:
        self._tokens: dict[int, int] = {}

    def events(self, part: Any) -> Iterator[Event]:
        """The events of a part: a list of server-sent events and errors, or one of them alone."""
        for one in part if isinstance(part, list) else [part]:
            if isinstance(one, Failed):
                yield one
            elif isinstance(one, str | bytes):
                text = one if isinstance(one, str) else one.decode()
                for line in text.splitlines():
                    if line.startswith("data: ") and line != "data: [DONE]":
                        yield from self._chunk(json.loads(line.removeprefix("data: ")))
            else:
                yield _failure(one.error.model_dump())

    def _chunk(self, chunk: dict[str, Any]) -> Iterator[Event]:
        if "error" in chunk:
            yield _failure(chunk["error"])
            return
        for choice in chunk["choices"]:
            index, entries = choice["index"], _entries(choice.get("logprobs"))
            drawn = (chunk.get("usage") or {}).get("completion_tokens")
            tokens = self._tokens[index] = self._tokens.get(index, 0) if drawn is None else drawn
            if choice["text"] or entries:
                yield Delta(index, choice["text"], entries, tokens)
            if (reason := choice.get("finish_reason")) in ("stop", "length"):
                yield End(index, reason, tokens)
            elif reason is not None:
                yield Failed(ApiError(500, f"vLLM ended the answer ({reason})", code="engine"))


def _entries(logprobs: Mapping[str, Any] | None) -> list[Entry]:
    if not logprobs:
        return []
    tokens, values = logprobs["tokens"], logprobs["token_logprobs"]
    tops = logprobs.get("top_logprobs") or [None] * len(tokens)
    return [
        Entry(
            token,
            list(token.encode()),
            value,
            [Alternative(text, list(text.encode()), told) for text, told in (top or {}).items()],
        )
        for token, value, top in zip(tokens, values, tops, strict=True)
    ]


def _failure(error: Mapping[str, Any]) -> Failed:
    code = error.get("code")
    status = code if isinstance(code, int) and 400 <= code < 600 else 500
    return Failed(ApiError(status, str(error.get("message", "vLLM failed")), param=error.get("param")))
