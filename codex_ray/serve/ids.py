"""Random numbers that are no secrets.

The system's own would let go of Python's lock each time, which an engine's thread beside then keeps for
milliseconds.
"""

from __future__ import annotations

import random
import secrets

_RANDOM = random.Random(secrets.randbits(128))


def random_bits(bits: int) -> int:
    """A number of so many bits, below which no secret may rest."""
    return _RANDOM.getrandbits(bits)


def random_hex(digits: int) -> str:
    """A name of so many hexadecimal digits."""
    return f"{_RANDOM.getrandbits(4 * digits):0{digits}x}"
