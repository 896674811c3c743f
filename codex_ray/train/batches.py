"""Which rows each global batch takes, and in what pieces: arithmetic, also where batches grow.

Batch b is the positions ``rows.total(b)`` to ``rows.total(b + 1)`` of the training order, cut into sequences
of ``length.at(b)`` tokens. A step takes the batch that its number says, and a later one where batches are
left out (:mod:`codex_ray.train.spikes`). Nothing depends on the number of workers or on where a run resumes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from codex_ray.config.check import BatchPlan, derive_batch
from codex_ray.config.ramps import refuse_lengths
from codex_ray.config.train import Training
from codex_ray.train.spikes import Skips, batch_index, stretches


@dataclass(frozen=True)
class Ramp:
    """A number per batch that changes in stages: pairs (value, batches), then ``last`` for ever."""

    stages: tuple[tuple[int, int], ...]
    last: int

    def at(self, batch: int) -> int:
        """Return the value of batch ``batch``, counted from 0."""
        for value, count in self.stages:
            if batch < count:
                return value
            batch -= count
        return self.last

    def total(self, batches: int) -> int:
        """Return the sum over the first ``batches`` batches."""
        total = 0
        for value, count in self.stages:
            total += value * min(batches, count)
            batches -= min(batches, count)
        return total + self.last * batches

    def reach(self, total: float) -> int:
        """Return the fewest batches whose sum is at least ``total``."""
        batches = 0
        for value, count in self.stages:
            if total <= value * count:
                return batches + math.ceil(total / value)
            total -= value * count
            batches += count
        return batches + math.ceil(total / self.last)

    def changes(self) -> list[int]:
        """Return the batches from which on the value may be another."""
        return list(itertools.accumulate(count for _, count in self.stages))


@dataclass(frozen=True)
class Batches:
    """The global batches of a run.

    Attributes:
        rows: rows of the corpus in each batch.
        length: tokens of the sequences that they are cut into.
        row_length: tokens of a row of the corpus.
        plan: how a batch of the last size is shared out; its ``micro_rows`` hold for all sizes.
        skips: batches that steps leave out.
        updates: steps that take the same batch, one after another; with more than one nothing is left out.
    """

    rows: Ramp
    length: Ramp
    row_length: int
    plan: BatchPlan
    skips: Skips = ()
    updates: int = 1

    @classmethod
    def of(
        cls,
        training: Training,
        row_length: int,
        workers: int,
        *,
        skips: Skips = (),
        fewest: int | None = None,
        prefix: str = "",
    ) -> Batches:
        """Derive them from settings.

        Args:
            training: the batch and its ramps.
            row_length: tokens per row of the corpus.
            workers: training workers; ``fewest``: the batches must divide over every number from this one on.
            skips: batches that steps leave out.
            prefix: dotted prefix of the keys in errors.

        Raises:
            ConfigError: a batch or a row cannot be divided; the sentence holds the numbers.
        """
        refuse_lengths(training, row_length, prefix)
        sizes = [tokens for tokens, _ in training.batch_ramp]
        micro_rows = training.micro_batch_rows
        for number, tokens in enumerate(sizes):
            key = f"train.batch_ramp[{number}][0]"
            derive_batch(tokens, row_length, workers, micro_rows, prefix, fewest=fewest, key=key)
        derive_batch(training.batch_tokens, row_length, workers, micro_rows, prefix, fewest=fewest)
        if micro_rows is None:
            common = math.gcd(training.batch_tokens, *sizes)
            micro_rows = derive_batch(common, row_length, workers, prefix=prefix).micro_rows
        plan = derive_batch(training.batch_tokens, row_length, workers, micro_rows, prefix)
        return cls(
            rows=Ramp(
                tuple((tokens // row_length, count) for tokens, count in training.batch_ramp),
                plan.global_rows,
            ),
            length=Ramp(tuple((length, count) for length, count in training.sequence_ramp), row_length),
            row_length=row_length,
            plan=plan,
            skips=skips,
        )

    @property
    def most_rows(self) -> int:
        """Rows of the largest batch."""
        return max(self.rows.last, *(rows for rows, _ in self.rows.stages), 0)

    def row(self, step: int) -> int:
        """Return the position in the order at which step ``step``, counted from 0, begins."""
        return self.rows.total(batch_index(step // self.updates, self.skips))

    def trained_rows(self, step: int) -> int:
        """Return how many rows ``step`` steps have trained on; what was left out does not count."""
        parts = stretches(0, math.ceil(step / self.updates), self.skips)
        return sum(self.rows.total(first + count) - self.rows.total(first) for first, count in parts)

    def reach(self, rows: float) -> int:
        """Return the fewest steps that train on so many rows."""
        return self.rows.reach(rows) * self.updates

    def stretches(self, step: int, steps: int) -> Iterator[tuple[int, int]]:
        """Cut steps from ``step`` on into pairs (first batch, batches): of one size, one after another."""
        changes = sorted({*self.rows.changes(), *self.length.changes()})
        for first, count in stretches(step, steps, self.skips):
            cuts = [first, *(change for change in changes if first < change < first + count), first + count]
            yield from ((begin, end - begin) for begin, end in itertools.pairwise(cuts))
