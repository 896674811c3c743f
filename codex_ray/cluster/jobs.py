"""``--submit``: the same run as a Ray job, its log followed and its exit status returned.

From a checkout the job gets a copy of the working tree and runs ``python jobs/VERB.py WORDS``; from an
installed wheel it gets the package and runs ``python -m codex_ray VERB WORDS``. Ray adds the token that
RAY_AUTH_MODE and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) name to every request.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from codex_ray.errors import CodexRayError
from codex_ray.plugins import carried

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

Result = TypeVar("Result")


class DriverLost(CodexRayError):
    """A job's driver was killed, or its node is gone; what it wrote is there.

    Args:
        job: its id.
        code: how the driver ended, as Ray knows it; None where its node is gone.
    """

    def __init__(self, job: str, code: int | None) -> None:
        super().__init__(
            f"the driver of job {job} is lost ({'its node is gone' if code is None else f'status {code}'})"
        )
        self.exit_code = 1 if code is None else code if code >= 0 else 128 - code


UPLOAD_LIMIT_BYTES = 100 * 2**20
ANSWER_SECONDS = 60.0
UPLOAD_SECONDS = 600.0
SILENCE_SECONDS = 20.0  # a log this quiet makes us ask whether the job still runs

# Folders that never travel: history, environments, caches, and what runs wrote.
_CACHES = {"__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"}
_LEFT_BEHIND = {".git", ".venv", "venv", "node_modules", "build", "dist", "_build"} | _CACHES
_LEFT_BEHIND_AT_TOP = {"corpus", "runs", "quickstart", "mlruns"}
_MARKS_OF_OUTPUT = ("manifest.json", "metrics.jsonl", "model.safetensors")
_CONFIG_NAME = "submitted.yaml"
_DIED = "JOB_SUPERVISOR_ACTOR_DIED"  # Ray's name for it
AGENT_SECONDS = 30  # for the first node's agent to report
STOP_SECONDS = 120  # for a driver that is asked to stop, and writes its last checkpoint; Ray gives 3


def submit(
    address: str, verb: str, words: Sequence[str], config_file: Path | str | None, settings: Any
) -> int:
    """Run a verb as a Ray job, print its log as it grows, and return its exit status.

    Args:
        address: Ray's dashboard, such as ``http://127.0.0.1:8265``.
        verb: name of the verb.
        words: its words, as on the command line.
        config_file: a ``--config`` file of this machine, sent along.
        settings: the resolved settings, for warnings and for where the driver may run.

    Raises:
        CodexRayError: the cluster does not answer, refuses the job, or is lost while following it.
    """
    for name in ("runs", "output", "folder"):
        value = getattr(settings, name, None)
        if isinstance(value, str) and not Path(value).is_absolute() and "://" not in value:
            print(
                f"codex-ray: note: {name}={value} lies in the job's own copy of the code, which Ray may "
                "delete; give an absolute path that all nodes share to keep what it writes",
                file=sys.stderr,
            )
    told = _metadata(verb, settings)
    client, tries = connect(address), _tries(settings)
    while True:
        job = start(client, address, verb, words, config_file, told)
        try:
            return follow(client, job, address)
        except DriverLost as error:
            if not tries:
                raise
            tries -= 1
            print(f"codex-ray: {error}; its run {told['name']} goes on in another", file=sys.stderr)


def start(
    client: JobSubmissionClient,
    address: str,
    verb: str,
    words: Sequence[str],
    config_file: Path | str | None,
    told: Mapping[str, str],
) -> str:
    """Ship the code, start a job and return its id.

    Args:
        client: of the cluster; ``address``: its own.
        verb, words, config_file: what runs, as on the command line.
        told: the job's metadata; ``driver_labels`` says where its driver may run.

    Raises:
        CodexRayError: the cluster does not answer, or refuses the job.
    """
    with tempfile.TemporaryDirectory(prefix="codex_ray_job_") as folder:
        entrypoint, runtime_env = _package(Path(folder), verb, words, config_file)
        job: str = _within(
            UPLOAD_SECONDS,
            address,
            lambda: _with_an_agent(
                lambda: client.submit_job(
                    entrypoint=entrypoint,
                    runtime_env=runtime_env,
                    metadata=dict(told),
                    entrypoint_label_selector=json.loads(told.get("driver_labels", "null")),
                )
            ),
        )
    print(f"codex-ray: job {job} runs at {address}: {entrypoint}", file=sys.stderr)
    return job


def _with_an_agent(submit: Callable[[], str]) -> str:
    """Submit again while no node's agent, which starts jobs, has reported to a head that has just begun."""
    deadline = time.monotonic() + AGENT_SECONDS
    while True:
        try:
            return submit()
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(1)


