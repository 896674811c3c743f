"""Opening a stream of rows for one rank: the same rows in the same order, however they travel."""

from __future__ import annotations

from pathlib import Path

from codex_ray.corpus.direct import DirectStream, OrderedReader, Share, StepRows
from codex_ray.corpus.manifest import Manifest
from codex_ray.corpus.ray_stream import RayStream
from codex_ray.errors import CodexRayError, ConfigError

__all__ = ["StepRows", "open_stream"]


def open_stream(
    corpus: Path | str,
    split: str,
    *,
    kind: str,
    seed: int,
    first_step: int,
    steps: int,
    batch_rows: int,
    rank: int,
    world_size: int,
    shift: int = 0,
) -> DirectStream | RayStream:
    """Open the rows of optimizer steps [first_step, first_step + steps) for one rank.

    Step s is the positions [s * batch_rows, (s+1) * batch_rows) of the split's seeded order, which runs
    over endless epochs; rank r has the r-th contiguous share. Any start costs the same.

    Args:
        corpus: corpus folder.
        split: a split with rows.
        kind: ``ray`` (prefetched through Ray Data; Ray must be initialised) or ``direct`` (read here).
        seed: seed of the order.
        first_step: first optimizer step wanted; 0 is the beginning of the run.
        steps: how many steps follow.
        batch_rows: rows in the global batch.
        rank: this rank.
        world_size: ranks that share the batch.
        shift: added to all positions, for runs whose batches were of other sizes before; may be negative.

    Returns:
        An iterator of :class:`StepRows`, one per step; ``close()`` frees everything it holds.

    Raises:
        ConfigError: the batch cannot be shared evenly, or the kind or rank is impossible.
        CodexRayError: the corpus is missing or damaged, the split has no rows, or Ray is not running.
    """
    if batch_rows < 1 or batch_rows % world_size:
        raise ConfigError(
            f"a batch of {batch_rows} rows cannot be shared evenly by {world_size} workers; use a multiple"
        )
    if not 0 <= rank < world_size or first_step < 0 or first_step * batch_rows + shift < 0:
        raise ConfigError(f"rank {rank} of {world_size} at step {first_step} cannot be")
    manifest = Manifest.load(corpus)
    folder = Path(corpus).resolve()
    share = Share(folder, split, manifest.fingerprint, seed, batch_rows, rank, world_size, shift)
    stop_step = first_step + steps
    manifest.split(split)
    if kind == "direct":
        return DirectStream(share, OrderedReader(manifest, split, seed), first_step, stop_step)
    if kind != "ray":
        raise ConfigError(f"stream={kind!r} is unknown; give ray or direct")
    import ray

    if not ray.is_initialized():
        raise CodexRayError("stream=ray needs a Ray session in this process; open one or use stream=direct")
    return RayStream(share, manifest, first_step, stop_step)
