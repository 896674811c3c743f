"""What a sweep costs beside its training, and what giving trials up early saves.

    python -m benchmarks.sweep CORPUS FOLDER [--parts overhead asha tiny] [--trials N] [--steps N]

``overhead``: one trial that trains for five minutes; the figure is the share of the time from its beginning
to its end that is not training: starting workers, checkpoints, validation, report.
``asha``: twelve trials of peak rate and residual kind, the full grid first, then the same grid with asha,
both on the machine's cores two at a time. Figures: the best loss of asha over that of the grid, its tokens
over the grid's, and its minutes.
``tiny``: a hundred trials of two optimizer steps, two at a time, and as many in bare Ray Tune and Ray Train,
as Ray's documentation writes them, which leave nothing behind. Figures: a trial's seconds, and their ratio.
FOLDER keeps the sweeps, and a call goes on from what is there.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from benchmarks.bare_tune import run_trials
from benchmarks.results import Figure, write_result
from codex_ray.config.compose import compose
from codex_ray.files import read_json
from codex_ray.tune.sweep import sweep

SECONDS = 300
STEPS = 240
RATES = "optimizer.learning_rate=5e-4,1e-3,2e-3,4e-3,8e-3,1.6e-2"
KINDS = "model.residual.kind=mhc,plain"
TRIALS, TINY_STEPS, TINY_TOKENS, MODEL = 100, 2, 1024, "mhc-tiny"
COMMAND = "python -m benchmarks.sweep CORPUS FOLDER"


def main() -> None:
    """Measure the parts asked for and write the result file."""
    parser = argparse.ArgumentParser(description="What sweeps cost and save.")
    parser.add_argument("corpus")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--trials", type=int, default=TRIALS, help="tiny: trials of each kind")
    parser.add_argument("--steps", type=int, default=STEPS, help="asha: optimizer steps of a trial")
    arguments = parser.parse_args()
    kept = arguments.folder / "measured.json"
    measured: dict[str, Any] = read_json(kept, "earlier parts") if kept.exists() else {}
    for part in arguments.parts:
        measured[part] = PARTS[part](arguments.corpus, arguments.folder, arguments)
        kept.write_text(json.dumps(measured))
    print(write_result("sweep", _figures(measured), extra=measured))


def _overhead(corpus: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    words = [f"train.seconds={SECONDS}", "schedule.kind=constant", "seed=1,2", "sweep.trials=1"]
    result = _swept(corpus, folder, "overhead", [*words, "sweep.concurrent=1", "cluster.workers=2"])
    (trial,) = json.loads((result / "trials.json").read_text())
    summary = read_json(result / "trials" / "trial_0000" / "summary.json", "the summary")
    return {"seconds": trial["ended"] - trial["began"], "train_seconds": summary["train_seconds"]}


def _asha(corpus: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    words = [RATES, KINDS, f"train.steps={arguments.steps}", "sweep.search=grid", "cluster.workers=1"]
    found = {}
    for name, scheduler in (("grid", "none"), ("asha", "asha")):
        began = time.monotonic()
        result = _swept(corpus, folder, name, [*words, f"sweep.scheduler={scheduler}"])
        minutes = (time.monotonic() - began) / 60
        summary = read_json(result / "summary.json", "the summary")
        found[name] = {
            "minutes": minutes,
            "loss": summary["best_validation_loss"],
            "tokens": summary["tokens"],
        }
    return found


def _tiny(corpus: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    count, rates = arguments.trials, ",".join(f"{1e-3 * (1 + n):g}" for n in range(arguments.trials))
    words = [f"optimizer.learning_rate={rates}", "sweep.search=grid", "cluster.workers=1", "sweep.keep=0"]
    words += [f"train.steps={TINY_STEPS}", "sweep.concurrent=2", "validation.every=0", "validation.rows=8"]
    result = _swept(corpus, folder, "tiny", [*words, f"train.batch_tokens={TINY_TOKENS}"])
    trials = json.loads((result / "trials.json").read_text())
    assert all(trial["state"] == "completed" for trial in trials)
    seconds = max(trial["ended"] for trial in trials) - min(trial["began"] for trial in trials)
    bare = run_trials(
        str(Path(corpus).resolve()),
        folder.resolve() / "bare",
        count,
        steps=TINY_STEPS,
        batch_tokens=TINY_TOKENS,
        model=MODEL,
    )
    return {"trials": count, "seconds": seconds, "bare_seconds": bare}


def _swept(corpus: str, folder: Path, name: str, words: list[str]) -> Path:
    model = [f"model={MODEL}", "validation.every=30", "validation.rows=64", "train.batch_tokens=4096"]
    place = [f"runs={folder}", f"name={name}", "resume=auto", "track.progress=plain"]
    return sweep(compose("sweep", [corpus, *model, *place, *words])).folder


PARTS = {"overhead": _overhead, "asha": _asha, "tiny": _tiny}


def _figures(measured: dict[str, Any]) -> dict[str, Figure]:
    figures = {
        "sweep_overhead": Figure(None, "share", "lower", 0.10, COMMAND),
        "asha_over_grid_loss": Figure(None, "ratio", "lower", 1.02, COMMAND),
        "asha_over_grid_tokens": Figure(None, "ratio", "lower", 0.5, COMMAND),
        "asha_minutes": Figure(None, "minutes", "lower", 15.0, COMMAND),
        "tiny_trial_seconds": Figure(None, "s", "lower", None, COMMAND),
        "tiny_trial_over_bare_tune": Figure(None, "ratio", "lower", None, COMMAND),
    }
    if one := measured.get("overhead"):
        share = 1 - one["train_seconds"] / one["seconds"]
        figures["sweep_overhead"] = Figure(share, "share", "lower", 0.10)
    if both := measured.get("asha"):
        grid, asha = both["grid"], both["asha"]
        figures["asha_over_grid_loss"] = Figure(asha["loss"] / grid["loss"], "ratio", "lower", 1.02)
        figures["asha_over_grid_tokens"] = Figure(asha["tokens"] / grid["tokens"], "ratio", "lower", 0.5)
        figures["asha_minutes"] = Figure(asha["minutes"], "minutes", "lower", 15.0)
    if tiny := measured.get("tiny"):
        figures["tiny_trial_seconds"] = Figure(tiny["seconds"] / tiny["trials"], "s", "lower")
        ratio = tiny["seconds"] / tiny["bare_seconds"]
        figures["tiny_trial_over_bare_tune"] = Figure(ratio, "ratio", "lower")
    return figures


if __name__ == "__main__":
    main()
