"""Rules between settings that no single setting can state; each failure names the numbers and the remedy.

What needs the corpus or the machine (its sequence length, whether it has CUDA) is checked where that
is known; :func:`derive_batch` is here for the training driver to call.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from codex_ray.config.common import Alerts, Cluster, Device, Mlflow
from codex_ray.config.corpora import RULES as CORPORA_RULES
from codex_ray.config.corpus import Duplicates, Prepare, Split
from codex_ray.config.discover import Ablation, Discover, refuse_ablation, refuse_search
from codex_ray.config.engine import refuse_deepspeed, refuse_sequence_parallel
from codex_ray.config.evaluate import Evaluate, refuse_measurement
from codex_ray.config.fields import MASK
from codex_ray.config.finetune import ON_POLICY, Finetune, kind_of, refuse_on_policy
from codex_ray.config.followed import refuse_evaluation, refuse_replay
from codex_ray.config.model import Model
from codex_ray.config.plan import Plan
from codex_ray.config.quickstart import Quickstart
from codex_ray.config.ramps import refuse_ramps
from codex_ray.config.rollout import refuse_own_draws, refuse_rollouts
from codex_ray.config.runs import RULES as RUNS_RULES
from codex_ray.config.sweep import RULES as SWEEP_RULES
from codex_ray.config.tokenizer import Decode, Encode, TrainTokenizer
from codex_ray.config.train import Checkpoints, Optimizer, Pretrain, Training, TrainingRun
from codex_ray.config.use import Generate, refuse_generation
from codex_ray.errors import ConfigError
from codex_ray.plugins import find, is_own

MOST_ROWS_AT_A_TIME = 16


@dataclass(frozen=True)
class BatchPlan:
    """How one optimizer step's rows are shared out.

    ``global_rows = workers * rows_per_worker`` and ``rows_per_worker = micro_rows * accumulation``.
    """

    global_rows: int
    rows_per_worker: int
    micro_rows: int
    accumulation: int


def derive_batch(
    batch_tokens: int,
    sequence_length: int,
    workers: int,
    micro_batch_rows: int | None = None,
    prefix: str = "",
    *,
    fewest: int | None = None,
    key: str = "train.batch_tokens",
) -> BatchPlan:
    """Share ``batch_tokens`` out over workers and micro-batches.

    Args:
        batch_tokens: tokens per optimizer step over all workers.
        sequence_length: tokens per row of the corpus.
        workers: training workers.
        micro_batch_rows: rows per worker at a time; ``None`` takes the most that divides and fits 16.
        prefix: dotted prefix of the keys in errors.
        fewest: the batch must divide over every number of workers from this one on; unset is ``workers``.
        key: the setting that holds ``batch_tokens``, for errors.

    Raises:
        ConfigError: it does not divide; the sentence holds the numbers and the nearest batch that does.
    """
    several = math.lcm(*range(fewest or workers, workers + 1))
    unit = sequence_length * several * (micro_batch_rows or 1)
    if batch_tokens % unit:
        below = batch_tokens // unit * unit
        works = (f"{below} or " if below else "") + f"{below + unit}"
        rows = f" in micro-batches of {micro_batch_rows} rows" if micro_batch_rows else ""
        over = f"{fewest} to {workers}" if (fewest or workers) < workers else f"{workers}"
        raise ConfigError(
            f"{prefix}{key}={batch_tokens} cannot be divided into rows of {sequence_length} "
            f"tokens over {over} workers{rows} (it must be a multiple of {unit}); "
            f"give {prefix}{key}={works}"
        )
    rows_per_worker = batch_tokens // (sequence_length * workers)
    micro_rows = micro_batch_rows or max(
        rows for rows in range(1, MOST_ROWS_AT_A_TIME + 1) if rows_per_worker % rows == 0
    )
    return BatchPlan(rows_per_worker * workers, rows_per_worker, micro_rows, rows_per_worker // micro_rows)


def check(settings: Any, prefix: str = "") -> None:
    """Check settings against each other; classes without rules pass.

    Args:
        settings: any settings dataclass.
        prefix: dotted prefix of its keys in errors.

    Raises:
        ConfigError: one sentence with the numbers and the remedy.
    """
    rule = _RULES.get(type(settings))
    if rule is not None:
        rule(settings, prefix)


def _pretrain(settings: Pretrain, prefix: str) -> None:
    _model(settings.model, f"{prefix}model.")
    if settings.lora.rank and settings.start is None and not settings.lora.merge:
        raise ConfigError(
            f"{prefix}lora.rank={settings.lora.rank} on fresh weights leaves adapters of a base that is "
            f"written nowhere; give {prefix}start=FOLDER, {prefix}lora.merge=true, or {prefix}lora.rank=0"
        )
    if settings.depth is not None and settings.model.base_width is not None:
        raise ConfigError(
            f"{prefix}depth={settings.depth} derives the rates of this size and {prefix}model.base_width="
            f"{settings.model.base_width} takes them for those of another; leave one of them out"
        )
    _training_run(settings, prefix)
    refuse_sequence_parallel(settings, prefix)
    refuse_evaluation(settings.evaluation, "pretrain", settings.checkpoints.best_metric, prefix)
    if settings.evaluation.held_out:
        raise ConfigError(
            f"{prefix}evaluation.held_out=true asks for rows held out of examples, and a corpus of text has "
            "its validation; leave it out"
        )
    if settings.evaluation.tasks and settings.cluster.sequence_parallel > 1:
        raise ConfigError(
            f"{prefix}evaluation.tasks are answered by whole models and {prefix}cluster.sequence_parallel="
            f"{settings.cluster.sequence_parallel} shares each sequence; leave one of them out"
        )


def _finetune(settings: Finetune, prefix: str) -> None:
    _training_run(settings, prefix)
    shared = settings.cluster.sequence_parallel
    ramps = [name for name in ("batch_ramp", "sequence_ramp") if getattr(settings.train, name)]
    if shared > 1 or ramps:
        given = f"cluster.sequence_parallel={shared}" if shared > 1 else f"train.{ramps[0]}"
        raise ConfigError(f"{prefix}{given} is for pretraining: rows of examples are not cut; leave it out")

    if settings.validation.asynchronous and kind_of(settings.method) == "preferences":
        raise ConfigError(
            f"{prefix}validation.asynchronous=true measures the loss of text and {prefix}method="
            f"{settings.method} has another; leave it out"
        )
    if settings.method in ON_POLICY:
        refuse_on_policy(settings, prefix)
    refuse_replay(settings.replay, f"{prefix}replay.")
    refuse_evaluation(settings.evaluation, settings.method, settings.checkpoints.best_metric, prefix)
    if settings.loss.kl and settings.method not in ("sft", "dft"):
        raise ConfigError(
            f"{prefix}loss.kl={settings.loss.kl:g} is for {prefix}method=sft and dft; leave it out, or give "
            "one of these"
        )


def _discover(settings: Discover, prefix: str) -> None:
    _training_run(settings, prefix)
    refuse_rollouts(settings.rollout, f"{prefix}rollout.")
    refuse_own_draws(
        settings.rollout, f"learn.objective={settings.learn.objective}", settings.lora.rank, prefix
    )
    refuse_search(settings, prefix)


def _ablation(settings: Ablation, prefix: str) -> None:
    _discover(settings, prefix)
    refuse_ablation(settings, prefix)


def _training_run(settings: TrainingRun, prefix: str) -> None:
    _run_name(settings.name, prefix)
    _components(settings, prefix)
    _lora(settings, prefix)
    _optimizer(settings.optimizer, f"{prefix}optimizer.")
    _duration(settings.train, settings.schedule.kind, prefix)
    _device(settings.compute, f"{prefix}compute.")
    _cluster(settings.cluster, settings.compute, prefix)
    refuse_deepspeed(settings, prefix)
    if settings.train.compile and settings.deepspeed.stage == 3:
        raise ConfigError(
            f"{prefix}train.compile=true cannot go with {prefix}deepspeed.stage=3, which gathers weights "
            f"within sublayers; give {prefix}deepspeed.stage=2, or leave {prefix}train.compile unset"
        )
    _going_back(settings, prefix)
    refuse_ramps(settings.train, prefix)
    _checkpoints(settings.checkpoints, f"{prefix}checkpoints.")
    _mlflow(settings.track.mlflow, f"{prefix}track.mlflow.")
    _alerts(settings.track.alerts, f"{prefix}track.alerts.")
    _samples(settings, prefix)
    _validation(settings, prefix)


def _components(settings: TrainingRun, prefix: str) -> None:
    """Load what others bring now, not when the first step needs it."""
    if not is_own("schedules", settings.schedule.kind):
        find("schedules", settings.schedule.kind, f"{prefix}schedule.kind")
    for name in settings.track.trackers:
        find("trackers", name, f"{prefix}track.trackers")


def _lora(settings: TrainingRun, prefix: str) -> None:
    if not settings.lora.rank:
        return
    other = "optimizer.kind=muon" if settings.optimizer.kind == "muon" else None
    other = "validation.asynchronous=true" if settings.validation.asynchronous else other
    if other is not None:
        raise ConfigError(
            f"{prefix}lora.rank={settings.lora.rank} cannot go with {prefix}{other}; leave that out, or give "
            f"{prefix}lora.rank=0 to train all weights"
        )
    if not settings.lora.targets:
        raise ConfigError(f"{prefix}lora.targets is empty, so nothing would be trained; give all-linear")


def _plan(settings: Plan, prefix: str) -> None:
    _pretrain(settings, prefix)
    if settings.lora.rank:
        raise ConfigError(
            f"{prefix}lora.rank={settings.lora.rank} cannot be planned: the plan is of training all weights; "
            f"give {prefix}lora.rank=0"
        )
    if settings.card == "cpu" and settings.compute.device == "cuda":
        raise ConfigError(
            f"{prefix}card=cpu cannot go with {prefix}compute.device=cuda; give {prefix}compute.device=cpu, "
            f"or a card such as {prefix}card=H200"
        )


def _going_back(settings: TrainingRun, prefix: str) -> None:
    factor = settings.train.spike_factor
    if 0 < factor <= 1:
        raise ConfigError(
            f"{prefix}train.spike_factor={factor:g} calls ordinary losses spikes; give more than 1, such as 3"
        )
    what = settings.train.on_nonfinite
    if what != "skip" and settings.compute.dtype == "float16":
        raise ConfigError(
            f"{prefix}train.on_nonfinite={what} cannot go with {prefix}compute.dtype=float16, whose loss "
            "scale overflows now and then by design; give skip"
        )


def _checkpoints(checkpoints: Checkpoints, prefix: str) -> None:
    scheme, separator, _ = (checkpoints.storage or "").partition("://")
    if checkpoints.storage == "" or (separator and "/" not in scheme and scheme not in ("s3", "gs")):
        raise ConfigError(
            f"{prefix}storage={checkpoints.storage!r} is no place for checkpoints; give a folder, "
            "s3://BUCKET/PREFIX or gs://BUCKET/PREFIX"
        )


def _prepare(settings: Prepare, prefix: str) -> None:
    _split(settings.split, f"{prefix}split.")
    _duplicates(settings.duplicates, f"{prefix}duplicates.")
    if settings.clean.min_bytes > settings.clean.max_bytes:
        raise ConfigError(
            f"{prefix}clean.min_bytes={settings.clean.min_bytes} is above "
            f"{prefix}clean.max_bytes={settings.clean.max_bytes}, so no document could stay; lower the first"
        )
    if not settings.suffixes:
        raise ConfigError(
            f"{prefix}suffixes is empty, so no file would be read; give {prefix}suffixes=[.txt]"
        )
    _mlflow(settings.track.mlflow, f"{prefix}track.mlflow.")


def _quickstart(settings: Quickstart, prefix: str) -> None:
    check(settings.prepare, f"{prefix}prepare.")
    pretrain = settings.pretrain
    if _lengths(pretrain.train) == []:
        pretrain = replace(pretrain, train=replace(pretrain.train, seconds=settings.seconds))
    check(pretrain, f"{prefix}pretrain.")
    derive_batch(
        settings.pretrain.train.batch_tokens,
        settings.prepare.pack.sequence_length,
        settings.pretrain.cluster.workers,
        settings.pretrain.train.micro_batch_rows,
        f"{prefix}pretrain.",
        fewest=settings.pretrain.cluster.min_workers,
    )


def _evaluate(settings: Evaluate, prefix: str) -> None:
    refuse_measurement(settings, prefix)
    _device(settings.compute, f"{prefix}compute.")
    _mlflow(settings.track.mlflow, f"{prefix}track.mlflow.")


def _generate(settings: Generate, prefix: str) -> None:
    refuse_generation(settings, prefix)
    _device(settings.compute, f"{prefix}compute.")


def _train_tokenizer(settings: TrainTokenizer, prefix: str) -> None:
    if settings.tokenizer.path is not None:
        raise ConfigError(
            f"{prefix}tokenizer.path={settings.tokenizer.path} names a trained tokenizer, so nothing is "
            "left to train; leave it out, or use it with prepare"
        )


def _encode(settings: Encode, prefix: str) -> None:
    if settings.text is not None and settings.files:
        raise ConfigError(f"both {prefix}text and {prefix}files given; give one of them")


def _decode(settings: Decode, prefix: str) -> None:
    if settings.ids and settings.file is not None:
        raise ConfigError(f"both {prefix}ids and {prefix}file given; give one of them")


def _run_name(name: str | None, prefix: str) -> None:
    if name is not None and (not name or "/" in name or name.startswith(".")):
        raise ConfigError(
            f"{prefix}name={name!r} is not a plain folder name; choose one without '/' that does not start "
            f"with '.', and put the folder in {prefix}runs"
        )


def _model(model: Model, prefix: str) -> None:
    if model.heads % model.key_value_heads:
        shares = [count for count in range(1, model.heads + 1) if model.heads % count == 0]
        raise ConfigError(
            f"{prefix}heads={model.heads} cannot be shared among "
            f"{prefix}key_value_heads={model.key_value_heads}; the latter must be one of "
            f"{', '.join(map(str, shares))}"
        )
    if model.head_size % 2:
        raise ConfigError(
            f"{prefix}head_size={model.head_size} is odd and rotary positions turn pairs; "
            f"give {model.head_size - 1} or {model.head_size + 1}"
        )
    residual = model.residual
    one_stream = residual.kind == "plain" or residual.streams == 1
    if one_stream and residual.exit == "learned":
        why = "kind=plain" if residual.kind == "plain" else "streams=1"
        raise ConfigError(
            f"{prefix}residual.exit=learned weighs several streams but {prefix}residual.{why} has one; "
            f"give {prefix}residual.exit=mean"
        )
    if residual.kind == "mhc_permutation" and residual.streams > 5:
        raise ConfigError(
            f"{prefix}residual.kind=mhc_permutation weighs all {math.factorial(residual.streams):,} orders "
            f"of {residual.streams} streams at each layer; give {prefix}residual.streams of at most 5"
        )


def _optimizer(optimizer: Optimizer, prefix: str) -> None:
    betas = optimizer.betas
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ConfigError(
            f"{prefix}betas={betas} must be two numbers from 0 to below 1, such as {prefix}betas=[0.9,0.95]"
        )


def _duration(train: Training, schedule: str, prefix: str) -> None:
    given = [f"{prefix}train.{name}" for name in _lengths(train)]
    if len(given) != 1:
        what = f"{' and '.join(given)} are all given" if given else "the length of training is not given"
        raise ConfigError(
            f"{what}; give exactly one of {prefix}train.steps, {prefix}train.epochs and {prefix}train.seconds"
        )
    if train.epochs == 0:
        raise ConfigError(f"{prefix}train.epochs=0 trains nothing; give a number above 0, such as 0.5")
    if train.seconds is not None and schedule not in ("wsd", "constant"):
        raise ConfigError(
            f"{prefix}train.seconds={train.seconds:g} leaves the number of steps open, which "
            f"{prefix}schedule.kind={schedule} must know; give schedule=wsd or schedule=constant, "
            f"or {prefix}train.steps"
        )


def _lengths(train: Training) -> list[str]:
    return [name for name in Training.ALTERNATIVES if getattr(train, name) is not None]


def _device(compute: Device, prefix: str) -> None:
    if compute.device == "cpu" and compute.dtype == "float16":
        raise ConfigError(
            f"{prefix}dtype=float16 is not possible with {prefix}device=cpu; "
            "give auto, float32 or bfloat16, or device=cuda"
        )


def _cluster(cluster: Cluster, compute: Device, prefix: str) -> None:
    gpus = cluster.gpus_per_worker
    if cluster.min_workers is not None and cluster.min_workers > cluster.workers:
        raise ConfigError(
            f"{prefix}cluster.min_workers={cluster.min_workers} is more than "
            f"{prefix}cluster.workers={cluster.workers}; give at most {cluster.workers}, or more workers"
        )
    if cluster.gpu_kind is not None and not gpus:
        raise ConfigError(
            f"{prefix}cluster.gpu_kind={cluster.gpu_kind} asks for a kind of GPU and "
            f"{prefix}cluster.gpus_per_worker is 0; give {prefix}cluster.gpus_per_worker=1 (cluster=gpu)"
        )
    for key in ("labels", "driver_labels"):
        for label, wanted in getattr(cluster, key).items():
            if not isinstance(wanted, str) or not wanted:
                raise ConfigError(
                    f"{prefix}cluster.{key}.{label} must be text, not {wanted!r}; give it in quotes, such as "
                    f"{prefix}cluster.{key}.{label}='\"{wanted}\"'"
                )
    if gpus > 0 and compute.device == "cpu":
        raise ConfigError(
            f"{prefix}compute.device=cpu would leave {gpus:g} GPUs per worker idle; "
            f"give {prefix}cluster.gpus_per_worker=0 or {prefix}compute.device=cuda"
        )
    if gpus == 0 and compute.device == "cuda":
        raise ConfigError(
            f"{prefix}compute.device=cuda needs a GPU for each of the {cluster.workers} workers and "
            f"{prefix}cluster.gpus_per_worker is 0; give {prefix}cluster.gpus_per_worker=1 (cluster=gpu)"
        )
    if gpus > 1 or (0 < gpus < 1 and cluster.workers > 1):
        raise ConfigError(
            f"{prefix}cluster.gpus_per_worker={gpus:g} with {cluster.workers} workers is not possible, one "
            f"process drives one GPU; give gpus_per_worker=1 and as many {prefix}cluster.workers as GPUs"
        )


def _split(split: Split, prefix: str) -> None:
    held_out = split.validation + split.test
    if held_out >= 1:
        raise ConfigError(
            f"{prefix}validation={split.validation:g} and {prefix}test={split.test:g} hold out every "
            "document; give shares whose sum is below 1"
        )


def _duplicates(duplicates: Duplicates, prefix: str) -> None:
    """Bands too strict for the similarity would leave most of the wanted pairs unseen, and nobody told."""
    similarity, places = duplicates.similarity, duplicates.bands * duplicates.rows

    def chance(rows: int) -> float:
        return float(1 - (1 - similarity**rows) ** (places // rows))

    if not duplicates.near or chance(duplicates.rows) >= 0.5:
        return
    fitting = next((rows for rows in range(duplicates.rows, 0, -1) if chance(rows) >= 0.9), 1)
    bands = max(places // fitting, math.ceil(math.log(0.1) / math.log(1 - similarity**fitting)))
    raise ConfigError(
        f"{prefix}bands={duplicates.bands} of {prefix}rows={duplicates.rows} compare only "
        f"{chance(duplicates.rows):.0%} of the documents that share {similarity:g} of their shingles; give "
        f"{prefix}rows={fitting} and {prefix}bands={bands}"
    )


def _mlflow(mlflow: Mlflow, prefix: str) -> None:
    scheme, separator, _ = (mlflow.uri or "").partition(":")
    known = ("sqlite", "file", "http", "https", "databricks", "postgresql", "mysql", "mssql")
    if mlflow.uri == "" or (separator and "/" not in scheme and scheme.split("+")[0] not in known):
        raise ConfigError(
            f"{prefix}uri={mlflow.uri!r} is not a tracking store that MLflow knows; give sqlite:///FILE, a "
            "folder, or https://HOST with allow_remote=true"
        )
    name = mlflow.register
    if name is not None and (not name.strip() or set(name) & set("/:") or not mlflow.enabled):
        why = "is no name" if mlflow.enabled else f"needs {prefix}enabled=true"
        raise ConfigError(
            f"{prefix}register={name!r} {why} in MLflow's registry; give a name without '/' and ':', or "
            "leave it out"
        )


def _validation(settings: TrainingRun, prefix: str) -> None:
    if settings.validation.asynchronous and settings.validation.patience:
        raise ConfigError(
            f"{prefix}validation.patience={settings.validation.patience} ends a run at a step, and with "
            f"{prefix}validation.asynchronous=true losses come some steps late; leave one of them out"
        )


def _samples(settings: TrainingRun, prefix: str) -> None:
    """One rank draws, so it must have all weights; compiled sublayers would be compiled for every length."""
    if not settings.track.samples.prompts:
        return
    against = {
        "deepspeed.stage=3": settings.deepspeed.stage == 3,
        "train.compile=true": settings.train.compile,
    }
    for key, given in against.items():
        if given:
            raise ConfigError(
                f"{prefix}track.samples.prompts cannot go with {prefix}{key}; leave the prompts out and use "
                "codex-ray generate on the model"
            )


def _alerts(alerts: Alerts, prefix: str) -> None:
    if alerts.url not in (None, MASK) and not _is_address(alerts.url or ""):
        raise ConfigError(
            f"{prefix}url must be an address that begins with https:// or http:// and a host; give the "
            "webhook's whole address"
        )
    if 0 < alerts.spike_factor <= 1:
        raise ConfigError(
            f"{prefix}spike_factor={alerts.spike_factor:g} calls ordinary losses spikes; give more than 1, "
            "such as 3"
        )


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:  # such as of half a bracket
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


_RULES: dict[type[Any], Callable[[Any, str], None]] = {
    Pretrain: _pretrain,
    Finetune: _finetune,
    Discover: _discover,
    Ablation: _ablation,
    Plan: _plan,
    Prepare: _prepare,
    Quickstart: _quickstart,
    Evaluate: _evaluate,
    Generate: _generate,
    TrainTokenizer: _train_tokenizer,
    Encode: _encode,
    Decode: _decode,
    **CORPORA_RULES,
    **RUNS_RULES,
    **SWEEP_RULES,
}
