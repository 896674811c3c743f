"""Read rows by one loader in a fresh process and print what it took, as JSON.

    python -m benchmarks.loaders.reader LOADER FOLDER --rank R --ranks N --start SHARE --seconds S

Importing, and starting Ray, are not in the time to the first batch: opening the loader is.
"""

from __future__ import annotations

import argparse
import json
import pickle
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

BATCH_ROWS = 8  # of a rank
SEED = 1234


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("loader", choices=("direct", "ray", "streaming", "litdata"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0, help="processes of a peer's loader")
    parser.add_argument("--start", type=float, default=0.0, help="share of the epoch that was read before")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--save", type=float, default=None, help="save a peer's state at this share, and end")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with ExitStack() as stack:
        if arguments.loader == "ray":
            from codex_ray.cluster.session import open_session
            from codex_ray.config.common import Cluster

            stack.enter_context(open_session(Cluster(logical_cpus=8)))
        print(json.dumps(read(arguments)))


def read(arguments: argparse.Namespace) -> dict[str, float]:
    """Open the loader, and read for some seconds."""
    peer = arguments.loader in ("streaming", "litdata")
    if peer:  # imported before the clock starts
        from benchmarks.loaders import peers

        peers.import_streaming()
        import litdata  # noqa: F401
    else:
        import codex_ray.corpus.stream  # noqa: F401
    began = time.perf_counter()
    loader, batches = _peer(arguments) if peer else (None, _own(arguments))
    first = next(batches)
    seconds_to_first = time.perf_counter() - began
    if arguments.save is not None:
        _save(arguments, loader, batches)
        return {}
    tokens, began = 0, time.perf_counter()
    for batch in batches:
        tokens += batch.numel()
        if time.perf_counter() - began > arguments.seconds:
            break
    seconds = time.perf_counter() - began
    assert first.dtype == torch.int64 and first.shape[0] == BATCH_ROWS
    return {"first_batch_seconds": seconds_to_first, "tokens_per_second": tokens / seconds}


def _own(arguments: argparse.Namespace) -> Iterator[torch.Tensor]:
    from codex_ray.corpus.manifest import Manifest
    from codex_ray.corpus.stream import open_stream

    rows = Manifest.load(arguments.folder / "corpus").splits["train"].rows
    batch_rows = BATCH_ROWS * arguments.ranks
    stream = open_stream(
        arguments.folder / "corpus",
        "train",
        kind=arguments.loader,
        seed=SEED,
        first_step=int(arguments.start * rows / batch_rows),
        steps=10**9,
        batch_rows=batch_rows,
        rank=arguments.rank,
        world_size=arguments.ranks,
    )
    try:
        for step in stream:
            yield torch.from_numpy(step.tokens.astype(np.int64))
    finally:
        stream.close()


def _peer(arguments: argparse.Namespace) -> tuple[Any, Iterator[torch.Tensor]]:
    from benchmarks.loaders import peers
    from codex_ray.corpus.manifest import Manifest

    state_file = arguments.folder / f"{arguments.loader}.state"
    state = pickle.loads(state_file.read_bytes()) if arguments.start else None
    folder = arguments.folder / arguments.loader
    if arguments.loader == "streaming":
        loader = peers.open_streaming(folder, BATCH_ROWS, arguments.workers, state)
    else:
        length = Manifest.load(arguments.folder / "corpus").sequence_length
        loader = peers.open_litdata(folder, length, BATCH_ROWS, arguments.workers, state)

    def batches() -> Iterator[torch.Tensor]:
        while True:  # epoch after epoch
            for item in loader:
                yield peers.batch_of(item)

    return loader, batches()


def _save(arguments: argparse.Namespace, loader: Any, batches: Iterator[torch.Tensor]) -> None:
    from codex_ray.corpus.manifest import Manifest

    rows = Manifest.load(arguments.folder / "corpus").splits["train"].rows
    for _ in range(int(arguments.save * rows / BATCH_ROWS) - 1):
        next(batches)
    (arguments.folder / f"{arguments.loader}.state").write_bytes(pickle.dumps(loader.state_dict()))


if __name__ == "__main__":
    main()
