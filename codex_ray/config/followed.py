"""Settings of training that show and keep what a model can do: tasks that are followed, and replay."""

from __future__ import annotations

import re
from dataclasses import dataclass

from codex_ray.config.fields import setting
from codex_ray.errors import ConfigError, nearest


@dataclass(frozen=True)
class FollowedTask:
    """Questions with known answers."""

    path: str = setting(
        help="file of rows with prompts and their answers (of finetune in the columns of `data`); a task's "
        "YAML file; or the name of a task that is here, such as arithmetic"
    )
    metric: str | None = setting(
        None, help="what answers are measured by; unset is the task's own first, or `evaluation.metric`"
    )
    verifier: str | None = setting(
        None,
        help="judge for the metrics verified and pass@k, then the default: exact, last_number, places, or a "
        "function of yours by dotted path, which takes the row and the answer's text",
    )


@dataclass(frozen=True)
class Evaluation:
    """Questions of named tasks, new and old, that are answered before, during and after training."""

    tasks: dict[str, FollowedTask] = setting(
        {}, help="by name: evaluation.tasks.NAME.path=PATH, each with a metric of its own if wanted"
    )
    held_out: bool | None = setting(
        None,
        help="of finetune: also the rows held out of data.path, as the task `new`; unset: where tasks are "
        "named and none is called so",
    )
    metric: str = setting("exact_match", help="what the answers to rows are measured by")
    every_steps: int = setting(
        0, minimum=0, help="optimizer steps between evaluations; 0 is before and after training alone"
    )
    asynchronous: bool = setting(
        False, help="evaluations between the first and the last are a spare worker's, and training goes on"
    )
    rows: int = setting(256, minimum=1, help="most questions of each task")
    max_new_tokens: int = setting(64, minimum=1, help="longest answer to a row, in tokens")
    verifier_seconds: float = setting(
        60.0, minimum=0.1, help="longest time that a verifier by dotted path may take for one answer"
    )


@dataclass(frozen=True)
class Replay:
    """Old rows among the new ones, so that what a model could do is not forgotten."""

    path: str | None = setting(
        None,
        help="old rows: examples with the columns of `data`, the `examples` folder of another run, or a "
        "corpus folder",
    )
    share: float = setting(
        0.1, minimum=0.0, maximum=1.0, help="their share of the rows that are trained on; not 0 and not 1"
    )
    rows: int = setting(
        4096, minimum=1, help="most packed rows taken of a corpus folder, the first of its order"
    )


def refuse_replay(replay: Replay, prefix: str) -> None:
    """Refuse a share that leaves nothing old or nothing new; ``prefix`` is of its keys in errors.

    Raises:
        ConfigError: one sentence with the key, the number and the remedy.
    """
    if replay.path is not None and not 0 < replay.share < 1:
        raise ConfigError(
            f"{prefix}share={replay.share:g} leaves no {'new' if replay.share else 'old'} rows; give a share "
            f"between 0 and 1, such as {prefix}share=0.1, or leave {prefix}path out"
        )


def refuse_evaluation(wanted: Evaluation, method: str, best_metric: str, prefix: str) -> None:
    """Refuse tasks that cannot be followed.

    Args:
        wanted: the settings; ``method``: of fine-tuning, or ``pretrain``.
        best_metric: what the best checkpoint is chosen by.
        prefix: of the keys in errors.

    Raises:
        ConfigError: one sentence with the keys and the remedy.
    """
    for name in wanted.tasks:
        if not re.fullmatch(r"[\w.-]+", name):
            raise ConfigError(
                f"{prefix}evaluation.tasks has the name {name!r}; use letters, digits, '_', '-' and '.'"
            )
    if wanted.every_steps and not wanted.tasks and not wanted.held_out:
        raise ConfigError(
            f"{prefix}evaluation.every_steps={wanted.every_steps} and there is no task; name one, as "
            f"{prefix}evaluation.tasks.old.path=FILE, or give {prefix}evaluation.held_out=true"
        )
    if wanted.asynchronous and not wanted.every_steps:
        raise ConfigError(
            f"{prefix}evaluation.asynchronous=true is for evaluations while training and there are none; "
            f"give {prefix}evaluation.every_steps=N, or leave it out"
        )
    kind, _, name = best_metric.partition("/")
    known = [*wanted.tasks, *([] if method == "pretrain" else ["new"])]
    if kind == "evaluation" and name not in known:
        raise ConfigError(
            f"{prefix}checkpoints.best_metric={best_metric} is of no task that is followed"
            f"{nearest(name, known)}; give {prefix}evaluation.tasks.{name or 'NAME'}.path=FILE with it"
        )
    if method == "reward" and (wanted.tasks or wanted.held_out):
        raise ConfigError(
            f"{prefix}method=reward trains a model that answers nothing, so there is nothing for "
            f"{prefix}evaluation to measure; leave it out"
        )
