"""Building, saving and loading: ours and other families, and what each bad input says."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from codex_ray.config.use import Export
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.model import (
    CodexRayForCausalLM,
    flops_per_token,
    load_model,
    mixing_gains,
    optimizer_role,
    resolve_model_folder,
)
from codex_ray.model.export import export
from tests.unit.model.small import KINDS, SPECIAL_IDS, build, settings, stir, tokens


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    stir(build("mhc")).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_building_is_deterministic_and_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    one, again, other = build(seed=1), build(seed=1), build(seed=2)
    assert torch.equal(before, torch.get_rng_state())
    assert all(
        torch.equal(left, right) for left, right in zip(one.parameters(), again.parameters(), strict=True)
    )
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)
    assert {parameter.dtype for parameter in one.parameters()} == {torch.float32}
    assert one.generation_config.eos_token_id == SPECIAL_IDS["eos"]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"heads": 4, "key_value_heads": 3}, "multiple"),
        ({"head_size": 7}, "even"),
        ({"kind": "mhc_permutation", "streams": 6}, "permutation"),
        ({"rope_scaling": {"rope_type": "yam", "factor": 2.0}}, "must be one of default, linear"),
        ({"rope_scaling": {"rope_type": "linear"}}, "Missing required keys"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0.5}}, "factor field must be"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0, "fctor": 1}}, "Unrecognized keys"),
    ],
)
def test_impossible_shapes_are_refused_in_one_sentence(changes: dict[str, object], word: str) -> None:
    with pytest.raises(ConfigError, match=word) as caught:
        build(**changes)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_no_streams_are_refused_by_the_configuration() -> None:
    from codex_ray.model import CodexRayConfig

    with pytest.raises(Exception, match="residual_streams must be at least 1"):
        CodexRayConfig(residual_streams=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False])
def test_saving_and_loading_keeps_everything(kind: str, tied: bool, tmp_path: Path) -> None:
    model = stir(build(kind, tie_embeddings=tied, residual={"exit": "learned"}))
    for name, buffer in model.named_buffers():
        if name.endswith("bias_constant"):
            buffer += 0.125  # what a file holds counts, not what a fresh model would have
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert isinstance(loaded, CodexRayForCausalLM)
    assert not loaded.training
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    assert torch.equal(model(tokens()).logits, loaded(tokens()).logits)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert {name: value for name, value in loaded.config.to_diff_dict().items() if name in stored} == stored


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixers_stay_fp32_in_a_model_of_lower_precision(folder: Path, dtype: str) -> None:
    model = load_model(folder, dtype=dtype)
    wanted = getattr(torch, dtype)
    for name, value in model.state_dict().items():
        assert value.dtype == (torch.float32 if "mixer" in name else wanted), name
    exact = load_model(folder)(tokens()).logits
    assert (model(tokens()).logits.float() - exact).norm() < 0.05 * exact.norm()


def test_transformers_loads_it_without_remote_code(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model) is CodexRayForCausalLM


def test_a_run_folder_means_its_model(folder: Path) -> None:
    assert resolve_model_folder(folder.parent) == folder
    assert resolve_model_folder(str(folder)) == folder
    assert isinstance(load_model(folder.parent), CodexRayForCausalLM)


def sentence(path: Path | str, **options: object) -> str:
    with pytest.raises(CodexRayError) as caught:
        load_model(path, **options)  # type: ignore[arg-type]
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_missing_and_unfinished_folders(tmp_path: Path) -> None:
    assert "does not exist" in sentence(tmp_path / "nowhere")
    assert "does not exist" in sentence("./nowhere/at/all")
    (tmp_path / "empty").mkdir()
    assert "no model" in sentence(tmp_path / "empty")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    assert "no model yet" in sentence(tmp_path / "run")


def test_a_name_that_is_neither_a_folder_nor_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "neither a folder here nor" in sentence("nobody/no-such-model")


def rewrite(folder: Path, change: str) -> None:
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp_mixer.phi"
    if change == "missing":
        del weights[name]
    elif change == "shape":
        weights[name] = weights[name][:, :-1].contiguous()
    elif change == "extra":
        weights["model.layers.7.surprise"] = torch.zeros(2)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ("missing", "missing: model.layers.1.mlp_mixer.phi"),
        ("shape", "mismatched: model.layers.1.mlp_mixer.phi"),
        ("extra", "surprise"),
    ],
)
def test_weights_that_do_not_fit(folder: Path, change: str, word: str) -> None:
    rewrite(folder, change)
    text = sentence(folder)
    assert word in text
    assert str(folder) in text


def test_damaged_files(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert str(folder) in sentence(folder)
    weights.unlink()
    assert str(folder) in sentence(folder)
    (folder / "config.json").write_text("{")
    assert str(folder) in sentence(folder)


def test_an_impossible_stored_configuration(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"residual_kind": "mcr"}))
    assert "residual_kind" in sentence(folder)


def test_devices_and_precisions_that_cannot_be_had(folder: Path) -> None:
    assert "dtype" in sentence(folder, dtype="float8")
    assert "revision" in sentence(folder, revision="v1")
    if not torch.cuda.is_available():
        assert "device=cpu" in sentence(folder, device="cuda")
    assert load_model(folder, device="auto", dtype="auto").dtype in (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_has_its_role(kind: str) -> None:
    model = build(kind, tie_embeddings=False, residual={"exit": "learned"})
    for name, value in model.named_parameters():
        role = optimizer_role(name, tuple(value.shape))
        if "mixer" in name:
            assert role == "mixer", name
        elif name in ("model.embed_tokens.weight", "lm_head.weight"):
            assert role == "embedding"
        elif "norm" in name:
            assert role == "vector"
        else:
            assert role == "matrix", name
            assert ".attention." in name or ".mlp." in name


def test_flops_agree_with_a_count_of_parameters() -> None:
    plain = build("plain")
    embedding = plain.lm_head.weight.numel()
    vectors = sum(value.numel() for value in plain.parameters() if value.dim() < 2)
    matrices = plain.num_parameters() - vectors  # tied: the embedding is there once, as the output
    attention = 3 * 2 * 4 * 8 * (64 + 1) / 2
    assert flops_per_token(plain.config, 64) == pytest.approx(6 * (matrices + attention))
    untied = build("plain", tie_embeddings=False)
    assert untied.num_parameters() == plain.num_parameters() + embedding
    assert flops_per_token(untied.config, 64) == flops_per_token(plain.config, 64)
    mixed = build("mhc")
    projections = sum(value.numel() for name, value in mixed.named_parameters() if name.endswith("phi"))
    assert projections == 6 * 96 * 24
    streams = 6 * 24 * (4 + 4 + 16)
    extra = flops_per_token(mixed.config, 64) - flops_per_token(plain.config, 64)
    assert extra == pytest.approx(6 * (projections + streams))


def test_mixers_have_the_papers_number_of_parameters() -> None:
    model, plain = build("mhc"), build("plain")
    assert model.num_parameters() - plain.num_parameters() == 6 * (96 * 24 + 24 + 3)


def test_gains_of_the_composite() -> None:
    ids = tokens(2, 10)
    start = mixing_gains(build("mhc"), ids)
    assert set(start) == {"row_gain", "column_gain", "diagonal", "stream_spread"}
    assert start["row_gain"] == pytest.approx(1, abs=1e-4)
    assert start["diagonal"] == pytest.approx(1 / (1 + 3 * math.exp(-4)), abs=1e-2)
    assert mixing_gains(build("identity"), ids)["diagonal"] == 1
    assert mixing_gains(build("plain"), ids) == {}
    assert mixing_gains(build("mhc", streams=1), ids) == {}
    loose = stir(build("hc", layers=6))
    assert mixing_gains(loose, ids)["row_gain"] > 1.5
    assert mixing_gains(stir(build("mhc_permutation")), ids)["column_gain"] == pytest.approx(1, abs=1e-5)


def test_settings_reach_the_configuration() -> None:
    model = build(settings("mhc").residual.kind, rope_theta=5000.0, max_positions=33, norm_eps=1e-5)
    assert model.config.rope_parameters == {"rope_type": "default", "rope_theta": 5000.0}
    assert model.config.max_position_embeddings == 33
    assert model.model.norm.eps == 1e-5


def test_a_missing_shard_is_named_with_how_to_get_it(folder: Path, tmp_path: Path) -> None:
    load_model(folder).save_pretrained(tmp_path / "sharded", max_shard_size=20_000)
    shards = sorted((tmp_path / "sharded").glob("model-*.safetensors"))
    shards[1].unlink()
    with pytest.raises(CodexRayError, match=rf"lacks {shards[1].name}; fetch it whole again \(hf download"):
        load_model(tmp_path / "sharded")


def test_pickles_are_refused_unless_asked_for(folder: Path, tmp_path: Path) -> None:
    model = load_model(folder)
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    model.config.save_pretrained(pickled)
    torch.save(model.state_dict(), pickled / "pytorch_model.bin")
    with pytest.raises(CodexRayError, match=r"are pickles; codex-ray export .* allow_pickle=true"):
        load_model(pickled)
    assert torch.equal(load_model(pickled, allow_pickle=True)(tokens()).logits, model(tokens()).logits)
    exported = export(Export(model=str(pickled), output=str(tmp_path / "safe"), allow_pickle=True))
    assert torch.equal(load_model(exported.folder)(tokens()).logits, model(tokens()).logits)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("ran"),)  # type: ignore[return-value]


def test_a_pickle_that_runs_code_is_never_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    load_model(folder).config.save_pretrained(tmp_path)
    torch.save({"lm_head.weight": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CodexRayError, match="cannot be loaded"):
        load_model(tmp_path, allow_pickle=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("header", [2**62, 10**6, 3])
def test_headers_that_lie_are_refused(folder: Path, header: int) -> None:
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(header.to_bytes(8, "little") + data[8:])
    with pytest.raises(CodexRayError, match="cannot be loaded"):
        load_model(folder)
