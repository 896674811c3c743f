"""Bias, penalties, what is told of other tokens, and grammars."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from codex_ray.serve.adjusting import Adjuster
from codex_ray.serve.errors import ApiError
from codex_ray.serve.json_grammar import JsonGrammars
from codex_ray.tokenizer import Tokenizer

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 3}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def test_bias_is_added() -> None:
    logits_V = Adjuster(bias={1: 5.0, 3: -100.0})([], torch.zeros(4))
    assert logits_V.tolist() == [0.0, 5.0, 0.0, -100.0]


def test_penalties_are_openais() -> None:
    adjuster = Adjuster(bias={}, presence=0.5, frequency=0.25)
    drawn: list[int] = []
    assert adjuster(drawn, torch.zeros(4)).tolist() == [0.0, 0.0, 0.0, 0.0]
    drawn += [2]
    assert adjuster(drawn, torch.zeros(4)).tolist() == [0.0, 0.0, -0.75, 0.0]
    drawn += [2, 0]
    assert adjuster(drawn, torch.zeros(4)).tolist() == [-0.75, 0.0, -1.0, 0.0]


def test_alternatives_are_told_under_the_model_itself() -> None:
    adjuster = Adjuster(bias={0: 100.0}, top=2)
    raw_V = torch.tensor([0.0, 1.0, 2.0, -1.0])
    adjuster([], raw_V.clone())
    logprobs_V = raw_V.log_softmax(-1)
    found = adjuster.top(0, float(logprobs_V[0]))
    assert [token for token, _ in found] == [2, 1]
    assert [value for _, value in found] == pytest.approx([float(logprobs_V[2]), float(logprobs_V[1])])


def test_an_error_is_kept_and_the_others_go_on() -> None:
    class Broken:
        def forbidden(self, new: object) -> torch.Tensor:
            raise RuntimeError("gave up")

    adjuster = Adjuster(bias={}, grammar=Broken())  # type: ignore[arg-type]
    assert adjuster([], torch.zeros(2)).tolist() == [0.0, 0.0]
    assert str(adjuster.error) == "gave up"


@pytest.fixture(scope="module")
def tokenizer(model_folder: Path) -> Tokenizer:
    return Tokenizer.load(model_folder)


def test_whatever_is_drawn_is_json_of_the_schema(tokenizer: Tokenizer) -> None:
    grammars = JsonGrammars(tokenizer, tokenizer.vocabulary_size, frozenset({2}))
    compiled = grammars.compile(SCHEMA)
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        grammar, ids, new = compiled.copy(), list[int](), list[int]()
        while not new or new[-1] != 2:
            weights_V = torch.rand(tokenizer.vocabulary_size, generator=generator)
            weights_V[grammar.forbidden(new)] = 0
            new = [int(torch.multinomial(weights_V, 1, generator=generator))]
            ids += new
            assert len(ids) < 2000
        found = json.loads(tokenizer.decode(ids[:-1]))
        assert set(found) == {"name", "age"} and len(found["name"]) <= 3 and found["age"] >= 0


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/x.json"}}}, "cannot be held to"),
        ({"type": "nonsense"}, "cannot be held to"),
        ({"enum": ["x" * 70_000]}, "at most 65536"),
        ({"type": "string", "pattern": "(?=a)b"}, "cannot be held to"),
    ],
)
def test_schemas_that_cannot_be_held_to_are_refused(tokenizer: Tokenizer, schema: dict, said: str) -> None:  # type: ignore[type-arg]
    grammars = JsonGrammars(tokenizer, tokenizer.vocabulary_size, frozenset({2}))
    with pytest.raises(ApiError, match=said) as refusal:
        grammars.compile(schema)
    assert refusal.value.status == 400 and refusal.value.param == "response_format"
