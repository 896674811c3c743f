"""Printing a plan."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from rich.console import Console

from codex_ray.config.plan import Plan
from codex_ray.model.inspect import scaled, table
from codex_ray.plan.memory import Memory

if TYPE_CHECKING:
    from codex_ray.plan.verb import Planned

# Below this, the share of the time that a run makes progress is worth a word.
POOR_GOODPUT = 0.9


def show(planned: Planned, settings: Plan, not_counted: list[str]) -> None:
    """Print the plan as tables and lines, and the names of settings that it leaves out."""
    console = Console(highlight=False, soft_wrap=True)
    batch = planned.batch
    on = f"{planned.workers} {planned.card}" + (f" on {planned.nodes} nodes" if planned.nodes > 1 else "")
    console.print(
        f"{scaled(planned.parameters, '')}parameters, {planned.dtype}, ZeRO-{planned.stage}, {on}: "
        f"{batch.global_rows} rows of {planned.sequence_length:,} tokens a step, "
        f"{batch.micro_rows} at a time, {batch.accumulation} times"
    )
    _show_memory(console, planned)
    _show_time(console, planned)
    _show_checkpoints(console, planned, settings)
    if not_counted:
        console.print(f"not counted: {', '.join(not_counted)}")


def _show_memory(console: Console, planned: Planned) -> None:
    stages = planned.memory
    rows = table("memory of a worker", *(f"ZeRO-{stage}" for stage in stages))
    for field in (field for field in fields(Memory) if field.name != "heap"):
        values = (getattr(kinds[planned.recompute], field.name) for kinds in stages.values())
        rows.add_row(field.name, *(scaled(value, "B") for value in values))
    for kind in ("none", "streams", "layers"):
        mark = " (as set)" if kind == planned.recompute else ""
        totals = (kinds[kind].total for kinds in stages.values())
        rows.add_row(f"peak, recompute={kind}{mark}", *(scaled(total, "B") for total in totals))
    console.print(rows)
    if planned.chosen.heap > 1:
        console.print(f"in the peaks the allocator takes {planned.chosen.heap:.2f} times what is asked for")
    needed, available = planned.chosen.total, planned.available
    verdict = "fits" if needed < available else "does not fit"
    console.print(f"{scaled(needed, 'B')} {verdict} in {scaled(available, 'B')}")


def _show_time(console: Console, planned: Planned) -> None:
    step = planned.step
    named = {**step.parts, "engine and update": step.update, "communication": step.communication}
    rows = table("time of a step", "seconds", "share")
    for name, seconds in named.items():
        rows.add_row(name, f"{seconds:.4g}", f"{seconds / step.total:.1%}")
    rows.add_row("all", f"{step.total:.4g}", "")
    console.print(rows)
    per_day = planned.tokens_per_second * 86_400
    console.print(
        f"{scaled(planned.tokens_per_second, '')}tokens/s, {scaled(per_day, '')}tokens/day, "
        f"{planned.mfu:.1%} of the peak"
    )


def _show_checkpoints(console: Console, planned: Planned, settings: Plan) -> None:
    every = max(1, round(planned.best_seconds / planned.step.total))
    console.print(
        f"a checkpoint is {scaled(planned.checkpoint_bytes, 'B')}, {planned.checkpoint_seconds:.3g} s; "
        f"best every {planned.best_seconds:,.0f} s (Young: {planned.young_seconds:,.0f} s), "
        f"checkpoints.every={every}"
    )
    hours = settings.node_failure_hours
    line = (
        f"progress {planned.goodput:.1%} of the time with checkpoints.every={settings.checkpoints.every}, "
        f"{planned.best_goodput:.1%} with the best, if a node fails every {hours:,.0f} h"
    )
    if planned.best_goodput < POOR_GOODPUT:
        line += "; faster recovery (recovery_seconds) or fewer nodes would help"
    console.print(line)
    if not planned.goodput:
        console.print(f"so rarely saved the run would not end; give checkpoints.every={every}")
        return
    if planned.seconds is None:
        console.print(
            "the length of the run is not known without a corpus; give train.steps to have its time"
        )
        return
    steps = f"{planned.steps:,} steps" if planned.steps else "the run"
    price = f", {planned.price:,.2f} at {settings.node_price:g} per node and hour" if planned.price else ""
    console.print(f"{steps} in {_duration(planned.seconds)}{price}")


def _duration(seconds: float) -> str:
    """Say a length of time in its natural unit."""
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.1f} s"
