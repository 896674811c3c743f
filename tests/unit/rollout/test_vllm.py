"""vLLM's place in the pool. Here a stand-in draws: a real model, behind what is used of vLLM's interface."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from codex_ray.config.common import Device
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.model import load_model
from codex_ray.rollout.actor import FromFolder, SamplingActor, sample_task
from codex_ray.rollout.episode import Continuation, Task
from codex_ray.rollout.layout import Layout
from codex_ray.rollout.request import Completion, Request
from codex_ray.rollout.sampler import Sampler
from codex_ray.rollout.sampling import Sampling
from codex_ray.rollout.vllm import VllmSampler
from codex_ray.rollout.weights import named_parameters, pack
from codex_ray.tokenizer import Tokenizer
from tests.unit.rollout.models import llama, train_small_tokenizer


@dataclass
class SamplingParams:
    """Fields of vllm.SamplingParams that are set."""

    temperature: float
    max_tokens: int
    seed: int
    stop: list[str]
    stop_token_ids: list[int]
    ignore_eos: bool
    logit_bias: dict[int, float] | None
    logprobs: int


class LLM:
    """Draws with a model of its own; goes on beyond stop strings, which vLLM may find later than we do."""

    def __init__(self, model: str, **settings: Any) -> None:
        self.model, self.settings, self.resets = load_model(model), settings, 0
        self.tokenizer = Tokenizer.load(model)
        self.asked: list[SamplingParams] = []
        self.cut = 0

    def generate(
        self, prompts: list[dict[str, list[int]]], settings: list[SamplingParams], use_tqdm: bool
    ) -> list[Any]:
        assert not use_tqdm
        self.asked += settings
        sampler = Sampler(self.model, self.tokenizer, slots=4, capacity=64)
        for prompt, one in zip(prompts, settings, strict=True):
            ids, ends = prompt["prompt_token_ids"], one.stop_token_ids
            sampler.submit(Request(ids, one.max_tokens, Sampling(), one.seed, stop_ids=ends))
        done: dict[int, Completion] = {}
        while sampler.running:
            done |= {drawn.request: drawn.completion for drawn in sampler.step() if drawn.completion}
        return [self._output(done[number]) for number in range(len(prompts))]

    def _output(self, done: Completion) -> Any:
        count = len(done.ids) - self.cut
        told = zip(done.ids[:count], done.logprobs, strict=False)
        logprobs = [{token: SimpleNamespace(logprob=logprob)} for token, logprob in told]
        output = SimpleNamespace(token_ids=done.ids[:count], logprobs=logprobs, finish_reason="stop")
        return SimpleNamespace(outputs=[output])

    def apply_model(self, function: Any) -> list[Any]:
        own = dict(self.model.named_parameters())

        def load_weights(weights: Any) -> None:
            with torch.no_grad():
                for name, tensor in weights:
                    own[name].copy_(tensor)

        return [function(SimpleNamespace(load_weights=load_weights))]

    def reset_prefix_cache(self) -> None:
        self.resets += 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer = train_small_tokenizer(tmp_path)
    llama(tokenizer.vocabulary_size).save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, SamplingParams  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)


def asked(*, stop: tuple[str, ...] = ("e",)) -> Task:
    rows = [Continuation([1, 20 + place], None, 24, 5 + place) for place in range(3)]
    return Task(0, 0, 0, 0, 0, Sampling(), stop, 4, tuple(rows))


def from_folder(folder: Path) -> FromFolder:
    return FromFolder(str(folder), Device("cpu", "float32"), sampler="vllm")


def test_without_vllm_it_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(
        ConfigError, match=r"rollout.sampler=vllm needs vLLM, .* pip install 'codex-ray\[gpu\]'"
    ):
        from_folder(folder)()


@pytest.mark.usefixtures("installed")
def test_completions_are_those_of_the_sampler(folder: Path) -> None:
    model, tokenizer = from_folder(folder)()
    found, expected = (sample_task(one, tokenizer, asked()) for one in (model, load_model(folder)))
    for turn, other in zip(found, expected, strict=True):
        assert (turn.ids, turn.text, turn.written) == (other.ids, other.text, other.written)
        assert turn.finish_reason == other.finish_reason
        assert turn.logprobs == turn.sampling_logprobs == pytest.approx(other.logprobs, abs=1e-5)
    assert "stop" in {turn.finish_reason for turn in found}
    settings = model.engine.asked[0]
    assert (settings.temperature, settings.max_tokens, settings.seed) == (1.0, 24, 5)
    assert (settings.stop, settings.stop_token_ids) == (["e"], [tokenizer.eos_id])
    assert settings.logit_bias == {tokenizer.pad_id: -100.0} and settings.logprobs == 0
    assert model.engine.settings["dtype"] == "float32"
    assert model.engine.settings["logprobs_mode"] == "raw_logprobs"


@pytest.mark.usefixtures("installed")
def test_published_weights_reach_the_engine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.get", lambda packed: packed)
    actor, trained = SamplingActor(from_folder(folder), 1), load_model(folder)
    layout = actor.start()
    assert layout == Layout.of(trained)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    task = Task(0, 0, 0, 1, 0, Sampling(), (), 4, (Continuation([1, 20], None, 9, 5),))
    sampled = actor.sample(task, [pack(named_parameters(trained), layout)])
    expected = sample_task(trained, Tokenizer.load(folder), task)
    assert sampled.turns[0].ids == expected[0].ids and sampled.version == 1
    assert sampled.turns[0].logprobs == pytest.approx(expected[0].logprobs, abs=1e-5)
    assert actor._model.engine.resets == 1


@pytest.mark.usefixtures("installed")
def test_what_it_cannot_tell_is_refused(folder: Path) -> None:
    model, tokenizer = from_folder(folder)()
    sampler = VllmSampler(model, tokenizer, capacity=20)
    for request in (Request([1], 4, Sampling(0.7)), Request([1], 4, regex="a+")):
        with pytest.raises(ConfigError, match="draws at temperature 1 from all tokens"):
            sampler.submit(request)
    with pytest.raises(CodexRayError, match="has 20 tokens and the model takes 20"):
        sampler.submit(Request([1] * 20, 4))
    model.engine.cut = 1
    sampler.submit(Request([1, 30], 6, seed=2**63 + 5))
    with pytest.raises(CodexRayError, match=r"vLLM ended a completion after \d tokens \(stop\)"):
        sampler.step()
    assert model.engine.asked[0].seed == 5  # what a generator takes
