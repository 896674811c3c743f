from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_ray.corpus.duplicates.hashes import open_part, write_part
from codex_ray.errors import CodexRayError


@settings(deadline=None, max_examples=60)
@given(contents=st.lists(st.integers(0, 5), max_size=20), width=st.sampled_from([None, 1, 6]))
def test_a_part_gives_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, contents: list[int], width: int | None
) -> None:
    random = np.random.default_rng(len(contents))
    kinds = random.integers(0, 256, (6, 32), dtype=np.uint8)
    kinds[1, :31], kinds[2, :8] = kinds[0, :31], kinds[0, :8]  # alike in their leading bits
    digests = kinds[contents]
    signatures = None if width is None else random.integers(0, 2**32, (len(contents), width), dtype=np.uint32)
    path = tmp_path_factory.mktemp("parts") / "part"
    write_part(path, digests, signatures)
    part = open_part(path)
    assert part.documents == len(contents)
    leading = [int.from_bytes(digest[:8].tobytes(), "big") for digest in digests]
    assert part.leading.tolist() == sorted(leading[place] for place in part.places)
    whole = [leading[place] for place in part.places] == part.leading.tolist()
    assert whole
    assert np.array_equal(part.rest, digests[part.places, 8:])
    first = {kind: place for place, kind in reversed(list(enumerate(contents)))}
    assert sorted(part.places.tolist()) == sorted(first.values())
    repeats = [[place, first[kind]] for place, kind in enumerate(contents) if place != first[kind]]
    assert sorted(part.repeats.tolist()) == repeats
    if signatures is None:
        assert part.signatures is None
    else:
        assert part.signatures is not None
        assert np.array_equal(part.signatures, signatures)


def test_equal_parts_are_equal_files(tmp_path: Path) -> None:
    digests = np.random.default_rng(1).integers(0, 256, (50, 32), dtype=np.uint8)
    signatures = np.arange(50 * 4, dtype=np.uint32).reshape(50, 4)
    for name in ("a", "b"):
        write_part(tmp_path / name, digests, signatures)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_part_cut_short_is_one_sentence(tmp_path: Path, share: float) -> None:
    path = tmp_path / "part"
    write_part(path, np.zeros((40, 32), np.uint8), np.ones((40, 9), np.uint32))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(CodexRayError, match=r"part are damaged \(.*\); remove the file"):
        open_part(path)


def test_a_part_that_is_gone_or_something_else_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CodexRayError, match="gone do not exist; run prepare again"):
        open_part(tmp_path / "gone")
    (tmp_path / "text").write_text("no hashes at all, " * 20)
    with pytest.raises(CodexRayError, match="text are damaged"):
        open_part(tmp_path / "text")


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CodexRayError, match="cannot be written"):
        write_part(tmp_path / "file" / "part", np.zeros((1, 32), np.uint8), None)
