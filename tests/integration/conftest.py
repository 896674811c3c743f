from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from codex_ray.cluster.session import open_session
from codex_ray.corpus.prepare import prepare
from tests.integration.training import TWO_WORKERS, corpus_settings, make_text

LONGEST_FIRST = (
    *("engine", "prepare", "pretrain", "faults", "methods", "discover", "interruption", "following", "jobs"),
    *("finetune", "evaluation", "serve", "sweep", "growing", "stream", "rollouts", "sequence_parallel"),
)
"""Files by how long they take, so that those that run side by side end together; others follow."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files."""
    ranks = {f"test_{name}.py": rank for rank, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))


@pytest.fixture(scope="module")
def ray_session() -> Iterator[None]:
    """One embedded Ray for a module's tests."""
    with open_session(TWO_WORKERS):
        yield


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of small programs, made once."""
    folder = tmp_path_factory.mktemp("tiny")
    prepare(corpus_settings(make_text(folder / "text"), folder / "corpus"))
    return folder / "corpus"
