"""A run that loses a worker or a node every 20 to 40 seconds loses nothing else."""

from __future__ import annotations

import pytest

from benchmarks.soak import soak


@pytest.mark.cluster
@pytest.mark.verify
@pytest.mark.timeout(2 * 3600 + 600)
def test_500_steps_of_losses_end_as_without_and_leave_nothing() -> None:
    figures, extra = soak(steps=500, seed=2)
    print({name: figure.value for name, figure in figures.items()}, extra)
    assert figures["soak_kills"].value >= 5  # type: ignore[operator]
    assert figures["soak_recoveries"].value >= 5  # type: ignore[operator]
    assert not [name for name, figure in figures.items() if figure.reached is False]
