"""Learning from groups of answers: with each prompt computed once, and with every answer's row by itself.

    python -m benchmarks.learning [--turns N]

Forward and backward pass of the policy gradient over one batch of answers to eight prompts, with one thread,
by turns: for a small policy and short answers as a search with operator programs has them, and for a wider
one behind long prompts as programs in Python have them. Losses must agree.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence

import torch

from benchmarks.results import Figure, write_result
from codex_ray.config.model import Model, Residual
from codex_ray.errors import CodexRayError
from codex_ray.model import build_model
from codex_ray.model.head import TokenHead
from codex_ray.train.objectives.policy_gradient import PolicyGradient
from codex_ray.train.objectives.sequences import Sequences
from codex_ray.train.objectives.shared import attention_worth

VOCABULARY, PROMPTS, MICRO_TOKENS = 512, 8, 8192
CASES = {  # width, layers, tokens of a prompt and of an answer, answers of a prompt
    "operator_programs": (96, 3, 110, 22, 32),
    "long_prompts": (256, 4, 768, 128, 8),
}


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description="Learning from groups of answers to one prompt.")
    parser.add_argument("--turns", type=int, default=5, help="turns, each of both ways")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures = {}
    for name, (width, layers, prompt, answer, samples) in CASES.items():
        alone, shared, less = _measured(width, layers, prompt, answer, samples, arguments.turns)
        figures[f"{name}_speedup"] = Figure(alone / shared, "ratio", "higher", 1.0)
        figures[f"{name}_tokens"] = Figure(less, "ratio", "lower")
        figures[f"{name}_seconds"] = Figure(shared, "s", "lower")
    print(write_result("learning", figures))


def _measured(
    width: int, layers: int, prompt: int, answer: int, samples: int, turns: int
) -> tuple[float, float, float]:
    """Return the median seconds of rows by themselves and together, and the share of tokens computed."""
    heads = width // 32
    shape = Model(
        hidden_size=width,
        intermediate_size=width * 8 // 3 // 32 * 32,
        layers=layers,
        heads=heads,
        key_value_heads=1,
        head_size=32,
        residual=Residual(streams=2),
    )
    model = build_model(
        shape,
        vocabulary_size=VOCABULARY,
        sequence_length=prompt + answer,
        seed=1,
        special_ids={"bos": 1, "eos": 2, "pad": 0},
    )
    gradient = PolicyGradient(TokenHead(model))
    ways = {"alone": 0, "shared": attention_worth(model)}
    parts = {way: _answers(prompt, answer, samples, worth) for way, worth in ways.items()}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    losses = {}
    for turn in range(turns + 1):  # the first one warms up
        for way, micros in parts.items():
            began = time.perf_counter()
            losses[way] = _learn(model, gradient, micros)
            if turn:
                seconds[way].append(time.perf_counter() - began)
    if abs(losses["alone"] - losses["shared"]) > 1e-3 * abs(losses["alone"]):
        raise CodexRayError(f"the losses differ: {losses}")
    computed = {
        way: sum(micro.inputs()["input_ids"].numel() for micro in micros) for way, micros in parts.items()
    }
    medians = {way: statistics.median(several) for way, several in seconds.items()}
    return medians["alone"], medians["shared"], computed["shared"] / computed["alone"]


def _answers(prompt: int, answer: int, samples: int, worth: int) -> list[Sequences]:
    draw = torch.Generator().manual_seed(1)

    def ids(count: int) -> list[int]:
        return torch.randint(3, VOCABULARY, (count,), generator=draw).tolist()

    prompts = [one for one in [ids(prompt) for _ in range(PROMPTS)] for _ in range(samples)]
    answers = [ids(answer) for _ in prompts]
    rows = Sequences.of_completions(
        prompts, answers, logprobs=[[-6.0] * answer for _ in answers], shared=worth
    )
    advantages_T = torch.randn(rows.targets.shape, generator=draw)
    return rows.with_tokens(advantages=advantages_T).split(MICRO_TOKENS)


def _learn(model: torch.nn.Module, gradient: PolicyGradient, micros: Sequence[Sequences]) -> float:
    total = 0.0
    for micro in micros:
        loss = gradient.loss(model, micro, 1)
        loss.backward()
        total += loss.item()
    model.zero_grad()
    return total


if __name__ == "__main__":
    main()
