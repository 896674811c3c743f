"""Other people's models: loaded, scored, inspected and counted like our own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from codex_ray.evaluate.likelihood import score_sequences
from codex_ray.model import flops_per_token, load_model, mixing_gains, optimizer_role
from codex_ray.model.inspect import inspected
from tests.unit.model.families import OTHERS, other
from tests.unit.model.small import VOCABULARY, tokens


@pytest.mark.parametrize("family", OTHERS)
def test_a_folder_of_another_family_is_loaded_and_scored(family: str, tmp_path: Path) -> None:
    theirs = other(family)
    theirs.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, dtype=torch.float32)
    ids = tokens(1, 40)
    with torch.no_grad():
        logits = theirs(ids).logits
        assert torch.equal(loaded(ids).logits, logits)
    assert mixing_gains(loaded, ids) == {}
    loss = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="sum").item()
    assert score_sequences(loaded, ids.tolist(), context=64) == pytest.approx([loss], rel=1e-4)


@pytest.mark.parametrize("family", OTHERS)
def test_parameters_and_operations_are_counted(family: str) -> None:
    theirs = other(family)
    found = inspected(theirs.config, name=family, sequence_length=16, workers=1)
    assert found.parameters == sum(found.parts.values()) == theirs.num_parameters()
    shapes = {name: tuple(value.shape) for name, value in theirs.named_parameters()}
    embeddings = {name for name, shape in shapes.items() if optimizer_role(name, shape) == "embedding"}
    beginning = "transformer.w" if family == "gpt2" else "model.embed"
    assert embeddings - {"lm_head.weight"} == {name for name in shapes if name.startswith(beginning)}


def test_a_token_pays_for_the_experts_that_it_is_sent_to() -> None:
    hidden, inner, layers, heads, groups, size, experts, used = 24, 40, 3, 4, 2, 8, 4, 2
    attention = hidden * size * (2 * heads + 2 * groups) + 2 * heads * size * (16 + 1) / 2
    feed_forward = experts * hidden + used * 3 * hidden * inner
    products = layers * (attention + feed_forward) + VOCABULARY * hidden
    assert flops_per_token(other("mixtral").config, 16) == 6 * products
