"""Does the best learning rate of a narrow model serve a wide one?

    python -m benchmarks.transfer CORPUS [--runs N] [--widths N ...]

Decoders of two layers and widths 64 to 512 are trained at eight peak rates a factor of the root of two apart:
with rates that follow the width (``model.base_width=64``, µP) with three seeds each, and as control in the
standard parametrisation with one, which at width 64 is the same. Corpus (of 128 tokens a row, made of this
Python's standard library), order, batch, steps and warm-up are the same for all. The figures are how many of
the rates the best one of each width, by the mean over seeds, lies apart over all widths: one at most is the
aim; and at how many widths it is the lowest or the highest of all, where nothing could be said.

Points that are in the result file of an earlier call are not measured again; with ``--runs`` a call ends
after so many. The whole is 120 trainings; most of the time goes into the widest.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.results import FOLDER, Figure, machine_name, write_result
from benchmarks.short_runs import trained
from codex_ray.config.compose import compose
from codex_ray.files import read_json

BASE, WIDTHS = 64, (64, 128, 256, 512)
SEEDS = {"mup": (1, 2, 3), "standard": (1,)}
RATES = tuple(2.0 ** (power / 2) for power in range(-18, -10))  # 0.002 to 0.022
STEPS, BATCH_TOKENS, HEAD = 120, 2048, 32
COMMAND = "python -m benchmarks.transfer CORPUS"

Point = dict[str, Any]


def main() -> None:
    """Train what is not trained yet and write the result file."""
    parser = argparse.ArgumentParser(description="The best rate over widths, in two parametrisations.")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--runs", type=int, default=10**6, help="most trainings in this call")
    parser.add_argument("--widths", type=int, nargs="+", default=list(WIDTHS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    points, done = _known(), 0
    for name, width, seed, rate in _planned(arguments.widths):
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


def _planned(widths: Sequence[int]) -> Iterator[tuple[str, int, int, float]]:
    for name, seeds in SEEDS.items():
        for seed, width, rate in itertools.product(seeds, widths, RATES):
            if name == "mup" or width != BASE:
                yield name, width, seed, rate


def _known() -> list[Point]:
    path = FOLDER / f"transfer.{machine_name()}.json"
    points = read_json(path, "benchmark result")["points"] if path.exists() else []
    length = STEPS, BATCH_TOKENS
    return [point for point in points if (point["steps"], point.get("batch_tokens")) == length]


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
    return {"parametrisation": name, "width": width, "seed": seed, "rate": rate} | {
        "batch_tokens": BATCH_TOKENS,
        **found,
    }


def best_places(points: Sequence[Point], name: str) -> dict[int, int]:
    """Return the place of the best rate, by the mean over seeds, of each width that is complete."""
    found = {}
    for width in WIDTHS:
        means = _means(points, name, width)
        if len(means) == len(RATES):
            found[width] = min(range(len(RATES)), key=lambda place: means[RATES[place]])
    return found


def _means(points: Sequence[Point], name: str, width: int) -> dict[float, float]:
    """Return the mean loss over the control's seeds or all, by rate, of rates that all of them have."""
    trained_as, seeds = "mup" if width == BASE else name, SEEDS[name]
    losses = {
        rate: [
            point["loss"]
            for point in points
            if (point["parametrisation"], point["width"], point["rate"]) == (trained_as, width, rate)
            and point["seed"] in seeds
        ]
        for rate in RATES
    }
    return {rate: statistics.mean(several) for rate, several in losses.items() if len(several) == len(seeds)}


def _figures(points: Sequence[Point]) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    for name in SEEDS:
        places = best_places(points, name)
        complete = len(places) == len(WIDTHS)
        command = None if complete else COMMAND
        moved = float(max(places.values()) - min(places.values())) if complete else None
        edge = float(sum(place in (0, len(RATES) - 1) for place in places.values())) if complete else None
        aimed = name == "mup"
        figures |= {
            f"best_rate_moves_{name}": Figure(moved, "steps", "lower", 1.0 if aimed else None, command),
            f"best_rate_at_edge_{name}": Figure(edge, "widths", "lower", 0.0 if aimed else None, command),
        }
    return figures


def _draw(points: Sequence[Point], path: Path) -> None:
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(8, 3.2), layout="constrained")
    for axes, name in zip(drawing.subplots(1, 2, sharey=True), SEEDS, strict=True):
        for width in WIDTHS:
            means = _means(points, name, width)
            shown = {rate: loss for rate, loss in means.items() if loss < 8}
            axes.plot(list(shown), list(shown.values()), marker="o", markersize=3, label=f"{width}")
        axes.set(xscale="log", xlabel="peak rate", title=f"{name} parametrisation")
        axes.set_ylabel("held-out loss, nats")
        axes.legend(title="width", fontsize=7)
    drawing.savefig(path, dpi=110)


if __name__ == "__main__":
    os.nice(10)
    main()
