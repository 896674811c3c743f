"""What a run may begin from."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from codex_ray.config.model import Residual
from codex_ray.errors import CodexRayError
from codex_ray.model.upcycle import upcycled
from codex_ray.tokenizer import Tokenizer
from codex_ray.train.start import start_config, start_model
from tests.unit.model.families import other
from tests.unit.model.small import VOCABULARY, build


def pieces(count: int) -> Tokenizer:
    """What is looked at of a tokenizer here."""
    return cast(Tokenizer, SimpleNamespace(vocabulary_size=count, digest=f"of {count}"))


def test_an_upcycled_model_can_be_trained_on(tmp_path: Path) -> None:
    ours = upcycled(other("qwen2"), Residual(streams=2))
    ours.save_pretrained(tmp_path)
    config = start_config(str(tmp_path), pieces(VOCABULARY - 2), 64)
    started = start_model(str(tmp_path), config, resumed=False)
    assert started.training
    weights = ours.state_dict()
    assert all(value.equal(weights[name]) for name, value in started.state_dict().items())
    again = start_model("gone", config, resumed=True)
    assert {name: value.shape for name, value in again.state_dict().items()} == {
        name: value.shape for name, value in weights.items()
    }


def test_models_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    other("llama").save_pretrained(tmp_path / "llama")
    with pytest.raises(CodexRayError, match=r"is a llama model; codex-ray upcycle"):
        start_config(str(tmp_path / "llama"), pieces(VOCABULARY), 64)
    build().save_pretrained(tmp_path / "ours")
    with pytest.raises(CodexRayError, match=r"takes 64 positions and the corpus has rows of 128"):
        start_config(str(tmp_path / "ours"), pieces(VOCABULARY), 128)
    with pytest.raises(CodexRayError, match="another tokenizer than the corpus"):
        start_config(str(tmp_path / "ours"), pieces(VOCABULARY + 1), 64)
    with pytest.raises(CodexRayError, match="does not exist"):
        start_config(str(tmp_path / "none"), pieces(VOCABULARY), 64)
