"""Runs in MLflow: a local SQLite store beside the runs, unless a remote one is allowed.

One parent run stands for a life (from corpus to endpoint, by its life id) and each run is nested
below it. All calls after :meth:`MlflowRun.start` are done by a thread, so that a slow or hanging
server never holds up training; what fails there becomes one warning.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from codex_ray.config.common import Mlflow
from codex_ray.errors import CodexRayError, ConfigError, nearest
from codex_ray.files import unwritable, write_json
from codex_ray.track.environment import masked
from codex_ray.track.tracker import Status, Tracker, moment, numbers

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

REMOTE_SCHEMES = ("http", "https", "databricks", "databricks-uc", "uc", "postgresql", "mysql", "mssql")
LOCAL_SCHEMES = ("sqlite", "file")
METRICS_PER_CALL = 1000  # MLflow's limits
PARAMETERS_PER_CALL = 100
PARAMETER_CHARACTERS = 6000
CUT = " ... (cut, see config.yaml)"
REGISTER_SECONDS = 1800.0  # longest wait until a model is copied into the registry
LOCK_SECONDS = 60.0  # longest wait for another process that opens the store
THREAD = "codex-ray-mlflow"
LIFE_TAG, ROLE_TAG, PARENT_TAG = "codex_ray.life_id", "codex_ray.role", "mlflow.parentRunId"

# Read by MLflow. Its retries would otherwise go on for minutes.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}

_LOG = logging.getLogger(__name__)


class MlflowRun(Tracker):
    """One run's record in MLflow; every method does nothing where tracking is switched off.

    The constructor only decides where records go and imports nothing heavy. The run's id is kept
    in ``mlflow.json`` of the folder, so that a resumed run continues the same MLflow run and rows
    given again are not recorded twice.

    Args:
        folder: the run folder.
        settings: the ``track.mlflow`` settings.
        runs: the folder of run folders, which holds the local store.

    Attributes:
        uri: where records really go; None where tracking is off.

    Raises:
        ConfigError: the URI's scheme is unknown.
        CodexRayError: the local store's folder cannot be written.
    """

    thread_name = THREAD

    def __init__(self, folder: Path, settings: Mlflow, *, runs: Path) -> None:
        self.uri = tracking_uri(settings, runs) if settings.enabled else None
        super().__init__(folder / "mlflow.json", f"MLflow at {masked(self.uri or 'no URI')}")
        self._settings = settings
        self._artifacts = runs.absolute() / "mlflow-artifacts"
        self._client: MlflowClient | None = None

    @property
    def run_id(self) -> str | None:
        """The MLflow run's id, once the thread has made or found it."""
        return self._state.get("run_id")

    def start(
        self,
        name: str,
        *,
        parameters: Mapping[str, Any],
        life_id: str | None = None,
        commit: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Make the run, or continue the folder's; imports MLflow (a second or two) and returns.

        Args:
            name: the run's name.
            parameters: the resolved settings, nested; recorded flattened when the run is made.
            life_id: the life this run belongs to; its parent run is found or made.
            commit: the checkout's commit.
            tags: further tags.
        """
        if self.uri is None or self._thread is not None:
            return
        os.environ.update({key: os.environ.get(key, value) for key, value in ENVIRONMENT.items()})
        if self.uri.startswith("file:"):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # asked for by name
        try:
            # Here and not in the thread: two threads that import at once can see half a module.
            import mlflow  # noqa: F401

            _quieten()
        except ImportError as error:
            self._warn(error)
            return
        all_tags = {ROLE_TAG: "run", **(tags or {})}
        all_tags |= {LIFE_TAG: life_id} if life_id else {}
        all_tags |= {"mlflow.source.git.commit": commit} if commit else {}
        self._launch(lambda: self._begin(name, flat(parameters), all_tags))

    def log_artifact(self, path: Path) -> None:
        """Record a file, such as the report; a missing one is left out."""

        def put() -> None:
            if self._client is not None and path.exists():
                self._client.log_artifact(self._state["run_id"], str(path))

        self._do(put)

    def register(self, name: str, model: Path) -> str | None:
        """Put a model folder into the registry under a name, and wait until that is done.

        Returns:
            What to tell the user; None where nothing is recorded.
        """
        found: list[str] = []
        done = threading.Event()

        def put() -> None:
            from codex_ray.track.registry import register

            try:
                if self._client is not None:
                    staging = self._state_path.with_name(".registered.partial")
                    found.append(register(self._client, self._state["run_id"], name, model, staging))
            except Exception as error:  # whatever the server does, the run is complete
                found.append(f"{type(error).__name__}: {masked(str(error).strip())[:300]}")
                raise
            finally:
                done.set()

        if self._thread is None:
            return None
        self._do(put)
        if not done.wait(REGISTER_SECONDS) or not found:
            return f"the model is not in MLflow's registry: no answer within {REGISTER_SECONDS:g} s"
        if not found[0].isdigit():
            return f"the model is not in MLflow's registry ({found[0]}); it is in {model}"
        return f"the model is version {found[0]} of {name} in MLflow's registry: models:/{name}/{found[0]}"

    def _begin(self, name: str, parameters: dict[str, str], tags: dict[str, str]) -> None:
        # Two processes that make the tables of one store at once break it (seen with MLflow 3.17),
        # and would make two parents for one life.
        store = self.uri.removeprefix("sqlite:///") if self.uri and self.uri.startswith("sqlite:") else None
        with _turn(Path(f"{store}.lock") if store else self._state_path.with_suffix(".lock")):
            self._connect(name, parameters, tags)

    def _connect(self, name: str, parameters: dict[str, str], tags: dict[str, str]) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param, RunTag

        client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        known = self._known()
        if known.get("uri") == masked(self.uri or "") and _usable(client, known["run_id"]):
            client.update_run(known["run_id"], status="RUNNING")
            self._state, self._client = known, client
            return
        experiment_id = self._experiment(client)
        if self._settings.parent is not None:
            tags[PARENT_TAG] = self._settings.parent
        elif LIFE_TAG in tags:
            tags[PARENT_TAG] = _life_run(client, experiment_id, tags[LIFE_TAG])
        run_id = client.create_run(experiment_id, run_name=name, tags=tags).info.run_id
        self._state = {
            "uri": masked(self.uri or ""),
            "experiment_id": experiment_id,
            "run_id": run_id,
            "last_step": -1,
        }
        write_json(self._state_path, self._state)
        self._client = client
        entries = [Param(key, value) for key, value in parameters.items()]
        for some in _batches(entries, PARAMETERS_PER_CALL):
            client.log_batch(run_id, params=some)
        cut = [key for key, value in parameters.items() if value.endswith(CUT)]
        if cut:
            client.log_batch(run_id, tags=[RunTag("codex_ray.cut_parameters", ", ".join(cut)[:5000])])

    def _experiment(self, client: MlflowClient) -> str:
        name = self._settings.experiment
        found = client.get_experiment_by_name(name)
        if found is None:
            # A local store's artifacts would otherwise go wherever the process happens to run.
            location = self._artifacts.as_uri() if self.uri and self.uri.startswith("sqlite:") else None
            return str(client.create_experiment(name, artifact_location=location))
        if found.lifecycle_stage != "active":
            raise CodexRayError(
                f"experiment {name!r} is deleted in MLflow; set track.mlflow.experiment to another name"
            )
        return str(found.experiment_id)

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        assert self._client is not None
        metrics = [metric for row in rows for metric in _metrics(row)]
        for some in _batches(metrics, METRICS_PER_CALL):
            self._client.log_batch(self._state["run_id"], metrics=some)

    def _finish(self, status: Status) -> None:
        assert self._client is not None
        self._client.set_terminated(self._state["run_id"], status)


def tracking_uri(settings: Mlflow, runs: Path) -> str:
    """Decide where MLflow writes: the setting, MLFLOW_TRACKING_URI, or SQLite in ``runs``.

    A remote URI that is not allowed is left out with a warning that names it.

    Raises:
        ConfigError: the URI's scheme is unknown.
        CodexRayError: the local store's folder cannot be made.
    """
    local = f"sqlite:///{runs.absolute() / 'mlflow.db'}"
    given = settings.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not given:
        return _local(local)
    source = "track.mlflow.uri" if settings.uri else "MLFLOW_TRACKING_URI"
    scheme = _scheme(given)
    if scheme in LOCAL_SCHEMES:
        return _local(given)
    if scheme not in REMOTE_SCHEMES:
        valid = (*LOCAL_SCHEMES, *REMOTE_SCHEMES)
        hint = nearest(scheme, valid) or f"; it may be one of {', '.join(valid)}"
        raise ConfigError(
            f"{source}={masked(given)} starts with {scheme!r}, which MLflow does not know{hint}"
        )
    if settings.allow_remote:
        return given
    _LOG.warning(
        "%s=%s is remote and left out, records go to %s; set track.mlflow.allow_remote=true to use it",
        source,
        masked(given),
        local,
    )
    return _local(local)


def _quieten() -> None:
    """Let MLflow speak only of what goes wrong, and keep its thread's HTTP retries to ourselves."""
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("urllib3.connectionpool").addFilter(_not_from_our_thread)


def _not_from_our_thread(record: logging.LogRecord) -> bool:
    return record.threadName != THREAD


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten nested settings to dotted names and texts that MLflow takes; long ones are cut."""
    result: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            result.update(flat(value, f"{prefix}{key}."))
            continue
        text = masked(value) if isinstance(value, str) else json.dumps(value, default=str)
        fits = len(text) <= PARAMETER_CHARACTERS
        result[f"{prefix}{key}"] = text if fits else text[: PARAMETER_CHARACTERS - len(CUT)] + CUT
    return result


def _scheme(uri: str) -> str:
    """Return the kind of store a URI names: what stands before the colon; a bare path is a file store."""
    if ":" in uri or uri.startswith("databricks"):
        return uri.partition(":")[0].partition("+")[0].lower()
    return "file"


def _local(uri: str) -> str:
    """Make a local URI absolute and its folder exist."""
    if uri.startswith("sqlite:"):
        path = Path(uri.removeprefix("sqlite:///")).absolute()
        folder, uri = path.parent, f"sqlite:///{path}"
    else:
        folder = Path(urlsplit(uri).path or ".").absolute()
        uri = folder.as_uri()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    if not os.access(folder, os.W_OK):
        raise CodexRayError(
            f"MLflow's folder {folder} cannot be written; set track.mlflow.uri to another place"
        )
    return uri


@contextmanager
def _turn(path: Path, seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold a lock file among this machine's processes, waiting for at most ``seconds``."""
    with path.open("a") as stream:
        end = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise TimeoutError(f"another process holds {path} for over {seconds:g} seconds") from None
                time.sleep(0.1)
        yield


def _usable(client: MlflowClient, run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def _life_run(client: MlflowClient, experiment_id: str, life_id: str) -> str:
    """Find the parent run of a life, or make it; the oldest counts."""
    wanted = f"tags.`{LIFE_TAG}` = '{life_id}' and tags.`{ROLE_TAG}` = 'life'"
    found = client.search_runs([experiment_id], wanted, max_results=1, order_by=["attributes.start_time ASC"])
    if found:
        return str(found[0].info.run_id)
    run = client.create_run(
        experiment_id, run_name=f"life-{life_id}", tags={LIFE_TAG: life_id, ROLE_TAG: "life"}
    )
    client.set_terminated(run.info.run_id, "FINISHED")  # it only groups; its runs have their own states
    return str(run.info.run_id)


def _metrics(row: Mapping[str, Any]) -> list[Metric]:
    from mlflow.entities import Metric

    milliseconds = int(1000 * moment(row))
    return [Metric(name, value, milliseconds, row["step"]) for name, value in numbers(row)]


def _batches(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
