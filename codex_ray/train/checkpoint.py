"""Checkpoints: written whole or not at all, verified before use, kept within bounds.

A checkpoint is ``checkpoints/step_XXXXXXXX/``. It is written under a hidden name by all ranks;
its manifest, with a SHA-256 for each file, is written last, and then the folder is renamed. So a
folder of that name is complete, and one whose hashes do not hold is damaged: it is set aside and
the newest sound one is used. ``checkpoints/latest`` is an ordinary file for people and scripts.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codex_ray.config.train import Checkpoints
from codex_ray.errors import CodexRayError
from codex_ray.files import sha256_of, unwritable, write_json, write_text
from codex_ray.track.metrics import append_row, read_metrics

FORMAT_VERSION = 2
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Found:
    """A sound checkpoint and what its manifest says."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def step(self) -> int:
        """Its optimizer step."""
        step: int = self.manifest["step"]
        return step

    @property
    def world_size(self) -> int:
        """How many workers wrote it."""
        size: int = self.manifest["world_size"]
        return size

    @property
    def compression(self) -> str:
        """How its files are compressed: ``none`` or ``zstd``."""
        compression: str = self.manifest.get("compression", "none")
        return compression

    @classmethod
    def read(cls, folder: Path) -> Found:
        """Read a complete checkpoint's manifest."""
        return cls(folder, json.loads((folder / MANIFEST).read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Entry:
    """What retention goes by: a checkpoint's optimizer step and the figures of that step."""

    step: int
    figures: Mapping[str, Any]

    @classmethod
    def of(cls, step: int, manifest: Mapping[str, Any]) -> Entry:
        """Take it from a manifest, also of format 1, which knew one figure."""
        known = {"validation_loss": manifest.get("validation_loss")}
        return cls(step, manifest.get("figures", known))

    def with_later(self, later: Mapping[int, Mapping[str, Any]]) -> Entry:
        """Return it with the figures that came later than it was written."""
        return Entry(self.step, {**self.figures, **later.get(self.step, {})})


class CheckpointFolder:
    """The ``checkpoints`` folder of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, step: int) -> Path:
        """Where the checkpoint of optimizer step ``step`` lies when complete."""
        return self.folder / step_name(step)

    def staging(self, step: int, writer: str) -> Path:
        """Where ``writer`` works on it meanwhile; the name is that of a left-over if it goes no further."""
        return self.folder / f".{step_name(step)}.{writer}.partial"

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first."""
        found = (step_of(folder.name) for folder in self.folder.glob("step_*"))
        return sorted(step for step in found if step is not None)

    def newest_sound(self, note: Callable[[str], None]) -> Found | None:
        """Return the newest checkpoint whose hashes hold, setting damaged newer ones aside.

        Left-overs of interrupted saves are removed. ``note`` receives a sentence about each
        damaged checkpoint.
        """
        for leftover in self.folder.glob(".step_*.partial"):
            shutil.rmtree(leftover, ignore_errors=True)  # a writer that was cut off may still be there
        for step in reversed(self.steps()):
            folder = self.path(step)
            reason = damage(folder)
            if reason is None:
                return Found.read(folder)
            aside = folder.with_name(f".damaged_{folder.name}")
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
            note(f"checkpoint {folder.name} is damaged ({reason}); it is set aside as {aside.name}")
        return None

    def back(self, every: int) -> int:
        """Remove what is newer than the newest regular checkpoint and return its step.

        One that a stop has left is taken only where there is no other, so that a run goes back to the same
        step whether or not it was stopped in between. With none at all the step is 0.
        """
        steps = self.steps()
        newest = max(steps, default=0)
        regular = [step for step in steps if step % every == 0 and newest - step < every]
        target = max(regular, default=newest)
        for step in steps:
            if step > target:
                self.remove(step)
        if target:
            self.point(target)
        return target

    def commit(self, files: Path, manifest: Mapping[str, Any]) -> Path:
        """Write the manifest of a checkpoint's complete ``files`` and give them its name (one rank only)."""
        target = self.path(manifest["step"])
        write_json(files / MANIFEST, signed({"format_version": FORMAT_VERSION, **manifest}))
        if target.exists():
            self.remove(manifest["step"])
        files.rename(target)
        self.point(manifest["step"])
        return target

    def point(self, step: int) -> None:
        """Have ``latest`` name the checkpoint of a step."""
        write_text(self.folder / "latest", f"{step_name(step)}\n")

    def remove(self, step: int) -> None:
        """Take a checkpoint away; interrupted, it leaves no half under a checkpoint's name."""
        leftover = self.staging(step, "removed")
        shutil.rmtree(leftover, ignore_errors=True)
        self.path(step).rename(leftover)
        shutil.rmtree(leftover)

    def discard(self, writer: str) -> None:
        """Remove what ``writer`` could not finish, at once: other ranks may still write there."""
        for leftover in self.folder.glob(f".step_*.{writer}.partial"):
            with contextlib.suppress(OSError):  # another rank was faster
                shutil.rmtree(leftover.replace(leftover.with_suffix(".given_up.partial")), ignore_errors=True)

    def judge(self, step: int, figures: Mapping[str, Any]) -> None:
        """Keep figures of a step that came later than its checkpoint, for retention to go by.

        Raises:
            CodexRayError: the folder cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        append_row(self._later, {"step": step, **figures})

    def later(self) -> dict[int, dict[str, Any]]:
        """Return what came later, by step."""
        rows: list[dict[str, Any]] = read_metrics(self._later)
        return {row["step"]: row for row in rows}

    @property
    def _later(self) -> Path:
        return self.folder / "later.jsonl"

    def prune(self, settings: Checkpoints, awaited: Collection[int] = ()) -> None:
        """Remove what :func:`surplus` names."""
        later = self.later()
        entries = [self._entry(step).with_later(later) for step in self.steps()]
        for step in surplus(entries, settings, awaited):
            self.remove(step)

    def _entry(self, step: int) -> Entry:
        try:
            return Entry.of(step, Found.read(self.path(step)).manifest)
        except (OSError, ValueError, AttributeError):
            return Entry(step, {})  # damaged, which whoever looks for a sound one will say


def step_name(step: int) -> str:
    """Name the folder of an optimizer step's checkpoint."""
    return f"step_{step:08d}"


def step_of(name: str) -> int | None:
    """Return the optimizer step that a folder's name says, if it is a checkpoint's."""
    found = re.fullmatch(r"step_(\d{8,})", name)
    return int(found[1]) if found else None


def surplus(entries: Sequence[Entry], settings: Checkpoints, awaited: Collection[int] = ()) -> list[int]:
    """Return the steps of checkpoints that need not be kept.

    Kept are the newest, the best by a figure, every so-many-th, and those of steps that are still ``awaited``
    to be measured.
    """
    steps = sorted(entry.step for entry in entries)
    kept = {*steps[-settings.keep_last :], *awaited}
    scored = [(score, entry.step) for entry in entries if (score := _score(entry, settings)) is not None]
    kept |= {step for _, step in sorted(scored)[: settings.keep_best]}
    if settings.keep_every:
        kept |= {step for step in steps if step % settings.keep_every == 0}
    return [step for step in steps if step not in kept]


def unjudged(entry: Entry, settings: Checkpoints) -> str | None:
    """Say that a checkpoint has no figure to be judged by, where it could have one.

    Figures of validation and of tasks are there at some steps only, which is no fault.
    """
    wanted, figures = settings.best_metric, entry.figures
    measured_at_times = (("validation", "validation_loss"), ("evaluation/", "evaluation/"))
    not_due = any(
        wanted.startswith(kind) and not any(name.startswith(sign) for name in figures)
        for kind, sign in measured_at_times
    )
    if not settings.keep_best or wanted in figures or not_due:
        return None
    return (
        f"the checkpoint of step {entry.step} has no figure {wanted} for keep_best to go by; set "
        f"checkpoints.best_metric to one of {', '.join(sorted(figures))}"
    )


def _score(entry: Entry, settings: Checkpoints) -> float | None:
    """Return the figure that says how good a checkpoint is, lower is better; None where it has none."""
    value = entry.figures.get(settings.best_metric)
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return -value if settings.best_mode == "max" else value


def signed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest with its own SHA-256, by which a changed figure in it is found."""
    return {**manifest, "sha256": _digest(manifest)}


def _digest(manifest: Mapping[str, Any]) -> str:
    plain = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def damage(folder: Path) -> str | None:
    """Say what is wrong with a checkpoint folder, or None if every file is as it was written."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files: dict[str, str] = manifest["files"]
        version = manifest["format_version"]
        if version == FORMAT_VERSION and manifest["sha256"] != _digest(manifest):
            return "its manifest has changed since it was written"
    except (OSError, ValueError, KeyError, TypeError):
        return "its manifest is missing or unreadable"
    if version > FORMAT_VERSION:
        raise CodexRayError(
            f"checkpoint {folder} has format {version} and this codex_ray reads up to {FORMAT_VERSION}; "
            "upgrade codex_ray"
        )
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if sha256_of(path) != expected:
            return f"{name} has changed since it was written"
    return None


def writable(folder: Path) -> None:
    """Make a staging folder.

    Raises:
        CodexRayError: the disk is full or the folder cannot be written.
    """
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    except OSError as error:
        raise unwritable(folder, error) from error
