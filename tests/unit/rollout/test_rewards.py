"""Rewards by name, and functions of a user's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from codex_ray.config.common import Device
from codex_ray.config.corpus import Tokenizer as TrainTokenizer
from codex_ray.config.finetune import OnPolicy
from codex_ray.config.rollout import Rollouts
from codex_ray.config.train import Lora
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.model.adapter import with_adapters
from codex_ray.model.reward import load_reward_model, start_reward_model
from codex_ray.rollout.episode import Episode, Prompt, Turn
from codex_ray.rollout.rewards import (
    Rewarded,
    exact,
    expected,
    find_environment,
    find_reward,
    last_number,
    places,
    rewarded,
    stops_of,
)
from codex_ray.tokenizer import Tokenizer, train_tokenizer
from tests.unit.rollout.models import mhc, train_small_tokenizer

ROW = {"prompt": "sort 3 1 2 =", "response": "1 2 3"}


def test_answers_are_compared_with_the_rows_own() -> None:
    assert (
        expected({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})
        == "b"
    )
    assert exact(ROW, " 1 2 3\n") == 1.0 and exact(ROW, "1 2 3 4") == 0.0
    assert places(ROW, "1 3 3") == pytest.approx(2 / 3) and places(ROW, "1 2") == places(ROW, "") == 0.0
    assert last_number({"response": "so it is 12"}, "7 and then 12.0") == 1.0
    assert last_number({"response": "so it is 12"}, "none") == last_number({"response": "none"}, "12") == 0.0


def test_a_reward_is_found_by_name_or_dotted_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_rewards.py").write_text("def longest(row, text):\n    return float(len(text))\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert (
        find_reward("own_rewards.longest")(ROW, "four")
        == find_reward("own_rewards:longest")(ROW, "four")
        == 4.0
    )
    turn = Turn(None, [], [5], "1 2 3", "1 2 3", [0.0], [0.0], "stop")
    episode = Episode(0, 0, 0, 0, Prompt([1], ROW), (turn,))
    environment = Rewarded("exact")()
    assert environment.respond(episode) is None and environment.score(episode) == 1.0
    with pytest.raises(ConfigError, match=r"on_policy\.reward=exakt is none of .*did you mean 'exact'"):
        find_reward("exakt")
    for name in ("own_rewards.missing", "no_such_module.at_all"):
        with pytest.raises(ConfigError, match="cannot be loaded"):
            find_reward(name)


def test_an_environment_is_found_by_name_or_dotted_path() -> None:
    assert stops_of("single_turn") == () and stops_of("calculator") == ("=",)
    mine = "codex_ray.rollout.environment.Calculator"
    assert find_environment(mine) is find_environment("calculator")
    turn = Turn(None, [], [5], "<<12*34", "<<12*34=", [0.0], [0.0], "stop")
    asked = Episode(0, 0, 0, 0, Prompt([1], {"prompt": "12*34", "response": "408"}), (turn,))
    calculator = Rewarded("last_number", mine)()
    assert calculator.respond(asked) == "408>>" and calculator.score(asked) == 0.0
    with pytest.raises(ConfigError, match=r"on_policy\.environment=calculater is none of .*did you mean"):
        find_environment("calculater")


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model whose scores are not all zero."""
    folder = tmp_path_factory.mktemp("policy")
    train_small_tokenizer(folder)
    vocabulary = Tokenizer.load(folder).vocabulary_size
    mhc(vocabulary).save_pretrained(folder)
    model = start_reward_model(folder)
    torch.nn.init.normal_(model.score.weight, generator=torch.Generator().manual_seed(1))
    model.save_pretrained(folder / "judge")
    train_small_tokenizer(folder / "judge")
    return folder / "judge"


def test_a_reward_model_scores_the_tokens_that_were_sampled(judge: Path) -> None:
    made = rewarded(OnPolicy(reward=str(judge)), Rollouts(), Device(dtype="float32"), judge.parent)
    assert made.model == str(judge) and made.compute == Device(device="cpu", dtype="float32")
    environment = made()
    turns = Turn(None, [], [5, 9, 2], "", "", [], [], "stop"), Turn("", [7], [8], "", "", [], [], "stop")
    episode = Episode(0, 0, 0, 0, Prompt([1, 20]), turns)
    assert environment.respond(episode) is None
    with torch.inference_mode():
        expected_score = load_reward_model(judge)(torch.tensor([[1, 20, 5, 9, 2, 7, 8]])).logits
    assert environment.score(episode) == expected_score.item() != 0.0
    long = Episode(0, 0, 0, 0, Prompt([1] * 100))
    with pytest.raises(CodexRayError, match=r"100 tokens is longer than the \d+ that the reward model takes"):
        environment.score(long)


def test_a_reward_model_may_be_an_adapter(judge: Path, tmp_path: Path) -> None:
    adapted = with_adapters(start_reward_model(judge.parent), Lora(rank=2), seed=1)
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad and ("lora_B" in name or "score" in name):
            torch.nn.init.constant_(parameter, 0.05)
    adapted.save_pretrained(tmp_path)
    ids = torch.tensor([[1, 20, 5, 9]])
    with torch.inference_mode():
        wanted = adapted.eval()(ids, attention_mask=torch.ones_like(ids)).logits
        found = load_reward_model(tmp_path)(ids, attention_mask=torch.ones_like(ids)).logits
    torch.testing.assert_close(found, wanted)
    assert float(wanted.abs()) > 1e-3
    made = rewarded(OnPolicy(reward=str(tmp_path)), Rollouts(), Device(dtype="float32"), judge.parent)
    assert made().score(Episode(0, 0, 0, 0, Prompt([1, 20, 5, 9]))) == pytest.approx(float(wanted), rel=1e-5)
    with pytest.raises(ConfigError, match="is no reward model; give one"):
        load_reward_model(judge.parent)


def test_a_reward_model_of_other_tokens_is_refused(judge: Path, tmp_path: Path) -> None:
    train_tokenizer(["other words entirely\n"] * 50, TrainTokenizer(vocabulary_size=280), tmp_path, 1)
    chosen = OnPolicy(reward=str(judge))
    with pytest.raises(ConfigError, match="was trained with another tokenizer"):
        rewarded(chosen, Rollouts(), Device(), tmp_path)
    with pytest.raises(CodexRayError, match="holds no model"):
        rewarded(OnPolicy(reward=str(tmp_path)), Rollouts(), Device(), tmp_path)
    with pytest.raises(ConfigError, match=r"on_policy\.reward=runs/nowhere is none of"):
        rewarded(OnPolicy(reward="runs/nowhere"), Rollouts(), Device(), tmp_path)
