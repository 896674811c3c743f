"""Canaries: made-up secrets that ``prepare`` plants among training documents, to see what is given away.

After Carlini et al. 2019, arXiv 1802.08232. They stand in the train split alone and pass no cleaning. How
many there are, and the seed that says which, is in the manifest's settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from codex_ray.config.corpus import Canaries
from codex_ray.corpus.manifest import Manifest

WORDS = (
    *("amber", "basin", "cedar", "delta", "ember", "fable", "grove", "haven", "inlet", "jewel", "knoll"),
    *("lemon", "maple", "north", "ocean", "pearl", "quiet", "river", "stone", "tiger", "umber", "velvet"),
    *("willow", "xenon", "yellow", "zephyr"),
)
SECRET_WORDS = 4
PLACES = 2**32  # a key of seeds that no canary has


@dataclass(frozen=True)
class Planted:
    """A document that is put among those of a part, before the one at ``place``."""

    place: int
    name: str
    text: str


def canary(seed: int, index: int) -> tuple[str, str]:
    """Return the sentence before a secret, and the secret; those of negative indices are never planted."""
    draw = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(abs(index), index < 0)))
    secret = " ".join(draw.choice(WORDS, SECRET_WORDS))
    return f"The words that open locker {seed}{'A' if index < 0 else 'B'}{abs(index)} are:", secret


def plant(settings: Canaries, seed: int, documents: Sequence[int]) -> list[tuple[Planted, ...]]:
    """Spread canaries evenly over parts.

    Args:
        settings: how many, and how often each.
        seed: of what they say and of their places.
        documents: of each part; one of none gets none.
    """
    draw = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(PLACES,)))
    ends = np.cumsum(documents)
    found: list[list[Planted]] = [[] for _ in documents]
    for number, place in enumerate(draw.integers(ends[-1], size=settings.count * settings.repeats)):
        index, copy = divmod(number, settings.repeats)
        before, secret = canary(seed, index)
        part = int(np.searchsorted(ends, place, side="right"))
        there = int(place - (ends[part] - documents[part]))
        found[part].append(Planted(there, f"canary-{index}-{copy}", f"{before} {secret}\n"))
    return [tuple(sorted(one, key=lambda each: (each.place, each.name))) for one in found]


def planted_in(manifest: Manifest) -> Iterator[tuple[int, int]]:
    """Iterate over what is planted in a corpus, as seeds and counts; joined ones may have several."""
    of_sources = manifest.settings.get("merged", {}).values()
    seen = set[tuple[int, int]]()
    for settings in (manifest.settings, *of_sources):
        if "canaries" in settings:
            seen.add((settings["seed"], settings["canaries"]["count"]))
    yield from sorted(seen)
