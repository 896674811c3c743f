"""What preparing a corpus costs, on this Python's standard library: beside SentencePiece alone, and per step.

    python -m benchmarks.prepare [--turns N]

Tokenising and packing: the stages of ``prepare`` that turn documents on disk into shards, in Ray Data
tasks on every core, beside SentencePiece's own batch encoding of the same documents held in memory, by
as many threads. They take turns; the figure is the ratio of MB/s. Steps of cleaning: one process, CPU time.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from sentencepiece import SentencePieceProcessor

from benchmarks.results import Figure, write_result
from codex_ray.cluster.session import open_session
from codex_ray.config.compose import compose
from codex_ray.config.corpus import Clean, Duplicates, Prepare, Redact
from codex_ray.corpus.cleaning.chain import Chain, Cleaned
from codex_ray.corpus.duplicates.minhash import MinHash
from codex_ray.corpus.prepare import prepare
from codex_ray.corpus.raw import Raw
from codex_ray.corpus.reading import read_texts

STEPS = {
    "utf8": Clean(),
    "detect": Clean(encoding="detect"),
    "repair": Clean(repair=True),
    "normalise": Clean(normalise="NFC"),
    "gopher": Clean(gopher_quality=True, gopher_repetition=True),
    "c4": Clean(c4=True),
    "fineweb": Clean(fineweb=True),
    "code": Clean(generated_code=True, minified_code=True, data_files=True, licence_headers=True),
    "languages": Clean(languages=["en"]),
    "secrets": Clean(redact=Redact(secrets="mask")),
    "personal": Clean(redact=Redact(personal="mask")),
}
STEP_BYTES = 4 * 2**20  # of text per step: seconds, not minutes


def main(turns: int) -> None:
    """Measure and write the result file."""
    texts = [item.text for item in read_texts("stdlib", [".py"]) if isinstance(item, Cleaned)]
    figures = _packing(texts, turns) | _steps(texts)
    print(write_result("prepare", figures))


def _packing(texts: list[str], turns: int) -> dict[str, Figure]:
    threads = len(os.sched_getaffinity(0))
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        settings: Prepare = compose(
            "prepare",
            ["source=stdlib", f"workers={threads}"],
            values={"output": f"{folder}/corpus", "track": {"progress": "off", "report": False}},
        )
        with open_session(settings.cluster):
            prepare(settings)
            processor = SentencePieceProcessor(model_file=f"{folder}/corpus/tokenizer/tokenizer.model")
            for turn in range(turns):
                shutil.rmtree(Path(folder) / ".corpus.stages" / "tokens")
                shutil.rmtree(Path(folder) / "corpus")
                made = prepare(settings)
                size = sum(split.bytes for split in made.manifest.splits.values())
                ours.append(size / 1e6 / (made.seconds["tokenise"] + made.seconds["pack"]))
                began = time.perf_counter()
                processor.encode(texts, num_threads=threads)
                theirs.append(sum(len(text.encode()) for text in texts) / 1e6 / (time.perf_counter() - began))
                print(
                    f"turn {turn + 1}: stages {ours[-1]:.1f} MB/s, SentencePiece {theirs[-1]:.1f} MB/s",
                    flush=True,
                )
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return {
        "pack_over_sentencepiece": Figure(statistics.median(ratios), "ratio", "higher", aim=0.85),
        "pack_megabytes_per_second": Figure(statistics.median(ours), "MB/s", "higher"),
        "sentencepiece_megabytes_per_second": Figure(statistics.median(theirs), "MB/s", "higher"),
    }


def _steps(texts: list[str]) -> dict[str, Figure]:
    chosen, held = [], 0
    for text in texts[:: max(1, len(texts) // 400)]:
        if held < STEP_BYTES:
            chosen.append(Raw("library.py", text.encode()))
            held += len(text.encode())
    figures = {}
    for name, settings in STEPS.items():
        chain = Chain(settings)
        chain.apply(chosen[0])  # models are loaded once per process, not per document
        began = time.process_time()
        for raw in chosen:
            chain.apply(raw)
        figures[f"clean_{name}_megabytes_per_second"] = Figure(
            held / 1e6 / (time.process_time() - began), "MB/s", "higher"
        )
    minhash, began = MinHash(Duplicates(near=True)), time.process_time()
    minhash.signatures([raw.content.decode() for raw in chosen if isinstance(raw.content, bytes)])
    seconds = time.process_time() - began
    figures["signatures_megabytes_per_second"] = Figure(held / 1e6 / seconds, "MB/s", "higher")
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=3, help="turns of each side")
    main(parser.parse_args().turns)
