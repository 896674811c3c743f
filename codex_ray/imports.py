"""Importing large libraries at the speed of reading them."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collection() -> Iterator[None]:
    """Leave garbage alone for the length of the block, for imports: they make objects that stay.

    With Ray, torch and Transformers loaded, a full collection takes a quarter of a second, and importing
    them would start several.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
