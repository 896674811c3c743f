"""Tasks on real models: tokens are continued and never encoded again, and weights are swapped exactly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from codex_ray.config.common import Device
from codex_ray.config.train import Lora
from codex_ray.errors import CodexRayError
from codex_ray.model import load_model
from codex_ray.model.adapter import with_adapters
from codex_ray.rollout.actor import FromFolder, SamplingActor, sample_task
from codex_ray.rollout.episode import Continuation, Task
from codex_ray.rollout.layout import Layout
from codex_ray.rollout.sampling import Sampling
from codex_ray.rollout.weights import checksum, named_parameters, pack, swap
from codex_ray.tokenizer import Tokenizer
from tests.unit.rollout.models import POSITIONS, llama, mhc, train_small_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train_small_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def task(*continuations: Continuation, turn: int = 0, stop: tuple[str, ...] = (), slots: int = 4) -> Task:
    return Task(0, 0, turn, 0, 0, Sampling(), stop, slots, continuations)


def test_a_later_turn_continues_the_very_ids(tokenizer: Tokenizer) -> None:
    model = llama(tokenizer.vocabulary_size).eval()
    first = [Continuation([1, 20 + place], None, 30, place) for place in range(3)]
    turns = sample_task(model, tokenizer, task(*first, stop=("e",)))
    later = [
        Continuation([*one.ids, *turn.ids], "def x", 20, 50 + place)
        for place, (one, turn) in enumerate(zip(first, turns, strict=True))
    ]
    second = sample_task(model, tokenizer, task(*later, turn=1, stop=("e",)))
    for one, turn in zip(later, second, strict=True):
        assert turn.observation_ids == tokenizer.encode("def x") and turn.observation == "def x"
        whole = torch.tensor([[*one.ids, *turn.observation_ids, *turn.ids]])
        logprobs = model(whole).logits[0].log_softmax(-1)
        start = len(one.ids) + len(turn.observation_ids)
        expected = [logprobs[start - 1 + place, token].item() for place, token in enumerate(turn.ids)]
        assert turn.logprobs == pytest.approx(expected, abs=1e-5)
        assert turn.written == tokenizer.decode(turn.ids)
        assert turn.written.startswith(turn.text) and "e" not in turn.text


def test_a_task_has_the_same_result_each_time_and_its_rows_their_own_seeds(tokenizer: Tokenizer) -> None:
    model = mhc(tokenizer.vocabulary_size).eval()
    asked = task(*(Continuation([1, 30], None, 12, seed) for seed in (1, 2, 1)), slots=2)
    once, again = (sample_task(model, tokenizer, asked) for _ in range(2))
    assert once == again
    assert once[0].ids == once[2].ids != once[1].ids


def test_turns_without_room_are_empty(tokenizer: Tokenizer) -> None:
    model = llama(tokenizer.vocabulary_size).eval()
    told = len(tokenizer.encode("def x"))
    rows = [
        Continuation([1, 30], "def x", told, 1),
        Continuation([1, 30], "def x", told + 1, 1),
        Continuation([1] + [30] * (POSITIONS - 1 - told), "def x", 60, 1),
    ]
    turns = sample_task(model, tokenizer, task(*rows, turn=1))
    assert [len(turn.ids) for turn in turns] == [0, 1, 0]
    assert [turn.finish_reason for turn in turns] == ["length"] * 3
    assert turns[0].observation_ids == [] and len(turns[1].observation_ids) == told
    assert sample_task(model, tokenizer, task(rows[0], turn=1)) == [turns[0]]


def test_a_first_prompt_that_the_model_cannot_continue_is_an_error(tokenizer: Tokenizer) -> None:
    model = llama(tokenizer.vocabulary_size).eval()
    with pytest.raises(CodexRayError, match="prompt 1 has 64 tokens"):
        sample_task(model, tokenizer, task(Continuation([1] * POSITIONS, None, 8, 1)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_swapped_weights_are_those_published(tokenizer: Tokenizer, dtype: torch.dtype) -> None:
    trained, sampling = mhc(tokenizer.vocabulary_size), mhc(tokenizer.vocabulary_size).to(dtype)
    before = {name: one.data_ptr() for name, one in sampling.named_parameters()}
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    packed = pack(named_parameters(trained), Layout.of(sampling))
    for array in packed.arrays.values():
        array.setflags(write=False)  # as the object store hands them out
    assert swap(sampling, packed) == packed.checksum
    for name, one in sampling.named_parameters():
        assert torch.equal(one, trained.get_parameter(name).to(dtype)) and one.data_ptr() == before[name]


def test_checksums_differ_where_names_values_or_places_do() -> None:
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    flipped = base.clone()
    flipped.view(torch.int32)[2, 3] ^= 1
    same = {"a": base, "b": base.sin()}
    others: list[dict[str, Any]] = [
        {"a": flipped, "b": base.sin()},
        {"a": base.flip(0), "b": base.sin()},
        {"a": base.sin(), "b": base},
        {"b": base, "c": base.sin()},
        {"a": base},
    ]
    found = [checksum(one) for one in (same, *others)]
    assert checksum(dict(reversed(same.items()))) == found[0]
    assert len(set(found)) == len(found) and all(0 <= one < 1 << 64 for one in found)
    assert checksum({"a": torch.tensor(1.0, dtype=torch.bfloat16)}) != checksum({"a": torch.tensor(1.0)})


def test_weights_of_another_model_are_refused(tokenizer: Tokenizer) -> None:
    model = llama(tokenizer.vocabulary_size)
    layout = Layout.of(model)
    weight = model.model.norm.weight
    with pytest.raises(CodexRayError, match=r"did you mean 'model\.norm\.weight'"):
        pack({"model.norm.weigth": weight}, layout)
    with pytest.raises(CodexRayError, match=r"model.norm.weight is \[3\] where it is trained and \[32\]"):
        pack({"model.norm.weight": weight[:3]}, layout)
    with pytest.raises(CodexRayError, match="no weights"):
        pack({}, layout)


def test_damaged_weights_are_told(tokenizer: Tokenizer) -> None:
    model = llama(tokenizer.vocabulary_size)
    packed = pack(named_parameters(model), Layout.of(model))
    damaged = {name: array.copy() for name, array in packed.arrays.items()}
    damaged["model.norm.weight"] ^= np.uint8(1)
    with pytest.raises(CodexRayError, match="is damaged"):
        swap(model, replace(packed, arrays=damaged))


def test_an_actor_as_built_samples_as_its_model(tokenizer: Tokenizer, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    actor = SamplingActor(lambda: (llama(tokenizer.vocabulary_size).eval(), tokenizer), 1)
    try:
        layout = actor.start()
    finally:
        torch.set_num_threads(before)
    asked = task(Continuation([1, 30], None, 8, 1))
    sampled = actor.sample(asked, [])
    assert layout == Layout.of(llama(tokenizer.vocabulary_size))
    assert sampled.turns == sample_task(llama(tokenizer.vocabulary_size).eval(), tokenizer, asked)
    assert sampled.version == -1 and sampled.tokens == len(sampled.turns[0].ids) and sampled.seconds > 0


def test_an_adapter_alone_is_enough_to_follow_a_trainer(tokenizer: Tokenizer, tmp_path: Path) -> None:
    llama(tokenizer.vocabulary_size).save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    lora = Lora(rank=2, targets=["q_proj", "v_proj"])
    compute = Device(device="cpu", dtype="float32")
    sampling, _ = FromFolder(str(tmp_path), compute, lora=lora)()
    training = with_adapters(load_model(tmp_path), lora, seed=4)
    asked = task(Continuation([1, 30], None, 8, 1))
    asbuilt = sample_task(sampling, tokenizer, asked)
    # Without adapters the weights are packed, which rounds otherwise.
    (bare,), (built,) = sample_task(load_model(tmp_path), tokenizer, asked), asbuilt
    assert bare.ids == built.ids and bare.logprobs == pytest.approx(built.logprobs, abs=1e-5)
    with torch.no_grad():
        for parameter in named_parameters(training, only_trained=True).values():
            parameter.add_(torch.randn_like(parameter))
    published = pack(named_parameters(training, only_trained=True), Layout.of(sampling))
    assert published.bytes < pack(named_parameters(training), Layout.of(sampling)).bytes / 4
    swap(sampling, published)
    found = sample_task(sampling, tokenizer, asked)
    assert found == sample_task(training, tokenizer, asked) != asbuilt
