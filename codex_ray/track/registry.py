"""Models in MLflow's registry: a version holds the model folder as it is, and what loads and runs it.

    mlflow.pyfunc.load_model("models:/NAME/1").predict(["a prompt"])

This module is what MLflow calls to load one, wherever codex_ray is installed. A language model completes
prompts, a reward model gives texts a score.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codex_ray import __version__
from codex_ray.errors import CodexRayError

if TYPE_CHECKING:
    from mlflow import MlflowClient

COMPLETING = {"max_new_tokens": 128, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 0}
"""What a caller may change, and what it is otherwise."""

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
                loader_module=__name__,
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


class Registered:
    """A language model, or a reward model, as MLflow runs it."""

    def __init__(self, folder: Path) -> None:
        from codex_ray.model import load_model
        from codex_ray.model.reward import is_classifier, load_reward_model
        from codex_ray.tokenizer import Tokenizer

        self._scores = is_classifier(folder)
        self.model: Any = (load_reward_model if self._scores else load_model)(folder)
        self.tokenizer = Tokenizer.load(folder)

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> list[Any]:
        """Return the completion, or the score, of each text.

        Args:
            model_input: texts: a list, or a table with one column.
            params: some of ``COMPLETING``, for a language model.

        Raises:
            CodexRayError: it is not texts.
        """
        from codex_ray.rollout.generate import generate, prompt_ids

        texts = _texts(model_input)
        rows = prompt_ids(self.tokenizer, texts)
        if self._scores:
            return [self._score(ids) for ids in rows]
        chosen: Any = COMPLETING | (params or {})
        return [done.text for done in generate(self.model, rows, tokenizer=self.tokenizer, **chosen)]

    def _score(self, ids: list[int]) -> float:
        import torch

        with torch.inference_mode():
            row = torch.tensor([ids])
            return float(self.model(input_ids=row, attention_mask=torch.ones_like(row)).logits.squeeze())


def _texts(given: Any) -> list[str]:
    """Return a list of texts: of a list, an array, or a table's one column."""
    columns = getattr(given, "columns", None)
    if columns is not None and len(columns) == 1:
        given = given[columns[0]]
    texts = list(given) if isinstance(given, Iterable) and not isinstance(given, str | dict) else [given]
    if (columns is not None and len(columns) != 1) or not all(isinstance(text, str) for text in texts):
        raise CodexRayError("give the model texts: a list of them, or a table with one column of them")
    return texts


def _load_pyfunc(path: str) -> Registered:
    """What MLflow calls; ``path`` is the model folder."""
    return Registered(Path(path))
