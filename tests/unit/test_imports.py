"""Imports without collections."""

from __future__ import annotations

import gc

from codex_ray.imports import no_collection


def test_collection_goes_on_as_it_was() -> None:
    assert gc.isenabled()
    with no_collection():
        assert not gc.isenabled()
        with no_collection():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
