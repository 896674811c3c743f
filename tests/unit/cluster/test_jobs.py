from __future__ import annotations

from pathlib import Path

import pytest

from codex_ray.cluster import jobs
from codex_ray.config.compose import compose
from codex_ray.errors import CodexRayError


def write(path: Path, size: int = 10) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        stream.truncate(size)


def checkout(folder: Path) -> Path:
    for name in (
        "codex_ray/cli.py",
        "codex_ray/corpus/prepare.py",
        "jobs/pretrain.py",
        "configs/pretrain.yaml",
    ):
        write(folder / name)
    return folder


def test_code_travels_and_what_runs_wrote_stays(tmp_path):
    root = checkout(tmp_path / "here")
    left = (
        ".git/x",
        ".venv/lib/y",
        "runs/a/log",
        "corpus/b",
        "codex_ray/__pycache__/c.pyc",
        "codex_ray.egg-info/d",
    )
    for name in (*left, "mine/manifest.json", "mine/train/shard", "old/metrics.jsonl", "docs/_build/x.html"):
        write(root / name)
    write(root / "texts/a.txt")
    jobs._copy_checkout(root, tmp_path / "there")
    travelled = {
        str(path.relative_to(tmp_path / "there"))
        for path in (tmp_path / "there").rglob("*")
        if path.is_file()
    }
    assert travelled == {
        "codex_ray/cli.py",
        "codex_ray/corpus/prepare.py",
        "jobs/pretrain.py",
        "configs/pretrain.yaml",
        "texts/a.txt",
    }


def test_too_much_to_travel_is_refused_with_the_biggest(tmp_path):
    root = checkout(tmp_path / "here")
    write(root / "data" / "a.bin", 80 * 2**20)
    write(root / "more.bin", 40 * 2**20)
    with pytest.raises(
        CodexRayError, match=r"120 MiB, more than the 100 MiB .*\(data 80 MiB, more.bin 40 MiB, "
    ):
        jobs._copy_checkout(root, tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_a_silent_cluster_is_given_up():
    with pytest.raises(CodexRayError, match="host:1 does not answer within 0 s"):
        jobs._within(0.05, "host:1", lambda: __import__("time").sleep(5))


def test_a_job_says_which_run_it_drives_and_no_secret():
    settings = compose(
        "pretrain",
        ["name=first", "runs=/shared/runs", "resume=auto", "track.alerts.url=https://example.org/hook"],
        values={"cluster": {"driver_labels": {"pool": "!spot"}}},
    )
    told = jobs._metadata("pretrain", settings)
    assert told == {
        "verb": "pretrain",
        "name": "first",
        "folder": "/shared/runs/first",
        "job_name": "pretrain first",
        "driver_labels": '{"pool": "!spot"}',
    }
    assert jobs._tries(settings) == 3
    assert jobs._tries(compose("pretrain", ["name=first"])) == 0
    assert jobs._metadata("prepare", compose("prepare", ["output=/shared/mine"]))["name"] == "mine"
    assert jobs._metadata("doctor", compose("doctor")) == {"verb": "doctor", "job_name": "doctor"}
