"""What the loop of one rank works with: the task's model in an engine, its objective, source and hooks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch

from codex_ray.model import flops_per_token, mixing_gains
from codex_ray.model.adapter import bare, with_adapters
from codex_ray.tokenizer import Tokenizer
from codex_ray.track.metrics import append_row
from codex_ray.train.abilities import sentence_of, values_of, write_evaluation
from codex_ray.train.documents import Rows
from codex_ray.train.engine import Engine
from codex_ray.train.loop import Hooks, Parts, State
from codex_ray.train.objectives.objective import Objective, add_up_over_ranks
from codex_ray.train.recorder import Recorder
from codex_ray.train.rollouts import GATE_PROMPTS, Prompts, RolloutSource
from codex_ray.train.samples import SampleWriter
from codex_ray.train.saver import Saver
from codex_ray.train.source import OPEN_END, Batch, CorpusSource, Source
from codex_ray.train.spare import Measurement, Spare, measure
from codex_ray.train.start import ready_for_training
from codex_ray.train.task import OfRollouts
from codex_ray.train.validation import Validator

if TYPE_CHECKING:
    from codex_ray.train.worker import Worker


class Assembly:
    """Makes the parts of a worker's loop.

    Args:
        worker: whose.
        resumed: whether weights are about to be loaded.

    Attributes:
        model: the task's, once :meth:`parts` has made it.
    """

    model: Any

    def __init__(self, worker: Worker, *, resumed: bool) -> None:
        self._worker, self._resumed = worker, resumed

    def begin_rollouts(self, parts: Parts) -> None:
        """Have the weights sample from here on; before the first step, see that it is worth while."""
        if not isinstance(parts.source, RolloutSource) or self._learning.rollouts is None:
            return
        if not self._resumed and self._learning.rollouts.gate is not None:
            count = min(GATE_PROMPTS, self._worker.manifest.splits["train"].rows)
            told = self._learning.rollouts.gate(parts.engine, parts.source.prompts.at(0, count))
            if told is not None:
                self._worker.note(told)
        total = self._worker.state.plan.total_steps or OPEN_END

        def prepare(micros: list[Any]) -> list[Any]:
            self._worker.state.phase = "targets"
            self._worker.spans.enter("targets")
            return parts.objective.prepare(parts.engine.forward, micros, add_up_over_ranks)

        parts.source.begin(parts.engine, prepare, self._worker.state.step, total, self._worker.state.source)

    def _rollouts(self, wanted: OfRollouts | None) -> RolloutSource:
        assert wanted is not None, "a task that reads no corpus samples"
        return RolloutSource(
            wanted.pool,
            Prompts(self._worker.manifest, self._worker.settings.seed),
            self._worker.batches,
            samples=wanted.samples,
            learnable=wanted.learnable,
            updates=wanted.updates,
            micro_batch_tokens=wanted.micro_batch_tokens,
            device=self._worker.device,
            moved=self._moved,
            note=self._worker.note,
            controller=wanted.controller,
        )

    def _moved(self) -> None:
        """Count as a move what this rank waits for, so that it is not taken for one that hangs."""
        self._worker.state.moves += 1

    def parts(self, source: CorpusSource | None, recorder: Recorder, saver: Saver) -> Parts:
        """Make them all; without a source, rollouts are sampled."""
        settings = self._worker.settings
        tokenizer = Tokenizer.load(self._worker.corpus / "tokenizer")
        self.model = self._initial_model(tokenizer)
        if self._worker.rank == 0:
            self._worker.messages.send(
                "model", parameters=sum(part.numel() for part in self.model.parameters())
            )
        self._worker.mark("model")
        documents = self._worker.task.rows(tokenizer, self._worker.manifest)
        self._learning = self._worker.task.learning(self.model, documents, tokenizer, self._worker.rank)
        engine = self._engine()
        objective, measured = self._learning.objectives(engine)
        self._worker.mark("engine")
        validate = self._validating(engine, measured, documents, recorder)
        torch.manual_seed(settings.seed + self._worker.rank)
        chosen: Source = source or self._rollouts(self._learning.rollouts)
        return Parts(
            settings=settings,
            batches=self._worker.batches,
            rows=self._worker.task.epoch_rows(self._worker.manifest),
            flops_per_token=cache(partial(flops_per_token, self.model.config)),
            peak_flops=self._worker.decided["peak_flops"] * self._worker.world,
            device=self._worker.device,
            engine=engine,
            objective=objective,
            source=chosen,
            watcher=recorder,
            spans=self._worker.spans,
            hooks=Hooks(
                validate=validate,
                measure_mixing=partial(_measure_mixing, engine, documents),
                save=partial(_save, saver, engine, chosen),
                saved=saver.wait,
                save_failed=lambda: saver.failed,
                sample=self._sampling(engine, tokenizer),
                evaluate=self._evaluating(engine),
            ),
        )

    def _engine(self) -> Engine:
        settings = self._worker.settings
        return Engine(
            self.model,
            optimizer=settings.optimizer,
            deepspeed=settings.deepspeed,
            batch=self._worker.batches.plan,
            device=self._worker.device,
            dtype=getattr(torch, self._worker.decided["dtype"]),
            ema_decay=settings.train.ema_decay,
            sequence_parallel=self._worker.shared_by,
        )

    def _validating(
        self, engine: Engine, measured: Objective[Any], documents: Rows | None, recorder: Recorder
    ) -> Callable[[bool], dict[str, float]]:
        """Return what measures held-out rows after a step, here or (where asked for) beside training."""
        settings, worker = self._worker.settings, self._worker
        validator = Validator(worker.manifest, settings.validation.rows, worker.batches.plan, worker.device)

        def judged(step: int, figures: dict[str, float]) -> None:
            append_row(worker.run.validation, {"step": step, "time": time.time(), **figures})
            worker.checkpoints.judge(step, figures)
            if "validation_loss" in figures:
                recorder.validated(step, figures["validation_loss"])

        spare = None
        if settings.validation.asynchronous:
            spare = self._spare(partial(measure, self._measurement(documents)), "validated", judged)

        def validate(last: bool) -> dict[str, float]:
            with engine.averaged("validation" in settings.train.ema_for):
                if spare is None or last:
                    return validator.measure(engine, measured)
                spare.begin(engine, worker.state.step)
            return {}

        return validate

    def _spare(
        self, measures: Callable[[Mapping[str, Any]], Any], done: str, take: Callable[[int, Any], None]
    ) -> Spare:
        gpus = self._worker.settings.cluster.gpus_per_worker
        spare = Spare(measures, done, take, self._worker.note, gpus=gpus)
        self._worker.spares.append(spare)
        return spare

    def _measurement(self, documents: Rows | None) -> Measurement:
        settings = self._worker.settings
        return Measurement(
            corpus=self._worker.corpus,
            rows=settings.validation.rows,
            world=self._worker.world,
            batch=self._worker.batches.plan,
            config=self.model.config,
            dtype=self._worker.decided["dtype"],
            autocast=settings.deepspeed.autocast,
            documents=documents,
            threads=torch.get_num_threads(),
        )

    def _sampling(self, engine: Engine, tokenizer: Tokenizer) -> Callable[[int], None] | None:
        """Return what writes samples after a step; None on other ranks, or where none are wanted."""
        wanted = self._worker.settings.track.samples
        if self._worker.rank or not wanted.prompts:
            return None
        seed, path = self._worker.settings.seed, self._worker.run.samples
        samples = SampleWriter(wanted, tokenizer, seed=seed, path=path, note=self._worker.note)
        return lambda step: samples.write(engine.module, step)

    def _evaluating(self, engine: Engine) -> Callable[[int, bool], dict[str, float]] | None:
        """Return what measures the tasks that a run follows; None where it follows none."""
        abilities = self._learning.abilities
        if abilities is None:
            return None

        worker, spare = self._worker, None
        if abilities.asynchronous:
            folder, dtype = worker.corpus / "tokenizer", worker.decided["dtype"]
            apart = abilities.apart(folder, self.model.config, dtype, torch.get_num_threads())
            spare = self._spare(apart, "evaluated", self._evaluated)

        def evaluating(step: int, last: bool) -> dict[str, float]:
            if not abilities.due(step, last=last):
                return {}
            if spare is not None and last:
                spare.close()  # its line comes before the last
            with engine.averaged("validation" in worker.settings.train.ema_for):
                if spare is None or last or step == 0:
                    return abilities.measure(engine, step, worker.run.evaluation, worker.note)
                spare.begin(engine, step)
            return {}

        return evaluating

    def _evaluated(self, step: int, tasks: dict[str, Any]) -> None:
        """Take in what a spare worker has measured."""
        write_evaluation(self._worker.run.evaluation, step, tasks, apart=True)
        self._worker.checkpoints.judge(step, values_of(tasks))
        self._worker.note(sentence_of(step, tasks))

    def _initial_model(self, tokenizer: Tokenizer) -> Any:
        length, settings = self._worker.manifest.sequence_length, self._worker.settings
        model = self._worker.task.model(
            self._worker.decided.get("model"), tokenizer, length, resumed=self._resumed
        )
        ready_for_training(model, settings.train)
        if settings.lora.rank:
            model = with_adapters(model, settings.lora, settings.seed)
        return model.to(self._worker.device)


def _save(saver: Saver, engine: Engine, source: Source, state: State, figures: dict[str, Any]) -> float:
    """Begin a checkpoint, with what the source keeps."""
    state.source = source.saved()
    return saver.save(engine, state, figures, **source.kept())


def _measure_mixing(engine: Engine, documents: Rows | None, batch: Batch) -> dict[str, float]:
    first, positions = batch.micro_batches[0], None
    if not isinstance(first, torch.Tensor):  # rollouts; of self-distillation, as the student reads them
        ids = getattr(first, "student", first).take([0]).input_ids_BS
    else:
        ids = documents.ids(first[:1]) if documents else first[:1]
        positions = documents.positions(first[:1]) if documents else None
    engine.module.eval()  # in which no rank needs the others
    gains = mixing_gains(bare(engine.module), ids, positions)
    engine.module.train()
    return {f"mixing/{name}": value for name, value in gains.items()}
