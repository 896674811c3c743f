"""Settings of ``evaluate`` and ``evaluate compare``, and of task files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from codex_ray.config.common import DEFAULT_SEED, Device, Track
from codex_ray.config.fields import setting
from codex_ray.config.rollout import Spread
from codex_ray.config.sandbox import Sandbox
from codex_ray.errors import ConfigError


@dataclass(frozen=True)
class Answering:
    """How a task's prompts are answered."""

    max_new_tokens: int = setting(64, minimum=1, help="longest answer, in tokens")
    samples: int = setting(1, minimum=1, help="answers to each prompt; pass@k needs k or more")
    temperature: float = setting(0.0, minimum=0.0, help="0 is greedy")
    top_k: int = setting(0, minimum=0, help="keep the k likeliest tokens; 0 keeps all")
    top_p: float = setting(1.0, minimum=0.0, maximum=1.0, help="keep the smallest set with this probability")
    stop: list[str] = setting([], help="strings that end an answer")
    chat: bool = setting(
        False, help="a prompt is a user's turn, which the model's chat template makes what the model reads"
    )
    too_long: str = setting(
        "cut",
        choices=("cut", "fail"),
        help="a prompt that leaves no room for an answer loses its beginning, or ends the evaluation",
    )


@dataclass(frozen=True)
class Rows:
    """How rows of JSONL, CSV, Parquet or a datasets folder become a task's examples."""

    format: str = setting(
        "auto",
        choices=("auto", "jsonl", "json", "csv", "tsv", "parquet", "arrow", "datasets"),
        help="what the files hold; auto goes by their names",
    )
    prompt: str = setting("prompt", help="column of prompts")
    messages: str = setting(
        "messages", help="column of chat messages, taken where a row has no prompt; the last is the reference"
    )
    references: str | None = setting(
        None, help="column of right answers, a text or a list; unset is references or, without it, response"
    )
    id: str = setting("id", help="column of ids; where it is missing, rows are numbered")
    template: str | None = setting(
        None, help="text with {column} in it that makes a row's prompt; unset takes the column of prompts"
    )
    metrics: list[str] = setting(["exact_match", "token_f1"], help="what answers are measured by")
    verifier: str | None = setting(
        None,
        help="judge for verified and pass@k: exact, last_number, places; tests runs code against the "
        "row's test and entry_point; or a function of yours by dotted path, which takes row and text",
    )
    answering: Answering = setting(Answering, help="how prompts are answered")


@dataclass(frozen=True, kw_only=True)
class TaskFile(Rows):
    """A task as a YAML file."""

    data: str = setting(help="file, folder, glob or URL of rows; beside the task file where it is relative")
    name: str | None = setting(None, help="name in tables; unset is the file's")
    version: str = setting("1", help="to be raised when the examples or their rules change")
    description: str = setting("", help="what it measures, in a sentence")


@dataclass(frozen=True)
class Bootstrap:
    """Resampling of examples."""

    resamples: int = setting(1000, minimum=100, help="how often examples are drawn again")
    confidence: float = setting(
        0.95, minimum=0.5, maximum=0.999, help="how often an interval is to hold the truth"
    )
    seed: int = setting(DEFAULT_SEED, minimum=0, help="seed of the draws; 0 becomes 1234")


@dataclass(frozen=True)
class Endpoint:
    """A model behind an OpenAI-compatible endpoint."""

    url: str | None = setting(
        None, help="base URL, such as http://localhost:8000/v1; `model` is then the name that it knows"
    )
    key_variable: str = setting(
        "OPENAI_API_KEY", help="environment variable that holds the key, where it needs one"
    )
    chat: bool = setting(False, help="ask for chat completions, each prompt a user's turn")
    concurrency: int = setting(8, minimum=1, help="requests at a time")
    retries: int = setting(2, minimum=0, help="tries again after an error that may pass")
    timeout_seconds: float = setting(120.0, minimum=0.1, help="longest wait for an answer")


@dataclass(frozen=True)
class Harness:
    """Tasks of lm-evaluation-harness, named ``harness:TASK``."""

    include: str | None = setting(None, help="folder of further tasks for the harness")
    shots: int | None = setting(None, minimum=0, help="examples before each question; unset is the task's")


@dataclass(frozen=True)
class Evaluate:
    """Measure a model on held-out text and on tasks."""

    model: str | None = setting(
        None,
        help="model folder, run folder, Hub name, or what the endpoint calls it; unset with `predictions`",
    )
    revision: str | None = setting(None, help="Hub revision (branch, tag or commit) of the model")
    tasks: list[str] = setting([], help="names of tasks here, YAML files, files of rows, harness:TASK")
    max_examples: int | None = setting(
        None,
        minimum=1,
        help="examples of each task; unset is all of a file and 200 of a task that is made here",
    )
    rows: Rows = setting(Rows, help="how tasks that are files of rows are read")
    predictions: str | None = setting(
        None,
        help="file of answers to score instead of a model's; without `tasks` it holds the references too",
    )
    prediction: str = setting("prediction", help="its column of answers, a text or a list")
    corpus: str | None = setting(
        None, help="corpus whose held-out documents are scored, and tasks of code made of"
    )
    split: str = setting("validation", choices=("train", "validation", "test"), help="split of the corpus")
    files: list[str] = setting([], help="text files or folders to measure instead of a corpus")
    max_documents: int | None = setting(None, minimum=1, help="measure only the first so many documents")
    context: int | None = setting(
        None, minimum=2, help="tokens of context; unset is the model's longest, at most 2048"
    )
    stride_share: float = setting(
        0.5, minimum=0.05, maximum=1.0, help="new tokens per window, as a share of the context"
    )
    baselines: bool = setting(False, help="also measure gzip, xz, primed xz and an n-gram model")
    headers: int = setting(0, minimum=0, help="function headers to complete and parse (Python text)")
    endpoint: Endpoint = setting(Endpoint, help="an OpenAI-compatible endpoint that answers")
    spread: Spread = setting(Spread, help="Ray actors that answer")
    harness: Harness = setting(Harness, help="tasks of lm-evaluation-harness")
    sandbox: Sandbox = setting(Sandbox, help="limits of code that verifier=tests runs")
    verifier_seconds: float = setting(
        60.0, minimum=0.1, help="longest time that a verifier by dotted path may take for one answer"
    )
    bootstrap: Bootstrap = setting(Bootstrap, help="intervals around figures")
    output: str | None = setting(None, help="folder for summary.json and report; unset prints only")
    answers: str | None = setting(
        None, help="folder where answers are kept for going on and for asking again; unset is in ~/.cache"
    )
    reuse: bool = setting(True, help="take the answers that are kept; false asks for all anew")
    batch_rows: int = setting(32, minimum=1, help="windows or answers computed together")
    seed: int = setting(DEFAULT_SEED, minimum=0, help="seed of sampling; 0 becomes 1234")
    compute: Device = setting(Device, help="device and precision")
    track: Track = setting(Track, help="progress and records")


