"""Fine-tuning through the whole stack: examples to a model folder, all weights or adapters, and resumed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from codex_ray.config.common import Device
from codex_ray.config.corpus import Tokenizer as Train
from codex_ray.config.finetune import Examples, Finetune
from codex_ray.config.model import Model, Residual
from codex_ray.config.train import Checkpoints, DeepSpeed, Lora, Optimizer, Schedule, Training, Validation
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.model import build_model, load_model
from codex_ray.tokenizer import Tokenizer, train_tokenizer
from codex_ray.train.finetune import finetune
from tests.integration.training import QUIET, TWO_WORKERS, assert_same_end, losses

LENGTH, STEPS = 64, 8
PAIRS = [(f"def f{i}(x):", f"    return {i % 7} * x\n") for i in range(120)]
CHATS = [
    {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]}
    for prompt, response in PAIRS
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(
        [prompt + response for prompt, response in PAIRS] * 10, Train(vocabulary_size=300), folder, 1
    )
    return folder


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Path:
    """A decoder of this project with four streams, fresh."""
    folder, loaded = tmp_path_factory.mktemp("ours"), Tokenizer.load(tokenizer)
    shape = Model(
        hidden_size=32, intermediate_size=64, layers=2, heads=4, key_value_heads=2, head_size=8,
        residual=Residual(streams=4),
    )  # fmt: skip
    model = build_model(
        shape, vocabulary_size=loaded.vocabulary_size, sequence_length=LENGTH, seed=1,
        special_ids=loaded.special_ids,
    )  # fmt: skip
    model.save_pretrained(folder)
    loaded.save(folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Path:
    """A small model of the Llama family, fresh, with a tokenizer that Transformers made ours into."""
    folder, loaded = tmp_path_factory.mktemp("llama"), Tokenizer.load(tokenizer)
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=loaded.vocabulary_size, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=LENGTH, bos_token_id=1,
        eos_token_id=2, pad_token_id=3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    loaded.save(folder)
    (folder / "tokenizer.model").unlink()
    return folder


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "chats.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in CHATS))
    return file


def settings(model: Path, data: Path, runs: Path, name: str, **changes: Any) -> Finetune:
    made = Finetune(
        model=str(model), data=Examples(path=str(data), validation=0.1), runs=str(runs), name=name,
        stream="direct", resume="auto", compute=Device(device="cpu", dtype="float32"),
        optimizer=Optimizer(learning_rate=3e-3, weight_decay=0.0), schedule=Schedule(warmup_steps=2),
        deepspeed=DeepSpeed(stage=2), train=Training(steps=STEPS, batch_tokens=4 * LENGTH),
        checkpoints=Checkpoints(every=3), validation=Validation(every=4, rows=8), cluster=TWO_WORKERS,
        track=QUIET,
    )  # fmt: skip
    return replace(made, **changes)


@pytest.fixture(scope="module")
def tuned(ours: Path, chats: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    result = finetune(settings(ours, chats, tmp_path_factory.mktemp("tuned"), "tuned"))
    assert result.completed and result.figures["validation_loss"] < losses(result.run)[0]
    return result.run


def test_a_tuned_model_is_a_model_folder_with_its_template(tuned: Path, ours: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tuned / "model")
    assert not torch.equal(model.lm_head.weight, load_model(ours).lm_head.weight)
    words = AutoTokenizer.from_pretrained(tuned / "model")
    assert words.apply_chat_template(
        CHATS[0]["messages"][:1], add_generation_prompt=True, tokenize=False
    ) == ("<s>user\ndef f0(x):</s><s>assistant\n")


@pytest.mark.verify
def test_a_tuning_that_is_stopped_ends_as_one_that_is_not(
    tuned: Path, ours: Path, chats: Path, tmp_path: Path
) -> None:
    wanted = settings(ours, chats, tmp_path, "parts")
    first = finetune(replace(wanted, train=replace(wanted.train, stop_after=5)))
    assert (first.completed, first.step) == (False, 5)
    assert_same_end(finetune(wanted).run, tuned)
    chats_now = tmp_path / "chats.jsonl"
    chats_now.write_text(chats.read_text() + json.dumps(CHATS[0]) + "\n")
    with pytest.raises((CodexRayError, ConfigError), match=r"data\.path|have changed since"):
        finetune(replace(wanted, data=replace(wanted.data, path=str(chats_now))))


@pytest.mark.verify
@pytest.mark.parametrize("family", ["ours", "llama"])
def test_adapters_move_and_the_base_does_not(
    family: str, chats: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    base = request.getfixturevalue(family)
    lora = Lora(rank=4, alpha=8.0)
    wanted = settings(base, chats, tmp_path, "adapter", lora=lora, deepspeed=DeepSpeed(stage=3))
    run = finetune(wanted).run
    assert losses(run)[-1] < losses(run)[0]
    adapter = load_file(run / "model" / "adapter_model.safetensors")
    assert adapter and all("lora_" in name for name in adapter)
    moved = [name for name, value in adapter.items() if "lora_B" in name and bool(value.any())]
    assert len(moved) == sum("lora_B" in name for name in adapter)
    again = replace(wanted, name="merged", lora=replace(lora, merge=True))
    merged = AutoModelForCausalLM.from_pretrained(finetune(again).run / "model").eval()
    ids = torch.arange(4, 30)[None]
    with torch.no_grad():
        expected = load_model(run / "model")(ids).logits
        torch.testing.assert_close(merged(ids).logits, expected, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(expected, load_model(base)(ids).logits, atol=1e-3)


def test_what_cannot_be_tuned_is_said_in_a_sentence(ours: Path, chats: Path, tmp_path: Path) -> None:
    wanted = settings(ours, chats, tmp_path, "wrong")
    with pytest.raises(CodexRayError, match=r"lora\.targets=\['nowhere'\] fits no module of this model"):
        finetune(replace(wanted, lora=Lora(rank=2, targets=["nowhere"])))
    longer = replace(wanted, name="long", data=replace(wanted.data, sequence_length=128))
    with pytest.raises(CodexRayError, match=f"data.sequence_length=128 is more than the {LENGTH} positions"):
        finetune(longer)
    many = replace(wanted, name="many", train=replace(wanted.train, batch_tokens=2000 * LENGTH))
    with pytest.raises(CodexRayError, match="one batch takes 2000"):
        finetune(many)
