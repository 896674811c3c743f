"""What a sweep costs beside its training, and what giving trials up early saves.

    python -m benchmarks.sweep CORPUS FOLDER [--parts overhead asha]

``overhead``: one trial that trains for five minutes; the figure is the share of the time from its beginning
to its end that is not training: starting workers, checkpoints, validation, report.
``asha``: twelve trials of peak rate and residual kind, the full grid first, then the same grid with asha,
both on the machine's cores two at a time. Figures: the best loss of asha over that of the grid, its tokens
over the grid's, and its minutes. FOLDER keeps the sweeps, and a call goes on from what is there.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from benchmarks.results import Figure, write_result
from codex_ray.config.compose import compose
from codex_ray.files import read_json
from codex_ray.tune.sweep import sweep

SECONDS = 300
STEPS = 240
RATES = "optimizer.learning_rate=5e-4,1e-3,2e-3,4e-3,8e-3,1.6e-2"
KINDS = "model.residual.kind=mhc,plain"
COMMAND = "python -m benchmarks.sweep CORPUS FOLDER"


def main() -> None:
    """Measure the parts asked for and write the result file."""
    parser = argparse.ArgumentParser(description="What sweeps cost and save.")
    parser.add_argument("corpus")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parts", nargs="+", default=["overhead", "asha"], choices=["overhead", "asha"])
    arguments = parser.parse_args()
    kept = arguments.folder / "measured.json"
    measured: dict[str, Any] = read_json(kept, "earlier parts") if kept.exists() else {}
    for part in arguments.parts:
        measured[part] = PARTS[part](arguments.corpus, arguments.folder)
        kept.write_text(json.dumps(measured))
    print(write_result("sweep", _figures(measured), extra=measured))


def _overhead(corpus: str, folder: Path) -> dict[str, Any]:
    words = [f"train.seconds={SECONDS}", "schedule.kind=constant", "seed=1,2", "sweep.trials=1"]
    result = _swept(corpus, folder, "overhead", [*words, "sweep.concurrent=1", "cluster.workers=2"])
    (trial,) = json.loads((result / "trials.json").read_text())
    summary = read_json(result / "trials" / "trial_0000" / "summary.json", "the summary")
    return {"seconds": trial["ended"] - trial["began"], "train_seconds": summary["train_seconds"]}


def _asha(corpus: str, folder: Path) -> dict[str, Any]:
    words = [RATES, KINDS, f"train.steps={STEPS}", "sweep.search=grid", "cluster.workers=1"]
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


def _swept(corpus: str, folder: Path, name: str, words: list[str]) -> Path:
    model = ["model=mhc-tiny", "validation.every=30", "validation.rows=64", "train.batch_tokens=4096"]
    place = [f"runs={folder}", f"name={name}", "resume=auto", "track.progress=plain"]
    return sweep(compose("sweep", [corpus, *model, *place, *words])).folder


PARTS = {"overhead": _overhead, "asha": _asha}


def _figures(measured: dict[str, Any]) -> dict[str, Figure]:
    figures = {
        "sweep_overhead": Figure(None, "share", "lower", 0.10, COMMAND),
        "asha_over_grid_loss": Figure(None, "ratio", "lower", 1.02, COMMAND),
        "asha_over_grid_tokens": Figure(None, "ratio", "lower", 0.5, COMMAND),
        "asha_minutes": Figure(None, "minutes", "lower", 15.0, COMMAND),
    }
    if one := measured.get("overhead"):
        share = 1 - one["train_seconds"] / one["seconds"]
        figures["sweep_overhead"] = Figure(share, "share", "lower", 0.10)
    if both := measured.get("asha"):
        grid, asha = both["grid"], both["asha"]
        figures["asha_over_grid_loss"] = Figure(asha["loss"] / grid["loss"], "ratio", "lower", 1.02)
        figures["asha_over_grid_tokens"] = Figure(asha["tokens"] / grid["tokens"], "ratio", "lower", 0.5)
        figures["asha_minutes"] = Figure(asha["minutes"], "minutes", "lower", 15.0)
    return figures


if __name__ == "__main__":
    main()
