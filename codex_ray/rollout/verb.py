"""The ``generate`` verb: complete a prompt on the terminal, or a file of prompts as JSON lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from codex_ray.config.use import Generate, refuse_generation
from codex_ray.errors import CodexRayError, Interrupted
from codex_ray.files import write_text
from codex_ray.model.load import load_config
from codex_ray.rollout.batches import complete_file, draw_seed, lines_of
from codex_ray.rollout.generate import generate, prompt_ids
from codex_ray.rollout.load import load_with_tokenizer, tokenizer_folder
from codex_ray.rollout.request import Completion
from codex_ray.tokenizer import Tokenizer
from codex_ray.tokenizer.chat import TemplateFailure
from codex_ray.tokenizer.conversation import ChatTemplate


@dataclass(frozen=True)
class Generation:
    """What was generated.

    Attributes:
        completions: one per prompt, in order; none where a file of prompts is completed into ``output``.
        tokens: tokens sampled.
        seconds: time spent on them, without loading the model.
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
        completions, tokens, seconds = complete_file(
            settings, lambda texts: _encoded(settings, tokenizer, texts)
        )
    print(f"{tokens} tokens in {seconds:.1f} s, {tokens / seconds:,.0f} tokens/s", file=sys.stderr)
    return Generation(completions, tokens, seconds)


def _complete_one(settings: Generate, tokenizer: Tokenizer) -> tuple[list[Completion], int, float]:
    text = settings.prompt if settings.prompt is not None else _standard_input()
    prompts = _encoded(settings, tokenizer, [text])
    model, tokenizer = load_with_tokenizer(settings.model, settings.revision, settings.compute)
    started = time.perf_counter()
    try:
        completions = generate(
            model,
            prompts,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_k=settings.top_k,
            top_p=settings.top_p,
            seed=[draw_seed(settings.seed, 0)],
            stop=settings.stop,
            stop_ids=settings.stop_ids,
            regex=settings.regex,
            cache_bytes=settings.cache_bytes,
            tokenizer=tokenizer,
            on_token=_print_token if settings.output is None else None,
        )
    except KeyboardInterrupt:
        raise Interrupted("stopped") from None
    finally:
        if settings.output is None:
            print(flush=True)
    seconds = time.perf_counter() - started
    if settings.output is not None:
        write_text(Path(settings.output).expanduser(), lines_of([{"prompt": text}], completions))
    return completions, len(completions[0].ids), seconds


def chat_ids(template: ChatTemplate, texts: Sequence[str]) -> list[list[int]]:
    """Encode prompts as a user's first turn, up to where the assistant begins to write.

    Raises:
        CodexRayError: the chat template refuses such messages.
    """
    try:
        return [template.prompt([{"role": "user", "content": text}]) for text in texts]
    except TemplateFailure as error:
        raise CodexRayError(f"the model's chat template failed ({error}); leave chat=true out") from error


def _encoded(settings: Generate, tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    if not settings.chat:
        return prompt_ids(tokenizer, texts)
    folder = tokenizer_folder(settings.model, settings.revision)
    return chat_ids(ChatTemplate.of(tokenizer, folder), texts)


def _standard_input() -> str:
    if sys.stdin.isatty():
        print("reading the prompt from the terminal; Ctrl-D ends it", file=sys.stderr)
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise CodexRayError(f"standard input is not UTF-8 text ({error}); give text") from error


def _print_token(row: int, token: int, text: str) -> None:
    print(text, end="", flush=True)
