"""What the live display shows of a step."""

from __future__ import annotations

import io

from codex_ray.track.progress import Progress
from codex_ray.train.display import Display


def test_a_search_shows_what_it_has_found_and_how_it_learns() -> None:
    errors = io.StringIO()
    progress = Progress("plain", errors=errors, clock=iter(range(0, 1000, 20)).__next__)
    with progress.stage("discover", total=12, unit="steps"):
        Display(progress).rows(
            [
                {
                    "step": 4, "loss": -244.7, "tokens_per_second": 4836.0, "discover/best": 0.4081,
                    "discover/gap": 0.0272, "discover/valid_share": 0.3867, "discover/beta": 1.493,
                    "entropy": 1.863, "reference_kl": 0.1342, "rollout/idle_ratio": 0.69,
                    "trainer/idle_ratio": 0.55, "discover/states": 70.0,
                }
            ]
        )  # fmt: skip
    shown = errors.getvalue()
    for told in (
        "best 0.4081",
        "gap 0.0272",
        "valid 0.3867",
        "beta 1.493",
        "KL 0.1342",
        "samplers idle 0.69",
    ):
        assert told in shown
    assert "states" not in shown
