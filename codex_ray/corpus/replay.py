"""Old rows that are seen again among new ones: examples, those of another run, or the text of a corpus."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codex_ray.config.finetune import Examples
from codex_ray.config.followed import Replay
from codex_ray.corpus import manifest as manifests
from codex_ray.corpus.direct import RowReader
from codex_ray.corpus.example_rows import RECORDS, Held, Lines
from codex_ray.corpus.examples import NAME, ExampleReader
from codex_ray.corpus.manifest import Manifest
from codex_ray.corpus.marked import BEGINS, IDS, LEARNT, mark
from codex_ray.errors import CodexRayError
from codex_ray.tokenizer.conversation import ChatTemplate
from codex_ray.track.progress import Progress

READ_ROWS = 4096


@dataclass(frozen=True)
class RowsAgain:
    """Examples in the columns of the new ones."""

    share: float
    reader: ExampleReader

    @property
    def request(self) -> str:
        """See :class:`codex_ray.corpus.examples.OldRows`."""
        return self.reader.request

    def read(self, progress: Progress) -> Held:
        """See :class:`codex_ray.corpus.examples.OldRows`."""
        held, _ = self.reader.read(progress, "old examples")
        return held["train"]


@dataclass(frozen=True)
class FolderAgain:
    """Packed rows: examples of another run, or a corpus, whose documents are examples that are learnt whole.

    Of a corpus the first ``most`` rows of its seeded order are taken. Rows longer than ``length`` are cut.
    """

    share: float
    manifest: Manifest
    length: int
    most: int
    seed: int
    special_ids: tuple[int | None, int, int]  # of what begins and ends a text, and of padding

    @property
    def request(self) -> str:
        """See :class:`codex_ray.corpus.examples.OldRows`."""
        asked = [self.manifest.fingerprint, self.length, self.most, self.seed]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()

    def read(self, progress: Progress) -> Held:
        """See :class:`codex_ray.corpus.examples.OldRows`."""
        held, marked, records = Held(), is_examples(self.manifest), None
        count = self.manifest.split("train").rows
        reader = RowReader(self.manifest, "train", cached_groups=4)
        with progress.stage("old rows"):
            if marked:
                rows = np.arange(count, dtype=np.int64)
                path = self.manifest.folder / "train" / RECORDS
                records = Lines(path) if path.is_file() else None
            else:
                rows = self.manifest.order("train", self.seed).rows(0, min(count, self.most))
            for number, row in enumerate(chain.from_iterable(map(reader.take, _parts(rows)))):
                example = _without_padding(row) if marked else self._text(row)
                for start in range(0, len(example), self.length):
                    record = records[number] if records else None
                    held.add(_begun(example[start : start + self.length]), record=record)
        return held

    def _text(self, row: NDArray[np.unsignedinteger]) -> NDArray[np.uint32]:
        """Mark a row of text: every document begins by itself, and all but its first token is learnt."""
        begin, end, pad = self.special_ids
        ids = row.astype(np.uint32)
        filled = np.flatnonzero(ids != pad)
        size = int(filled[-1]) + 1 if len(filled) else 0
        if pad == end and size < len(ids):
            size += 1  # the last document's own end
        ids = ids[:size]
        starts = np.zeros(size, dtype=np.bool_)
        starts[1:] = ids[:-1] == end
        if begin is not None and begin != end:
            starts |= ids == begin
        starts[:1] = True
        return np.where(starts, ids | np.uint32(BEGINS), ids | np.uint32(LEARNT)).astype(np.uint32)


def _parts(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Cut numbers of rows into those that are read at a time."""
    return (rows[start : start + READ_ROWS] for start in range(0, len(rows), READ_ROWS))


def open_replay(
    wanted: Replay,
    data: Examples,
    template: ChatTemplate,
    *,
    length: int,
    seed: int,
    kind: str,
) -> RowsAgain | FolderAgain | None:
    """Return the old rows of a run; None where it has none.

    Args:
        wanted: which they are; ``data``: the settings of the new ones, whose columns they have.
        template: of the model; ``length``: tokens of a row.
        seed: of a corpus' order; ``kind``: what the rows are, as for the new ones.

    Raises:
        CodexRayError: they are not there, or cannot stand beside the new ones.
    """
    if wanted.path is None:
        return None
    folder = Path(wanted.path).expanduser()
    if not (folder / manifests.NAME).is_file():
        own = replace(data, path=wanted.path, validation=0.0)
        reader = ExampleReader(own, template, length=length, seed=seed, kind=kind, key="replay.path")
        return RowsAgain(wanted.share, reader)
    manifest = Manifest.load(folder)
    manifest.verify(deep=False)
    _refuse_unlike(manifest, wanted.path, template, length, kind)
    ids = template.tokenizer.special_ids
    return FolderAgain(
        wanted.share,
        manifest,
        length,
        wanted.rows,
        seed,
        (template.tokenizer.bos_id, ids["eos"], ids["pad"]),
    )


def is_examples(manifest: Manifest) -> bool:
    """Whether rows are marked examples, and not text."""
    return bool(manifest.settings.get("pack", {}).get("method") == NAME)


def _refuse_unlike(manifest: Manifest, path: str, template: ChatTemplate, length: int, kind: str) -> None:
    if manifest.tokenizer_digest != template.tokenizer.digest:
        raise CodexRayError(
            f"replay.path={path} was made with another tokenizer than the model's; give rows of text or of "
            "examples instead, which are encoded anew"
        )
    held = manifest.settings["pack"].get("kind", "answers") if is_examples(manifest) else "text"
    fitting = {"answers": ("answers", "text")}.get(kind, (kind,))
    if held not in fitting:
        raise CodexRayError(
            f"replay.path={path} holds {held}, and this method learns from {kind}; give a file of rows of "
            f"{kind}"
        )
    if is_examples(manifest) and manifest.sequence_length > length:
        raise CodexRayError(
            f"replay.path={path} has rows of {manifest.sequence_length} tokens; give data.sequence_length="
            f"{manifest.sequence_length} or more"
        )


def _without_padding(row: NDArray[np.uint32]) -> NDArray[np.uint32]:
    learnt = np.flatnonzero(row & np.uint32(LEARNT))
    return row[: int(learnt[-1]) + 1] if len(learnt) else row[:0]


def _begun(piece: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Have a piece begin as an example does: nothing stands before its first token."""
    return mark(piece & np.uint32(IDS | BEGINS), (piece & np.uint32(LEARNT)) != 0)
