"""The ``generate`` verb: complete a prompt on the terminal, or a file of prompts as JSON lines."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from codex_ray.config.use import Generate, refuse_generation
from codex_ray.errors import CodexRayError, Interrupted
from codex_ray.files import write_text
from codex_ray.model.load import load_config
from codex_ray.rollout.batches import complete_file, lines_of, requests_of
from codex_ray.rollout.generate import complete
from codex_ray.rollout.load import load_with_tokenizer, tokenizer_folder
from codex_ray.rollout.request import Completion
from codex_ray.tokenizer import Tokenizer


@dataclass(frozen=True)
class Generation:
    """What was generated.

    Attributes:
        completions: one per prompt, in order; none where a file of prompts is completed into ``output``.
        tokens: tokens sampled.
        seconds: time spent on them, without loading the model; with that of actors, where they share a file.
    """

    completions: list[Completion]
    tokens: int
    seconds: float


def generate_verb(settings: Generate) -> Generation:
    """Complete one prompt, or a file of them.

    The completion of one prompt is printed as it grows. Otherwise each prompt gets a line of JSON, in order,
    in ``output`` or on standard output: the keys of its own line with ``completion``, ``finish_reason``,
    ``tokens`` and ``logprob`` (their sum). Tokens per second go to standard error.

    Raises:
        ConfigError: settings that cannot be right.
        CodexRayError: prompts or a model that cannot be read, or a prompt too long for the model.
        Interrupted: Ctrl-C; lines that were complete are written.
    """
    refuse_generation(settings)
    load_config(settings.model, settings.revision)  # says it where there is no such model
    tokenizer = Tokenizer.load(tokenizer_folder(settings.model, settings.revision))
    if settings.prompts_file is None:
        completions, tokens, seconds = _complete_one(settings, tokenizer)
    else:
        completions, tokens, seconds = complete_file(settings, tokenizer)
    print(f"{tokens} tokens in {seconds:.1f} s, {tokens / seconds:,.0f} tokens/s", file=sys.stderr)
    return Generation(completions, tokens, seconds)


def _complete_one(settings: Generate, tokenizer: Tokenizer) -> tuple[list[Completion], int, float]:
    text = settings.prompt if settings.prompt is not None else _standard_input()
    asked = requests_of(settings, tokenizer, (0, [text]))
    model, tokenizer = load_with_tokenizer(settings.model, settings.revision, settings.compute)
    shown = settings.output is None
    started = time.perf_counter()
    try:
        completions = complete(
            model,
            tokenizer,
            [replace(one, streamed=shown) for one in asked],
            slots=1,
            cache_bytes=settings.cache_bytes,
            on_token=_print_token if shown else None,
        )
    except KeyboardInterrupt:
        raise Interrupted("stopped") from None
    finally:
        if shown:
            print(flush=True)
    seconds = time.perf_counter() - started
    if settings.output is not None:
        write_text(Path(settings.output).expanduser(), lines_of([{"prompt": text}], completions))
    return completions, len(completions[0].ids), seconds


def _standard_input() -> str:
    if sys.stdin.isatty():
        print("reading the prompt from the terminal; Ctrl-D ends it", file=sys.stderr)
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise CodexRayError(f"standard input is not UTF-8 text ({error}); give text") from error


def _print_token(row: int, token: int, text: str) -> None:
    print(text, end="", flush=True)
