"""The whole stack beside a bare PyTorch loop, in one run: same model, batch, precision, threads and workers.

    python -m benchmarks.stack

The bare loop is what a person would write by hand: gloo processes, rows in memory, bf16 weights with
fp32 masters, one all-reduce of all gradients, AdamW. The stack is ``pretrain`` with its defaults: Ray
Data's stream, Ray Train, DeepSpeed ZeRO-1, metrics, checkpoints. They take turns, and the figure is
the ratio of tokens/s between them, from the median time from one step's end to the next's.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from benchmarks.results import Figure, write_result
from codex_ray.cluster.session import open_session
from codex_ray.config.compose import compose
from codex_ray.config.train import Pretrain
from codex_ray.corpus.manifest import Manifest
from codex_ray.corpus.prepare import prepare
from codex_ray.corpus.stream import open_stream
from codex_ray.model import build_model
from codex_ray.tokenizer import Tokenizer
from codex_ray.track.metrics import read_metrics
from codex_ray.train.driver import pretrain
from codex_ray.train.objectives.next_token import NextToken

STEPS, WARM_UP, TURNS, WORKERS = 70, 20, 3, 2


def main() -> None:
    """Measure and write the result file."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        quiet = {"progress": "off"}
        settings = compose(
            "pretrain",
            ["recipe=quickstart", "optimizer=adamw", f"train.steps={STEPS}", "compute.dtype=bfloat16"],
            values={"corpus": str(corpus), "runs": folder, "track": quiet},
        )
        with open_session(settings.cluster):
            prepare(compose("prepare", values={"output": str(corpus), "track": quiet}))
            bare, stack, starts = [], [], []
            for turn in range(TURNS):
                bare.append(_bare(settings, Path(folder) / f"bare_{turn}.json"))
                result = pretrain(replace(settings, name=f"stack_{turn}"))
                stack.append(
                    _tokens_per_second(
                        [row["time"] for row in read_metrics(result.run / "metrics.jsonl")], settings
                    )
                )
                starts.append(result.figures["first_step_seconds"])
                print(
                    f"turn {turn + 1}: bare {bare[-1]:,.0f} tokens/s, stack {stack[-1]:,.0f} tokens/s",
                    flush=True,
                )
    ratios = [ours / theirs for ours, theirs in zip(stack, bare, strict=True)]
    figures = {
        "stack_over_bare_loop": Figure(statistics.median(ratios), "ratio", "higher", aim=0.95),
        "stack_tokens_per_second": Figure(statistics.median(stack), "tokens/s", "higher"),
        "bare_loop_tokens_per_second": Figure(statistics.median(bare), "tokens/s", "higher"),
        "first_step_seconds": Figure(statistics.median(starts), "s", "lower"),
    }
    print(write_result("stack", figures, extra={"ratios": ratios, "startup": result.figures}))


def _bare(settings: Pretrain, output: Path) -> float:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = (port, settings, str(output))
    spawn(_bare_process, processes, nprocs=WORKERS, join=True)
    return _tokens_per_second(json.loads(output.read_text()), settings)


def _bare_process(rank: int, port: int, settings: Pretrain, output: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // WORKERS))
    dist.init_process_group("gloo", rank=rank, world_size=WORKERS)
    manifest = Manifest.load(Path(settings.corpus))
    tokenizer = Tokenizer.load(Path(settings.corpus) / "tokenizer")
    model: Any = build_model(
        settings.model,
        vocabulary_size=tokenizer.vocabulary_size,
        sequence_length=manifest.sequence_length,
        seed=settings.seed,
        special_ids=tokenizer.special_ids,
    )
    masters = [parameter.detach().clone().requires_grad_() for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    optimizer = torch.optim.AdamW(masters, lr=settings.optimizer.learning_rate, foreach=False)
    batches, micro_rows = _rows_in_memory(settings, manifest, rank)
    objective, ends = NextToken(), []
    for input_ids_BS in batches:
        total = WORKERS * objective.weight(input_ids_BS)
        for micro in input_ids_BS.split(micro_rows):
            objective.loss(model, micro, total).backward()
        _update(model, masters, optimizer, settings.optimizer.clip_norm)
        ends.append(time.time())
    if rank == 0:
        Path(output).write_text(json.dumps(ends))
    dist.destroy_process_group()


def _update(model: Any, masters: list[torch.Tensor], optimizer: torch.optim.Optimizer, clip: float) -> None:
    gradients = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    dist.all_reduce(gradients)
    parts = gradients.float().split([master.numel() for master in masters])
    for master, part in zip(masters, parts, strict=True):
        master.grad = part.view_as(master)
    torch.nn.utils.clip_grad_norm_(masters, clip)
    optimizer.step()
    for parameter, master in zip(model.parameters(), masters, strict=True):
        parameter.data.copy_(master)
        parameter.grad = None


def _rows_in_memory(settings: Pretrain, manifest: Manifest, rank: int) -> tuple[list[torch.Tensor], int]:
    rows = settings.train.batch_tokens // manifest.sequence_length
    stream = open_stream(
        Path(settings.corpus),
        "train",
        kind="direct",
        seed=settings.seed,
        first_step=0,
        steps=STEPS,
        batch_rows=rows,
        rank=rank,
        world_size=WORKERS,
    )
    batches = [torch.from_numpy(step.tokens.astype(np.int64)) for step in stream]
    return batches, settings.train.micro_batch_rows or min(16, rows // WORKERS)


def _tokens_per_second(ends: list[Any], settings: Pretrain) -> float:
    gaps = [after - before for before, after in zip(ends[WARM_UP:], ends[WARM_UP + 1 :], strict=False)]
    return float(settings.train.batch_tokens / statistics.median(gaps))


if __name__ == "__main__":
    main()