def _metadata(verb: str, settings: Any) -> dict[str, str]:
    """Return what a job says of itself: verb, run, the run's folder, and where its driver may be."""
    name, runs = getattr(settings, "name", None), getattr(settings, "runs", None)
    output = getattr(settings, "output", None)
    told = {"verb": verb}
    if name:
        told["name"] = str(name)
        told |= {"folder": str(Path(runs) / name)} if isinstance(runs, str) else {}
    elif isinstance(output, str):
        told["name"] = Path(output).name
    told["job_name"] = " ".join(filter(None, [verb, told.get("name")]))  # what Ray's dashboard calls it
    labels = dict(getattr(getattr(settings, "cluster", None), "driver_labels", {}))
    return told | ({"driver_labels": json.dumps(labels)} if labels else {})


def _tries(settings: Any) -> int:
    """Return how often a run whose driver is lost goes on in another job: where it may be resumed by name."""
    if getattr(settings, "resume", "never") == "never" or not getattr(settings, "name", None):
        return 0
    return int(getattr(getattr(settings, "cluster", None), "max_failures", 0))


def follow(client: JobSubmissionClient, job: str, address: str) -> int:
    """Print a job's log until it ends and return its exit status; Ctrl-C leaves the job running.

    Raises:
        CodexRayError: the cluster is lost, or the job failed before its script ran.
    """
    try:
        asyncio.run(_print_log(client, job, address))
        return _exit_status(client, job, address)
    except KeyboardInterrupt:
        print(
            f"\ncodex-ray: job {job} goes on; stop it with `ray job stop --address {address} {job}`, "
            f"follow it with `ray job logs --follow --address {address} {job}`",
            file=sys.stderr,
        )
        return 130


def connect(address: str) -> JobSubmissionClient:
    """Return a client of the jobs server at ``address``.

    Raises:
        CodexRayError: nothing answers there, or it refuses the token.
    """
    from ray.job_submission import JobSubmissionClient

    # Ray lets these variables override the address it is given; the one on the command line must win.
    names = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
    set_aside = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        # Without a scheme Ray would take it for a GCS address, which is another port.
        url = address if "://" in address or address == "auto" else f"http://{address}"
        return _within(ANSWER_SECONDS, address, lambda: JobSubmissionClient(url))
    finally:
        os.environ.update(set_aside)


def _package(
    folder: Path, verb: str, words: Sequence[str], config_file: Path | str | None
) -> tuple[str, dict[str, Any]]:
    """Lay out what the job needs under ``folder``; return its command and runtime environment."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent
    runtime_env: dict[str, Any] = {
        "working_dir": str(folder),
        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)} | carried(),
    }
    script, *second = verb.split(" ")
    if (checkout / "jobs" / f"{script}.py").is_file():
        _copy_checkout(checkout, folder)
        command = ["python", f"jobs/{script}.py", *second, *words]
    else:
        runtime_env["py_modules"] = [str(package)]
        command = ["python", "-m", "codex_ray", script, *second, *words]
    if config_file is not None:
        shutil.copyfile(config_file, folder / _CONFIG_NAME)
        command += ["--config", _CONFIG_NAME]
    return shlex.join(command), runtime_env


def _copy_checkout(checkout: Path, folder: Path) -> None:
    files = list(_travelling(checkout))
    total = sum(size for _, size in files)
    if total > UPLOAD_LIMIT_BYTES:
        entries: dict[str, int] = {}
        for path, size in files:
            top = path.relative_to(checkout).parts[0]
            entries[top] = entries.get(top, 0) + size
        biggest = sorted(entries.items(), key=lambda item: -item[1])[:5]
        listed = ", ".join(f"{name} {size / 2**20:.0f} MiB" for name, size in biggest)
        raise CodexRayError(
            f"{checkout} holds {total / 2**20:.0f} MiB, more than the {UPLOAD_LIMIT_BYTES // 2**20} MiB that "
            f"travel with a job ({listed}); move data out of it and name it by an absolute path"
        )
    for path, _ in files:
        target = folder / path.relative_to(checkout)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)


def _travelling(checkout: Path) -> Iterator[tuple[Path, int]]:
    for root, folders, names in os.walk(checkout):
        if any(mark in names for mark in _MARKS_OF_OUTPUT):
            folders.clear()
            continue
        left = _LEFT_BEHIND | _LEFT_BEHIND_AT_TOP if Path(root) == checkout else _LEFT_BEHIND
        folders[:] = sorted(name for name in folders if name not in left and not name.endswith(".egg-info"))
        for name in names:
            path = Path(root) / name
            if path.is_file():
                yield path, path.stat().st_size


async def _print_log(client: JobSubmissionClient, job: str, address: str) -> None:
    """Print the job's log until it ends; a lost connection is taken up where it broke."""
    import aiohttp

    printed = 0
    last_contact = time.monotonic()
    while True:
        sent = 0  # a new connection sends the log from its beginning
        try:
            async for chunk in _chunks(client, job, address):
                fresh = chunk[max(0, printed - sent) :]
                sent += len(chunk)
                printed = max(printed, sent)
                print(fresh, end="", flush=True)
                last_contact = time.monotonic()
            return
        except (RuntimeError, OSError, aiohttp.ClientError) as error:
            if time.monotonic() - last_contact > ANSWER_SECONDS:
                raise CodexRayError(
                    f"contact with job {job} at {address} is lost ({error}); it may go on, "
                    f"look with `ray job status --address {address} {job}`"
                ) from error
            await asyncio.sleep(1.0)


