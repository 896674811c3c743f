"""Rollouts a second by the number of sampling actors.

    python -m benchmarks.rollouts [ACTORS ...]

A policy of 0.4 M parameters, as small searches have, completes prompts of ragged lengths with up to 24 tokens
in steps of 512, and one scorer judges them. Actors are logical: each has one thread, and where there are more
than cores they share these. A figure is the median over steps, after one that warms up; sequences end where
the model ends them, which is the same for any number of actors.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.results import Figure, write_result
from codex_ray.cluster.session import open_session
from codex_ray.config.common import Cluster, Device
from codex_ray.config.corpus import Tokenizer as TokenizerSettings
from codex_ray.config.model import Model, Residual
from codex_ray.config.rollout import Rollouts
from codex_ray.model import build_model
from codex_ray.rollout.actor import FromFolder
from codex_ray.rollout.environment import SingleTurn
from codex_ray.rollout.episode import Prompt
from codex_ray.rollout.generate import prompt_ids
from codex_ray.rollout.pool import open_pool
from codex_ray.rollout.problems import sorting, verify
from codex_ray.tokenizer import Tokenizer, train_tokenizer

ACTORS = (1, 2, 4, 8)
PROMPTS, SAMPLES, STEPS = 64, 8, 5
SHAPE = Model(
    hidden_size=96,
    intermediate_size=256,
    layers=3,
    heads=3,
    key_value_heads=1,
    head_size=32,
    residual=Residual(streams=2),
)


def main(words: list[str]) -> int:
    """Measure and write the result file."""
    counts = [int(word) for word in words] or list(ACTORS)
    figures = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prompts = _policy(folder)
        for actors in counts:
            rate, idle, start = _measure(folder, prompts, actors)
            figures[f"rollouts_per_second_{actors}"] = Figure(rate, "rollouts/s", "higher")
            figures[f"samplers_idle_{actors}"] = Figure(idle, "share", "lower")
            figures[f"start_seconds_{actors}"] = Figure(start, "s", "lower")
            print(f"{actors} actors: {rate:.0f} rollouts/s, samplers idle {idle:.0%}, start {start:.1f} s")
    print(write_result("rollouts", figures))
    return 0


def _policy(folder: Path) -> list[Prompt]:
    """Write a fresh model and its tokenizer; return what it is asked."""
    asked = [sorting(1, number, digits=2 + number % 7) for number in range(PROMPTS)]
    texts = [f"{one.prompt} {one.answer}\n" for one in asked]
    train_tokenizer(texts * 10, TokenizerSettings(vocabulary_size=280), folder, 1)
    tokenizer = Tokenizer.load(folder)
    size, special = tokenizer.vocabulary_size, tokenizer.special_ids
    model = build_model(SHAPE, vocabulary_size=size, sequence_length=128, seed=1, special_ids=special)
    model.save_pretrained(folder)
    ids = prompt_ids(tokenizer, [one.prompt for one in asked])
    return [Prompt(each, one) for each, one in zip(ids, asked, strict=True)]


def _measure(folder: Path, prompts: list[Prompt], actors: int) -> tuple[float, float, float]:
    """Return rollouts a second, the samplers' idle share, and seconds until a pool is there."""
    settings = Rollouts(actors=actors, max_new_tokens=24, slots=32)
    build = FromFolder(str(folder), Device(device="cpu", dtype="float32"))
    began, rates, idle = time.perf_counter(), [], []
    with (
        open_session(Cluster(logical_cpus=actors + 1)),
        open_pool(settings, build, SingleTurn(verify), seed=1) as pool,
    ):
        start = time.perf_counter() - began
        for step in range(STEPS + 1):
            began = time.perf_counter()
            pool.submit(step, None, prompts, SAMPLES)
            share = pool.collect(step)
            if step:
                rates.append(len(share.rollouts) / (time.perf_counter() - began))
                idle.append(share.figures["rollout/idle_ratio"])
    return statistics.median(rates), statistics.median(idle), start


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
