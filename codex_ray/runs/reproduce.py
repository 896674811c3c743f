"""``reproduce``: the same settings again, and whether the same figures and weights come of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from codex_ray.config import saved
from codex_ray.config.compose import compose
from codex_ray.config.reproduce import Reproduce
from codex_ray.config.verbs import find_verb
from codex_ray.errors import CodexRayError
from codex_ray.files import read_json, write_json
from codex_ray.model.lineage import weights_of
from codex_ray.runs.state import COMPLETED, find_run, states
from codex_ray.track.environment import environment_facts
from codex_ray.track.metrics import Row, read_run
from codex_ray.track.progress import Progress, figure

VERBS = ("pretrain", "finetune", "discover")
FIGURES = ("loss", "grad_norm", "learning_rate", "tokens", "batch", "validation_loss", "reward")
REPORT = "reproduction.json"
_SHOWN = 20  # differences of the environment
_IGNORED = ("time", "command", "mlflow_uri", "torch", "resources", "memory_bytes", "verb")


@dataclass(frozen=True)
class Reproduction:
    """How a run compares with the one that it repeats.

    Attributes:
        run: the new folder; ``of``: the first.
        environment: what differs, by dotted name: then and now.
        steps: that both have; ``differing_steps``: with any figure that differs.
        first: the first such step, its figure, and both values; None where all are equal.
        largest: the largest relative difference of each figure.
        weights_equal: whether the files of weights are the same, bit for bit.
    """

    run: str
    of: str
    environment: dict[str, tuple[Any, Any]]
    steps: int
    differing_steps: int
    first: tuple[int, str, Any, Any] | None
    largest: dict[str, float]
    weights_equal: bool


def reproduce_verb(settings: Reproduce) -> Reproduction:
    """Run a completed run again, say what differs around it first, and compare.

    Raises:
        CodexRayError: the run cannot be repeated, or something else came of it.
    """
    first = find_run(settings.run, settings.runs)
    if states([first])[first] != COMPLETED:
        raise CodexRayError(
            f"{first} is not completed; finish it with resume=auto first, or give another run"
        )
    then = read_json(first / "environment.json", "environment")
    verb = then.get("verb")
    if verb not in VERBS:
        raise CodexRayError(
            f"{first / 'environment.json'} names none of {', '.join(VERBS)} as its verb; give a run of one"
        )
    plain = saved.read(first / "config.yaml")
    differing = differences(then, environment_facts(plain))
    with Progress("off") as shown:
        told = [(name, _short(old), _short(new)) for name, (old, new) in list(differing.items())[:_SHOWN]]
        more = [(f"and {len(differing) - _SHOWN} more", "", "")] if len(differing) > _SHOWN else []
        rows = [*told, *more] or [("nothing", "", "")]
        shown.table("what differs in the environment", rows, ("", "then", "now"))
    second = first.with_name(settings.name or f"{first.name}-again")
    words = [f"name={second.name}", f"runs={first.parent}", "resume=never"]
    words += _decided(first, plain)
    find_verb(verb).run(compose(verb, [*words, *settings.changes], first / "config.yaml"))
    result = compared(first, second, settings.tolerance, differing)
    write_json(second / REPORT, asdict(result))
    _show(result, settings.tolerance)
    return result


def _decided(run: Path, plain: Mapping[str, Any]) -> list[str]:
    """Return as settings what the run left open and found out on the way; here it may come out otherwise."""
    words = []
    if plain["train"]["seconds"] is not None:
        words.append(f"train.steps={_last_step(run)}")  # as many, however long they take
    decided = read_json(run / "decided.json", "run decisions")
    if plain["compute"]["dtype"] == "auto":
        words.append(f"compute.dtype={decided['dtype']}")
    if plain["cluster"]["threads_per_worker"] is None:  # by which sums are rounded
        words.append(f"cluster.threads_per_worker={decided['threads']}")
    return words


def compared(
    first: Path, second: Path, tolerance: float, environment: Mapping[str, tuple[Any, Any]]
) -> Reproduction:
    """Compare the figures of each step and the final weights of two runs."""
    before, after = ({int(row["step"] or 0): row for row in read_run(run)} for run in (first, second))
    largest: dict[str, float] = {}
    found: list[tuple[int, str, Any, Any]] = []
    steps = sorted(before.keys() & after.keys())
    for step in steps:
        for name, old, new in _figures(before[step], after[step]):
            apart = _apart(old, new)
            largest[name] = max(largest.get(name, 0.0), apart)
            if apart > tolerance:
                found.append((step, name, old, new))
    for step in sorted(before.keys() ^ after.keys()):
        found.append((step, "step", step in before, step in after))
    now = dict(environment)
    rows = [
        read_json(run / "environment.json", "environment").get("corpus_fingerprint")
        for run in (first, second)
    ]
    if rows[0] != rows[1]:
        now["corpus_fingerprint"] = (rows[0], rows[1])
    weights = [weights_of(run / "model") for run in (first, second)]
    return Reproduction(
        run=str(second),
        of=str(first),
        environment=now,
        steps=len(steps),
        differing_steps=len({one[0] for one in found}),
        first=min(found, key=lambda one: one[0], default=None),
        largest=largest,
        weights_equal=bool(weights[0]) and weights[0] == weights[1],
    )


def differences(
    then: Mapping[str, Any], now: Mapping[str, Any], prefix: str = ""
) -> dict[str, tuple[Any, Any]]:
    """Return what differs between two environments, by dotted name."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in sorted(now.keys() | (then.keys() if prefix else set())):
        old, new = then.get(key), now.get(key)
        if not prefix and key in _IGNORED:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found |= differences(old, new, f"{prefix}{key}.")
        elif old != new and key not in ("changes", "executable"):
            found[f"{prefix}{key}"] = (old, new)
    return found


def _figures(old: Row, new: Row) -> Sequence[tuple[str, Any, Any]]:
    return [(name, old.get(name), new.get(name)) for name in FIGURES if name in old or name in new]


def _apart(old: Any, new: Any) -> float:
    """Return the relative difference of two values; infinite where one is no number and they differ."""
    if old == new:
        return 0.0
    if not all(isinstance(value, int | float) for value in (old, new)):
        return math.inf
    if math.isnan(old) and math.isnan(new):
        return 0.0
    return float(abs(old - new) / max(abs(old), abs(new)))


def _last_step(run: Path) -> int:
    return max((int(row["step"] or 0) for row in read_run(run)), default=1)


def _short(value: Any) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _show(result: Reproduction, tolerance: float) -> None:
    rows: list[tuple[str, Any]] = [
        ("steps compared", result.steps),
        ("steps that differ", result.differing_steps),
        *((f"largest difference of {name}", figure(value)) for name, value in result.largest.items()),
        ("final weights", "equal, bit for bit" if result.weights_equal else "differ"),
    ]
    with Progress("off") as shown:
        shown.table(f"{result.run} beside {result.of}", rows)
    if result.first is None and (result.weights_equal or tolerance > 0):
        return
    count = len(result.environment) or "nothing"
    where = "the final weights differ, and no figure"
    if result.first is not None:
        step, name, old, new = result.first
        where = (
            f"{result.differing_steps} steps differ, step {step} first, where {name} was {old} and is {new}"
        )
    raise CodexRayError(
        f"{result.run} is not {result.of}: {where} (of the environment, {count} differs); give tolerance=X "
        "to allow a relative difference, or make equal what differs"
    )
