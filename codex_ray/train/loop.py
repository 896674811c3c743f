"""The training loop. It knows neither the data nor the algorithm: it asks a source for the next
batch and an objective for a loss, and calls the engine.

All ranks run it in lockstep. One small reduction per step carries the loss, the batch's checksum,
the wish to stop and whether a save has failed, so that every rank ends at the same step.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from codex_ray.config.train import Training, TrainingRun
from codex_ray.errors import CodexRayError
from codex_ray.track.spans import Spans
from codex_ray.train.batches import Batches
from codex_ray.train.engine import Engine
from codex_ray.train.objectives.objective import Objective, add_up_over_ranks
from codex_ray.train.schedule import Plan, learning_rate_share
from codex_ray.train.source import Batch, Source
from codex_ray.train.spikes import WINDOW, SpikeError, is_spike


class Watcher(Protocol):
    """What the loop tells to the outside; rank 0 writes, the others stay silent."""

    def stop_wanted(self) -> bool:
        """Whether somebody asked this run to stop."""

    def leaving(self) -> bool:
        """Whether this rank's node is about to be taken away."""

    def stepped(self) -> None:
        """An optimizer step is done."""

    def row(self, figures: dict[str, Any]) -> None:
        """Record one optimizer step's figures."""

    def forward_seconds(self, by_rank: list[float]) -> None:
        """Take note of the time that each rank's forward pass took in the step before."""

    def note(self, text: str) -> None:
        """Tell the user one sentence."""

    def planned(self, plan: Plan) -> None:
        """Record, durably, that the end of the run is now fixed."""


@dataclass
class State:
    """Where a run stands; saved with the weights. The data cursor follows from ``step``."""

    step: int = 0
    elapsed: float = 0.0
    plan: Plan = field(default_factory=lambda: Plan(None))
    lowest_validation_loss: float = math.inf
    validations_since_lowest: int = 0
    recent_losses: list[float] = field(default_factory=list)
    tokens: int = 0  # of rollouts; those of a corpus follow from the step
    source: dict[str, Any] = field(default_factory=dict)  # what chose the prompts, as of the last save
    phase: str = "start"
    moves: int = 0
    warm: bool = False
    leaving: bool = False

    def place(self) -> tuple[int, str, int]:
        """Where this rank stands: step, phase, and a count of micro-batches.

        The first step of a start belongs to the start: its length says nothing.
        """
        return self.step, self.phase if self.warm else "start", self.moves

    def validated(self, loss: float) -> None:
        """Count the validations since the lowest loss."""
        if loss < self.lowest_validation_loss:
            self.lowest_validation_loss, self.validations_since_lowest = loss, 0
        else:
            self.validations_since_lowest += 1

    def done(self, patience: int) -> bool:
        """Whether the run is complete: its steps are done, or validation has not improved for too long."""
        return self.plan.done(self.step) or 0 < patience <= self.validations_since_lowest


@dataclass(frozen=True)
class Hooks:
    """What the loop calls beside the step itself, on all ranks together.

    ``save`` begins a checkpoint and returns the seconds that the loop stood still; ``saved`` waits until it
    is complete, or raises its error on all ranks; ``save_failed`` says whether this rank knows of one.
    """

    validate: Callable[[bool], dict[str, float]]  # told whether this is the last
    measure_mixing: Callable[[Batch], dict[str, float]]
    save: Callable[[State, dict[str, Any]], float]
    saved: Callable[[], None]
    save_failed: Callable[[], bool]
    sample: Callable[[int], None] | None
    evaluate: Callable[[int, bool], dict[str, float]] | None  # told the step, and whether it is the last


@dataclass(frozen=True)
class Parts:
    """What the loop works with."""

    settings: TrainingRun
    batches: Batches
    rows: float  # of an epoch
    flops_per_token: Callable[[int], float]
    peak_flops: float
    device: torch.device
    engine: Engine
    objective: Objective[Any]
    source: Source
    watcher: Watcher
    spans: Spans
    hooks: Hooks


