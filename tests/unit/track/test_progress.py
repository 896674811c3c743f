"""The progress display: rates, plain lines, the live display on a terminal, the closing table."""

from __future__ import annotations

import gc
import io
import os
import pty
import re
import select
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest

from codex_ray.errors import Interrupted
from codex_ray.track import Progress, open_progress
from codex_ray.track.progress import Stage, duration, figure

LIVE = """
import sys, time
from codex_ray.track import Progress
with Progress(stages=("prepare", "pretrain")) as progress:
    with progress.stage("prepare"):
        print("stray [output]")
    with progress.stage("pretrain", total=40, unit="steps"):
        for step in range(1, 41):
            progress.update(step, loss=2.5, tokens_per_second=24000.0)
            time.sleep(0.02)
    progress.table("Summary", [("run folder", "/" + "long/" * 30), ("tokens", 6700000)])
"""


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Text(io.StringIO):
    """A stream that says whether it is a terminal, and its encoding."""

    def __init__(self, terminal: bool = False, encoding: str = "utf-8") -> None:
        super().__init__()
        self._terminal, self._encoding = terminal, encoding

    def isatty(self) -> bool:
        return self._terminal

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding


def make(mode: str = "plain", **more: str) -> tuple[Progress, Text, Text, Clock]:
    errors, output, clock = Text(**more), Text(), Clock()  # type: ignore[arg-type]
    return Progress(mode, errors=errors, output=output, clock=clock), errors, output, clock


def test_rate_and_time_left_over_a_rolling_window() -> None:
    stage = Stage("train", 1000, "steps", started=0.0)
    now = 60.0  # the workers start for a minute, and the run resumes at step 500
    for step in range(500, 601):
        stage.move(step, now := now + 0.5)
    assert stage.rate(now) == pytest.approx(2.0)
    assert stage.seconds_left(now) == pytest.approx(200.0)
    for step in range(601, 801):  # four times as fast: after the window only that counts
        stage.move(step, now := now + 0.125)
    assert 2.0 < stage.rate(now) < 8.0
    for step in range(801, 1000):
        stage.move(step, now := now + 0.16)
    assert stage.rate(now) == pytest.approx(6.25, rel=0.05)
    assert len(stage.window) < 310


def test_rate_falls_when_nothing_moves_and_starts_afresh_after_going_back() -> None:
    stage = Stage("train", None, "steps", started=0.0)
    for step in range(11):
        stage.move(step, float(step))
    assert stage.rate(10.5) == pytest.approx(1.0)
    assert stage.rate(30.0) == pytest.approx(10 / 30)
    assert stage.seconds_left(10.0) is None
    stage.move(5, 31.0)
    assert stage.rate(31.0) == 0.0
    stage.move(9, 33.0)
    assert stage.rate(33.0) == pytest.approx(2.0)


def test_plain_lines_come_at_most_every_ten_seconds() -> None:
    progress, errors, output, clock = make()
    with progress.stage("pretrain", total=1200, unit="steps"):
        for step in range(1, 601):
            clock.now += 0.1
            progress.update(step, loss=3.14159, tokens_per_second=24123.4)
    lines = errors.getvalue().splitlines()
    assert lines[0] == "● pretrain"
    assert 4 <= len(lines[1:-1]) <= 6
    assert re.fullmatch(
        r"  pretrain  \d+%  \d+/1,200 steps  10 steps/s  ETA 1 min \d\d s  loss 3.142  tokens/s 24,123",
        lines[1],
    )
    assert lines[-1] == "✓ pretrain  1 min 00 s  600 steps  loss 3.142  tokens/s 24,123"
    assert output.getvalue() == ""


def test_stages_nest_and_pass_through_verbs() -> None:
    progress, errors, _, clock = make()
    progress.plan("prepare", "pretrain")

    def verb(outer: Progress | None) -> None:
        with open_progress(outer, "off") as shown:
            assert shown is progress
            shown.plan("pretrain", "evaluate")
            with shown.stage("read", total=2, unit="files"):
                shown.advance()
                clock.now += 3
                shown.advance()

    with progress.stage("prepare"):
        verb(progress)
        progress.note("a note")
    assert errors.getvalue().splitlines() == [
        "● prepare",
        "  ● read",
        "  ✓ read  3.0 s  2 files",
        "a note",
        "✓ prepare  3.0 s",
    ]
    assert progress._planned == ["pretrain", "evaluate"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("x"), "failed after"),
        (KeyboardInterrupt(), "stopped after"),
        (Interrupted("x"), "stopped after"),
    ],
)
def test_a_stage_that_ends_badly_says_so_and_the_error_goes_on(error: BaseException, said: str) -> None:
    progress, errors, _, _ = make()
    with pytest.raises(type(error)), progress.stage("train"):
        raise error
    assert f"✗ train  {said} 0.0 s" in errors.getvalue()
    with progress.stage("next"):
        pass
    assert errors.getvalue().endswith("✓ next  0.0 s\n")


