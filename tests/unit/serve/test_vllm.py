"""vLLM as an engine: what is refused, its settings by Ray's own rules, its answers as events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from openai.types import Completion, CompletionChoice, CompletionUsage
from openai.types.completion_choice import Logprobs
from ray.llm._internal.serve.core.configs.llm_config import LLMConfig

from codex_ray.config.common import Device
from codex_ray.config.serve import Engine, Replicas, Serve
from codex_ray.errors import ConfigError
from codex_ray.serve.app import _scaling
from codex_ray.serve.calls import Call
from codex_ray.serve.events import Alternative, Delta, End, Entry, Failed
from codex_ray.serve.verb import serve_verb
from codex_ray.serve.vllm import Reading, completion, llm_config

VLLM = Engine(sampler="vllm", slots=32, max_tokens=2048)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "replicas.gpus is 0"),
        ({"replicas": Replicas(gpus=1.5)}, "whole GPUs"),
        ({"replicas": Replicas(gpus=1), "adapters": "."}, "no folder of adapters"),
        ({"replicas": Replicas(gpus=1)}, "not installed here"),
    ],
)
def test_what_vllm_cannot_do_is_refused_before_anything_starts(
    model_folder: Path, tmp_path: Path, changes: Any, said: str
) -> None:
    from codex_ray.config.serve import Access

    access = Access(keys=str(tmp_path / "keys.json"))
    with pytest.raises(ConfigError, match=said):
        serve_verb(Serve(str(model_folder), engine=VLLM, access=access, **changes))


def test_ray_takes_its_settings(model_folder: Path) -> None:
    replicas = Replicas(min=1, max=3, gpus=2)
    settings = Serve(
        str(model_folder), name="big", engine=VLLM, replicas=replicas, compute=Device(dtype="bfloat16")
    )
    given = llm_config(settings, _scaling(settings))
    config = LLMConfig(**given)
    assert config.model_id == "big" and config.model_loading_config.model_source == str(model_folder)
    assert config.engine_kwargs["tensor_parallel_size"] == 2 and config.engine_kwargs["max_num_seqs"] == 32
    assert config.deployment_config["autoscaling_config"]["max_replicas"] == 3
    with pytest.raises(ValueError, match="deployment"):
        LLMConfig(**{**given, "deployment_config": {"num_replicas": -1}})


def chunk(text: str, reason: Any, drawn: int, logprobs: Logprobs | None = None) -> str:
    usage = CompletionUsage(prompt_tokens=3, completion_tokens=drawn, total_tokens=3 + drawn)
    choice = CompletionChoice.model_construct(index=1, text=text, finish_reason=reason, logprobs=logprobs)
    whole = Completion.model_construct(
        id="cmpl-1", object="text_completion", created=1, model="big", choices=[choice], usage=usage
    )
    return f"data: {whole.model_dump_json()}\n\n"


def test_its_answers_are_events() -> None:
    reading = Reading()
    told = Logprobs(tokens=["é"], token_logprobs=[-0.5], top_logprobs=[{"e": -1.0}], text_offset=[0])
    parts = [[chunk("é", None, 1, told), chunk("b", None, 2)], chunk("", "length", 2), "data: [DONE]\n\n"]
    found = [event for part in parts for event in reading.events(part)]
    entry = Entry("é", [195, 169], -0.5, [Alternative("e", [101], -1.0)])
    assert found == [Delta(1, "é", [entry], 1), Delta(1, "b", [], 2), End(1, "length", 2)]
    error = {"error": {"message": "too long", "code": 400, "type": "BadRequestError", "param": "prompt"}}
    (failed,) = reading.events(f"data: {json.dumps(error)}\n\n")
    assert isinstance(failed, Failed) and failed.error.status == 400 and failed.error.message == "too long"
    (failed,) = reading.events([chunk("", "abort", 2)])
    assert isinstance(failed, Failed) and failed.error.status == 500


def test_a_call_is_its_request() -> None:
    call = Call(prompts=["a"], choices=2, max_tokens=5, bias={7: -100.0}, schema={"type": "object"}, top=0)
    request = completion("big", call, [[1, 2]])
    assert request["prompt"] == [[1, 2]] and request["n"] == 2 and request["logit_bias"] == {"7": -100.0}
    assert request["top_k"] == -1 and request["logprobs"] == 0 and "seed" not in request
    assert request["response_format"]["json_schema"]["schema"] == {"type": "object"}
