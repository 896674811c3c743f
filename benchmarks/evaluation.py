"""Scoring answers beside lm-evaluation-harness's own backend: the same requests, weights and batch size.

    python -m benchmarks.evaluation [--questions N] [--turns N]

Questions are lines of this Python's standard library with four lines to choose from, as a task of multiple
choice asks them: a context of some tokens, and the log-likelihood of each choice after it. The model is a
small Llama with random weights, in float32, loaded by the harness's ``hf`` and by ours. Both answer by turns
and must agree to 1e-4; the ratio is of their medians.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sysconfig
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.results import Figure, write_result
from codex_ray.config.corpus import Tokenizer as TokenizerSettings
from codex_ray.tokenizer import train_tokenizer

AIM = 2.0
AGREE = 1e-4
BATCH = 16
CONTEXT_CHARACTERS, CHOICES = 400, 4


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description="Log-likelihoods beside lm-evaluation-harness's hf backend.")
    parser.add_argument("--questions", type=int, default=64, help="questions of a turn, four choices each")
    parser.add_argument("--turns", type=int, default=5, help="turns, each of both")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _make_model(Path(folder))
        requests = _requests(arguments.questions)
        sides = _sides(folder)
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        answers: dict[str, list[tuple[float, bool]]] = {}
        for turn in range(arguments.turns + 1):
            for name, side in sides.items():
                began = time.perf_counter()
                answers[name] = side.loglikelihood(requests, disable_tqdm=True)
                if turn:  # the first warms up
                    seconds[name].append(time.perf_counter() - began)
            print(
                f"turn {turn}: { ({name: round(times[-1], 2) for name, times in seconds.items() if times}) }"
            )
    apart = max(abs(one[0] - other[0]) for one, other in zip(*answers.values(), strict=True))
    if apart > AGREE:
        raise SystemExit(f"the log-likelihoods differ by up to {apart}, which is more than {AGREE}")
    rate = {name: len(requests) / statistics.median(times) for name, times in seconds.items()}
    figures = {
        "harness_speed_ratio": Figure(rate["codex_ray"] / rate["hf"], "ratio", "higher", aim=AIM),
        "harness_requests_per_second": Figure(rate["codex_ray"], "requests/s", "higher"),
        "harness_hf_requests_per_second": Figure(rate["hf"], "requests/s", "higher"),
        "harness_loglikelihood_difference": Figure(apart, "nats", "lower", aim=AGREE),
    }
    print(
        write_result("evaluation", figures, {"seconds": seconds, "requests": len(requests), "batch": BATCH})
    )


def _sides(folder: str) -> dict[str, Any]:
    from lm_eval.models.huggingface import HFLM

    from codex_ray.evaluate.harness import CodexRayLM

    return {
        "codex_ray": CodexRayLM(folder, batch_size=BATCH, device="cpu", add_bos_token=False),
        "hf": HFLM(folder, batch_size=BATCH, device="cpu", dtype="float32"),
    }


def _texts() -> list[str]:
    return [path.read_text() for path in sorted(Path(sysconfig.get_path("stdlib")).glob("[a-h]*.py"))]


def _make_model(folder: Path) -> None:
    """Write a Llama of 10 M parameters and a tokenizer of 8,192 pieces."""
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = TokenizerSettings(vocabulary_size=8192)
    tokenizer = train_tokenizer(_texts(), settings, folder / "tokenizer", seed=1)
    tokenizer.save(folder)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=tokenizer.vocabulary_size,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=6,
        num_attention_heads=4,
        max_position_embeddings=1024,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def _requests(questions: int) -> list[Any]:
    draw, texts = random.Random(1), [text for text in _texts() if len(text) > 4 * CONTEXT_CHARACTERS]
    found = []
    for _ in range(questions):
        text = draw.choice(texts)
        place = text.index("\n", draw.randrange(CONTEXT_CHARACTERS, len(text) - 2 * CONTEXT_CHARACTERS)) + 1
        context = text[max(0, place - CONTEXT_CHARACTERS) : place].rstrip()
        lines = [line for line in text.splitlines() if len(line.strip()) > 8]  # some tokens of their own
        choices = [f"\n{line}" for line in draw.sample(lines, CHOICES)]
        found += [SimpleNamespace(args=(context, choice), task_name=None) for choice in choices]
    return found


if __name__ == "__main__":
    main()
