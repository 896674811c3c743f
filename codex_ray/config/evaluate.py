"""Settings of ``evaluate`` and ``evaluate compare``, and of task files."""

from __future__ import annotations

from dataclasses import dataclass

from codex_ray.config.common import DEFAULT_SEED, Device, Track
from codex_ray.config.fields import setting


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
        help="judge for verified and pass@k: exact, last_number, places, or a function of yours by dotted "
        "path, which takes the row and the answer's text",
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
class Evaluate:
    """Measure bits per byte and perplexity on held-out documents or on files."""

    model: str = setting(help="model folder, run folder or Hub name")
    revision: str | None = setting(None, help="Hub revision (branch, tag or commit) of the model")
    corpus: str | None = setting(None, help="corpus folder; unset takes `files`")
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
    output: str | None = setting(None, help="folder for summary.json and report; unset prints only")
    batch_rows: int = setting(32, minimum=1, help="windows per forward pass")
    seed: int = setting(DEFAULT_SEED, minimum=0, help="seed of sampling; 0 becomes 1234")
    compute: Device = setting(Device, help="device and precision")
    track: Track = setting(Track, help="progress and records")
