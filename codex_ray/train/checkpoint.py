"""Checkpoints: written whole or not at all, verified before use, kept within bounds.

A checkpoint is ``checkpoints/step_XXXXXXXX/``. It is written under a hidden name by all ranks;
its manifest, with a SHA-256 for each file, is written last, and then the folder is renamed. So a
folder of that name is complete, and one whose hashes do not hold is damaged: it is set aside and
the newest sound one is used. ``checkpoints/latest`` is an ordinary file for people and scripts.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codex_ray.config.train import Checkpoints
from codex_ray.errors import CodexRayError
from codex_ray.files import sha256_of, unwritable, write_json, write_text

FORMAT_VERSION = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Found:
    """A sound checkpoint and what its manifest says."""

    folder: Path
    step: int
    world_size: int
    validation_loss: float | None


class CheckpointFolder:
    """The ``checkpoints`` folder of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, step: int) -> Path:
        """Where the checkpoint of optimizer step ``step`` lies when complete."""
        return self.folder / f"step_{step:08d}"

    def staging(self, step: int) -> Path:
        """Where it is while being written."""
        return self.folder / f".step_{step:08d}.partial"

    def newest_sound(self, note: Callable[[str], None]) -> Found | None:
        """Return the newest checkpoint whose hashes hold, setting damaged newer ones aside.

        Left-overs of interrupted saves are removed. ``note`` receives a sentence about each
        damaged checkpoint.
        """
        for leftover in self.folder.glob(".step_*.partial"):
            shutil.rmtree(leftover)
        for folder in sorted(self.folder.glob("step_*"), reverse=True):
            reason = damage(folder)
            if reason is None:
                return read(folder)
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
        steps = sorted(int(folder.name[5:]) for folder in self.folder.glob("step_*"))
        newest = max(steps, default=0)
        regular = [step for step in steps if step % every == 0 and newest - step < every]
        target = max(regular, default=newest)
        for step in steps:
            if step > target:
                shutil.rmtree(self.path(step))
        if target:
            write_text(self.folder / "latest", f"{self.path(target).name}\n")
        return target

    def commit(
        self, step: int, hashes: dict[str, str], *, world_size: int, validation_loss: float | None
    ) -> Path:
        """Write the manifest of a staged checkpoint and give it its name (one rank only)."""
        staging, target = self.staging(step), self.path(step)
        manifest = {
            "format_version": FORMAT_VERSION,
            "step": step,
            "world_size": world_size,
            "validation_loss": validation_loss,
            "files": hashes,
        }
        write_json(staging / MANIFEST, manifest)
        if target.exists():
            shutil.rmtree(target)
        staging.rename(target)
        write_text(self.folder / "latest", f"{target.name}\n")
        return target

    def discard(self, step: int) -> None:
        """Remove a staged checkpoint that could not be finished."""
        shutil.rmtree(self.staging(step), ignore_errors=True)

    def prune(self, settings: Checkpoints) -> None:
        """Keep the newest, and, if asked, the one with the lowest validation loss and every so-many-th."""
        folders = sorted(self.folder.glob("step_*"))
        kept = set(folders[-settings.keep_last :])
        if settings.keep_best:
            scored = [(found.validation_loss, folder) for folder in folders if (found := read(folder))]
            best = [(loss, folder) for loss, folder in scored if loss is not None]
            if best:
                kept.add(min(best)[1])
        if settings.keep_every:
            kept |= {folder for folder in folders if int(folder.name[5:]) % settings.keep_every == 0}
        for folder in folders:
            if folder not in kept:
                shutil.rmtree(folder)


def damage(folder: Path) -> str | None:
    """Say what is wrong with a checkpoint folder, or None if every file is as it was written."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files: dict[str, str] = manifest["files"]
        version = manifest["format_version"]
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


def read(folder: Path) -> Found:
    """Read a complete checkpoint's manifest."""
    manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return Found(folder, manifest["step"], manifest["world_size"], manifest["validation_loss"])


def hash_share(folder: Path, rank: int, world_size: int) -> dict[str, str]:
    """Hash this rank's share of the files under ``folder``, so that large checkpoints hash in parallel."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): sha256_of(path) for path in files[rank::world_size]}


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
