"""Loss on held-out rows while training: the same rows every time, shared out among the workers."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from codex_ray.config.check import BatchPlan
from codex_ray.corpus.direct import RowReader
from codex_ray.corpus.manifest import Manifest
from codex_ray.corpus.mixture import apportion
from codex_ray.train.loop import global_weight
from codex_ray.train.objectives.objective import Objective, add_up_over_ranks

ORDER_SEED = 1  # the rows measured must not change with the run's seed


class Model(Protocol):
    """What is measured: an engine, or a model that stands alone."""

    @property
    def module(self) -> torch.nn.Module:
        """The model itself."""

    def forward(self, **inputs: Any) -> Any:
        """Run it."""


class Validator:
    """Measures the mean loss over rows of the validation split, the same ones at any time.

    Sources give rows in proportion to what they have there, whatever their weights in training.

    Args:
        manifest: the corpus.
        rows: rows wanted.
        batch: how many of them a worker takes at a time.
        device: where they are measured.
        chosen_for: choose the rows as so many workers do; unset is the workers there are.
    """

    def __init__(
        self,
        manifest: Manifest,
        rows: int,
        batch: BatchPlan,
        device: torch.device,
        *,
        chosen_for: int | None = None,
    ) -> None:
        rank, world = dist.get_rank(), dist.get_world_size()
        self._device = device
        self._micro_batches: dict[str, list[torch.Tensor]] = {}
        split = manifest.splits.get("validation")
        if split is None or not split.rows:
            return
        reader = RowReader(manifest, "validation", cached_groups=1)
        for source, ids in validation_rows(manifest, rows, chosen_for or world).items():
            mine = ids.reshape(world, -1)[rank]
            input_ids_BS = torch.from_numpy(reader.take(mine).astype("int64")).to(device)
            self._micro_batches[source] = list(input_ids_BS.split(batch.micro_rows))
        self._tokens_per_byte = split.tokens / split.bytes

    def measure(self, engine: Model, objective: Objective[Any]) -> dict[str, float]:
        """Return ``validation_loss``, and of one in nats per token an estimate of bits per byte.

        With several sources there is also ``validation/NAME/loss``; what the objective reports is
        ``validation/NAME``.
        """
        if not self._micro_batches:
            return {}
        engine.module.eval()
        with torch.no_grad():
            prepared = [
                objective.prepare(engine.forward, micro_batches, add_up_over_ranks)
                for micro_batches in self._micro_batches.values()
            ]
            weights = [global_weight(objective, micro_batches, self._device) for micro_batches in prepared]
            losses = torch.zeros(len(weights), dtype=torch.float64, device=self._device)
            for index, micro_batches in enumerate(prepared):
                for micro in micro_batches:
                    losses[index] += objective.loss(engine.forward, micro, sum(weights))
        engine.module.train()
        reported = torch.tensor(objective.figures.take(), dtype=torch.float64, device=self._device)
        sums = add_up_over_ranks(torch.cat([losses, reported]))
        losses, nats = sums[: len(weights)], sums[: len(weights)].sum().item()
        figures = {"validation_loss": nats}
        if objective.per_token:
            figures["validation_bits_per_byte"] = nats / math.log(2) * self._tokens_per_byte
        means = objective.figures.means(sums[len(weights) :].tolist())
        figures |= {f"validation/{name}": mean for name, mean in means.items()}
        if len(weights) > 1:
            for source, loss, weight in zip(self._micro_batches, losses.tolist(), weights, strict=True):
                figures[f"validation/{source}/loss"] = loss * sum(weights) / weight
        return figures


def validation_rows(manifest: Manifest, most: int, world: int) -> dict[str, NDArray[np.int64]]:
    """Choose the row ids to measure, by source: in proportion to the sources' rows, none twice.

    Args:
        manifest: a corpus whose validation split has rows.
        most: rows wanted; fewer where there are fewer.
        world: workers; each source gives a multiple of it, since ZeRO-3 needs equal work on every rank.
    """
    split = manifest.split("validation")
    sizes = [source.rows for source in split.sources]
    parts = apportion(sizes, min(most, split.rows) // world)
    orders = manifest.source_orders("validation", ORDER_SEED, sizes)
    chosen, first = {}, 0
    for source, part, order in zip(split.sources, parts, orders, strict=True):
        count = min(part, source.rows // world) * world
        if order is not None and count:
            chosen[source.source] = order.rows(0, count) + first
        first += source.rows
    return chosen
