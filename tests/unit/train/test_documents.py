from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from codex_ray.model import IGNORED
from codex_ray.train.documents import Documents
from codex_ray.train.objectives.next_token import NextToken
from tests.unit.model.small import build, stir

X = IGNORED
OURS = {"begin_id": 1, "end_id": 2, "pad_id": 3}
NO_BEGINNING = {"begin_id": None, "end_id": 2, "pad_id": 2}
ONE_TOKEN = {"begin_id": 2, "end_id": 2, "pad_id": 2}  # as GPT-2's tokenizer has


@pytest.mark.parametrize(
    ("ids", "row", "labels", "positions"),
    [
        (OURS, [8, 2, 1, 9, 2, 1, 7, 7], [X, 2, X, 9, 2, X, 7, 7], [0, 1, 0, 1, 2, 0, 1, 2]),
        (OURS, [1, 8, 2, 1, 2, 3, 3, 3], [X, 8, 2, X, 2, X, X, X], [0, 1, 2, 0, 1, 0, 1, 2]),
        (OURS, [8, 3, 3, 9, 2, 1, 8, 3], [X, 3, 3, 9, 2, X, 8, X], [0, 1, 2, 3, 4, 0, 1, 0]),
        (OURS, [3, 3, 3, 3], [X, X, X, X], [0, 1, 2, 3]),
        (NO_BEGINNING, [8, 2, 9, 9, 2, 7], [X, 2, X, 9, 2, X], [0, 1, 0, 1, 2, 0]),
        (NO_BEGINNING, [8, 2, 9, 2, 2, 2], [X, 2, X, 2, X, X], [0, 1, 0, 1, 0, 1]),
        (NO_BEGINNING, [8, 9, 9, 2], [X, 9, 9, 2], [0, 1, 2, 3]),
        (ONE_TOKEN, [2, 8, 2, 2, 9, 2], [X, 8, 2, X, 9, 2], [0, 1, 2, 0, 1, 2]),
        (ONE_TOKEN, [8, 2, 2, 9, 2, 2], [X, 2, X, 9, 2, X], [0, 1, 0, 1, 2, 0]),
        (ONE_TOKEN, [2, 8, 2, 2, 2, 2], [X, 8, 2, X, X, X], [0, 1, 2, 0, 1, 2]),
    ],
)
def test_documents_are_found_in_the_tokens(
    ids: dict[str, int | None], row: list[int], labels: list[int], positions: list[int]
) -> None:
    documents = Documents(separate=True, **ids)  # type: ignore[arg-type]
    rows = torch.tensor([row])
    assert documents.labels(rows).tolist() == [labels]
    found = documents.positions(rows)
    assert found is not None
    assert found.tolist() == [positions]


def test_joined_rows_lose_only_their_padding() -> None:
    joined = Documents(separate=False, begin_id=1, end_id=2, pad_id=3)
    rows = torch.tensor([[8, 2, 1, 9, 2, 1, 7, 7], [1, 8, 2, 1, 2, 3, 3, 3]])
    assert joined.labels(rows).tolist() == [[X, 2, 1, 9, 2, 1, 7, 7], [X, 8, 2, 1, 2, X, X, X]]
    assert joined.positions(rows) is None
    assert NextToken(joined).weight(rows) == 11
    assert NextToken(joined).weight(rows[:1]) == NextToken().weight(rows[:1]) == 7


texts = st.lists(st.lists(st.integers(4, 60), max_size=9), min_size=1, max_size=8)


@given(
    held=texts,
    padding=st.integers(0, 5),
    cut=st.integers(0, 8),
    kind=st.sampled_from([OURS, NO_BEGINNING, ONE_TOKEN]),
)
def test_any_row_of_documents_comes_apart(
    held: list[list[int]], padding: int, cut: int, kind: dict[str, int | None]
) -> None:
    documents = Documents(separate=True, **kind)  # type: ignore[arg-type]
    head = [] if documents.begin_id is None else [documents.begin_id]
    filled = [text or [5] for text in held]
    parts = [[*head, *text, documents.end_id] for text in filled]
    parts[0] = parts[0][min(cut, len(parts[0]) - 2) :]  # its beginning is in another row
    row = [token for part in parts for token in part] + [documents.pad_id] * padding
    expected = [place for part in parts for place in range(len(part))]
    positions = documents.positions(torch.tensor([row]))
    assert positions is not None
    assert positions[0, : len(expected)].tolist() == expected
    assert positions[0, len(expected) :].tolist() == list(range(padding))
    labels = documents.labels(torch.tensor([row]))[0].tolist()
    assert labels == [token for part in parts for token in [X, *part[1:]]] + [X] * padding


@pytest.mark.parametrize("separate", [True, False])
@pytest.mark.parametrize(("workers", "micro_rows"), [(1, 1), (2, 3), (3, 2), (6, 1)])
def test_the_global_mean_is_the_same_however_rows_are_shared_out(
    separate: bool, workers: int, micro_rows: int
) -> None:
    documents = Documents(separate=separate, begin_id=1, end_id=2, pad_id=3)
    objective, model = NextToken(documents), stir(build("mhc"))
    rows = torch.randint(1, 9, (6, 24), generator=torch.Generator().manual_seed(5))
    rows[3, 10:] = 3
    rows[4] = 3  # a row of nothing
    shares = [share.split(micro_rows) for share in rows.chunk(workers)]
    total = sum(objective.weight(micro) for share in shares for micro in share)
    assert total == objective.weight(rows)
    whole = objective.loss(model, rows, total)
    parts = sum(objective.loss(model, micro, total) for share in shares for micro in share)
    torch.testing.assert_close(parts, whole)
    assert len({objective.weight(row[None]) for row in rows}) > 2  # or the division would hide mistakes
