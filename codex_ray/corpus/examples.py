"""Rows of chat messages, or of prompts and responses, become a folder of packed examples.

The folder is a corpus (see :mod:`codex_ray.corpus.manifest`) whose rows are marked
(:mod:`codex_ray.corpus.marked`); its splits count learnt tokens and the bytes of learnt text. The same rows
and settings give the same folder, byte for byte.
"""

from __future__ import annotations

import glob
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from codex_ray.config.corpus import Limits, Source, Split
from codex_ray.config.finetune import Examples
from codex_ray.corpus import manifest as manifests
from codex_ray.corpus.example_rows import Held, Packer
from codex_ray.corpus.manifest import Manifest
from codex_ray.corpus.marked import DTYPE, mark
from codex_ray.corpus.messages import messages_of, tools_of
from codex_ray.corpus.pack import Layout
from codex_ray.corpus.raw import Quarantined
from codex_ray.corpus.sources.read import read_unit
from codex_ray.corpus.sources.reasons import UnreadableError
from codex_ray.corpus.sources.storage import is_url
from codex_ray.corpus.sources.units import Unit, find_units
from codex_ray.corpus.split import split_of
from codex_ray.errors import CodexRayError
from codex_ray.files import unwritable
from codex_ray.tokenizer import Tokenizer
from codex_ray.tokenizer.chat import TemplateFailure
from codex_ray.tokenizer.conversation import ChatTemplate, is_assistant
from codex_ray.track.progress import Progress

NAME, OLD = "examples", "replay"
ROW_GROUP_ROWS, SHARD_ROW_GROUPS = 64, 64
UNIT_BYTES = 64 * 2**20
SHOWN_REASONS = 3


@dataclass
class Counts:
    """What became of the rows."""

    read: int = 0
    kept: int = 0
    cut: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    samples: dict[str, str] = field(default_factory=dict)

    def refuse(self, unit: Unit, name: str, reason: str) -> None:
        """Count a row that is left out."""
        kind = reason.partition(":")[0]
        self.refused[kind] += 1
        if kind not in self.samples:
            self.samples[kind] = f"{_place(unit, name)} ({reason})"

    def plain(self) -> dict[str, Any]:
        """Return it for the manifest."""
        return {**vars(self), "refused": dict(self.refused)}


class RecordOf:
    """Takes messages, or prompt and response, out of a record, as JSON; of preferences two of them.

    Args:
        settings: of the examples.
        kind: what records are, as for :func:`prepare_examples`.
    """

    def __init__(self, settings: Examples, kind: str) -> None:
        self._settings, self._pairs, self._text = settings, kind == "preferences", kind == "prompts"

    def columns(self, available: Collection[str]) -> list[str]:
        """Return which columns of a table must be read."""
        names = self._settings
        answers = (names.response, names.chosen, names.rejected)
        wanted = (names.messages, names.tools, names.prompt, *answers)
        return [name for name in wanted if name in available]

    def __call__(self, record: Mapping[str, Any]) -> str:
        """Return a list of ``{"messages"}`` or ``{"prompt", "response"}``: one, or chosen and rejected.

        Messages that may call tools have these beside them, as ``tools``.

        Raises:
            UnreadableError: the record has neither, or nothing to learn.
        """
        if not self._pairs:
            return json.dumps([self._one(record)])
        names, found = self._settings, []
        for column in (names.chosen, names.rejected):
            answer = record.get(column)
            if answer is None:
                there = ", ".join(sorted(map(str, record))[:8]) or "nothing"
                raise UnreadableError(f"no answer: column {column} is missing; there are {there}")
            before = record.get(names.messages)
            if isinstance(answer, list):
                turns = [*(before or []), *answer]
            elif before is not None:
                turns = [*before, {"role": "assistant", "content": answer}]
            else:
                found.append(self._one({names.prompt: record.get(names.prompt), names.response: answer}))
                continue
            found.append(self._conversation(record, turns, column))
        return json.dumps(found)

    def _conversation(self, record: Mapping[str, Any], turns: Any, column: str) -> dict[str, Any]:
        tools = tools_of(record.get(self._settings.tools), self._settings.tools)
        messages = messages_of(turns, column)
        if self._text and not messages[-1]["content"].strip():
            raise UnreadableError(
                f"empty response: the last answer of {column} calls a tool and says nothing"
            )
        return {"messages": messages} | ({"tools": tools} if tools else {})

    def _one(self, record: Mapping[str, Any]) -> dict[str, Any]:
        settings = self._settings
        if record.get(settings.messages) is not None:
            return self._conversation(record, record[settings.messages], settings.messages)
        found = {}
        for name, column in (("prompt", settings.prompt), ("response", settings.response)):
            value = record.get(column)
            if isinstance(value, UnreadableError):
                raise value
            if not isinstance(value, str):
                there = ", ".join(sorted(map(str, record))[:8]) or "nothing"
                what = "is no text" if column in record else f"is missing; there are {there}"
                raise UnreadableError(f"no {name}: column {column} {what}")
            found[name] = value
        if not found["response"].strip():
            raise UnreadableError(f"empty response: column {settings.response} holds no text")
        if settings.chat:
            turns = zip(("user", "assistant"), found.values(), strict=True)
            return {"messages": [{"role": role, "content": text} for role, text in turns]}
        return found


