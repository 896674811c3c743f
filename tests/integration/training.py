"""A tiny corpus and tiny runs that the training tests share."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, equal

from codex_ray.config.common import Cluster, Device, Mlflow, Track
from codex_ray.config.corpus import Clean, Pack, Prepare, Split, Tokenizer
from codex_ray.config.model import Model, Residual
from codex_ray.config.train import Checkpoints, DeepSpeed, Optimizer, Pretrain, Schedule, Training, Validation
from codex_ray.track.metrics import read_metrics

STEPS, LENGTH, GLOBAL_ROWS = 12, 32, 8
TWO_WORKERS = Cluster(workers=2, threads_per_worker=1, logical_cpus=8)
QUIET = Track(progress="off", mlflow=Mlflow(enabled=False), report=False, mixing_every=0)


def make_text(folder: Path) -> Path:
    """Write 120 small programs, the same on every machine, with something to learn in them."""
    folder.mkdir(parents=True)
    draw = random.Random(7)
    names = ["".join(draw.choices("aeioustrnlm", k=draw.randint(3, 8))) for _ in range(200)]
    for number in range(120):
        lines = []
        for _ in range(draw.randint(10, 40)):
            first, second, third = draw.choices(names, weights=range(200, 0, -1), k=3)
            lines += [
                f"def {first}({second}, {third}):",
                f"    return {second} + {third} * {draw.randint(0, 99)}",
                "",
            ]
        (folder / f"{number:03d}.py").write_text("\n".join(lines))
    return folder


def corpus_settings(text: Path, output: Path, **changes: Any) -> Prepare:
    """Settings of a corpus of a few thousand rows of 32 tokens."""
    settings = Prepare(
        text=str(text),
        output=str(output),
        tokenizer=Tokenizer(vocabulary_size=512),
        clean=Clean(),
        split=Split(validation=0.1, test=0.1),
        pack=Pack(sequence_length=LENGTH, row_group_rows=32, shard_row_groups=16),
        cluster=TWO_WORKERS,
        track=QUIET,
    )
    return replace(settings, **changes)


def run_settings(corpus: Path, runs: Path, name: str, **changes: Any) -> Pretrain:
    """Settings of a run of 12 optimizer steps in fp32 on two workers."""
    settings = Pretrain(
        corpus=str(corpus),
        runs=str(runs),
        name=name,
        stream="direct",
        resume="auto",
        compute=Device(device="cpu", dtype="float32"),
        model=Model(
            hidden_size=32,
            intermediate_size=64,
            layers=2,
            heads=4,
            key_value_heads=2,
            head_size=8,
            residual=Residual(kind="mhc", streams=2),
        ),
        optimizer=Optimizer(kind="muon", learning_rate=3e-3, matrix_learning_rate=0.01),
        schedule=Schedule(kind="cosine", warmup_steps=3),
        deepspeed=DeepSpeed(stage=1),
        train=Training(steps=STEPS, batch_tokens=GLOBAL_ROWS * LENGTH),
        checkpoints=Checkpoints(every=4, keep_last=2),
        validation=Validation(every=6, rows=8),
        cluster=TWO_WORKERS,
        track=QUIET,
    )
    return replace(settings, **changes)


def weights(run: Path) -> dict[str, Tensor]:
    """The final model's weights."""
    return load_file(run / "model" / "model.safetensors")


def batches(run: Path) -> list[tuple[int, int]]:
    """Each step with the checksum of the global batch it used."""
    return [(int(row["step"]), int(row["batch"])) for row in read_metrics(run / "metrics.jsonl")]  # type: ignore[arg-type]


def losses(run: Path) -> list[float]:
    """The loss of each step."""
    return [float(row["loss"]) for row in read_metrics(run / "metrics.jsonl")]  # type: ignore[arg-type]


def assert_same_end(run: Path, undisturbed: Path) -> None:
    """Equal weights bit for bit, and equal batches at every step, each once."""
    ours, theirs = weights(run), weights(undisturbed)
    assert ours.keys() == theirs.keys()
    assert all(equal(ours[name], theirs[name]) for name in ours)
    assert batches(run) == batches(undisturbed)
    assert losses(run) == losses(undisturbed)


def cut(path: Path) -> None:
    """Take a file's last hundred bytes."""
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    """Turn one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