async def _chunks(client: JobSubmissionClient, job: str, address: str) -> Any:
    """Yield pieces of the log as they come; asks after the job when none does for a while."""
    log = client.tail_job_logs(job)
    following: asyncio.Future[str] = asyncio.ensure_future(anext(log))
    try:
        while True:
            done, _ = await asyncio.wait({following}, timeout=SILENCE_SECONDS)
            if not done:
                status = await asyncio.to_thread(_status, client, job, address)
                if status.is_terminal():
                    return
                continue
            try:
                yield following.result()
            except StopAsyncIteration:
                return
            following = asyncio.ensure_future(anext(log))
    finally:
        following.cancel()


def _status(client: JobSubmissionClient, job: str, address: str) -> Any:
    return _within(ANSWER_SECONDS, address, lambda: client.get_job_status(job))


def _exit_status(client: JobSubmissionClient, job: str, address: str) -> int:
    """Return the finished job's exit status: the driver's own where Ray knows it, 130 when stopped."""
    deadline = time.monotonic() + ANSWER_SECONDS
    while not (status := _status(client, job, address)).is_terminal():
        if time.monotonic() > deadline:
            raise CodexRayError(
                f"the log of job {job} ended but Ray says {status.value} after {ANSWER_SECONDS:.0f} s; "
                f"look with `ray job status --address {address} {job}`"
            )
        time.sleep(0.5)
    if status.value == "SUCCEEDED":
        return 0
    if status.value == "STOPPED":
        return 130
    details = _within(ANSWER_SECONDS, address, lambda: client.get_job_info(job))
    code = details.driver_exit_code
    if details.error_type == _DIED or (code is not None and (code < 0 or code == 128 + signal.SIGKILL)):
        raise DriverLost(job, code)
    if code is None:
        raise CodexRayError(f"job {job} failed before its script ran: {details.message}")
    return int(code) or 1


def answer(address: str, call: Callable[[], Result]) -> Result:
    """Ask the cluster something, and wait for a minute at the most.

    Raises:
        CodexRayError: it does not answer, or refuses.
    """
    return _within(ANSWER_SECONDS, address, call)


def _within(seconds: float, address: str, call: Callable[[], Result]) -> Result:
    """Run one request to the cluster with a deadline, which Ray's client lacks."""
    future: Future[Result] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        return future.result(timeout=seconds)
    except TimeoutError:
        raise CodexRayError(
            f"{address} does not answer within {seconds:.0f} s; is it Ray's dashboard?"
        ) from None
    except Exception as error:
        raise CodexRayError(_reason(address, error)) from error


def _reason(address: str, error: Exception) -> str:
    from ray.exceptions import AuthenticationError

    if isinstance(error, AuthenticationError):
        return (
            f"Ray at {address} refuses the token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the "
            "cluster's token file"
        )
    if isinstance(error, ConnectionError):
        return f"nothing answers at {address}; give the address of Ray's dashboard, such as http://127.0.0.1:8265"
    return f"Ray at {address} refuses the job: {' '.join(str(error).split())}"
