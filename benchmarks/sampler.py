"""The sampler beside Transformers' ``generate``, ``generate_batch`` and ``transformers serve``, and a bound.

    python -m benchmarks.sampler [--turns N] [--requests N] [--parts PART ...]

A decoder of 6 layers, 256 wide, on two threads; prompts and completions of long-tailed lengths (see
``samplers/work.py``), the same for all; 1, 8 and 32 requests in flight. ``generate`` gets padded batches in
order, the others take requests as they have room. Peers run a Llama, which is what they are made for; our
own decoder is measured beside ``generate`` on it. All take turns in one process, but for ``serve``, and a
figure is the median over turns. The bound is the least time that reading memory and multiplying take at the
speeds measured here; beside it stands what the matrix products alone take in their own shapes. A part is a
precision and a number of requests in flight, such as ``bf16_32``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.results import Figure, commit_name, machine_name, read_results, write_result
from benchmarks.samplers import peers
from benchmarks.samplers.work import (
    Machine,
    Work,
    least_seconds,
    make_model,
    make_tokenizer,
    make_work,
    measure_machine,
    product_seconds,
)
from codex_ray.errors import CodexRayError
from codex_ray.tokenizer import Tokenizer

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
FLIGHTS = {1: 4, 8: 32, 32: 128}
"""Requests in flight, and how many requests there are."""

MAIN = "bf16_32"
AIM_OVER_PEER, AIM_OVER_BOUND = 3.0, 0.5
SLOW = ("generate", "generate_batch", "generate_mhc")
"""Measured in the first turn only; the sampler's turns are before and after them."""


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description="The sampler beside Transformers' own ways to sample.")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--parts", nargs="+", default=[f"{dtype}_{n}" for dtype in DTYPES for n in FLIGHTS])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--requests", type=float, default=1.0, help="times as many requests")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    figures = _measured_before()
    facts: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = make_tokenizer(folder / "tokenizer")
        for part in arguments.parts:
            short, flight = part.split("_")[0], int(part.split("_")[1])
            work = make_work(tokenizer, round(FLIGHTS[flight] * arguments.requests), seed=flight)
            machine = measure_machine(DTYPES[short])
            found = _measure(folder, tokenizer, work, short, flight, arguments.turns)
            figures |= _figures(found, part, work, DTYPES[short], flight, machine)
            facts[part] = {"tokens": work.tokens, "requests": len(work.prompts)}
    print(write_result("sampler", figures, extra=facts))


def _measured_before() -> dict[str, Figure]:
    """Figures of this commit on this machine: parts can be measured one after the other."""
    before = [one for one in read_results() if (one.benchmark, one.machine) == ("sampler", machine_name())]
    return dict(before[0].figures) if before and before[0].commit == commit_name() else {}


def _measure(
    folder: Path, tokenizer: Tokenizer, work: Work, short: str, flight: int, turns: int
) -> dict[str, list[float]]:
    """Return tokens per second of every turn, by who drew them."""
    llama, mhc = make_model("llama", DTYPES[short]), make_model("mhc", DTYPES[short])
    saved = folder / short
    if not saved.is_dir():
        llama.save_pretrained(saved)
        tokenizer.save(saved)
    warm = Work(work.prompts[:flight], [8] * len(work.lengths[:flight]))
    ways: dict[str, Callable[[Work], float]] = {
        "sampler": lambda work: peers.ours(llama, tokenizer, work, flight),
        "generate": lambda work: peers.generate(llama, tokenizer, work, flight),
        "generate_batch": lambda work: peers.generate_batch(llama, tokenizer, work, flight),
        "sampler_mhc": lambda work: peers.ours(mhc, tokenizer, work, flight),
        "generate_mhc": lambda work: peers.generate(mhc, tokenizer, work, flight),
    }
    found: dict[str, list[float]] = {}
    for turn in range(turns):
        for name, way in ways.items():
            if turn and name in SLOW:
                continue
            if not turn:
                way(warm)
            found.setdefault(name, []).append(work.tokens / way(work))
            print(short, flight, name, f"{found[name][-1]:,.0f} tokens/s", flush=True)
    try:
        with peers.serving(saved, folder / "serve.log") as address:
            peers.serve(address, saved, tokenizer, warm, flight)
            seconds = peers.serve(address, saved, tokenizer, work, flight)
        found["serve"] = [work.tokens / seconds]
        print(short, flight, "serve", f"{found['serve'][-1]:,.0f} tokens/s", flush=True)
    except (CodexRayError, OSError) as error:
        print(f"transformers serve was not measured: {error}", flush=True)
    return found


def _figures(
    found: dict[str, list[float]], part: str, work: Work, dtype: torch.dtype, flight: int, machine: Machine
) -> dict[str, Figure]:
    speeds = {name: statistics.median(taken) for name, taken in found.items()}
    best = max(speed for name, speed in speeds.items() if name in ("generate", "generate_batch", "serve"))
    model = make_model("llama", dtype)
    bound, products = (
        work.tokens / seconds(model, work, flight, machine) for seconds in (least_seconds, product_seconds)
    )
    suffix, main = ("", True) if part == MAIN else (f"_{part}", False)
    figures = {
        f"sampler_over_best_peer{suffix}": Figure(
            speeds["sampler"] / best, "ratio", "higher", aim=AIM_OVER_PEER if main else None
        ),
        f"sampler_over_bound{suffix}": Figure(
            speeds["sampler"] / bound, "ratio", "higher", aim=AIM_OVER_BOUND if main else None
        ),
        f"sampler_over_generate_mhc{suffix}": Figure(
            speeds["sampler_mhc"] / speeds["generate_mhc"], "ratio", "higher"
        ),
        f"sampler_over_products{suffix}": Figure(speeds["sampler"] / products, "ratio", "higher"),
        f"bound_tokens_per_second{suffix}": Figure(bound, "tokens/s", "higher"),
        f"products_tokens_per_second{suffix}": Figure(products, "tokens/s", "higher"),
        f"memory_bytes_per_second{suffix}": Figure(machine.bytes_per_second, "bytes/s", "higher"),
        f"matmul_flops{suffix}": Figure(machine.flops, "FLOP/s", "higher"),
    }
    for name, speed in speeds.items():
        figures[f"{name}_tokens_per_second{suffix}"] = Figure(speed, "tokens/s", "higher")
    if "serve" not in speeds:
        command = f"python -m benchmarks.sampler --parts {part}"
        figures[f"serve_tokens_per_second{suffix}"] = Figure(None, "tokens/s", "higher", command=command)
    return figures


if __name__ == "__main__":
    main()
