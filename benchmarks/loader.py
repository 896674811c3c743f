"""The loader beside mosaicml-streaming and litdata: tokens per second, and the first batch after a resume.

    pip install --target PEERS --no-deps mosaicml-streaming litdata lightning-utilities \\
        brotli python-snappy cramjam zstd catalogue
    python -m benchmarks.loader --peers PEERS [--megabytes N] [--turns N]

The same rows of 1,024 tokens in the three formats, in the page cache, shuffled by each in its own way,
delivered as int64 batches of 8 rows. Every measurement is a fresh process; they take turns. Of the peers the
better of no and one worker process counts; two ranks of ours are two processes at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.results import Figure, write_result
from benchmarks.scale.records import Truth, write_records
from codex_ray.config.compose import compose
from codex_ray.corpus.prepare import prepare

LATE = 0.99  # share of the epoch at which a late resume begins
LIMIT_SECONDS = 300
PEERS = ("streaming", "litdata")
FORMATS = """
import sys
from pathlib import Path
from benchmarks.loaders.peers import write_litdata, write_streaming
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    write_streaming(folder / "corpus", folder / "streaming")
    write_litdata(folder / "corpus", folder / "litdata")
"""


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description="The loader beside mosaicml-streaming and litdata.")
    parser.add_argument("--peers", type=Path, required=True, help="folder that the peers are installed in")
    parser.add_argument("--megabytes", type=int, default=300, help="text that becomes the corpus")
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    root = Path(__file__).resolve().parents[1]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(root), str(arguments.peers.resolve())])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokens = _make(folder, arguments.megabytes)
        for peer in PEERS:
            run(peer, folder, "--save", str(LATE))
        print(write_result("loader", _measure(folder, arguments.turns), extra={"tokens": tokens}))


def _make(folder: Path, megabytes: int) -> int:
    import numpy as np

    count = megabytes * 10**6 // 3600
    write_records(folder / "records", Truth(np.zeros(count, np.uint8), np.arange(count)), 2)
    words = [f"sources.records.path={folder}/records", "pack.sequence_length=1024", "keep_stages=false"]
    values = {"output": f"{folder}/corpus", "track": {"progress": "plain", "report": False}}
    made = prepare(compose("prepare", words, values=values))
    subprocess.run([sys.executable, "-c", FORMATS, str(folder)], check=True, timeout=600)
    return made.manifest.splits["train"].rows * 1024


def run(loader: str, folder: Path, *words: str) -> dict[str, float]:
    """Run one reader; returns what it printed."""
    return finish(start(loader, folder, *words))


def start(loader: str, folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start one reader."""
    command = [sys.executable, "-m", "benchmarks.loaders.reader", loader, str(folder), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> dict[str, float]:
    """Wait for a reader; its last line is the result."""
    try:
        output, _ = process.communicate(timeout=LIMIT_SECONDS)
    finally:
        process.kill()
    if process.returncode:
        raise SystemExit(f"a reader failed with {process.returncode}: {process.args!r}")
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    return found


def _measure(folder: Path, turns: int) -> dict[str, Figure]:
    speeds: dict[str, list[float]] = {}
    seeks: dict[str, list[float]] = {}
    for turn in range(turns):
        for loader in ("direct", "ray", *PEERS):
            choices = [("--workers", "0"), ("--workers", "1")] if loader in PEERS else [()]
            best = max(
                (run(loader, folder, *choice) for choice in choices), key=lambda one: one["tokens_per_second"]
            )
            speeds.setdefault(loader, []).append(best["tokens_per_second"])
            seeks.setdefault(f"{loader}_0", []).append(best["first_batch_seconds"])
            late = min(
                run(loader, folder, *choice, "--start", str(LATE), "--seconds", "0")["first_batch_seconds"]
                for choice in choices
            )
            seeks.setdefault(f"{loader}_99", []).append(late)
        for loader in ("direct", "ray"):
            words = [("--ranks", "2", "--rank", str(rank)) for rank in (0, 1)]
            both = [finish(one) for one in [start(loader, folder, *each) for each in words]]
            speeds.setdefault(f"{loader}_of_two", []).append(
                statistics.mean(one["tokens_per_second"] for one in both)
            )
        print(f"turn {turn + 1}:", {name: f"{found[-1]:,.0f}" for name, found in speeds.items()}, flush=True)
        print({name: f"{found[-1]:.3f}" for name, found in seeks.items()}, flush=True)
    return _figures(speeds, seeks)


def _figures(speeds: dict[str, list[float]], seeks: dict[str, list[float]]) -> dict[str, Figure]:
    best_peer = [max(pair) for pair in zip(*(speeds[peer] for peer in PEERS), strict=True)]

    def ratio(loader: str) -> float:
        pairs = zip(speeds[loader], best_peer, strict=True)
        return float(statistics.median(own / peer for own, peer in pairs))

    names = {"direct": "loader", "ray": "loader_ray", "streaming": "streaming", "litdata": "litdata"}
    figures = {
        "loader_over_best_peer": Figure(ratio("direct"), "ratio", "higher"),
        "loader_ray_over_best_peer": Figure(ratio("ray"), "ratio", "higher"),
        "seek_seconds": Figure(statistics.median(seeks["direct_99"]), "s", "lower"),
    }
    for loader, name in names.items():
        figures[f"{name}_tokens_per_second"] = Figure(statistics.median(speeds[loader]), "tokens/s", "higher")
        for share in ("0", "99"):
            value = statistics.median(seeks[f"{loader}_{share}"])
            figures[f"{name}_first_batch_seconds_at_{share}"] = Figure(value, "s", "lower")
    for loader in ("direct", "ray"):
        value = statistics.median(speeds[f"{loader}_of_two"])
        figures[f"{names[loader]}_tokens_per_second_of_two_ranks"] = Figure(value, "tokens/s", "higher")
    return figures


if __name__ == "__main__":
    main()