class ExampleEncoder:
    """Makes records into marked tokens."""

    def __init__(self, settings: Examples, template: ChatTemplate, length: int) -> None:
        self._settings, self._template, self._length = settings, template, length
        self._tokenizer = template.tokenizer

    def __call__(self, records: list[dict[str, Any]]) -> tuple[NDArray[np.uint32], int, bool]:
        """Return marked tokens of what belongs together, bytes of its learnt text, and whether it is cut.

        Raises:
            UnreadableError: it is too long, or its messages cannot be rendered.
        """
        found = [self._one(record, self._length // len(records)) for record in records]
        marked, sizes, cut = zip(*found, strict=True)
        return np.concatenate(marked), sum(sizes), any(cut)

    def _one(self, record: Mapping[str, Any], room: int) -> tuple[NDArray[np.uint32], int, bool]:
        ids, learnt, size = self._plain(record) if "prompt" in record else self._chat(**record)
        cut = len(ids) > room
        if cut and self._settings.too_long == "cut":
            ids, learnt = ids[:room], learnt[:room]
        elif cut:
            half = "" if room == self._length else ", half a row"
            raise UnreadableError(f"too long: {len(ids)} tokens, and there is room for {room}{half}")
        if not learnt[1:].any():
            why = ": the prompt alone takes all room" if cut else ""
            raise UnreadableError(f"nothing to learn{why}")
        return mark(ids, learnt), size, cut

    def _plain(self, record: Mapping[str, Any]) -> tuple[NDArray[Any], NDArray[np.bool_], int]:
        """Begin, prompt, response, end: what looks like a special token in them is text."""
        begin, end = self._tokenizer.bos_id, self._tokenizer.special_ids["eos"]
        texts = [record["prompt"], record["response"]]
        prompt, response = self._tokenizer.encode_arrays(texts)
        parts: list[Any] = [[] if begin is None else [begin], prompt, response, [end]]
        ids = np.concatenate(parts).astype(np.uint32)
        return ids, np.arange(len(ids)) >= len(parts[0]) + len(prompt), len(texts[1].encode())

    def _chat(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None
    ) -> tuple[NDArray[Any], NDArray[np.bool_], int]:
        try:
            segments = self._template.segments(messages, tools)
        except TemplateFailure as error:
            raise UnreadableError(f"no text: the chat template failed: {error}") from error
        ids, learnt = self._template.encode(segments, messages, tools)
        return ids, learnt, sum(_written(message) for message in messages if is_assistant(message))


def _written(message: Mapping[str, Any]) -> int:
    """Bytes of what the assistant wrote: text, and calls of tools as JSON."""
    calls = "".join(json.dumps(call["function"]) for call in message.get("tool_calls", ()))
    return len(f"{message['content']}{calls}".encode())


class OldRows(Protocol):
    """Rows to be seen again among the new ones; see :mod:`codex_ray.corpus.replay`."""

    @property
    def share(self) -> float:
        """Their share of the positions of training."""

    @property
    def request(self) -> str:
        """Names what they are, and every setting that decides them."""

    def read(self, progress: Progress) -> Held:
        """Return them, each to be packed whole.

        Raises:
            CodexRayError: they cannot be read, or cannot stand beside the new ones.
        """


def prepare_examples(
    settings: Examples,
    template: ChatTemplate,
    folder: Path,
    *,
    length: int,
    seed: int,
    progress: Progress,
    kind: str = "answers",
    old: OldRows | None = None,
    life_id: str | None = None,
) -> Manifest:
    """Read, encode, pack and write examples into ``folder``; one that is there already is taken as it is.

    Args:
        settings: of the examples; ``template``: of messages.
        folder: to be written; ``length``: tokens of a row.
        seed: of the choice of what is held out; ``progress``: shows how far it is.
        kind: ``answers`` are packed; of ``preferences`` a packed unit is the chosen example and then the
            rejected one; ``prompts`` have a row each, in their order, and their text in ``records.jsonl``,
            where that of all rows held out is as well.
        old: rows that are seen again among these, as a source of their own.
        life_id: of the model that learns from them; unset begins a life.

    Raises:
        CodexRayError: a row cannot be used and ``on_error=fail``, or no row can; the sentence names one. Or
            the rows have changed since the folder was made, or the disk is full.
    """
    reader = ExampleReader(settings, template, length=length, seed=seed, kind=kind)
    request = reader.request
    if old is not None:
        request = hashlib.sha256(f"{request} {old.share} {old.request}".encode()).hexdigest()
    if (folder / manifests.NAME).is_file():
        found = Manifest.load(folder)
        if found.request != request:
            raise CodexRayError(
                f"the examples of {settings.path} or their settings have changed since this run began; give "
                "another name=NAME"
            )
        return found
    held, counts = reader.read(progress)
    if not len(held["train"]):  # the few there are fell among those held out
        held["train"], held["validation"] = held["validation"], held["train"]
    packer = Packer(Layout(length, ROW_GROUP_ROWS, ROW_GROUP_ROWS * SHARD_ROW_GROUPS, DTYPE), request, kind)
    splits = {name: [(NAME, 1.0, found)] for name, found in held.items()}
    if old is not None:
        splits["train"] = [(NAME, 1.0 - old.share, held["train"]), (OLD, old.share, old.read(progress))]
    try:
        return _write(folder, splits, settings, template.tokenizer, counts, packer, life_id)
    except OSError as error:
        raise unwritable(folder, error) from error


class ExampleReader:
    """Reads and encodes the rows of a file, folder, glob or URL.

    Args:
        settings, template, length, seed, kind: as for :func:`prepare_examples`.
        key: the setting that named the path, for errors.

    Raises:
        CodexRayError: nothing is there.
    """

    def __init__(
        self,
        settings: Examples,
        template: ChatTemplate,
        *,
        length: int,
        seed: int,
        kind: str,
        key: str = "data.path",
    ) -> None:
        self._settings, self._seed, self._kind = settings, seed, kind
        self._source = Source(path=settings.path, format=settings.format)
        named = not is_url(settings.path) and not glob.has_magic(settings.path)
        if named and not Path(settings.path).expanduser().exists():
            raise CodexRayError(
                f"{key}={settings.path} does not exist; give a file, folder, glob or URL of rows"
            )
        self._units = find_units(NAME, self._source, (), unit_bytes=UNIT_BYTES)
        self._encoder = ExampleEncoder(settings, template, length)
        digest = template.tokenizer.digest
        asked = [asdict(settings) | {"path": None}, template.text, digest, length, seed, kind]
        listed = [[unit.name, unit.version, unit.size, unit.start] for unit in self._units]
        self.request = hashlib.sha256(json.dumps([asked, listed]).encode()).hexdigest()

    def read(self, progress: Progress, stage: str = NAME) -> tuple[dict[str, Held], Counts]:
        """Return the examples of each split, and what became of the rows.

        Raises:
            CodexRayError: a row cannot be used and ``on_error=fail``, or no row can; the sentence names one.
        """
        counts = Counts()
        held = {split: Held() for split in manifests.SPLITS}
        with progress.stage(stage, total=sum(unit.size for unit in self._units), unit="bytes"):
            for unit in self._units:
                for split, text, marked, size in self._encoded(unit, counts):
                    kept = self._kind == "prompts" or split == "validation"
                    held[split].add(marked, size, text if kept else None)
                progress.advance(unit.size)
        _judge(self._settings, counts)
        return held, counts

    def _encoded(self, unit: Unit, counts: Counts) -> Iterator[tuple[str, str, NDArray[np.uint32], int]]:
        record_of = RecordOf(self._settings, self._kind)
        shares = Split(validation=self._settings.validation, test=0.0)
        for item in read_unit(unit, self._source, Limits(), record_of):
            counts.read += 1
            if isinstance(item, Quarantined):
                counts.refuse(unit, item.name, item.reason)
                continue
            text = str(item.content)
            try:
                marked, size, cut = self._encoder(json.loads(text))
            except UnreadableError as error:
                counts.refuse(unit, item.name, str(error))
                continue
            counts.kept += 1
            counts.cut += cut
            split = split_of(hashlib.sha256(text.encode()).digest(), shares, self._seed)
            yield split, text, marked, size


def _place(unit: Unit, name: str) -> str:
    """Name a row as an editor finds it: records of JSON Lines are named by the byte that they begin at."""
    _, _, offset = name.rpartition("@")
    if unit.kind != "jsonl" or not offset.isdigit() or not Path(unit.path).is_file():
        return f"{name} of {unit.path}"
    with Path(unit.path).open("rb") as stream:
        line = stream.read(int(offset)).count(b"\n") + 1
    return f"line {line} of {unit.path}"


def _judge(settings: Examples, counts: Counts) -> None:
    """Refuse rows that cannot be used, where they are not to be skipped; and where none is left.

    Raises:
        CodexRayError: naming a row and its reason.
    """
    long = settings.too_long == "drop"
    fatal = {kind: n for kind, n in counts.refused.items() if not (long and kind == "too long")}
    if fatal and settings.on_error == "fail":
        kind = next(iter(fatal))
        others = f"; {counts.refused[kind] - 1} more like it" if counts.refused[kind] > 1 else ""
        remedy = (
            "data.too_long=drop leaves such out"
            if kind == "too long"
            else "data.on_error=skip leaves such out"
        )
        raise CodexRayError(
            f"{counts.samples[kind]} of {settings.path} cannot be learnt from{others}; {remedy}"
        )
    if not counts.kept:
        reasons = "; ".join(counts.samples[kind] for kind, _ in counts.refused.most_common(SHOWN_REASONS))
        raise CodexRayError(
            f"nothing of {settings.path} can be learnt from ({counts.read} rows): {reasons or 'no row'}"
        )


def _write(
    folder: Path,
    splits: Mapping[str, Sequence[tuple[str, float, Held]]],
    settings: Examples,
    tokenizer: Tokenizer,
    counts: Counts,
    packer: Packer,
    life_id: str | None,
) -> Manifest:
    staging = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    tokenizer.save(staging / "tokenizer")
    pad_id = tokenizer.special_ids["pad"]
    manifest = Manifest(
        format_version=manifests.FORMAT_VERSION,
        sequence_length=packer.layout.sequence_length,
        vocabulary_size=tokenizer.vocabulary_size,
        dtype=DTYPE,
        tokenizer_digest=tokenizer.digest,
        content=packer.content,
        request=packer.content,
        fingerprint="",
        life_id="",
        settings={"examples": asdict(settings), "pack": {"method": NAME, "kind": packer.kind}},
        sources={NAME: {"path": settings.path, **counts.plain()}},
        splits={name: packer.write(staging / name, sources, pad_id) for name, sources in splits.items()},
        folder=staging,
    ).sealed()
    manifest = replace(manifest, life_id=life_id or manifest.life_id)
    manifest.save()
    shutil.rmtree(folder, ignore_errors=True)
    staging.rename(folder)
    return replace(manifest, folder=folder)
