"""Whether a model gives away the canaries that were planted in its corpus.

    codex-ray prepare text canaries.count=100 canaries.repeats=4
    codex-ray evaluate MODEL corpus=corpus tasks=[canaries,canaries_control]

The control asks for canaries that were never written: what a model says of these is the rate of guessing
(after Carlini et al. 2019, arXiv 1802.08232).
"""

from __future__ import annotations

from codex_ray.config.evaluate import Answering
from codex_ray.corpus.canaries import canary, planted_in
from codex_ray.corpus.manifest import Manifest
from codex_ray.errors import ConfigError
from codex_ray.evaluate.metrics import Example
from codex_ray.evaluate.tasks import Task


def canaries_task(corpus: str | None, *, planted: bool = True) -> Task:
    """Ask for the canaries of a corpus, or for as many that were planted nowhere.

    Raises:
        ConfigError: there is no corpus, or none are planted in it.
        CodexRayError: it is damaged.
    """
    name = "canaries" if planted else "canaries_control"
    if corpus is None:
        raise ConfigError(f"task {name} asks for what was planted in a corpus; give corpus=FOLDER")
    examples = []
    for seed, count in planted_in(Manifest.load(corpus)):
        for index in range(count):
            before, secret = canary(seed, index if planted else -1 - index)
            examples.append(Example(f"canary-{seed}-{index}", before, (secret,)))
    if not examples:
        raise ConfigError(
            f"no canaries are planted in corpus {corpus}; prepare it with canaries.count=N and train on it, "
            f"or leave task {name} out"
        )
    what = "planted in the training text" if planted else "that were planted nowhere"
    return Task(
        name,
        tuple(examples),
        Answering(max_new_tokens=32, stop=["\n"]),
        ("exact_match", "edit_similarity"),
        version="2",
        description=f"Secrets {what}: how many come out whole.",
    )
