"""Does the best learning rate of a narrow model serve a wide one?

    python -m benchmarks.transfer CORPUS [--runs N] [--seeds N] [--widths N ...]

Decoders of two layers and widths 64 to 512 are trained at eight peak rates a factor of the root of two apart,
with three seeds each, once with rates that follow the width (``model.base_width=64``, µP) and once in the
standard parametrisation: same corpus (of 128 tokens a row, made of this Python's standard library), order,
batch, steps and warm-up. The figure is how many of the rates the best one of each width, by the mean over
seeds, lies apart over all widths: one at most is the aim; the standard parametrisation is the control.

Points that are in the result file of an earlier call are not measured again; with ``--runs`` a call ends
after so many. The whole is 192 trainings; most of the time goes into the widest.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.results import FOLDER, Figure, machine_name, write_result
from benchmarks.short_runs import trained
from codex_ray.config.compose import compose
from codex_ray.files import read_json

BASE, WIDTHS, SEEDS = 64, (64, 128, 256, 512), (1, 2, 3)
RATES = tuple(2.0 ** (power / 2) for power in range(-18, -10))  # 0.002 to 0.022
STEPS, BATCH_TOKENS, HEAD = 120, 2048, 32
NAMES = ("mup", "standard")
COMMAND = "python -m benchmarks.transfer CORPUS"

Point = dict[str, Any]


def main() -> None:
    """Train what is not trained yet and write the result file."""
    parser = argparse.ArgumentParser(description="The best rate over widths, in two parametrisations.")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--runs", type=int, default=10**6, help="most trainings in this call")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--widths", type=int, nargs="+", default=list(WIDTHS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    points, done = _known(), 0
    for seed, width, name, rate in itertools.product(arguments.seeds, arguments.widths, NAMES, RATES):
        if done == arguments.runs:
            break
        if any(_key(point) == (name, width, seed, rate) for point in points):
            continue
        points.append(_train(arguments.corpus, name, width, seed, rate))
        done += 1
        print(points[-1], flush=True)
        write_result("transfer", _figures(points), extra={"points": points})
    _draw(points, FOLDER / f"transfer.{machine_name()}.png")
    print(write_result("transfer", _figures(points), extra={"points": points}))


def _known() -> list[Point]:
    path = FOLDER / f"transfer.{machine_name()}.json"
    return list(read_json(path, "benchmark result")["points"]) if path.exists() else []


def _key(point: Point) -> tuple[str, int, int, float]:
    return point["parametrisation"], point["width"], point["seed"], point["rate"]


def _train(corpus: Path, name: str, width: int, seed: int, rate: float) -> Point:
    heads = width // HEAD
    words = [f"model.hidden_size={width}", f"model.intermediate_size={width * 8 // 3 // 32 * 32}"]
    words += ["model.layers=2", f"model.heads={heads}", f"model.key_value_heads={heads}"]
    words += [f"model.head_size={HEAD}", f"seed={seed}", f"optimizer.learning_rate={rate}"]
    words += [f"train.steps={STEPS}", f"train.batch_tokens={BATCH_TOKENS}", "schedule.warmup_steps=12"]
    words += [f"model.base_width={BASE}"] if name == "mup" else []
    found = trained(compose("pretrain", words), corpus, STEPS)
    return {"parametrisation": name, "width": width, "seed": seed, "rate": rate, **found}


def best_places(points: Sequence[Point], name: str) -> dict[int, int]:
    """Return the place of the best rate, by the mean over seeds, of each width that is complete."""
    found = {}
    for width in WIDTHS:
        means = _means(points, name, width, SEEDS)
        if len(means) == len(RATES):
            found[width] = min(range(len(RATES)), key=lambda place: means[RATES[place]])
    return found


def _means(points: Sequence[Point], name: str, width: int, seeds: Sequence[int]) -> dict[float, float]:
    """Return the mean loss over seeds by rate, of rates that all seeds have."""
    losses = {
        rate: [p["loss"] for p in points if _key(p)[:2] == (name, width) and p["rate"] == rate]
        for rate in RATES
    }
    return {rate: statistics.mean(several) for rate, several in losses.items() if len(several) >= len(seeds)}


def _figures(points: Sequence[Point]) -> dict[str, Figure]:
    figures = {}
    for name in NAMES:
        places = best_places(points, name)
        aim = 1.0 if name == "mup" else None
        complete = len(places) == len(WIDTHS)
        moved = float(max(places.values()) - min(places.values())) if complete else None
        command = None if complete else COMMAND
        figures[f"best_rate_moves_{name}"] = Figure(moved, "steps", "lower", aim, command)
    return figures


def _draw(points: Sequence[Point], path: Path) -> None:
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(8, 3.2), layout="constrained")
    for axes, name in zip(drawing.subplots(1, 2, sharey=True), NAMES, strict=True):
        for width in WIDTHS:
            means = _means(points, name, width, SEEDS[:1])
            shown = {rate: loss for rate, loss in means.items() if loss < 8}
            axes.plot(list(shown), list(shown.values()), marker="o", markersize=3, label=f"{width}")
        axes.set(xscale="log", xlabel="peak rate", title=f"{name} parametrisation")
        axes.set_ylabel("held-out loss, nats")
        axes.legend(title="width", fontsize=7)
    drawing.savefig(path, dpi=110)


if __name__ == "__main__":
    os.nice(10)
    main()
