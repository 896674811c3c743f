"""Joining a Ray cluster, or starting an embedded one, with token authentication either way.

Ray counts CPUs logically: embedded Ray is told it has more than the machine, so that training
workers, which hold theirs for the whole run, never starve the data tasks that feed them.
"""

from __future__ import annotations

import importlib.metadata
import logging
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from codex_ray.config.common import Cluster
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.plugins import carried, shared

# Read by Ray's train controller in this process before fit(): poll often, so that small runs end
# promptly; find hung workers in a minute instead of ten; skip Ray's own copy of every print.
TRAIN_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
}
# Embedded Ray shares the cores with training, so it keeps only the processes that a run needs: its
# one node is never drained before the driver goes, and workers with nothing to do end after a second.
# Only for the length of a session, as all of these: the next may be of another kind.
EMBEDDED_ENVIRONMENT = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_num_workers_soft_limit": "0",
    "RAY_prestart_worker_first_driver": "0",
    # Ray starts workers at niceness 15, where any ordinary process beside takes most of their core.
    "RAY_worker_niceness": "0",
}
# Without a dashboard nobody reads Ray's metrics; and their exporter leaves a thread behind for each session
# of a process, which went on exporting into the next and once aborted it (Ray 2.60).
UNWATCHED_ENVIRONMENT = {"RAY_enable_open_telemetry": "0", "RAY_enable_metrics_collection": "0"}
# Read inside the workers.
WORKER_ENVIRONMENT = {
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "3",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_WAIT_POLICY": "PASSIVE",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
DATA_CPUS = 4  # logical CPUs left to Ray Data beside the training workers


@contextmanager
def open_session(cluster: Cluster, *, more_cpus: float = 0.0) -> Iterator[dict[str, float]]:
    """Join or start Ray for the length of the block; yields the cluster's total resources.

    Embedded Ray counts ``more_cpus`` beside those of workers and data, where their number is not set.

    ``cluster.address`` or RAY_ADDRESS names a running cluster. Without either, Ray is started in
    this process's care and ended with the block. Inside an open session the block joins it.

    Raises:
        CodexRayError: the cluster does not answer, or embedded Ray cannot start.
    """
    import ray

    if ray.is_initialized():
        yield ray.cluster_resources()
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray reads this while it starts: a process of ours must never be relaunched through `uv run`.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    address = cluster.address or os.environ.get("RAY_ADDRESS")
    variables = TRAIN_ENVIRONMENT if address else _embedded_environment(cluster)
    try:
        with default_variables(variables), shared():
            _join(address) if address else _start(cluster, more_cpus)
            yield ray.cluster_resources()
    finally:
        ray.shutdown()


@contextmanager
def default_variables(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables that the user has not set, for the length of the block."""
    mine = {key: value for key, value in variables.items() if key not in os.environ}
    os.environ.update(mine)
    try:
        yield
    finally:
        for key in mine:
            os.environ.pop(key, None)


def is_embedded() -> bool:
    """Whether the Ray that this process uses was started by it, and ends with it."""
    import ray

    node = ray._private.worker._global_node
    return node is not None and bool(node.is_head())


def private_token_file() -> Path:
    """Return Ray's token file, made with a fresh token and mode 0600 where there is none.

    Ray 2.60 writes its own with mode 0644, readable by every user of the machine.
    """
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        if path.stat().st_uid == os.getuid():
            path.chmod(0o600)
        return path
    with os.fdopen(handle, "w") as stream:
        stream.write(secrets.token_hex(32))
    return path


def _start(cluster: Cluster, more_cpus: float) -> None:
    import ray

    if not os.environ.get("RAY_AUTH_TOKEN"):
        private_token_file()  # Ray itself turns token authentication on for a cluster it starts
    # Given in the environment, not in a runtime_env, so that one idle worker is as good as another.
    os.environ.update(_worker_environment())
    wanted = math.ceil(int(cluster.workers * max(cluster.cpus_per_worker, 1)) + DATA_CPUS + more_cpus)
    settings = {
        "num_cpus": cluster.logical_cpus or max(os.cpu_count() or 1, wanted),
        "include_dashboard": cluster.dashboard,
        "object_store_memory": cluster.object_store_bytes,
        "log_to_driver": False,
        "logging_level": logging.ERROR,
    }
    try:
        try:
            ray.init(**settings)
        except Exception:  # a busy machine: Ray gives its own node 30 s to come up, and that is not a setting
            ray.shutdown()
            ray.init(**settings)
        ray._private.worker._global_node.kill_log_monitor()  # which feeds log_to_driver
    except Exception as error:
        raise CodexRayError(
            f"embedded Ray did not start ({_first_line(error)}); free memory or disk in /tmp and run again"
        ) from error


def _join(address: str) -> None:
    import ray

    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        ray._raylet.Config.initialize("")  # Ray read the variable when it was imported
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env=_runtime_environment(),
        )
    except Exception as error:
        raise CodexRayError(
            f"the Ray cluster at {address} does not answer ({_first_line(error)}); check that it runs, the "
            "address, and its token (RAY_AUTH_TOKEN_PATH), or unset RAY_ADDRESS to use this machine"
        ) from error


def _embedded_environment(cluster: Cluster) -> dict[str, str]:
    if cluster.dashboard:
        return TRAIN_ENVIRONMENT | EMBEDDED_ENVIRONMENT
    unshown = {"RAY_TRAIN_ENABLE_STATE_TRACKING": "0"}
    return TRAIN_ENVIRONMENT | EMBEDDED_ENVIRONMENT | UNWATCHED_ENVIRONMENT | unshown


def _worker_environment() -> dict[str, str]:
    """Return the variables of embedded Ray's workers, which find a checkout's code by PYTHONPATH."""
    package = Path(__file__).resolve().parents[1]
    if _installed(package):
        return WORKER_ENVIRONMENT
    path = os.pathsep.join(filter(None, [str(package.parent), os.environ.get("PYTHONPATH")]))
    return WORKER_ENVIRONMENT | {"PYTHONPATH": path}


def _runtime_environment() -> dict[str, Any]:
    """Give a running cluster's workers their variables, and a checkout's code where no job ships it."""
    in_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    # A job has given its workers the names of components; Ray refuses to be given a variable twice.
    environment: dict[str, Any] = {"env_vars": WORKER_ENVIRONMENT | ({} if in_job else carried())}
    package = Path(__file__).resolve().parents[1]
    if not _installed(package) and not in_job:
        environment["py_modules"] = [str(package)]
    return environment


def _installed(package: Path) -> bool:
    try:
        importlib.metadata.version("codex-ray")
    except importlib.metadata.PackageNotFoundError:
        return False
    return "site-packages" in package.parts or "dist-packages" in package.parts


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0][:300] if text else type(error).__name__


def refuse_relative_in_job(path: str, key: str) -> None:
    """Refuse a relative path inside a Ray job, whose working folder is thrown away.

    Raises:
        ConfigError: naming the key and an example.
    """
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and not Path(path).is_absolute():
        raise ConfigError(
            f"{key}={path} is relative, and a job's working folder is temporary; give a path that every "
            f"node sees, such as {key}=/shared/{path}"
        )
