"""The verb ``plan``: what a run would need, before anything is started."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from codex_ray.config.check import BatchPlan, derive_batch
from codex_ray.config.plan import Plan
from codex_ray.corpus.manifest import Manifest
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.files import write_json
from codex_ray.model import CodexRayConfig
from codex_ray.model.build import model_config
from codex_ray.model.flops import flops_per_token
from codex_ray.model.inspect import BYTES, Inspection, inspected, zero_shares
from codex_ray.plan.cards import CARDS, DISK_BYTES_PER_SECOND, PROCESS_BYTES, Card
from codex_ray.plan.measure import LAYERS, Measured, measure
from codex_ray.plan.memory import Memory, memory
from codex_ray.plan.reliability import daly_interval, goodput, young_interval
from codex_ray.plan.show import show
from codex_ray.plan.step import StepTime, step_on_card, step_on_cpu
from codex_ray.plan.work import parts
from codex_ray.tokenizer import Tokenizer
from codex_ray.track.environment import memory_bytes, nvidia_smi
from codex_ray.track.hardware import choose_dtype, data_sheet_flops, measure_matmul
from codex_ray.train.environment import threads_per_worker, worker_environment

SPECIAL_IDS = {"bos": 1, "eos": 2, "pad": 3}
STAGES = (0, 1, 2, 3)


@dataclass(frozen=True)
class Planned:
    """What a run would need.

    Attributes:
        card: what computes, ``cpu`` for this machine.
        nodes: of that kind; ``workers``: processes on them.
        parameters: of the model.
        dtype: compute precision.
        sequence_length: tokens per row; ``batch``: how a step's rows are shared out.
        memory: of one worker, by ZeRO stage (fp32 for stage 0) and kind of recomputation.
        stage: the one that the settings choose; ``recompute``: likewise.
        available: bytes that a worker may have.
        step: the time of one step.
        tokens_per_second: of all workers; ``mfu``: share of the peak.
        steps: of the run, if its length is known; ``seconds``: of all of it, failures included.
        checkpoint_bytes: of one checkpoint; ``checkpoint_seconds``: of writing it.
        young_seconds: between checkpoints, first order; ``best_seconds``: higher order (Daly).
        goodput: share of the time that makes progress, at the settings' interval; ``best_goodput``: at best.
        price: of the run, if a node's was given.
    """

    card: str
    nodes: int
    workers: int
    parameters: int
    dtype: str
    sequence_length: int
    batch: BatchPlan
    memory: dict[int, dict[str, Memory]]
    stage: int
    recompute: str
    available: float
    step: StepTime
    tokens_per_second: float
    mfu: float
    steps: int | None
    seconds: float | None
    checkpoint_bytes: float
    checkpoint_seconds: float
    young_seconds: float
    best_seconds: float
    goodput: float
    best_goodput: float
    price: float | None

    @property
    def chosen(self) -> Memory:
        """Memory of a worker as the settings have it."""
        return self.memory[self.stage][self.recompute]

    def data(self) -> dict[str, Any]:
        """Return it as plain data, totals beside their parts."""
        found = asdict(self)
        found["step"]["total"] = self.step.total
        for stage, kinds in self.memory.items():
            for kind, needed in kinds.items():
                found["memory"][stage][kind]["total"] = needed.total
        return found


@dataclass(frozen=True)
class _Subject:
    """What is planned: settings beside what follows from them and from the corpus."""

    settings: Plan
    config: CodexRayConfig
    found: Inspection
    batch: BatchPlan
    length: int
    dtype: str
    rows: int | None


def plan(settings: Plan) -> Planned:
    """Plan a run, print it, and write it as JSON where asked.

    Raises:
        ConfigError: neither a corpus nor a vocabulary and a sequence length are known, or the batch does not
            divide.
        CodexRayError: this machine cannot be measured, or has no card that is known.
    """
    planned = planned_run(settings)
    show(planned, settings, not_counted(settings))
    if settings.output is not None:
        write_json(Path(settings.output), planned.data())
    return planned


def planned_run(settings: Plan) -> Planned:
    """Return the plan of a run."""
    card = _card(settings)
    subject = _subject(settings, card)
    measured = _measured(subject) if card is None else None
    step = _step(subject, card, measured)
    tokens = subject.batch.global_rows * subject.length
    workers = settings.cluster.workers
    nodes = math.ceil(workers / card.per_node) if card else 1
    size, write = _checkpoint(subject, nodes, measured)
    between = settings.node_failure_hours * 3600 / nodes
    best = daly_interval(write, between)
    interval = settings.checkpoints.every * step.total
    reached = goodput(interval, write, between, settings.recovery_seconds)
    steps = _steps(subject)
    working = settings.train.seconds if steps is None else steps * step.total
    seconds = None if working is None or not reached else working / reached
    price = None
    if seconds is not None and settings.node_price is not None:
        price = seconds / 3600 * nodes * settings.node_price
    peak = card.rate(subject.dtype) if card else measure_matmul(subject.dtype, _threads(settings))
    process, heap = _process(subject, measured) if measured else (PROCESS_BYTES, 1.0)
    return Planned(
        card=card.name if card else "cpu",
        nodes=nodes,
        workers=workers,
        parameters=subject.found.parameters,
        dtype=subject.dtype,
        sequence_length=subject.length,
        batch=subject.batch,
        memory={stage: _memory(subject, stage, process, heap, on_cpu=card is None) for stage in STAGES},
        stage=settings.deepspeed.stage,
        recompute=settings.train.recompute,
        available=card.memory if card else _machine_bytes() / workers,
        step=step,
        tokens_per_second=tokens / step.total,
        mfu=tokens * flops_per_token(subject.config, subject.length) / step.total / (peak * workers),
        steps=steps,
        seconds=seconds,
        checkpoint_bytes=size,
        checkpoint_seconds=write,
        young_seconds=young_interval(write, between),
        best_seconds=best,
        goodput=reached,
        best_goodput=goodput(best, write, between, settings.recovery_seconds),
        price=price,
    )


def _card(settings: Plan) -> Card | None:
    """Return the card that is planned for; None is this machine's CPU."""
    if settings.card in CARDS:
        return CARDS[settings.card]
    on_gpu = settings.compute.device == "cuda" or settings.cluster.gpus_per_worker > 0
    if settings.card == "cpu" or not on_gpu:
        return None
    found = nvidia_smi("name", "memory.total", "mig.mode.current")
    name = found[0]["name"] if found else ""
    words = name.upper().replace("-", " ").split()
    whole = bool(found) and found[0].get("mig.mode.current") != "Enabled"
    for card in CARDS.values():
        if whole and card.name in words and data_sheet_flops(name) == card.flops:
            with suppress(ValueError):  # "[N/A]" leaves the data sheet's
                return replace(card, memory=float(found[0].get("memory.total", "")) * 2**20)
            return card
    seen = f"this machine's {name} is not known" if found else "this machine has no GPU"
    raise CodexRayError(f"the run is for GPUs and {seen}; say what is planned for: card={' or '.join(CARDS)}")


