"""The ``generate`` verb: complete a prompt on the terminal, or a file of prompts as JSON lines."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codex_ray.config.use import Generate
from codex_ray.errors import CodexRayError, ConfigError, Interrupted
from codex_ray.files import unwritable, write_text
from codex_ray.rollout.generate import OnToken, check_prompts, generate, prompt_ids
from codex_ray.rollout.load import load_with_tokenizer, tokenizer_folder
from codex_ray.rollout.request import Completion
from codex_ray.rollout.sampling import row_seeds
from codex_ray.tokenizer import Tokenizer
from codex_ray.tokenizer.chat import TemplateFailure
from codex_ray.tokenizer.conversation import ChatTemplate

BATCHES_AT_ONCE = 16
"""Batches whose prompts are sorted by length together, and whose lines are printed together."""


@dataclass(frozen=True)
class Generation:
    """What was generated.

    Attributes:
        completions: one per prompt, in order.
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
    if settings.prompt is not None and settings.prompts_file is not None:
        raise ConfigError("give prompt=TEXT or prompts_file=FILE, not both")
    records = _records(settings)
    output = Path(settings.output).expanduser() if settings.output is not None else None
    done = _whole_lines(output, records) if output is not None and settings.resume else 0
    model, tokenizer = load_with_tokenizer(settings.model, settings.revision, settings.compute)
    prompts = _encoded(settings, tokenizer, [record["prompt"] for record in records])
    check_prompts(model, prompts)
    seeds = row_seeds(settings.seed, len(prompts))
    streamed = settings.prompts_file is None and output is None
    completions: list[Completion] = []
    group_rows = settings.batch_rows * BATCHES_AT_ONCE
    if output is not None and not done:
        write_text(output, "")
    started = time.perf_counter()
    try:
        for start in range(done, len(prompts), group_rows):
            group = slice(start, start + group_rows)
            shown = _print_token if streamed else None
            found = _complete(settings, model, tokenizer, prompts[group], seeds[group], shown)
            completions += found
            if output is not None:
                _append(output, _lines(records[group], found))
            elif not streamed:
                print(_lines(records[group], found), end="", flush=True)
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped; {done + len(completions)} of {len(prompts)} completions are whole"
            + ("; resume=true goes on" if output is not None else "")
        ) from None
    finally:
        if streamed:
            print(flush=True)
    seconds = time.perf_counter() - started
    tokens = sum(len(completion.ids) for completion in completions)
    print(f"{tokens} tokens in {seconds:.1f} s, {tokens / seconds:,.0f} tokens/s", file=sys.stderr)
    return Generation(completions, tokens, seconds)


def _complete(
    settings: Generate,
    model: Any,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    on_token: OnToken | None,
) -> list[Completion]:
    return generate(
        model,
        prompts,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        seed=seeds,
        stop=settings.stop,
        stop_ids=settings.stop_ids,
        regex=settings.regex,
        cache_bytes=settings.cache_bytes,
        tokenizer=tokenizer,
        on_token=on_token,
        batch_rows=settings.batch_rows,
    )


def _whole_lines(output: Path, records: Sequence[dict[str, Any]]) -> int:
    """Return how many prompts an output that was cut off has completed; a torn last line is taken off.

    Raises:
        CodexRayError: it is not of these prompts.
    """
    if not output.exists():
        return 0
    data = output.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    lines = whole.splitlines()
    for number, (line, record) in enumerate(zip(lines, records, strict=False), start=1):
        try:
            fits = json.loads(line)["prompt"] == record["prompt"]
        except (ValueError, KeyError, TypeError):
            fits = False
        if not fits:
            raise CodexRayError(
                f"line {number} of {output} is not of prompt {number}, so resume=true cannot go on with it; "
                "give another output, or leave resume out"
            )
    if len(lines) > len(records):
        raise CodexRayError(
            f"{output} has {len(lines)} lines for {len(records)} prompts; give another output"
        )
    os.truncate(output, len(whole))
    return len(lines)


def _append(output: Path, text: str) -> None:
    try:
        with output.open("a", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise unwritable(output, error) from error


def chat_ids(template: ChatTemplate, texts: Sequence[str]) -> list[list[int]]:
    """Encode prompts as a user's first turn, up to where the assistant begins to write.

    Raises:
        CodexRayError: the chat template refuses such messages.
    """
    try:
        return [template.prompt([{"role": "user", "content": text}]) for text in texts]
    except TemplateFailure as error:
        raise CodexRayError(f"the model's chat template failed ({error}); leave chat=true out") from error


def read_prompts(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines that each hold a text ``prompt``; their other keys are kept.

    Raises:
        CodexRayError: the file cannot be read, or a line is something else; the sentence has its number.
    """
    form = 'write one {"prompt": "..."} a line'
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CodexRayError(
            f"prompts file {path} cannot be read ({error}); give a UTF-8 text file"
        ) from error
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CodexRayError(f"line {number} of {path} is not JSON ({error}); {form}") from error
        if not isinstance(record, dict) or not isinstance(record.get("prompt"), str):
            raise CodexRayError(f"line {number} of {path} has no text under 'prompt'; {form}")
        records.append(record)
    if not records:
        raise CodexRayError(f"prompts file {path} is empty; {form}")
    return records


def _encoded(settings: Generate, tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    if not settings.chat:
        return prompt_ids(tokenizer, texts)
    folder = tokenizer_folder(settings.model, settings.revision)
    return chat_ids(ChatTemplate.of(tokenizer, folder), texts)


def _records(settings: Generate) -> list[dict[str, Any]]:
    if settings.prompts_file is not None:
        return read_prompts(Path(settings.prompts_file).expanduser())
    if settings.prompt is not None:
        return [{"prompt": settings.prompt}]
    if sys.stdin.isatty():
        print("reading the prompt from the terminal; Ctrl-D ends it", file=sys.stderr)
    try:
        return [{"prompt": sys.stdin.buffer.read().decode("utf-8")}]
    except UnicodeDecodeError as error:
        raise CodexRayError(f"standard input is not UTF-8 text ({error}); give text") from error


def _print_token(row: int, token: int, text: str) -> None:
    print(text, end="", flush=True)


def _lines(records: Iterable[dict[str, Any]], completions: Iterable[Completion]) -> str:
    lines = [
        json.dumps(
            {
                **record,
                "completion": completion.text,
                "finish_reason": completion.finish_reason,
                "tokens": len(completion.ids),
                "logprob": sum(completion.logprobs),
            },
            ensure_ascii=False,
        )
        for record, completion in zip(records, completions, strict=False)
    ]
    return "".join(f"{line}\n" for line in lines)
