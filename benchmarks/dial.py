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
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.results import FOLDER, Figure, machine_name, write_result
from codex_ray.config.compose import compose
from codex_ray.config.train import Pretrain
from codex_ray.corpus.direct import RowReader
from codex_ray.corpus.manifest import Manifest
from codex_ray.corpus.stream import open_stream
from codex_ray.files import read_json
from codex_ray.model import build_model
from codex_ray.tokenizer import Tokenizer
from codex_ray.train.objectives.next_token import NextToken
from codex_ray.train.optimizer import build_optimizer
from codex_ray.train.schedule import Plan, learning_rate_share
from codex_ray.train.validation import validation_rows

DEPTHS = (2, 3, 4)
HORIZON = 2.5  # tokens per parameter; the law's shortest runs have 2
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
FEWER = 1 / 1.1
VALIDATION_ROWS = 256
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
    manifest = Manifest.load(corpus)
    model = _model(settings, manifest, corpus)
    masters = {
        name: parameter.detach().clone().requires_grad_() for name, parameter in model.named_parameters()
    }
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    adam = build_optimizer(optimizer, masters.items(), torch.bfloat16)
    rows = settings.train.batch_tokens // manifest.sequence_length
    stream = open_stream(
        corpus,
        "train",
        kind="direct",
        seed=settings.seed,
        first_step=0,
        steps=steps,
        batch_rows=rows,
        rank=0,
        world_size=1,
    )
    started, objective = time.perf_counter(), NextToken()
    for step, batch in enumerate(stream):
        input_ids_BS = torch.from_numpy(batch.tokens.astype(np.int64))
        for micro_BS in input_ids_BS.split(16):
            objective.loss(model, micro_BS, objective.weight(input_ids_BS)).backward()
        for group in adam.param_groups:
            group["lr"] = group["peak"] * learning_rate_share(settings.schedule, Plan(steps), step)
        _update(model, masters, adam, optimizer.clip_norm)
    return {
        "depth": depth,
        "factor": factor,
        "share": share,
        "derived_rate": rate,
        "loss": _validate(model, manifest),
        "steps": steps,
        "batch_tokens": settings.train.batch_tokens,
        "parameters": sum(parameter.numel() for parameter in masters.values()),
        "seconds": round(time.perf_counter() - started, 1),
    }


def _model(settings: Pretrain, manifest: Manifest, corpus: Path) -> Any:
    tokenizer = Tokenizer.load(corpus / "tokenizer")
    return build_model(
        settings.model,
        vocabulary_size=tokenizer.vocabulary_size,
        sequence_length=manifest.sequence_length,
        seed=settings.seed,
        special_ids=tokenizer.special_ids,
    )


def _update(model: Any, masters: dict[str, Tensor], adam: torch.optim.Optimizer, clip: float) -> None:
    for name, parameter in model.named_parameters():
        masters[name].grad, parameter.grad = parameter.grad.float(), None
    torch.nn.utils.clip_grad_norm_(masters.values(), clip)
    adam.step()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(masters[name])


def _validate(model: Any, manifest: Manifest) -> float:
    """Mean loss over the held-out rows, in nats per token; infinite where training has diverged."""
    ((_, ids),) = validation_rows(manifest, VALIDATION_ROWS, 1).items()
    rows = torch.from_numpy(RowReader(manifest, "validation", cached_groups=1).take(ids).astype("int64"))
    objective, model = NextToken(), model.eval()
    with torch.no_grad():
        total = sum(objective.loss(model, micro, objective.weight(rows)).item() for micro in rows.split(16))
    return total if math.isfinite(total) else 1e9


if __name__ == "__main__":
    os.nice(10)
    main()
