"""A training step of every residual kind over the plain decoder, and the plain decoder over Llama.

    python -m benchmarks.model [--widths N ...] [--turns N]

Four layers, rows of 512 tokens, forward and backward pass, no optimizer. All models of one width and
precision take turns in one process, and a figure is the median of the ratios within a turn. Beside each
stands what it could be at best: the plain step plus the extra traffic at the memory's speed and the extra
arithmetic at the processor's, both measured here. Memory is what autograd keeps between the passes, counted.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.results import Figure, write_result
from codex_ray.config.model import Model, Residual
from codex_ray.model import build_model
from codex_ray.model.recomputation import StreamState, best_block
from codex_ray.track.hardware import peak_flops

LAYERS, ROWS, LENGTH, VOCABULARY, STREAMS = 4, 4, 512, 8192, 4
KINDS = ("plain", "mhc", "mhc_permutation", "identity", "hc")
AIMS = {
    ("mhc", 512): 1.4,
    ("mhc", 1024): 1.2,
    ("mhc_permutation", 512): 1.3,
    ("mhc_permutation", 1024): 1.15,
}  # in bfloat16
LOGITS = {"mhc": 24, "mhc_permutation": 32, "identity": 8}
SHORT = {torch.bfloat16: "bf16", torch.float32: "fp32"}


@dataclass(frozen=True)
class Machine:
    """Measured speeds: bytes moved per second, and operations per second in fp32."""

    bytes_per_second: float
    flops: float


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description="Training steps of every residual kind over plain.")
    parser.add_argument("--widths", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--turns", type=int, default=7)
    arguments = parser.parse_args()
    machine = Machine(_copy_speed(), peak_flops("cpu", "float32", torch.get_num_threads())[0])
    figures: dict[str, Figure] = {}
    seconds: dict[str, float] = {}
    for width, dtype in itertools.product(arguments.widths, SHORT):
        found = _turns(width, dtype, arguments.turns)
        name = f"{SHORT[dtype]}_{width}"
        seconds |= {f"{kind}_{name}": statistics.median(times) for kind, times in found.items()}
        figures |= _ratios(found, width, dtype, machine)
        print(name, {kind: f"{statistics.median(times):.3f} s" for kind, times in found.items()}, flush=True)
    figures |= _memory(arguments.widths[-1])
    facts = {"seconds": seconds, "bytes_per_second": machine.bytes_per_second, "fp32_flops": machine.flops}
    print(write_result("model", figures, extra=facts))


def decoder(kind: str, width: int, layers: int = LAYERS) -> Any:
    """Build a decoder of one residual kind, in fp32."""
    shape = Model(
        hidden_size=width,
        intermediate_size=_intermediate(width),
        layers=layers,
        heads=width // 64,
        key_value_heads=width // 64,
        head_size=64,
        query_key_norm=False,  # as in Llama
        residual=Residual(kind=kind, streams=STREAMS),
    )
    special = {"bos": 1, "eos": 2, "pad": 3}
    return build_model(shape, vocabulary_size=VOCABULARY, sequence_length=LENGTH, seed=1, special_ids=special)


def _intermediate(width: int) -> int:
    return 64 * math.ceil(width * 8 / 3 / 64)


def _llama(width: int) -> Any:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=_intermediate(width),
        num_hidden_layers=LAYERS,
        num_attention_heads=width // 64,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


def _step(model: Any, ids_BS: Tensor, **options: Any) -> float:
    began = time.perf_counter()
    model(input_ids=ids_BS, labels=ids_BS, use_cache=False, **options).loss.backward()
    for parameter in model.parameters():
        parameter.grad = None
    return time.perf_counter() - began


def _turns(width: int, dtype: torch.dtype, turns: int) -> dict[str, list[float]]:
    ids_BS = torch.randint(VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    models = {kind: decoder(kind, width).to(dtype).train() for kind in KINDS}
    steps: dict[str, Callable[[], float]] = {
        kind: lambda model=model: _step(model, ids_BS, return_logits=False)  # type: ignore[misc]
        for kind, model in models.items()
    }
    llama = _llama(width).to(dtype).train()
    steps["llama"] = lambda: _step(llama, ids_BS)
    found: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(turns + 1):
        order = list(steps)[turn % len(steps) :] + list(steps)[: turn % len(steps)]
        for name in order:
            taken = steps[name]()
            if turn:  # the first warms up
                found[name].append(taken)
    return found


def _ratios(
    found: dict[str, list[float]], width: int, dtype: torch.dtype, machine: Machine
) -> dict[str, Figure]:
    figures = {}
    plain, suffix = statistics.median(found["plain"]), f"{SHORT[dtype]}_{width}"
    for kind in KINDS[1:]:
        ratio = statistics.median(
            mixed / bare for mixed, bare in zip(found[kind], found["plain"], strict=True)
        )
        aim = AIMS.get((kind, width)) if dtype == torch.bfloat16 else None
        figures[f"{kind}_over_plain_{suffix}"] = Figure(ratio, "ratio", "lower", aim=aim)
        if kind in LOGITS:
            least = 1 + _extra_seconds(kind, width, dtype, machine) / plain
            figures[f"{kind}_over_plain_at_best_{suffix}"] = Figure(least, "ratio", "lower")
    over = statistics.median(
        ours / theirs for ours, theirs in zip(found["plain"], found["llama"], strict=True)
    )
    figures[f"plain_over_llama_{suffix}"] = Figure(over, "ratio", "lower", aim=1.0)
    return figures


def _extra_seconds(kind: str, width: int, dtype: torch.dtype, machine: Machine) -> float:
    """Return the least time of all connections of a step: their traffic, then their arithmetic.

    Streams of N*D numbers are read for the projection, for reading and for writing, and written once;
    backwards their gradient and they are read for writing and reading, twice more for the projection's
    two products, and their gradient is written three times. N and one sublayer's output make a write.
    """
    n, tokens, sublayers = STREAMS, ROWS * LENGTH, 2 * LAYERS
    forward = 3 * n + 1 + n + 1
    backward = (2 * n + 1) + (n + 1) + (2 * n + 1) + n + 3 * n
    traffic = (forward + backward) * width * torch.finfo(dtype).bits // 8
    mixing = 0 if kind == "identity" else n * n
    operations = 3 * 2 * width * (n * LOGITS[kind] + 2 * n + mixing)
    per_token = traffic / machine.bytes_per_second + operations / machine.flops
    return sublayers * tokens * per_token


def _copy_speed() -> float:
    source, target = torch.zeros(2**26), torch.empty(2**26)
    times = []
    for _ in range(6):
        began = time.perf_counter()
        target.copy_(source)
        times.append(time.perf_counter() - began)
    return 2 * source.nbytes / min(times[1:])


def _memory(width: int) -> dict[str, Figure]:
    """Count what is kept of the streams, beside the formula of mHC (section 4.3.2), in D per token."""
    layers = 12
    ids_BS = torch.randint(VOCABULARY, (1, LENGTH), generator=torch.Generator().manual_seed(0))
    model = decoder("mhc", width, layers).bfloat16().train()
    block = best_block(STREAMS, 2 * layers)
    figures = {}
    for name, length in (("", 0), ("_recomputed", block)):
        model.model.recompute_streams(length)
        figures[f"kept{name}_per_token"] = Figure(
            _kept(model, ids_BS) / width / LENGTH, "hidden sizes", "lower"
        )
        figures[f"kept_streams{name}_per_token"] = Figure(
            _kept(model, ids_BS, streams=True) / width / LENGTH, "hidden sizes", "lower"
        )
    papers = STREAMS * math.ceil(2 * layers / block)
    figures["kept_streams_recomputed_per_token_of_the_paper"] = Figure(papers, "hidden sizes", "lower")
    return figures


def _kept(model: Any, ids_BS: Tensor, *, streams: bool = False) -> int:
    """Count the numbers that autograd keeps between the passes, of all tensors or of streams alone."""
    storages: dict[int, int] = {}
    weights = {parameter.data_ptr() for parameter in model.parameters()}

    def pack(value: Tensor) -> Tensor:
        if value.data_ptr() not in weights and (not streams or value.shape[2:3] == (STREAMS,)):
            storages[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes() // value.itemsize
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        loss = model(input_ids=ids_BS, labels=ids_BS, use_cache=False, return_logits=False).loss
        for state in [found for found in gc.get_objects() if type(found) is StreamState]:
            if state.kept is not None:
                pack(state.kept)
        del loss
    return sum(storages.values())


if __name__ == "__main__":
    main()
