"""What a model can do while it is trained: questions of named tasks, new and old, answered on a schedule.

``evaluation.jsonl`` of the run has a line for each evaluation, with what every single answer came to: changes
are compared question by question. A run that is evaluated trains as one that is not, bit for bit.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch.distributed as dist

from codex_ray.config.evaluate import Answering, Bootstrap, Rows
from codex_ray.config.finetune import Finetune
from codex_ray.config.followed import FollowedTask
from codex_ray.corpus.example_rows import RECORDS, Lines
from codex_ray.corpus.manifest import Manifest
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.evaluate.intervals import paired
from codex_ray.evaluate.library import load_task
from codex_ray.evaluate.metrics import Example, find_metric
from codex_ray.evaluate.tasks import Task, score
from codex_ray.evaluate.verifiers import SECONDS
from codex_ray.files import unwritable
from codex_ray.rollout.rewards import find_reward
from codex_ray.track.metrics import drop_after, read_metrics
from codex_ray.train.agree import agree

if TYPE_CHECKING:
    from codex_ray.tokenizer.conversation import ChatTemplate
    from codex_ray.train.engine import Engine

NEW = "new"  # the task of the rows held out


@dataclass(frozen=True)
class Followed:
    """A task, and the metric that it is followed by."""

    name: str
    task: Task
    metric: str


def followed_tasks(settings: Finetune, manifest: Manifest) -> list[Followed]:
    """Return the tasks of a run, the new one first.

    Args:
        settings: of the run; ``manifest``: of its examples, which knows the rows held out.

    Raises:
        ConfigError: a task or metric that is not there.
        CodexRayError: a task's rows cannot be read, or no row is held out where they are wanted.
    """
    wanted = settings.evaluation
    held_out = wanted.held_out if wanted.held_out is not None else bool(wanted.tasks)
    found = []
    if held_out and NEW not in wanted.tasks:
        held = _held_out(settings, manifest)
        if held is None and wanted.held_out:
            raise CodexRayError(
                f"no row of data.path={settings.data.path} is held out, so evaluation.held_out=true has "
                "nothing to ask; raise data.validation, or name a file of rows as evaluation.tasks.new.path"
            )
        found += [] if held is None else [Followed(NEW, held, wanted.metric)]
    return found + [_named(settings, name, one) for name, one in wanted.tasks.items()]


def _rows(settings: Finetune, metric: str, verifier: str | None) -> Rows:
    data, wanted = settings.data, settings.evaluation
    return Rows(
        format=data.format,
        prompt=data.prompt,
        messages=data.messages,
        references=None if data.response == "response" else data.response,  # which conversations lack
        metrics=[metric],
        verifier=verifier,
        answering=Answering(max_new_tokens=wanted.max_new_tokens, chat=data.chat),
    )


def _named(settings: Finetune, name: str, wanted: FollowedTask) -> Followed:
    usual = "verified" if wanted.verifier is not None else settings.evaluation.metric
    rows = _rows(settings, wanted.metric or usual, wanted.verifier)
    task = load_task(wanted.path, rows, count=settings.evaluation.rows, seed=settings.seed)
    metric = wanted.metric or task.metrics[0]
    if wanted.verifier is not None:
        find_reward(wanted.verifier, f"evaluation.tasks.{name}.verifier")  # said before anything starts
    task = replace(task, name=name, metrics=(metric,), verifier=wanted.verifier or task.verifier)
    if task.answering.samples > 1 or task.answering.temperature:
        raise ConfigError(
            f"evaluation.tasks.{name}.path={wanted.path} draws answers, and while training the likeliest is "
            "taken; use codex-ray evaluate on the model, or give the task samples=1 and temperature=0"
        )
    return Followed(name, task, metric)


def _held_out(settings: Finetune, manifest: Manifest) -> Task | None:
    path = manifest.folder / "validation" / RECORDS
    if not path.is_file():
        return None
    lines = Lines(path)
    rows = _rows(settings, settings.evaluation.metric, None)
    examples = []
    for number in range(min(len(lines), settings.evaluation.rows)):
        row = json.loads(lines[number])[0]
        if "messages" in row:
            prompt: Any = tuple(row["messages"][:-1])
            answer = row["messages"][-1]["content"]
        else:
            prompt, answer = row["prompt"], row["response"]
        if answer.strip():  # or it is the call of a tool, which is not compared
            examples.append(Example(str(number), prompt, (answer,), row))
    if not examples:
        return None
    return Task(NEW, tuple(examples), rows.answering, (settings.evaluation.metric,))


class Abilities:
    """Asks a model the questions of tasks; every rank has one.

    Args:
        followed: the tasks.
        template: of chat messages, with the model's tokenizer.
        every: optimizer steps between evaluations; 0 is before and after alone.
        verifier_seconds: longest time that a verifier may take for one answer.
    """

    def __init__(
        self,
        followed: Sequence[Followed],
        template: ChatTemplate,
        *,
        every: int,
        verifier_seconds: float = SECONDS,
    ) -> None:
        self._followed, self._template, self._every = followed, template, every
        self._verifier_seconds = verifier_seconds

    def due(self, step: int, *, last: bool) -> bool:
        """Whether the tasks are to be measured after ``step``."""
        return last or step == 0 or (self._every > 0 and step % self._every == 0)

    def measure(self, engine: Engine, step: int, path: Path, note: Callable[[str], None]) -> dict[str, float]:
        """Answer all questions with the weights after ``step`` and write a line; every rank takes part.

        Args:
            engine: with the weights; ``step``: the optimizer steps they have had.
            path: the run's ``evaluation.jsonl``; ``note``: tells the user one sentence.

        Returns:
            ``evaluation/NAME`` of each task.

        Raises:
            CodexRayError: a verifier failed, or the file cannot be written.
        """
        from codex_ray.train.answers import answering_model

        model, device = answering_model(engine), next(engine.module.parameters()).device
        line: dict[str, Any] = {"step": step, "time": time.time(), "tasks": {}}
        for one in self._followed:
            texts = self._answers(model, one.task)
            line["tasks"][one.name] = agree(partial(self._measured, one, texts), device)
        found = {name: task["value"] for name, task in line["tasks"].items()}
        if dist.get_rank() == 0:
            _append(path, step, line)
        note(f"step {step}: " + ", ".join(f"{name} {value:.3g}" for name, value in found.items()))
        return {f"evaluation/{name}": value for name, value in found.items()}

    def _measured(self, one: Followed, texts: dict[str, list[str]]) -> dict[str, Any]:
        key = "evaluation.verifier_seconds"
        scored = score(one.task, texts, seconds=self._verifier_seconds, key=key)
        figure = scored.figures[one.metric]
        return {
            "metric": one.metric,
            "data": one.task.data_digest,
            "value": figure.value,
            "low": figure.low,
            "high": figure.high,
            "statistics": scored.statistics[one.metric].tolist(),
        }

    def _answers(self, model: Any, task: Task) -> dict[str, list[str]]:
        from codex_ray.train.answers import likeliest_answers

        asked = task.answering
        found = likeliest_answers(
            model,
            [self._prompt(model, task, example) for example in task.examples],
            self._template.tokenizer,
            max_new_tokens=asked.max_new_tokens,
            stop=asked.stop,
        )
        return {example.id: [one.text] for example, one in zip(task.examples, found, strict=True)}

    def _prompt(self, model: Any, task: Task, example: Example) -> list[int]:
        from codex_ray.rollout.generate import prompt_ids
        from codex_ray.rollout.sampler import max_positions

        asked = example.prompt
        if isinstance(asked, str) and task.answering.chat:
            asked = ({"role": "user", "content": asked},)
        if isinstance(asked, str):
            [ids] = prompt_ids(self._template.tokenizer, [asked])
        else:
            tools: Any = example.row.get("tools")  # of rows held out; a task's own may be anything
            tools = tools if isinstance(tools, list) else None
            ids = self._template.prompt([dict(message) for message in asked], tools)
        longest = max_positions(model)
        if longest is None or len(ids) + task.answering.max_new_tokens <= longest:
            return ids
        if task.answering.too_long == "fail":
            raise CodexRayError(
                f"question {example.id} of task {task.name} has {len(ids)} tokens and leaves no room for "
                f"{task.answering.max_new_tokens} of an answer in the {longest} that the model takes; lower "
                "evaluation.max_new_tokens or leave the row out"
            )
        return ids[-max(1, longest - task.answering.max_new_tokens) :]


def _append(path: Path, step: int, line: dict[str, Any]) -> None:
    drop_after(path, step - 1)  # what a start before this one left
    try:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
    except OSError as error:
        raise unwritable(path, error) from error


def closing_figures(path: Path) -> dict[str, float]:
    """Compare the first evaluation of a run with its last, question by question.

    Returns:
        ``evaluation/NAME/before``, ``after`` and ``change``, and the ends of each one's 95 % interval,
        ``..._low`` and ``..._high``; of a run that is not over, ``before`` alone. A change is left out where
        the questions have changed.
    """
    lines: list[Any] = read_metrics(path)
    figures: dict[str, float] = {}
    for name, before in lines[0]["tasks"].items() if lines else ():
        figures |= _three(f"evaluation/{name}/before", before["value"], before["low"], before["high"])
        after = lines[-1]["tasks"].get(name) if len(lines) > 1 else None
        if after is None:
            continue
        figures |= _three(f"evaluation/{name}/after", after["value"], after["low"], after["high"])
        if (after["data"], after["metric"]) == (before["data"], before["metric"]):
            first, second = (np.array(one["statistics"], dtype=np.float64) for one in (before, after))
            change = paired(first, second, find_metric(before["metric"]).combine, Bootstrap()).difference
            figures |= _three(f"evaluation/{name}/change", change.value, change.low, change.high)
    return figures


def _three(name: str, value: float, low: float, high: float) -> dict[str, float]:
    return {name: value, f"{name}_low": low, f"{name}_high": high}
