"""A run repeated by its records: the same to the last bit, and what is changed on purpose is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from codex_ray.config.lineage import Lineage
from codex_ray.config.reproduce import Reproduce
from codex_ray.errors import CodexRayError
from codex_ray.files import read_json
from codex_ray.runs.lineage import UNCHECKED, lineage_verb, walk
from codex_ray.runs.reproduce import reproduce_verb
from codex_ray.train.driver import pretrain
from tests.integration.training import STEPS, run_settings

pytestmark = [pytest.mark.integration, pytest.mark.verify]


@pytest.mark.usefixtures("ray_session")
def test_a_run_is_repeated_to_the_bit_and_told_from_another(tiny_corpus: Path, tmp_path: Path) -> None:
    first = pretrain(run_settings(tiny_corpus, tmp_path, "first")).run
    environment = read_json(first / "environment.json", "environment")
    assert (environment["verb"], len(environment["code"])) == ("pretrain", 12)
    found = reproduce_verb(Reproduce(run="first", runs=str(tmp_path)))
    assert (found.steps, found.differing_steps, found.weights_equal) == (STEPS, 0, True)
    assert found.environment == {}
    assert {"loss", "grad_norm", "batch", "validation_loss"} <= set(found.largest)
    assert read_json(tmp_path / "first-again" / "reproduction.json", "report")["weights_equal"] is True
    with pytest.raises(CodexRayError, match="step 1 first"):
        reproduce_verb(Reproduce(run="first", runs=str(tmp_path), name="other", changes=["seed=7"]))
    tree = list(walk(lineage_verb(Lineage(path=str(first)))))
    assert [(one.kind, one.path) for one in tree[:3]] == [
        ("model", str(first / "model")),
        ("run", str(first)),
        ("corpus", str(tiny_corpus)),
    ]
    assert {one.state for one in tree[:3]} == {UNCHECKED}
