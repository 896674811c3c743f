"""``corpus rows``: which rows and documents an optimizer step saw."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from codex_ray.config import saved
from codex_ray.config.corpora import CorpusRows
from codex_ray.config.fields import build
from codex_ray.config.train import Pretrain
from codex_ray.corpus.direct import OrderedReader, StepRows, digest
from codex_ray.corpus.index import readers
from codex_ray.corpus.manifest import Manifest
from codex_ray.corpus.verbs.decoding import Decoder
from codex_ray.corpus.verbs.show import show_row, source_of
from codex_ray.errors import CodexRayError
from codex_ray.files import read_json, write_text
from codex_ray.track.metrics import metrics_at
from codex_ray.track.progress import Progress
from codex_ray.train.batches import Batches

SPLIT = "train"


@dataclass(frozen=True)
class Batch:
    """Where a step's rows stand in the order, and what the run recorded of them."""

    manifest: Manifest
    seed: int
    first: int
    rows: int
    recorded: int | None


@dataclass(frozen=True)
class SeenRows:
    """A step's rows, one record each; ``matches`` says whether their checksum is the recorded one."""

    records: list[dict[str, Any]]
    checksum: int
    matches: bool | None


def rows_verb(settings: CorpusRows, progress: Progress | None = None) -> SeenRows:
    """Print the rows of one optimizer step: position, row, source, and the documents in it.

    The rows follow from the corpus, the seed and the batches, those left out included. Of a run, the checksum
    that it recorded of the step's batch is compared with that of the rows.

    Raises:
        CodexRayError: the run or its corpus cannot be read, the corpus is another one than the run's, or the
            checksums differ.
    """
    batch = _of_run(settings, Path(settings.run).expanduser()) if settings.run else _given(settings)
    manifest = batch.manifest
    reader = OrderedReader(manifest, SPLIT, batch.seed)
    positions = np.arange(batch.first, batch.first + batch.rows, dtype=np.int64)
    ids = reader.order.at(positions)
    checksum = digest(StepRows(settings.step - 1, positions, reader.take(positions)))
    records = list(_records(manifest, positions.tolist(), ids.tolist()))
    matches = None if batch.recorded is None else batch.recorded == checksum
    if settings.output is not None:
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        write_text(Path(settings.output).expanduser(), "".join(lines))
    with Progress("off") if progress is None else progress as shown:
        state = {None: "not recorded by the run", True: "the recorded one", False: "not the recorded one"}
        if settings.output is None:
            _show(records, settings, manifest, shown)
        facts = [("checksum", f"{checksum}, {state[matches] if settings.run else 'of no run'}")]
        shown.table(f"step {settings.step} saw {len(records)} rows of {manifest.folder}", facts)
    if matches is False:
        raise CodexRayError(
            f"the rows of step {settings.step} have the checksum {checksum} and the run recorded "
            f"{batch.recorded}, so it saw others; give the corpus that it was trained on as corpus=FOLDER"
        )
    return SeenRows(records, checksum, matches)


def _given(settings: CorpusRows) -> Batch:
    assert settings.corpus is not None and settings.batch_rows is not None  # the settings were checked
    manifest = Manifest.load(Path(settings.corpus).expanduser())
    first = (settings.step - 1) * settings.batch_rows
    return Batch(manifest, settings.seed, first, settings.batch_rows, None)


def _of_run(settings: CorpusRows, run: Path) -> Batch:
    """Read a run folder.

    Raises:
        CodexRayError: it is no run, its corpus is not there or is another one, or the step was not done.
    """
    if not (run / "config.yaml").is_file():
        raise CodexRayError(f"run folder {run} has no config.yaml, so it is no run; give run=runs/NAME")
    pretrain = build(Pretrain, saved.read(run / "config.yaml"))
    corpus = Path(settings.corpus or pretrain.corpus).expanduser()
    if not corpus.is_dir():
        raise CodexRayError(f"the run's corpus {corpus} is not there; name it with corpus=FOLDER")
    manifest = Manifest.load(corpus)
    _check_fingerprint(run, manifest)
    recorded = metrics_at(run / "metrics.jsonl", settings.step)
    last = None if recorded is not None else metrics_at(run / "metrics.jsonl", None)
    if last is not None and settings.step > int(last["step"] or 0):
        raise CodexRayError(
            f"run {run} recorded {last['step']} steps and no step {settings.step}; give one of them"
        )
    decided = read_json(run / "decided.json", "run decisions") if (run / "decided.json").is_file() else {}
    batches = Batches.of(pretrain.train, manifest.sequence_length, 1, skips=decided.get("skips", ()))
    first = batches.row(settings.step - 1)
    rows = batches.trained_rows(settings.step) - batches.trained_rows(settings.step - 1)
    value = recorded.get("batch") if recorded else None
    return Batch(manifest, pretrain.seed, first, rows, None if value is None else int(value))


def _check_fingerprint(run: Path, manifest: Manifest) -> None:
    if not (run / "environment.json").is_file():
        return
    found = read_json(run / "environment.json", "environment").get("corpus_fingerprint")
    if found not in (None, manifest.fingerprint):
        raise CodexRayError(
            f"corpus {manifest.folder} is not the one that run {run} was trained on (fingerprint "
            f"{manifest.fingerprint[:12]} instead of {found[:12]}); give that one as corpus=FOLDER"
        )


def _records(manifest: Manifest, positions: list[int], ids: list[int]) -> Iterator[dict[str, Any]]:
    sources = list(readers(manifest, SPLIT))
    for position, row in zip(positions, ids, strict=True):
        reader, own = source_of(sources, row)
        start, stop = own * reader.length, (own + 1) * reader.length
        documents = [
            {
                "name": line.name,
                "sha256": line.sha256.hex(),
                "first_token": max(line.offset, start) - start,
                "tokens": min(line.offset + line.tokens, stop) - max(line.offset, start),
            }
            for line in reader.overlapping(start, stop)
        ]
        yield {
            "position": position,
            "row": row,
            "source": reader.info.source,
            "source_row": own,
            "documents": documents,
        }


def _show(
    records: list[dict[str, Any]], settings: CorpusRows, manifest: Manifest, progress: Progress
) -> None:
    sources, decoder = list(readers(manifest, SPLIT)), Decoder(manifest)
    for record in records:
        own = f"row {record['source_row']} of source {record['source']}"
        title = f"position {record['position']}: row {record['row']}, {own}"
        if settings.text:
            show_row(sources, record["row"], decoder, progress, title)
        else:
            cells = [
                (f"from token {item['first_token']}", f"{item['tokens']} tokens", item["name"])
                for item in record["documents"]
            ]
            progress.table(title, cells)
