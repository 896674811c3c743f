"""Settings of the verbs that look at submitted jobs, stop them and go on with them."""

from __future__ import annotations

from dataclasses import dataclass

from codex_ray.config.fields import setting

_DASHBOARD = "http://127.0.0.1:8265"
_ADDRESS = "Ray's dashboard"
_NAME = "name of the run that the job drives, or the job's own id"


@dataclass(frozen=True)
class ListJobs:
    """List the jobs of a cluster."""

    address: str = setting(_DASHBOARD, help=_ADDRESS)


@dataclass(frozen=True)
class FollowJob:
    """Print a job's log until it ends."""

    name: str = setting(help=_NAME)
    address: str = setting(_DASHBOARD, help=_ADDRESS)


@dataclass(frozen=True)
class StopJob:
    """Stop a job."""

    name: str = setting(help=_NAME)
    address: str = setting(_DASHBOARD, help=_ADDRESS)
    seconds: float = setting(150.0, minimum=1.0, help="longest wait for its end")


@dataclass(frozen=True)
class ResumeJob:
    """Go on with the run of a job that has ended."""

    name: str = setting(help=_NAME)
    address: str = setting(_DASHBOARD, help=_ADDRESS)
