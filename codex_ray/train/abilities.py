"""What a model can do while it is trained: questions of named tasks, new and old, answered on a schedule.

``evaluation.jsonl`` of the run has a line for each evaluation, with what every single answer came to: changes
are compared question by question. A run that is evaluated trains as one that is not, bit for bit.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch.distributed as dist

from codex_ray.config.evaluate import Answering, Bootstrap, Rows
from codex_ray.config.finetune import Finetune
from codex_ray.config.followed import FollowedTask
from codex_ray.config.train import Pretrain
from codex_ray.corpus.documents import Document, documents
from codex_ray.corpus.example_rows import RECORDS, Lines
from codex_ray.corpus.manifest import Manifest
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.evaluate.intervals import paired
from codex_ray.evaluate.library import MADE_OF_CODE, load_task
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
    return found + [_named(settings, name, one, manifest) for name, one in wanted.tasks.items()]


def named_tasks(settings: Pretrain, manifest: Manifest) -> list[Followed]:
    """Return the tasks of a run on a corpus: those that are made of documents, of its held-out ones.

    Raises:
        ConfigError: a task or metric that is not there.
        CodexRayError: a task's rows or the held-out documents cannot be read.
    """
    wanted = settings.evaluation.tasks
    held: tuple[Document, ...] = ()
    if MADE_OF_CODE & {one.path for one in wanted.values()}:
        held = tuple(documents(manifest.folder, "validation"))
    return [_named(settings, name, one, manifest, held) for name, one in wanted.items()]


def _rows(settings: Finetune | Pretrain, metric: str, verifier: str | None) -> Rows:
    wanted = settings.evaluation
    if isinstance(settings, Pretrain):
        answering = Answering(max_new_tokens=wanted.max_new_tokens)
        return Rows(metrics=[metric], verifier=verifier, answering=answering)
    data = settings.data
    return Rows(
        format=data.format,
        prompt=data.prompt,
        messages=data.messages,
        references=None if data.response == "response" else data.response,  # which conversations lack
        metrics=[metric],
        verifier=verifier,
        answering=Answering(max_new_tokens=wanted.max_new_tokens, chat=data.chat),
    )


def _named(
    settings: Finetune | Pretrain,
    name: str,
    wanted: FollowedTask,
    manifest: Manifest,
    held: tuple[Document, ...] = (),
) -> Followed:
    usual = "verified" if wanted.verifier is not None else settings.evaluation.metric
    rows = _rows(settings, wanted.metric or usual, wanted.verifier)
    task = load_task(
        wanted.path,
        rows,
        count=settings.evaluation.rows,
        seed=settings.seed,
        corpus=str(manifest.folder),
        documents=held,
    )
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
        asynchronous: whether evaluations between the first and the last are a spare worker's.
    """

    def __init__(
        self,
        followed: Sequence[Followed],
        template: ChatTemplate,
        *,
        every: int,
        verifier_seconds: float = SECONDS,
        asynchronous: bool = False,
    ) -> None:
        self._followed, self._template, self._every = followed, template, every
        self._verifier_seconds, self.asynchronous = verifier_seconds, asynchronous

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

        device = next(engine.module.parameters()).device
        tasks = self._ask(answering_model(engine), lambda measured: agree(measured, device))
        if dist.get_rank() == 0:
            write_evaluation(path, step, tasks)
        note(sentence_of(step, tasks))
        return values_of(tasks)

    def apart(self, folder: Path, config: Any, dtype: str, threads: int) -> Callable[..., dict[str, Any]]:
        """Return what measures weights in a process of its own, and gives what a line has of each task.

        Args:
            folder: of tokenizer and chat template.
            config: of the model; ``dtype``: torch's name of the precision that answers.
            threads: compute threads.
        """
        return partial(
            _ask_apart, tuple(self._followed), self._verifier_seconds, folder, config, dtype, threads
        )

    def _ask(self, model: Any, once: Callable[[Callable[[], Any]], Any]) -> dict[str, Any]:
        """Answer all questions; ``once`` has the answers judged by one of those who have them."""
        return {
            one.name: once(partial(self._measured, one, self._answers(model, one.task)))
            for one in self._followed
        }

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


def _ask_apart(
    followed: Sequence[Followed],
    verifier_seconds: float,
    folder: Path,
    config: Any,
    dtype: str,
    threads: int,
    weights: Mapping[str, Any],
) -> dict[str, Any]:
    import torch

    from codex_ray.tokenizer import Tokenizer
    from codex_ray.tokenizer.conversation import ChatTemplate
    from codex_ray.train.spare import model_of

    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model_of(config, weights, getattr(torch, dtype)).to(device)
    template = ChatTemplate.of(Tokenizer.load(folder), folder)
    abilities = Abilities(followed, template, every=0, verifier_seconds=verifier_seconds)
    return abilities._ask(model, lambda measured: measured())


def values_of(tasks: Mapping[str, Any]) -> dict[str, float]:
    """Return ``evaluation/NAME`` of each task of a line."""
    return {f"evaluation/{name}": task["value"] for name, task in tasks.items()}


def sentence_of(step: int, tasks: Mapping[str, Any]) -> str:
    """Say what came of an evaluation."""
    return f"step {step}: " + ", ".join(f"{name} {task['value']:.3g}" for name, task in tasks.items())


def write_evaluation(path: Path, step: int, tasks: Mapping[str, Any], *, apart: bool = False) -> None:
    """Write the line of a step; ``apart`` where it comes some steps later, from a spare worker.

    Raises:
        CodexRayError: the file cannot be written.
    """
    line = {"step": step, "time": time.time(), "tasks": tasks} | ({"apart": True} if apart else {})
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
