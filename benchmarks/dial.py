"""Is the learning rate that the depth dial derives close to the best?

    python -m benchmarks.dial CORPUS [--runs N]

At three depths the dial's model is trained on a corpus (of 128 tokens a row, made of this Python's standard
library) at a quarter, half, once, twice and four times the derived peak rate, the dial's batch, warm-up and
cosine: same weights, order and rows. Where another rate ends lower, it is trained once more on a tenth fewer
tokens, and where the derived rate's loss lies between the two says how many more tokens the derived rate
needs to get as far: the figure is that ratio. The horizon is shorter than the dial's own, so that hours are
enough; the derived rate is that of the horizon.

Points that are in the result file of an earlier call, of the same depth, steps and (to 1 %) rate, are not
measured again; with ``--runs`` a call ends after so many.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.results import FOLDER, Figure, machine_name, write_result
from benchmarks.short_runs import trained
from codex_ray.config.compose import compose
from codex_ray.config.train import Pretrain
from codex_ray.files import read_json

DEPTHS = (2, 3, 4)
HORIZON = 2.5  # tokens per parameter; the law's shortest runs have 2
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
FEWER = 1 / 1.1
WITHIN = 1.1
SAME_RATE = 0.01


def main() -> None:
    """Measure what is not measured yet and write the result file."""
    parser = argparse.ArgumentParser(description="Learning rates around the one that the dial derives.")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--runs", type=int, default=10**6, help="most trainings in this call")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    points = _known()
    for _ in range(arguments.runs):
        wanted = next(_wanted(points), None)
        if wanted is None:
            break
        depth, factor, share = wanted
        points.append(_train(arguments.corpus, depth, factor, share))
        print(points[-1], flush=True)
        write_result("dial", _figures(points), extra={"points": points})
    print(write_result("dial", _figures(points), extra={"points": points}))


def _known() -> list[dict[str, Any]]:
    path = FOLDER / f"dial.{machine_name()}.json"
    if not path.exists():
        return []
    points: list[dict[str, Any]] = read_json(path, "benchmark result")["points"]
    return [known for point in points if (known := _as_asked_now(point))]


def _as_asked_now(point: dict[str, Any]) -> dict[str, Any] | None:
    """Return the point with its factor of the rate that is derived today, or None."""
    if point["depth"] not in DEPTHS:
        return None
    settings = _settings(point["depth"])
    derived = settings.optimizer.learning_rate
    rate = point["factor"] * point["derived_rate"]
    factor = min(FACTORS, key=lambda factor: abs(math.log(rate / (factor * derived))))
    same_steps = point["steps"] == round((settings.train.steps or 0) * point["share"])
    if not same_steps or abs(rate / (factor * derived) - 1) > SAME_RATE:
        return None
    return {**point, "factor": factor, "derived_rate": rate / factor}


def _wanted(points: list[dict[str, Any]]) -> Iterator[tuple[int, float, float]]:
    """Yield depth, factor of the derived rate and share of the tokens of what is still to be trained."""
    for depth in DEPTHS:
        yield from _missing(points, depth)


def _missing(points: list[dict[str, Any]], depth: int) -> list[tuple[int, float, float]]:
    """Return what is still to be trained at one depth: the sweep, then the best rate on fewer tokens."""
    done = {(point["factor"], point["share"]) for point in points if point["depth"] == depth}
    missing = [(depth, factor, 1.0) for factor in FACTORS if (factor, 1.0) not in done]
    if not missing:
        best = _best(points, depth)["factor"]
        missing = [(depth, best, FEWER)] if best != 1.0 and (best, FEWER) not in done else []
    return missing


def _best(points: list[dict[str, Any]], depth: int) -> dict[str, Any]:
    whole = [point for point in points if point["depth"] == depth and point["share"] == 1.0]
    return min(whole, key=lambda point: point["loss"])


def _figures(points: list[dict[str, Any]]) -> dict[str, Figure]:
    figures = {}
    for depth in DEPTHS:
        if _missing(points, depth):
            command = "python -m benchmarks.dial CORPUS"
            figures[f"dial_tokens_to_loss_depth_{depth}"] = Figure(None, "ratio", "lower", WITHIN, command)
            continue
        figures[f"dial_tokens_to_loss_depth_{depth}"] = Figure(
            _ratio(points, depth), "ratio", "lower", WITHIN
        )
        figures[f"dial_best_factor_depth_{depth}"] = Figure(_best(points, depth)["factor"], "ratio", "lower")
    return figures


def _ratio(points: list[dict[str, Any]], depth: int) -> float:
    """Tokens that the derived rate takes over those that the best rate takes to the same loss."""
    best = _best(points, depth)
    if best["factor"] == 1.0:
        return 1.0
    mine = {
        point["share"]: point["loss"]
        for point in points
        if point["factor"] == best["factor"] and point["depth"] == depth
    }
    derived = next(p["loss"] for p in points if (p["depth"], p["factor"], p["share"]) == (depth, 1.0, 1.0))
    # Loss against the logarithm of tokens is straight over so short a stretch.
    slope = (mine[FEWER] - mine[1.0]) / math.log(1 / FEWER)
    return math.exp((derived - mine[1.0]) / slope)


def _settings(depth: int) -> Pretrain:
    settings: Pretrain = compose("pretrain", [f"depth={depth}", f"tokens_per_parameter={HORIZON}"])
    return settings


def _train(corpus: Path, depth: int, factor: float, share: float) -> dict[str, Any]:
    """Train the dial's model on a share of its tokens, at a factor of its rate; return the point."""
    settings = _settings(depth)
    rate = settings.optimizer.learning_rate
    optimizer = replace(settings.optimizer, learning_rate=rate * factor)
    steps = round((settings.train.steps or 0) * share)
    return {
        "depth": depth,
        "factor": factor,
        "share": share,
        "derived_rate": rate,
        "batch_tokens": settings.train.batch_tokens,
        **trained(replace(settings, optimizer=optimizer), corpus, steps),
    }


if __name__ == "__main__":
    os.nice(10)
    main()
