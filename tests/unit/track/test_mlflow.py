"""MLflow against its real SQLite store: what is recorded, where, and what a failure does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

from codex_ray.config.common import Mlflow
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.track import MlflowRun
from codex_ray.track.mlflow import CUT, PARAMETER_CHARACTERS, PARENT_TAG, flat, tracking_uri

TOGETHER = """
import sys, mlflow
from pathlib import Path
from codex_ray.config.common import Mlflow
from codex_ray.track import MlflowRun
runs = Path(sys.argv[1])
run = MlflowRun(runs / "b", Mlflow(), runs=runs)
print("ready", flush=True)
sys.stdin.readline()
run.start("b", parameters={}, life_id="together")
run.end()
"""


@pytest.fixture(autouse=True, scope="module")
def no_uri() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for the module: making its tables takes a second or two."""
    folder = tmp_path_factory.mktemp("runs")
    start(folder / "first", folder).end()
    return folder


def start(folder: Path, runs: Path, **more: Any) -> MlflowRun:
    folder.mkdir(exist_ok=True)
    run = MlflowRun(folder, Mlflow(), runs=runs)
    run.start(folder.name, **({"parameters": {}} | more))
    return run


def client_of(run: MlflowRun) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(tracking_uri=run.uri)


def test_a_run_is_recorded_whole(runs: Path, caplog: pytest.LogCaptureFixture) -> None:
    parameters = {
        "seed": 1234,
        "model": {"residual": {"kind": "mhc"}, "empty": {}},
        "suffixes": [".py", ".md"],
        "unset": None,
        "uri": "https://me:secret@host",
        "long": "x" * 10_000,
        "many": {f"key{index}": index for index in range(250)},
    }
    run = start(
        runs / "whole",
        runs,
        parameters=parameters,
        life_id="life1",
        commit="abc123",
        tags={"verb": "pretrain"},
    )
    rows = [
        {"step": step, "time": 1_000.5 + step, "loss": 2.0 / step, "note": "text", "lost": None, "batch": 5,
         **{f"figure/{index}": float(index) for index in range(8)}}
        for step in range(1, 301)
    ]  # fmt: skip
    run.log_rows(rows[:100])
    run.log_rows(rows[100:])
    (runs / "whole" / "report.html").write_text("<html>")
    run.log_artifact(runs / "whole" / "report.html")
    run.log_artifact(runs / "whole" / "missing.html")
    run.end("FINISHED")
    assert run.uri == f"sqlite:///{runs}/mlflow.db"
    client, run_id = client_of(run), run.run_id
    assert run_id is not None
    recorded = client.get_run(run_id)
    assert recorded.info.status == "FINISHED" and recorded.info.run_name == "whole"
    found = recorded.data.params
    assert found["model.residual.kind"] == "mhc" and found["suffixes"] == '[".py", ".md"]'
    assert found["unset"] == "null" and found["model.empty"] == "{}" and found["many.key249"] == "249"
    assert found["uri"] == "https://***@host"
    assert len(found["long"]) == PARAMETER_CHARACTERS and found["long"].endswith(CUT)
    tags = recorded.data.tags
    assert tags["codex_ray.cut_parameters"] == "long" and tags["mlflow.source.git.commit"] == "abc123"
    assert tags["verb"] == "pretrain" and tags["codex_ray.life_id"] == "life1"
    history = client.get_metric_history(run_id, "loss")
    assert [(point.step, point.timestamp, point.value) for point in history] == [
        (step, int(1000 * (1_000.5 + step)), 2.0 / step) for step in range(1, 301)
    ]
    assert set(recorded.data.metrics) == {"loss", *(f"figure/{index}" for index in range(8))}
    assert [item.path for item in client.list_artifacts(run_id)] == ["report.html"]
    assert (runs / "mlflow-artifacts").is_dir()
    assert not caplog.records


def test_resuming_continues_the_run_and_records_no_row_twice(runs: Path) -> None:
    folder = runs / "resumed"
    first = start(folder, runs, parameters={"seed": 1}, life_id="life2")
    first.log_rows([{"step": step, "loss": float(step)} for step in range(1, 11)])
    first.end("KILLED")
    assert client_of(first).get_run(str(first.run_id)).info.status == "KILLED"
    second = start(folder, runs, parameters={"seed": 2}, life_id="life2")
    second.log_rows([{"step": step, "loss": float(step)} for step in range(6, 16)])
    second.end()
    assert second.run_id == first.run_id
    recorded = client_of(second).get_run(str(second.run_id))
    assert recorded.info.status == "FINISHED" and recorded.data.params == {"seed": "1"}
    steps = [point.step for point in client_of(second).get_metric_history(str(second.run_id), "loss")]
    assert steps == list(range(1, 16))


def test_a_deleted_run_is_made_anew(runs: Path) -> None:
    first = start(runs / "deleted", runs)
    first.end()
    client_of(first).delete_run(str(first.run_id))
    second = start(runs / "deleted", runs)
    second.end()
    assert second.run_id and second.run_id != first.run_id


def test_runs_of_one_life_share_a_parent(runs: Path) -> None:
    made = [start(runs / name, runs, life_id=life) for name, life in (("p", "x"), ("q", "x"), ("r", "y"))]
    for run in made:
        run.end()
    parents = [client_of(run).get_run(str(run.run_id)).data.tags[PARENT_TAG] for run in made]
    assert parents[0] == parents[1] != parents[2]
    assert client_of(made[0]).get_run(parents[0]).info.run_name == "life-x"


