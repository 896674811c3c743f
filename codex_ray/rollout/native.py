"""What a decoding step computes, compiled: ``native.cpp`` on a CPU.

For the few tokens of a step PyTorch's operations cost more to call than to compute. Where there is no C++
compiler they do the same, in ``decoder.py``, ``attention.py`` and ``mixers.py``. On processors with AVX-512
and its bfloat16 products a whole step's layers are one call, matrix products included.

Tensor names end in their shape: see these modules.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_LOG = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("native.cpp")
SOURCES = (SOURCE, SOURCE.with_name("products.h"))

# Sums may be taken in any order, the same for every row. Linked without OpenMP's library: the one that
# PyTorch has loaded shall be used, with its threads.
REORDERED = ("-fno-math-errno", "-fno-trapping-math", "-fassociative-math", "-fno-signed-zeros")
COMPILE = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-fopenmp", *REORDERED)
COMPILE_SECONDS = 120

_POINTER, _WHOLE, _REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class Step(ctypes.Structure):
    """What attention of one pass has in common for all layers; see ``Attention`` in the source."""

    held: object = None  # what the addresses are of

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


class Weights(ctypes.Structure):
    """A matrix in panels, as :class:`Panels` arranges it."""

    _fields_ = (("panels", _POINTER), ("bias", _POINTER), ("outputs", _WHOLE))


class Layer(ctypes.Structure):
    """A layer's weights, and where it keeps keys and values; see the source."""

    _fields_ = (
        *(("norms", _POINTER * 2), ("heads_norm", _POINTER)),
        *((name, Weights) for name in ("qkv", "output", "gate", "down")),
        *(("mixing", _POINTER * 2), ("kept", _POINTER)),
    )


PANEL = 32
"""Outputs of a panel."""

PLAIN, ADDED, GATED = range(3)
"""What becomes of a product: nothing; another tensor is added; swish of its gates times the rest."""


class Panels:
    """Weights in the order of ``products.h``; a copy.

    Args:
        weight_FD: of any linear map, its inputs a multiple of :func:`side_by_side`; ``bias_F``: of outputs.
        outputs: of the map, where the last rows are padding.
    """

    def __init__(self, weight_FD: Tensor, bias_F: Tensor | None, outputs: int | None = None) -> None:
        self.outputs, per = outputs or len(weight_FD), side_by_side(weight_FD.dtype)
        padding = (0, 0, 0, -len(weight_FD) % PANEL)
        padded_FD = functional.pad(weight_FD.detach(), padding)
        self.panels = padded_FD.view(-1, PANEL, weight_FD.shape[1] // per, per).transpose(1, 2).contiguous()
        self.bias = None if bias_F is None else functional.pad(bias_F.detach().float(), padding[2:])
        bias = None if self.bias is None else self.bias.data_ptr()
        self.given = Weights(self.panels.data_ptr(), bias, self.outputs)


def side_by_side(dtype: torch.dtype) -> int:
    """Inputs that one instruction takes together."""
    return 4 // dtype.itemsize


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
        self.products = bool(library.has_products())
        if self.products:
            self._multiply = function(
                *("multiply", _POINTER, ctypes.POINTER(Weights), _POINTER, _POINTER),
                *(_WHOLE, _WHOLE, threads, threads),
            )
            self._decode = function(
                *("decode", _POINTER, ctypes.POINTER(Layer), _WHOLE, ctypes.POINTER(Step)),
                *(_WHOLE, _WHOLE, _WHOLE, threads),
            )

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

    def multiply(
        self, x_RD: Tensor, panels: Panels, then: int = PLAIN, other_RF: Tensor | None = None
    ) -> Tensor:
        """Map by a matrix; see :data:`PLAIN`, and ``other_RF`` is what is added."""
        rows, size = x_RD.shape
        out_RF = x_RD.new_empty(rows, panels.outputs // 2 if then == GATED else panels.outputs)
        other = None if other_RF is None else other_RF.data_ptr()
        places = (x_RD.data_ptr(), panels.given, other, out_RF.data_ptr())
        self._multiply(*places, rows, size, then, torch.get_num_threads())
        return out_RF

    def decode(self, x: Tensor, layers: ctypes.Array[Layer], step: Step, inner: int) -> None:
        """Take one token of each row through the layers, in place: [R, D], or streams of it, [R, N, D]."""
        streams = x.shape[1] if x.dim() == 3 else 1
        sizes = (streams, x.shape[-1], inner)
        self._decode(x.data_ptr(), layers, len(layers), step, *sizes, torch.get_num_threads())

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


@cache
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
    key = hashlib.sha256(
        b"\n".join([*(one.read_bytes() for one in SOURCES), repr(COMPILE).encode(), target])
    ).hexdigest()[:20]
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
