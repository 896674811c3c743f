"""Run folders: policies, attempts, the lock and the record of errors."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.track import RunFolder

HOLD = """
import sys
from codex_ray.track import RunFolder
run = RunFolder.open(sys.argv[1], "a", "pretrain", "auto")
print("held", flush=True)
sys.stdin.read()
"""


def raised() -> ValueError:
    try:
        raise ValueError("bad weights")
    except ValueError as error:
        return error


def test_new_run_gets_a_telling_name_and_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with RunFolder.open("runs", None, "pretrain") as run:
        assert run.path.parent == tmp_path / "runs"
        assert run.name.startswith("pretrain-20") and len(run.name.split("-")) == 4
        assert run.attempt == 1 and not run.resumed
        assert run.attempt_folder.is_dir() and run.checkpoints.is_dir()
        for path in (run.config, run.metrics, run.report, run.stop, run.log("worker", 1)):
            assert path.is_absolute() and path.is_relative_to(run.path)


def test_two_made_names_differ(tmp_path: Path) -> None:
    names = set()
    for _ in range(5):
        with RunFolder.open(tmp_path, None, "pretrain") as run:
            names.add(run.name)
    assert len(names) == 5


def test_policies(tmp_path: Path) -> None:
    with pytest.raises(CodexRayError, match=r"nothing to continue; use resume=auto"):
        RunFolder.open(tmp_path, "a", "pretrain", "must")
    assert not (tmp_path / "a").exists()
    RunFolder.open(tmp_path, "a", "pretrain", "auto").close()
    with pytest.raises(CodexRayError, match=r"exists; continue it with resume=auto or give another name"):
        RunFolder.open(tmp_path, "a", "pretrain", "never")
    for attempt, policy in ((2, "auto"), (3, "must")):
        with RunFolder.open(tmp_path, "a", "pretrain", policy) as run:
            assert run.attempt == attempt and run.resumed


def test_an_empty_folder_made_by_the_user_is_new(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with RunFolder.open(tmp_path, "a", "pretrain", "never") as run:
        assert not run.resumed


@pytest.mark.parametrize("name", ["../a", "a/b", ".hidden", "a\\b"])
def test_a_name_is_a_plain_folder_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="plain folder name"):
        RunFolder.open(tmp_path, name, "pretrain")
    assert not list(tmp_path.iterdir())


def test_must_needs_a_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give name="):
        RunFolder.open(tmp_path, None, "pretrain", "must")


def test_a_second_run_in_the_same_process_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, "a", "pretrain"), pytest.raises(CodexRayError, match="in use by process"):
        RunFolder.open(tmp_path, "a", "pretrain", "auto")
    with RunFolder.open(tmp_path, "a", "pretrain", "auto") as run:
        assert run.attempt == 2  # the refused start left no attempt behind


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(CodexRayError, match=f"in use by process {holder.pid}"):
            RunFolder.open(tmp_path, "a", "pretrain", "auto")
        holder.kill()
        holder.wait(timeout=10)
    with RunFolder.open(tmp_path, "a", "pretrain", "must") as run:
        assert run.attempt == 2


def test_of_racing_new_runs_with_one_name_one_wins(tmp_path: Path) -> None:
    def start(_: int) -> RunFolder | None:
        try:
            return RunFolder.open(tmp_path, "a", "pretrain", "never")
        except CodexRayError:
            return None

    with ThreadPoolExecutor(8) as pool:
        winners = [run for run in pool.map(start, range(8)) if run]
    assert len(winners) == 1
    winners[0].close()


def test_workers_get_the_paths_without_the_lock(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, "a", "pretrain") as run:
        copy = pickle.loads(pickle.dumps(run))
        assert copy == run
        copy.close()
        with pytest.raises(CodexRayError, match="in use"):
            RunFolder.open(tmp_path, "a", "pretrain", "auto")


def test_the_first_error_wins_and_all_are_kept(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, "a", "pretrain") as run:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda rank: run.record_error("worker", rank, 7, "forward", raised()), range(40)))
        lines = [json.loads(line) for line in run.errors.read_text().splitlines()]
        assert sorted(line["rank"] for line in lines) == list(range(40))
        assert (
            lines[0]["error"] == "ValueError" and lines[0]["phase"] == "forward" and lines[0]["attempt"] == 1
        )
        assert "in raised" in lines[0]["traceback"]
        first = run.first_error.read_text()
        assert first.startswith("attempt 1, role worker, rank ") and first.count("Traceback") == 1


def test_first_error_is_the_newest_attempts(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, "a", "pretrain") as run:
        run.record_error("worker", 0, 3, "forward", raised())
        run.stop.touch()
    with RunFolder.open(tmp_path, "a", "pretrain", "auto") as run:
        assert not run.first_error.exists() and not run.stop.exists()
        assert (run.path / "attempts" / "1" / "first_error.txt").exists()
        run.record_error("driver", 0, None, "start", raised())
        assert run.first_error.read_text().startswith("attempt 2, role driver, rank 0, phase start\n")
        assert len(run.errors.read_text().splitlines()) == 2


def test_an_error_that_cannot_be_recorded_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    RunFolder(tmp_path / "gone", 1).record_error("worker", 0, 1, "forward", raised())
    assert "could not be recorded" in caplog.text


def test_a_file_in_place_of_the_runs_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(CodexRayError, match="cannot be written"):
        RunFolder.open(tmp_path / "runs", "a", "pretrain")


def test_a_start_knows_when_another_has_followed_it(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, "a", "pretrain") as first:
        assert not first.superseded()
    with RunFolder.open(tmp_path, "a", "pretrain", "auto") as second:
        assert first.superseded() and pickle.loads(pickle.dumps(first)).superseded()
        assert not second.superseded()
