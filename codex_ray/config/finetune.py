"""Settings of ``finetune``."""

from __future__ import annotations

from dataclasses import dataclass

from codex_ray.config.fields import setting
from codex_ray.config.train import TrainingRun

METHODS = ("sft",)


@dataclass(frozen=True)
class Examples:
    """Rows to learn from, and how they become tokens.

    A row holds chat ``messages``, or a ``prompt`` and a ``response``.
    """

    path: str = setting(
        "examples.jsonl", help="file, folder, glob or URL of rows: JSONL, Parquet, CSV, datasets"
    )
    format: str = setting(
        "auto",
        choices=("auto", "jsonl", "json", "csv", "tsv", "parquet", "arrow", "datasets"),
        help="what its files hold; auto goes by their names",
    )
    messages: str = setting("messages", help="column of chat messages, each with a role and a content")
    prompt: str = setting("prompt", help="column of prompts, in rows without messages")
    response: str = setting("response", help="column of responses to them")
    chat: bool = setting(False, help="a prompt and its response are a user's turn and the assistant's")
    chat_template: str | None = setting(
        None,
        help="Jinja file that makes messages text; unset: the model's own, else turns of <s>role ... </s>",
    )
    sequence_length: int | None = setting(
        None, minimum=8, help="tokens per row of packed examples; unset: the model's longest, at most 1024"
    )
    too_long: str = setting(
        "drop",
        choices=("drop", "cut", "fail"),
        help="an example longer than a row is left out, loses its end, or ends the run",
    )
    on_error: str = setting(
        "fail", choices=("fail", "skip"), help="what a row that cannot be used does; skip counts them"
    )
    validation: float = setting(
        0.05, minimum=0.0, maximum=0.9, help="share of the examples held out, by their content"
    )


@dataclass(frozen=True)
class Finetune(TrainingRun):
    """Train a model on examples of what it shall write."""

    model: str = setting("model", help="model folder, run folder or adapter to begin from")
    method: str = setting("sft", choices=METHODS, help="what is learnt from the examples")
    data: Examples = setting(Examples, help="the examples")
