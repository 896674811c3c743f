"""The second place of a run's checkpoints: a folder on another disk, or an object store.

A checkpoint lies there as ``STORAGE/RUN/step_XXXXXXXX/``, file for file, and is complete when its manifest
is there, which is put last and taken away first.
"""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from codex_ray.config.train import Checkpoints
from codex_ray.corpus.sources.listing import within_deadline
from codex_ray.corpus.sources.storage import is_url, key_of, shown, store_of
from codex_ray.files import unwritable
from codex_ray.train.checkpoint import (
    MANIFEST,
    CheckpointFolder,
    Entry,
    Found,
    damage,
    step_name,
    step_of,
    surplus,
)

Result = TypeVar("Result")
BLOCK_BYTES = 2**22


class Store:
    """Checkpoints of one run at ``checkpoints.storage``.

    Args:
        storage: an absolute folder, or an address as :mod:`codex_ray.corpus.sources.storage` takes it.
        run: the run's name.
        seconds: longest wait for one answer.
    """

    def __init__(self, storage: str, run: str, seconds: float) -> None:
        self._url, self._run, self._seconds = storage, run, seconds
        self._files: Any = None
        self.name = f"{shown(storage).rstrip('/')}/{run}"

    @classmethod
    def of(cls, settings: Checkpoints, run: str) -> Store | None:
        """Return the second place of a run's checkpoints, if it has one."""
        if settings.storage is None:
            return None
        return cls(settings.storage, run, settings.timeout_seconds)

    def entries(self) -> list[Entry]:
        """Say what complete checkpoints are there, oldest first.

        Raises:
            CodexRayError: it cannot be reached, or does not answer in time; as all methods do.
        """
        return _complete(self._within(self._manifests, "read"))

    def put(self, step: int, folder: Path, names: Iterable[str]) -> None:
        """Copy files of a checkpoint's folder there."""
        for name in names:
            self._within(partial(self._upload, folder / name, f"{step_name(step)}/{name}"), "written")

    def complete(self, step: int, folder: Path) -> None:
        """Put the manifest: now it counts."""
        self.put(step, folder, [MANIFEST])

    def remove(self, step: int) -> None:
        """Take a checkpoint away, its manifest first."""
        from pyarrow import fs

        def take_away() -> None:
            files, root = self._root()
            place = f"{root}/{step_name(step)}"
            for kind, action, path in (
                (fs.FileType.File, files.delete_file, f"{place}/{MANIFEST}"),
                (fs.FileType.Directory, files.delete_dir, place),
            ):
                if files.get_file_info(path).type == kind:
                    action(path)

        self._within(take_away, "written")

    def prune(
        self, settings: Checkpoints, later: Mapping[int, Mapping[str, Any]], awaited: Collection[int] = ()
    ) -> None:
        """Remove what :func:`surplus` names, and halves that a kill has left; not while one is written.

        ``later`` holds figures by step that came later than their checkpoints.
        """
        manifests = self._within(self._manifests, "read")
        halves = [step for step, manifest in manifests.items() if manifest is None]
        entries = [entry.with_later(later) for entry in _complete(manifests)]
        for step in surplus(entries, settings, awaited) + halves:
            self.remove(step)

    def back(self, step: int) -> None:
        """Remove what is newer than a run that goes back."""
        for entry in self.entries():
            if entry.step > step:
                self.remove(entry.step)

    def fetch(self, step: int, target: Path) -> str | None:
        """Copy a checkpoint into ``target``, a folder that is made; returns what is wrong with it."""

        def get(name: str) -> bool:
            return self._within(partial(self._download, step, name, target), "read", at=target)

        target.mkdir(parents=True)
        if get(MANIFEST):
            for name in json.loads((target / MANIFEST).read_text(encoding="utf-8"))["files"]:
                if not get(name):
                    return f"{name} is missing"
        return damage(target)

    def _manifests(self) -> dict[int, bytes | None]:
        """Read all manifests, by step in order; None where a folder has none."""
        from pyarrow import fs

        files, root = self._root()
        found: dict[int, bytes | None] = {}
        for item in files.get_file_info(fs.FileSelector(root, allow_not_found=True)):
            step = step_of(item.base_name)
            if step is None:
                continue
            try:
                with files.open_input_stream(f"{root}/{item.base_name}/{MANIFEST}") as stream:
                    found[step] = stream.read()
            except FileNotFoundError:
                found[step] = None
        return dict(sorted(found.items()))

    def _root(self) -> tuple[Any, str]:
        if self._files is None:
            from pyarrow import fs

            self._files = store_of(self._url) if is_url(self._url) else fs.LocalFileSystem()
        place = key_of(self._url) if is_url(self._url) else self._url
        return self._files, f"{place.rstrip('/')}/{self._run}"

    def _upload(self, source: Path, name: str) -> None:
        files, root = self._root()
        place = f"{root}/{name}"
        if is_url(self._url):
            _copy(source.open("rb"), files.open_output_stream(place, compression=None))
            return
        # On an object store a key appears whole; here a half must not have the name.
        files.create_dir(place.rpartition("/")[0])
        _copy(source.open("rb"), files.open_output_stream(f"{place}.partial", compression=None))
        files.move(f"{place}.partial", place)

    def _download(self, step: int, name: str, target: Path) -> bool:
        """Fetch one file; False where there is none."""
        files, root = self._root()
        try:
            stream = files.open_input_stream(f"{root}/{step_name(step)}/{name}", compression=None)
        except FileNotFoundError:
            return False
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        _copy(stream, (target / name).open("wb"))
        return True

    def _within(self, action: Callable[[], Result], verb: str, at: Path | None = None) -> Result:
        """Wait for an answer; what the disk at ``at``, or that of a folder, refuses is told as such."""

        def attempt() -> Result:
            try:
                return action()
            except OSError as error:
                if at is not None and error.errno == errno.ENOSPC:
                    raise unwritable(at, error) from error
                if at is None and verb == "written" and not is_url(self._url):
                    raise unwritable(Path(self.name), error) from error
                raise

        return within_deadline(attempt, self.name, seconds=self._seconds, verb=verb)


def newest(folder: CheckpointFolder, store: Store | None, note: Callable[[str], None]) -> Found | None:
    """Return the newest sound checkpoint of the run's folder, or a newer one that only the store has.

    ``note`` receives a sentence about each that is damaged, and about one that is fetched.

    Raises:
        CodexRayError: the store cannot be reached, or the disk is full.
    """
    found = folder.newest_sound(note)
    if store is None:
        return found
    for entry in reversed(store.entries()):
        if found is not None and entry.step <= found.step:
            break
        staging = folder.staging(entry.step, "fetched")
        reason = store.fetch(entry.step, staging)
        if reason is None:
            target = folder.path(entry.step)
            staging.rename(target)
            folder.point(entry.step)
            note(f"checkpoint {target.name} was fetched from {store.name}")
            return Found.read(target)
        shutil.rmtree(staging)
        note(f"checkpoint {step_name(entry.step)} in {store.name} is damaged ({reason}); it is passed over")
    return found


def _complete(manifests: Mapping[int, bytes | None]) -> list[Entry]:
    """Leave out what is not complete, or damaged: the same to who looks for a sound one."""
    found = []
    for step, manifest in manifests.items():
        if manifest is not None:
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                found.append(Entry.of(step, json.loads(manifest)))
    return found


def _copy(source: Any, target: Any) -> None:
    with source, target:
        while block := source.read(BLOCK_BYTES):
            target.write(block)