def train(parts: Parts, state: State) -> bool:
    """Run from ``state`` to the plan's end, or to where it is asked to stop.

    Returns:
        True when the run is complete, False when it was stopped and can be resumed; with ``state.leaving`` it
        is to go on at once, elsewhere.

    Raises:
        CodexRayError: a loss or gradient was not finite and ``train.on_nonfinite`` is ``stop``, or a
            checkpoint could not be written.
        SpikeError: the run is to go back to its newest checkpoint.
    """
    settings = parts.settings
    began = time.perf_counter() - state.elapsed
    stopping = False
    while not stopping and not state.done(settings.validation.patience):
        figures, stopping = _step(parts, state)
        state.warm = True
        state.elapsed = time.perf_counter() - began
        parts.watcher.stepped()
        decided = _agree_on_plan(parts, state)
        if decided != state.plan:
            state.plan = decided
            parts.watcher.planned(decided)
        finished = state.plan.done(state.step)
        if _due(settings.validation.every, state.step) or finished:
            state.phase = "validation"
            with parts.spans.measure("validation", state.step):
                figures |= parts.hooks.validate(finished)
        if "validation_loss" in figures:
            state.validated(figures["validation_loss"])
        measured = evaluate(parts, state, last=state.done(settings.validation.patience))
        figures |= measured
        if parts.hooks.sample and (finished or _due(settings.track.samples.every, state.step)):
            state.phase = "samples"
            with parts.spans.measure("samples", state.step):
                parts.hooks.sample(state.step)
        saving = _due(settings.checkpoints.every, state.step)
        if saving or stopping or state.done(settings.validation.patience):
            figures["checkpoint_stall_seconds"] = _save(parts, state, figures)
        due = _due(settings.track.every, state.step)
        if due or measured or figures.keys() & {"validation_loss", "checkpoint_stall_seconds"}:
            parts.watcher.row(figures)
    _wait_for_save(parts, state)
    complete = state.done(settings.validation.patience)
    if complete and not state.plan.done(state.step):
        parts.watcher.note(
            f"validation loss has not fallen below {state.lowest_validation_loss:.4f} for "
            f"{state.validations_since_lowest} validations: the run ends at step {state.step}"
        )
    return complete


def evaluate(parts: Parts, state: State, *, last: bool) -> dict[str, float]:
    """Measure the tasks that a run follows, where they are due."""
    if parts.hooks.evaluate is None:
        return {}
    state.phase = "evaluation"
    with parts.spans.measure("evaluation", state.step):
        return parts.hooks.evaluate(state.step, last)


def _save(parts: Parts, state: State, figures: dict[str, Any]) -> float:
    state.phase = "checkpoint"
    with parts.spans.measure("checkpoint", state.step):
        return parts.hooks.save(state, figures)


def _wait_for_save(parts: Parts, state: State) -> None:
    state.phase = "checkpoint"
    with parts.spans.measure("checkpoint", state.step):
        parts.hooks.saved()


def _due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0


def _enter(parts: Parts, state: State, phase: str) -> None:
    """Begin a phase of the present step."""
    state.phase = phase
    parts.spans.enter(phase)


def _step(parts: Parts, state: State) -> tuple[dict[str, Any], bool]:
    """Do one optimizer step; returns its figures and whether to stop after it."""
    started = time.perf_counter()
    _enter(parts, state, "data")
    batch = parts.source.next()
    mixing: dict[str, float] = {}
    if _due(parts.settings.track.mixing_every, state.step):
        _enter(parts, state, "mixing gains")
        mixing = parts.hooks.measure_mixing(batch)
    _enter(parts, state, "targets")
    micro_batches = batch.micro_batches
    if not batch.prepared:
        micro_batches = parts.objective.prepare(parts.engine.forward, micro_batches, add_up_over_ranks)
    total = global_weight(parts.objective, micro_batches, parts.device)
    loss = _passes(parts, state, micro_batches, total)
    _enter(parts, state, "optimizer step")
    outcome = parts.engine.step(learning_rate_share(parts.settings.schedule, state.plan, state.step))
    _enter(parts, state, "reduction")
    added = _add_up(parts, batch, loss)
    global_loss, digest, stop_votes, leave_votes, failed_saves, waited, held, *others = added
    forward, reported = others[: dist.get_world_size()], others[dist.get_world_size() :]
    if failed_saves:
        _wait_for_save(parts, state)
    state.step += 1
    spent = parts.spans.settle(state.step)
    parts.watcher.forward_seconds(forward)
    _judge(parts.settings.train, state, global_loss, applied=outcome.applied)
    seconds = time.perf_counter() - started
    trained = parts.batches.trained_rows(state.step)
    tokens = (trained - parts.batches.trained_rows(state.step - 1)) * parts.batches.row_length
    state.tokens += int(held)
    if batch.tokens is not None:
        tokens = int(held)
    flops_per_token = parts.flops_per_token(batch.micro_batches[0].shape[1])
    figures: dict[str, Any] = {
        "step": state.step,
        "epoch": trained / parts.rows,
        "loss": global_loss,
        "learning_rate": parts.engine.learning_rates()[0],
        "grad_norm": outcome.gradient_norm,
        "applied": int(outcome.applied),
        "tokens": trained * parts.batches.row_length if batch.tokens is None else state.tokens,
        "tokens_per_second": tokens / seconds,
        "mfu": tokens / seconds * flops_per_token / parts.peak_flops,
        "step_seconds": seconds,
        "data_seconds": waited / dist.get_world_size(),
        "data_share": waited / dist.get_world_size() / seconds,
        "forward_seconds": spent["forward"],
        "backward_seconds": spent["backward"],
        "optimizer_seconds": spent["optimizer step"],
        "batch": int(digest) // parts.objective.shared_by,
        "time": time.time(),
        **parts.objective.figures.means(reported),
        **batch.figures,
        **mixing,
    }
    stopping = stop_votes > 0 or state.step == parts.settings.train.stop_after
    state.leaving = leave_votes > 0 and not stopping
    return figures, stopping or state.leaving


