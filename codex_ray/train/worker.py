"""What each Ray Train worker runs: find the newest sound checkpoint, build, load, train, save.

The order matters for the time to the first step: the data stream starts before DeepSpeed is
imported and the model built, so that Ray Data warms up meanwhile.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from codex_ray.cluster.preflight import STREAM_CPUS_PER_WORKER
from codex_ray.config.train import TrainingRun
from codex_ray.corpus.manifest import Manifest
from codex_ray.errors import CodexRayError
from codex_ray.files import write_json
from codex_ray.model.lineage import lineage
from codex_ray.track.run_folder import RunFolder
from codex_ray.track.spans import Spans
from codex_ray.track.system import SystemSampler
from codex_ray.train.agree import agree
from codex_ray.train.assembly import Assembly
from codex_ray.train.checkpoint import CheckpointFolder, Found
from codex_ray.train.decisions import decide
from codex_ray.train.engine import Engine
from codex_ray.train.loop import State, evaluate, train
from codex_ray.train.messages import Messages
from codex_ray.train.preemption import LeavingError, Notice
from codex_ray.train.pulse import Pulse, clear_pulses
from codex_ray.train.recorder import Recorder
from codex_ray.train.resume import facts, refuse_other_checkpoint
from codex_ray.train.saver import Saver
from codex_ray.train.saving import load_checkpoint, save_model
from codex_ray.train.schedule import Plan
from codex_ray.train.source import OPEN_END, CorpusSource, sources_used
from codex_ray.train.spare import Spare
from codex_ray.train.spikes import MOST_ROLLBACKS, SpikeError, after_rollback
from codex_ray.train.store import Store, newest
from codex_ray.train.task import Task

Value = TypeVar("Value")


def train_worker(job: dict[str, Any]) -> dict[str, Any]:
    """Run one worker from start to end (called by Ray Train on every rank).

    Args:
        job: ``task`` (:class:`codex_ray.train.task.Task`), ``run`` (:class:`RunFolder`), ``threads`` of this
            worker, ``started`` (unix time of the user's command).

    Returns:
        ``status`` (``completed``, ``stopped`` or ``failed``), ``step`` and ``total_steps``.
    """
    import ray.train

    context = ray.train.get_context()
    rank = context.get_world_rank()
    run: RunFolder = job["run"]
    messages = Messages(run.attempt_folder)
    if messages.has_fatal():
        return {"status": "failed", "step": 0, "total_steps": None}
    log = _log_to(run.log("worker", rank))
    torch.set_num_threads(job["threads"])
    address = ray.util.get_node_ip_address()
    messages.send("worker", rank=rank, pid=os.getpid(), node=address)
    logging.info("worker %d of %d, process %d on %s", rank, dist.get_world_size(), os.getpid(), address)
    task, state, started = job["task"], State(), job["started"]
    settings = task.settings
    if rank == 0:
        clear_pulses(run.attempt_folder)
    dist.barrier()
    pulse = Pulse(run.attempt_folder, rank, address, lambda: state.place())
    sampled = settings.track.system_seconds if context.get_local_rank() == 0 else 0.0
    notice = Notice(settings.cluster)
    begin = partial(Worker, task, run, messages, notice)
    try:
        with SystemSampler(run.system(address), sampled):
            while (outcome := begin(started, state).work())["status"] == "again":
                state, started = State(), time.time()
                let_go()
            return outcome
    except LeavingError:
        raise
    except BaseException as error:
        logging.exception("worker %d ends", rank)
        run.record_error("worker", rank, state.step, state.phase, error)
        if isinstance(error, CodexRayError):
            with contextlib.suppress(OSError):  # the folder cannot be written: Ray Train finds that too
                messages.fatal(error)
        raise
    finally:
        notice.stop()
        pulse.stop()
        logging.getLogger().removeHandler(log)
        log.close()


def let_go() -> None:
    """Free what an engine held, for the next will hold as much; it and its model refer to each other."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _log_to(path: Path) -> logging.Handler:
    """Have what this process logs in a file of the run; Ray has handlers in place already."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)
    return handler


class Worker:
    """One rank's parts of a run, made in order by :meth:`work`."""

    def __init__(
        self,
        task: Task,
        run: RunFolder,
        messages: Messages,
        notice: Notice,
        started: float,
        state: State,
    ) -> None:
        self.task, self.notice, settings = task, notice, task.settings
        self.settings, self.run, self.messages, self.state = settings, run, messages, state
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.corpus = task.corpus
        self.manifest = Manifest.load(self.corpus)
        self.checkpoints = CheckpointFolder(run.checkpoints)
        self.store = Store.of(settings.checkpoints, run.name)
        self.device = _device(settings)
        self.shared_by = settings.cluster.sequence_parallel
        self.replicas = self.world // self.shared_by
        self.batches = task.batches(self.manifest.sequence_length, self.replicas)
        spans = run.spans(self.rank) if settings.track.spans else None
        self.spans = Spans(spans, cuda=self.device.type == "cuda")
        self._order = self.manifest.order("train", settings.seed)
        self.spares: list[Spare] = []  # that are at work beside training
        self._marks: dict[str, float] = {}
        self._marked = started
        self.mark("command to workers")

    def work(self) -> dict[str, Any]:
        """Train from the newest sound checkpoint to the end, or to where the run is asked to stop."""
        found = self._agree(self._newest)
        self.decided = self._agree(
            lambda: decide(self.run, self.task, self.manifest, self.batches, self.device, found)
        )
        self.batches = replace(self.batches, skips=self.decided["skips"])
        self.state.step = found.step if found else 0
        if self.rank == 0:
            self.messages.send("begin", step=self.state.step)
        self.state.plan = Plan(self.decided["total_steps"], self.settings.train.seconds)
        self.mark("checkpoint search")
        source = None if self.task.on_policy else self._source()
        recorder = Recorder(self)
        saver = Saver(
            self.checkpoints,
            self.store,
            self.settings.checkpoints,
            self._facts,
            self.device,
            self.note,
            lambda: set[int]().union(*(spare.awaited for spare in self.spares)),
        )
        try:
            made = Assembly(self, resumed=found is not None)
            parts = made.parts(source, recorder, saver)
            if found:
                load_checkpoint(parts.engine, found, self.state, parts.source.restore)
                others = f", written by {found.world_size} workers" * (found.world_size != self.world)
                self.note(f"resumed from step {self.state.step}{others}")
            else:
                evaluate(parts, self.state, last=False)
            made.begin_rollouts(parts)
            recorder.continue_after(self.state.step, found.manifest.get("figures") if found else None)
            self.mark("checkpoint load")
            with saver:
                try:
                    complete = train(parts, self.state)
                except SpikeError as spike:
                    saver.wait()
                    parts.engine.close()
                    return self._go_back(spike)
            if self.state.leaving and not complete:
                self._leave()
            if complete:
                self._export(parts.engine, made.model)
            parts.engine.close()
            for spare in self.spares:
                spare.close()
            if self.spares and self.rank == 0:
                self.checkpoints.prune(self.settings.checkpoints)
        finally:
            if source is not None:
                source.close()
            for spare in self.spares:
                spare.drop()
            recorder.close()
            self.spans.close()
        status = "completed" if complete else "stopped"
        return {"status": status, "step": self.state.step, "total_steps": self.state.plan.total_steps}

    def _export(self, engine: Engine, model: Any) -> None:
        """Write the model folder."""
        self.state.phase = "export"
        averaged, merge = engine.averaged("export" in self.settings.train.ema_for), self.settings.lora.merge
        with self.spans.measure("export", self.state.step), averaged:
            origin = self._lineage()
            save_model(engine, model, self.run.model, self.corpus / "tokenizer", origin, merge=merge)

    def _lineage(self) -> dict[str, Any]:
        """Say where the model comes from."""
        manifest = self.manifest
        return lineage(
            manifest.life_id,
            str(self.run.path),
            manifest.fingerprint,
            verb=type(self.settings).__name__.lower(),
            corpus=self.corpus,
            origin=self.task.base,
        )

    def _leave(self) -> None:
        """End, with the checkpoint written, so that the run goes on where nodes stay.

        Raises:
            LeavingError: always.
        """
        if self.notice.given:
            self.messages.note(
                f"the node of rank {self.rank} is about to be taken away: the checkpoint of step "
                f"{self.state.step} is written, and the run goes on elsewhere"
            )
        if self.rank == 0:
            self.messages.send("leaving")
        dist.barrier()
        raise LeavingError

    def _go_back(self, spike: SpikeError) -> dict[str, Any]:
        """Write down which batches are left out when training goes on from the newest checkpoint.

        Raises:
            CodexRayError: it has happened too often.
        """
        skips = self.decided["skips"]
        if len(skips) >= MOST_ROLLBACKS:
            raise CodexRayError(
                f"{spike.reason}, and the run has gone back {len(skips)} times already; look at the data and "
                f"continue with resume=auto name={self.run.name} train.spike_factor=0 "
                "train.on_nonfinite=skip, or begin another run with a lower learning rate"
            )
        dist.barrier()  # no rank reads on before all have come here
        if self.rank == 0:
            step = self.checkpoints.back(self.settings.checkpoints.every)
            if self.store is not None:
                self.store.back(step)
            skips = after_rollback(skips, step, spike.step)
            write_json(self.run.path / "decided.json", self.decided | {"skips": skips})
            text = f"{spike.reason}: back to step {step}, {skips[-1][1]} batches are left out"
            self.messages.send("spike", text=text, step=spike.step)
        dist.barrier()
        return {"status": "again", "step": spike.step, "total_steps": self.state.plan.total_steps}

    def first_step_done(self) -> None:
        """Report how long each stage until the first optimizer step took."""
        self.mark("first step")
        if self.settings.train.compile:
            graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
            logging.info("sublayers are compiled: %d graphs", graphs)
        if self.rank == 0:
            self.messages.send("startup", seconds=self._marks)

    def planned(self, plan: Plan) -> None:
        """Write down the end of a run given in seconds before any step depends on it."""
        if self.rank == 0:
            self.decided["total_steps"] = plan.total_steps
            write_json(self.run.path / "decided.json", self.decided)
            self.messages.send("plan", total_steps=plan.total_steps)

    def used(self, step: int) -> dict[str, float]:
        """Return how much of each source ``step`` steps have used; nothing where there is only one."""
        return sources_used(self.manifest, self._order, self.batches.row(step))

    def _stream_kind(self) -> str:
        """Read shards directly where workers have taken all of a shrunken cluster's CPUs; same order."""
        cluster, kind = self.settings.cluster, self.settings.stream
        if kind == "ray" and cluster.elastic:
            import ray

            if ray.available_resources().get("CPU", 0.0) < self.world * STREAM_CPUS_PER_WORKER:
                self.note("no CPU is left for Ray Data, so workers read the corpus themselves")
                return "direct"
        return kind

    def _source(self) -> CorpusSource:
        total = self.state.plan.total_steps
        return CorpusSource(
            self.corpus,
            kind=self._agree(self._stream_kind),
            seed=self.settings.seed,
            batches=self.batches,
            first_step=self.state.step,
            steps=OPEN_END if total is None else max(0, total - self.state.step),
            rank=self.rank // self.shared_by,
            world_size=self.replicas,
            device=self.device,
        )

    def _newest(self) -> Found | None:
        """Return the newest sound checkpoint, if it is of these settings."""
        found = newest(self.checkpoints, self.store, self.messages.note)
        if found is not None:
            others = refuse_other_checkpoint(found, self.run, self.settings)
            if others:
                self.note(
                    f"checkpoint {found.folder.name} was written with other versions: {'; '.join(others)}"
                )
        return found

    def _facts(self) -> dict[str, Any]:
        """Return what a checkpoint says of this run, which must still be this start's.

        Raises:
            CodexRayError: the run goes on in another start.
        """
        self.refuse_superseded()
        return facts(self.run, self.settings, self.decided)

    def refuse_superseded(self) -> None:
        """End where the run goes on in another start, as after the driver was killed."""
        if self.run.superseded():
            raise CodexRayError("the run has been started again, so this start of it ends")

    def _agree(self, decide: Callable[[], Value]) -> Value:
        return agree(decide, self.device)

    def note(self, text: str) -> None:
        """Tell the user one sentence, from one rank."""
        if self.rank == 0:
            self.messages.note(text)

    def mark(self, stage: str) -> None:
        """Take note of how long a stage of the start took, the one that ends now."""
        now = time.time()
        self._marks[stage] = now - self._marked
        self.spans.add(f"start: {stage}", self.state.step, self._marked, self._marks[stage])
        logging.info("%s: %.2f s", stage, self._marks[stage])
        self._marked = now


def _device(settings: TrainingRun) -> torch.device:
    """Return this worker's device.

    Raises:
        CodexRayError: CUDA was asked for and this worker has none.
    """
    wanted = settings.compute.device
    has_gpu = torch.cuda.is_available() and settings.cluster.gpus_per_worker > 0
    if wanted == "cuda" and not has_gpu:
        raise CodexRayError(
            "compute.device=cuda, but this worker has no GPU; give cluster.gpus_per_worker=1 on a node with "
            "GPUs, or compute.device=cpu"
        )
    if has_gpu and wanted != "cpu":
        import ray.train.torch

        device: torch.device = ray.train.torch.get_device()
        return device
    return torch.device("cpu")
