"""Which split a document falls into: a function of its content and the seed alone.

So equal texts are never in two splits, and a document keeps its split whatever is added to the corpus,
in whatever order. ``tests/golden/splits.json`` pins the choice.
"""

from __future__ import annotations

import hashlib

from codex_ray.config.corpus import Split


def share_of(content_sha256: bytes, seed: int) -> float:
    """Map a document to [0, 1), evenly: the first 53 bits of the hash of seed and content hash."""
    digest = hashlib.sha256(f"split {seed} ".encode() + content_sha256).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def split_of(content_sha256: bytes, settings: Split, seed: int) -> str:
    """Name the split of a document, given the SHA-256 of its UTF-8 text."""
    share = share_of(content_sha256, seed)
    if share < settings.validation:
        return "validation"
    return "test" if share < settings.validation + settings.test else "train"