def test_processes_that_start_together_make_one_store_and_one_life(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    command = [sys.executable, "-c", TOGETHER, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout and other.stdin and other.stdout.readline() == "ready\n"
        other.stdin.write("go\n")
        other.stdin.flush()
        run = start(tmp_path / "a", tmp_path, life_id="together")
        run.end()
        assert other.communicate(timeout=60)[1] == ""
    experiment = client_of(run).get_experiment_by_name("codex_ray")
    assert experiment is not None
    names = sorted(str(one.info.run_name) for one in client_of(run).search_runs([experiment.experiment_id]))
    assert names == ["a", "b", "life-together"]


def test_off_does_nothing(tmp_path: Path) -> None:
    run = MlflowRun(tmp_path, Mlflow(enabled=False), runs=tmp_path)
    run.start("x", parameters={})
    run.log_rows([{"step": 1, "loss": 1.0}])
    run.end()
    assert run.uri is None and run.run_id is None and not list(tmp_path.iterdir())


@pytest.mark.parametrize("scheme", ["http", "https", "databricks", "mysql+pymysql", "postgresql"])
@pytest.mark.parametrize("from_variable", [True, False])
def test_a_remote_uri_is_left_out_and_named(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    scheme: str,
    from_variable: bool,
) -> None:
    uri = f"{scheme}://me:secret@tracking.example"
    if from_variable:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    settings = Mlflow() if from_variable else Mlflow(uri=uri)
    assert tracking_uri(settings, tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    assert len(caplog.records) == 1
    source = "MLFLOW_TRACKING_URI" if from_variable else "track.mlflow.uri"
    assert (
        f"{source}={scheme}://***@tracking.example is remote" in caplog.text and "secret" not in caplog.text
    )
    assert tracking_uri(Mlflow(uri=uri, allow_remote=True), tmp_path) == uri


def test_local_uris_are_taken_and_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "runs"
    assert tracking_uri(Mlflow(uri="sqlite:///a/b.db"), runs) == f"sqlite:///{tmp_path}/a/b.db"
    assert tracking_uri(Mlflow(uri=f"file://{tmp_path}/c"), runs) == f"file://{tmp_path}/c"
    assert tracking_uri(Mlflow(uri="d"), runs) == f"file://{tmp_path}/d"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///e.db")
    assert tracking_uri(Mlflow(), runs) == f"sqlite:///{tmp_path}/e.db"


def test_a_file_store_works_when_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    run = MlflowRun(folder, Mlflow(uri=f"file://{tmp_path}/store"), runs=tmp_path)
    run.start("x", parameters={"a": 1})
    run.log_rows([{"step": 1, "loss": 1.0}])
    run.end()
    assert client_of(run).get_run(str(run.run_id)).data.metrics == {"loss": 1.0}
    assert not caplog.records


def test_an_unknown_scheme_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'sqlit', which MLflow does not know; did you mean 'sqlite'\?"):
        MlflowRun(tmp_path, Mlflow(uri="sqlit:///x.db"), runs=tmp_path)


def test_a_store_that_cannot_be_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CodexRayError, match="cannot be written"):
        MlflowRun(tmp_path, Mlflow(uri=f"sqlite:///{tmp_path}/file/x.db"), runs=tmp_path)


def test_a_failing_store_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"this is no database" * 100)
    run = start(tmp_path / "run", tmp_path)
    for step in range(3):
        run.log_rows([{"step": step, "loss": 1.0}])
    run.end("FAILED")
    assert len(caplog.records) == 1 and "does not record this run" in caplog.text


def test_a_store_that_breaks_in_the_middle_is_one_warning(
    tmp_path: Path, runs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(runs / "mlflow.db", tmp_path)
    run = start(tmp_path / "run", tmp_path)
    run.log_rows([{"step": 1, "loss": 1.0}])
    end, state = time.monotonic() + 30, tmp_path / "run" / "mlflow.json"
    while not (state.exists() and json.loads(state.read_text())["last_step"] == 1):
        assert time.monotonic() < end, "the first row was not recorded"
        time.sleep(0.02)
    with (tmp_path / "mlflow.db").open("r+b") as stream:
        stream.write(os.urandom(200_000))
    for step in range(2, 5):
        run.log_rows([{"step": step, "loss": 1.0}])
    run.end()
    assert len(caplog.records) == 1 and "training goes on" in caplog.text


def test_an_unreachable_server_never_holds_up_the_caller(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "run").mkdir()
    settings = Mlflow(uri="http://127.0.0.1:9", allow_remote=True)
    run = MlflowRun(tmp_path / "run", settings, runs=tmp_path)
    run.start("x", parameters={})
    began = time.monotonic()
    run.log_rows([{"step": 1, "loss": 1.0}])
    assert time.monotonic() - began < 1.0
    run.end("KILLED", seconds=0.5)
    assert time.monotonic() - began < 5.0
    assert len(caplog.records) == 1 and "http://127.0.0.1:9" in caplog.text


def test_telemetry_is_off(runs: Path) -> None:
    start(runs / "quiet", runs).end()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_flat_names_and_texts() -> None:
    assert flat({"a": {"b": 1.5, "c": True}, "d": "x"}) == {"a.b": "1.5", "a.c": "true", "d": "x"}