def _passes(parts: Parts, state: State, micro_batches: Sequence[Any], total: int) -> Tensor:
    """Run all micro-batches forward and backward; returns this rank's share of the global loss."""
    loss = torch.zeros((), dtype=torch.float64, device=parts.device)
    parts.engine.begin(len(micro_batches))
    for micro in micro_batches:
        _enter(parts, state, "forward")
        share = parts.objective.loss(parts.engine.forward, micro, total)
        _enter(parts, state, "backward")
        parts.engine.backward(share)
        loss += share.detach()
        state.moves += 1
    return loss


def _add_up(parts: Parts, batch: Batch, loss: Tensor) -> list[float]:
    """Add up over ranks: loss, digest, votes, data wait, tokens; forward times; the objective's figures.

    The votes are to stop, to leave, and that a save has failed.
    """
    watcher = parts.watcher
    votes = [float(watcher.stop_wanted()), float(watcher.leaving()), float(parts.hooks.save_failed())]
    own = [0.0, float(batch.digest), *votes, batch.wait_seconds, float(batch.tokens or 0)]
    forward = [0.0] * dist.get_world_size()
    forward[dist.get_rank()] = parts.spans.last.get("forward", 0.0)
    figures = parts.objective.figures.take()
    sums = torch.tensor([*own, *forward, *figures], dtype=torch.float64, device=parts.device)
    sums[0] = loss
    dist.all_reduce(sums)
    added: list[float] = sums.tolist()
    return added


def _judge(training: Training, state: State, loss: float, *, applied: bool) -> None:
    """Say what becomes of a loss that is not finite, or jumps; others are remembered.

    Raises:
        CodexRayError: the run is to stop.
        SpikeError: the run is to go back.
    """
    if not applied and training.on_nonfinite == "stop":
        raise CodexRayError(
            f"the loss or a gradient was not finite at optimizer step {state.step} (loss {loss}); "
            "the update was not applied; lower the learning rate, or set "
            "train.on_nonfinite=skip to leave such steps out"
        )
    if not applied and training.on_nonfinite == "rollback":
        raise SpikeError(state.step, f"the loss or a gradient was not finite at step {state.step}")
    if is_spike(loss, state.recent_losses, training.spike_factor):
        usual = statistics.median(state.recent_losses)
        raise SpikeError(state.step, f"the loss at step {state.step} is {loss:.3f} and was about {usual:.3f}")
    if math.isfinite(loss):
        state.recent_losses = [*state.recent_losses[1 - WINDOW :], loss]


def global_weight(objective: Objective[Any], micro_batches: Sequence[Tensor], device: torch.device) -> int:
    """Add up what all ranks' losses are to be divided by; ranks may hold different numbers of targets."""
    weight = sum(objective.weight(micro) for micro in micro_batches)
    if objective.even:
        return weight * dist.get_world_size() // objective.shared_by
    total = torch.tensor([weight], dtype=torch.int64, device=device)
    dist.all_reduce(total)
    whole = int(total.item()) // objective.shared_by
    return max(1, whole)  # a batch without any target has no loss, and is no fault


def _agree_on_plan(parts: Parts, state: State) -> Plan:
    """Let rank 0's clock decide the end of a run given in seconds, for all ranks."""
    if state.plan.total_steps is not None or state.plan.seconds is None:
        return state.plan
    plan = state.plan.decide(parts.settings.schedule, state.step, state.elapsed)
    agreed = torch.tensor([plan.total_steps or 0], dtype=torch.int64, device=parts.device)
    dist.broadcast(agreed, src=0)
    return Plan(int(agreed.item()) or None, plan.seconds)
