"""Files of prompts, completed in this process or on Ray actors, in memory that does not grow with them.

A first reading refuses what cannot be completed, before anything is sampled. Lines are written in the order
of the prompts, so that an output that was cut off tells by itself how far it came.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from codex_ray.config.use import Generate
from codex_ray.errors import CodexRayError, Interrupted
from codex_ray.files import unwritable
from codex_ray.model.load import load_config, positions_of
from codex_ray.rollout.episode import STEP_PROMPTS, turn_seed
from codex_ray.rollout.generate import complete, prompt_ids
from codex_ray.rollout.load import load_with_tokenizer, tokenizer_folder
from codex_ray.rollout.prompts import Group, Record, read_groups, read_prompts
from codex_ray.rollout.request import Completion, Request
from codex_ray.rollout.sampler import check_prompt
from codex_ray.rollout.sampling import Sampling
from codex_ray.rollout.spread import completions as spread_completions
from codex_ray.rollout.spread import settled
from codex_ray.tokenizer.chat import TemplateFailure
from codex_ray.tokenizer.conversation import ChatTemplate
from codex_ray.track import open_progress

if TYPE_CHECKING:
    from codex_ray.tokenizer import Tokenizer

BATCHES_AT_ONCE = 16
"""Times `batch_rows` prompts that this process samples, and writes, together."""

CHECKED_TOGETHER = 64
"""Prompts encoded together in the first reading."""


def complete_file(settings: Generate, tokenizer: Tokenizer) -> tuple[list[Completion], int, float]:
    """Complete a file of prompts; each gets a line of JSON, in order, in ``output`` or on standard output.

    Args:
        settings: of the verb, with ``prompts_file``.
        tokenizer: the model's.

    Returns:
        the completions of this start, none where they are in ``output``; the tokens sampled; the seconds.

    Raises:
        CodexRayError: prompts or a model that cannot be read, a prompt too long for the model, or an output
            of other prompts.
        Interrupted: Ctrl-C; lines that were complete are written.
    """
    from codex_ray.cluster.session import refuse_relative_in_job

    for key, given in (("prompts_file", settings.prompts_file), ("output", settings.output)):
        if given is not None:
            refuse_relative_in_job(given, key)
    settings = replace(settings, compute=settled(settings.compute, settings.spread))
    assert settings.prompts_file is not None
    path = Path(settings.prompts_file).expanduser()
    output = Path(settings.output).expanduser() if settings.output is not None else None
    count = _check(settings, path, tokenizer)
    # Before the output is opened, so that nothing is thrown away where there is no model.
    loaded = (
        None
        if settings.spread.actors
        else load_with_tokenizer(settings.model, settings.revision, settings.compute)
    )
    kept: list[Completion] = []
    done = tokens = 0
    try:
        with (
            open_progress(None, "off" if output is None else "auto") as shown,
            _opened(output, path, resume=settings.resume) as (stream, done),
            shown.stage("complete the prompts", total=count - done, unit="prompts"),
            closing(
                _here(settings, path, loaded, done)
                if loaded
                else _spread(settings, path, count, done, shown.note)
            ) as found,
        ):
            started = time.perf_counter()
            records = islice(read_prompts(path), done, None)
            for completions in found:
                _write(stream, output, islice(records, len(completions)), completions)
                done += len(completions)
                shown.advance(len(completions))
                tokens += sum(len(completion.ids) for completion in completions)
                kept += completions if output is None else []
            seconds = time.perf_counter() - started
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped; {done} of {count} completions are whole"
            + ("; resume=true goes on" if output is not None else "")
        ) from None
    return kept, tokens, seconds


def draw_seed(seed: int, number: int) -> int:
    """Return the seed of prompt ``number``'s draws, the same here and on actors."""
    return turn_seed(seed, number // STEP_PROMPTS, number % STEP_PROMPTS, 0, 0)


def encoded(settings: Generate, tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Return prompts as the model reads them: as they are, or as a user's turn.

    Raises:
        CodexRayError: the chat template refuses them.
    """
    if not settings.chat:
        return prompt_ids(tokenizer, texts)
    folder = tokenizer_folder(settings.model, settings.revision)
    return chat_ids(ChatTemplate.of(tokenizer, folder), texts)


def chat_ids(template: ChatTemplate, texts: Sequence[str]) -> list[list[int]]:
    """Encode prompts as a user's first turn, up to where the assistant begins to write.

    Raises:
        CodexRayError: the chat template refuses such messages.
    """
    try:
        return [template.prompt([{"role": "user", "content": text}]) for text in texts]
    except TemplateFailure as error:
        raise CodexRayError(f"the model's chat template failed ({error}); leave chat=true out") from error


def requests_of(settings: Generate, tokenizer: Tokenizer, group: Group) -> list[Request]:
    """Return what the settings ask for each of some prompts."""
    first, texts = group
    shared = Request(
        (),
        settings.max_new_tokens,
        Sampling(settings.temperature, settings.top_k, settings.top_p),
        stop=tuple(settings.stop),
        stop_ids=settings.stop_ids,
        regex=settings.regex,
    )
    return [
        replace(shared, prompt=ids, seed=draw_seed(settings.seed, number))
        for number, ids in enumerate(encoded(settings, tokenizer, texts), start=first)
    ]


def _check(settings: Generate, path: Path, tokenizer: Tokenizer) -> int:
    """Return how many prompts there are; all can be read and continued."""
    config, count = load_config(settings.model, settings.revision), 0
    limit, vocabulary = positions_of(config), config.get_text_config().vocab_size
    for _, texts in read_groups(path, 0, CHECKED_TOGETHER):
        for prompt in encoded(settings, tokenizer, texts):
            count += 1
            check_prompt(prompt, count, limit, vocabulary)
    return count


def _here(
    settings: Generate, path: Path, loaded: tuple[Any, Tokenizer], done: int
) -> Generator[list[Completion], None, None]:
    """Yield the completions of prompts after the first ``done``, some at a time, in order."""
    for group in read_groups(path, done, BATCHES_AT_ONCE * settings.batch_rows):
        asked = requests_of(settings, loaded[1], group)
        yield complete(*loaded, asked, slots=settings.batch_rows, cache_bytes=settings.cache_bytes)


def _spread(
    settings: Generate, path: Path, count: int, done: int, note: Callable[[str], None]
) -> Generator[list[Completion], None, None]:
    """Do the same on actors; a batch that is there in part is sampled again, and its rest taken."""
    from codex_ray.rollout.actor import FromFolder

    if done == count:
        return
    size = 2 * settings.batch_rows  # whoever ends early makes room for another, and slots stay full
    first = done - done % size  # batches lie where they would without what is done
    found = spread_completions(
        settings.spread,
        FromFolder(settings.model, settings.compute, settings.revision),
        partial(read_groups, path.resolve(), first, size),
        partial(requests_of, settings),
        count=-(-(count - first) // size),
        slots=settings.batch_rows,
        ordered=True,
        note=note,
    )
    with closing(found):
        for number, completions in found:
            yield completions[done - first :] if not number else completions


@contextmanager
def _opened(output: Path | None, prompts: Path, *, resume: bool) -> Iterator[tuple[TextIO, int]]:
    """Give what takes the lines, held against other processes, and how many are there."""
    if output is None:
        yield sys.stdout, 0
        return
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        stream = output.open("a", encoding="utf-8")
    except OSError as error:
        raise unwritable(output, error) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CodexRayError(
                f"{output} is being written by another process; wait for it to end, or give another output"
            ) from None
        done = _whole_lines(output, prompts) if resume else 0
        if not done:
            stream.truncate(0)
        yield stream, done


def _whole_lines(output: Path, prompts: Path) -> int:
    """Return how many prompts an output that was cut off has completed; a torn last line is taken off.

    Raises:
        CodexRayError: it is not of these prompts.
    """
    asked, done, whole = read_prompts(prompts), 0, 0
    with output.open("rb") as stream:
        for line in stream:
            if not line.endswith(b"\n"):
                break
            record = next(asked, None)
            if record is None:
                raise CodexRayError(f"{output} has more lines than there are prompts; give another output")
            try:
                fits = json.loads(line)["prompt"] == record["prompt"]
            except (ValueError, KeyError, TypeError):
                fits = False
            if not fits:
                raise CodexRayError(
                    f"line {done + 1} of {output} is not of prompt {done + 1}, so resume=true cannot go on "
                    "with it; give another output, or leave resume out"
                )
            done, whole = done + 1, whole + len(line)
    os.truncate(output, whole)
    return done


def _write(
    stream: TextIO, output: Path | None, records: Iterable[Record], completions: Sequence[Completion]
) -> None:
    try:
        stream.write(lines_of(records, completions))
        stream.flush()
    except OSError as error:
        if output is None:
            raise
        raise unwritable(output, error) from error


def lines_of(records: Iterable[Record], completions: Iterable[Completion]) -> str:
    """Return a line of JSON for each prompt: its own keys, and what became of it."""
    return "".join(
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
        + "\n"
        for record, completion in zip(records, completions, strict=True)
    )
