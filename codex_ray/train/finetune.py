"""The ``finetune`` verb: examples become packed rows in the run folder, and any causal model learns them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from codex_ray.config.finetune import Finetune, kind_of
from codex_ray.errors import CodexRayError
from codex_ray.track.progress import Progress
from codex_ray.train.base import examples_of, place_of, template_of
from codex_ray.train.driver import TrainingResult, opened_run, refuse_rows, run_task
from codex_ray.train.task import Finetuning

if TYPE_CHECKING:
    from codex_ray.corpus.manifest import Manifest

LONGEST_ROW = 1024  # where the setting is unset


def finetune(settings: Finetune, progress: Progress | None = None) -> TrainingResult:
    """Train a model on examples of what it shall write.

    Raises:
        ConfigError: the settings cannot be right.
        CodexRayError: the model, the examples, the cluster or the run cannot go on.
        Interrupted: the user stopped it; the last checkpoint is written.
    """
    started = time.time()
    with opened_run(settings, "finetune", progress) as (run, shown):
        from codex_ray.corpus.replay import open_replay
        from codex_ray.model.lineage import life_of
        from codex_ray.train.abilities import followed_tasks

        length = row_length(settings)  # first, for it says what is wrong with a model
        template = template_of(settings.model, settings.data.chat_template)
        kind = kind_of(settings.method)
        seed = settings.seed
        old = open_replay(settings.replay, settings.data, template, length=length, seed=seed, kind=kind)
        manifest = examples_of(
            settings.data,
            template,
            run.path / "examples",
            length=length,
            seed=seed,
            progress=shown,
            kind=kind,
            old=old,
            life_id=life_of(settings.model),
        )
        followed = tuple(followed_tasks(settings, manifest))
        task = Finetuning(settings, manifest.folder, place_of(settings.model), followed)
        size = "on_policy.prompts" if task.on_policy else "train.batch_tokens"
        refuse_rows(task, manifest, _told(settings, manifest), f"{size} or give more examples")
        return run_task(task, manifest, run, shown, started)


def _told(settings: Finetune, manifest: Manifest) -> str:
    """Name the examples, and those that were left out."""
    from codex_ray.corpus.examples import NAME

    refused: dict[str, int] = manifest.sources[NAME]["refused"]
    left = ", ".join(f"{count:,} {reason}" for reason, count in refused.items())
    return f"data.path={settings.data.path}" + (f" (left out: {left})" if left else "")


def row_length(settings: Finetune) -> int:
    """Return the tokens of a row: as set, else the model's longest sequence within reason.

    Raises:
        CodexRayError: it is more than the model takes.
    """
    from codex_ray.model.load import load_config, positions_of

    longest = positions_of(load_config(settings.model))
    wanted = settings.data.sequence_length
    if wanted is not None and longest is not None and wanted > longest:
        raise CodexRayError(
            f"data.sequence_length={wanted} is more than the {longest} positions of {settings.model}; give "
            f"data.sequence_length={longest} or less"
        )
    return wanted or min(longest or LONGEST_ROW, LONGEST_ROW)
