"""Actors and scorers that die, hang or misbehave: the same rollouts, a balanced book, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from codex_ray.config.common import Device
from codex_ray.errors import CodexRayError
from codex_ray.rollout.actor import FromFolder
from codex_ray.rollout.environment import SingleTurn
from codex_ray.rollout.episode import Prompt, Rollout
from codex_ray.rollout.pool import NAMESPACE, RolloutPool, open_pool
from codex_ray.tokenizer import Tokenizer
from tests.integration.rollouts import (
    PROMPTS,
    SAMPLES,
    Blocking,
    Fatal,
    Slow,
    TinyModel,
    letters,
    sometimes,
    steps,
    tiny,
    wait_for,
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


@pytest.fixture(scope="module")
def undisturbed(folder: str) -> list[Rollout]:
    with open_pool(tiny(actors=1), TinyModel(folder), SingleTurn(letters), seed=SEED) as pool:
        return pool.sample(PROMPTS, SAMPLES)


def when(condition: Callable[[], bool], then: Callable[[], None]) -> threading.Thread:
    """Do something in a thread, as soon as a condition holds."""

    def watch() -> None:
        deadline = time.monotonic() + 120
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.02)
        then()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def has_accepted(pool: RolloutPool, sequences: int) -> Callable[[], bool]:
    return lambda: pool.counts()["accepted"] >= sequences


def assert_balanced(pool: RolloutPool, *, accepted: int = 24) -> dict[str, int]:
    counts = pool.counts()
    assert counts["submitted"] == counts["accepted"] + counts["filtered"] and counts["running"] == 0
    assert counts["accepted"] == accepted and counts["deaths"] == counts["resubmitted"]
    return counts


@pytest.mark.verify
def test_a_killed_actor_and_a_killed_scorer_change_nothing(
    folder: str, undisturbed: list[Rollout], tmp_path: Path
) -> None:
    with open_pool(tiny(), Slow(folder, 0.02), Blocking(tmp_path, 1), seed=SEED) as pool:
        processes = pool.processes()
        pool.submit(0, 0, PROMPTS, SAMPLES)
        wait_for(tmp_path / "stuck")
        os.kill(int((tmp_path / "stuck").read_text()), signal.SIGKILL)
        os.kill(processes[0], signal.SIGKILL)
        share = pool.collect(0)
        assert share.rollouts == undisturbed
        counts = assert_balanced(pool)
        assert counts["deaths"] == 1 and share.figures["rollout/deaths"] == 1
        assert sum("died" in note for note in share.notes) == 2
        processes += pool.processes()
        assert len(set(processes)) == 5
        assert pool.sample([Prompt([1, 20], 0)], 1)[0].ids
    wait_until_gone(processes)


@pytest.mark.verify
@pytest.mark.parametrize("moment", [0, 4, 8, 20])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM])
def test_an_actor_lost_at_any_moment_changes_nothing(
    folder: str, undisturbed: list[Rollout], moment: int, number: signal.Signals
) -> None:
    chosen = tiny(task_seconds=8.0 if number == signal.SIGSTOP else 120.0)
    with open_pool(chosen, Slow(folder, 0.02), SingleTurn(letters), seed=SEED) as pool:
        processes = pool.processes()
        pool.submit(0, 0, PROMPTS, SAMPLES)
        when(has_accepted(pool, moment), lambda: os.kill(processes[1], number)).join(120)
        assert pool.collect(0).rollouts == undisturbed
        assert assert_balanced(pool)["deaths"] == 1 or moment == 20
        processes += pool.processes()
    wait_until_gone(processes)


@pytest.mark.verify
def test_actors_lost_again_and_again_change_nothing(folder: str, model: Any) -> None:
    """Over steps with new weights each: in synchronous and in overlapped mode."""
    for staleness in (0, 1):
        chosen = tiny(staleness=staleness, attempts=20)
        with open_pool(tiny(staleness=staleness), TinyModel(folder), SingleTurn(letters), seed=SEED) as pool:
            expected = steps(pool, model, 4)
        with open_pool(chosen, Slow(folder, 0.01), SingleTurn(letters), seed=SEED) as pool:
            ended = threading.Event()
            killed: list[int] = []

            def kill(pool: RolloutPool = pool, ended: threading.Event = ended, killed: Any = killed) -> None:
                while not ended.wait(3.0):
                    try:
                        process = pool.processes()[len(killed) % 3]
                    except (CodexRayError, ray.exceptions.RayError, AttributeError):
                        continue  # one of them is starting
                    os.kill(process, signal.SIGKILL)
                    killed.append(process)

            thread = threading.Thread(target=kill, daemon=True)
            thread.start()
            found = steps(pool, model, 4)
            ended.set()
            thread.join(60)
            assert found == expected and killed
            versions = [{one.version for one in rollouts} for rollouts in found]
            assert versions == [{max(0, step - staleness)} for step in range(4)]
            counts = pool.counts()
            assert counts["submitted"] == counts["accepted"] + counts["filtered"] + counts["running"]
            assert counts["deaths"] == counts["resubmitted"]
        wait_until_gone(killed)


@pytest.mark.verify
def test_a_stalled_scorer_changes_nothing(folder: str, undisturbed: list[Rollout], tmp_path: Path) -> None:
    with open_pool(tiny(score_seconds=4.0), TinyModel(folder), Blocking(tmp_path, 1), seed=SEED) as pool:
        pool.submit(0, 0, PROMPTS, SAMPLES)
        wait_for(tmp_path / "stuck")
        stalled = int((tmp_path / "stuck").read_text())
        os.kill(stalled, signal.SIGSTOP)
        share = pool.collect(0)
        assert share.rollouts == undisturbed
        assert any("did not answer within 4 s" in note for note in share.notes)
        assert_balanced(pool)
        wait_until_gone([stalled])


@pytest.mark.verify
@pytest.mark.parametrize("reward", [None, -1.0])
def test_a_reward_that_never_comes_is_a_failure_of_its_sequence(
    folder: str, undisturbed: list[Rollout], tmp_path: Path, reward: float | None
) -> None:
    blocking = Blocking(tmp_path, 1, always=True)
    with open_pool(
        tiny(score_seconds=3.0, failure_reward=reward), TinyModel(folder), blocking, seed=SEED
    ) as pool:
        pool.submit(0, 0, PROMPTS, SAMPLES)
        share = pool.collect(0)
        failed = [one for one in share.rollouts if one.failure]
        others = [one.ids for one in undisturbed if (one.position, one.sample) != (1, 1)]
        assert [one.ids for one in share.rollouts if not one.failure] == others
        assert [(one.reward, one.failure) for one in failed] == ([] if reward is None else [(-1.0, "late")])
        assert share.figures["rollout/score_failures"] == 1
        assert any(
            "1 of 24 scores of step 0 failed, the first of sample 1 of prompt 1" in one for one in share.notes
        )
        counts = assert_balanced(pool, accepted=23 if reward is None else 24)
        assert counts.get("filtered/late", 0) == (1 if reward is None else 0)


@pytest.mark.verify
def test_rewards_that_raise_or_are_no_numbers_are_left_out_and_counted(folder: str) -> None:
    with open_pool(tiny(), TinyModel(folder), SingleTurn(sometimes), seed=SEED) as pool:
        scorer = pool.processes()[2]
        pool.submit(0, 0, PROMPTS, SAMPLES)
        share = pool.collect(0)
        assert {one.position for one in share.rollouts} == {0, 1, 4, 5}
        assert share.figures["rollout/filtered"] == share.figures["rollout/score_failures"] == 8
        counts = assert_balanced(pool, accepted=16)
        assert counts["filtered/LookupError"] == counts["filtered/ValueError"] == 4
        assert pool.processes()[2] == scorer  # built anew in its process
        pool.submit(1, 0, PROMPTS[2:3], SAMPLES)
        with pytest.raises(
            CodexRayError, match=r"none of the 4 sequences of step 1 could be scored: 4 of 4 .*no reward"
        ):
            pool.collect(1)


@pytest.mark.verify
def test_sampling_goes_on_while_a_score_takes_long(folder: str, tmp_path: Path) -> None:
    """The first prompt's score ends only when the last prompt's has begun."""
    blocking = Blocking(tmp_path, 0, waits_for="seen-5")
    with open_pool(tiny(actors=1, scorers=2), TinyModel(folder), blocking, seed=SEED) as pool:
        assert len(pool.sample(PROMPTS, SAMPLES)) == 24


@pytest.mark.verify
def test_a_task_that_costs_every_actor_ends_the_run_by_name(folder: str) -> None:
    with open_pool(tiny(), Fatal(folder, 24), SingleTurn(letters), seed=SEED) as pool:
        pool.submit(7, 0, PROMPTS, SAMPLES)
        with pytest.raises(
            CodexRayError, match=r"turn 1 of 4 sequences from number 16 of step 7 has cost 3 actors, .* died"
        ):
            pool.collect(7)


@pytest.mark.verify
def test_what_no_actor_can_do_ends_the_run_at_once(folder: str) -> None:
    with open_pool(tiny(), TinyModel(folder), SingleTurn(letters), seed=SEED) as pool:
        processes = pool.processes()
        with pytest.raises(CodexRayError, match="step 0 cannot be sampled: prompt 1 has 64 tokens"):
            pool.sample([Prompt([1] * 64, 0)], 1)
        assert pool.processes() == processes
        pool.begin()
        assert len(pool.sample(PROMPTS, 1)) == 6


@pytest.mark.verify
def test_actors_that_cannot_start_are_told(folder: str, tmp_path: Path) -> None:
    def refused(match: str, build: Any, **changes: Any) -> None:
        with pytest.raises(CodexRayError, match=match), open_pool(tiny(**changes), build, seed=1):
            pass

    refused(r"rollout actor \d cannot start: .*nowhere", FromFolder(str(tmp_path / "nowhere"), Device()))
    refused("cannot start: ZeroDivisionError", lambda: 1 // 0)
    refused("did not answer within 1 s while starting", lambda: time.sleep(60), start_seconds=1.0)
    # Each could be placed alone, and together they cannot.
    held = ray.remote(num_cpus=6)(_Idle).remote()
    ray.get(held.here.remote())
    refused("is there room for it in the cluster", TinyModel(folder), start_seconds=20.0, cpus_per_actor=2.0)
    ray.kill(held)


class _Idle:
    def here(self) -> None:
        pass


@pytest.mark.verify
def test_waits_for_a_step_end_and_say_how_far_it_is(folder: str) -> None:
    chosen = tiny(step_seconds=3.0)
    with open_pool(chosen, Slow(folder, 1.0), SingleTurn(letters), seed=SEED) as pool:
        pool.submit(0, 0, PROMPTS, SAMPLES)
        told: list[int] = []
        with pytest.raises(
            CodexRayError,
            match=r"waited 3 s for the rollouts of step 0 .*: step 0 has 0 of its 24 sequences, ",
        ):
            pool.collect(0, alive=lambda: told.append(1))
        assert len(told) >= 2
        with pytest.raises(CodexRayError, match="waited 3 s for the rollouts of step 1"):
            pool.collect(1)


@pytest.mark.verify
def test_a_lost_coordinator_takes_its_actors_along(folder: str) -> None:
    with open_pool(tiny(), Slow(folder, 0.2), SingleTurn(letters), seed=SEED) as pool:
        processes = pool.processes()
        pool.submit(0, 0, PROMPTS, SAMPLES)
        ray.kill(ray.get_actor(pool.name, namespace=NAMESPACE))
        with pytest.raises(CodexRayError, match=r"coordinator died|is gone"):
            pool.collect(0)
        wait_until_gone(processes)


DRIVER = """
import sys, time
from codex_ray.cluster.session import open_session
from codex_ray.rollout.environment import SingleTurn
from codex_ray.rollout.pool import open_pool
from tests.integration.rollouts import PROMPTS, SAMPLES, Slow, letters, tiny
from tests.integration.training import TWO_WORKERS

slow = Slow(sys.argv[1], 1.0)
with open_session(TWO_WORKERS), open_pool(tiny(), slow, SingleTurn(letters), seed=1) as pool:
    print(*pool.processes(), flush=True)
    pool.sample(PROMPTS, SAMPLES)
"""


@pytest.mark.verify
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_a_driver(folder: str, popen: Callable[..., Any], number: signal.Signals) -> None:
    driver = popen([sys.executable, "-c", DRIVER, folder], stdout=subprocess.PIPE, text=True)
    processes = [int(word) for word in driver.stdout.readline().split()]
    assert len(processes) == 3
    time.sleep(1)
    driver.send_signal(number)
    driver.wait(60)
    wait_until_gone(processes)
