"""The result files of the benchmarks: one JSON file per benchmark and kind of machine.

Format: ``{"benchmark", "machine", "commit", "date", "figures": {name: {"value", "unit", "better",
"aim"}}}``. A figure whose value is ``None`` is pending: its ``command`` measures it.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from codex_ray.errors import CodexRayError
from codex_ray.files import read_json, write_json
from codex_ray.track.environment import nvidia_smi

FOLDER = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
        value: the number; ``None`` while it is pending.
        unit: its unit, such as ``tokens/s``; ``ratio`` where both sides are of one unit.
        better: ``higher`` or ``lower``.
        aim: the number to reach; ``None`` where there is none.
        command: what measures a pending figure.
    """

    value: float | None
    unit: str
    better: str
    aim: float | None = None
    command: str | None = None

    def __post_init__(self) -> None:
        if self.better not in ("higher", "lower"):
            raise CodexRayError(f"better={self.better!r} of a figure must be 'higher' or 'lower'")
        if self.value is None and not self.command:
            raise CodexRayError("a pending figure must name the command that measures it")

    @property
    def reached(self) -> bool | None:
        """Whether the aim is reached; ``None`` where there is no aim or no value."""
        if self.value is None or self.aim is None:
            return None
        return self.value >= self.aim if self.better == "higher" else self.value <= self.aim


@dataclass(frozen=True)
class Result:
    """What one benchmark measured on one kind of machine."""

    benchmark: str
    machine: str
    commit: str
    date: str
    figures: dict[str, Figure]


def machine_name() -> str:
    """Name this kind of machine: ``nvidia-h200``, ``cpu-2core``, ..."""
    gpus = nvidia_smi("name")
    if gpus:
        return card_name(gpus[0]["name"])
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"cpu-{cores}core"


def card_name(name: str) -> str:
    """Shorten a card's name to what tells kinds apart: ``NVIDIA H100 80GB HBM3`` is ``nvidia-h100``."""
    words = re.findall(r"[a-z0-9]+", name.lower())
    return "-".join(word for word in words if not re.fullmatch(r"geforce|tesla|[0-9]+gb|hbm[0-9]e?", word))


def commit_name() -> str:
    """Name the commit that runs, with ``+`` after it where files other than results differ from it."""
    git = ["git", "-C", str(FOLDER.parent)]
    # Results, and the pages made from them, change by measuring and change nothing that is measured.
    code = ["status", "--porcelain", "--", ":/", ":(exclude,top)*.md", f":(exclude){FOLDER.name}"]
    answers = []
    for words in (["rev-parse", "--short=12", "HEAD"], code):
        try:
            answer = subprocess.run([*git, *words], capture_output=True, text=True, timeout=60, check=True)
        except (OSError, subprocess.SubprocessError):
            return "unknown"
        answers.append(answer.stdout.strip())
    return answers[0] + ("+" if answers[1] else "")


def write_result(benchmark: str, figures: dict[str, Figure], extra: dict[str, Any] | None = None) -> Path:
    """Write the result of ``benchmark`` on this machine and return its file.

    Args:
        benchmark: module name under ``benchmarks``.
        figures: the numbers by name.
        extra: further facts to keep beside them, such as settings or repeats.
    """
    machine = machine_name()
    path = FOLDER / f"{benchmark}.{machine}.json"
    plain = {
        name: {key: value for key, value in asdict(figure).items() if key != "command" or value is not None}
        for name, figure in figures.items()
    }
    head = {"benchmark": benchmark, "machine": machine, "commit": commit_name()}
    write_json(path, {**head, "date": time.strftime("%Y-%m-%d"), "figures": plain, **(extra or {})})
    return path


def read_results(folder: Path = FOLDER) -> list[Result]:
    """Read every result file of a folder, in order of name.

    Raises:
        CodexRayError: a file is damaged or lacks a key.
    """
    results = []
    for path in sorted(folder.glob("*.json")):
        data = read_json(path, "benchmark result")
        try:
            figures = {name: Figure(**figure) for name, figure in data["figures"].items()}
            head = {key: str(data[key]) for key in ("benchmark", "machine", "commit", "date")}
            results.append(Result(**head, figures=figures))
        except (KeyError, TypeError, AttributeError) as error:
            raise CodexRayError(
                f"benchmark result {path} is not in the format of {__name__} ({error}); measure it again"
            ) from error
    return results