def _subject(settings: Plan, card: Card | None) -> _Subject:
    manifest = (
        Manifest.load(Path(settings.corpus)) if (Path(settings.corpus) / "manifest.json").exists() else None
    )
    vocabulary = settings.vocabulary_size
    if vocabulary is None and manifest is not None:
        vocabulary = Tokenizer.load(Path(settings.corpus) / "tokenizer").vocabulary_size
    length = settings.sequence_length or (
        manifest.sequence_length if manifest else settings.model.max_positions
    )
    if vocabulary is None or length is None:
        raise ConfigError(
            f"there is no corpus in {settings.corpus}, so the plan needs vocabulary_size and "
            "sequence_length; give them, such as vocabulary_size=32768 sequence_length=4096, or name a corpus"
        )
    batch = derive_batch(
        settings.train.batch_tokens,
        length,
        settings.cluster.replicas,
        settings.train.micro_batch_rows,
        fewest=settings.cluster.min_workers,
    )
    config = model_config(
        settings.model, vocabulary_size=vocabulary, sequence_length=length, special_ids=SPECIAL_IDS
    )
    found = inspected(config, name="planned", sequence_length=length, workers=settings.cluster.workers)
    rows = manifest.splits["train"].rows if manifest else None
    return _Subject(settings, config, found, batch, length, _dtype(settings, card), rows)


def _dtype(settings: Plan, card: Card | None) -> str:
    if settings.compute.dtype != "auto":
        return "bfloat16" if settings.compute.dtype == "float16" else settings.compute.dtype  # the same size
    if settings.deepspeed.stage == 0:
        return "float32"
    return "bfloat16" if card else choose_dtype("cpu", _threads(settings))[0]


def _threads(settings: Plan) -> int:
    return threads_per_worker(settings.cluster)


