"""What methods of fine-tuning leave of old abilities: new facts against old ones, over steps.

    python -m benchmarks.continual [--config configs/benchmarks/continual.yaml] [--folder runs/continual]
                                   [--minutes N] [--seeds 1,2]

For each seed a small model is pretrained on old facts, and every arm fine-tunes it on new ones (see
:mod:`benchmarks.continual_data`): each a run of the product, which trains in this process, for it is shorter
than the start of a worker. What is there already is not run again, so an interrupted experiment goes on where
it was; with ``--minutes`` it stops by itself before a run that might take longer. The table, the result file
and the plot are of all that is there.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping
from copy import deepcopy
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.continual_data import Sizes, write
from benchmarks.in_process import in_this_process
from benchmarks.results import Figure, write_result
from codex_ray.cluster.session import open_session
from codex_ray.config import saved
from codex_ray.config.compose import compose
from codex_ray.config.groups import configs_folder
from codex_ray.corpus.prepare import prepare
from codex_ray.errors import Interrupted
from codex_ray.files import read_json
from codex_ray.track.metrics import read_metrics
from codex_ray.train.driver import pretrain
from codex_ray.train.finetune import finetune

CONFIG = configs_folder() / "benchmarks" / "continual.yaml"
PLOT = Path(__file__).parents[1] / "docs" / "_static" / "continual.svg"
TASKS = ("new", "old", "old_value")
VERIFIER = "benchmarks.continual_data.value"
RUN_MINUTES = 3.5  # that no single run takes longer than
QUIET = {"track": {"progress": "plain", "mlflow": {"enabled": False}, "mixing_every": 0}}
COMMON = {
    "stream": "direct",
    "cluster": {"workers": 1},
    "resume": "auto",
    "compute": {"device": "cpu", "dtype": "float32"},
    **QUIET,
}


def main() -> None:
    """Run what is missing; then write the table, the result file and the plot."""
    parser = argparse.ArgumentParser(description="What fine-tuning leaves of old abilities.")
    parser.add_argument("--config", type=Path, default=CONFIG, help="the experiment")
    parser.add_argument("--folder", type=Path, default=Path("runs/continual"), help="where its runs are")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="time for what is missing")
    parser.add_argument("--seeds", type=lambda text: [int(one) for one in text.split(",")], default=None)
    given = parser.parse_args()
    wanted = saved.read(given.config)
    seeds = given.seeds or wanted["seeds"]
    deadline = time.monotonic() + 60 * given.minutes
    try:
        _run_missing(wanted, given.folder, seeds, deadline)
    except Interrupted as end:
        print(end, flush=True)
    report(wanted, given.folder)


def _run_missing(wanted: Mapping[str, Any], folder: Path, seeds: list[int], deadline: float) -> None:
    # Arm by arm, so that a part of the experiment has all of its seeds.
    runs = [(name, seed, folder / f"seed_{seed}") for name, seed in product(("base", *wanted["arms"]), seeds)]
    missing = [run for run in runs if not (run[2] / run[0] / "model").is_dir()]
    if not missing or time.monotonic() + 60 * RUN_MINUTES > deadline:
        return
    first = compose("finetune", values=arm_settings(wanted, "sdft", folder / "seed_1", 1))
    with open_session(first.cluster, more_cpus=first.rollout.actors), in_this_process():
        for name, seed, place in missing:
            if time.monotonic() + 60 * RUN_MINUTES > deadline:
                return
            print(f"seed {seed}, {name}", flush=True)
            if name == "base":
                _pretrain(wanted, place, seed)
            else:
                finetune(compose("finetune", values=arm_settings(wanted, name, place, seed)))


def _pretrain(wanted: Mapping[str, Any], place: Path, seed: int) -> None:
    write(place / "data", Sizes(**wanted["facts"]), seed)
    texts = {
        name: {"path": str(place / "data" / f"{name}.jsonl"), "weight": 0.5} for name in ("facts", "context")
    }
    corpus = place / "corpus"
    if not (corpus / "manifest.json").is_file():
        rows = {"method": "best_fit", "sequence_length": 64, "row_group_rows": 16}
        words: dict[str, Any] = {
            "sources": texts,
            "output": str(corpus),
            "tokenizer": {"vocabulary_size": 800},
            "clean": {"min_bytes": 1},
            "split": {"validation": 0.0, "test": 0.0},
            "pack": rows,
            "track": {"progress": "off", "mlflow": {"enabled": False}},
        }
        prepare(compose("prepare", values=words))
    run = {"corpus": str(corpus), "runs": str(place), "name": "base", "seed": seed, **COMMON}
    pretrain(compose("pretrain", values=_merged(wanted["base"], run)))


def arm_settings(wanted: Mapping[str, Any], name: str, place: Path, seed: int) -> dict[str, Any]:
    """Return the settings of an arm; data and replay are files of the facts by name."""
    arm = {key: value for key, value in wanted["arms"][name].items() if key != "title"}
    tasks = {
        task: {"path": str(place / "data" / f"{task.partition('_')[0]}.jsonl")}
        | ({} if task == "old" else {"verifier": VERIFIER})
        for task in TASKS
    }
    run: dict[str, Any] = {
        "model": str(place / "base"),
        "runs": str(place),
        "name": name,
        "seed": seed,
        **COMMON,
    }
    run |= {"data": {"path": "foreign"}, "evaluation": {"tasks": tasks}, "validation": {"rows": 0}}
    merged = _merged(_merged(wanted["tuning"], run), arm)
    for section in ("data", "replay"):
        if "path" in merged.get(section, {}):
            merged[section]["path"] = str(place / "data" / f"{merged[section]['path']}.jsonl")
    return merged


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Lay nested settings over others."""
    result = deepcopy(dict(one))
    for key, value in other.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = _merged(result[key], value) if both else deepcopy(value)
    return result


