"""Loss on held-out rows while training: the same rows every time, shared out among the workers."""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.distributed as dist

from codex_ray.config.check import BatchPlan
from codex_ray.corpus.manifest import Manifest
from codex_ray.corpus.stream import open_stream
from codex_ray.train.engine import Engine
from codex_ray.train.objectives.next_token import NextToken

ORDER_SEED = 1  # the rows measured must not change with the run's seed


class Validator:
    """Measures the mean loss over the first rows of the validation split, in a fixed order."""

    def __init__(
        self, corpus: Path, manifest: Manifest, rows: int, batch: BatchPlan, device: torch.device
    ) -> None:
        rank, world = dist.get_rank(), dist.get_world_size()
        split = manifest.splits.get("validation")
        available = split.rows if split else 0
        count = min(rows, available) // world * world  # ZeRO-3 needs equal work on every rank
        self._micro_batches: list[torch.Tensor] = []
        if count == 0 or split is None:
            return
        stream = open_stream(
            corpus,
            "validation",
            kind="direct",
            seed=ORDER_SEED,
            first_step=0,
            steps=1,
            batch_rows=count,
            rank=rank,
            world_size=world,
        )
        input_ids_BS = torch.from_numpy(next(stream).tokens.astype("int64")).to(device)
        self._micro_batches = list(input_ids_BS.split(batch.micro_rows))
        self._tokens_per_byte = split.tokens / split.bytes

    def measure(self, engine: Engine, objective: NextToken) -> dict[str, float]:
        """Return ``validation_loss`` (nats per token) and an estimate of bits per byte from it."""
        if not self._micro_batches:
            return {}
        engine.module.eval()
        total = dist.get_world_size() * sum(objective.weight(micro) for micro in self._micro_batches)
        loss = torch.zeros((), dtype=torch.float64, device=self._micro_batches[0].device)
        with torch.no_grad():
            for micro in self._micro_batches:
                loss += objective.loss(engine.forward, micro, total)
        engine.module.train()
        dist.all_reduce(loss)
        nats = loss.item()
        return {
            "validation_loss": nats,
            "validation_bits_per_byte": nats / math.log(2) * self._tokens_per_byte,
        }
