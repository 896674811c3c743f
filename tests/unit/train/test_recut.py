"""Parts laid end to end and cut anew."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from codex_ray.train.recut import cut


@given(length=st.integers(1, 200), old=st.integers(1, 7), new=st.integers(1, 7), align=st.integers(1, 5))
def test_every_number_stands_where_it_did_and_zeros_fill_the_end(
    length: int, old: int, new: int, align: int
) -> None:
    def size(world: int) -> int:
        return align * -(-length // (align * world))

    whole = torch.arange(1, length + 1, dtype=torch.float32)
    padded = torch.cat((whole, torch.full((size(old) * old - length,), -1.0)))
    parts = list(padded.split(size(old)))
    again = torch.cat([cut(parts, length, size(new), rank) for rank in range(new)])
    assert torch.equal(again[:length], whole)
    assert not again[length:].any()
