"""Batches of what the model itself has just answered: prompts in a seeded order, sampled by a pool.

Every rank takes part: the weights are gathered by all, rank 0 publishes them and asks for the step's
sequences, and each rank collects its share and makes it what the objective takes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist

from codex_ray.corpus.direct import RowReader
from codex_ray.corpus.example_rows import RECORDS, Lines
from codex_ray.corpus.manifest import Manifest
from codex_ray.corpus.marked import prompt_of
from codex_ray.errors import CodexRayError
from codex_ray.rollout.episode import Prompt, Rollout
from codex_ray.rollout.pool import RolloutPool
from codex_ray.rollout.steps import to_submit
from codex_ray.train.batches import Batches
from codex_ray.train.engine import Engine
from codex_ray.train.source import Batch
from codex_ray.train.updates import NUMBER, Kept, Updates, digest, digest_of

GATE_PROMPTS = 16  # looked at before self-distillation begins
KEPT = "rollouts"  # name of the files of a checkpoint that is amid a batch

Learnable = Callable[[Sequence[Rollout]], tuple[Any, dict[str, float]]]
"""Makes a rank's rollouts sequences that can be split into micro-batches; also figures to be added up."""

Prepare = Callable[[list[Any]], list[Any]]
"""Adds to micro-batches what the objective wants of them."""


