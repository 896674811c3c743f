"""What a decoding step computes between its matrix products, compiled: ``native.cpp`` on a CPU.

For the few tokens of a step PyTorch's operations cost more to call than to compute. Where there is no C++
compiler they do the same, in ``decoder.py``, ``attention.py`` and ``mixers.py``.

Tensor names end in their shape: see these modules.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_LOG = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("native.cpp")

# Sums may be taken in any order, the same for every row. Linked without OpenMP's library: the one that
# PyTorch has loaded shall be used, with its threads.
REORDERED = ("-fno-math-errno", "-fno-trapping-math", "-fassociative-math", "-fno-signed-zeros")
COMPILE = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-fopenmp", *REORDERED)
COMPILE_SECONDS = 120

_POINTER, _WHOLE, _REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class Step(ctypes.Structure):
    """What attention of one pass has in common for all layers; see ``Attention`` in the source."""

    _fields_ = (
        *((name, _WHOLE) for name in ("tokens", "rows", "heads", "groups", "size", "page")),
        *((name, _WHOLE) for name in ("values", "longest", "paired", "threads")),
        *((name, _REAL) for name in ("scaling", "eps")),
        *((name, _POINTER) for name in ("lines", "lengths", "tables", "cosine", "sine")),
    )


class Mixing(ctypes.Structure):
    """One sublayer's hyper-connection; see the source."""

    _fields_ = (
        *((name, _WHOLE) for name in ("streams", "size", "logits", "permutations", "iterations")),
        *((name, _REAL) for name in ("eps", "norm_eps")),
        *((name, _POINTER) for name in ("phi", "bias", "gate", "matrices")),
    )


class Kernels:
    """The library for numbers of one precision, float32 or bfloat16; all tensors are contiguous."""

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype) -> None:
        def function(name: str, *kinds: Any) -> Callable[..., None]:
            found = library[f"{name}_{str(dtype).removeprefix('torch.')}"]
            found.argtypes, found.restype = kinds, None
            return found

        three, threads = (_POINTER,) * 3, ctypes.c_int
        self._norm = function("norm", *three, _WHOLE, _WHOLE, _REAL, threads)
        self._attend = function("attend", *three, _POINTER, ctypes.POINTER(Step))
        self._read = function("read", *three, _POINTER, _WHOLE, _REAL, ctypes.POINTER(Mixing), threads)
        self._write = function("write", *three, _POINTER, *(_WHOLE,) * 3, threads)
        self._choose = function("choose", *three, _WHOLE, _POINTER, _POINTER, _WHOLE, _WHOLE, threads)

    def norm(self, x_RD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        """RMSNorm over the last dimension; the weight is fp32."""
        out_RD = torch.empty_like(x_RD)
        places = [one.data_ptr() for one in (x_RD, weight_D, out_RD)]
        self._norm(*places, *x_RD.shape, eps, torch.get_num_threads())
        return out_RD

    def attend(
        self, qkv_MAE: Tensor, kept: Tensor, norms_PE: Tensor | None, out_MF: Tensor, step: Step
    ) -> None:
        """Normalise and turn queries and keys in place, keep keys and values, and attend for the rows."""
        norms = None if norms_PE is None else norms_PE.data_ptr()
        self._attend(qkv_MAE.data_ptr(), kept.data_ptr(), norms, out_MF.data_ptr(), step)

    def read(
        self, streams_RND: Tensor, weight_D: Tensor, eps: float, mixing: Mixing
    ) -> tuple[Tensor, Tensor]:
        """Return a sublayer's normalised input, [R, D], and the writing matrix, [R, N, N+1], fp32."""
        rows, n, size = streams_RND.shape
        read_RD = streams_RND.new_empty(rows, size)
        writing_RNM = weight_D.new_empty(rows, n, n + 1)
        places = [one.data_ptr() for one in (streams_RND, weight_D, read_RD, writing_RNM)]
        self._read(*places, rows, eps, mixing, torch.get_num_threads())
        return read_RD, writing_RNM

    def write(self, streams_RND: Tensor, output_RD: Tensor, writing_RNM: Tensor) -> Tensor:
        """Mix the streams and add a sublayer's output."""
        out_RND = torch.empty_like(streams_RND)
        places = [one.data_ptr() for one in (streams_RND, output_RD, writing_RNM, out_RND)]
        self._write(*places, *streams_RND.shape, torch.get_num_threads())
        return out_RND

    def choose(
        self, logits_RV: Tensor, uniforms: Sequence[float], banned: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw a token of each row from all that are not banned, by its number in [0, 1).

        Returns:
            ids, [R], and logs of their probability: of all tokens, and of those not banned, [R].
        """
        uniforms_R = torch.tensor(uniforms, dtype=torch.float64)
        tokens_R = torch.empty(len(uniforms), dtype=torch.int64)
        figures_2R = torch.empty(2, len(uniforms))
        given = [one.data_ptr() for one in (logits_RV, uniforms_R, banned)]
        made = [one.data_ptr() for one in (tokens_R, figures_2R)]
        self._choose(*given, len(banned), *made, *logits_RV.shape, torch.get_num_threads())
        return tokens_R, figures_2R[0], figures_2R[1]


@functools.cache
def kernels(dtype: torch.dtype) -> Kernels | None:
    """Return the kernels for a precision, compiled if they have not been; None where they cannot be had."""
    if dtype not in (torch.float32, torch.bfloat16):
        return None
    try:
        return Kernels(ctypes.CDLL(str(_library())), dtype)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # RuntimeError: there is no home
        reason = (getattr(error, "stderr", None) or str(error).encode()).decode(errors="replace")
        _LOG.info("the sampler does without compiled kernels: %s", reason.strip()[-300:])
        return None


def _library() -> Path:
    """Return the library for this machine's processor and compiler, compiled at its first use."""
    compiler = shlex.split(os.environ.get("CXX") or "c++")
    target = _run([*compiler, "-march=native", "-dM", "-E", "-x", "c++", os.devnull])
    key = hashlib.sha256(b"\n".join([SOURCE.read_bytes(), repr(COMPILE).encode(), target])).hexdigest()[:20]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "codex_ray"
    library = folder / f"native-{key}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as name:
            part, whole = Path(name) / "native.o", Path(name) / "native.so"
            _run([*compiler, *COMPILE, "-c", str(SOURCE), "-o", str(part)])
            _run([*compiler, "-shared", str(part), "-o", str(whole)])
            whole.replace(library)
    return library


def _run(command: list[str]) -> bytes:
    return subprocess.run(command, check=True, capture_output=True, timeout=COMPILE_SECONDS).stdout
