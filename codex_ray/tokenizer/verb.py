"""The verbs ``tokenizer train``, ``encode``, ``decode`` and ``export``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codex_ray.config.tokenizer import Decode, Encode, ExportTokenizer, TrainTokenizer
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.files import write_text
from codex_ray.tokenizer.tokenizer import Tokenizer
from codex_ray.tokenizer.training import train_tokenizer

_MEASURED_FILES = 200


@dataclass(frozen=True)
class Trained:
    """What ``tokenizer train`` wrote.

    Attributes:
        folder: the tokenizer's folder.
        vocabulary_size: pieces in all.
        files: documents read; ``skipped``: items that are not text.
        bytes_per_token: on an even choice of the files.
    """

    folder: Path
    vocabulary_size: int
    files: int
    skipped: int
    bytes_per_token: float


@dataclass(frozen=True)
class Encoded:
    """What ``tokenizer encode`` made: how many texts, and tokens without padding."""

    texts: int
    tokens: int


def train_verb(settings: TrainTokenizer) -> Trained:
    """Train a tokenizer on the text files of a folder.

    Raises:
        CodexRayError: there is no text, or the folder cannot be written.
        ConfigError: the vocabulary does not fit the text.
    """
    # The other users of tokenizers need no corpus code.
    from codex_ray.corpus.raw import Quarantined
    from codex_ray.corpus.reading import read_texts

    counts = {"files": 0, "skipped": 0}

    def texts(every: int) -> Iterator[str]:
        counts.update(files=0, skipped=0)
        for item in read_texts(settings.text, settings.suffixes):
            counts["skipped" if isinstance(item, Quarantined) else "files"] += 1
            if not isinstance(item, Quarantined) and counts["files"] % every == 0:
                yield item.text

    folder = Path(settings.output).expanduser()
    tokenizer = train_tokenizer(texts(1), settings.tokenizer, folder, settings.seed)
    ratio = tokenizer.bytes_per_token(texts(max(1, counts["files"] // _MEASURED_FILES)))
    result = Trained(folder, tokenizer.vocabulary_size, counts["files"], counts["skipped"], ratio)
    print(
        f"{folder}: {result.vocabulary_size:,} {settings.tokenizer.kind} pieces from {result.files:,} texts "
        f"({result.skipped} unreadable), {ratio:.2f} bytes per token"
    )
    return result


def encode_verb(settings: Encode) -> Encoded:
    """Encode a text, files or standard input to lines of ``{"ids": [...], "mask": [...]}``.

    Raises:
        CodexRayError: the tokenizer or a text cannot be read.
        ConfigError: ``truncate_to`` has no room for the special tokens.
    """
    tokenizer = Tokenizer.load(settings.tokenizer)
    texts = _texts(settings)
    around = [[tokenizer.bos_id], [tokenizer.eos_id]] if settings.add_special else [[], []]
    before, after = ([token for token in side if token is not None] for side in around)
    room = None if settings.truncate_to is None else settings.truncate_to - len(before) - len(after)
    if room is not None and room < 0:
        raise ConfigError(
            f"truncate_to={settings.truncate_to} has no room for {len(before) + len(after)} special tokens; "
            "give more, or leave out add_special"
        )
    rows = tokenizer.encode_batch(texts, parse_special=settings.parse_special, threads=settings.threads)
    if room is not None:
        left = settings.truncate_side == "left"
        rows = [row[max(0, len(row) - room) :] if left else row[:room] for row in rows]
    rows = [[*before, *row, *after] for row in rows]
    _write_lines(settings.output, _padded(tokenizer, rows, settings.pad_to, settings.pad_side))
    return Encoded(len(rows), sum(map(len, rows)))


def decode_verb(settings: Decode) -> list[str]:
    """Decode ids given as such, which prints the text alone, or in JSON lines, which writes such lines.

    Raises:
        CodexRayError: the tokenizer or a line cannot be read, or an id is not the tokenizer's.
    """
    tokenizer = Tokenizer.load(settings.tokenizer)
    rows = [settings.ids] if settings.ids else _read_ids(settings.file)
    texts = [tokenizer.decode(row) for row in rows]
    if settings.ids and settings.output is None:
        sys.stdout.write(texts[0])
        if sys.stdout.isatty():
            print()
    else:
        _write_lines(settings.output, ({"text": text} for text in texts))
    return texts


def export_verb(settings: ExportTokenizer) -> list[Path]:
    """Write the folder that ``AutoTokenizer`` loads and, if asked for, the vocabulary as text.

    ``vocab.txt`` has a JSON string per line, so that spaces and line ends in pieces can be seen; the first
    line is id 0. Returns the files written.

    Raises:
        CodexRayError: the tokenizer cannot be read or the folder cannot be written.
    """
    tokenizer = Tokenizer.load(settings.tokenizer)
    folder = Path(settings.output).expanduser()
    tokenizer.save(folder)
    if settings.vocabulary_text:
        lines = [json.dumps(piece, ensure_ascii=False) + "\n" for piece in tokenizer.vocabulary()]
        write_text(folder / "vocab.txt", "".join(lines))
    written = sorted(path for path in folder.iterdir() if path.is_file())
    print("\n".join(map(str, written)))
    return written


def _texts(settings: Encode) -> list[str]:
    if settings.text is not None:
        return [settings.text]
    return [_read(name) for name in settings.files] or [_read(None)]


def _read(name: str | None) -> str:
    """Read a file, or standard input, as it stands: line ends and byte order marks are text."""
    source = "standard input" if name is None else name
    try:
        data = sys.stdin.buffer.read() if name is None else Path(name).expanduser().read_bytes()
        return data.decode("utf-8")
    except OSError as error:
        raise CodexRayError(f"{source} cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise CodexRayError(
            f"{source} is not UTF-8 (byte 0x{error.object[error.start]:02x} at {error.start}); convert it"
        ) from error


def _read_ids(name: str | None) -> list[list[int]]:
    source = "standard input" if name is None else name
    rows = []
    for number, line in enumerate(_read(name).split("\n"), 1):
        if not line.strip():
            continue
        try:
            ids = json.loads(line)["ids"]
        except (ValueError, TypeError, KeyError):
            ids = None
        if not isinstance(ids, list) or not all(type(token) is int for token in ids):
            raise CodexRayError(
                f'line {number} of {source} holds no token ids; every line must be like {{"ids": [1, 2]}}'
            )
        rows.append(ids)
    return rows


def _padded(
    tokenizer: Tokenizer, rows: Sequence[Sequence[int]], pad_to: int | None, side: str
) -> Iterator[dict[str, Any]]:
    length = max(map(len, rows), default=0) if pad_to == 0 else pad_to or 0
    for row in rows:
        ids, mask = tokenizer.pad_batch([row], length=max(length, len(row)), side=side)
        yield {"ids": ids[0].tolist(), "mask": mask[0].tolist()}


def _write_lines(output: str | None, records: Iterator[dict[str, Any]]) -> None:
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    if output is None:
        sys.stdout.writelines(lines)
    else:
        write_text(Path(output).expanduser(), "".join(lines))
