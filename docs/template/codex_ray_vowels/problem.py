"""A problem to search, and what answers the turns of a rollout."""

from __future__ import annotations

from codex_ray.discover.problems.arithmetic import Arithmetic
from codex_ray.rollout.environment import SingleTurn


class Sums(Arithmetic):
    """codex_ray's smallest problem under another name; a problem of yours derives from Problem."""


class Patient(SingleTurn):
    """codex_ray's environment of one turn under another name; see Rollouts for what one may do."""
