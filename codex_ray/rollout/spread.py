"""Many requests completed by Ray Data, on actors that each hold the model and the project's sampler.

    batches ──► map_batches(Completer), `spread.actors` at a time ──► completions

A batch is a row in a block of its own, so that an actor is given one at a time and a lost actor costs what it
has in hand. Ray Data starts another in its place and gives it the same batches. What is sampled together
follows from the batches alone: neither time nor the number of actors changes a completion.
"""

from __future__ import annotations

import faulthandler
import os
import socket
import sys
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from codex_ray.config.common import Cluster, Device
from codex_ray.config.rollout import Spread
from codex_ray.corpus.ray_data import failure, row_of, tables, untold, value_of
from codex_ray.errors import CodexRayError

if TYPE_CHECKING:
    from codex_ray.rollout.actor import FromFolder
    from codex_ray.rollout.request import Completion, Request
    from codex_ray.tokenizer import Tokenizer

STANDARD_ERROR = 2

# Ray's core warns on this process's standard error of actors that are started again with arguments in the
# object store, as all of Ray Data's are, which keeps these; nothing else turns it off (Ray 2.60).
QUIET = {"RAY_BACKEND_LOG_LEVEL": "fatal"}

Read = Callable[[], Iterable[Any]]
"""Reads batches where it is called; each is anything that can be pickled."""

Ask = Callable[["Tokenizer", Any], "list[Request]"]
"""Makes a batch the requests that it asks for, on the actor."""


def settled(compute: Device, spread: Spread) -> Device:
    """Decide a precision of ``auto`` for good: float32 on CPUs, bfloat16 on GPUs.

    A measurement, as training and serving take it, may decide otherwise on another day or for another actor,
    and what is sampled and scored shall be the same then.

    Raises:
        ConfigError: CUDA is asked for and there is none.
    """
    if compute.dtype != "auto":
        return compute
    if spread.actors:
        gpu = compute.device != "cpu" and spread.gpus_per_actor > 0
    else:
        from codex_ray.model.load import resolve_device

        gpu = resolve_device(compute.device).type == "cuda"
    return replace(compute, dtype="bfloat16" if gpu else "float32")


def completions(
    spread: Spread,
    build: FromFolder,
    batches: Sequence[Any] | Read,
    ask: Ask,
    *,
    count: int,
    slots: int,
    ordered: bool,
    note: Callable[[str], None],
) -> Generator[tuple[int, list[Completion]], None, None]:
    """Complete the requests of batches in a Ray session of their own, or one that is joined.

    Args:
        spread: how many actors, and where.
        build: makes their model and tokenizer.
        batches: all of them, or what reads them: it is called in a process of this machine, and reads on as
            they are needed.
        ask: makes requests of a batch.
        count: batches that there will be.
        slots: sequences that an actor decodes together.
        ordered: yield batches in their order rather than as they are done.
        note: told what the user should know.

    Yields:
        number of a batch from 0, and its completions.

    Raises:
        CodexRayError: the cluster does not answer or has no room, actors do not start or are lost too often,
            or a batch cannot be completed.
    """
    from codex_ray.cluster.session import default_variables, open_session
    from codex_ray.rollout.pool import check_room

    spread = replace(spread, actors=min(spread.actors, count))
    wanted = spread.rollouts()
    # Every attempt at the same prompts may take all that it may.
    stall_seconds = spread.attempts * (spread.start_seconds + spread.task_seconds)
    said = _sentences(spread, stall_seconds)
    with ExitStack() as stack:
        with default_variables(QUIET), _silenced():  # Ray says on standard error that it has read them
            stack.enter_context(
                open_session(Cluster(address=spread.address), more_cpus=wanted.cpus(scored=False))
            )
        check_room(wanted, scored=False, prefix="spread.")
        dataset = _pipeline(spread, Completer, (build, ask, slots, wanted.threads, spread), batches)
        for table in tables(dataset, ordered=ordered, stall_seconds=stall_seconds, said=said):
            number, done, notes = value_of(table)
            for sentence in notes:
                note(sentence)
            yield number, done


