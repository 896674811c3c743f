"""Whether a small policy that learns while it searches finds better solutions than one that does not.

python -m benchmarks.discovery FOLDER [key=value ...]

Everything lies in FOLDER and is not done again: interrupt it and run it again to go on. First a policy of
0.4 M parameters is pretrained from nothing on random operator programs; then ``discover ablation`` compares
the arms on Erdős's minimum overlap with 48 steps. Words after the folder are settings of the ablation, such
as ``seeds=3``; a run of the full protocol takes hours on two cores.
"""

from __future__ import annotations

import os
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks.results import Figure, write_result
from codex_ray.cli import main as command
from codex_ray.files import read_json

PROTOCOL = [
    *("arms=[full,greedy,constant,expected,standardised,untrained,no_reuse,best_of_n]", "search.samples=32"),
    *("learning_rates=[0.0005,0.001]", "shapings=[0.1,0.3]", "grid_seeds=3", "seeds=8"),
    "schedule.warmup_steps=5",
    *("rollout.max_new_tokens=24", "rollout.actors=1", "rollout.slots=64", "rollout.task_sequences=128"),
    *("learn.micro_batch_tokens=16384", "cluster.workers=1"),
]
POLICY = [
    *("model.hidden_size=96", "model.intermediate_size=256", "model.layers=3", "model.heads=3"),
    *("model.key_value_heads=1", "model.residual.streams=2", "train.steps=250", "train.batch_tokens=10240"),
    *("train.documents=separate", "cluster.workers=1", "optimizer.learning_rate=0.004"),
]
ROWS = [
    *("tokenizer.vocabulary_size=512", "tokenizer.split_digits=false", "pack.method=best_fit"),
    "pack.sequence_length=160",
]


def main(words: list[str]) -> int:
    """Run what is missing and write the result file."""
    if not words:
        print(__doc__, file=sys.stderr)
        return 2
    folder = Path(words[0])
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    steps: list[tuple[Path, list[str]]] = [
        (
            Path("programs.jsonl"),
            ["discover", "programs", "erdos_min_overlap", "count=24000", "output=programs.jsonl"],
        ),
        (Path("words/manifest.json"), ["prepare", "programs.jsonl", "output=words", *ROWS]),
        (Path("runs/policy/model"), ["pretrain", "words", "name=policy", "resume=auto", *POLICY]),
    ]
    for made, arguments in steps:
        if not made.exists() and (status := command(arguments)):
            return status
    arguments = ["discover", "ablation", "erdos_min_overlap", "runs/policy", "name=ablation"]
    if status := command([*arguments, *PROTOCOL, *words[1:]]):
        return status
    print(write_result("discovery", figures(read_json(Path("runs/ablation/results.json"), "the results"))))
    return 0


def figures(results: dict[str, Any]) -> dict[str, Figure]:
    """Return mean and deviation of each arm's best cell, and p of the first arm against each other."""
    found: dict[str, Figure] = {}
    cells = {_key(cell): cell["outcomes"].values() for cell in results["grid"]}
    for arm, cell in results["best_cells"].items():
        best = [one["best"] for one in cells[_key(cell)]]
        aim = 0.3825 if arm == "full" else None
        found[f"{arm}_bound"] = Figure(statistics.mean(best), "C5", "lower", aim)
        found[f"{arm}_sd"] = Figure(statistics.stdev(best) if len(best) > 1 else 0.0, "C5", "lower")
        found[f"{arm}_seeds"] = Figure(float(len(best)), "seeds", "higher")
    for one in results["comparisons"]:
        aim = 0.05 if one["arm"] == "expected" else None
        if one["wilcoxon_p"] is not None:
            found[f"full_over_{one['arm']}_p"] = Figure(one["wilcoxon_p"], "p", "lower", aim)
    if results["direct"] is not None:
        found["direct_bound"] = Figure(results["direct"][0], "C5", "lower")
    return found


def _key(cell: dict[str, Any]) -> tuple[Any, ...]:
    return cell["arm"], cell["learning_rate"], cell["shaping"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
