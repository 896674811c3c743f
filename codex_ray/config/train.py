"""Settings of ``pretrain``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from codex_ray.config.common import DEFAULT_SEED, Cluster, Device, Track
from codex_ray.config.dial import TOKENS_PER_PARAMETER
from codex_ray.config.fields import setting
from codex_ray.config.followed import Evaluation
from codex_ray.config.model import Model


@dataclass(frozen=True)
class Optimizer:
    """AdamW on everything, or Muon on hidden matrices and AdamW on the rest."""

    kind: str = setting("adamw", choices=("adamw", "muon"), help="muon takes attention and MLP matrices")
    learning_rate: float = setting(4e-3, minimum=0.0, help="peak rate of AdamW parameters")
    matrix_learning_rate: float = setting(0.02, minimum=0.0, help="peak rate of Muon's matrices")
    betas: list[float] = setting([0.9, 0.95], help="AdamW's two decay rates")
    eps: float = setting(1e-8, minimum=0.0, help="AdamW's epsilon")
    weight_decay: float = setting(
        0.1, minimum=0.0, help="decoupled decay of matrices; never of norms, biases and gates"
    )
    momentum: float = setting(0.95, minimum=0.0, maximum=1.0, help="Muon's momentum (Nesterov)")
    newton_schulz_steps: int = setting(5, minimum=1, help="orthogonalisation steps of Muon")
    clip_norm: float = setting(1.0, minimum=0.0, help="global gradient norm limit; 0 is none")


@dataclass(frozen=True)
class Schedule:
    """Learning rate over optimizer steps, as a share of the peak."""

    kind: str = setting(
        "cosine",
        choices=("cosine", "wsd", "linear", "constant"),
        component="schedules",
        help="shape after warm-up; or a function of yours",
    )
    warmup_steps: int = setting(20, minimum=0, help="optimizer steps of linear warm-up")
    decay_share: float = setting(
        0.5, minimum=0.0, maximum=1.0, help="share of the run that wsd spends decaying"
    )
    final_share: float = setting(
        0.0, minimum=0.0, maximum=1.0, help="rate at the end, as a share of the peak"
    )


@dataclass(frozen=True)
class DeepSpeed:
    """The engine."""

    stage: int = setting(1, choices=(0, 1, 2, 3), help="ZeRO stage")
    bucket_elements: int = setting(10_000_000, minimum=1000, help="elements reduced or gathered at a time")
    autocast: bool = setting(
        False, help="weights stay float32, and matrix products alone run in compute.dtype (torch_autocast)"
    )
    config: dict[str, Any] = setting({}, help="further DeepSpeed keys, merged last (offload and so on)")


@dataclass(frozen=True)
class Checkpoints:
    """When the whole state is written, and what is kept."""

    every: int = setting(
        200, minimum=1, help="optimizer steps between checkpoints; the last is always written"
    )
    keep_last: int = setting(2, minimum=1, help="newest checkpoints kept")
    keep_best: int = setting(1, minimum=0, help="best checkpoints by `best_metric` kept as well; 0 is none")
    best_metric: str = setting("validation_loss", help="figure of the metrics line that `keep_best` goes by")
    best_mode: str = setting("min", choices=("min", "max"), help="whether a low or a high figure is good")
    keep_every: int = setting(
        0, minimum=0, help="also keep, for ever, checkpoints whose step is a multiple of this; 0 is none"
    )
    asynchronous: bool = setting(
        True,
        help="write beside training, from a copy in host memory as large as a worker's share of the state",
    )
    compression: str = setting("none", choices=("none", "zstd"), help="compression of checkpoint files")
    storage: str | None = setting(
        None, help="where each checkpoint is copied to as well: a folder, s3://BUCKET/PREFIX or gs://..."
    )
    timeout_seconds: float = setting(
        600.0,
        minimum=1.0,
        help="longest wait for a checkpoint to be written, and for one answer of `storage`",
    )


@dataclass(frozen=True)
class Validation:
    """Loss on held-out rows while training."""

    every: int = setting(200, minimum=0, help="optimizer steps between validations; 0 only at the end")
    rows: int = setting(128, minimum=0, help="validation rows used each time; 0 never validates")
    asynchronous: bool = setting(
        False, help="a spare worker measures while training goes on; the last one is measured by all"
    )
    patience: int = setting(
        0, minimum=0, help="end the run after so many validations without a lower loss; 0 never"
    )


@dataclass(frozen=True)
class Training:
    """How long, how much at a time, and what happens when a number is not finite."""

    # Giving one of these unsets the others, wherever their value came from.
    ALTERNATIVES: ClassVar[tuple[str, ...]] = ("steps", "epochs", "seconds")

    steps: int | None = setting(None, minimum=1, help="optimizer steps; unset takes `epochs` or `seconds`")
    epochs: float | None = setting(
        None, minimum=0.0, help="passes over the corpus (as many rows as it has), instead of steps"
    )
    seconds: float | None = setting(
        None, minimum=1.0, help="training time, instead of steps; needs schedule.kind=wsd or constant"
    )
    batch_tokens: int = setting(4096, minimum=1, help="tokens per optimizer step, over all workers")
    documents: str = setting(
        "joined",
        choices=("joined", "separate"),
        help="separate: within a row, attention and positions begin again with each document",
    )
    batch_ramp: list[list[int]] = setting(
        [],
        help="pairs [tokens, batches]: so many batches of so many tokens each, pair after pair, before "
        "all others have batch_tokens",
    )
    sequence_ramp: list[list[int]] = setting(
        [],
        help="pairs [length, batches]: for so many batches, rows are cut into sequences of so many tokens",
    )
    ema_decay: float = setting(
        0.0, minimum=0.0, maximum=1.0, help="decay of an exponential moving average of the weights; 0 is none"
    )
    ema_for: list[str] = setting(
        ["export", "validation"],
        choices=("export", "validation"),
        help="what takes the average instead of the weights themselves, where there is one",
    )
    micro_batch_rows: int | None = setting(
        None, minimum=1, help="rows per worker at a time; unset takes the most that fits 16 rows"
    )
    recompute: str = setting(
        "none",
        choices=("none", "streams", "layers"),
        help="what the backward pass makes again to save memory: residual streams, or whole layers",
    )
    compile: bool = setting(
        False, help="compile attention and feed-forward: for GPUs; needs a C++ compiler, starts slower"
    )
    on_nonfinite: str = setting(
        "stop",
        choices=("stop", "skip", "rollback"),
        help="a non-finite loss or gradient ends the run, is left out, or goes back as spike_factor does",
    )
    spike_factor: float = setting(
        0.0,
        minimum=0.0,
        help="a loss over this times the median of the last 50 goes back to the newest checkpoint and leaves "
        "the batches since out; 0 never",
    )
    stop_after: int | None = setting(
        None, minimum=1, help="stop cleanly after this step, as Ctrl-C would; the run can be resumed"
    )


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters (LoRA, arXiv 2106.09685) in place of training all weights."""

    rank: int = setting(0, minimum=0, help="rank of the adapters; 0 trains all weights")
    alpha: float = setting(32.0, minimum=0.0, help="the update is scaled by alpha / rank")
    dropout: float = setting(0.0, minimum=0.0, maximum=1.0, help="dropout before the adapters")
    targets: list[str] = setting(
        ["all-linear"], help="names of the modules that get one; all-linear: all but the output's matrix"
    )
    modules_to_save: list[str] = setting([], help="modules trained whole beside the adapters")
    dora: bool = setting(False, help="weight-decomposed adapters (DoRA, arXiv 2402.09353)")
    merge: bool = setting(False, help="at the end write the whole model, with the adapters merged in")


