"""Settings of ``finetune``."""

from __future__ import annotations

import math
from dataclasses import dataclass

from codex_ray.config.fields import setting
from codex_ray.config.followed import Evaluation, Replay
from codex_ray.config.rollout import Rollouts, refuse_own_draws, refuse_rollouts
from codex_ray.config.train import TrainingRun
from codex_ray.errors import ConfigError
from codex_ray.plugins import find, is_own

PREFERENCES = ("dpo", "reward")  # learn from pairs of a chosen and a rejected answer
ON_POLICY = ("sdft", "grpo", "ppo")  # learn from what the model itself answers to prompts
METHODS = ("sft", "dft", *PREFERENCES, *ON_POLICY)


def kind_of(method: str) -> str:
    """Return what the rows of a method are: answers, preferences or prompts.

    Raises:
        ConfigError: a component cannot be loaded, or learns from other rows than answers and preferences.
    """
    if not is_own("objectives", method):
        rows: str = getattr(find("objectives", method, "method"), "rows", "answers")
        if rows not in ("answers", "preferences"):
            raise ConfigError(f"method={method} has rows={rows!r}; give answers or preferences")
        return rows
    return "preferences" if method in PREFERENCES else "prompts" if method in ON_POLICY else "answers"


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
    tools: str = setting("tools", help="column of the tools that messages may call: JSON schemas")
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
    """What sft, dft, dpo and reward can be told."""

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
class OnPolicy:
    """What sdft, grpo and ppo can be told: of prompts, rewards and the teacher."""

    prompts: int = setting(8, minimum=1, help="prompts answered at a time, a batch, over all workers")
    samples: int | None = setting(None, minimum=1, help="answers to each; unset is 1 for sdft, else 8")
    epochs: int = setting(1, minimum=1, help="grpo, ppo: times that a batch of answers is gone over")
    minibatches: int = setting(
        1, minimum=1, help="grpo, ppo: parts, each an optimizer step, that it is gone over in"
    )
    micro_batch_tokens: int = setting(
        4096, minimum=1, help="tokens that a worker computes at a time, padding included"
    )
    reward: str = setting(
        "exact",
        help="grpo, ppo, sdft's gate: exact, last_number or places; a folder that method=reward has saved, "
        "or a function of yours by dotted path, which takes the row and the answer's text",
    )
    environment: str = setting(
        "single_turn",
        help="grpo, ppo: single_turn; calculator, which answers <<12*34= in the text; python, which runs "
        "what stands in <python></python>; or a class of yours by dotted path, which takes the reward",
    )
    kl: float = setting(0.0, minimum=0.0, help="grpo, ppo: weight of the KL to the model as the run began")
    clip: float = setting(0.2, minimum=0.0, help="grpo, ppo: how far a ratio may move a token")
    divergence: str = setting(
        "forward", choices=("forward", "reverse", "jensen_shannon"), help="sdft: of teacher and student"
    )
    top_k: int = setting(0, minimum=0, help="sdft: compare the likeliest tokens and the rest as one; 0 all")
    estimator: str = setting(
        "analytic", choices=("analytic", "sampled", "rao_blackwell"), help="sdft: of the gradient"
    )
    teacher: str = setting("average", choices=("average", "frozen", "live"), help="sdft: whose weights teach")
    teacher_rate: float = setting(
        0.02, minimum=0.0, maximum=1.0, help="sdft: how fast an average follows, per step"
    )
    teacher_template: str | None = setting(
        None,
        help="sdft: text with {question} and {demonstration} that the teacher reads; unset is the paper's",
    )
    skip: int = setting(
        0, minimum=0, help="sdft: tokens at the beginning of answers that are not learnt from"
    )
    gate: str = setting(
        "likelihood",
        choices=("likelihood", "answers"),
        help="sdft, before training begins: likelihood asks whether another row's demonstration makes a "
        "row's answer likelier, for rows that share a task; answers, whether the model's own answers with "
        "the row's demonstration in view are better by `reward`, for rows that are facts of their own",
    )
    least_gain: float | None = setting(
        0.0,
        help="sdft: what the gate must measure, beyond chance: nats per token, or reward; null has no gate",
    )

    @property
    def updates(self) -> int:
        """Optimizer steps of a batch of answers."""
        return self.epochs * self.minibatches


