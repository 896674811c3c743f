"""What a sweep costs beside its training, and what giving trials up early saves.

    python -m benchmarks.sweep CORPUS FOLDER [--parts overhead asha tiny] [--steps N] [--minutes N]

``overhead``: one trial that trains for five minutes; the figure is the share of the time from its beginning
to its end that is not training: starting workers, checkpoints, validation, report.
``asha``: twelve trials of peak rate and residual kind, the full grid first, then the same grid with asha,
both on the machine's cores two at a time. Figures: the best loss of asha over that of the grid, its tokens
over the grid's, and its minutes.
``tiny``: a hundred trials of two optimizer steps, two at a time, and as many in bare Ray Tune and Ray Train,
as Ray's documentation writes them, which leave nothing behind; twenty of each in turn, each twenty in a
session of its own, from the first trial's beginning to the last one's end. Figures: a trial's seconds, and
their ratio.
FOLDER keeps the sweeps, and a call goes on from what is there; with ``--minutes`` it ends after so long.
Parts that were measured in another folder stay in the result file.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.bare_tune import run_trials
from benchmarks.results import FOLDER, Figure, machine_name, write_result
from codex_ray.config.compose import compose
from codex_ray.errors import Interrupted
from codex_ray.files import read_json, write_json
from codex_ray.tune.sweep import sweep

SECONDS = 300
STEPS = 240
RATES = "optimizer.learning_rate=5e-4,1e-3,2e-3,4e-3,8e-3,1.6e-2"
KINDS = "model.residual.kind=mhc,plain"
PIECE = 20  # tiny trials of one session
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
    parser.add_argument("--minutes", type=float, help="stop after so long, to be gone on with")
    arguments = parser.parse_args()
    kept = Kept(arguments.folder / "measured.json")
    if arguments.minutes:
        stop = threading.Timer(60 * arguments.minutes, os.kill, [os.getpid(), signal.SIGINT])
        stop.daemon = True
        stop.start()
    try:
        for part in arguments.parts:
            PARTS[part](arguments.corpus, arguments.folder, arguments, kept)
    except (Interrupted, KeyboardInterrupt):
        print("stopped; the same command goes on")
    measured = _earlier() | kept.measured
    print(write_result("sweep", _figures(measured), extra=measured))


def _earlier() -> dict[str, Any]:
    path = FOLDER / f"sweep.{machine_name()}.json"
    result = read_json(path, "benchmark result") if path.exists() else {}
    return {part: result[part] for part in PARTS if part in result}


class Kept:
    """What was measured so far, in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.measured: dict[str, Any] = read_json(path, "earlier parts") if path.exists() else {}

    def __call__(self, part: str, found: Any) -> None:
        """Keep what a part has come to."""
        self.measured[part] = found
        write_json(self._path, self.measured)


def _overhead(corpus: str, folder: Path, arguments: argparse.Namespace, keep: Kept) -> None:
    words = [f"train.seconds={SECONDS}", "schedule.kind=constant", "seed=1,2", "sweep.trials=1"]
    result = _swept(corpus, folder, "overhead", [*words, "sweep.concurrent=1", "cluster.workers=2"])
    (trial,) = json.loads((result / "trials.json").read_text())
    summary = read_json(result / "trials" / "trial_0000" / "summary.json", "the summary")
    keep(
        "overhead",
        {"seconds": trial["ended"] - trial["began"], "train_seconds": summary["train_seconds"]},
    )


def _asha(corpus: str, folder: Path, arguments: argparse.Namespace, keep: Kept) -> None:
    words = [RATES, KINDS, f"train.steps={arguments.steps}", "sweep.search=grid", "cluster.workers=1"]
    found: dict[str, Any] = keep.measured.get("asha", {})
    for name, scheduler in (("grid", "none"), ("asha", "asha")):
        of_this = found.setdefault(name, {"minutes": 0.0, "loss": None, "tokens": None})
        if of_this["loss"] is not None:
            continue
        began = time.monotonic()
        try:
            result = _swept(corpus, folder, name, [*words, f"sweep.scheduler={scheduler}"])
            summary = read_json(result / "summary.json", "the summary")
            of_this |= {"loss": summary["best_validation_loss"], "tokens": summary["tokens"]}
        finally:
            of_this["minutes"] += (time.monotonic() - began) / 60  # an interrupted call's count too
            keep("asha", found)


def _tiny(corpus: str, folder: Path, arguments: argparse.Namespace, keep: Kept) -> None:
    pieces: list[dict[str, float]] = keep.measured.get("tiny", [])
    while (done := PIECE * len(pieces)) < arguments.trials:
        name = f"tiny{len(pieces)}"
        count = min(PIECE, arguments.trials - done)
        rates = ",".join(f"{1e-3 * (1 + n):g}" for n in range(done, done + count))
        words = [f"optimizer.learning_rate={rates}", "sweep.search=grid", "cluster.workers=1"]
        words += [
            f"train.steps={TINY_STEPS}",
            "sweep.concurrent=2",
            "validation.every=0",
            "validation.rows=8",
        ]
        shutil.rmtree(folder / name, ignore_errors=True)  # of a call that was stopped within
        result = _swept(corpus, folder, name, [*words, f"train.batch_tokens={TINY_TOKENS}", "sweep.keep=0"])
        trials = json.loads((result / "trials.json").read_text())
        assert all(trial["state"] == "completed" for trial in trials)
        seconds = max(trial["ended"] for trial in trials) - min(trial["began"] for trial in trials)
        bare = run_trials(
            str(Path(corpus).resolve()),
            folder.resolve() / f"bare{len(pieces)}",
            count,
            steps=TINY_STEPS,
            batch_tokens=TINY_TOKENS,
            model=MODEL,
        )
        pieces.append({"trials": count, "seconds": seconds, "bare_seconds": bare})
        keep("tiny", pieces)


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
    both = measured.get("asha", {})
    if all(both.get(name, {}).get("loss") is not None for name in ("grid", "asha")):
        grid, asha = both["grid"], both["asha"]
        figures["asha_over_grid_loss"] = Figure(asha["loss"] / grid["loss"], "ratio", "lower", 1.02)
        figures["asha_over_grid_tokens"] = Figure(asha["tokens"] / grid["tokens"], "ratio", "lower", 0.5)
        figures["asha_minutes"] = Figure(asha["minutes"], "minutes", "lower", 15.0)
    if pieces := measured.get("tiny"):
        trials, seconds, bare = (
            sum(piece[name] for piece in pieces) for name in ("trials", "seconds", "bare_seconds")
        )
        figures["tiny_trials"] = Figure(trials, "trials", "higher", float(TRIALS), COMMAND)
        figures["tiny_trial_seconds"] = Figure(seconds / trials, "s", "lower")
        figures["tiny_trial_over_bare_tune"] = Figure(seconds / bare, "ratio", "lower")
    return figures


if __name__ == "__main__":
    main()
