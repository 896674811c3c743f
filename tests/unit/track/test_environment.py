"""environment.json: facts, seeds, and no secrets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import codex_ray
from codex_ray.track import write_environment
from codex_ray.track.environment import git_commit, masked


def test_facts_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:hunter2@host/path?token=hunter3&x=1")
    monkeypatch.setenv("CODEX_RAY_API_KEY", "hunter4")
    monkeypatch.setenv("CODEX_RAY_TRACEBACK", "1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter5")
    monkeypatch.setattr(
        sys, "argv", ["codex-ray", "pretrain", "track.mlflow.uri=http://a:hunter6@h", "api_key=hunter7"]
    )
    settings = {"seed": 7, "prepare": {"seed": 8, "split": {"test": 0.1}}}
    written = write_environment(tmp_path, settings, mlflow_uri="sqlite:////r/mlflow.db", extra={"nodes": 2})
    text = (tmp_path / "environment.json").read_text()
    found = json.loads(text)
    assert found == written
    assert "hunter" not in text
    assert found["variables"]["MLFLOW_TRACKING_URI"] == "https://***@host/path?token=***&x=***"
    assert (
        found["variables"]["CODEX_RAY_API_KEY"] == "***" and found["variables"]["CODEX_RAY_TRACEBACK"] == "1"
    )
    assert found["seeds"] == {"seed": 7, "prepare.seed": 8}
    assert found["mlflow_uri"] == "sqlite:////r/mlflow.db" and found["nodes"] == 2
    assert found["packages"]["psutil"] and found["cpu"]["cores"] >= 1 and found["memory_bytes"]["total"] > 0
    assert found["python"]["version"] == ".".join(map(str, sys.version_info[:3]))


def test_settings_named_like_tokens_are_not_secret() -> None:
    assert masked("train.batch_tokens=4096") == "train.batch_tokens=4096"
    assert masked("pretrain") == "pretrain"
    assert masked("sqlite:////a/b.db") == "sqlite:////a/b.db"


@pytest.mark.parametrize(
    ("word", "kept"),
    [
        ('track.alerts={url: "https://hooks.host/T0/s3cret"}', "track.alerts=***"),
        ("track={alerts: {url: https://hooks.host/T0/s3cret}}", "track=***"),
        ("pretrain.track.alerts={on: [end], url: https://hooks.host/s3cret}", "pretrain.track.alerts=***"),
        ("pretrain={track: {alerts: {url: https://hooks.host/s3cret}}}", "pretrain=***"),
        ("track.alerts.url=https://hooks.host/T0/s3cret", "track.alerts.url=***"),
        ("track.alerts={spike_factor: 3}", "track.alerts={spike_factor: 3}"),
        ("track.mlflow={uri: sqlite:///a.db}", "track.mlflow={uri: sqlite:///a.db}"),
    ],
)
def test_an_address_of_alerts_is_masked_in_every_spelling(word: str, kept: str) -> None:
    assert masked(word) == kept


def test_commit_is_this_checkouts() -> None:
    root = Path(codex_ray.__file__).resolve().parents[1]
    head = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=20, check=False
    )
    found = git_commit()
    if head.returncode:
        assert found is None
    else:
        assert (
            found is not None and found["commit"] == head.stdout.strip() and found["dirty"] in (True, False)
        )


def test_a_package_inside_somebody_elses_checkout_has_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "site-packages" / "codex_ray" / "track" / "environment.py"
    module.parent.mkdir(parents=True)
    module.write_text("")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run([*git, *command], check=True, timeout=20)
    monkeypatch.setattr("codex_ray.track.environment.__file__", str(module))
    assert git_commit() is None


def test_changes_of_a_checkout_are_kept_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = tmp_path / "checkout"
    module = checkout / "codex_ray" / "track" / "environment.py"
    module.parent.mkdir(parents=True)
    module.write_text("first = 1\n")
    git = ["git", "-C", str(checkout), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *command], check=True, timeout=20)
    monkeypatch.setattr("codex_ray.track.environment.__file__", str(module))
    run = tmp_path / "run"
    assert write_environment(run, {}, mlflow_uri=None)["commit"]["dirty"] is False
    assert not (run / "changes.diff").exists()
    token = "ghp_" + "a1B2" * 9
    module.write_text(f'first = 2\ntoken = "{token}"\n')
    (checkout / "new.py").write_text("")
    written = write_environment(run, {}, mlflow_uri=None)
    assert written["commit"]["changes"] == "changes.diff"
    text = (run / "changes.diff").read_text()
    assert "+first = 2" in text
    assert "# not in git: new.py" in text
    assert token not in text
    assert len(written["code"]) == 12
