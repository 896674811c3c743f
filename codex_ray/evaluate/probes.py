"""Probes with known ceilings: a model that can do them at all reaches 1, another stays at chance."""

from __future__ import annotations

import numpy as np

from codex_ray.config.evaluate import Answering
from codex_ray.corpus.canaries import WORDS
from codex_ray.evaluate.metrics import Example
from codex_ray.evaluate.tasks import Task

METRICS = ("exact_match", "edit_similarity")
COPIED = 4  # words of a row that is to be copied
SHOTS = 3  # solved examples before the one that is asked


def copy_task(count: int, seed: int) -> Task:
    """Rows of words that are written twice: whoever attends to what it has read continues them.

    Every prompt holds three rows written out and the fourth once. The ceiling is 1; guessing words reaches
    26 to the power of -4.
    """
    examples = []
    for index in range(count):
        draw = _draw(seed, index)
        rows = [" ".join(draw.choice(WORDS, COPIED)) for _ in range(SHOTS + 1)]
        shown = "".join(f"{row} | {row}\n" for row in rows[:-1])
        examples.append(Example(f"copy-{index}", f"{shown}{rows[-1]} |", (rows[-1],)))
    return Task(
        "copy",
        tuple(examples),
        Answering(max_new_tokens=48, stop=["\n"]),
        METRICS,
        best=dict.fromkeys(METRICS, 1.0),
        description="Words are written again after three rows that show how. A model that attends reaches 1.",
    )


def arithmetic_task(count: int, seed: int) -> Task:
    """Sums, differences and products of numbers up to 20, after three that are solved; the ceiling is 1."""
    from codex_ray.rollout.problems import arithmetic

    examples = []
    for index in range(count):
        asked = [arithmetic(seed, (SHOTS + 1) * index + shot) for shot in range(SHOTS + 1)]
        shown = "".join(f"{one.prompt} {one.answer}\n" for one in asked[:-1])
        examples.append(Example(f"arithmetic-{index}", f"{shown}{asked[-1].prompt}", (asked[-1].answer,)))
    return Task(
        "arithmetic",
        tuple(examples),
        Answering(max_new_tokens=12, stop=["\n"]),
        METRICS,
        best=dict.fromkeys(METRICS, 1.0),
        description="Two numbers up to 20 and a sign, after three solved. Whoever calculates reaches 1.",
    )


def _draw(seed: int, index: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
