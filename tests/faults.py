"""Faults at exact moments of a run: a table of (rank, step, event, action), armed inside the workers.

Nothing in the product knows of it: the function that Ray Train runs in its workers is replaced by one that
puts itself around the calls of interest and then runs the real one. Every fault strikes once, however often
workers start; the file that it leaves says when. As a program, ``python -m tests.faults TABLE WORDS...``,
it is the command line with faults, for tests in which the driver dies too.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

EVENTS = (
    "batch",  # the step's batch is there
    "backward",  # between forward and backward
    "update",  # this rank's share of the weights is updated, the others' not
    "write",  # half of this rank's optimizer state is written
    "before rename",  # the checkpoint is whole but has not its name
    "after rename",  # it has its name; `latest` names the one before
    "validation",  # in the forward pass of a validation
    "export",  # the final weights are gathered, the model folder is not complete
)
WAIT_SECONDS = 120.0


@dataclass(frozen=True)
class Fault:
    """What happens where.

    Args:
        rank: the worker it strikes.
        step: the optimizer step being done, counted from 1; of what is written, its step.
        event: one of EVENTS.
        action: ``kill`` (SIGKILL), ``stop`` (SIGSTOP), ``wait`` (until a test has done its work and the file
            ``go`` is there), ``slow`` (from then on), ``nan`` (the loss becomes that), ``clock`` (the wall
            clock jumps back an hour), ``fill`` (the run's file system is filled up) or ``read-only`` (its
            checkpoints folder becomes so).
    """

    rank: int
    step: int
    event: str
    action: str = "kill"


@dataclass(frozen=True)
class Table:
    """Faults, and the folder where they leave their marks."""

    folder: str
    faults: tuple[Fault, ...]

    def struck(self) -> list[int]:
        """Numbers of the faults that have struck."""
        return sorted(int(path.name) for path in Path(self.folder).glob("[0-9]*"))

    def struck_at(self, number: int) -> float:
        """Unix time of a fault that has struck."""
        return float((Path(self.folder) / str(number)).read_text().split()[0])

    def wait_for(self, number: int, seconds: float = 300.0) -> int:
        """Wait until a fault strikes; returns the process it struck."""
        deadline = time.monotonic() + seconds
        path = Path(self.folder) / str(number)
        while not path.exists() or len(path.read_text().split()) < 2:
            assert time.monotonic() < deadline, f"{self.faults[number]} did not strike within {seconds:g} s"
            time.sleep(0.01)
        return int(path.read_text().split()[1])

    def go(self) -> None:
        """Let what waits go on."""
        (Path(self.folder) / "go").touch()


def fail_at(folder: Path, *faults: Fault) -> Table:
    """Make a table of faults whose marks lie in ``folder``."""
    assert all(fault.event in EVENTS for fault in faults)
    folder.mkdir(parents=True)
    return Table(str(folder), faults)


def armed(table: Table) -> Callable[[dict[str, Any]], Any]:
    """Return what takes the place of ``codex_ray.train.trainer.train_worker``."""

    def train_worker(job: dict[str, Any]) -> Any:
        import ray.train

        from codex_ray.train import worker
        from tests.faults import Arms

        Arms(table, ray.train.get_context().get_world_rank(), job["run"].path).put_on()
        return worker.train_worker(job)

    return train_worker


class Arms:
    """One worker's faults."""

    def __init__(self, table: Table, rank: int, run: Path) -> None:
        self._table, self._rank, self._run = table, rank, run
        self._state: Any = None
        self._delay = 0.0

    def at(self, event: str, step: int) -> str | None:
        """Strike if the table says so; returns the action for what the caller has to do itself."""
        for number, fault in enumerate(self._table.faults):
            here = fault.rank == self._rank and fault.event == event
            if here and (fault.step == step or event == "export") and self._first(number):
                return self._strike(fault.action)
        return None

    def _first(self, number: int) -> bool:
        try:
            with (Path(self._table.folder) / str(number)).open("x") as mark:
                mark.write(f"{time.time()} {os.getpid()}")
        except FileExistsError:
            return False
        return True

    def _strike(self, action: str) -> str:
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif action == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif action == "wait":
            deadline = time.monotonic() + WAIT_SECONDS
            while not (Path(self._table.folder) / "go").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
        elif action == "slow":
            self._delay = 0.2
        elif action == "clock":
            true_time = time.time
            time.time = lambda: true_time() - 3600.0
        elif action == "fill":
            left = os.statvfs(self._run)
            with (self._run / "ballast").open("wb") as ballast:
                os.posix_fallocate(ballast.fileno(), 0, left.f_bavail * left.f_frsize)
        elif action == "read-only":
            folder = str(self._run / "checkpoints")
            subprocess.run(["mount", "--bind", folder, folder], check=True)
            subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        return action

    def put_on(self) -> None:
        """Stand around the calls at which something may happen."""
        from torch.optim.optimizer import register_optimizer_step_post_hook
        from transformers import PreTrainedModel

        from codex_ray.train import saver, worker
        from codex_ray.train.engine import Engine
        from codex_ray.train.rollouts import RolloutSource
        from codex_ray.train.source import CorpusSource

        train, following, sampling = worker.train, CorpusSource.next, RolloutSource.next
        forward, backward, weights = Engine.forward, Engine.backward, Engine.full_weights
        save_pretrained, rename, save = PreTrainedModel.save_pretrained, Path.rename, saver.write_packed

        def keep_state(parts: Any, state: Any) -> bool:
            self._state = state
            return bool(train(parts, state))

        def next_batch(source: CorpusSource) -> Any:
            batch = following(source)
            self._during("batch")
            return batch

        def next_rollouts(source: RolloutSource) -> Any:
            batch = sampling(source)
            self._during("batch")
            return batch

        def pass_forward(engine: Engine, **inputs: Any) -> Any:
            if not engine.module.training:
                self.at("validation", self._state.step)
            time.sleep(self._delay)
            return forward(engine, **inputs)

        def pass_backward(engine: Engine, loss: Any) -> None:
            nan = self._during("backward") == "nan"
            backward(engine, loss * float("nan") if nan else loss)

        def gather(engine: Engine) -> Any:
            found = weights(engine)
            if self._rank:  # rank 0 is struck when the weights are written
                self.at("export", self._state.step)
            return found

        def write_model(model: Any, *args: Any, **options: Any) -> None:
            save_pretrained(model, *args, **options)
            self.at("export", self._state.step)

        def give_name(path: Path, target: Any) -> Path:
            step = re.fullmatch(r"step_(\d+)", Path(target).name)
            if step:
                self.at("before rename", int(step[1]))
            done = rename(path, target)
            if step:
                self.at("after rename", int(step[1]))
            return done

        def write(contents: Any, path: Path, compression: str) -> str:
            step = re.search(r"step_(\d+).*optim_states", str(path))
            if step and self._wants("write", int(step[1])):
                save(contents, path, compression)
                with path.open("r+b") as half:
                    half.truncate(path.stat().st_size // 2)
                self.at("write", int(step[1]))
            return save(contents, path, compression)

        worker.train = keep_state
        CorpusSource.next, RolloutSource.next = next_batch, next_rollouts
        Engine.forward, Engine.backward, Engine.full_weights = pass_forward, pass_backward, gather
        PreTrainedModel.save_pretrained = write_model
        Path.rename = give_name
        saver.write_packed = write
        register_optimizer_step_post_hook(lambda *_: self._during("update"))

    def _during(self, event: str) -> str | None:
        return self.at(event, self._state.step + 1) if self._state else None

    def _wants(self, event: str, step: int) -> bool:
        return any((f.rank, f.step, f.event) == (self._rank, step, event) for f in self._table.faults)


def save_table(table: Table, path: Path) -> Path:
    """Write a table for the program."""
    path.write_text(json.dumps(asdict(table)))
    return path


def main() -> int:
    """Run the command line with the faults of a table."""
    from codex_ray import cli
    from codex_ray.train import trainer

    found = json.loads(Path(sys.argv[1]).read_text())
    table = Table(found["folder"], tuple(Fault(**fault) for fault in found["faults"]))
    trainer.train_worker = armed(table)
    sys.argv = ["codex-ray", *sys.argv[2:]]
    return cli.entry()


if __name__ == "__main__":
    sys.exit(main())
