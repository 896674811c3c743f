"""What saving costs: the same run with checkpoints written in the loop, beside it, and compressed.

    python -m benchmarks.checkpoint

A decoder of width 512 on two workers, ZeRO-1 in bf16 with fp32 masters. Every fourth step is saved; the ways
to save take turns. The stall is what the loop itself records for each save, here without the first of a run,
for which host memory has to be found; it is given beside. ``write_seconds`` runs until the checkpoint counts.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.results import Figure, write_result
from codex_ray.cluster.session import open_session
from codex_ray.config.compose import compose
from codex_ray.config.train import Checkpoints
from codex_ray.corpus.prepare import prepare
from codex_ray.track.metrics import read_metrics
from codex_ray.train.checkpoint import CheckpointFolder, Found
from codex_ray.train.driver import TrainingResult, pretrain

STEPS, EVERY, TURNS = 20, 4, 1
WAYS = {
    "synchronous": Checkpoints(EVERY, asynchronous=False),
    "asynchronous": Checkpoints(EVERY),
    "synchronous_zstd": Checkpoints(EVERY, asynchronous=False, compression="zstd"),
    "asynchronous_zstd": Checkpoints(EVERY, compression="zstd"),
}


def main() -> None:
    """Measure and write the result file."""
    measured: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        quiet = {"progress": "off", "mlflow": {"enabled": False}, "report": False, "mixing_every": 0}
        words = ["model=plain-small", "optimizer=adamw", "schedule=constant", f"train.steps={STEPS}"]
        words += [
            "train.batch_tokens=2048",
            "validation.every=0",
            "validation.rows=0",
            "compute.dtype=bfloat16",
        ]
        settings = compose("pretrain", words, values={"corpus": str(corpus), "runs": folder, "track": quiet})
        with open_session(settings.cluster):
            prepare(compose("prepare", values={"output": str(corpus), "track": {"progress": "off"}}))
            for turn in range(TURNS):
                for way, checkpoints in WAYS.items():
                    run = replace(
                        settings, name=f"{way}_{turn}", checkpoints=replace(checkpoints, keep_last=STEPS)
                    )
                    measured[way].append(_measure(pretrain(run)))
                    print(f"turn {turn + 1}, {way}: {measured[way][-1]}", flush=True)
    print(write_result("checkpoint", _figures(measured), extra={"turns": measured}))


def _measure(result: TrainingResult) -> dict[str, float]:
    rows = read_metrics(result.run / "metrics.jsonl")
    step_seconds = statistics.median(float(row["step_seconds"] or 0) for row in rows)
    stalls = [
        float(row["checkpoint_stall_seconds"] or 0) for row in rows if "checkpoint_stall_seconds" in row
    ]
    folder = CheckpointFolder(result.run / "checkpoints")
    manifests = [Found.read(folder.path(step)).manifest for step in folder.steps()]
    assert len(stalls) == len(manifests) == STEPS // EVERY
    return {
        "step_seconds": step_seconds,
        "stall_seconds": statistics.median(stalls[1:]),
        "stall_steps": statistics.median(stalls[1:]) / step_seconds,
        "first_stall_steps": stalls[0] / step_seconds,
        "write_seconds": statistics.median(manifest["write_seconds"] for manifest in manifests),
        "bytes": statistics.median(manifest["bytes"] for manifest in manifests),
        # From the first save, which all have alike behind them, to the end of the last step.
        "seconds_per_step": (float(rows[-1]["time"] or 0) - float(rows[EVERY]["time"] or 0))
        / (STEPS - EVERY - 1),
    }


def _figures(measured: dict[str, list[dict[str, float]]]) -> dict[str, Figure]:
    def of(way: str, name: str) -> float:
        return statistics.median(turn[name] for turn in measured[way])

    figures = {
        "checkpoint_stall_steps": Figure(of("asynchronous", "stall_steps"), "steps", "lower", aim=1.0),
        "checkpoint_first_stall_steps": Figure(of("asynchronous", "first_stall_steps"), "steps", "lower"),
        "checkpoint_stall_steps_synchronous": Figure(of("synchronous", "stall_steps"), "steps", "lower"),
        "checkpoint_zstd_over_plain_bytes": Figure(
            of("asynchronous_zstd", "bytes") / of("asynchronous", "bytes"), "ratio", "lower"
        ),
    }
    units = {"stall_seconds": "s", "write_seconds": "s", "seconds_per_step": "s", "bytes": "bytes"}
    for way in WAYS:
        for name, unit in units.items():
            figures[f"checkpoint_{name}_{way}"] = Figure(of(way, name), unit, "lower")
    return figures


if __name__ == "__main__":
    main()