@dataclass(frozen=True)
class TrainingRun:
    """What every training run has, whatever it trains on."""

    name: str | None = setting(None, help="run name; unset is made from the verb and the time")
    runs: str = setting("runs", help="folder that holds run folders")
    resume: str = setting(
        "never", choices=("never", "auto", "must"), help="whether an existing run folder continues"
    )
    seed: int = setting(DEFAULT_SEED, minimum=0, help="seed of weights and order; 0 becomes 1234")
    stream: str = setting(
        "ray",
        choices=("ray", "direct"),
        help="ray streams rows through Ray Data; direct reads shards; same order",
    )
    compute: Device = setting(Device, help="device and precision")
    lora: Lora = setting(Lora, help="adapters in place of all weights")
    optimizer: Optimizer = setting(Optimizer, help="the optimizer")
    schedule: Schedule = setting(Schedule, help="learning rate")
    deepspeed: DeepSpeed = setting(DeepSpeed, help="the engine")
    train: Training = setting(Training, help="duration and batch")
    checkpoints: Checkpoints = setting(Checkpoints, help="checkpoints")
    validation: Validation = setting(Validation, help="validation")
    cluster: Cluster = setting(Cluster, help="where it runs")
    track: Track = setting(Track, help="progress and records")


@dataclass(frozen=True)
class Pretrain(TrainingRun):
    """Train the decoder from scratch on a corpus folder."""

    corpus: str = setting("corpus", help="corpus folder written by prepare")
    start: str | None = setting(
        None, help="model folder to train on from (as upcycle writes), whose shape counts; unset is fresh"
    )
    depth: int | None = setting(
        None, minimum=1, help="layers from which shape, batch, rates and length follow (the depth dial)"
    )
    tokens_per_parameter: float = setting(
        TOKENS_PER_PARAMETER,
        minimum=0.001,
        help="with `depth`: tokens of the run per parameter of the layers",
    )
    model: Model = setting(Model, help="the decoder, where weights are fresh")
    evaluation: Evaluation = setting(Evaluation, help="tasks that are measured before, during and after")
