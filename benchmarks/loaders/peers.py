"""The same rows as mosaicml-streaming and litdata have them, and their loaders as they are meant to be used.

Both shuffle, and give batches of int64 through their own data loader. Neither needs pictures, but
mosaicml-streaming imports torchvision, which is not there for every build of PyTorch: it gets empty modules.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from codex_ray.corpus.direct import RowReader
from codex_ray.corpus.manifest import Manifest

BLOCK_ROWS = 256  # read of the corpus at a time
CHUNK_BYTES = 64 * 2**20
SEED = 1234


def rows_of(corpus: Path) -> Iterator[NDArray[Any]]:
    """Yield the training rows of a corpus in the order in which they lie there."""
    manifest = Manifest.load(corpus)
    reader, count = RowReader(manifest, "train", 1), manifest.splits["train"].rows
    for start in range(0, count, BLOCK_ROWS):
        yield from reader.take(np.arange(start, min(start + BLOCK_ROWS, count)))


def write_streaming(corpus: Path, folder: Path) -> None:
    """Write the rows as mosaicml-streaming's shards."""
    streaming = import_streaming()
    length = Manifest.load(corpus).sequence_length
    columns = {"tokens": f"ndarray:uint16:{length}"}
    with streaming.MDSWriter(out=str(folder), columns=columns, size_limit=CHUNK_BYTES) as writer:
        for row in rows_of(corpus):
            writer.write({"tokens": np.asarray(row, dtype=np.uint16)})


def write_litdata(corpus: Path, folder: Path) -> None:
    """Write the rows as litdata's chunks of tokens."""
    import litdata

    litdata.optimize(
        fn=_tensors,
        inputs=[str(corpus)],
        output_dir=str(folder),
        chunk_bytes=CHUNK_BYTES,
        num_workers=1,
        item_loader=litdata.TokensLoader(block_size=Manifest.load(corpus).sequence_length),
        verbose=False,
    )


def _tensors(corpus: str) -> Iterator[torch.Tensor]:
    for row in rows_of(Path(corpus)):
        yield torch.from_numpy(np.asarray(row, dtype=np.uint16))


def open_streaming(folder: Path, batch_rows: int, workers: int, state: Any) -> Any:
    """Open mosaicml-streaming's loader, where ``state`` says if it is not None."""
    streaming = import_streaming()
    streaming.base.util.clean_stale_shared_memory()
    dataset = streaming.StreamingDataset(
        local=str(folder), shuffle=True, batch_size=batch_rows, shuffle_seed=SEED, num_canonical_nodes=1
    )
    loader = streaming.StreamingDataLoader(
        dataset, batch_size=batch_rows, num_workers=workers, drop_last=True
    )
    if state is not None:
        loader.load_state_dict(state)
    return loader


def open_litdata(folder: Path, length: int, batch_rows: int, workers: int, state: Any) -> Any:
    """Open litdata's loader, where ``state`` says if it is not None."""
    import litdata

    loader_of_items = litdata.TokensLoader(block_size=length)
    dataset = litdata.StreamingDataset(
        str(folder), item_loader=loader_of_items, shuffle=True, drop_last=True, seed=SEED
    )
    loader = litdata.StreamingDataLoader(dataset, batch_size=batch_rows, num_workers=workers, drop_last=True)
    if state is not None:
        loader.load_state_dict(state)
    return loader


def batch_of(item: Any) -> torch.Tensor:
    """Return a loader's batch as int64 [rows, length]."""
    tokens = item["tokens"] if isinstance(item, dict) else item
    return torch.as_tensor(tokens).to(torch.int64)


def import_streaming() -> Any:
    """Import mosaicml-streaming where torchvision is not to be had."""
    for name in ("", ".datasets", ".transforms", ".transforms.functional"):
        module: Any = types.ModuleType(f"torchvision{name}")
        module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
        module.VisionDataset, module.to_tensor = object, None
        sys.modules.setdefault(module.__name__, module)
    import streaming

    return streaming
