from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from codex_ray.errors import CodexRayError
from codex_ray.files import sha256_of
from codex_ray.train.packed import unpack, write_packed
from codex_ray.train.snapshot import HostCopies


class Scaler:
    """An object such as engines put into their states."""

    def __init__(self) -> None:
        self.scale, self.history = 2.0, [torch.ones(2)]


def contents() -> dict[str, Any]:
    flat = torch.arange(100_000, dtype=torch.float32)
    return {
        "flat": flat,
        "view": flat[10:20].view(2, 5),
        "half": torch.arange(7).bfloat16(),
        "transposed": torch.arange(6).view(2, 3).T,
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "names": OrderedDict(a=[1, 2, {"b": (3,)}]),
        "scaler": Scaler(),
        "empty": torch.zeros(0),
    }


def test_a_copy_is_what_was_there_and_stays_so() -> None:
    live = contents()
    copy = HostCopies().take(live)
    live["flat"].zero_()
    live["scaler"].scale = 0.0
    live["scaler"].history[0].zero_()
    live["names"]["a"][2]["b"] = ()
    live["parameter"].data.zero_()
    made, before = copy(), contents()
    for name in ("flat", "view", "half", "transposed", "empty"):
        assert torch.equal(made[name], before[name]) and made[name].dtype == before[name].dtype
        assert made[name].stride() == before[name].stride()
    assert made["names"] == before["names"] and isinstance(made["names"], OrderedDict)
    assert made["scaler"].scale == 2.0 and torch.equal(made["scaler"].history[0], torch.ones(2))
    assert isinstance(made["parameter"], torch.nn.Parameter) and torch.equal(made["parameter"], torch.ones(3))
    made["flat"][10] = -1.0
    assert made["view"][0, 0] == -1.0  # they share their numbers, and the file holds them once


def test_memory_is_used_again_and_never_before_it_is_free() -> None:
    copies = HostCopies()
    first = copies.take({"a": torch.ones(1000), "b": torch.zeros(1000)})
    second = copies.take(torch.full((1000,), 3.0))
    assert torch.equal(first()["a"], torch.ones(1000)) and torch.equal(first()["b"], torch.zeros(1000))
    used = {first()["a"].data_ptr(), first()["b"].data_ptr(), second().data_ptr()}
    copies.reuse()
    third = [copies.take(torch.full((1000,), float(number))) for number in range(3)]
    assert {copy().data_ptr() for copy in third} == used
    assert [copy()[0].item() for copy in third] == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_files_are_hashed_as_they_are_on_disk_and_come_back(compression: str, tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    digest = write_packed(contents(), tmp_path / "engine/a.pt", compression)
    assert digest == sha256_of(tmp_path / "engine/a.pt")
    plain = tmp_path
    if compression != "none":
        assert (tmp_path / "engine/a.pt").stat().st_size < 300_000
        plain = tmp_path / "plain"
        unpack(tmp_path, plain, ["engine/a.pt"], compression)
    loaded = torch.load(plain / "engine/a.pt", weights_only=False, mmap=True)
    assert torch.equal(loaded["flat"], contents()["flat"])
    torch.save(contents(), tmp_path / "direct.pt")
    assert abs((plain / "engine/a.pt").stat().st_size - (tmp_path / "direct.pt").stat().st_size) < 5000


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_disk_that_is_full_is_told_as_the_system_says_it(compression: str, tmp_path: Path) -> None:
    (tmp_path / "a.pt").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write_packed(contents(), tmp_path / "a.pt", compression)
    assert not list(tmp_path.iterdir())


def test_unpacking_onto_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    write_packed(contents(), tmp_path / "a.pt", "zstd")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "a.pt").symlink_to("/dev/full")
    with pytest.raises(CodexRayError, match="the disk is full while writing"):
        unpack(tmp_path, tmp_path / "plain", ["a.pt"], "zstd")
