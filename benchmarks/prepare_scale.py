"""A corpus many times Ray's object store, of records of which it is known what each is.

    python -m benchmarks.prepare_scale [--megabytes N] [--folder FOLDER]

About 2 GB of JSON Lines, of them 20 % exact and 10 % near copies and 1 % of every kind of record that is no
text, and a folder of files with 1 % of every kind of file that cannot be read, one with a line of 1 GB. They
are prepared, near-duplicates too, with an object store of 80 MiB; then every item is held against the truth.
It is done first for a tenth of the size: what memory does not grow with the corpus is seen by that.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results import Figure, write_result
from benchmarks.scale.check import scores, unaccounted
from benchmarks.scale.files import write_files
from benchmarks.scale.memory import Peaks, watched
from benchmarks.scale.records import LINE_BYTES, plan, write_records
from codex_ray.config.compose import compose
from codex_ray.config.corpus import Prepare
from codex_ray.corpus.prepare import Prepared, prepare

STORE_BYTES = 80 * 2**20  # the least that Ray takes


@dataclass(frozen=True)
class Outcome:
    """What preparing one size gave."""

    bytes: int
    seconds: float
    prepared: Prepared
    peaks: Peaks
    scores: dict[str, float]
    wrong: list[str]


def main() -> int:
    """Measure, write the result file, and return 1 if an item is not accounted for."""
    parser = argparse.ArgumentParser(description="A corpus larger than the object store, item by item.")
    parser.add_argument("--megabytes", type=int, default=2000, help="size of the records")
    parser.add_argument("--folder", type=Path, default=None, help="where to work; unset: a temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        small = measure(Path(folder) / "small", arguments.megabytes // 10)
        large = measure(Path(folder) / "large", arguments.megabytes)
    for line in large.wrong + small.wrong:
        print(f"wrong: {line}", file=sys.stderr)
    extra = {
        "stages_seconds": large.prepared.seconds,
        "account": {
            key: value
            for key, value in large.prepared.manifest.account().plain().items()
            if key in ("read", "kept", "dropped", "quarantined")
        },
        "smaller_megabytes": small.bytes / 1e6,
    }
    print(write_result("prepare_scale", _figures(small, large), extra=extra))
    return 1 if large.wrong or small.wrong else 0


def measure(folder: Path, megabytes: int) -> Outcome:
    """Generate the sources, prepare them, and compare."""
    workers = len(os.sched_getaffinity(0))
    truth = plan(megabytes)
    size = write_records(folder / "records", truth, workers)
    files = write_files(folder / "files")
    settings: Prepare = compose(
        "prepare",
        [
            f"sources.records.path={folder}/records",
            f"sources.files.path={folder}/files",
            "duplicates.near=true",
            f"limits.line_bytes={LINE_BYTES}",
            f"workers={workers}",
            f"cluster.object_store_bytes={STORE_BYTES}",
        ],
        values={"output": f"{folder}/corpus", "track": {"report": True}},
    )
    began = time.monotonic()
    with watched() as peaks:
        prepared = prepare(settings)
    seconds = time.monotonic() - began
    found = scores(folder / ".corpus.stages", truth)
    wrong = unaccounted(prepared.manifest, truth, files)
    shutil.rmtree(folder)
    return Outcome(size, seconds, prepared, peaks, found, wrong)


def _figures(small: Outcome, large: Outcome) -> dict[str, Figure]:
    aims = {"exact_recall": 0.99, "exact_precision": 0.99, "near_recall": 0.95, "near_precision": 0.95}
    return {
        **{name: Figure(large.scores[name], "share", "higher", aim=aim) for name, aim in aims.items()},
        "wrong_counts": Figure(len(large.wrong), "counts", "lower", aim=0),
        "corpus_over_object_store": Figure(large.bytes / STORE_BYTES, "ratio", "higher", aim=10),
        "records_megabytes": Figure(large.bytes / 1e6, "MB", "higher"),
        "prepare_seconds": Figure(large.seconds, "s", "lower"),
        "prepare_megabytes_per_second": Figure(large.bytes / 1e6 / large.seconds, "MB/s", "higher"),
        "peak_task_megabytes": Figure(large.peaks.task / 1e6, "MB", "lower"),
        "peak_driver_megabytes": Figure(large.peaks.driver / 1e6, "MB", "lower"),
        "peak_together_megabytes": Figure(large.peaks.together / 1e6, "MB", "lower"),
        "peak_task_megabytes_of_a_tenth": Figure(small.peaks.task / 1e6, "MB", "lower"),
        "peak_driver_megabytes_of_a_tenth": Figure(small.peaks.driver / 1e6, "MB", "lower"),
    }


if __name__ == "__main__":
    sys.exit(main())
