"""``jobs list``, ``follow``, ``stop`` and ``resume``: jobs by the name of the run that they drive.

``--submit`` writes verb, run and folder into a job's metadata, which Ray keeps as long as the head lives.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from codex_ray.cluster.jobs import answer, connect, follow, start
from codex_ray.config.jobs import FollowJob, ListJobs, ResumeJob, StopJob
from codex_ray.errors import CodexRayError, nearest
from codex_ray.track.progress import Progress, duration

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

COLUMNS = ("run", "verb", "state", "age", "job")
RESUMED = ("pretrain", "finetune", "discover")  # what has runs that can go on


def list_verb(settings: ListJobs) -> list[dict[str, str]]:
    """Print the jobs of a cluster, the newest first.

    Raises:
        CodexRayError: the cluster does not answer.
    """
    found = [_listed(job) for job in _jobs(connect(settings.address), settings.address)]
    with Progress("off") as shown:
        shown.table(f"jobs at {settings.address}", [tuple(one.values()) for one in found], COLUMNS)
    return found


def follow_verb(settings: FollowJob) -> None:
    """Print a job's log until it ends.

    Raises:
        CodexRayError: there is no such job, it failed, or the cluster is lost.
    """
    client = connect(settings.address)
    job = find_job(client, settings.name, settings.address)
    _ended_well(settings.name, follow(client, job.submission_id or "", settings.address))


def stop_verb(settings: StopJob) -> None:
    """Stop a job and wait for its end.

    Raises:
        CodexRayError: there is no such job, it has ended, or does not end in time.
    """
    client = connect(settings.address)
    job = find_job(client, settings.name, settings.address)
    identity = job.submission_id or ""
    if job.status.is_terminal():
        raise CodexRayError(
            f"job {identity} of run {settings.name} has ended ({job.status.value}); there is nothing to stop"
        )
    answer(settings.address, lambda: client.stop_job(identity))
    deadline = time.monotonic() + settings.seconds
    while not answer(settings.address, lambda: client.get_job_status(identity)).is_terminal():
        if time.monotonic() > deadline:
            raise CodexRayError(
                f"job {identity} of run {settings.name} was asked to stop and has not ended within "
                f"{settings.seconds:g} s; look again with `codex-ray jobs list {settings.address}`"
            )
        time.sleep(0.5)
    print(f"job {identity} of run {settings.name} has stopped")


def resume_verb(settings: ResumeJob) -> None:
    """Go on with a run by its name, or follow the job that still drives it.

    Raises:
        CodexRayError: no job drove such a run, its verb has nothing to go on with, or it fails.
    """
    client = connect(settings.address)
    job = find_job(client, settings.name, settings.address)
    told = job.metadata or {}
    if job.status.is_terminal():
        if told.get("verb") not in RESUMED or not told.get("folder"):
            raise CodexRayError(
                f"job {job.submission_id} ran {told.get('verb', 'no verb of codex-ray')}, which does not go "
                f"on by name; {', '.join(RESUMED)} do, where name=NAME was given; submit it again"
            )
        words = ["--config", f"{told['folder']}/config.yaml", "resume=must"]
        identity = start(client, settings.address, told["verb"], words, None, told)
    else:
        identity = job.submission_id or ""
    _ended_well(settings.name, follow(client, identity, settings.address))


def find_job(client: JobSubmissionClient, name: str, address: str) -> JobDetails:
    """Return the newest job that drives a run, or that has this id.

    Raises:
        CodexRayError: there is none; the sentence names the nearest.
    """
    jobs = _jobs(client, address)
    for job in jobs:
        if name in (_run_of(job), job.submission_id):
            return job
    known = dict.fromkeys(filter(None, map(_run_of, jobs)))
    raise CodexRayError(
        f"no job at {address} drives a run {name}{nearest(name, known)}; `codex-ray jobs list {address}` "
        "names those that are known"
    )


def _jobs(client: JobSubmissionClient, address: str) -> list[JobDetails]:
    found = [job for job in answer(address, client.list_jobs) if job.submission_id]
    return sorted(found, key=lambda job: -(job.start_time or 0))


def _run_of(job: JobDetails) -> str:
    return str((job.metadata or {}).get("name", ""))


def _listed(job: JobDetails) -> dict[str, str]:
    told: dict[str, Any] = job.metadata or {}
    age = duration(max(0.0, time.time() - (job.start_time or 0) / 1000))
    return {
        "run": _run_of(job),
        "verb": told.get("verb", ""),
        "state": job.status.value.lower(),
        "age": age,
        "job": job.submission_id or "",
    }


def _ended_well(name: str, status: int) -> None:
    if status:
        raise CodexRayError(f"the job of run {name} ended with status {status}; its log is above")
