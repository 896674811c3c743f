"""Settings of rollouts that cannot go together, and what follows from them."""

from __future__ import annotations

from typing import Any

import pytest

from codex_ray.config.rollout import Rollouts, refuse_rollouts
from codex_ray.errors import ConfigError


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"gpu_kind": "H100"}, r"rollout.gpu_kind=H100 .* give rollout.gpus_per_actor=1"),
        ({"gpus_per_actor": 2.0}, r"rollout.gpus_per_actor=2 is not possible"),
        ({"labels": {"zone": 1}}, r"rollout.labels.zone must be text, not 1"),
        ({"top_p": 0.0}, r"rollout.top_p=0 .* keep no token"),
        ({"min_p": 1.0}, r"rollout.min_p=1 keep no token"),
        ({"slots": 8, "task_sequences": 4}, r"rollout.task_sequences=4 never fills rollout.slots=8"),
        ({"sampler": "vllm"}, r"rollout.sampler=vllm samples on GPUs.* rollout.gpus_per_actor=0,"),
        (
            {"sampler": "vllm", "gpus_per_actor": 1.0, "temperature": 0.7},
            r"at temperature 1 from all tokens.* rollout.temperature=0.7",
        ),
        ({"stop": ["a", ""]}, r"rollout.stop holds an empty string"),
    ],
)
def test_what_cannot_be_right_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        refuse_rollouts(Rollouts(**changes))


def test_what_can_be_right_is_not() -> None:
    for chosen in (
        Rollouts(),
        Rollouts(gpus_per_actor=0.5, gpu_kind="H100", labels={"zone": "in(a,b)"}),
        Rollouts(sampler="vllm", gpus_per_actor=1.0),
        Rollouts(slots=8, task_sequences=8, stop=["="], top_p=0.5, min_p=0.1),
    ):
        refuse_rollouts(chosen)


def test_what_follows() -> None:
    assert Rollouts(slots=8).together == 8 and Rollouts(slots=8, task_sequences=20).together == 20
    threads = [Rollouts(cpus_per_actor=cpus).threads for cpus in (0.5, 1.0, 4.0)]
    assert threads == [1, 1, 4] and Rollouts(threads_per_actor=3).threads == 3
    chosen = Rollouts(actors=3, cpus_per_actor=2.0, scorers=4, cpus_per_scorer=0.5)
    assert chosen.cpus(scored=True) == 8.0 and chosen.cpus(scored=False) == 6.0
