"""Adapters by PEFT itself: on attention and feed-forward, mixers frozen or saved whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor

from codex_ray.config.use import Export
from codex_ray.errors import CodexRayError
from codex_ray.model import CodexRayForCausalLM, load_model, next_token_loss_sum
from codex_ray.model.export import export
from codex_ray.model.load import load_config
from tests.unit.model.families import other
from tests.unit.model.small import build, stir, tokens

MATRICES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
MIXERS = ["attention_mixer", "mlp_mixer"]
KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "all-linear": {"target_modules": "all-linear"},
    "mixers saved": {"modules_to_save": MIXERS},
}


def adapted(model: CodexRayForCausalLM, **changes: Any) -> PeftModel:
    torch.manual_seed(4)
    options: dict[str, Any] = {"task_type": "CAUSAL_LM", "r": 4, "target_modules": MATRICES}
    wrapped: PeftModel = get_peft_model(model, LoraConfig(**options | changes))
    return wrapped


def trained(model: PeftModel, steps: int = 4) -> list[float]:
    model.train()
    optimizer = torch.optim.Adam([value for value in model.parameters() if value.requires_grad], lr=2e-2)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = next_token_loss_sum(model, tokens())
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    model.eval()
    return losses


def state(model: CodexRayForCausalLM) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_train_save_load_and_merge(kind: str, tmp_path: Path) -> None:
    base = stir(build("mhc"))
    before, plain = state(base), base(tokens()).logits
    model = adapted(base, **KINDS[kind])
    torch.testing.assert_close(model(tokens()).logits, plain)
    losses = trained(model)
    assert losses[-1] < losses[0]
    got = model(tokens()).logits
    with model.disable_adapter():
        torch.testing.assert_close(model(tokens()).logits, plain)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert any("lora_A" in name for name in saved)
    # "all-linear" leaves the mixers alone: their projections are no linear modules.
    assert any("mixer" in name for name in saved) == (kind == "mixers saved")
    again = PeftModel.from_pretrained(stir(build("mhc")), tmp_path)
    torch.testing.assert_close(again(tokens()).logits, got)
    merged = again.merge_and_unload()
    assert type(merged) is CodexRayForCausalLM
    torch.testing.assert_close(merged(tokens()).logits, got, rtol=1e-4, atol=1e-4)
    if kind != "mixers saved":
        bare = model.unload()
        assert all(torch.equal(value, before[name]) for name, value in bare.state_dict().items())


def test_several_adapters_are_switched_and_joined(tmp_path: Path) -> None:
    model = adapted(stir(build("mhc")))
    trained(model)
    first = model(tokens()).logits
    model.add_adapter("second", LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "up_proj"]))
    model.set_adapter("second")
    trained(model, steps=2)
    second = model(tokens()).logits
    model.set_adapter("default")
    assert torch.equal(model(tokens()).logits, first)
    model.add_weighted_adapter(["default", "second"], [1.0, 0.0], "both", combination_type="linear")
    model.set_adapter("both")
    torch.testing.assert_close(model(tokens()).logits, first, rtol=1e-4, atol=1e-4)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(stir(build("mhc")), tmp_path / "second", adapter_name="second")
    torch.testing.assert_close(again(tokens()).logits, second)


def test_the_folder_of_an_adapter_finds_its_base(tmp_path: Path) -> None:
    stir(build("mhc")).save_pretrained(tmp_path / "base")
    base = CodexRayForCausalLM.from_pretrained(tmp_path / "base")
    model = adapted(base)
    trained(model, steps=2)
    model.save_pretrained(tmp_path / "adapter")
    again = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    torch.testing.assert_close(again(tokens()).logits, model(tokens()).logits)
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    assert torch.equal(again.generate(tokens(), **options), model.generate(tokens(), **options))


def test_checkpointing_changes_no_gradient_of_an_adapter() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = adapted(stir(build("mhc"))).train()
        if checkpointing:
            model.activation_checkpointing_enable()
            model.enable_input_require_grads()
        next_token_loss_sum(model, tokens()).backward()
        gradients.append([value.grad for value in model.parameters() if value.grad is not None])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """An adapter and the base that its folder names."""
    stir(build("mhc")).save_pretrained(tmp_path / "base")
    model = adapted(CodexRayForCausalLM.from_pretrained(tmp_path / "base"), modules_to_save=MIXERS)
    trained(model, steps=2)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapters_folder_means_its_base_with_it_merged(saved: Path, tmp_path: Path) -> None:
    expected = AutoPeftModelForCausalLM.from_pretrained(saved)(tokens()).logits
    model = load_model(saved)
    assert type(model) is CodexRayForCausalLM
    torch.testing.assert_close(model(tokens()).logits, expected, rtol=1e-4, atol=1e-4)
    assert load_config(saved).to_dict() == load_config(saved.parent / "base").to_dict()
    export(Export(model=str(saved), output=str(tmp_path / "whole")))
    torch.testing.assert_close(
        load_model(tmp_path / "whole")(tokens()).logits, expected, rtol=1e-4, atol=1e-4
    )
    half = load_model(saved, dtype="bfloat16")
    mixers = {value.dtype for name, value in half.named_parameters() if "mixer" in name}
    others = {value.dtype for name, value in half.named_parameters() if "mixer" not in name}
    assert (mixers, others) == ({torch.float32}, {torch.bfloat16})


def other_shape(adapter: Path) -> None:
    build("mhc", intermediate_size=48).save_pretrained(adapter.parent / "base")


def other_family(adapter: Path) -> None:
    shutil.rmtree(adapter.parent / "base")
    other("gpt2").save_pretrained(adapter.parent / "base")


def fewer_layers(adapter: Path) -> None:
    build("mhc", layers=2).save_pretrained(adapter.parent / "base")


def more_layers(adapter: Path) -> None:
    build("mhc", layers=4).save_pretrained(adapter.parent / "base")


def no_base(adapter: Path) -> None:
    shutil.rmtree(adapter.parent / "base")


def cut_short(adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:500])


def pickled(adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    torch.save(load_file(path), adapter / "adapter_model.bin")
    path.unlink()


def nameless(adapter: Path) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}))


def unknown_kind(adapter: Path) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "NO_SUCH"}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_shape, "does not fit its base model"),
        (other_family, "does not fit its base model"),
        (fewer_layers, "is in only one of them"),
        (more_layers, "is in only one of them"),
        (no_base, "was trained on .*base, which is not here"),
        (cut_short, "does not fit its base model"),
        (pickled, "has no adapter_model.safetensors"),
        (nameless, "does not name its base model"),
        (unknown_kind, "does not fit its base model"),
    ],
)
def test_an_adapter_that_cannot_be_used_is_named(
    change: Callable[[Path], None], words: str, saved: Path
) -> None:
    change(saved)
    with pytest.raises(CodexRayError, match=words) as caught:
        load_model(saved)
    assert str(saved) in str(caught.value) and "\n" not in str(caught.value)


def test_a_pickled_adapter_is_taken_where_it_is_asked_for(saved: Path) -> None:
    expected = load_model(saved)(tokens()).logits
    pickled(saved)
    assert torch.equal(load_model(saved, allow_pickle=True)(tokens()).logits, expected)


def test_a_prompt_is_no_change_of_weights(saved: Path, tmp_path: Path) -> None:
    base = CodexRayForCausalLM.from_pretrained(saved.parent / "base")
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    get_peft_model(base, config).save_pretrained(tmp_path / "prompt")
    with pytest.raises(CodexRayError, match="changes no weights"):
        load_model(tmp_path / "prompt")
