"""Where batches come from. A source gives this rank's share of each global batch, in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from codex_ray.corpus.direct import DirectStream, digest
from codex_ray.corpus.manifest import Manifest
from codex_ray.corpus.mixture import Mixture
from codex_ray.corpus.order import Order
from codex_ray.corpus.ray_stream import RayStream
from codex_ray.corpus.stream import open_stream
from codex_ray.train.batches import Batches

OPEN_END = 2**40  # steps asked of a source when the run's end is not decided yet


@dataclass(frozen=True)
class Batch:
    """This rank's share of one global batch.

    ``digest`` sums, over rows, a checksum of the row's tokens and of its position in the global
    order; summed over ranks it names the global batch, whatever the number of ranks. Micro-batches are what
    the objective takes, all ranks have as many; each has a ``shape``: rows, and tokens per row. ``tokens``
    is how many they hold where rows are not all alike; ``figures`` are recorded with the step. ``prepared``
    says that the objective has seen them already, for several steps at once.
    """

    micro_batches: list[Any]
    digest: int
    wait_seconds: float
    tokens: int | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    prepared: bool = False


class Source(Protocol):
    """Gives batches from a given optimizer step on; closing frees what it holds."""

    def next(self) -> Batch:
        """Return the next optimizer step's batch."""

    def kept(self) -> Mapping[str, Any]:
        """Return what a checkpoint must hold of this rank for the next step, by a name for each."""

    def saved(self) -> dict[str, Any]:
        """Return what a checkpoint must hold that is the same on every rank: plain data."""

    def restore(self, read: Callable[[str], list[Any]]) -> None:
        """Take up again what was kept: ``read`` gives what all ranks have kept by a name."""

    def close(self) -> None:
        """Stop reading."""


class CorpusSource:
    """Packed rows of a corpus split, in the seeded global order."""

    def __init__(
        self,
        corpus: Path,
        *,
        kind: str,
        seed: int,
        batches: Batches,
        first_step: int,
        steps: int,
        rank: int,
        world_size: int,
        device: torch.device,
    ) -> None:
        self._batches, self._device = batches, device
        self._stretches = list(batches.stretches(first_step, steps))
        self._length = batches.row_length
        self._open = partial(
            open_stream,
            corpus,
            "train",
            kind=kind,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )
        self._stream = self._following()

    def next(self) -> Batch:
        """Return the next optimizer step's sequences, int64, each micro-batch [sequences, length]."""
        started = time.perf_counter()
        rows = next(self._stream, None)
        while rows is None and self._stretches:
            self.close()
            self._stream = self._following()
            rows = next(self._stream, None)
        if rows is None:
            raise StopIteration
        waited = time.perf_counter() - started
        input_ids_BS = torch.from_numpy(rows.tokens.astype(np.int64)).to(self._device)
        micro_batches = input_ids_BS.split(self._batches.plan.micro_rows)
        return Batch([micro.reshape(-1, self._length) for micro in micro_batches], digest(rows), waited)

    def kept(self) -> Mapping[str, Any]:
        """Nothing: the order is arithmetic."""
        return {}

    def saved(self) -> dict[str, Any]:
        """Nothing, too."""
        return {}

    def restore(self, read: Callable[[str], list[Any]]) -> None:
        """Nothing was kept."""

    def close(self) -> None:
        """Shut the stream down."""
        self._stream.close()

    def _following(self) -> DirectStream | RayStream:
        first, count = self._stretches.pop(0) if self._stretches else (0, 0)
        rows, self._length = self._batches.rows.at(first), self._batches.length.at(first)
        shift = self._batches.rows.total(first) - first * rows
        return self._open(first_step=first, steps=count, batch_rows=rows, shift=shift)


def sources_used(manifest: Manifest, order: Order | Mixture, positions: int) -> dict[str, float]:
    """Say how much of each source the first ``positions`` positions of training take.

    Returns:
        ``source/NAME/rows`` and ``source/NAME/epochs``; nothing where there is only one source.
    """
    if not isinstance(order, Mixture):
        return {}
    figures: dict[str, float] = {}
    for source, rows in zip(manifest.splits["train"].sources, order.drawn(positions), strict=True):
        figures[f"source/{source.source}/rows"] = rows
        figures[f"source/{source.source}/epochs"] = rows / source.rows if source.rows else 0.0
    return figures
