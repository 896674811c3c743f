"""Settings of ``tokenizer train``, ``encode``, ``decode`` and ``export``."""

from __future__ import annotations

from dataclasses import dataclass

from codex_ray.config.common import DEFAULT_SEED
from codex_ray.config.corpus import Tokenizer
from codex_ray.config.fields import setting

_FOLDER = "tokenizer folder, or the corpus, run or model folder that holds one"


@dataclass(frozen=True)
class TrainTokenizer:
    """Train a SentencePiece tokenizer on a folder of text."""

    text: str = setting("stdlib", help="folder of text; 'stdlib' is this Python's standard library")
    suffixes: list[str] = setting(
        [".py", ".txt", ".md", ".rst"], help="file names to read end in one of these"
    )
    output: str = setting("tokenizer", help="folder to write")
    seed: int = setting(DEFAULT_SEED, minimum=0, help="seed of the sample; 0 becomes 1234")
    tokenizer: Tokenizer = setting(Tokenizer, help="the tokenizer")


@dataclass(frozen=True)
class Encode:
    """Turn text into token ids, one JSON line per text."""

    tokenizer: str = setting(help=_FOLDER)
    text: str | None = setting(None, help="text to encode; unset takes `files`, or standard input")
    files: list[str] = setting([], help="UTF-8 text files to encode, one text each")
    output: str | None = setting(None, help="JSONL file to write; unset prints")
    pad_to: int | None = setting(
        None, minimum=0, help="pad every line to so many tokens; 0 is the longest line's; unset does not pad"
    )
    pad_side: str = setting("right", choices=("left", "right"), help="where padding goes")
    truncate_to: int | None = setting(
        None, minimum=1, help="keep at most so many tokens, special ones included; unset keeps all"
    )
    truncate_side: str = setting("right", choices=("left", "right"), help="which end is cut off")
    add_special: bool = setting(False, help="put the tokens for begin and end of text around every text")
    parse_special: bool = setting(
        False, help="read special tokens written in the text (such as </s>) as themselves, not as text"
    )
    threads: int = setting(1, minimum=1, help="threads that encode")


@dataclass(frozen=True)
class Decode:
    """Turn token ids back into text."""

    tokenizer: str = setting(help=_FOLDER)
    ids: list[int] = setting([], help="token ids to decode; unset takes `file`, or standard input")
    file: str | None = setting(None, help='JSONL file with {"ids": [...]} on every line')
    output: str | None = setting(
        None, help='JSONL file of {"text": ...} lines to write; unset prints the text'
    )


@dataclass(frozen=True)
class ExportTokenizer:
    """Write a tokenizer for Transformers."""

    tokenizer: str = setting(help=_FOLDER)
    output: str = setting("exported-tokenizer", help="folder to write")
    vocabulary_text: bool = setting(False, help="also write vocab.txt, one piece per line in order of its id")
