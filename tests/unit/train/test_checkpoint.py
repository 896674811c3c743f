from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from codex_ray.config.train import Checkpoints
from codex_ray.errors import CodexRayError
from codex_ray.files import sha256_of
from codex_ray.train.checkpoint import CheckpointFolder, Entry, damage, surplus, unjudged


def commit(folder: CheckpointFolder, step: int, loss: float | None = None) -> Path:
    files = folder.staging(step, "test") / "files"
    (files / "engine").mkdir(parents=True)
    names = ("engine/a.pt", "engine/b.pt", "random_0.pt")
    for name in names:
        (files / name).write_bytes(f"{name} at {step}".encode() * 100)
    hashes = {name: sha256_of(files / name) for name in names}
    figures = {"loss": 5.0 - step / 100, "validation_loss": loss}
    return folder.commit(files, {"step": step, "world_size": 2, "figures": figures, "files": hashes})


def test_newest_sound_is_the_newest(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    for step in (5, 10, 15):
        commit(folder, step)
    found = folder.newest_sound(pytest.fail)
    assert found is not None and (found.step, found.world_size) == (15, 2)
    assert (tmp_path / "latest").read_text() == "step_00000015\n" and not (tmp_path / "latest").is_symlink()


@pytest.mark.parametrize("harm", ["flip", "truncate", "delete", "manifest", "no manifest", "figure"])
def test_a_damaged_newest_is_set_aside_and_named(tmp_path: Path, harm: str) -> None:
    folder = CheckpointFolder(tmp_path)
    commit(folder, 5)
    newest = commit(folder, 10)
    victim = newest / "engine/b.pt"
    data = bytearray(victim.read_bytes())
    data[7] ^= 1
    match harm:
        case "flip":
            victim.write_bytes(data)
        case "truncate":
            victim.write_bytes(data[:50])
        case "delete":
            victim.unlink()
        case "no manifest":
            (newest / "manifest.json").unlink()
        case "figure":
            manifest = (newest / "manifest.json").read_text()
            (newest / "manifest.json").write_text(manifest.replace('"world_size": 2', '"world_size": 3'))
        case _:
            (newest / "manifest.json").write_text("{")
    notes: list[str] = []
    found = folder.newest_sound(notes.append)
    assert found is not None and found.step == 5
    assert len(notes) == 1 and "step_00000010" in notes[0]
    assert folder.newest_sound(pytest.fail) == found


def test_leftovers_of_an_interrupted_save_are_removed(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    commit(folder, 5)
    (folder.staging(10, "3f") / "files" / "engine").mkdir(parents=True)
    found = folder.newest_sound(pytest.fail)
    assert found is not None and found.step == 5
    assert not list(tmp_path.glob(".step*"))


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    commit(folder, 5, 2.0)
    assert damage(commit(folder, 5, 1.0)) is None


def test_prune_keeps_the_last_and_the_best(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    for step, loss in ((5, 3.0), (10, 1.0), (15, None), (20, 2.0), (25, None)):
        commit(folder, step, loss)
    folder.prune(Checkpoints(keep_last=2))
    assert folder.steps() == [10, 20, 25]
    folder.prune(Checkpoints(keep_last=1, keep_best=0))
    assert folder.steps() == [25]
    assert not list(tmp_path.glob(".*.removed.partial"))


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"keep_best": 2}, [10, 20, 25]),
        ({"keep_best": 3, "best_mode": "max"}, [5, 10, 20, 25]),
        ({"keep_best": 1, "best_mode": "max"}, [5, 25]),
        ({"best_metric": "loss"}, [25]),
        ({"best_metric": "loss", "best_mode": "max", "keep_best": 2}, [5, 10, 25]),
        ({"best_metric": "unheard of"}, [25]),
    ],
)
def test_the_best_are_those_of_a_figure(changes: dict[str, Any], kept: list[int]) -> None:
    losses = {5: 3.0, 10: 1.0, 15: math.nan, 20: 2.0, 25: None}
    entries = [Entry(step, {"validation_loss": v, "loss": 5 - step / 100}) for step, v in losses.items()]
    gone = surplus(entries, Checkpoints(keep_last=1, **changes))
    assert sorted(losses.keys() - gone) == kept
    gone = surplus(entries, Checkpoints(keep_last=1, **changes), awaited={15, 30})
    assert sorted(losses.keys() - gone) == sorted({*kept, 15})  # it may turn out to be the best


def test_figures_that_come_later_than_their_checkpoints_count(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "checkpoints")
    folder.judge(5, {"evaluation/old": 0.1})
    for step in (5, 10, 15, 20):
        commit(folder, step)
    for step, value in ((10, 0.9), (15, 0.4)):
        folder.judge(step, {"evaluation/old": value})
    settings = Checkpoints(keep_last=1, best_metric="evaluation/old", best_mode="max")
    CheckpointFolder(folder.folder).prune(settings)  # as another start does
    assert folder.steps() == [10, 20]
    assert unjudged(Entry(20, {"loss": 1.0}), settings) is None
    assert unjudged(Entry(20, {"evaluation/new": 1.0}), settings) is not None


def test_a_figure_that_is_never_there_is_told() -> None:
    trained, validated = Entry(5, {"loss": 2.0}), Entry(10, {"loss": 2.0, "validation_loss": 3.0})
    assert unjudged(trained, Checkpoints()) is None  # only some steps are validated
    assert unjudged(validated, Checkpoints(best_metric="loss")) is None
    misspelt = Checkpoints(best_metric="validation_los")
    assert unjudged(validated, replace(misspelt, keep_best=0)) is None
    assert unjudged(validated, misspelt) == (
        "the checkpoint of step 10 has no figure validation_los for keep_best to go by; set "
        "checkpoints.best_metric to one of loss, validation_loss"
    )


def test_checkpoints_of_the_first_format_are_read_and_kept(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    for step, loss in ((5, 1.0), (10, 2.0), (15, 3.0)):
        path = commit(folder, step) / "manifest.json"
        files = json.loads(path.read_text())["files"]
        first = {"format_version": 1, "step": step, "world_size": 2, "validation_loss": loss, "files": files}
        path.write_text(json.dumps(first))
    found = folder.newest_sound(pytest.fail)
    assert found is not None and (found.step, found.world_size, found.compression) == (15, 2, "none")
    folder.prune(Checkpoints(keep_last=1))
    assert folder.steps() == [5, 15]


def test_prune_keeps_every_so_many_for_ever(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    settings = Checkpoints(keep_last=1, keep_best=0, keep_every=10)
    for step in range(5, 40, 5):
        commit(folder, step)
        folder.prune(settings)
    assert folder.steps() == [10, 20, 30, 35]


def test_going_back_takes_the_newest_regular_checkpoint(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    assert folder.back(5) == 0
    commit(folder, 7)
    assert folder.back(5) == 7  # there is no other
    for step in (10, 15, 18):
        commit(folder, step)
    assert folder.back(5) == 15
    assert folder.steps() == [7, 10, 15]
    assert folder.back(7) == 15  # saved at another pace: the newest, not one far behind


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    manifest = commit(folder, 5) / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format_version": 2', '"format_version": 99'))
    with pytest.raises(CodexRayError, match="format 99"):
        folder.newest_sound(pytest.fail)
