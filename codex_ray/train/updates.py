"""Several optimizer steps from one batch of rollouts: which of its rows each takes, and what is kept.

A batch is gone over ``epochs`` times, each time in ``minibatches`` parts. Which part a row is in follows from
its number in the batch and not from the rank that holds it: of every ``minibatches`` rows, one after another,
one goes into each part, by a seeded draw. So parts are equally large, each has about equally much of every
group and of every rank, and ranks of another number have the same ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from codex_ray.train.objectives.sequences import Sequences

NUMBER = "number"  # by which a row is known: of its prompt in the batch times samples, plus the sample


@dataclass(frozen=True)
class Updates:
    """How often a batch is gone over, and in how many parts; ``seed``: of the draws."""

    seed: int
    epochs: int = 1
    minibatches: int = 1

    @property
    def count(self) -> int:
        """Optimizer steps of a batch."""
        return self.epochs * self.minibatches

    def part(self, batch: int, update: int, numbers: Sequence[int]) -> list[int]:
        """Return places of the rows that an update takes.

        Args:
            batch: which one; ``update``: of its updates, from 0.
            numbers: of the rows that there are.
        """
        epoch, part = divmod(update, self.minibatches)
        orders: dict[int, list[int]] = {}

        def part_of(number: int) -> int:
            block, place = divmod(number, self.minibatches)
            if block not in orders:
                spawn_key = (batch, epoch, block)
                draw = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=spawn_key))
                orders[block] = draw.permutation(self.minibatches).tolist()
            return orders[block][place]

        return [place for place, number in enumerate(numbers) if part_of(number) == part]


@dataclass(frozen=True)
class Kept:
    """A rank's rows of the batch that several updates take, in the order of their numbers."""

    batch: int
    rows: Sequences

    @classmethod
    def of(cls, batch: int, parts: Sequence[Sequences]) -> Kept:
        """Put micro-batches together; rows without a token that counts have nothing to say."""
        whole = Sequences.joined(parts)
        counting = whole.mask_BS.any(1).tolist()
        numbers = whole.rows[NUMBER].tolist()
        order = sorted((numbers[row], row) for row, counts in enumerate(counting) if counts)
        return cls(batch, whole.take([row for _, row in order]))

    @property
    def numbers(self) -> list[int]:
        """The rows' numbers, rising."""
        return [int(number) for number in self.rows.rows[NUMBER].tolist()]

    def state(self) -> dict[str, Any]:
        """Return tensors and numbers alone, for a checkpoint."""
        return {"batch": self.batch} | {one.name: getattr(self.rows, one.name) for one in fields(self.rows)}

    @classmethod
    def from_states(cls, states: Sequence[dict[str, Any]], rank: int, world_size: int) -> Kept:
        """Make of what ranks kept, as many as there were, the part of one of those that there are now."""
        parts = [Sequences(**{k: v for k, v in state.items() if k != "batch"}) for state in states]
        batch = int(states[0]["batch"])
        if len(states) == world_size:
            return cls(batch, parts[rank])
        whole = cls.of(batch, parts)
        count = len(whole.numbers)
        own = range(count * rank // world_size, count * (rank + 1) // world_size)
        return cls(batch, whole.rows.take(list(own)))

    def to(self, device: torch.device) -> Kept:
        """The same on another device."""
        return Kept(self.batch, self.rows.to(device))


def digest(number: int, ids: Sequence[int]) -> int:
    """Name what was sampled, so that two runs can be seen to have trained on the same."""
    return int.from_bytes(hashlib.blake2b(f"{number} {list(ids)}".encode(), digest_size=4).digest(), "big")


def digest_of(rows: Sequences) -> int:
    """Add up the names of rows with numbers."""
    ids = zip(rows.input_ids_BS.tolist(), rows.lengths_B.tolist(), strict=True)
    numbered = zip(rows.rows[NUMBER].tolist(), ids, strict=True)
    return sum(digest(int(number), row[:length]) for number, (row, length) in numbered)
