"""Judges in a process of their own: what they say, and every way in which they may fail."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from codex_ray.errors import CodexRayError
from codex_ray.rollout.apart import Apart
from codex_ray.rollout.rewards import Rewarded

JUDGE = """
import os, time

def judge(row, text):
    if text == "hangs":
        time.sleep(600)
    if text == "ends":
        os._exit(3)
    if text == "raises":
        raise KeyError("nothing")
    if text == "nan":
        return float("nan")
    if text == "text":
        return "good"
    return os.getpid() if text == "who" else row["worth"] * len(text)

LATE = 1 / 0 if os.environ.get("BROKEN") else 0
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "of_mine.py").write_text(JUDGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def scorer(name: str = "of_mine.judge", seconds: float = 1.0) -> Apart:
    return Apart(Rewarded(name), seconds=seconds, what=f"the verifier {name}", key="KEY")


def alive(process: int) -> bool:
    return Path(f"/proc/{process}").exists()


def test_a_judge_answers_and_is_gone_at_the_end(path: Path) -> None:
    row: Mapping[str, Any] = {"worth": 0.5}
    with scorer() as judge:
        assert judge.reward(row, "four") == 2.0
        process = int(judge.reward(row, "who"))
        assert process != os.getpid() and alive(process)
        for text, sentence in (
            ("raises", r"the verifier of_mine\.judge failed on an answer \(KeyError: 'nothing' "),
            ("nan", "the reward is nan, not a finite number"),
            ("text", "the reward is 'good', not a finite number"),
        ):
            with pytest.raises(CodexRayError, match=sentence):
                judge.reward(row, text)
            assert judge.reward(row, "who") == process  # the same process goes on
    assert not alive(process)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("hangs", r"did not answer within 1 s \(KEY\); mend it, or give it longer"),
        ("ends", "ended its process"),
    ],
)
def test_a_judge_that_is_lost_is_named_and_the_next_is_a_fresh_one(
    text: str, sentence: str, path: Path
) -> None:
    with scorer() as judge:
        process = int(judge.reward({}, "who"))
        began = time.monotonic()
        with pytest.raises(CodexRayError, match=sentence):
            judge.reward({}, text)
        assert time.monotonic() - began < 60 and not alive(process)
        assert judge.reward({}, "who") != process


def test_a_judge_that_cannot_be_made_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKEN", "1")
    with scorer() as judge, pytest.raises(CodexRayError, match=r"cannot be made \(.*division by zero"):
        judge.reward({}, "x")


def test_a_judge_at_work_ends_with_whoever_asked(path: Path) -> None:
    told = path / "told"
    script = (
        "import os, pathlib, threading\n"
        "from codex_ray.rollout.apart import Apart\nfrom codex_ray.rollout.rewards import Rewarded\n"
        "judge = Apart(Rewarded('of_mine.judge'), seconds=600, what='x', key='y')\n"
        f"pathlib.Path({str(told)!r}).write_text(str(int(judge.reward({{}}, 'who'))))\n"
        "judge.reward({}, 'hangs')\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    asking = subprocess.Popen([sys.executable, "-c", script], env=environment)
    deadline = time.monotonic() + 120
    while not (told.exists() and told.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    process = int(told.read_text())
    assert alive(process)
    asking.kill()
    asking.wait()
    while alive(process) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(process)
