"""Inspecting: figures that can be counted another way."""

from __future__ import annotations

from pathlib import Path

import pytest

from codex_ray.config.use import Inspect
from codex_ray.errors import CodexRayError
from codex_ray.model import flops_per_token
from codex_ray.model.inspect import inspect, inspected
from tests.unit.model.families import other
from tests.unit.model.small import build


def test_parts_add_up_and_memory_is_sixteen_bytes_per_parameter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = build("mhc")
    model.save_pretrained(tmp_path)
    found = inspect(Inspect(model=str(tmp_path), sequence_length=32, workers=4))
    assert found.parameters == sum(found.parts.values()) == model.num_parameters()
    assert sum(found.roles.values()) == found.parameters
    # Weights, gradients, masters (at stage 0 in fp32 none) and Adam's moments: 4 + 4 + 4 + 8, 2 + 2 + 4 + 8.
    count = found.parameters
    assert found.memory["float32"] == {0: 16 * count, 1: 11 * count, 2: 8 * count, 3: 5 * count}
    assert found.memory["bfloat16"] == {0: 16 * count, 1: 7 * count, 2: 5.5 * count, 3: 4 * count}
    assert found.cache_bytes == 3 * 2 * 2 * 8 * 2  # layers, keys and values, heads, head size, bytes
    assert found.training_flops == flops_per_token(model.config, 32) == 3 * found.generation_flops
    printed = capsys.readouterr().out
    assert "layers.attention_mixer" in printed
    assert f"{count:,} parameters" in printed


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_other_families_are_inspected_without_their_weights(family: str, tmp_path: Path) -> None:
    model = other(family)
    model.config.save_pretrained(tmp_path)
    found = inspected(model.config, name=family, sequence_length=16, workers=1)
    assert found.parameters == model.num_parameters()
    assert inspect(Inspect(model=str(tmp_path))).sequence_length == 64


def test_no_model_and_a_damaged_configuration(tmp_path: Path) -> None:
    with pytest.raises(CodexRayError, match="does not exist"):
        inspect(Inspect(model=str(tmp_path / "none")))
    (tmp_path / "config.json").write_text('{"model_type": "codex_ray", "head_dim": 7}')
    with pytest.raises(CodexRayError, match=r"cannot be loaded \(.*head_dim must be even"):
        inspect(Inspect(model=str(tmp_path)))
