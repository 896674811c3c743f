"""Settings of ``finetune``."""

from __future__ import annotations

from dataclasses import dataclass

from codex_ray.config.fields import setting
from codex_ray.config.train import TrainingRun

METHODS = ("sft", "dft", "dpo", "reward")
PREFERENCES = ("dpo", "reward")  # which learn from pairs of a chosen and a rejected answer


@dataclass(frozen=True)
class Examples:
    """Rows to learn from, and how they become tokens.

    A row holds chat ``messages``, or a ``prompt`` and a ``response``; for preferences a ``prompt`` or
    ``messages``, and two answers, ``chosen`` and ``rejected``.
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
    chosen: str = setting("chosen", help="preferences: column of the better answer, text or messages")
    rejected: str = setting("rejected", help="preferences: column of the worse answer, text or messages")
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
class Loss:
    """What the methods can be told."""

    kl: float = setting(
        0.0, minimum=0.0, help="sft, dft: weight of the divergence from the model that the run began from"
    )
    beta: float = setting(0.1, minimum=0.0, help="dpo: how strongly the model that the run began from holds")
    smoothing: float = setting(
        0.0, minimum=0.0, maximum=0.5, help="dpo: probability that a pair is the wrong way round"
    )
    centring: float = setting(
        0.0, minimum=0.0, help="reward: weight that holds the mean of rewards near zero"
    )


@dataclass(frozen=True)
class Finetune(TrainingRun):
    """Train a model on examples of what it shall write."""

    model: str = setting("model", help="model folder, run folder or adapter to begin from")
    method: str = setting(
        "sft",
        choices=METHODS,
        help="sft: what the answers are; dft: so too, each token weighed by its probability; dpo: to prefer "
        "the chosen answer; reward: to tell which answer is preferred",
    )
    data: Examples = setting(Examples, help="the examples")
    loss: Loss = setting(Loss, help="what the methods can be told")
