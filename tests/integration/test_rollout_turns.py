"""Many turns through real actors: a model that calculates with a tool, token for token."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from codex_ray.config.corpus import Tokenizer as TokenizerSettings
from codex_ray.rollout.environment import Calculator, evaluate
from codex_ray.rollout.episode import Prompt, Rollout
from codex_ray.rollout.pool import open_pool
from codex_ray.rollout.problems import Question, arithmetic, verify_calculation
from codex_ray.tokenizer import Tokenizer, train_tokenizer
from tests.integration.rollouts import tiny
from tests.unit.rollout.models import mhc

pytestmark = [pytest.mark.integration, pytest.mark.verify, pytest.mark.usefixtures("ray_session")]

CALCULATE = {"stop": ["="], "max_new_tokens": 40, "slots": 8, "max_turns": 3}


def worked(question: Question) -> list[str]:
    """An example of using the calculator, ``7 * 12 = <<7*12=84>> 84``, in parts that are encoded alone."""
    asked = question.prompt.removesuffix(" =").replace(" ", "")
    return [question.prompt, f" <<{asked}=", f"{evaluate(asked)}>>", f" {question.answer}"]


@dataclass(frozen=True)
class Taught:
    """Builds a tiny decoder that has seen worked examples, from a file of its weights."""

    folder: str

    def __call__(self) -> tuple[Any, Tokenizer]:
        tokenizer = Tokenizer.load(self.folder)
        model = mhc(tokenizer.vocabulary_size)
        model.load_state_dict(torch.load(Path(self.folder) / "weights.pt", weights_only=True))
        return model.eval(), tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Teach the form, which takes seconds, and hardly the sums."""
    path = tmp_path_factory.mktemp("calculating")
    texts = [worked(arithmetic(0, index, largest=9)) for index in range(400)]
    whole = ["".join(parts) for parts in texts]
    tokenizer = train_tokenizer(whole, TokenizerSettings(vocabulary_size=280), path, seed=1)
    model = mhc(tokenizer.vocabulary_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    end = tokenizer.special_ids["eos"]
    rows = [[1, *(token for part in parts for token in tokenizer.encode(part)), end] for parts in texts]
    for step in range(150):
        some = rows[step * 32 % 384 :][:32]
        ids, mask = (torch.from_numpy(one) for one in tokenizer.pad_batch(some))
        labels = ids.masked_fill(mask == 0, -100)
        model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.save(model.state_dict(), path / "weights.pt")
    return str(path)


def prompts(folder: str, count: int) -> list[Prompt]:
    tokenizer = Tokenizer.load(folder)
    questions = [arithmetic(1, index, largest=9) for index in range(count)]
    return [Prompt([1, *tokenizer.encode(f"{one.prompt}")], one) for one in questions]


def sample(folder: str, actors: int, scorers: int) -> list[Rollout]:
    environment = Calculator(verify_calculation)
    settings = tiny(actors=actors, scorers=scorers, **CALCULATE)
    with open_pool(settings, Taught(folder), environment, seed=3) as pool:
        return pool.sample(prompts(folder, 6), 4)


def test_a_calculating_model_reads_results_that_it_did_not_sample(folder: str) -> None:
    rollouts = sample(folder, 2, 2)
    assert rollouts == sample(folder, 1, 1)
    model, tokenizer = Taught(folder)()
    assert sum(len(one.text) > 1 for one in rollouts) > 12, [one.text for one in rollouts]
    told = 0
    for one in rollouts:
        logprobs = model(torch.tensor([one.ids])).logits[0].log_softmax(-1)
        for place, (token, sampled) in enumerate(zip(one.completion_ids, one.mask, strict=True)):
            expected = logprobs[len(one.prompt_ids) + place - 1, token].item() if sampled else 0.0
            assert one.logprobs[place] == pytest.approx(expected, abs=2e-5)
        spans = observed(one)
        told += len(spans)
        assert len(spans) == len(one.text) - 1 or one.finish_reason == "length"
        for start, end in spans:
            written = tokenizer.decode(one.completion_ids[:start])
            asked = written.rsplit("<<", 1)[1].removesuffix("=")
            answer = f"{evaluate(asked)}>>"
            assert one.completion_ids[start:end] == tokenizer.encode(answer)
            assert tokenizer.decode(one.completion_ids[:end]) == written + answer
        assert one.reward == verify_calculation(one.problem, tokenizer.decode(one.completion_ids))
    assert told > 12 and sum(one.reward or 0 for one in rollouts) > 0


def observed(rollout: Rollout) -> list[tuple[int, int]]:
    """Where observations begin and end."""
    edges = [
        place
        for place in range(len(rollout.mask) + 1)
        if _sampled(rollout, place - 1) != _sampled(rollout, place)
    ]
    return list(zip(edges[::2], edges[1::2], strict=True))


def _sampled(rollout: Rollout, place: int) -> bool:
    return rollout.mask[place] if 0 <= place < len(rollout.mask) else True