def _measured(subject: _Subject) -> Measured:
    settings = subject.settings
    return measure(
        settings,
        subject.config.to_dict(),
        subject.batch,
        subject.length,
        subject.dtype,
        worker_environment(settings, _threads(settings)),
    )


def _step(subject: _Subject, card: Card | None, measured: Measured | None) -> StepTime:
    settings, batch = subject.settings, subject.batch
    size = 2 if subject.dtype == "bfloat16" else 4
    tokens = batch.micro_rows * subject.length
    work = parts(subject.config, tokens, subject.length, size, settings.train.recompute)
    tensors, numbers = subject.found.tensors, subject.found.parameters
    if card is None:
        assert measured is not None
        step = step_on_cpu(work, batch, measured, tensors, numbers)
    else:
        step = step_on_card(
            work,
            batch,
            card,
            settings,
            tensors=tensors,
            numbers=numbers,
            matrices=subject.found.roles["matrix"],
            dtype=subject.dtype,
        )
    shared_by = settings.cluster.sequence_parallel
    return replace(step, parts={name: seconds / shared_by for name, seconds in step.parts.items()})


def _process(subject: _Subject, measured: Measured) -> tuple[float, float]:
    """Bytes of a worker without a model, and that its allocator takes for each byte asked for.

    The closed form for one and for three layers is laid beside what processes that trained such models held.
    """
    stage, kind = subject.settings.deepspeed.stage, subject.settings.train.recompute
    whole_rows = replace(subject.settings.cluster, sequence_parallel=1)  # as those processes had
    settings = replace(subject.settings, cluster=whole_rows)
    asked = []
    for layers in LAYERS:
        config = CodexRayConfig.from_dict({**subject.config.to_dict(), "num_hidden_layers": layers})
        found = inspected(config, name="planned", sequence_length=subject.length, workers=1)
        small = replace(subject, settings=settings, config=config, found=found)
        asked.append(_memory(small, stage, 0.0, 1.0, on_cpu=True)[kind].model)
    few, more = measured.peaks
    heap = max(1.0, (more - few) / (asked[1] - asked[0]))
    return few - heap * asked[0], heap


def _memory(subject: _Subject, stage: int, process: float, heap: float, *, on_cpu: bool) -> dict[str, Memory]:
    """Memory by kind of recomputation; stage 0 is in fp32, which is all that it can do here."""
    return {
        kind: memory(
            subject.settings,
            subject.config,
            subject.batch,
            parameters=subject.found.parameters,
            matrices=subject.found.roles["matrix"],
            sequence_length=subject.length,
            dtype=subject.dtype if stage else "float32",
            stage=stage,
            on_cpu=on_cpu,
            process=process,
            heap=heap,
            recompute=kind,
        )
        for kind in ("none", "streams", "layers")
    }


def _checkpoint(subject: _Subject, nodes: int, measured: Measured | None) -> tuple[float, float]:
    """Bytes of a checkpoint, weights, masters and moments, and the seconds of writing it on all nodes."""
    shares = zero_shares(subject.found.parameters, subject.dtype, subject.settings.deepspeed.stage, 1)
    size = shares[0] + shares[2] + shares[3]
    if subject.settings.optimizer.kind == "muon":
        size -= BYTES["float32"] * subject.found.roles["matrix"]  # which have one moment
    rate = subject.settings.disk_bytes_per_second or (measured.disk if measured else DISK_BYTES_PER_SECOND)
    return size, size / (rate * nodes)


def not_counted(settings: Plan) -> list[str]:
    """Name the settings of this run that change its memory or time and that the plan leaves out."""
    config = settings.deepspeed.config
    further = [*config.get("zero_optimization", {}), *(key for key in config if key != "zero_optimization")]
    found = {
        "train.batch_ramp": settings.train.batch_ramp,
        "train.sequence_ramp": settings.train.sequence_ramp,
        "train.ema_decay": settings.train.ema_decay,
        "train.compile": settings.train.compile,
        "cluster.sequence_parallel (its exchanges)": settings.cluster.sequence_parallel > 1,
        "deepspeed.autocast": settings.deepspeed.autocast,
    } | {f"deepspeed.config ({key})": True for key in further if key != "overlap_comm"}
    return [name for name, value in found.items() if value]


def _steps(subject: _Subject) -> int | None:
    training = subject.settings.train
    if training.epochs is None or subject.rows is None:
        return training.steps
    return max(1, math.ceil(training.epochs * subject.rows / subject.batch.global_rows))


def _machine_bytes() -> float:
    found = memory_bytes()
    return float(min(limit for limit in found.values() if limit is not None))
