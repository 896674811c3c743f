"""Settings that several verbs share: where to run, on what device, and what to record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from codex_ray.config.fields import setting

DEFAULT_SEED = 1234


@dataclass(frozen=True)
class Cluster:
    """Where a stage runs and how much of it."""

    address: str | None = setting(
        None, help="Ray address to join; unset joins RAY_ADDRESS or starts embedded Ray"
    )
    workers: int = setting(2, minimum=1, help="training workers (one process each)")
    min_workers: int | None = setting(
        None, minimum=1, help="fewest to go on with when nodes are lost; unset is all of `workers`"
    )
    grow_every_seconds: float = setting(
        60.0, minimum=1.0, help="how often a run with fewer workers than `workers` looks for room for more"
    )
    cpus_per_worker: float = setting(1.0, minimum=0.0, help="logical CPUs reserved per worker")
    gpus_per_worker: float = setting(0.0, minimum=0.0, help="GPUs reserved per worker")
    gpu_kind: str | None = setting(
        None, help="kind of GPU that workers take, as Ray calls it, such as H100; unset is any"
    )
    sequence_parallel: int = setting(
        1, minimum=1, help="workers that share each sequence between them (Ulysses), for long rows"
    )
    labels: dict[str, Any] = setting(
        {}, help="Ray node labels that workers ask for: value, !value, in(a,b) or !in(a,b) by label"
    )
    driver_labels: dict[str, Any] = setting(
        {}, help="labels of the node that holds a submitted job's driver, such as {pool: '!spot'}"
    )
    placement: str = setting(
        "pack",
        choices=("pack", "spread", "strict_pack", "strict_spread"),
        help="workers on as few nodes as possible or on as many; strict: on one node, or each on its own",
    )
    threads_per_worker: int | None = setting(
        None, minimum=1, help="compute threads per worker; unset shares the node's cores evenly"
    )
    logical_cpus: int | None = setting(
        None, minimum=1, help="CPUs that embedded Ray counts; unset leaves room for data tasks"
    )
    object_store_bytes: int = setting(
        256 * 2**20, minimum=80 * 2**20, help="object store of embedded Ray, in bytes"
    )
    dashboard: bool = setting(False, help="start Ray's dashboard with embedded Ray (loopback only)")
    max_failures: int = setting(
        3, minimum=0, help="failures of workers survived without a new checkpoint; one more ends the run"
    )
    preemption_command: str | None = setting(
        None, help="shell command that says, by status 0, that its node is about to be taken away"
    )
    preemption_grace_seconds: float = setting(
        30.0, minimum=1.0, help="how long a node that preemption_command announces is still there"
    )
    start_timeout_seconds: float = setting(
        300.0, minimum=1.0, help="longest wait for the cluster and for workers to start"
    )
    replacement_timeout_seconds: float = setting(
        1800.0,
        minimum=1.0,
        help="longest wait for workers to begin again after some were lost",
    )
    hang_seconds: float = setting(
        240.0, minimum=5.0, help="how long a rank may not answer, or no rank move in a step, before a restart"
    )
    collective_timeout_seconds: float = setting(
        300.0, minimum=5.0, help="longest wait for another worker within a step"
    )

    @property
    def fewest_workers(self) -> int:
        """How many workers the run needs to go on."""
        return self.min_workers or self.workers

    @property
    def replicas(self) -> int:
        """How many workers, or groups that share sequences, have rows of their own."""
        return self.workers // self.sequence_parallel

    @property
    def elastic(self) -> bool:
        """Whether the number of workers may change while it runs."""
        return self.fewest_workers < self.workers


@dataclass(frozen=True)
class Mlflow:
    """MLflow tracking; the default is a local SQLite store beside the runs."""

    enabled: bool = setting(True, help="record runs in MLflow")
    uri: str | None = setting(None, help="tracking URI; unset is sqlite in the runs folder")
    experiment: str = setting("codex_ray", help="MLflow experiment name")
    register: str | None = setting(
        None, help="name in MLflow's model registry that a completed run's model is put under"
    )
    parent: str | None = setting(
        None, help="id of the MLflow run that this one stands below; unset is that of its life"
    )
    allow_remote: bool = setting(
        False, help="let a remote URI (or MLFLOW_TRACKING_URI) receive this run's data"
    )


@dataclass(frozen=True)
class Samples:
    """What the model writes while it trains."""

    prompts: list[str] = setting([], help="beginnings that the model continues now and then; none is off")
    every: int = setting(500, minimum=1, help="optimizer steps between samples; the last step has some too")
    max_new_tokens: int = setting(48, minimum=1, help="longest continuation, in tokens")
    temperature: float = setting(0.7, minimum=0.0, help="0 is the likeliest token")


@dataclass(frozen=True)
class Alerts:
    """Sentences sent to a webhook when something happens to a run."""

    url: str | None = setting(
        None, secret=True, help="webhook that takes JSON; unset takes the variable CODEX_RAY_ALERTS_URL"
    )
    on: list[str] = setting(
        ["failure", "stall", "spike"], choices=("failure", "stall", "spike", "end"), help="what is told"
    )
    stall_factor: float = setting(
        20.0, minimum=1.0, help="a run stalls when no step is done for this times the usual (at least 60 s)"
    )
    spike_factor: float = setting(
        3.0, minimum=0.0, help="a loss over this times the median of the last 50 is told; 0 never"
    )


@dataclass(frozen=True)
class Track:
    """What a run records besides its checkpoints."""

    metrics: list[str] = setting(
        ["jsonl"], choices=("jsonl", "csv", "parquet"), help="formats of the per-step metrics, equal rows"
    )
    mlflow: Mlflow = setting(Mlflow, help="MLflow tracking")
    tensorboard: bool = setting(False, help="write TensorBoard event files into the run folder")
    wandb: str = setting(
        "off", choices=("off", "offline", "online"), help="Weights & Biases: kept in the run folder, or sent"
    )
    wandb_project: str = setting("codex_ray", help="project in Weights & Biases")
    trackers: list[str] = setting([], help="further trackers: components by name or dotted path")
    samples: Samples = setting(Samples, help="what the model writes while it trains")
    alerts: Alerts = setting(Alerts, help="alerts by webhook")
    report: bool = setting(True, help="write report.html and plots when the run ends")
    progress: str = setting(
        "auto", choices=("auto", "live", "plain", "off"), help="progress display; auto is live on a terminal"
    )
    every: int = setting(1, minimum=1, help="optimizer steps between two metrics lines")
    mixing_every: int = setting(
        50, minimum=0, help="optimizer steps between two measurements of mHC gains; 0 never"
    )
    spans: bool = setting(True, help="write where each rank's time goes to attempts/N/spans_RANK.jsonl")
    system_seconds: float = setting(
        10.0, minimum=0.0, help="seconds between two samples of each node's load; 0 takes none"
    )
    slow_factor: float = setting(
        1.5,
        minimum=0.0,
        help="name ranks whose forward pass takes over this times the ranks' median; 0 never",
    )


@dataclass(frozen=True)
class Device:
    """What computes, and how precisely."""

    device: str = setting("auto", choices=("auto", "cpu", "cuda"), help="auto takes CUDA where there is one")
    dtype: str = setting(
        "auto",
        choices=("auto", "float32", "bfloat16", "float16"),
        help="compute precision; auto measures which one this device multiplies fastest",
    )
