"""The training documents of a corpus, from its rows: the shards are all that is kept of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from codex_ray.corpus.direct import RowReader
from codex_ray.corpus.manifest import Manifest

if TYPE_CHECKING:
    from codex_ray.tokenizer import Tokenizer


def training_sequences(
    manifest: Manifest, tokenizer: Tokenizer, *, last_tokens: int | None = None
) -> Iterator[NDArray[Any]]:
    """Iterate over the training documents as ids, the beginning and end tokens included.

    Rows cut documents anywhere, so what follows the last full row is missing from the last one. Best-fit
    packing cuts documents longer than a row; their pieces come as documents of their own.

    Args:
        manifest: a loaded corpus.
        tokenizer: the corpus's.
        last_tokens: begin with the first document within about the last so many tokens; None is all.
    """
    info = manifest.split("train")
    reader = RowReader(manifest, "train", cached_groups=1)
    first_row = 0
    if last_tokens is not None:
        first_row = max(0, info.rows - last_tokens // manifest.sequence_length - 1)
    bos_id, eos_id, pad_id = (tokenizer.special_ids[name] for name in ("bos", "eos", "pad"))
    parts: list[NDArray[Any]] = []
    for group in info.row_groups():
        if group.stop <= first_row:
            continue
        rows = np.arange(group.start, group.stop, dtype=np.int64)
        ids = reader.take(rows).reshape(-1)
        if pad_id != eos_id:
            ids = ids[ids != pad_id]
        begins = ids == bos_id
        begins[1:] |= ids[:-1] == eos_id
        before, *documents = np.split(ids, np.flatnonzero(begins))
        if parts:
            parts.append(before)
        for document in documents:
            if parts:
                yield np.concatenate(parts)
            parts = [document]
    if parts:
        yield np.concatenate(parts)


def training_texts(
    manifest: Manifest, tokenizer: Tokenizer, *, last_tokens: int | None = None
) -> Iterator[str]:
    """Iterate over the training documents as text; arguments are those of :func:`training_sequences`."""
    for ids in training_sequences(manifest, tokenizer, last_tokens=last_tokens):
        first = 1 if ids[0] == tokenizer.special_ids["bos"] else 0
        yield tokenizer.decode(
            ids[first:-1].tolist() if ids[-1] == tokenizer.eos_id else ids[first:].tolist()
        )
