"""The time of one optimizer step: work by part over rates, plus what travels between workers.

On a card a part takes the longest of its products at the card's rate, its bytes at the memory's bandwidth and
its operators' launches (the roofline, Williams et al. 2009, doi 10.1145/1498765.1498785). On a CPU the rates
are measured at these very shapes (``codex_ray/plan/measure.py``). Communication does not overlap with the
rest unless the settings say ``overlap_comm``.
"""

from __future__ import annotations

from dataclasses import dataclass

from codex_ray.config.check import BatchPlan
from codex_ray.config.train import Pretrain
from codex_ray.model.inspect import BYTES
from codex_ray.plan.cards import LAUNCH_SECONDS, LINK_SHARE, MEMORY_SHARE, PRODUCT_SHARE, Card
from codex_ray.plan.measure import Measured
from codex_ray.plan.work import Part

# Bytes through memory per weight of an AdamW step operator by operator in fp32 (lerp, mul, addcmul, sqrt,
# div, add, addcdiv), with the gradient's widening, norm and clipping and the rounding of the new weight.
UPDATE_BYTES = 110.0

# The same of one parameter tensor's gradient on its way into a bucket and, averaged, out of it.
BUCKET_PASSES = 4.0
ENGINE_LAUNCHES = 8  # operators per tensor
NEWTON_SCHULZ = 4.0  # operations of one iteration per weight and row of the smaller side, at most


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step.

    Attributes:
        parts: of forward and backward passes, by part.
        update: of the engine and the optimizer.
        communication: between workers, as far as it is not measured with the update.
    """

    parts: dict[str, float]
    update: float
    communication: float

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self.parts.values()) + self.update + self.communication


def step_on_cpu(
    parts: list[Part], batch: BatchPlan, measured: Measured, tensors: int, numbers: int
) -> StepTime:
    """Return the step of a worker of this machine.

    Args:
        parts: of one micro-batch; the measured seconds of one, times its count.
        batch: whose accumulation says how many micro-batches a step has.
        measured: seconds by part, and the engine's per tensor and per number, collectives included.
        tensors: parameters that the engine handles; ``numbers``: weights in them.
    """
    seconds = {part.name: batch.accumulation * part.count * measured.parts[part.name] for part in parts}
    costs = [
        per_tensor * tensors + per_number * numbers
        for per_tensor, per_number in (measured.micro, measured.last)
    ]
    return StepTime(seconds, (batch.accumulation - 1) * costs[0] + costs[1], 0.0)


def step_on_card(
    parts: list[Part],
    batch: BatchPlan,
    card: Card,
    settings: Pretrain,
    *,
    tensors: int,
    numbers: int,
    matrices: int,
    dtype: str,
) -> StepTime:
    """Return the step of a worker with one card of a kind, by its data sheet."""
    bandwidth = card.bandwidth * MEMORY_SHARE
    products = card.rate(dtype) * PRODUCT_SHARE
    seconds = {
        part.name: batch.accumulation
        * part.count
        * max(part.flops / products, part.bytes / bandwidth, part.launches * LAUNCH_SECONDS)
        for part in parts
    }
    workers, stage = settings.cluster.workers, settings.deepspeed.stage
    own = numbers / workers if stage else numbers
    moved = UPDATE_BYTES * own + BUCKET_PASSES * BYTES[dtype] * numbers
    update = max(moved / bandwidth, tensors * ENGINE_LAUNCHES * LAUNCH_SECONDS)
    if settings.optimizer.kind == "muon":
        update += newton_schulz_flops(settings, matrices) / (workers if stage else 1) / products
    sent = traffic(numbers, BYTES[dtype], stage, workers, batch.accumulation)
    communication = sent / (slowest_link(card, workers) * LINK_SHARE)
    if settings.deepspeed.config.get("zero_optimization", {}).get("overlap_comm"):
        communication = max(0.0, communication - sum(seconds.values()))
    return StepTime(seconds, update, communication)


def newton_schulz_flops(settings: Pretrain, matrices: int) -> float:
    """Operations of Muon's iterations: three products per iteration, of the smaller side at most D."""
    return (
        NEWTON_SCHULZ * 1.5 * settings.optimizer.newton_schulz_steps * matrices * settings.model.hidden_size
    )


def slowest_link(card: Card, workers: int) -> float:
    """Bytes/s of the slowest link of a ring over these workers."""
    return card.link if workers <= card.per_node else min(card.link, card.network)


def traffic(numbers: int, size: int, stage: int, workers: int, accumulation: int) -> float:
    """Bytes that each worker sends in one step, with rings (arXiv 1910.02054, section 7).

    An all-reduce sends 2 (w - 1) / w of the data, a gather or a reduce-scatter half of that. DeepSpeed's
    stages 1 and 2 all-reduce whole buckets and keep their part, stage 1 once a step, stage 2 for every
    micro-batch; the updated weights are gathered. Stage 3 gathers weights forward and backward and scatters
    gradients, for every micro-batch.
    """
    part = numbers * size * (workers - 1) / workers
    if stage == 3:
        return 3.0 * part * accumulation
    reductions = accumulation if stage == 2 else 1
    return 2.0 * part * reductions + (part if stage else 0.0)
