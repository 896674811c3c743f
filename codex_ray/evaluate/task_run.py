"""The tasks of an evaluation: loaded, answered as far as answers are missing, and scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codex_ray.config.evaluate import HARNESS_PREFIX, OWN, Evaluate
from codex_ray.corpus.documents import Document, documents
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.evaluate.answering import Answerer, GivenAnswers, LocalModel, SpreadModel, model_digest
from codex_ray.evaluate.library import MADE_OF_CODE, load_task
from codex_ray.evaluate.store import Answer, Answers, default_folder, open_answers
from codex_ray.evaluate.task_files import read_rows, row_id, task_of_rows
from codex_ray.evaluate.tasks import Scored, Task, score
from codex_ray.track import Progress

if TYPE_CHECKING:
    from codex_ray.tokenizer import Tokenizer


def load_tasks(settings: Evaluate) -> list[Task]:
    """Return the tasks that the settings name.

    Raises:
        ConfigError: there is no such task, or two of one name.
        CodexRayError: a file cannot be read, or a row lacks a column.
    """
    if settings.predictions is not None and not settings.tasks:
        return [task_of_rows(settings.rows, settings.predictions, count=settings.max_examples, answered=True)]
    held: tuple[Document, ...] = ()
    if settings.corpus is not None and settings.split != "train" and MADE_OF_CODE & set(settings.tasks):
        held = tuple(documents(Path(settings.corpus), settings.split))
    found = [
        load_task(
            name,
            settings.rows,
            count=settings.max_examples,
            seed=settings.seed,
            corpus=settings.corpus,
            documents=held,
        )
        for name in settings.tasks
        if not name.startswith(HARNESS_PREFIX) and name not in OWN
    ]
    names = [task.name for task in found]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two tasks are called {name}; give one another name in its task file")
    return found


def run_tasks(
    settings: Evaluate,
    tasks: Sequence[Task],
    loaded: tuple[Any, Tokenizer] | None,
    shown: Progress,
) -> tuple[list[Scored], list[list[list[Answer]]], str]:
    """Answer and score tasks.

    Args:
        settings: of the evaluation.
        tasks: to be answered.
        loaded: the model and its tokenizer, where this process has them.
        shown: the display.

    Returns:
        each task scored; each task's answers by example; what names the model's weights.

    Raises:
        CodexRayError: a model cannot answer; what it has answered is kept.
    """
    folder = Path(settings.answers).expanduser() if settings.answers is not None else default_folder()
    scored, kept = [], []
    with _answerer(settings, loaded) as answerer, ExitStack() as stack:
        keep = None if isinstance(answerer, GivenAnswers) else folder
        opened = [
            open_answers(keep, task, answerer.identity, settings.seed, reuse=settings.reuse) for task in tasks
        ]
        answers = {one.task.name: one for one in map(stack.enter_context, opened)}
        _answer(answerer, answers, settings.seed, shown)
    for task in tasks:
        found = answers[task.name].found
        kept.append([found[place] for place in range(len(task.examples))])
        texts = {
            example.id: [answer.text for answer in mine]
            for example, mine in zip(task.examples, kept[-1], strict=True)
        }
        with shown.stage(f"score {task.name}"):
            scored.append(
                score(
                    task,
                    texts,
                    settings.bootstrap,
                    sandbox=settings.sandbox,
                    seconds=settings.verifier_seconds,
                )
            )
    return scored, kept, answerer.identity


def _answer(answerer: Answerer, answers: Mapping[str, Answers], seed: int, shown: Progress) -> None:
    missing = [(one.task, one.missing()) for one in answers.values()]
    for task, places in missing:
        if len(places) < len(task.examples):
            shown.note(
                f"{task.name}: {len(task.examples) - len(places)} of {len(task.examples)} answers are kept "
                "from before (reuse=false asks anew)"
            )
    missing = [(task, places) for task, places in missing if places]
    if not missing:
        return
    names, total = ", ".join(task.name for task, _ in missing), sum(len(places) for _, places in missing)
    with (
        shown.stage(f"answer {names}", total=total, unit="examples"),
        closing(answerer.answers(missing, seed, shown.note)) as replies,
    ):
        for task, place, found in replies:
            answers[task.name].add(place, found)
            shown.advance(1)
    for one in answers.values():
        if one.missing():
            raise CodexRayError(
                f"{len(one.missing())} examples of task {one.task.name} have no answer; run the command again"
            )


@contextmanager
def _answerer(settings: Evaluate, loaded: tuple[Any, Tokenizer] | None) -> Iterator[Answerer]:
    from codex_ray.model.load import load_config, positions_of
    from codex_ray.rollout.actor import FromFolder
    from codex_ray.rollout.load import tokenizer_folder
    from codex_ray.tokenizer import Tokenizer

    if settings.predictions is not None:
        yield GivenAnswers(_predictions(settings), all_asked=settings.max_examples is None)
        return
    assert settings.model is not None
    if settings.endpoint.url is not None:
        from codex_ray.evaluate.endpoint import EndpointModel

        with EndpointModel(settings.model, settings.endpoint) as endpoint:
            yield endpoint
        return
    folder = tokenizer_folder(settings.model, settings.revision)
    identity = f"{model_digest(settings.model, settings.revision)} {settings.compute.dtype}"
    if loaded is not None:
        yield LocalModel(*loaded, folder, identity, settings.batch_rows)
        return
    build = FromFolder(settings.model, settings.compute, settings.revision)
    limit = positions_of(load_config(settings.model, settings.revision))
    tokenizer = Tokenizer.load(folder)
    yield SpreadModel(settings.spread, build, tokenizer, folder, identity, limit, settings.batch_rows)


def _predictions(settings: Evaluate) -> dict[str, list[str]]:
    assert settings.predictions is not None
    found: dict[str, list[str]] = {}
    for number, record in enumerate(read_rows(settings.predictions, settings.rows.format)):
        name, where = row_id(settings.rows, record, number), f"row {number + 1} of {settings.predictions}"
        value = record.get(settings.prediction)
        texts = value if isinstance(value, list) else [value]
        written = [text for text in texts if isinstance(text, str)]
        if not texts or len(written) < len(texts):
            raise CodexRayError(
                f"{where} has no text under {settings.prediction!r}; name the column of answers with "
                "prediction=COLUMN"
            )
        if name in found:
            raise CodexRayError(f"{where} has the id {name!r} of an earlier one; give each its own")
        found[name] = written
    return found