@dataclass(frozen=True)
class Finetune(TrainingRun):
    """Train a model on examples of what it shall write."""

    model: str = setting("model", help="model folder, run folder or adapter to begin from")
    method: str = setting(
        "sft",
        choices=METHODS,
        component="objectives",
        help="sft: what the answers are; dft: so too, each token weighed by its probability; dpo: to prefer "
        "the chosen answer; reward: to tell which answer is preferred; sdft: from its own answers, taught by "
        "itself with the example in context; grpo, ppo: from its own answers and rewards; or an objective of "
        "yours",
    )
    data: Examples = setting(Examples, help="the examples")
    loss: Loss = setting(Loss, help="what sft, dft, dpo and reward can be told")
    on_policy: OnPolicy = setting(OnPolicy, help="what sdft, grpo and ppo can be told")
    rollout: Rollouts = setting(Rollouts, help="the actors that sample for sdft, grpo and ppo")
    replay: Replay = setting(Replay, help="old rows among the new ones")
    evaluation: Evaluation = setting(Evaluation, help="tasks that are measured before, during and after")


def refuse_on_policy(settings: Finetune, prefix: str = "") -> None:
    """Refuse settings of a method that learns from its own answers which cannot go together.

    Raises:
        ConfigError: one sentence with the keys, the numbers and the remedy.
    """
    refuse_rollouts(settings.rollout, f"{prefix}rollout.")
    several = math.lcm(*range(settings.cluster.fewest_workers, settings.cluster.workers + 1))
    if settings.on_policy.prompts % several:
        raise ConfigError(
            f"{prefix}on_policy.prompts={settings.on_policy.prompts} cannot be shared by "
            f"{settings.cluster.workers} workers (it must be a multiple of {several})"
        )
    refuse_own_draws(settings.rollout, f"method={settings.method}", settings.lora.rank, prefix)
    _updates(settings, prefix)
    if settings.method == "grpo" and (settings.on_policy.samples or 2) < 2:
        raise ConfigError(f"{prefix}on_policy.samples=1 leaves nothing to compare with; give 2 or more")
    environment = settings.on_policy.environment
    if settings.method == "sdft" and environment != "single_turn":
        raise ConfigError(
            f"{prefix}on_policy.environment={environment} answers for {prefix}method=grpo and ppo; sdft has "
            "nothing to judge, leave it out"
        )
    estimator = settings.on_policy.estimator
    if settings.method == "sdft" and estimator != "analytic" and settings.on_policy.divergence != "reverse":
        raise ConfigError(
            f"{prefix}on_policy.estimator={estimator} is of reverse KL; give "
            f"{prefix}on_policy.divergence=reverse, or estimator=analytic"
        )


def _updates(settings: Finetune, prefix: str) -> None:
    own, train = settings.on_policy, settings.train
    if own.updates == 1:
        return
    name = "epochs" if own.epochs > 1 else "minibatches"
    given = f"{prefix}on_policy.{name}={getattr(own, name)}"
    if settings.method == "sdft":
        raise ConfigError(
            f"{given} is for {prefix}method=grpo and ppo, which clip; sdft takes one step a batch"
        )
    least = own.minibatches * settings.cluster.workers
    sequences = own.prompts * (own.samples or 8)
    if sequences < least:
        raise ConfigError(
            f"{given} leaves parts without a sequence for every worker: {sequences} answers for "
            f"{settings.cluster.workers} workers; give {prefix}on_policy.minibatches of at most "
            f"{sequences // settings.cluster.workers}"
        )
    if train.spike_factor or train.on_nonfinite == "rollback":
        back = f"train.spike_factor={train.spike_factor:g}" if train.spike_factor else "on_nonfinite=rollback"
        raise ConfigError(
            f"{given} cannot go with {prefix}{back}, which leaves whole batches out; leave one of them out"
        )
