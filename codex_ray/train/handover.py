"""Handing a run's state over to another: weights, optimizer, random state and data cursor, settings apart."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from codex_ray.config.saved import save
from codex_ray.config.train import TrainingRun
from codex_ray.errors import CodexRayError
from codex_ray.files import unwritable, write_json
from codex_ray.train.checkpoint import CheckpointFolder, Found, damage
from codex_ray.train.resume import shaping_facts


def hand_over(giver: Path, taker: Path, step: int, settings: TrainingRun) -> None:
    """Have a run that stands still go on from another's checkpoint, under settings of its own.

    Everything in the checkpoint is taken as it is, by hard links where the file system has them. The taker's
    own checkpoints go, since it continues none of them any more; its figures so far stay. Interrupted, it can
    be done again.

    Args:
        giver: run folder that has the checkpoint; ``taker``: run folder that goes on from it.
        step: optimizer step of the checkpoint.
        settings: of the taker from now on. They may differ from the giver's in what acts anew in every step,
            such as rates, and in nothing that shapes the state.

    Raises:
        CodexRayError: the checkpoint is damaged, or the taker's folder cannot be written.
    """
    theirs, ours = CheckpointFolder(giver / "checkpoints"), CheckpointFolder(taker / "checkpoints")
    source = theirs.path(step)
    if (reason := damage(source)) is not None:
        raise CodexRayError(
            f"checkpoint {source.name} of {giver.name} cannot be handed over to {taker.name}: {reason}"
        )
    manifest = Found.read(source).manifest
    staging, earlier = ours.staging(step, "taken"), ours.steps()
    try:
        shutil.rmtree(staging, ignore_errors=True)
        for name in manifest["files"]:
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            _link(source / name, staging / name)
        origin = {"run": giver.name, "step": step, "sha256": manifest["sha256"]}
        ours.commit(staging, {**manifest, **shaping_facts(settings), "taken_from": origin})
        for other in earlier:
            if other != step:
                ours.remove(other)
        write_json(taker / "decided.json", manifest["decided"])
        save(settings, taker / "config.yaml")
    except OSError as error:
        raise unwritable(taker, error) from error


def _link(source: Path, target: Path) -> None:
    """Give a file a second name; a checkpoint's files never change. Else copy it."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
