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
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from codex_ray.config.use import Generate
from codex_ray.errors import CodexRayError, Interrupted
from codex_ray.files import unwritable
from codex_ray.model.load import load_config, positions_of
from codex_ray.rollout.episode import Prompt, Rollout, turn_seed
from codex_ray.rollout.generate import generate
from codex_ray.rollout.load import load_with_tokenizer
from codex_ray.rollout.request import Completion
from codex_ray.rollout.sampler import check_prompt
from codex_ray.rollout.sampling import Sampling
from codex_ray.rollout.spread import open_spread, settled
from codex_ray.rollout.steps import STEP_PROMPTS, Order
from codex_ray.track import open_progress

FORM = 'write one {"prompt": "..."} a line'
BATCHES_AT_ONCE = 16
"""Batches whose prompts are sorted by length together, and whose lines are written together."""

Record = dict[str, Any]
Encode = Callable[[Sequence[str]], list[list[int]]]
Group = tuple[int, list[list[int]]]
"""Number of the first of some prompts, from 0, and their token ids."""

Complete = Callable[[Iterable[Group]], Iterator[list[Completion]]]


def complete_file(settings: Generate, encode: Encode) -> tuple[list[Completion], int, float]:
    """Complete a file of prompts; each gets a line of JSON, in order, in ``output`` or on standard output.

    Args:
        settings: of the verb, with ``prompts_file``.
        encode: makes texts token ids.

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
    count = _check(settings, path, encode)
    kept: list[Completion] = []
    done = tokens = 0
    try:
        with (
            open_progress(None, "off" if output is None else "auto") as shown,
            _completer(settings, shown.note) as complete,
            _opened(output, path, resume=settings.resume) as (stream, done),
            shown.stage("complete the prompts", total=count - done, unit="prompts"),
        ):
            started = time.perf_counter()
            for records, completions in _completed(settings, complete, path, encode, done):
                _write(stream, output, records, completions)
                done += len(records)
                shown.advance(len(records))
                tokens += sum(len(completion.ids) for completion in completions)
                kept += completions if output is None else []
            seconds = time.perf_counter() - started
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped; {done} of {count} completions are whole"
            + ("; resume=true goes on" if output is not None else "")
        ) from None
    return kept, tokens, seconds


def read_prompts(path: Path) -> Iterator[Record]:
    """Read JSON lines that each hold a text ``prompt``; their other keys are kept.

    Raises:
        CodexRayError: the file cannot be read, or a line is something else; the sentence has its number.
    """
    empty = True
    try:
        with path.open(encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    empty = False
                    yield _record(line, number, path)
    except (OSError, UnicodeDecodeError) as error:
        raise CodexRayError(
            f"prompts file {path} cannot be read ({error}); give a UTF-8 text file"
        ) from error
    if empty:
        raise CodexRayError(f"prompts file {path} is empty; {FORM}")


def _record(line: str, number: int, path: Path) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CodexRayError(f"line {number} of {path} is not JSON ({error}); {FORM}") from error
    if not isinstance(record, dict) or not isinstance(record.get("prompt"), str):
        raise CodexRayError(f"line {number} of {path} has no text under 'prompt'; {FORM}")
    return record


def draw_seed(seed: int, number: int) -> int:
    """Return the seed of prompt ``number``'s draws, the same here and on actors."""
    return turn_seed(seed, number // STEP_PROMPTS, number % STEP_PROMPTS, 0, 0)


def _check(settings: Generate, path: Path, encode: Encode) -> int:
    """Return how many prompts there are; all can be read and continued."""
    config, count = load_config(settings.model, settings.revision), 0
    limit, vocabulary = positions_of(config), config.get_text_config().vocab_size
    for _, ids in _groups(read_prompts(path), encode, STEP_PROMPTS, 0):
        for prompt in ids:
            count += 1
            check_prompt(prompt, count, limit, vocabulary)
    return count


def _groups(
    records: Iterable[Record], encode: Encode, size: int, first: int, taken: deque[list[Record]] | None = None
) -> Iterator[Group]:
    """Put records together as they are asked for; ``taken`` remembers those that were."""
    remaining = iter(records)
    while group := list(islice(remaining, size)):
        if taken is not None:
            taken.append(group)
        yield first, encode([record["prompt"] for record in group])
        first += len(group)


def _completed(
    settings: Generate, complete: Complete, path: Path, encode: Encode, done: int
) -> Iterator[tuple[list[Record], list[Completion]]]:
    """Yield records after the first ``done`` with their completions.

    Actors sample a step's prompts together: one that is there in part is sampled again and its rest taken.
    """
    size, first = settings.batch_rows * BATCHES_AT_ONCE, done
    if settings.spread.actors:
        size, first = STEP_PROMPTS, done - done % STEP_PROMPTS
    taken: deque[list[Record]] = deque()
    groups = _groups(islice(read_prompts(path), first, None), encode, size, first, taken)
    for completions in complete(groups):
        records, known = taken.popleft(), max(0, done - first)
        first += len(records)
        yield records[known:], completions[known:]


@contextmanager
def _completer(settings: Generate, note: Callable[[str], None]) -> Iterator[Complete]:
    """Give what completes groups, for the length of the block."""
    if not settings.spread.actors:
        model, tokenizer = load_with_tokenizer(settings.model, settings.revision, settings.compute)
        yield partial(_here, settings, model, tokenizer)
        return
    from codex_ray.rollout.actor import FromFolder

    build = FromFolder(settings.model, settings.compute, settings.revision)
    with open_spread(settings.spread, build, slots=settings.batch_rows, seed=settings.seed) as pool:
        yield partial(_spread, settings, pool, note)


def _here(
    settings: Generate, model: Any, tokenizer: Any, groups: Iterable[Group]
) -> Iterator[list[Completion]]:
    for first, ids in groups:
        yield generate(
            model,
            ids,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_k=settings.top_k,
            top_p=settings.top_p,
            seed=[draw_seed(settings.seed, first + place) for place in range(len(ids))],
            stop=settings.stop,
            stop_ids=settings.stop_ids,
            regex=settings.regex,
            cache_bytes=settings.cache_bytes,
            tokenizer=tokenizer,
            batch_rows=settings.batch_rows,
        )


def _spread(
    settings: Generate, pool: Any, note: Callable[[str], None], groups: Iterable[Group]
) -> Iterator[list[Completion]]:
    orders = (
        Order(
            first // STEP_PROMPTS,
            None,
            [Prompt(one) for one in ids],
            1,
            Sampling(settings.temperature, settings.top_k, settings.top_p),
            settings.max_new_tokens,
            settings.stop,
            settings.stop_ids,
            settings.regex,
        )
        for first, ids in groups
    )
    for _, share in pool.stream(orders, 2 * settings.spread.actors):
        for sentence in share.notes:
            note(sentence)
        yield [_completion(rollout) for rollout in share.rollouts]


def _completion(rollout: Rollout) -> Completion:
    return Completion(
        rollout.completion_ids,
        rollout.text[0],
        rollout.logprobs,
        rollout.sampling_logprobs,
        rollout.finish_reason,
    )


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
    stream: TextIO, output: Path | None, records: Sequence[Record], completions: Sequence[Completion]
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
