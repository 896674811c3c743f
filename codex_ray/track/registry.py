"""Models in MLflow's registry: a version holds the model folder as it is, and what loads and runs it.

    mlflow.pyfunc.load_model("models:/NAME/1").predict(["a prompt"])

:mod:`codex_ray.rollout.registered` is what MLflow calls to load one, wherever codex_ray is installed.
"""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codex_ray import __version__

if TYPE_CHECKING:
    from mlflow import MlflowClient

COMPLETING = {"max_new_tokens": 128, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 0}
"""What a caller may change, and what it is otherwise."""

LOADER = "codex_ray.rollout.registered"
ARTIFACT = "model"  # folder of the run's artifacts that a version points to


def register(client: MlflowClient, run_id: str, name: str, model: Path, staging: Path) -> str:
    """Put a model folder into the registry, as the newest version of a name; returns the version.

    Args:
        client: of the store that records the run.
        run_id: the run that made the model; its artifacts hold it.
        name: in the registry; made where it is new.
        model: the folder; ``staging``: a folder to work in, which is not there yet and is gone afterwards.
    """
    import mlflow.pyfunc
    from mlflow.exceptions import MlflowException
    from mlflow.models import ModelSignature
    from mlflow.types import ParamSchema

    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        client.create_registered_model(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it would like to have an example
            mlflow.pyfunc.save_model(
                staging,
                loader_module=LOADER,
                data_path=str(model),
                pip_requirements=[f"codex-ray=={__version__}"],
                signature=ModelSignature(params=ParamSchema([_param(*one) for one in COMPLETING.items()])),
            )
        client.log_artifacts(run_id, str(staging), ARTIFACT)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    source = f"{client.get_run(run_id).info.artifact_uri}/{ARTIFACT}"
    version: str = str(client.create_model_version(name, source, run_id).version)
    return version


def _param(name: str, default: float) -> Any:
    from mlflow.types import DataType, ParamSpec

    return ParamSpec(name, DataType.long if isinstance(default, int) else DataType.double, default)
