"""What the loop tells to the outside: figures, gauges, slow ranks; and whether it is to stop."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from codex_ray.track.gauges import RunGauges
from codex_ray.track.metrics import MetricsWriter, drop_after, metrics_at
from codex_ray.train.schedule import Plan
from codex_ray.train.slow import SlowRanks

if TYPE_CHECKING:
    from codex_ray.train.worker import Worker


class Recorder:
    """The loop's watcher: rank 0 writes figures and reads the wish to stop."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._leads = worker.rank == 0
        self._started = False
        run, formats = worker.run, worker.settings.track.metrics
        self._writer = MetricsWriter(run.path, formats) if self._leads else None
        self._gauges = RunGauges(run.name) if self._leads else None
        self._slow = SlowRanks(worker.settings.track.slow_factor)

    def continue_after(self, step: int, figures: dict[str, Any] | None) -> None:
        """Forget figures of steps that will be done again; the checkpoint has those of its own step."""
        if self._writer:
            self._writer.truncate_after(step)
            drop_after(self._worker.run.validation, step)
            drop_after(self._worker.run.evaluation, step)
            if figures and metrics_at(self._writer.path, step) is None:
                self.row(figures)

    def stop_wanted(self) -> bool:
        """Whether the driver asked to stop; the loop's reduction tells the other ranks.

        Raises:
            CodexRayError: the run goes on in another start, as after the driver was killed.
        """
        if self._leads:
            self._worker.refuse_superseded()
        return self._leads and self._worker.run.stop.exists()

    def leaving(self) -> bool:
        """Whether this rank's node is about to be taken away."""
        return self._worker.notice.given

    def stepped(self) -> None:
        """Note the first step of this start."""
        if not self._started:
            self._started = True
            self._worker.first_step_done()
        for spare in self._worker.spares:
            spare.look()

    def row(self, figures: dict[str, Any]) -> None:
        """Write one optimizer step's figures, and what each source has given until it."""
        if self._writer and self._gauges:
            self._writer.write(figures | self._worker.used(figures["step"]))
            self._gauges.set(figures)

    def validated(self, step: int, loss: float) -> None:
        """Show a loss measured beside training."""
        if self._gauges:
            self._gauges.validated(step, loss)

    def forward_seconds(self, by_rank: list[float]) -> None:
        """Have the driver name ranks that are slower than the others."""
        for slow in self._slow.look(by_rank) if self._leads else ():
            self._worker.messages.send("slow", **asdict(slow), step=self._worker.state.step)

    def note(self, text: str) -> None:
        """Pass on a sentence to the user, once."""
        self._worker.note(text)

    def planned(self, plan: Plan) -> None:
        """Pass on that the end of the run is now fixed."""
        self._worker.planned(plan)

    def close(self) -> None:
        """Finish the metrics files."""
        if self._writer:
            self._writer.close()
        if self._gauges:
            self._gauges.close()
