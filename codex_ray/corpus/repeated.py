"""The stage of ``prepare`` that decides which documents of all parts stay, and tells their accounts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codex_ray.config.corpus import Duplicates
from codex_ray.corpus.account import DUPLICATE, NEAR_DUPLICATE, SAMPLES, Account
from codex_ray.corpus.duplicates.find import Labels, Run, find_duplicates
from codex_ray.corpus.parts import HASHES, SIZES, read_part
from codex_ray.corpus.stages import Entry, Stages, finish

VERSION = 1


@dataclass
class Part:
    """One part of a source's documents, in the global order of parts."""

    source: str
    folder: Path
    identity: str
    documents: int
    account: Account


def keep_first(
    parts: Sequence[Part], settings: Duplicates, stages: Stages, run: Run
) -> list[NDArray[np.bool_]]:
    """Return for every part which documents stay, and move the others in the parts' accounts."""
    flags = np.ones(sum(part.documents for part in parts), dtype=bool)
    starts = np.cumsum([0, *(part.documents for part in parts)])
    if settings.exact or settings.near:
        key = {"version": VERSION, "parts": [part.identity for part in parts], "settings": asdict(settings)}
        entry = stages.entry("duplicates", key)
        labels = _labels(parts, settings, entry, run)
        own = np.arange(len(flags))
        exact = labels.first_exact != own
        near = (labels.first_near != own) & ~exact if settings.near else np.zeros(len(flags), dtype=bool)
        for rule, repeated, first in (
            (DUPLICATE, exact, labels.first_exact),
            (NEAR_DUPLICATE, near, labels.first_near),
        ):
            flags &= ~repeated
            _account(parts, starts, rule, repeated, first)
    return [flags[start : start + part.documents] for start, part in zip(starts[:-1], parts, strict=True)]


def _labels(parts: Sequence[Part], settings: Duplicates, entry: Entry, run: Run) -> Labels:
    if entry.result() is None:
        with entry.making() as folder:
            found = find_duplicates([part.folder / HASHES for part in parts], settings, run)
            np.save(folder / "first_exact.npy", found.first_exact)
            np.save(folder / "first_near.npy", found.first_near)
            finish(folder, {})
        return found
    return Labels(np.load(entry.folder / "first_exact.npy"), np.load(entry.folder / "first_near.npy"))


def _account(
    parts: Sequence[Part],
    starts: NDArray[Any],
    rule: str,
    repeated: NDArray[np.bool_],
    first: NDArray[np.int64],
) -> None:
    for start, part in zip(starts[:-1], parts, strict=True):
        places = np.flatnonzero(repeated[start : start + part.documents])
        if not len(places):
            continue
        sizes = np.load(part.folder / SIZES)
        for size in sizes[places].tolist():
            part.account.repeated(rule, size)
        shown: list[int] = places[:SAMPLES].tolist()
        texts = {document.place: document for document in read_part(part.folder, _one_of(shown))}
        for place in shown:
            other = _name(parts, starts, int(first[start + place]))
            document = texts[place]
            part.account.sample(rule, document.name, f"as {other}", document.text)


def _one_of(places: Sequence[int]) -> Callable[[int, bytes], bool]:
    return lambda place, sha256: place in places


def _name(parts: Sequence[Part], starts: NDArray[Any], index: int) -> str:
    number = int(np.searchsorted(starts, index, side="right")) - 1
    place = index - int(starts[number])
    found = read_part(parts[number].folder, _one_of([place]), columns=("name",))
    return next(document.name for document in found)
