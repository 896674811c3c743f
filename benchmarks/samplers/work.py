"""The work: a model, prompts and completions of long-tailed lengths, and what it costs at the least."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from codex_ray.config.corpus import Tokenizer as TokenizerSettings
from codex_ray.config.model import Model, Residual
from codex_ray.model import build_model
from codex_ray.tokenizer import Tokenizer, train_tokenizer
from codex_ray.track.hardware import measure_matmul

LAYERS, WIDTH, INTERMEDIATE, HEADS, VOCABULARY, POSITIONS = 6, 256, 704, 4, 8192, 512


@dataclass(frozen=True)
class Work:
    """Prompts, and how many tokens to draw after each.

    Attributes:
        prompts: token ids; ``lengths``: completion of each, in tokens.
    """

    prompts: list[list[int]]
    lengths: list[int]

    @property
    def tokens(self) -> int:
        """Tokens to draw."""
        return sum(self.lengths)


def make_tokenizer(folder: Path) -> Tokenizer:
    """8,192 pieces of PyTorch's own source, of which none ends a completion."""
    tokenizer = train_tokenizer(_texts(), TokenizerSettings(vocabulary_size=VOCABULARY), folder, seed=1)
    tokenizer.eos_id = None
    return tokenizer


def make_work(tokenizer: Tokenizer, requests: int, seed: int) -> Work:
    """Draw prompts of 8 to 200 tokens (median 40) and completions of 8 to 300 (median 60), log-normal."""
    random = np.random.default_rng(seed)
    text = [token for ids in tokenizer.encode_batch(_texts()[:40]) for token in ids]
    sizes = np.clip(random.lognormal(np.log(40), 0.8, requests), 8, 200).astype(int)
    starts = random.integers(0, len(text) - 200, requests)
    prompts = [[1, *text[start : start + size - 1]] for start, size in zip(starts, sizes, strict=True)]
    lengths = np.clip(random.lognormal(np.log(60), 0.8, requests), 8, 300).astype(int)
    return Work(prompts, lengths.tolist())


def _texts() -> list[str]:
    files = sorted((Path(torch.__file__).parent / "nn").rglob("*.py"))
    return [path.read_text(encoding="utf-8") for path in files]


def make_model(kind: str, dtype: torch.dtype) -> Any:
    """Build ``llama``, or our decoder with connections of a ``kind``; no token ends a completion."""
    torch.manual_seed(1)
    if kind == "llama":
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=INTERMEDIATE,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            max_position_embeddings=POSITIONS,
            tie_word_embeddings=True,
            pad_token_id=3,
        )
        model: Any = LlamaForCausalLM(config)
    else:
        shape = Model(
            hidden_size=WIDTH,
            intermediate_size=INTERMEDIATE,
            layers=LAYERS,
            heads=HEADS,
            key_value_heads=HEADS,
            head_size=WIDTH // HEADS,
            residual=Residual(kind=kind),
        )
        special = {"bos": 1, "eos": 2, "pad": 3}
        model = build_model(
            shape, vocabulary_size=VOCABULARY, sequence_length=POSITIONS, seed=1, special_ids=special
        )
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 3
    return model.to(dtype).eval()


@dataclass(frozen=True)
class Machine:
    """Measured speeds: bytes read per second, and operations per second in one precision."""

    bytes_per_second: float
    flops: float


def measure_machine(dtype: torch.dtype) -> Machine:
    """Measure reading of memory far larger than any cache, and square matrix products."""
    name = str(dtype).removeprefix("torch.")
    return Machine(_read_speed(), measure_matmul(name, torch.get_num_threads(), seconds=1.0))


def _read_speed() -> float:
    numbers = torch.ones(2**26)
    best = float("inf")
    for _ in range(12):
        began = time.perf_counter()
        numbers.sum()
        best = min(best, time.perf_counter() - began)
    return numbers.nbytes / best


def least_seconds(model: Any, work: Work, slots: int, machine: Machine) -> float:
    """Return the least time of this work, ``slots`` requests at a time.

    A step reads the weights and the keys and values of all tokens so far once, and multiplies by all
    weights for every row; of both, what takes longer counts. Prompts are multiplied only: they can be read
    all at once. Nothing else costs anything.
    """
    weights, size = _weights(model)
    attended = 2 * LAYERS * WIDTH  # numbers kept per token, and multiplied by each later one
    seconds: float = 2 * weights * sum(map(len, work.prompts)) / machine.flops
    for rows, past in _steps(work, slots):
        moved = (weights + attended * past) * size
        operations = 2 * (weights * rows + attended * past)
        seconds += max(moved / machine.bytes_per_second, operations / machine.flops)
    return seconds


def product_seconds(model: Any, work: Work, slots: int, machine: Machine) -> float:
    """Return the time of this work's matrix products alone, as fast as they run here in their own shapes.

    Square products of 512 run faster than those of a few rows with a small model's weights. Each step takes
    the time of all weights' products of its number of rows, one after the other in oneDNN's order, and then
    that of reading the keys and values; prompts are read 512 tokens at a time.
    """
    size = _weights(model)[1]
    weights = [one for one in model.parameters() if one.dim() == 2]  # the embedding is the head's
    packed = [torch.ops.mkldnn._reorder_linear_weight(one.detach()) for one in weights]
    inputs = {
        rows: [torch.randn(rows, one.shape[1]).to(one.dtype) for one in weights]
        for rows in (*range(8, slots + 8, 8), 512)
    }
    taken = {rows: _best(packed, given) for rows, given in inputs.items()}
    seconds = taken[512] * sum(map(len, work.prompts)) / 512
    for rows, past in _steps(work, slots):
        seconds += taken[-(-rows // 8) * 8] + 2 * LAYERS * WIDTH * past * size / machine.bytes_per_second
    return seconds


def _weights(model: Any) -> tuple[int, int]:
    """Numbers in the matrices, and bytes of each."""
    matrices = [one for one in model.parameters() if one.dim() == 2]
    return sum(one.numel() for one in {id(one): one for one in matrices}.values()), matrices[0].element_size()


def _steps(work: Work, slots: int) -> Iterator[tuple[int, int]]:
    """Rows of every step, and tokens that they look at."""
    waiting = list(zip(map(len, work.prompts), work.lengths, strict=True))[::-1]
    running: list[tuple[int, int]] = []
    while waiting or running:
        while waiting and len(running) < slots:
            running.append(waiting.pop())
        yield len(running), sum(length for length, _ in running)
        running = [(length + 1, left - 1) for length, left in running if left > 1]


def _best(packed: list[Any], given: list[Tensor]) -> float:
    best = float("inf")
    for _ in range(30):
        began = time.perf_counter()
        for weight, rows in zip(packed, given, strict=True):
            torch.ops.mkldnn._linear_pointwise.default(rows, weight, None, "none", [], "")
        best = min(best, time.perf_counter() - began)
    return best
