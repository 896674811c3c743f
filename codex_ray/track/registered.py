"""Models out of MLflow's registry, by ``models:/NAME/VERSION`` or ``models:/NAME/ALIAS``."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import yaml

from codex_ray.errors import CodexRayError

_ADDRESS = re.compile(r"models:/(?P<name>[^/@]+)[/@](?P<which>[^/@]+)")


def is_registered(model: str) -> bool:
    """Whether a name is one of MLflow's registry."""
    return model.startswith("models:/")


def registered_name(model: str) -> str:
    """The name of a registered model.

    Raises:
        CodexRayError: the address is none.
    """
    return _matched(model)["name"]


def registered_folder(model: str) -> Path:
    """Fetch the model folder of a registered version, once per version and machine.

    The registry is the one that MLFLOW_TRACKING_URI (or MLFLOW_REGISTRY_URI) names.

    Raises:
        CodexRayError: there is no such model, the registry does not answer, or it holds no model folder.
    """
    from mlflow import MlflowClient, artifacts
    from mlflow.exceptions import MlflowException

    found = _matched(model)
    name, which = found["name"], found["which"]
    try:
        client = MlflowClient()
        version = which if which.isdigit() else client.get_model_version_by_alias(name, which).version
        created = client.get_model_version(name, version).creation_timestamp
        cache = Path.home() / ".cache" / "codex_ray" / "registered"
        folder = cache / f"{re.sub(r'[^A-Za-z0-9.-]', '_', name)}-{version}-{created}"
        if not folder.is_dir():
            cache.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(dir=cache, prefix=".partial-"))
            artifacts.download_artifacts(f"models:/{name}/{version}", dst_path=str(staging))
            if not folder.is_dir():
                staging.rename(folder)
    except (MlflowException, OSError) as error:
        why = str(error).splitlines()[0][:300]
        raise CodexRayError(
            f"{model} cannot be had from MLflow's registry ({why}); check the name and MLFLOW_TRACKING_URI"
        ) from error
    return _data(model, folder)


def _data(model: str, folder: Path) -> Path:
    """The model folder inside of what MLflow keeps."""
    for described in sorted(folder.rglob("MLmodel")):
        flavours = yaml.safe_load(described.read_text(encoding="utf-8")).get("flavors", {})
        data = flavours.get("python_function", {}).get("data")
        place = (described.parent / str(data)).resolve()
        if isinstance(data, str) and place.is_dir() and place.is_relative_to(folder.resolve()):
            return place
    raise CodexRayError(f"{model} holds no model folder; register one with track.mlflow.register=NAME")


def _matched(model: str) -> re.Match[str]:
    found = _ADDRESS.fullmatch(model)
    if found is None:
        raise CodexRayError(
            f"{model} names no registered model; write models:/NAME/VERSION or models:/NAME/ALIAS"
        )
    return found
