"""What the folders of a sweep are called."""

from __future__ import annotations

TRIALS = "trials"  # folder of the trials' run folders
EXPERIMENT = "experiment"  # folder of Ray Tune's own state
NEVER_MEASURED = "never measured"  # in the reason of a trial whose lines have no such figure


def trial_name(number: int) -> str:
    """Name of a trial's run folder."""
    return f"trial_{number:04d}"