def test_off_is_silent_but_for_the_table() -> None:
    progress, errors, output, _ = make("off")
    with progress.stage("train", total=2):
        progress.advance(loss=1.0)
        progress.note("hidden")
    progress.table(
        "Summary", [("bits per byte", 1.17432, "xz 1.73"), ("run", "/a/long/path"), ("lost", None)]
    )
    assert errors.getvalue() == ""
    assert output.getvalue().splitlines() == [
        "Summary",
        "bits per byte  1.174  xz 1.73",
        "run            /a/long/path",
        "lost           -",
    ]


def test_marks_are_ascii_where_the_stream_is() -> None:
    progress, errors, _, _ = make(encoding="ascii")
    with progress.stage("train"):
        pass
    assert errors.getvalue().isascii()


def test_auto_is_plain_off_a_terminal_and_on_a_dumb_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert Progress("auto", errors=Text()).mode == "plain"
    assert Progress("auto", errors=Text(terminal=True)).mode == "live"
    monkeypatch.setenv("TERM", "dumb")
    assert Progress("auto", errors=Text(terminal=True)).mode == "plain"


def test_a_slow_stage_of_seconds_shows_no_rate() -> None:
    progress, errors, _, clock = make()
    with progress.stage("train", total=280, unit="s"):
        for elapsed in range(0, 100, 10):
            clock.now += 10
            progress.update(elapsed, loss=2.0)
    assert "  train  29%  1 min 20 s of 4 min 40 s  ETA 3 min 20 s  loss 2" in errors.getvalue().splitlines()


def test_figures_and_durations() -> None:
    assert [figure(value) for value in (0, 12, 1234567, 0.000123456, 3.14159, 24123.4, "x", None)] == [
        "0", "12", "1,234,567", "0.0001235", "3.142", "24,123", "x", "-"
    ]  # fmt: skip
    assert [duration(value) for value in (0.04, 9.94, 59.4, 59.6, 3599.0, 3661.0)] == [
        "0.0 s", "9.9 s", "59 s", "1 min 00 s", "59 min 59 s", "1 h 01 min"
    ]  # fmt: skip


def on_terminal(environment: dict[str, str], stdout: int | None = None) -> str:
    """Run the live script on a pseudo-terminal and return what the terminal got."""
    main, side = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30", **environment}
    with subprocess.Popen(
        [sys.executable, "-c", LIVE], stdout=stdout or side, stderr=side, stdin=side, env=env
    ) as run:
        os.close(side)
        received, end = b"", time.monotonic() + 30
        while time.monotonic() < end:
            if select.select([main], [], [], 0.2)[0]:
                try:
                    received += os.read(main, 65536)
                except OSError:  # the other side is closed
                    break
        assert run.wait(timeout=10) == 0
    os.close(main)
    return received.decode()


def test_live_display_on_a_terminal() -> None:
    text = on_terminal({})
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    assert "\x1b[?25l" in text and text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), (
        "the cursor comes back"
    )
    assert "· pretrain" in plain and "stray [output]" in plain
    assert re.search(r"● pretrain ━+.* \d+%  \d+/40 steps  [\d.]+ steps/s  ETA [\d.]+ s", plain)
    assert "loss 2.5   tokens/s 24,000" in plain
    assert "✓ pretrain" in plain
    assert "/" + "long/" * 30 in plain, "a path is never cut or broken"
    assert re.search(r"\x1b\[[0-9;]*m", text)


def test_no_color_is_respected_and_standard_output_stays_clean(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        text = on_terminal({"NO_COLOR": "1"}, out.fileno())
    assert not re.search(r"\x1b\[[0-9;]*3[0-7][;m]", text), "no colours"
    said = (tmp_path / "out").read_text()
    assert said.startswith("stray [output]\nSummary\n") and "\x1b" not in said
    assert "stray" not in text


def test_a_stage_whose_reader_has_enough_is_done(capsys):
    def numbers():
        with Progress("plain").stage("count"):
            yield from range(9)

    assert list(islice(numbers(), 2)) == [0, 1]
    gc.collect()
    assert "✓ count" in capsys.readouterr().err
