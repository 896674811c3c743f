"""Recomputing residual streams in blocks of sublayers (mHC section 4.3.2).

The streams before every sublayer are what training with hyper-connections keeps most of: N times the hidden
size each. Within a block only the first are kept; the others are made again in the backward pass, each by one
write from those before it, the sublayer's output and its writing matrix, which are kept anyway. The same
operation on the same numbers gives the same streams, bit for bit; no sublayer is computed twice.

Shape legend: B batch, S sequence, N streams, D hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .hyper_connections import Mixer, write_streams

Origin = tuple["StreamState", Tensor, Tensor]  # streams before, the sublayer's output, the writing matrix


def best_block(streams: int, sublayers: int) -> int:
    """Return the block length that needs least memory (mHC eq. 20): sqrt(N L / (N + 2))."""
    return max(1, round(math.sqrt(streams * sublayers / (streams + 2))))


class StreamState:
    """The streams before one sublayer: ``kept``, or what it takes to make them again."""

    def __init__(self, kept: Tensor | None = None, how: Origin | None = None) -> None:
        self.kept, self._how = kept, how
        self._again: Tensor | None = None

    def value(self, *, last: bool) -> Tensor:
        """Return the streams; the ``last`` to ask lets go of what was made again."""
        if self.kept is not None:
            return self.kept
        if self._again is None:
            assert self._how is not None
            before, output_BSD, writing = self._how
            with torch.no_grad():
                self._again = write_streams(before.value(last=False), output_BSD, writing)
        again = self._again
        if last:
            self._again = None
        return again


class StreamBlocks:
    """Follows one forward pass and decides which streams are kept.

    Args:
        block: sublayers per block.
        streams_BSND: the streams that the first sublayer reads.
    """

    def __init__(self, block: int, streams_BSND: Tensor) -> None:
        self._block = block
        self._passed = 0
        self._state = StreamState(kept=streams_BSND.detach())

    @contextmanager
    def saving(self, *, last: bool) -> Iterator[None]:
        """Keep a reference instead of streams that are saved for the backward pass inside.

        Args:
            last: whether the backward pass of what is inside is the last to use this sublayer's streams.
        """
        state = self._state

        def pack(saved: Tensor) -> Any:
            return state if saved.dim() == 4 else saved

        def unpack(packed: Any) -> Tensor:
            found: Tensor = packed.value(last=last) if isinstance(packed, StreamState) else packed
            return found

        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            yield

    def passed(self, streams_BSND: Tensor, output_BSD: Tensor, writing: Tensor) -> None:
        """Go on to the streams after a sublayer."""
        self._passed += 1
        if self._passed % self._block == 0:
            self._state = StreamState(kept=streams_BSND.detach())
        else:
            how = (self._state, output_BSD.detach(), writing.detach())
            self._state = StreamState(how=how)


def connect(
    mixer: Mixer, streams_BSND: Tensor, sublayer: Callable[[Tensor], Tensor], blocks: StreamBlocks | None
) -> Tensor:
    """Pass streams through a sublayer: read, compute, mix and write.

    Args:
        mixer: the sublayer's connection.
        streams_BSND: the streams.
        sublayer: maps [B, S, D] to the same shape.
        blocks: decides which streams are kept for the backward pass; None keeps all.
    """
    if blocks is None:
        u_BSD, writing, streams_BSND = mixer(streams_BSND)
        return write_streams(streams_BSND, sublayer(u_BSD), writing)
    with blocks.saving(last=True):
        u_BSD, writing, streams_BSND = mixer(streams_BSND)
    output_BSD = sublayer(u_BSD)
    with blocks.saving(last=False):
        streams_BSND = write_streams(streams_BSND, output_BSD, writing)
    blocks.passed(streams_BSND, output_BSD, writing)
    return streams_BSND
