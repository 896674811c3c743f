"""Batches of what the model itself has just answered: prompts in a seeded order, sampled by a pool.

Every rank takes part: the weights are gathered by all, rank 0 publishes them and asks for the step's
sequences, and each rank collects its share and makes it what the objective takes.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist

from codex_ray.corpus.direct import RowReader
from codex_ray.corpus.examples import RECORDS
from codex_ray.corpus.manifest import Manifest
from codex_ray.corpus.marked import prompt_of
from codex_ray.corpus.order import Order
from codex_ray.errors import CodexRayError
from codex_ray.rollout.episode import Prompt, Rollout
from codex_ray.rollout.pool import RolloutPool
from codex_ray.rollout.steps import to_submit
from codex_ray.train.batches import Batches
from codex_ray.train.engine import Engine
from codex_ray.train.source import Batch

GATE_PROMPTS = 16  # looked at before self-distillation begins

Learnable = Callable[[Sequence[Rollout]], tuple[Any, dict[str, float]]]
"""Makes a rank's rollouts sequences that can be split into micro-batches; also figures to be added up."""


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
        order = self.manifest.order("train", self.seed)
        assert isinstance(order, Order)  # examples are of one source
        self._order, self._reader = order, RowReader(self.manifest, "train", cached_groups=4)
        path = self.manifest.folder / "train" / RECORDS
        self._records = _lines(path)

    def at(self, first: int, count: int) -> list[Prompt]:
        """Return the prompts at ``count`` positions from ``first`` on, each with its row as the problem."""
        rows = self._order.at(np.arange(first, first + count, dtype=np.int64))
        found = self._reader.take(rows)
        return [
            Prompt(prompt_of(row), json.loads(self._records[number])[0])
            for number, row in zip(rows.tolist(), found, strict=True)
        ]


class RolloutSource:
    """Samples each step's sequences from the newest weights, or from those of the step before.

    Args:
        pool: that samples.
        prompts: what it answers; ``batches``: how many of them a step takes.
        samples: answers to each.
        controller: chooses the prompts in place of that order; without staleness alone.
        learnable: makes rollouts what the objective takes.
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
        micro_batch_tokens: int,
        device: torch.device,
        moved: Callable[[], None],
        note: Callable[[str], None],
        controller: Controller | None = None,
    ) -> None:
        self._controller = controller
        self._pool, self.prompts, self._batches, self._samples = pool, prompts, batches, samples
        self._learnable, self._micro_batch_tokens = learnable, micro_batch_tokens
        self._device, self._moved, self._note = device, moved, note
        self._rank, self._world = dist.get_rank(), dist.get_world_size()
        self._engine: Engine | None = None
        self._step = self._first = 0

    def begin(self, engine: Engine, step: int, total_steps: int, saved: dict[str, Any]) -> None:
        """Have the engine's weights sample from ``step`` on; every rank takes part."""
        if self._controller is not None and saved:
            self._controller.restore(saved)
        self._engine, self._step, self._first, self._last = engine, step, step, total_steps - 1
        if self._rank == 0:
            self._pool.begin()
        dist.barrier()

    def next(self) -> Batch:
        """Return the next optimizer step's sequences."""
        started = time.perf_counter()
        assert self._engine is not None, "begin comes first"
        weights = self._engine.trained_weights()
        if self._rank == 0:
            sampled = self._pool.layout.shapes  # of which a value head is none
            self._pool.publish(self._step, {name: weights[name] for name in weights if name in sampled})
            for step in to_submit(self._step, self._first, self._pool.settings.staleness, self._last):
                self._pool.submit(step, self._step, self._prompts_of(step), self._samples)
        share = self._pool.collect(self._step, self._rank, self._world, alive=self._moved)
        for text in share.notes:
            self._note(text)
        self._step += 1
        learnt, own = self._learnable(share.rollouts)
        parts = self._split(learnt)
        waited = time.perf_counter() - started
        tokens = sum(len(rollout.ids) for rollout in share.rollouts)
        digest = sum(_digest(rollout) for rollout in share.rollouts)
        figures = {**share.figures, **_figures(share.rollouts, own, self._device)}
        return Batch([part.to(self._device) for part in parts], digest, waited, tokens, figures)

    def close(self) -> None:
        """Nothing is held: the pool belongs to the driver."""

    def saved(self) -> dict[str, Any]:
        """What of this a checkpoint holds: prompts in an order follow from the step."""
        return self._controller.saved() if self._controller is not None else {}

    def _prompts_of(self, step: int) -> list[Prompt]:
        if self._controller is not None:
            return self._controller.prompts(step)
        return self.prompts.at(self._batches.row(step), self._batches.plan.global_rows)

    def _split(self, learnt: Any) -> list[Any]:
        """Cut into micro-batches, on every rank as many as on the one that needs most."""
        own = len(learnt.split(self._micro_batch_tokens))
        most = torch.tensor([own], dtype=torch.int64, device=self._device)
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        parts: list[Any] = learnt.split(self._micro_batch_tokens, at_least=int(most.item()))
        return parts


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise CodexRayError(f"{path} cannot be read ({error.strerror}); begin the run again") from error


def _digest(rollout: Rollout) -> int:
    """Name what was sampled, so that two runs can be seen to have trained on the same."""
    place = f"{rollout.position} {rollout.sample} {rollout.ids}"
    return int.from_bytes(hashlib.blake2b(place.encode(), digest_size=4).digest(), "big")


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