def _sentences(spread: Spread, stall_seconds: float) -> dict[type[Exception], str]:
    """Say what the user is told of each way in which Ray Data gives up."""
    from ray.data.exceptions import ExecutionTimeoutError
    from ray.exceptions import GetTimeoutError, RayActorError

    return {
        GetTimeoutError: f"{spread.actors} actors did not start within {spread.start_seconds:g} s; wait "
        "until the cluster has room for them, or give a longer spread.start_seconds",
        RayActorError: f"{spread.attempts} actors were lost over the same prompts; look into their logs for "
        "a lack of memory (lower batch_rows), or give a longer spread.task_seconds",
        ExecutionTimeoutError: f"no completion came for {stall_seconds:g} s, as long as "
        f"{spread.attempts} starts and tasks may take (spread.attempts); see whether the actors' machines "
        "still work, and run it again",
    }


@contextmanager
def _silenced() -> Iterator[None]:
    """Throw away what anything in this process writes to standard error, for the length of the block."""
    sys.stderr.flush()
    kept = os.dup(STANDARD_ERROR)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), STANDARD_ERROR)
        yield
    finally:
        os.dup2(kept, STANDARD_ERROR)
        os.close(kept)


def _pipeline(spread: Spread, held: type, given: tuple[Any, ...], batches: Sequence[Any] | Read) -> Any:
    """Return the dataset whose rows are completed batches."""
    import ray.data
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    with untold():
        if callable(batches):
            rows = ray.data.from_arrow(row_of(None)).map_batches(
                _read,
                fn_kwargs={"read": batches},
                batch_size=None,
                num_cpus=0,
                scheduling_strategy=here,
            )
        else:
            rows = ray.data.from_arrow([row_of(numbered) for numbered in enumerate(batches)])
        dataset = rows.map_batches(
            held,
            fn_constructor_args=given,
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=spread.actors),
            num_cpus=spread.cpus_per_actor,
            num_gpus=spread.gpus_per_actor,
            max_restarts=-1,
            max_task_retries=spread.attempts - 1,
        )
    dataset.context.target_max_block_size = 1  # byte: a row has a block of its own
    dataset.context.wait_for_min_actors_s = spread.start_seconds
    return dataset


def _read(_: Any, read: Read) -> Iterable[pa.Table]:
    for numbered in enumerate(read()):
        yield row_of(numbered)


class Completer:
    """What an actor holds: a model, its tokenizer, and how a batch becomes requests."""

    def __init__(self, build: FromFolder, ask: Ask, slots: int, threads: int, spread: Spread) -> None:
        import ray
        import torch

        torch.set_num_threads(threads)
        self._ask, self._slots, self._seconds = ask, slots, spread.task_seconds
        self._replaces = ray.get_runtime_context().was_current_actor_reconstructed
        self._notes = [
            f"an actor died; process {os.getpid()} on {socket.gethostname()} is in its place, and what it "
            "had in hand is sampled again"
        ] * bool(self._replaces)
        self._refusal: pa.Table | None = None
        try:
            self._model, self._tokenizer = build()
            self._model.requires_grad_(False)
        except CodexRayError as error:  # told with the first batch: Ray would start the actor again
            self._refusal = failure(error)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Complete a batch; one that takes too long ends the process, wherever it hangs."""
        if self._refusal is not None:
            return self._refusal
        number, asked = value_of(batch)
        faulthandler.dump_traceback_later(self._seconds, exit=True, file=STANDARD_ERROR)
        try:
            return self._completed(number, asked)
        except CodexRayError as error:
            return failure(error)
        except Exception as error:  # such as of a device: the process cannot be trusted any more
            if self._replaces:
                return failure(CodexRayError(f"sampling failed twice ({type(error).__name__}: {error})"))
            traceback.print_exc()
            os._exit(1)
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _completed(self, number: int, asked: Any) -> pa.Table:
        from codex_ray.rollout.generate import complete

        done = complete(self._model, self._tokenizer, self._ask(self._tokenizer, asked), slots=self._slots)
        notes, self._notes = self._notes, []
        return row_of((number, done, notes))
