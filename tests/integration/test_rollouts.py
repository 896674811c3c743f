"""Pools of real actors: the same rollouts from any number of them, weights by version, figures, refusals."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.rollout.actor import sample_task
from codex_ray.rollout.environment import SingleTurn
from codex_ray.rollout.episode import Rollout
from codex_ray.rollout.ledger import LedgerError
from codex_ray.rollout.pool import RolloutPool, open_pool
from codex_ray.rollout.sampling import Sampling
from codex_ray.rollout.steps import Order, Step
from codex_ray.tokenizer import Tokenizer
from tests.integration.rollouts import (
    PROMPTS,
    SAMPLES,
    TinyModel,
    letters,
    steps,
    tiny,
    trained,
    wait_until_gone,
)
from tests.unit.rollout.models import mhc, train_small_tokenizer

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_session")]

SEED = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("tokenizer")
    train_small_tokenizer(path)
    return str(path)


@pytest.fixture(scope="module")
def model(folder: str) -> Any:
    return mhc(Tokenizer.load(folder).vocabulary_size).eval()


def expected(model: Any, folder: str, step: int, version: int) -> list[Rollout]:
    """What a step gives, worked out here without any actor."""
    with_weights = mhc(Tokenizer.load(folder).vocabulary_size).eval()
    with_weights.load_state_dict(trained(model, version), strict=False)
    settings, sampling = tiny(), Sampling()
    state = Step(Order(step, version, PROMPTS, SAMPLES, sampling), version, settings, SEED, scored=False)
    for task in state.tasks():
        state.sampled(task, sample_task(with_weights, Tokenizer.load(folder), task))
    rollouts = [replace(one, reward=letters(one.problem, one.text[0])) for one in state.accepted()]
    rewards = [one.reward for one in rollouts]
    return [
        replace(one, group_rewards=tuple(rewards[one.position * SAMPLES : (one.position + 1) * SAMPLES]))  # type: ignore[arg-type]
        for one in rollouts
    ]


def test_a_pool_samples_what_its_weights_do_and_keeps_the_book(model: Any, folder: str) -> None:
    """One pool for many assertions: it takes seconds to start."""
    with open_pool(tiny(), TinyModel(folder), SingleTurn(letters), seed=SEED) as pool:
        processes = pool.processes()
        assert len(set(processes)) == 3
        asbuilt = pool.sample(PROMPTS, SAMPLES)
        assert len(asbuilt) == 24 and {one.version for one in asbuilt} == {0}
        taken = steps(pool, model, 3)
        for step, rollouts in enumerate(taken):
            assert {one.version for one in rollouts} == {step}
        assert taken[2] == without_rounding(expected(model, folder, 2, 2), taken[2])
        assert {one.version for one in pool.sample(PROMPTS[:1], 2, step=99)} == {2}
        _stale_and_unknown_weights_are_refused(pool)
        _unchanged_weights_are_said(pool, model)
        _ranks_share_a_step(pool)
        counts = pool.counts()
        assert counts["submitted"] == 24 * 7 + 2 == counts["accepted"] + counts["filtered"]
        assert counts["filtered"] == counts.get("filtered/begun again", 0) <= 24 and counts["running"] == 0
    wait_until_gone(processes)
    with pytest.raises(CodexRayError, match="is gone"):
        pool.counts()


def without_rounding(expected: list[Rollout], found: list[Rollout]) -> list[Rollout]:
    """Take logs from ``found`` where they are equal but for rounding, which may differ between processes."""
    same = []
    for one, other in zip(expected, found, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)
        assert one.sampling_logprobs == pytest.approx(other.sampling_logprobs, abs=1e-4)
        same.append(replace(one, logprobs=other.logprobs, sampling_logprobs=other.sampling_logprobs))
    return same


def _stale_and_unknown_weights_are_refused(pool: RolloutPool) -> None:
    with pytest.raises(CodexRayError, match="asks for weights of version 9, and the pool has 2"):
        pool.submit(9, 9, PROMPTS, SAMPLES)
    with pytest.raises(LedgerError, match="published after version 2"):
        pool.publish(1, {"model.norm.weight": mhc(400).get_parameter("model.norm.weight")})


def _unchanged_weights_are_said(pool: RolloutPool, model: Any) -> None:
    pool.publish(3, trained(model, 2))
    pool.submit(3, 3, PROMPTS, SAMPLES)
    share = pool.collect(3)
    assert any("version 3 are those of version 2 bit for bit" in note for note in share.notes)
    assert share.figures["rollout/unchanged_weights"] == 1
    assert 0 <= share.figures["trainer/idle_ratio"] <= 1 and 0 <= share.figures["rollout/idle_ratio"] < 1
    assert share.figures["rollout/tokens"] == sum(len(one.completion_ids) for one in share.rollouts)
    assert share.figures["rollout/tokens_per_second"] > 0 and share.figures["rollout/staleness"] == 0


def _ranks_share_a_step(pool: RolloutPool) -> None:
    pool.submit(4, 3, PROMPTS, SAMPLES)
    shares = [pool.collect(4, rank, 5).rollouts for rank in range(5)]
    assert [len(one) for one in shares] == [4, 5, 5, 5, 5]
    places = [(one.position, one.sample) for part in shares for one in part]
    assert places == [(position, sample) for position in range(6) for sample in range(SAMPLES)]
    with pytest.raises(CodexRayError, match="submitted before"):
        pool.submit(5, 3, PROMPTS, SAMPLES)
        pool.submit(5, 3, PROMPTS, SAMPLES)
    pool.begin()  # step 5 is forgotten, which nobody collected


def test_what_cannot_be_is_refused_before_anything_starts(folder: str) -> None:
    def refused(error: type[Exception], match: str, **changes: Any) -> None:
        with (
            pytest.raises(error, match=match),
            open_pool(tiny(**changes), TinyModel(folder), seed=1),
        ):
            pass

    refused(CodexRayError, "sampling needs 99 CPUs and the cluster has 8", actors=99)
    refused(CodexRayError, "nodes that fit can hold 0", labels={"pool": "nowhere"})
    refused(ConfigError, "give rollout.gpus_per_actor=1", gpu_kind="H100")


@pytest.mark.verify
def test_who_waits_while_the_pool_begins_again_is_told(folder: str) -> None:
    """Ranks of a group that was lost must not count as those of the next."""
    with open_pool(tiny(actors=1), TinyModel(folder), seed=SEED) as pool:
        told: list[str] = []

        def wait() -> None:
            try:
                pool.collect(0, 1, 2)
            except CodexRayError as error:
                told.append(str(error))

        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(1)
        pool.begin()
        waiting.join(60)
        assert told == ["the pool began again while step 0 was waited for; call begin() first"]
        pool.submit(0, 0, PROMPTS, 1)
        assert [len(pool.collect(0, rank, 2).rollouts) for rank in (0, 1)] == [3, 3]
