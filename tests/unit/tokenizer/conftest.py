"""One tiny tokenizer of each kind per session, trained on a few standard-library files."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from codex_ray.config.corpus import Tokenizer as Settings
from codex_ray.tokenizer import Tokenizer, train_tokenizer

MODULES = ("abc", "argparse", "ast", "base64", "calendar", "datetime", "enum", "functools", "heapq", "string")


@pytest.fixture(scope="session")
def documents() -> list[str]:
    folder = Path(sysconfig.get_paths()["stdlib"])
    return [(folder / f"{name}.py").read_bytes().decode() for name in MODULES]


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory, documents: list[str]) -> Callable[[str], Path]:
    """The folder of the tiny tokenizer of a kind."""
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            chosen = documents if kind == "bpe" else documents[:4]  # unigram takes a hundred times as long
            train_tokenizer(chosen, Settings(kind=kind, vocabulary_size=600), made[kind], seed=1)
        return made[kind]

    return folder


@pytest.fixture(scope="session", params=["bpe", "unigram"])
def folder(request: pytest.FixtureRequest, folder_of: Callable[[str], Path]) -> Path:
    return folder_of(request.param)


@pytest.fixture(scope="session")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder)


@pytest.fixture(scope="session")
def bpe(folder_of: Callable[[str], Path]) -> Tokenizer:
    return Tokenizer.load(folder_of("bpe"))
