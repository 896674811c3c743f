"""Rewards by name, and functions of a user's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from codex_ray.errors import ConfigError
from codex_ray.rollout.episode import Episode, Prompt, Turn
from codex_ray.rollout.rewards import ByName, exact, expected, find_reward, last_number, places

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
    environment = ByName("exact")()
    assert environment.respond(episode) is None and environment.score(episode) == 1.0
    with pytest.raises(ConfigError, match=r"on_policy\.reward=exakt is none of .*did you mean 'exact'"):
        find_reward("exakt")
    for name in ("own_rewards.missing", "no_such_module.at_all"):
        with pytest.raises(ConfigError, match="cannot be imported"):
            find_reward(name)
