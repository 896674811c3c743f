"""Values on their way into a sandbox and out of it: JSON, with marks for what JSON has not.

What comes out was written by whoever wrote the code: it is read into plain values and nothing else, and never
by pickle. Tuples, sets, bytes, complex numbers, numbers that are not finite, dictionaries of other keys and
NumPy arrays keep their kind. Neither torch nor NumPy is imported here: the sandbox imports this file too.
"""

from __future__ import annotations

import base64
import json
import math
import sys
from typing import Any

MARK = "!"
DEEPEST = 100
_ARRAY_KINDS = "biufc"


def encode(value: Any) -> str:
    """Return a value as a line of JSON.

    Raises:
        TypeError: a part of it is of a kind that cannot be written.
        ValueError: it is nested too deeply, or holds itself.
    """
    return json.dumps(_marked(value, 0), allow_nan=False, separators=(",", ":"))


def _marked(value: Any, depth: int) -> Any:
    if depth > DEEPEST:
        raise ValueError(f"it is nested more than {DEEPEST} deep")
    kind = type(value)
    if value is None or kind in (bool, str, int):
        return value
    if kind is float:
        return value if math.isfinite(value) else {MARK: "float", "v": repr(value)}
    if kind is list:
        return [_marked(one, depth + 1) for one in value]
    if kind in (tuple, set, frozenset):
        return {MARK: kind.__name__, "v": [_marked(one, depth + 1) for one in value]}
    if kind is dict:
        if all(type(key) is str for key in value) and MARK not in value:
            return {key: _marked(one, depth + 1) for key, one in value.items()}
        pairs = [[_marked(key, depth + 1), _marked(one, depth + 1)] for key, one in value.items()]
        return {MARK: "dict", "v": pairs}
    if kind in (bytes, bytearray):
        return {MARK: "bytes", "v": base64.b64encode(value).decode()}
    if kind is complex:
        return {MARK: "complex", "v": [_marked(value.real, depth + 1), _marked(value.imag, depth + 1)]}
    return _marked_foreign(value, depth)


def _marked_foreign(value: Any, depth: int) -> Any:
    if "torch" in sys.modules and isinstance(value, sys.modules["torch"].Tensor):
        value = value.detach().cpu().numpy()
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic):
        return _marked(value.item(), depth + 1)
    if numpy is not None and isinstance(value, numpy.ndarray) and value.dtype.kind in _ARRAY_KINDS:
        data = base64.b64encode(numpy.ascontiguousarray(value).tobytes()).decode()
        return {MARK: "array", "dtype": value.dtype.str, "shape": list(value.shape), "v": data}
    kinds: tuple[Any, ...] = (int, float, str, list, tuple, dict)
    for kind in kinds:
        if isinstance(value, kind):  # of a class of its own, such as a named tuple
            return _marked(kind(value), depth + 1)
    raise TypeError(f"a {type(value).__name__} cannot leave the sandbox; return numbers, strings and lists")


def decode(line: str | bytes) -> Any:
    """Return the value of a line.

    Raises:
        ValueError: it is none, a number is infinite, a text is none, or it is nested too deeply.
    """
    try:
        return _unmarked(json.loads(line, parse_constant=_refuse), 0)
    except (RecursionError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"it is no value ({type(error).__name__}: {error})") from None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _unmarked(value: Any, depth: int) -> Any:
    if depth > 2 * DEEPEST:
        raise ValueError(f"it is nested more than {2 * DEEPEST} deep")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number is too large")
    if isinstance(value, str):
        value.encode()  # half of a surrogate pair could be written nowhere
    if isinstance(value, list):
        return [_unmarked(one, depth + 1) for one in value]
    if not isinstance(value, dict):
        return value
    if MARK not in value:
        return {_unmarked(key, depth): _unmarked(one, depth + 1) for key, one in value.items()}
    kind, held = value[MARK], value["v"]
    if kind == "array":
        return _array(value)
    if kind == "bytes":
        return base64.b64decode(held, validate=True)
    if kind == "float":
        return {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}[held]
    items = _unmarked(held, depth + 1)
    if kind == "complex":
        real, imaginary = items
        return complex(real, imaginary)
    if kind == "dict":
        return dict([(key, one) for key, one in items])
    return {"tuple": tuple, "set": set, "frozenset": frozenset}[kind](items)


def _array(value: dict[str, Any]) -> Any:
    import numpy as np

    kind = np.dtype(str(value["dtype"]))
    if kind.kind not in _ARRAY_KINDS:
        raise ValueError(f"an array of {kind} is none of numbers")
    return (
        np.frombuffer(base64.b64decode(value["v"], validate=True), dtype=kind).reshape(value["shape"]).copy()
    )


def plain(value: Any) -> Any:
    """Return a value with arrays, tuples and sets as lists."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return value
