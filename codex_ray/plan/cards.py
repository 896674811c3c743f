"""Kinds of accelerators: what their data sheets say, and how much of it training gets."""

from __future__ import annotations

from dataclasses import dataclass

from codex_ray.track.hardware import data_sheet_flops

# Shares of the data sheet that whole runs reach: products of matrices as large as a decoder's, passes over
# memory, and ring collectives. Assumed, not measured here for every card; docs/planning.md says what was.
PRODUCT_SHARE, MEMORY_SHARE, LINK_SHARE = 0.65, 0.75, 0.7

# What an eager operator costs the processor that launches it: a kernel cannot take less.
LAUNCH_SECONDS = 5e-6

# The CUDA context, cuBLAS workspaces and NCCL's buffers.
PROCESS_BYTES = 2 * 10**9

# Writing checkpoints: what a node's local NVMe or its share of a parallel file system takes.
DISK_BYTES_PER_SECOND = 2e9


@dataclass(frozen=True)
class Card:
    """One kind of accelerator in its usual node of eight.

    Attributes:
        name: as data sheets call it.
        memory: bytes.
        fp32: dense fp32 FLOP/s, without TF32, which nothing here turns on.
        bandwidth: of the memory, bytes/s.
        link: to the other cards of a node, bytes/s each way.
        network: to other nodes, bytes/s each way, per card.
        source: where the numbers are from.
        per_node: cards of a node.
    """

    name: str
    memory: float
    fp32: float
    bandwidth: float
    link: float
    network: float
    source: str
    per_node: int = 8

    @property
    def flops(self) -> float:
        """Dense bf16 FLOP/s with fp32 accumulation."""
        found = data_sheet_flops(self.name)
        assert found is not None
        return found

    def rate(self, dtype: str) -> float:
        """FLOP/s of products in a precision."""
        return self.fp32 if dtype == "float32" else self.flops


CARDS = {
    card.name: card
    for card in (
        Card("A100", 80e9, 19.5e12, 2.039e12, 300e9, 25e9, "A100 80GB SXM and DGX A100 data sheets"),
        Card("H100", 80e9, 67e12, 3.35e12, 450e9, 50e9, "H100 SXM and DGX H100 data sheets"),
        Card("H200", 141e9, 67e12, 4.8e12, 450e9, 50e9, "H200 SXM and DGX H200 data sheets"),
        Card("B200", 180e9, 75e12, 8e12, 900e9, 50e9, "DGX B200 data sheet, an eighth of it"),
    )
}
