"""Records of a run: its folder, metrics, environment, MLflow, progress and report."""

from codex_ray.track.environment import write_environment
from codex_ray.track.metrics import MetricsFollower, MetricsWriter, read_metrics
from codex_ray.track.mlflow import MlflowRun
from codex_ray.track.progress import Progress, open_progress
from codex_ray.track.report import write_report
from codex_ray.track.run_folder import RunFolder
from codex_ray.track.system import SystemSampler

__all__ = [
    "MetricsFollower",
    "MetricsWriter",
    "MlflowRun",
    "Progress",
    "RunFolder",
    "SystemSampler",
    "open_progress",
    "read_metrics",
    "write_environment",
    "write_report",
]
