"""Settings of the verbs that look at runs, tag them and take them away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from codex_ray.config.fields import setting
from codex_ray.errors import ConfigError

MOST_COMPARED = 6  # colours that are told apart

KEEP = "keep"  # the tag of what never goes

_RUN = "the run's folder, or its name in `runs`"
_RUNS = "folder that holds run folders"


@dataclass(frozen=True)
class ListRuns:
    """List the runs of a folder."""

    runs: str = setting("runs", help=_RUNS)
    tag: str | None = setting(None, help="only runs with this tag")


@dataclass(frozen=True)
class ShowRun:
    """Show how a run stands."""

    run: str = setting(help=_RUN)
    runs: str = setting("runs", help=_RUNS)


@dataclass(frozen=True)
class AttachRun:
    """Show a running run's display until it ends."""

    run: str = setting(help=_RUN)
    runs: str = setting("runs", help=_RUNS)
    progress: str = setting(
        "auto", choices=("auto", "live", "plain", "off"), help="progress display; auto is live on a terminal"
    )


@dataclass(frozen=True)
class CompareRuns:
    """Write one report of several runs."""

    names: list[str] = setting(help="the runs' folders, or their names in `runs`")
    runs: str = setting("runs", help=_RUNS)
    output: str = setting("comparison.html", help="report to write")


@dataclass(frozen=True)
class TagRun:
    """Add and remove tags of a run."""

    run: str = setting(help=_RUN)
    runs: str = setting("runs", help=_RUNS)
    add: list[str] = setting([], help="tags to add; runs with the tag `keep` never go")
    remove: list[str] = setting([], help="tags to remove")


@dataclass(frozen=True)
class PruneRuns:
    """Take runs away, or their old checkpoints."""

    runs: str = setting("runs", help=_RUNS)
    what: str = setting(
        "checkpoints",
        choices=("checkpoints", "runs"),
        help="all checkpoints but a run's newest, or whole run folders",
    )
    states: list[str] = setting(
        ["completed", "stopped", "failed"],
        choices=("completed", "stopped", "failed"),
        help="how a run ended that may go",
    )
    older_days: float = setting(30.0, minimum=0.0, help="days since a run last started")
    tagged: bool = setting(False, help="take tagged runs too, but those tagged `keep`")
    yes: bool = setting(False, help="really take them away; unset only says what would go")


def _compare(settings: CompareRuns, prefix: str) -> None:
    count = len(settings.names)
    if not 2 <= count <= MOST_COMPARED or len(set(settings.names)) < count:
        raise ConfigError(
            f"{prefix}names holds {count} runs; give two to {MOST_COMPARED} different ones, as in "
            "codex-ray runs compare FIRST SECOND"
        )


RULES: dict[type[Any], Callable[[Any, str], None]] = {CompareRuns: _compare}
