"""The progress display: stages done, the current one with rate and time left, and those to come.

Everything goes to standard error except the closing table, which is the result and goes to
standard output. One display may pass through several verbs: each plans and opens its own stages.
Call it from one thread; drawing happens in another, which only reads.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from codex_ray.errors import Interrupted

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

Figure = int | float | str | None

WINDOW_SECONDS = 30.0  # over which rates are taken
SAMPLE_SECONDS = 0.1  # between two points of the window
PLAIN_SECONDS = 10.0  # between two plain lines of one stage
FRAMES_PER_SECOND = 4
BAR_COLUMNS = 24


@dataclass
class Stage:
    """One stage: what is done of it and how fast."""

    name: str
    total: float | None
    unit: str
    started: float
    completed: float = 0.0
    figures: dict[str, Figure] = field(default_factory=dict)
    window: deque[tuple[float, float]] = field(default_factory=deque)

    def move(self, completed: float, now: float) -> None:
        """Set what is done.

        The rate starts at the first call, which leaves out warming up and what was done before a
        resumed stage; going back, as after a recovery, starts it afresh.
        """
        if completed < self.completed:
            self.window = deque([(now, completed)])
        elif len(self.window) > 1 and now - self.window[-2][0] < SAMPLE_SECONDS:
            self.window[-1] = (now, completed)
        else:
            self.window.append((now, completed))
        while len(self.window) > 2 and now - self.window[0][0] > WINDOW_SECONDS:
            self.window.popleft()
        self.completed = completed

    def rate(self, now: float) -> float:
        """Units per second over the window; it falls when nothing moves for unusually long."""
        window = self.window
        if len(window) < 2:
            return 0.0
        (first_time, first), (last_time, last), points = window[0], window[-1], len(window)
        usual_gap = (last_time - first_time) / (points - 1)
        end = now if now - last_time > 2 * usual_gap else last_time
        return (last - first) / (end - first_time) if end > first_time else 0.0

    def seconds_left(self, now: float) -> float | None:
        """Time to the total at the present rate; None where either is unknown."""
        rate = self.rate(now)
        return (self.total - self.completed) / rate if self.total is not None and rate > 0 else None


class Progress:
    """Shows how far a run is; see the module's description.

    Args:
        mode: ``live`` redraws a few lines in place, ``plain`` prints a line now and then, ``off``
            prints only the closing table, ``auto`` is live on a terminal and plain elsewhere.
        stages: stages to come, as for :meth:`plan`.
        errors: where progress goes; standard error if None.
        output: where the closing table goes; standard output if None.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        mode: str = "auto",
        *,
        stages: Sequence[str] = (),
        errors: TextIO | None = None,
        output: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._errors = errors or sys.stderr
        self._output = output or sys.stdout
        terminal = self._errors.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
        self.mode = ("live" if terminal else "plain") if mode == "auto" else mode
        self._clock = clock
        self._stages: list[Stage] = []  # open ones, each inside the one before
        self._planned = list(stages)
        self._last_line = clock()
        self._console: Console | None = None
        self._live: Live | None = None
        unicode = (getattr(self._errors, "encoding", None) or "utf-8").lower().startswith("utf")
        self._marks = dict(
            zip(("done", "now", "open", "planned", "bad"), "✓●▾·✗" if unicode else "+*>-!", strict=True)
        )

    def plan(self, *names: str) -> None:
        """Announce stages to come, in order; those announced already stay where they are."""
        self._planned += [name for name in names if name not in self._planned]
        self._redraw()

    @contextmanager
    def stage(self, name: str, total: float | None = None, unit: str = "") -> Iterator[Progress]:
        """Run one stage; stages may nest.

        Args:
            name: as announced, or not announced.
            total: units in the whole stage, where known.
            unit: what is counted, such as ``steps``; ``s`` counts seconds, without a rate.
        """
        if name in self._planned:
            self._planned.remove(name)
        stage = Stage(name, total, unit, self._clock())
        self._stages.append(stage)
        if self.mode == "plain":
            self._line(f"{self._indent(stage)}{self._marks['now']} {name}")
        self._redraw()
        outcome = "failed"
        try:
            yield self
            outcome = "done"
        except (KeyboardInterrupt, Interrupted):
            outcome = "stopped"
            raise
        except GeneratorExit:  # whoever reads what the stage yields has enough
            outcome = "done"
            raise
        finally:
            line = self._closing(stage, outcome)
            self._stages.remove(stage)
            self._redraw()
            self._line(line)

    def advance(self, amount: float = 1, **figures: Figure) -> None:
        """Add to what is done of the current stage."""
        if self._stages:
            self.update(self._stages[-1].completed + amount, total=None, **figures)

    def update(
        self, completed: float | None = None, *, total: float | None = None, **figures: Figure
    ) -> None:
        """Set what is done of the current stage, and figures to show beside it (``loss=2.1``)."""
        if not self._stages:
            return
        stage, now = self._stages[-1], self._clock()
        stage.figures = {**stage.figures, **figures}
        stage.total = stage.total if total is None else total
        if completed is not None:
            stage.move(completed, now)
        if self.mode == "plain" and now - self._last_line >= PLAIN_SECONDS:
            self._line(
                f"{self._indent(stage)}  {stage.name}  {'  '.join(self._parts(stage) + _figures(stage))}"
            )

    def note(self, text: str) -> None:
        """Print a line above the display."""
        self._line(text)

    def table(self, title: str, rows: Sequence[Sequence[Figure]], columns: Sequence[str] = ()) -> None:
        """Print a table on standard output, whatever the mode; the first column names the row."""
        shown = [list(columns)] if columns else []
        shown += [[figure(cell) for cell in row] for row in rows]
        lines = _aligned(shown)
        self._pause()
        if self._output.isatty():
            from rich.console import Console
            from rich.text import Text

            text = Text.assemble(
                "\n",
                (title, "bold"),
                *(part for head, rest in lines for part in ("\n  ", (head, "cyan"), rest)),
            )
            # A path or command wider than the terminal is left to it to wrap, so that it can be copied.
            Console(file=self._output).print(text, soft_wrap=True)
        else:
            print(title, *(head + rest for head, rest in lines), sep="\n", file=self._output, flush=True)
        self._redraw()

    def close(self) -> None:
        """Leave the terminal as it was; stages never opened are forgotten."""
        self._planned.clear()
        self._pause()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _parts(self, stage: Stage) -> list[str]:
        """What is said of a stage: share, count, rate, time left."""
        now, parts = self._clock(), []
        if stage.total:
            parts.append(f"{min(1.0, stage.completed / stage.total):.0%}")
        if stage.unit == "s":
            total = "" if stage.total is None else f" of {duration(stage.total)}"
            parts.append(f"{duration(stage.completed)}{total}")
        elif stage.total is not None or stage.completed:
            total = "" if stage.total is None else f"/{_count(stage.total)}"
            parts.append(f"{_count(stage.completed)}{total} {stage.unit}".rstrip())
        rate, left = stage.rate(now), stage.seconds_left(now)
        if rate > 0 and stage.unit != "s":
            parts.append(f"{figure(rate)} {stage.unit or 'units'}/s")
        parts.append(f"ETA {duration(left)}" if left is not None else duration(now - stage.started))
        return parts

    def _closing(self, stage: Stage, outcome: str) -> str:
        mark = self._marks["done" if outcome == "done" else "bad"]
        took = duration(self._clock() - stage.started)
        parts = [took if outcome == "done" else f"{outcome} after {took}"]
        if stage.completed and stage.unit != "s":
            parts.append(f"{_count(stage.completed)} {stage.unit}".rstrip())
        return f"{self._indent(stage)}{mark} {stage.name}  {'  '.join(parts + _figures(stage))}"

    def _indent(self, stage: Stage) -> str:
        return "  " * self._stages.index(stage)

    def _line(self, text: str) -> None:
        if self.mode == "off":
            return
        self._last_line = self._clock()
        if self._live is None or self._console is None:
            print(text, file=self._errors, flush=True)
            return
        from rich.text import Text

        self._console.print(Text(text), soft_wrap=True)

    def _redraw(self) -> None:
        """Draw while there is something to show; the drawing thread keeps it fresh."""
        if self.mode != "live":
            return
        if not self._stages and not self._planned:
            self._pause()
        elif self._live is None:
            from rich.console import Console
            from rich.live import Live

            self._console = self._console or Console(file=self._errors, force_terminal=True)
            self._live = Live(
                console=self._console,
                get_renderable=self._render,
                refresh_per_second=FRAMES_PER_SECOND,
                transient=True,
                # Where standard output is a file or a pipe, its text must not end up on the terminal.
                redirect_stdout=self._output.isatty(),
                redirect_stderr=self._errors is sys.stderr,
            )
            self._live.start()
        else:
            self._live.refresh()

    def _pause(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _render(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        stages, lines = list(self._stages), list[Table | Text]()
        for depth, stage in enumerate(stages):
            indent, current = "  " * depth, depth == len(stages) - 1
            head = Text(
                f"{indent}{self._marks['now' if current else 'open']} {stage.name}", style="bold cyan"
            )
            if not current:
                elapsed = Text(f"  {duration(self._clock() - stage.started)}", style="dim", end="")
                lines.append(head.append_text(elapsed))
                continue
            row: list[Text | ProgressBar] = [head]
            if stage.total:
                row.append(ProgressBar(stage.total, min(stage.completed, stage.total), width=BAR_COLUMNS))
            row.append(Text("  ".join(self._parts(stage)), no_wrap=True, overflow="ellipsis"))
            grid = Table.grid(padding=(0, 1))
            grid.add_row(*row)
            lines.append(grid)
            if stage.figures:
                lines.append(
                    Text(f"{indent}    {'   '.join(_figures(stage))}", no_wrap=True, overflow="ellipsis")
                )
        lines += [Text(f"{self._marks['planned']} {name}", style="dim") for name in self._planned]
        return Group(*lines)


@contextmanager
def open_progress(progress: Progress | None, mode: str) -> Iterator[Progress]:
    """Use the caller's display if it has one; otherwise make one in ``mode`` and close it at the end."""
    if progress is not None:
        yield progress
        return
    with Progress(mode) as own:
        yield own


def figure(value: Figure) -> str:
    """Write a number for people: four digits that matter, thousands apart; text stays, None is a dash."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def duration(seconds: float) -> str:
    """Write a time for people."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(count: float) -> str:
    """Write a number of bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _count(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) or value >= 100 else f"{value:,.1f}"


def _figures(stage: Stage) -> list[str]:
    names = {name: name.replace("_per_second", "/s").replace("_per_", "/") for name in stage.figures}
    return [f"{names[name].replace('_', ' ')} {figure(value)}" for name, value in stage.figures.items()]


def _aligned(rows: list[list[str]]) -> list[tuple[str, str]]:
    """Align columns; a row's last text may be as long as it likes. Returns first column and rest."""
    rows = [row[: max((index + 1 for index, cell in enumerate(row) if cell), default=0)] for row in rows]
    widths = [0] * max(map(len, rows), default=0)
    for row in rows:
        for index, cell in enumerate(row[:-1]):
            widths[index] = max(widths[index], len(cell))
    padded = [
        [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)] + row[-1:] for row in rows
    ]
    return [(row[0] if row else "", "".join(f"  {cell}" for cell in row[1:])) for row in padded]
