"""How fast this machine multiplies matrices, and which precision it multiplies fastest.

The share of the peak that training reaches (MFU) is taken against a card's data sheet on CUDA and
against the measured rate elsewhere, where a data sheet says little about a shared core.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from codex_ray.errors import ConfigError

if TYPE_CHECKING:
    import torch

# Dense bfloat16 tensor-core FLOP/s with float32 accumulation, without structured sparsity (data
# sheets that print only the sparse figure are halved). The first name within the card's name counts.
DENSE_BFLOAT16 = (
    ("GB200", 2500e12),  # GB200 NVL72 data sheet: 5 PFLOP/s sparse per GPU
    ("B200", 2250e12),  # HGX B200 data sheet: 36 PFLOP/s sparse for eight
    ("H200 NVL", 835.5e12),  # H200 data sheet: 1671 sparse
    ("H200", 989.5e12),  # H200 data sheet: 1979 sparse
    ("H100 NVL", 835.5e12),  # H100 data sheet: 1671 sparse
    ("H100 PCIe", 756.5e12),  # H100 PCIe data sheet: 1513 sparse
    ("H100", 989.5e12),  # H100 data sheet, SXM: 1979 sparse
    ("A100", 312e12),  # A100 data sheet, PCIe and SXM
    ("L40S", 362.05e12),  # L40S data sheet
    ("L4", 121e12),  # L4 data sheet: 242 sparse
    ("RTX 4090", 165.2e12),  # Ada GPU architecture white paper, appendix A
    ("RTX 5090", 209.5e12),  # RTX Blackwell GPU architecture white paper, appendix A
)

# Words of a card's name that say it is less than the one in the data sheet.
CUT_DOWN = frozenset({"LAPTOP", "MIG", "D", "MAX"})

# A lower precision must be this much faster than float32 to be worth its rounding.
WORTHWHILE = 1.25


def measure_matmul(dtype: str, threads: int, seconds: float = 0.15, *, device: str = "cpu") -> float:
    """Measure the best rate of square matrix products in FLOP/s, two per multiply-add.

    Args:
        dtype: torch's name of the element type, such as ``bfloat16``.
        threads: CPU threads, as one training worker would use.
        seconds: about how long to measure; one product is timed at the least.
        device: ``cpu`` or a CUDA device.
    """
    import torch

    size = 4096 if device.startswith("cuda") else 512
    with _threads(threads), torch.inference_mode():
        generator = torch.Generator(device).manual_seed(0)
        # Of equal numbers a GPU multiplies more per second than of real data: it draws less power.
        left, right = (
            torch.rand(size, size, generator=generator, device=device).sub_(0.5).to(getattr(torch, dtype))
            for _ in range(2)
        )
        best, end = float("inf"), time.perf_counter() + seconds
        _timed(left, right)  # the first call chooses kernels and packs
        while best == float("inf") or time.perf_counter() < end:
            best = min(best, _timed(left, right))
    return 2 * size**3 / best


def choose_dtype(device: str, threads: int) -> tuple[str, dict[str, float]]:
    """Choose float32 or bfloat16, whichever this device multiplies clearly faster.

    float16 is never chosen: it needs loss scaling; it can be asked for.

    Returns:
        the name of the dtype, and the measured FLOP/s by name.
    """
    rates = {name: measure_matmul(name, threads, device=device) for name in ("float32", "bfloat16")}
    faster = rates["bfloat16"] >= WORTHWHILE * rates["float32"]
    return ("bfloat16" if faster else "float32"), rates


def peak_flops(device: str, dtype: str, threads: int, *, measured: float | None = None) -> tuple[float, str]:
    """Return one device's (or CPU worker's) peak FLOP/s and where the figure comes from.

    Args:
        device: ``cpu`` or a CUDA device.
        dtype: compute precision.
        threads: CPU threads of one worker.
        measured: a rate already measured for this device and dtype, to save the time.

    Raises:
        ConfigError: the device is CUDA and torch sees none.
    """
    if device.startswith("cuda"):
        import torch

        if not torch.cuda.is_available():
            raise ConfigError(
                f"device {device!r} needs an NVIDIA GPU and torch sees none here; set device=cpu"
            )
        card = torch.cuda.get_device_name(device)
        listed = data_sheet_flops(card)
        if listed is not None and dtype in ("bfloat16", "float16"):
            return listed, f"data sheet of {card}"
    if measured is None:
        measured = measure_matmul(dtype, threads, device=device)
    return measured, "measured matmul"


def data_sheet_flops(card: str) -> float | None:
    """Return the dense bfloat16 FLOP/s of a card by the name CUDA gives it; None if not listed."""
    words = card.upper().replace("-", " ").split()
    if CUT_DOWN.intersection(words):
        return None
    for name, flops in DENSE_BFLOAT16:
        if all(word in words for word in name.upper().split()):
            return flops
    return None


def _timed(left: torch.Tensor, right: torch.Tensor) -> float:
    import torch

    start = time.perf_counter()
    _ = left @ right
    if left.is_cuda:
        torch.cuda.synchronize(left.device)
    return time.perf_counter() - start


@contextmanager
def _threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
