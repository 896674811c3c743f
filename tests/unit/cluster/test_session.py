"""What a session leaves in the environment: nothing."""

from __future__ import annotations

import os

import pytest

from codex_ray.cluster.session import default_variables


def test_variables_stand_for_the_length_of_a_block_and_give_way_to_the_users(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GIVEN", "the user's")
    monkeypatch.delenv("ABSENT", raising=False)
    with default_variables({"GIVEN": "ours", "ABSENT": "ours"}):
        assert (os.environ["GIVEN"], os.environ["ABSENT"]) == ("the user's", "ours")
    assert os.environ["GIVEN"] == "the user's" and "ABSENT" not in os.environ
