from __future__ import annotations

from pathlib import Path

import pytest

from codex_ray.config.train import Checkpoints
from codex_ray.errors import CodexRayError
from codex_ray.train.checkpoint import CheckpointFolder, damage, hash_share


def commit(folder: CheckpointFolder, step: int, loss: float | None = None) -> Path:
    staging = folder.staging(step)
    (staging / "engine").mkdir(parents=True)
    for name in ("engine/a.pt", "engine/b.pt", "random_0.pt"):
        (staging / name).write_bytes(f"{name} at {step}".encode() * 100)
    hashes = hash_share(staging, 0, 2) | hash_share(staging, 1, 2)
    return folder.commit(step, hashes, world_size=2, validation_loss=loss)


def test_newest_sound_is_the_newest(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    for step in (5, 10, 15):
        commit(folder, step)
    found = folder.newest_sound(pytest.fail)
    assert found is not None and (found.step, found.world_size) == (15, 2)
    assert (tmp_path / "latest").read_text() == "step_00000015\n" and not (tmp_path / "latest").is_symlink()


@pytest.mark.parametrize("harm", ["flip", "truncate", "delete", "manifest"])
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
    (folder.staging(10) / "engine").mkdir(parents=True)
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
    folder.prune(Checkpoints(keep_last=2, keep_best=True))
    assert sorted(path.name for path in tmp_path.glob("step_*")) == [
        "step_00000010",
        "step_00000020",
        "step_00000025",
    ]
    folder.prune(Checkpoints(keep_last=1, keep_best=False))
    assert [path.name for path in tmp_path.glob("step_*")] == ["step_00000025"]


def test_prune_keeps_every_so_many_for_ever(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    settings = Checkpoints(keep_last=1, keep_best=False, keep_every=10)
    for step in range(5, 40, 5):
        commit(folder, step)
        folder.prune(settings)
    assert sorted(int(path.name[5:]) for path in tmp_path.glob("step_*")) == [10, 20, 30, 35]


def test_going_back_takes_the_newest_regular_checkpoint(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    assert folder.back(5) == 0
    commit(folder, 7)
    assert folder.back(5) == 7  # there is no other
    for step in (10, 15, 18):
        commit(folder, step)
    assert folder.back(5) == 15
    assert sorted(int(path.name[5:]) for path in tmp_path.glob("step_*")) == [7, 10, 15]
    assert folder.back(7) == 15  # saved at another pace: the newest, not one far behind


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    manifest = commit(folder, 5) / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format_version": 1', '"format_version": 99'))
    with pytest.raises(CodexRayError, match="format 99"):
        folder.newest_sound(pytest.fail)