@dataclass(frozen=True)
class CompareEvaluations:
    """Say whether two sets of answers differ by more than chance."""

    first: str = setting(help="folder of an evaluation, a run folder, or a file of rows with scores")
    second: str = setting(help="the other, of the same examples")
    metrics: list[str] = setting([], help="what is compared; unset is all that both have")
    key: str | None = setting(
        None, help="column that names a row of a file; unset is id or, without it, step"
    )
    output: str | None = setting(None, help="folder for comparison.json and report.html; unset prints only")
    bootstrap: Bootstrap = setting(Bootstrap, help="resampling")
    progress: str = setting(
        "auto", choices=("auto", "live", "plain", "off"), help="progress display; auto is live on a terminal"
    )


def refuse_measurement(settings: Evaluate, prefix: str = "") -> None:
    """Refuse settings that leave nothing to measure or contradict each other.

    Args:
        settings: of the verb; ``prefix``: of their keys in errors.

    Raises:
        ConfigError: one sentence with the keys and the remedy.
    """
    documents = settings.corpus is not None or bool(settings.files)
    if settings.corpus is not None and settings.files:
        raise ConfigError(
            f"both {prefix}corpus and {prefix}files given; name one thing to measure: corpus=FOLDER or "
            "files=[FILE,...]"
        )
    if not (documents or settings.tasks or settings.predictions):
        raise ConfigError(
            f"neither of {prefix}corpus and {prefix}files given; name one thing to measure: corpus=FOLDER, "
            "files=[FILE,...], tasks=[NAME,...] or predictions=FILE"
        )
    _refuse_two_models(settings, prefix)
    away = settings.endpoint.url is not None or settings.predictions is not None
    if away and (settings.files or (settings.corpus is not None and not settings.tasks)):
        raise ConfigError(
            f"{prefix}corpus and {prefix}files are scored by a model's probabilities, which an endpoint and "
            f"predictions do not give; name {prefix}tasks=[NAME,...] instead"
        )
    if (settings.baselines or settings.headers) and (away or not documents):
        raise ConfigError(
            f"{prefix}baselines and {prefix}headers are of held-out documents; give {prefix}corpus or "
            f"{prefix}files with a model folder, or leave them out"
        )
    if away and of_harness(settings.tasks):
        raise ConfigError(
            f"{prefix}tasks={HARNESS_PREFIX}{of_harness(settings.tasks)[0]} needs probabilities, which "
            "an endpoint and predictions do not give; give a model folder, or use lm_eval with its own client"
        )
    if settings.rows.answering.temperature and not settings.rows.answering.top_p:
        raise ConfigError(
            f"{prefix}rows.answering.top_p=0 keeps no token; give one above 0, or temperature=0 for the "
            "likeliest token"
        )


HARNESS_PREFIX = "harness:"
OWN = ("redaction", "prompt_filter")
"""Tasks that measure parts of codex_ray itself, and so need no model."""


def of_harness(tasks: Sequence[str]) -> list[str]:
    """Return the names, without prefix, of those tasks that are lm-evaluation-harness's."""
    return [name.removeprefix(HARNESS_PREFIX) for name in tasks if name.startswith(HARNESS_PREFIX)]


def _refuse_two_models(settings: Evaluate, prefix: str) -> None:
    if settings.predictions is not None:
        if settings.model is not None or settings.endpoint.url is not None:
            raise ConfigError(
                f"{prefix}predictions={settings.predictions} are scored without a model; leave {prefix}model "
                f"and {prefix}endpoint.url out, or the predictions"
            )
        if len(settings.tasks) > 1:
            raise ConfigError(
                f"{prefix}predictions={settings.predictions} are of one task and {prefix}tasks names "
                f"{len(settings.tasks)}; name the one that they answer"
            )
        return
    alone = set(settings.tasks) <= set(OWN) and settings.corpus is None and not settings.files
    if settings.model is None and not alone:
        raise ConfigError(
            f"setting {prefix}model is needed (model folder, run folder or Hub name); give "
            f"{prefix}model=NAME, or {prefix}predictions=FILE to score answers that are there"
        )
    if settings.endpoint.url is not None and settings.spread.actors:
        raise ConfigError(
            f"{prefix}endpoint.url answers by itself and {prefix}spread.actors={settings.spread.actors} "
            f"would sample here; leave one of them out ({prefix}endpoint.concurrency sets requests at a time)"
        )