def report(wanted: Mapping[str, Any], folder: Path) -> None:
    """Print the table of all arms that are there, write the result file, and draw the curves."""
    found: dict[str, list[list[Any]]] = {}
    for arm in wanted["arms"]:
        places = sorted(run for run in folder.glob(f"seed_*/{arm}") if (run / "model").is_dir())
        if places:
            found[arm] = [read_metrics(place / "evaluation.jsonl") for place in places]
    if not found:
        return
    figures, table = (
        {},
        ["| Arm | Seeds | New value | Old, exactly | Old value |", "| --- | --- | --- | --- | --- |"],
    )
    for arm, runs in found.items():
        cells = []
        for task in TASKS:
            ends = [run[-1]["tasks"][task]["value"] for run in runs]
            spread = statistics.stdev(ends) if len(ends) > 1 else 0.0
            figures[f"{arm}_{task}"] = Figure(statistics.mean(ends), "share", "higher")
            figures[f"{arm}_{task}_deviation"] = Figure(spread, "share", "lower")
            cells.append(f"{statistics.mean(ends):.2f} ± {spread:.2f}")
        table.append(f"| {wanted['arms'][arm]['title']} | {len(runs)} | {' | '.join(cells)} |")
    text = "\n".join(table)
    print(text)
    seconds = [
        read_json(run / "summary.json", "summary")["wall_seconds"] for run in sorted(folder.glob("seed_*/*/"))
        if (run / "summary.json").is_file()
    ]  # fmt: skip
    seeds = max(len(runs) for runs in found.values())
    figures["minutes_per_seed"] = Figure(sum(seconds) / 60 / seeds, "min", "lower")
    curves = {
        arm: {task: [_at(runs, task, place) for place in range(len(runs[0]))] for task in TASKS}
        | {"steps": _steps(runs)}
        for arm, runs in found.items()
    }
    print(
        write_result("continual", figures, extra={"table": table, "curves": curves, "config": dict(wanted)})
    )
    draw(wanted, curves)


def _steps(runs: list[list[Any]]) -> list[int]:
    return [line["step"] for line in runs[0]]


def _at(runs: list[list[Any]], task: str, place: int) -> float:
    values: list[float] = [run[place]["tasks"][task]["value"] for run in runs]
    return statistics.mean(values)


def draw(wanted: Mapping[str, Any], curves: Mapping[str, Any]) -> None:
    """Draw new against old over the steps, one small plot for each arm."""
    from codex_ray.track.drawing import INK, MUTED, PRINTED, SERIES, drawn

    with drawn():
        from matplotlib.figure import Figure as Drawing

        drawing = Drawing(figsize=(9.6, 4.8))
        panels = drawing.subplots(2, (len(curves) + 1) // 2, sharex=True, sharey=True, squeeze=False)
        for axes, (arm, curve) in zip(panels.flat, curves.items(), strict=False):
            for task, label, place in (("new", "new values", 0), ("old", "old facts, exactly", 1)):
                axes.plot(
                    curve["steps"], curve[task], color=PRINTED[SERIES[place]], label=label, linewidth=1.8
                )
            axes.set_title(wanted["arms"][arm]["title"], fontsize=8, color=PRINTED[INK], loc="left")
            axes.set_ylim(-0.04, 1.04)
            axes.tick_params(labelsize=7, colors=PRINTED[MUTED])
        for axes in panels[-1]:
            axes.set_xlabel("optimizer step", fontsize=7, color=PRINTED[MUTED])
        for axes in panels.flat[len(curves) :]:
            axes.set_axis_off()
        lines, labels = panels.flat[0].get_legend_handles_labels()
        drawing.legend(lines, labels, frameon=False, fontsize=8, loc="lower right")
        drawing.tight_layout()
        PLOT.parent.mkdir(exist_ok=True)
        drawing.savefig(PLOT, format="svg", facecolor="white", metadata={"Date": None})
    print(PLOT)


if __name__ == "__main__":
    main()
