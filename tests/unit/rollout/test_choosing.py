"""Drawing one token per row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from codex_ray.errors import ConfigError
from codex_ray.rollout import choosing
from codex_ray.rollout.choosing import sample
from codex_ray.rollout.sampling import Sampling, row_seeds

LOGITS = arrays.arrays(np.float32, (4, 9), elements=st.floats(-30, 30, width=32))


def frequencies(logits: list[float], settings: Sampling, draws: int = 4000) -> list[float]:
    """Share of each token when the unit interval is gone through evenly."""
    uniforms = [(draw + 0.5) / draws for draw in range(draws)]
    tokens, _ = sample(torch.tensor(logits).expand(draws, -1), uniforms, settings)
    return (torch.bincount(tokens, minlength=len(logits)) / draws).tolist()


def test_draws_follow_the_softmax() -> None:
    logits = [0.0, 1.0, 2.0, -torch.inf]
    expected = torch.tensor(logits).softmax(-1).tolist()
    assert frequencies(logits, Sampling()) == pytest.approx(expected, abs=1e-3)


def test_temperature_divides_the_logits() -> None:
    expected = (torch.tensor([0.0, 1.0, 2.0]) / 0.5).softmax(-1).tolist()
    assert frequencies([0.0, 1.0, 2.0], Sampling(temperature=0.5)) == pytest.approx(expected, abs=1e-3)


def test_a_tiny_temperature_is_greedy_and_stays_finite() -> None:
    assert frequencies([5.0, 40.0, 39.0], Sampling(temperature=1e-300), 10) == [0, 1, 0]


def test_top_k_keeps_the_likeliest_and_renormalises() -> None:
    expected = [0.0, *torch.tensor([1.0, 2.0]).softmax(-1).tolist()]
    assert frequencies([0.0, 1.0, 2.0], Sampling(top_k=2)) == pytest.approx(expected, abs=1e-3)
    assert frequencies([0.0, 1.0, 2.0], Sampling(top_k=99)) == pytest.approx(
        torch.tensor([0.0, 1.0, 2.0]).softmax(-1).tolist(), abs=1e-3
    )


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [
        (0.4, [0, 1, 0, 0]),  # the first alone reaches it
        (0.5, [0, 1, 0, 0]),
        (0.51, [0, 5 / 8, 0, 3 / 8]),
        (0.85, [0, 5 / 9.5, 1.5 / 9.5, 3 / 9.5]),
        (1e-9, [0, 1, 0, 0]),
    ],
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, expected: list[float]) -> None:
    logits = np.log([0.05, 0.5, 0.15, 0.3]).tolist()
    assert frequencies(logits, Sampling(top_p=top_p)) == pytest.approx(expected, abs=1e-3)


def test_top_p_counts_what_top_k_left() -> None:
    logits = np.log([0.1, 0.5, 0.1, 0.3]).tolist()
    assert frequencies(logits, Sampling(top_k=2, top_p=0.62)) == [0, 1, 0, 0]


@given(
    arrays.arrays(np.float32, (4, 30), elements=st.floats(-9, 9, width=32), unique=True),
    st.floats(0.01, 0.999),
)
def test_a_shortlist_draws_what_a_whole_sort_draws(logits: np.ndarray, top_p: float) -> None:
    """Some rows' nucleus is within the shortlist, others' is not."""
    uniforms = [0.1, 0.5, 0.9, 0.99]
    with pytest.MonkeyPatch.context() as patch:
        drawn = []
        for size in (1, 6, 30):
            patch.setattr(choosing, "SHORTLIST", size)
            drawn.append(sample(torch.from_numpy(logits), uniforms, Sampling(0.8, top_p=top_p))[0].tolist())
    assert drawn[0] == drawn[1] == drawn[2]


@given(LOGITS, st.lists(st.floats(0, 1, exclude_max=True), min_size=4, max_size=4))
def test_a_row_does_not_depend_on_its_batch(logits: np.ndarray, uniforms: list[float]) -> None:
    together = torch.from_numpy(logits)
    for settings in (Sampling(), Sampling(0.7, top_p=0.9), Sampling(1.3, top_k=4), Sampling(0)):
        alone = [
            sample(together[row : row + 1], uniforms[row : row + 1], settings)[0].item() for row in range(4)
        ]
        assert sample(together, uniforms, settings)[0].tolist() == alone


@given(LOGITS, st.sampled_from([0.0, 0.5, np.nextafter(1, 0)]))
def test_a_banned_token_is_never_drawn(logits: np.ndarray, uniform: float) -> None:
    banned = torch.from_numpy(logits).clone()
    banned[:, [0, 4, 8]] = -torch.inf
    for settings in (Sampling(), Sampling(0.7, top_p=0.9), Sampling(1.3, top_k=4), Sampling(0)):
        assert not set(sample(banned, [uniform] * 4, settings)[0].tolist()) & {0, 4, 8}


@pytest.mark.parametrize("size", [127, 128, 1000])
def test_a_large_vocabulary_is_drawn_block_by_block_as_in_one_go(size: int) -> None:
    logits = torch.randn(1, size, generator=torch.Generator().manual_seed(1)) * 3
    logits[0, 200:400] = -torch.inf  # whole blocks of nothing
    uniforms = [(draw + 0.5) / 5000 for draw in range(5000)] + [0.0, float(np.nextafter(1, 0))]
    cumulative = logits[0].double().softmax(-1).cumsum(-1)
    expected = torch.searchsorted(cumulative, torch.tensor(uniforms, dtype=torch.float64), right=True)
    tokens, logprobs = sample(logits.expand(len(uniforms), -1), uniforms, Sampling())
    assert (tokens != expected.clamp(max=size - 1)).sum() <= 3  # rounding, at a boundary
    assert torch.allclose(logprobs, logits[0].log_softmax(-1)[tokens], atol=1e-5)


def test_row_seeds_do_not_depend_on_the_number_of_rows() -> None:
    assert row_seeds(5, 3) == row_seeds(5, 7)[:3]
    assert len({*row_seeds(5, 50), *row_seeds(6, 50)}) == 100


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0.0}]
)
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Sampling(**wrong)  # type: ignore[arg-type]
