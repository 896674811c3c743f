"""Saving while training goes on: the loop stands still for a copy, a thread of each rank does the rest.

    loop      ─ step ─ copy ─ step ─ step ─ step ─ ...          one small vote per step: has a save failed?
    thread             └─ write, hash ─┐
    rank 0             └─ write, hash ─┴─ all shares? manifest, rename, prune
    thread                                └─ upload ─┐
    rank 0                                └─ upload ─┴─ all shares? manifest last, prune

At most one save is in flight: the next one, going back, the export and the end wait for it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist

from codex_ray.config.train import Checkpoints
from codex_ray.errors import CodexRayError
from codex_ray.files import sha256_of, unwritable
from codex_ray.train.checkpoint import CheckpointFolder, Entry, unjudged, writable
from codex_ray.train.engine import Engine
from codex_ray.train.loop import State
from codex_ray.train.packed import write_packed
from codex_ray.train.saving import random_state
from codex_ray.train.shares import GivenUp, Shares
from codex_ray.train.snapshot import HostCopies
from codex_ray.train.store import Store

LOOK_SECONDS = 0.02  # between two votes while a save is waited for
GIVE_UP_SECONDS = 5.0
WRITING = ("written", "its disk")  # what the thread is at, and what it waits for


@dataclass(frozen=True)
class _Save:
    """One save in flight: what is still to be written, and the hashes of what this rank has written."""

    step: int
    staging: Path
    files: Path
    figures: dict[str, Any]
    pending: list[tuple[Callable[[], Any], Path]] = field(default_factory=list)
    hashes: dict[str, str] = field(default_factory=dict)


class Saver:
    """Writes checkpoints of one start of the workers; all ranks make one and call it at the same steps.

    Leaving its ``with`` block finishes a save in flight, unless something unforeseen ends the run.

    Args:
        folder: where checkpoints are kept.
        store: where they are copied to as well, or None.
        settings: of checkpoints.
        facts: returns what the manifest says beside the files; called on rank 0 before a checkpoint is given
            its name, which an error prevents.
        device: where the loop's reductions are done.
        note: tells the user one sentence.
        awaited: returns the steps that are still to be measured, whose checkpoints stay.
    """

    def __init__(
        self,
        folder: CheckpointFolder,
        store: Store | None,
        settings: Checkpoints,
        facts: Callable[[], Mapping[str, Any]],
        device: torch.device,
        note: Callable[[str], None],
        awaited: Callable[[], Collection[int]] = tuple,
    ) -> None:
        self._note, self._noted, self._awaited = note, False, awaited
        self._folder, self._store, self._settings, self._facts = folder, store, settings, facts
        self._rank, self._world, self._device = dist.get_rank(), dist.get_world_size(), device
        self._copies = HostCopies()
        self._thread: threading.Thread | None = None
        self._began = 0.0
        self._phase = WRITING
        self._error: Exception | None = None
        self._given_up = threading.Event()
        # Workers of an earlier start may still live, cut off: they must not write into our files.
        token = [f"{time.time_ns():x}"]
        dist.broadcast_object_list(token, src=0)
        self._token: str = token[0]

    def save(self, engine: Engine, state: State, figures: Mapping[str, Any], **also: Any) -> float:
        """Begin to write ``state``, and ``figures`` of its step, once the save before is complete.

        What this rank is to keep besides comes by the name of its file.

        Returns:
            The seconds that the loop stood still; without ``asynchronous``, until all is written.

        Raises:
            CodexRayError: this save or the one before failed; earlier checkpoints stay.
        """
        began = time.perf_counter()
        self.wait()
        self._began, self._error = time.monotonic(), None
        self._phase = WRITING
        self._given_up.clear()
        staging = self._folder.staging(state.step, self._token)
        save = _Save(state.step, staging, staging / "files", _finite(figures))
        if not self._noted and (told := unjudged(Entry(state.step, figures), self._settings)):
            self._noted = True
            self._note(told)

        def take(contents: Any, path: Path) -> None:
            """Keep a file's contents for the thread; or write them, when there is to be no copy."""
            if self._settings.asynchronous:
                save.pending.append((self._copies.take(contents), path))
            elif self._error is None:
                self._noting_errors(staging, lambda: self._write(save, contents, path))

        if self._rank == 0:
            self._noting_errors(staging, lambda: writable(save.files))
        self._tally()
        self._copies.reuse()
        try:
            engine.save(save.files, asdict(state), take)
        except OSError as error:  # of a small file that DeepSpeed writes on its own
            self._folder.discard(self._token)
            raise unwritable(staging, error) from error
        for name, contents in {"random": random_state(), **also}.items():
            take(contents, save.files / f"{name}_{self._rank}.pt")
        self._copies.settle()
        self._thread = threading.Thread(target=self._beside, args=(save,), name="saver", daemon=True)
        self._thread.start()
        if not self._settings.asynchronous:
            self.wait()
        return time.perf_counter() - began

    @property
    def failed(self) -> bool:
        """Whether this rank knows of a failure; the loop's vote tells the others, and then all wait."""
        return self._error is not None

    def wait(self) -> None:
        """Wait for the save in flight; all ranks take part.

        Raises:
            CodexRayError: it failed on some rank; the sentence is the same on all.
        """
        while self._thread is not None:
            if not self._tally():
                self._thread = None
            elif self._thread is not None:
                self._thread.join(LOOK_SECONDS)

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the thread end before the process does, where others can be relied upon."""
        if self._thread is not None and (error is None or isinstance(error, CodexRayError)):
            self._thread.join(self._settings.timeout_seconds)
        self._given_up.set()
        if self.failed:
            self._folder.discard(self._token)

    def _tally(self) -> bool:
        """Vote with all ranks; returns whether any still writes.

        Raises:
            CodexRayError: any has failed.
        """
        writing = self._thread is not None and self._thread.is_alive()
        if writing and time.monotonic() - self._began > 2 * self._settings.timeout_seconds:
            word, place = self._phase
            self._error = CodexRayError(
                f"rank {self._rank} had not {word} its share of a checkpoint after twice "
                f"checkpoints.timeout_seconds={self._settings.timeout_seconds:g}; see whether {place} still "
                "answers, and run it again with resume=auto"
            )
        votes = torch.tensor([int(writing), int(self.failed)], device=self._device)
        dist.all_reduce(votes)
        if votes[1]:
            self._give_up()
        return bool(votes[0])

    def _give_up(self) -> None:
        """End the save, take what there is of it away, and raise its error on all ranks."""
        self._given_up.set()
        if self._thread is not None:
            self._thread.join(GIVE_UP_SECONDS)
            self._thread = None
        errors: list[CodexRayError | RuntimeError | None] = [None] * self._world
        mine = self._error
        if mine is not None and not isinstance(mine, CodexRayError):
            mine = RuntimeError(f"a checkpoint could not be written: {mine!r}")  # others can unpickle it
        dist.all_gather_object(errors, mine)
        if self._rank == 0:
            self._folder.discard(self._token)
        told = [error for error in errors if error is not None]
        raise next((error for error in told if isinstance(error, CodexRayError)), told[0])

    def _noting_errors(self, staging: Path, action: Callable[[], None]) -> None:
        """Do something of which the loop is told, on all ranks, at its next vote."""
        try:
            action()
        except GivenUp:
            pass
        except CodexRayError as error:
            self._error = error
        except OSError as error:
            self._error = unwritable(staging, error)
        except Exception as error:
            logging.exception("a checkpoint could not be written")
            self._error = error

    def _write(self, save: _Save, contents: Any, path: Path) -> None:
        for folder in reversed(path.relative_to(save.staging).parents[:-1]):
            (save.staging / folder).mkdir(exist_ok=True)  # never staging: once taken away, it stays away
        digest = write_packed(contents, path, self._settings.compression)
        save.hashes[str(path.relative_to(save.files))] = digest

    def _beside(self, save: _Save) -> None:
        """What a thread does while the loop goes on."""
        waits = (self._settings.timeout_seconds, self._given_up)
        shares = Shares(save.staging, self._rank, self._world, *waits)
        if not self.failed:
            self._noting_errors(save.staging, lambda: self._finish(save, shares))
        if self.failed:
            # The loop's vote tells the others; but it may have ended, and they should not wait for us then.
            with contextlib.suppress(OSError):
                shares.say("failed")

    def _finish(self, save: _Save, shares: Shares) -> None:
        """Write, commit and upload."""
        for contents, path in save.pending:
            self._write(save, contents(), path)
            if self._given_up.is_set():
                raise GivenUp
        save.pending.clear()
        shares.say("written", save.hashes)
        if self._rank == 0:
            self._commit(save, shares)
        if self._store is not None:
            self._upload(save, shares, self._store)
        if self._rank == 0:
            shutil.rmtree(save.staging)

    def _commit(self, save: _Save, shares: Shares) -> None:
        hashes = {name: value for share in shares.hear("written") for name, value in share.items()}
        plain = []  # what DeepSpeed has written on its own
        for path in sorted(save.files.rglob("*")):
            name = str(path.relative_to(save.files))
            if path.is_file() and name not in hashes:
                hashes[name] = save.hashes[name] = sha256_of(path)
                plain.append(name)
        manifest = {
            "step": save.step,
            "world_size": self._world,
            "asynchronous": self._settings.asynchronous,
            "compression": self._settings.compression,
            "bytes": sum((save.files / name).stat().st_size for name in hashes),
            "write_seconds": time.monotonic() - self._began,
            "figures": save.figures,
            **self._facts(),
            "files": hashes,
            "plain": plain,
        }
        self._folder.commit(save.files, manifest)
        self._folder.prune(self._settings, self._awaited())

    def _upload(self, save: _Save, shares: Shares, store: Store) -> None:
        if self._rank == 0:
            store.remove(save.step)  # of an earlier start, when this step is done again
            shares.say("committed")
        shares.hear("committed", range(1))
        self._phase = ("uploaded", store.name)
        target = self._folder.path(save.step)
        store.put(save.step, target, save.hashes)
        shares.say("uploaded")
        if self._rank == 0:
            shares.hear("uploaded", at=store.name)
            store.complete(save.step, target)
            store.prune(self._settings, self._folder.later(), self._awaited())


def _finite(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return figures as JSON can hold them."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in figures.items()
    }