class Controller(Protocol):
    """Chooses what each step's prompts are, from what came of those before; on every rank the same.

    It learns what came of them where ``learnable`` does.
    """

    def prompts(self, step: int) -> list[Prompt]:
        """Return the prompts of the step that follows what was learnt so far."""

    def saved(self) -> dict[str, Any]:
        """Return all that it knows, for a checkpoint: plain data."""

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from what :meth:`saved` returned."""


@dataclass
class Prompts:
    """The prompts of a folder of examples, in the order of a run."""

    manifest: Manifest
    seed: int

    def __post_init__(self) -> None:
        self._order = self.manifest.order("train", self.seed)
        self._reader = RowReader(self.manifest, "train", cached_groups=4)
        self._records = Lines(self.manifest.folder / "train" / RECORDS)

    def at(self, first: int, count: int) -> list[Prompt]:
        """Return the prompts at ``count`` positions from ``first`` on, each with its row as the problem."""
        rows = self._order.at(np.arange(first, first + count, dtype=np.int64))
        found = self._reader.take(rows)
        return [
            Prompt(prompt_of(row), json.loads(self._records[number])[0])
            for number, row in zip(rows.tolist(), found, strict=True)
        ]


class RolloutSource:
    """Samples sequences from the newest weights, or from those of the batch before, and trains on them.

    Args:
        pool: that samples.
        prompts: what it answers; ``batches``: how many of them are answered at a time.
        samples: answers to each.
        controller: chooses the prompts in place of that order; without staleness alone.
        learnable: makes rollouts what the objective takes.
        updates: optimizer steps from each batch of them.
        micro_batch_tokens: tokens of a micro-batch, padding included.
        device: where they are wanted.
        moved: called about once a second while this waits.
        note: tells the user one sentence, from one rank.
    """

    def __init__(
        self,
        pool: RolloutPool,
        prompts: Prompts,
        batches: Batches,
        *,
        samples: int,
        learnable: Learnable,
        updates: Updates,
        micro_batch_tokens: int,
        device: torch.device,
        moved: Callable[[], None],
        note: Callable[[str], None],
        controller: Controller | None = None,
    ) -> None:
        self._controller = controller
        self._pool, self.prompts, self._batches, self._samples = pool, prompts, batches, samples
        self._learnable, self._updates, self._micro_batch_tokens = learnable, updates, micro_batch_tokens
        self._device, self._moved, self._note = device, moved, note
        self._rank, self._world = dist.get_rank(), dist.get_world_size()
        self._engine: Engine | None = None
        self._kept: Kept | None = None
        self._step = self._first = 0

    def restore(self, read: Callable[[str], list[Any]]) -> None:
        """Take up again what :meth:`kept` gave to a checkpoint."""
        states = read(KEPT)
        if states:
            self._kept = Kept.from_states(states, self._rank, self._world).to(self._device)

    def begin(
        self, engine: Engine, prepare: Prepare, step: int, total_steps: int, saved: dict[str, Any]
    ) -> None:
        """Have the engine's weights sample from ``step`` on; every rank takes part.

        Args:
            engine: that trains.
            prepare: has the objective see a batch that serves several steps.
            step: the next one; ``total_steps``: how many there will be.
            saved: what :meth:`saved` gave to the checkpoint.
        """
        if self._controller is not None and saved:
            self._controller.restore(saved)
        self._engine, self._prepare, self._step = engine, prepare, step
        self._first = -(-step // self._updates.count)
        self._last = (total_steps - 1) // self._updates.count
        if self._rank == 0:
            self._pool.begin()
        dist.barrier()

    def next(self) -> Batch:
        """Return the next optimizer step's sequences."""
        batch, update = divmod(self._step, self._updates.count)
        self._step += 1
        if self._updates.count == 1:
            learnt, sampled = self._sampled(batch)
            return replace(sampled, micro_batches=self._split(learnt))
        began = Batch([], 0, 0.0)
        if update == 0:
            learnt, began = self._sampled(batch)
            self._kept = Kept.of(batch, self._prepare(self._split(learnt)))
        kept = self._kept
        if kept is None or kept.batch != batch:
            raise CodexRayError(
                f"the checkpoint of step {self._step - 1} holds no rollouts of batch {batch}, which it is "
                "amid; begin the run again under another name=NAME"
            )
        rows = kept.rows.take(self._updates.part(batch, update, kept.numbers))
        tokens = int(rows.lengths_B.sum())
        return Batch(
            self._split(rows), digest_of(rows), began.wait_seconds, tokens, began.figures, prepared=True
        )

    def kept(self) -> dict[str, Any]:
        """Return the batch that further steps will take, where there are any."""
        amid = self._step % self._updates.count > 0
        return {KEPT: self._kept.state()} if amid and self._kept is not None else {}

    def close(self) -> None:
        """Nothing is held: the pool belongs to the driver."""

    def _sampled(self, batch: int) -> tuple[Any, Batch]:
        """Return this rank's share of a batch as the objective takes it, and what is known of it."""
        started = time.perf_counter()
        assert self._engine is not None, "begin comes first"
        weights = self._engine.trained_weights()
        if self._rank == 0:
            sampled = self._pool.layout.shapes  # of which a value head is none
            self._pool.publish(batch, {name: weights[name] for name in weights if name in sampled})
            for ahead in to_submit(batch, self._first, self._pool.settings.staleness, self._last):
                self._pool.submit(ahead, batch, self._prompts_of(ahead), self._samples)
        share = self._pool.collect(batch, self._rank, self._world, alive=self._moved)
        for text in share.notes:
            self._note(text)
        numbers = [rollout.position * self._samples + rollout.sample for rollout in share.rollouts]
        learnt, own = self._learnable(share.rollouts)
        if self._updates.count > 1:
            learnt = learnt.with_rows(**{NUMBER: torch.tensor(numbers, dtype=torch.float32)})
        figures = {**share.figures, **_figures(share.rollouts, own, self._device)}
        return learnt, Batch(
            [],
            sum(digest(number, rollout.ids) for number, rollout in zip(numbers, share.rollouts, strict=True)),
            time.perf_counter() - started,
            sum(len(rollout.ids) for rollout in share.rollouts),
            figures,
        )

    def saved(self) -> dict[str, Any]:
        """What of this a checkpoint holds: prompts in an order follow from the step."""
        return self._controller.saved() if self._controller is not None else {}

    def _prompts_of(self, batch: int) -> list[Prompt]:
        if self._controller is not None:
            return self._controller.prompts(batch)
        position = self._batches.row(batch * self._updates.count)
        return self.prompts.at(position, self._batches.plan.global_rows)

    def _split(self, learnt: Any) -> list[Any]:
        """Cut into micro-batches on the device, on every rank as many as on the one that needs most."""
        own = len(learnt.split(self._micro_batch_tokens))
        most = torch.tensor([own], dtype=torch.int64, device=self._device)
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        parts = learnt.split(self._micro_batch_tokens, at_least=int(most.item()))
        return [part.to(self._device) for part in parts]


def _figures(rollouts: Sequence[Rollout], others: dict[str, float], device: torch.device) -> dict[str, float]:
    """Over all ranks: mean reward and length, the share cut for want of room, and sums of the others."""
    rewards = [rollout.reward for rollout in rollouts if rollout.reward is not None]
    own = [
        float(len(rollouts)),
        float(sum(sum(rollout.mask) for rollout in rollouts)),
        float(sum(rollout.finish_reason == "length" for rollout in rollouts)),
        float(len(rewards)),
        float(sum(rewards)),
        *others.values(),
    ]
    sums = torch.tensor(own, dtype=torch.float64, device=device)
    dist.all_reduce(sums)
    count, length, truncated, scored, reward, *added = sums.tolist()
    figures = {"rollout/length": length / max(1, count), "rollout/truncated_share": truncated / max(1, count)}
    figures |= dict(zip(others, added, strict=True))
    if scored:
        figures["reward"] = reward / scored
    return figures
