"""One function over many tasks as a Ray Data pipeline, and Ray Data's habits.

The pipeline is a single operator over blocks of one task each, so that a task process count is just
``concurrency`` and nothing is split, fused or buffered behind our back. Results come back as Arrow
tables as they are made, in order on request.
"""

from __future__ import annotations

import logging
import pickle
import traceback
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import pyarrow as pa

from codex_ray.errors import CodexRayError

Task = TypeVar("Task")

# Starts again after a lost process or node. Ray Data's own number has no end, so that a task that crashes
# its process every time would be begun anew until the stall is noticed.
RETRIES = 3
FAILURE = "failure"  # the only column of the table of a task that failed


def run_tasks(
    function: Callable[[Task], pa.Table],
    tasks: Sequence[Task],
    *,
    num_cpus: float,
    concurrency: int,
    ordered: bool,
    stall_seconds: float,
    tasks_per_process: int | None = None,
) -> Generator[pa.Table, None, None]:
    """Apply ``function`` to each task in Ray Data processes; yield each task's table.

    Args:
        function: importable where it runs; returns one table per task.
        tasks: picklable descriptions; small, since all of them go to the object store.
        num_cpus: logical CPUs reserved by a running task.
        concurrency: tasks running at a time.
        ordered: yield in the order of ``tasks`` rather than as they end.
        stall_seconds: longest time without any progress.
        tasks_per_process: after so many a process ends and another takes its place; unset keeps them all.

    Raises:
        CodexRayError: a task's own, or one sentence about what ended the pipeline.
    """
    import ray.data
    from ray.data.exceptions import ExecutionTimeoutError
    from ray.exceptions import WorkerCrashedError

    if not tasks:
        return
    with untold():
        dataset = ray.data.from_arrow([row_of(task) for task in tasks]).map_batches(
            _apply,
            fn_kwargs={"function": function},
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=num_cpus,
            max_calls=tasks_per_process,
            max_retries=RETRIES,
            concurrency=min(concurrency, len(tasks)),
        )
    said = {
        ExecutionTimeoutError: f"Ray Data made no progress for {stall_seconds:g} s; check that the cluster "
        "has free CPUs (cluster.logical_cpus of embedded Ray counts them)",
        WorkerCrashedError: f"a Ray Data task crashed its process {RETRIES + 1} times; look for a lack of "
        "memory (lower workers) or a crash in one of clean.judges, and run it again, which goes on from here",
    }
    yield from tables(dataset, ordered=ordered, stall_seconds=stall_seconds, said=said)


def tables(
    dataset: Any, *, ordered: bool, stall_seconds: float, said: Mapping[type[Exception], str]
) -> Generator[pa.Table, None, None]:
    """Run a pipeline and yield its blocks as they are made.

    Args:
        dataset: whose last operator gives tables, or :func:`failure` of what it could not do.
        ordered: yield blocks in their order rather than as they come.
        stall_seconds: longest time without any progress.
        said: sentences for kinds of errors.

    Raises:
        CodexRayError: a task's own, or one sentence about what ended the pipeline.
    """
    # Ray Data logs each execution, and each error's traceback; the error itself is raised below.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = dataset.context
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    context.execution_no_progress_timeout_s = stall_seconds
    context.execution_options.preserve_order = ordered
    try:
        for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
            if table.column_names == [FAILURE]:
                raise pickle.loads(table.column(FAILURE)[0].as_py())
            yield table
    except CodexRayError:
        raise
    except Exception as error:
        cause = getattr(error, "cause", None) or error
        for kind, sentence in said.items():
            if isinstance(cause, kind):
                raise CodexRayError(sentence) from error
        lines = str(cause).strip().splitlines() or ["no message"]
        raise CodexRayError(f"a Ray Data task failed ({type(cause).__name__}: {lines[0][:300]})") from error


@contextmanager
def untold() -> Iterator[None]:
    """Hide that Ray Data means to name every parameter of tasks and actors: it has none for some yet."""
    from ray.util.annotations import RayDeprecationWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RayDeprecationWarning)
        yield


def failure(error: CodexRayError) -> pa.Table:
    """Return an expected failure as data: Ray would return a traceback around its sentence."""
    error.add_note(traceback.format_exc())
    return pa.table({FAILURE: [pickle.dumps(error)]})


def row_of(value: Any) -> pa.Table:
    """Return a table of one row that holds anything."""
    return pa.table({"value": [pickle.dumps(value)]})


def value_of(table: pa.Table) -> Any:
    """Return what the one row of a table holds."""
    (value,) = table.column("value").to_pylist()
    return pickle.loads(value)


def _apply(batch: pa.Table, function: Callable[[Any], pa.Table]) -> pa.Table:
    try:
        return function(value_of(batch))
    except CodexRayError as error:
        return failure(error)
