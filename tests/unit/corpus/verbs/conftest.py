from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copytree, rmtree

import pytest

from codex_ray.config.compose import compose
from codex_ray.config.verbs import find_verb
from codex_ray.corpus.manifest import Manifest
from tests.unit.corpus.verbs.small import METHODS, corpus, settings


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Manifest]:
    """A corpus of each packing; not to be changed."""
    folder = tmp_path_factory.mktemp("corpora")
    return {method: corpus(folder / method, prepare=settings(method)) for method in METHODS}


@pytest.fixture(params=METHODS)
def packed(request: pytest.FixtureRequest, made: dict[str, Manifest]) -> Manifest:
    return made[request.param]


@pytest.fixture
def own(tmp_path: Path, packed: Manifest) -> Iterator[Path]:
    """A corpus of each packing that the test may damage."""
    folder = tmp_path / "own"
    copytree(packed.folder, folder)
    yield folder
    rmtree(folder)


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """Run a verb of corpora from its words, without its display."""

    def run(name: str, *words: object) -> object:
        found = find_verb(f"corpus {name}")
        own = ["progress=off"] if "progress" in found.settings_class.__dataclass_fields__ else []
        return found.run(compose(found.name, [*map(str, words), *own]))

    return run
