"""MLflow's registry, in its real SQLite store: what is put there loads with MLflow and works."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pandas
import pytest
import torch

from codex_ray.config.common import Mlflow
from codex_ray.errors import CodexRayError
from codex_ray.model import load_model
from codex_ray.model.reward import start_reward_model
from codex_ray.rollout.generate import generate, prompt_ids
from codex_ray.tokenizer import Tokenizer
from codex_ray.track import MlflowRun
from codex_ray.track.registered import registered_folder, registered_name
from tests.unit.rollout.models import mhc, train_small_tokenizer

PROMPTS = ["def main(", "import "]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "model"
    folder.mkdir()
    train_small_tokenizer(folder)
    mhc(Tokenizer.load(folder).vocabulary_size).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def store(model: Path) -> Iterator[tuple[MlflowRun, Any]]:
    """A run of a store, and the store's client."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "")  # so that what MLflow sets goes again
        patch.delenv("MLFLOW_TRACKING_URI")
        folder = model.parent / "first"
        folder.mkdir()
        run = MlflowRun(folder, Mlflow(), runs=model.parent)
        run.start("first", parameters={})
        yield run, mlflow.MlflowClient(tracking_uri=run.uri, registry_uri=run.uri)
        run.end()


def test_a_registered_model_loads_with_mlflow_and_completes(store: Any, model: Path) -> None:
    run, client = store
    told = [run.register("small", model), run.register("small", model)]
    assert [text.rsplit(" ", 1)[-1] for text in told] == ["models:/small/1", "models:/small/2"]
    version = client.get_model_version("small", "2")
    assert version.run_id == run.run_id and not list(model.parent.glob("first/.registered*"))
    place = Path(version.source.removeprefix("file://"))
    assert (place / "data" / "model" / "model.safetensors").is_file()
    mlflow.set_tracking_uri(run.uri)
    loaded = mlflow.pyfunc.load_model("models:/small/2")
    tokenizer = Tokenizer.load(model)
    ids = prompt_ids(tokenizer, PROMPTS)
    wanted = generate(load_model(model), ids, max_new_tokens=6, temperature=0.0, tokenizer=tokenizer)
    for given in (PROMPTS, pandas.DataFrame({"text": PROMPTS})):
        assert loaded.predict(given, params={"max_new_tokens": 6}) == [one.text for one in wanted]
    with pytest.raises(CodexRayError, match="one column"):
        loaded.predict(pandas.DataFrame({"text": PROMPTS, "more": PROMPTS}))


def test_a_registered_model_is_fetched_by_version_or_alias(
    store: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, client = store
    run.register("served", model)
    client.set_registered_model_alias("served", "champion", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    mlflow.set_tracking_uri(run.uri)
    folder = registered_folder("models:/served/champion")
    assert folder.name == "model" and (folder / "model.safetensors").is_file()
    stamp = (folder / "config.json").stat().st_ino
    for address in ("models:/served/1", "models:/served@champion"):
        assert registered_folder(address) == folder and (folder / "config.json").stat().st_ino == stamp
    assert registered_name("models:/served/1") == "served"
    assert load_model(folder).config.model_type == "codex_ray"
    for address in ("models:/served/9", "models:/served/nobody", "models:/unknown/1", "models:/served"):
        with pytest.raises(CodexRayError, match=r"models:/") as failure:
            registered_folder(address)
        assert "\n" not in str(failure.value)
    assert not list((tmp_path / ".cache" / "codex_ray" / "registered").glob(".partial*/*"))


def test_a_registered_reward_model_scores(store: Any, model: Path) -> None:
    run, _ = store
    judge = start_reward_model(model)
    torch.nn.init.ones_(judge.score.weight)
    folder = model.parent / "judge"
    judge.save_pretrained(folder)
    train_small_tokenizer(folder)
    assert "version 1 of judge" in run.register("judge", folder)
    mlflow.set_tracking_uri(run.uri)
    scores = mlflow.pyfunc.load_model("models:/judge/1").predict(PROMPTS)
    ids = prompt_ids(Tokenizer.load(folder), PROMPTS)
    with torch.inference_mode():
        assert scores == pytest.approx([float(judge(torch.tensor([one])).logits) for one in ids], rel=1e-5)


def test_what_cannot_be_registered_is_said(store: Any, model: Path, tmp_path: Path) -> None:
    run, _ = store
    assert "is not in MLflow's registry" in run.register("none", tmp_path / "nothing")
    off = MlflowRun(tmp_path, Mlflow(enabled=False), runs=tmp_path)
    assert off.register("none", model) is None
    assert json.loads((model / "config.json").read_text())
