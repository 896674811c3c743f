"""Several updates from one batch: parts that follow from numbers alone, and rows that survive a restart."""

from __future__ import annotations

import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_ray.config.check import check
from codex_ray.config.common import Cluster
from codex_ray.config.finetune import Finetune, OnPolicy
from codex_ray.config.train import Training
from codex_ray.errors import ConfigError
from codex_ray.train.objectives.sequences import Sequences
from codex_ray.train.updates import NUMBER, Kept, Updates, digest, digest_of


@settings(deadline=None)
@given(
    minibatches=st.integers(1, 5),
    epochs=st.integers(1, 3),
    rows=st.integers(0, 40),
    ranks=st.integers(1, 4),
    batch=st.integers(0, 9),
)
def test_every_epoch_takes_every_row_once_whatever_the_ranks(
    minibatches: int, epochs: int, rows: int, ranks: int, batch: int
) -> None:
    updates, numbers = Updates(7, epochs, minibatches), list(range(rows))
    for epoch in range(epochs):
        taken: list[int] = []
        for part in range(minibatches):
            update = epoch * minibatches + part
            whole = updates.part(batch, update, numbers)
            shares = [numbers[rows * r // ranks : rows * (r + 1) // ranks] for r in range(ranks)]
            by_rank = [[share[at] for at in updates.part(batch, update, share)] for share in shares]
            assert [number for share in by_rank for number in share] == whole
            assert abs(len(whole) - rows / minibatches) < 1 or rows % minibatches
            taken += whole
        assert sorted(taken) == numbers


def test_parts_are_drawn_anew_for_every_epoch_and_batch() -> None:
    updates, numbers = Updates(7, 2, 4), list(range(64))
    drawn = [updates.part(batch, update, numbers) for batch in (0, 1) for update in range(8)]
    assert len({tuple(one) for one in drawn}) == 16


def rows(*ids: list[int], first: int = 0) -> Sequences:
    masks = [[False] + [True] * (len(one) - 1) for one in ids]
    known = [[float(token) for token in one] for one in ids]
    numbers = [float(first + place) for place in range(len(ids))]
    return Sequences.of(ids, masks, tokens={"old_logprobs": known}, rows={NUMBER: numbers})


IDS = [[1, 5], [1, 6, 7, 8], [1, 9, 3], [1, 4, 4, 4, 4]]


def test_what_was_split_is_put_together_again() -> None:
    whole = rows(*IDS)
    kept = Kept.of(3, [*whole.split(6), whole.blank(2)])
    assert kept.numbers == [0, 1, 2, 3]
    assert torch.equal(kept.rows.input_ids_BS, whole.input_ids_BS)
    assert torch.equal(kept.rows.at("old_logprobs"), whole.at("old_logprobs"))
    assert digest_of(kept.rows) == sum(digest(number, ids) for number, ids in enumerate(IDS))
    assert Kept.of(0, [whole.blank(1)]).numbers == []


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_rows_go_on_with_other_ranks(ranks: int) -> None:
    states = []
    for kept in (Kept.of(3, [rows(*IDS[:2])]), Kept.of(3, [rows(*IDS[2:], first=2)])):
        stream = io.BytesIO()
        torch.save(kept.state(), stream)
        stream.seek(0)
        states.append(torch.load(stream, weights_only=True))
    found = [Kept.from_states(states, rank, ranks) for rank in range(ranks)]
    assert [number for one in found for number in one.numbers] == [0, 1, 2, 3]
    ids = [ids[:length] for one in found for ids, length in zip(
        one.rows.input_ids_BS.tolist(), one.rows.lengths_B.tolist(), strict=True
    )]  # fmt: skip
    assert ids == IDS and all(one.batch == 3 for one in found)


def test_updates_that_cannot_be_are_refused() -> None:
    def refused(match: str, method: str = "grpo", train: Training | None = None, **own: int) -> None:
        chosen = Finetune(
            method=method,
            on_policy=OnPolicy(**own),
            train=train or Training(steps=4),
            cluster=Cluster(workers=2),
        )
        with pytest.raises(ConfigError, match=match):
            check(chosen)

    refused("minibatches=33 leaves parts without .* 64 answers for 2 workers; .* at most 32", minibatches=33)
    refused("epochs=2 is for method=grpo and ppo", method="sdft", epochs=2)
    refused(
        "epochs=2 cannot go with train.spike_factor=3", epochs=2, train=Training(steps=4, spike_factor=3.0)
    )
