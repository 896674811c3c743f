"""How often to write checkpoints, and what share of the time a run then makes progress.

Failures come at random, on average every M seconds; writing a checkpoint takes d; after a failure it takes R
until steps are done again, and what was done since the last checkpoint is lost.

Sources: Young 1974 (Communications of the ACM 17(9), p. 530); Daly 2006 (Future Generation Computer Systems
22(3), p. 303).
"""

from __future__ import annotations

import math


def young_interval(write: float, between_failures: float) -> float:
    """Return the seconds of work between two checkpoints, first order: sqrt(2 d M) (Young 1974)."""
    return math.sqrt(2.0 * write * between_failures)


def daly_interval(write: float, between_failures: float) -> float:
    """Return the seconds of work between two checkpoints, higher order (Daly 2006, eq. 37).

    sqrt(2 d M) (1 + sqrt(d / 2M) / 3 + (d / 2M) / 9) - d, and M where writing takes 2 M and more.
    """
    share = write / (2.0 * between_failures)
    if share >= 1.0:
        return between_failures
    first_order = young_interval(write, between_failures)
    return first_order * (1.0 + math.sqrt(share) / 3.0 + share / 9.0) - write


def goodput(interval: float, write: float, between_failures: float, recovery: float) -> float:
    """Return the share of the time in which a run makes progress that stays.

    The expected time for an interval of work t is M e^(R/M) (e^((t + d)/M) - 1) (Daly 2006, eq. 20).

    Args:
        interval: seconds of work between two checkpoints.
        write: seconds that a checkpoint holds training up.
        between_failures: mean seconds between failures of the whole run.
        recovery: seconds from a failure to the next step.
    """
    per_failure = (interval + write) / between_failures
    if per_failure + recovery / between_failures > 700.0:
        return 0.0  # e^700 is the end of the numbers: such a run never gets anywhere
    expected = between_failures * math.exp(recovery / between_failures) * math.expm1(per_failure)
    return interval / expected
