"""The decoders of the base size on one GPU: whole runs of the stack, then bare steps side by side.

    python -m benchmarks.gpu [--size base] [--device cuda] [--corpus FOLDER] [--profile FILE]

Runs: ``pretrain`` in bf16 with ZeRO-1 on one worker, and beside it a bare loop over the same rows and
model. The share of the card's peak (MFU) is the median over the steps after warm-up, against the peak that
the run recorded. Steps: forward, backward and AdamW on random tokens, mHC over plain, also
with compiled sublayers. With ``--device cpu`` everything runs and nothing is written.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import statistics
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_steps import BareTrainer, Measured, Shape, fresh_model, measure, profile
from benchmarks.results import Figure, write_result
from codex_ray.cluster.session import open_session
from codex_ray.config.compose import compose
from codex_ray.config.model import Model
from codex_ray.config.train import Pretrain
from codex_ray.corpus.manifest import Manifest
from codex_ray.corpus.prepare import prepare
from codex_ray.corpus.stream import open_stream
from codex_ray.tokenizer import Tokenizer
from codex_ray.track.hardware import peak_flops
from codex_ray.track.metrics import read_metrics
from codex_ray.train.driver import pretrain

LENGTH, MICRO_ROWS, ACCUMULATION, STEPS, WARM_UP = 1024, 16, 4, 24, 4
PACKAGES = ("torch", "transformers", "deepspeed", "ray", "numpy", "triton")
KINDS = ("plain", "mhc")


def main() -> None:
    """Measure and, on a GPU, write the result file."""
    parser = argparse.ArgumentParser(description="Measure training on one GPU.")
    parser.add_argument("--size", default="base", choices=("tiny", "small", "base"))
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--steps", type=int, default=STEPS, help="optimizer steps of each run")
    parser.add_argument("--corpus", help="rows of 1,024 tokens; unset takes the standard library")
    parser.add_argument("--profile", type=Path, help="file for tables of where a step's time goes")
    arguments = parser.parse_args()
    peak, source = peak_flops(arguments.device, "bfloat16", torch.get_num_threads())
    extra: dict[str, Any] = {"versions": _versions(), "peak_flops": peak, "peak_flops_from": source}
    models = _models(arguments.size)
    shape = Shape(32768 if arguments.size == "base" else 2048, LENGTH, MICRO_ROWS, arguments.device)
    extra["step"] = asdict(shape)
    figures = _steps(models, shape)
    _keep(figures, extra, arguments.device)
    if arguments.profile:
        tables = [f"{kind}\n{profile(models[kind], shape)}" for kind in KINDS]
        arguments.profile.write_text("\n\n".join(tables), encoding="utf-8")
    torch.cuda.empty_cache()  # the runs are other processes
    with tempfile.TemporaryDirectory() as folder:
        runs, extra["runs"] = _runs(arguments, Path(folder))
    figures |= runs
    _keep(figures, extra, arguments.device)
    try:
        figures |= _steps({kind: models[kind] for kind in KINDS}, shape, compiled=True)
    except Exception as error:  # what the compiler cannot do is a finding; the rest stands
        extra["compile_error"] = {"type": type(error).__name__, "text": str(error)[:500]}
    _keep(figures, extra, arguments.device)
    for name, figure in figures.items():
        print(f"{name:45} {figure.value:.6g} {figure.unit}", flush=True)


def _keep(figures: dict[str, Figure], extra: dict[str, Any], device: str) -> None:
    """Write what is measured so far: what comes next may be cut off."""
    if device == "cuda":
        print(write_result("gpu", figures, extra=extra), flush=True)


def _runs(arguments: argparse.Namespace, folder: Path) -> tuple[dict[str, Figure], dict[str, Any]]:
    size = arguments.size
    figures: dict[str, Figure] = {}
    facts: dict[str, Any] = {}
    corpus = arguments.corpus or str(folder / "corpus")
    quiet = {"progress": "off", "mlflow": {"enabled": False}, "mixing_every": 0}
    settings = {kind: _settings(arguments, kind, corpus, str(folder), quiet) for kind in KINDS}
    with open_session(settings["plain"].cluster):
        if not arguments.corpus:
            values = {"output": corpus, "track": quiet, "pack": {"sequence_length": LENGTH}}
            prepare(compose("prepare", ["tokenizer=bpe-8k"], values=values))
        for kind in KINDS:
            result = pretrain(settings[kind])
            rows: list[dict[str, Any]] = list(read_metrics(result.run / "metrics.jsonl"))[WARM_UP:]
            mfu = statistics.median(float(row["mfu"]) for row in rows)
            pace = _pace([float(row["time"]) for row in rows], settings[kind])
            figures[f"mfu_{kind}_{size}"] = Figure(mfu, "share of peak", "higher")
            figures[f"tokens_per_second_{kind}_{size}"] = Figure(pace, "tokens/s", "higher")
            figures[f"first_step_seconds_{kind}_{size}"] = Figure(
                result.figures["first_step_seconds"], "s", "lower"
            )
            facts[kind] = result.figures
            print(f"{kind}: {pace:,.0f} tokens/s, MFU {mfu:.1%}, {result.figures}", flush=True)
    bare = _bare(settings["plain"], arguments.device)
    stack = figures[f"tokens_per_second_plain_{size}"].value
    assert stack is not None
    figures["bare_loop_tokens_per_second"] = Figure(bare, "tokens/s", "higher")
    figures["stack_over_bare_loop"] = Figure(stack / bare, "ratio", "higher", aim=0.95)
    return figures, facts


def _settings(
    arguments: argparse.Namespace, kind: str, corpus: str, runs: str, track: dict[str, Any]
) -> Pretrain:
    on_gpu = arguments.device == "cuda"
    words = [
        f"model={kind}-{arguments.size}",
        "optimizer=adamw",
        "optimizer.learning_rate=3e-4",
        "deepspeed=zero1",
        "cluster=gpu" if on_gpu else "cluster.workers=1",
        f"compute.device={arguments.device}",
        "compute.dtype=bfloat16",
        f"train.steps={arguments.steps}",
        f"train.batch_tokens={LENGTH * MICRO_ROWS * ACCUMULATION}",
        f"train.micro_batch_rows={MICRO_ROWS}",
        "checkpoints.every=100000",
        "validation.rows=0",
        "train.epochs=null",
    ]
    settings: Pretrain = compose(
        "pretrain", words, values={"corpus": corpus, "runs": runs, "name": kind, "track": track}
    )
    return settings


def _bare(settings: Pretrain, device: str) -> float:
    corpus = Path(settings.corpus)
    manifest, tokenizer = Manifest.load(corpus), Tokenizer.load(corpus / "tokenizer")
    rows = MICRO_ROWS * ACCUMULATION
    steps = settings.train.steps
    assert steps is not None
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
    batches = [torch.from_numpy(step.tokens.astype("int64")) for step in stream]
    shape = Shape(tokenizer.vocabulary_size, manifest.sequence_length, rows, device)
    model = fresh_model(settings.model, shape)
    trainer = BareTrainer(model, settings.optimizer.learning_rate, settings.optimizer.clip_norm)
    ends = []
    for batch in batches:
        float(trainer.step(batch.to(device), MICRO_ROWS))
        ends.append(time.time())
    return _pace(ends[WARM_UP:], settings)


def _models(size: str) -> dict[str, Model]:
    models: dict[str, Model] = {kind: compose("pretrain", [f"model={kind}-{size}"]).model for kind in KINDS}
    permutation = replace(models["mhc"].residual, kind="mhc_permutation")
    return models | {"mhc_permutation": replace(models["mhc"], residual=permutation)}


def _steps(models: dict[str, Model], shape: Shape, compiled: bool = False) -> dict[str, Figure]:
    """Measure bare steps of these decoders side by side."""
    taken = {kind: measure(model, shape, compiled) for kind, model in models.items()}
    return _step_figures(taken, models["plain"].hidden_size, "_compiled" if compiled else "")


def _step_figures(taken: dict[str, Measured], width: int, suffix: str) -> dict[str, Figure]:
    figures = {}
    for kind, one in taken.items():
        figures[f"{kind}_step_seconds_bf16_{width}{suffix}"] = Figure(one.seconds, "s", "lower")
        figures[f"{kind}_step_gib_bf16_{width}{suffix}"] = Figure(one.bytes / 2**30, "GiB", "lower")
        if kind != "plain":
            ratio = one.seconds / taken["plain"].seconds
            figures[f"{kind}_over_plain_bf16_{width}{suffix}"] = Figure(ratio, "ratio", "lower")
    return figures


def _pace(ends: list[float], settings: Pretrain) -> float:
    gaps = [after - before for before, after in itertools.pairwise(ends)]
    return float(settings.train.batch_tokens / statistics.median(gaps))


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


if __name__ == "__main__":
    main()
