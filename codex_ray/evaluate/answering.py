"""Models that answer a task's prompts: in this process, on Ray actors, or as given.

What is drawn follows from the seed, the task and an example's place in it: neither the batch nor the number
of workers changes an answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from codex_ray.config.evaluate import Answering
from codex_ray.errors import CodexRayError
from codex_ray.evaluate.metrics import Example
from codex_ray.evaluate.store import Answer
from codex_ray.evaluate.tasks import Task
from codex_ray.files import sha256_of
from codex_ray.rollout.episode import STEP_PROMPTS, turn_seed
from codex_ray.rollout.generate import prompt_ids
from codex_ray.rollout.request import Completion, Request
from codex_ray.rollout.sampler import Sampler, max_positions
from codex_ray.rollout.sampling import Sampling
from codex_ray.rollout.spread import completions

if TYPE_CHECKING:
    from codex_ray.config.rollout import Spread
    from codex_ray.rollout.actor import FromFolder
    from codex_ray.tokenizer import Tokenizer

STEP_BITS = 20

Note = Callable[[str], None]
"""Takes a sentence for the user."""

Missing = Sequence[tuple[Task, Sequence[int]]]
"""Tasks, and the places of their examples that are to be answered."""

Replies = Generator[tuple[Task, int, list[Answer]], None, None]
"""Tasks, places of examples, and their answers."""


class Answerer(Protocol):
    """Answers examples of tasks."""

    @property
    def identity(self) -> str:
        """What names the weights: other weights have another."""

    def answers(self, missing: Missing, seed: int, note: Note) -> Replies:
        """Answer examples; yields each with its answers, in any order.

        ``note`` is told what the user should know.
        """


@dataclass(frozen=True)
class Asked:
    """A task's prompts as token ids.

    Attributes:
        ids: by place; ``most``: tokens that an answer may have.
    """

    ids: list[list[int]]
    most: int


def encode(task: Task, tokenizer: Tokenizer, folder: Path, limit: int | None, note: Note) -> Asked:
    """Encode prompts so that each leaves room for an answer.

    Args:
        task: the task.
        tokenizer: the model's; ``folder``: where it and the chat template are.
        limit: the model's longest sequence; ``note``: told how many prompts lost their beginning.

    Raises:
        CodexRayError: a prompt without tokens, or too long where ``too_long=fail``.
    """
    settings = task.answering
    most = settings.max_new_tokens if limit is None else min(settings.max_new_tokens, max(1, limit // 2))
    if most < settings.max_new_tokens:
        note(
            f"{task.name}: answers have up to {most} tokens and not {settings.max_new_tokens}, as the model "
            f"reads {limit}, prompt and answer"
        )
    room = None if limit is None else limit - most
    found, cut = _ids(task.examples, settings, tokenizer, folder), 0
    for example, ids in zip(task.examples, found, strict=True):
        if room is not None and len(ids) > room:
            if settings.too_long == "fail":
                raise CodexRayError(
                    f"the prompt of example {example.id} of task {task.name} has {len(ids)} tokens, and "
                    f"{room} leave room for an answer of {most}; shorten it, or give too_long=cut"
                )
            del ids[: len(ids) - room]
            cut += 1
        if not ids:
            raise CodexRayError(f"example {example.id} of task {task.name} has no prompt; give it some text")
    if cut:
        note(
            f"{task.name}: {cut} of {len(found)} prompts lost their beginning, {most} tokens are for answers"
        )
    return Asked(found, most)


def _ids(
    examples: Sequence[Example], settings: Answering, tokenizer: Tokenizer, folder: Path
) -> list[list[int]]:
    texts = [example.prompt for example in examples if isinstance(example.prompt, str)]
    if len(texts) == len(examples) and not settings.chat:
        return prompt_ids(tokenizer, texts)
    from codex_ray.tokenizer.chat import TemplateFailure
    from codex_ray.tokenizer.conversation import ChatTemplate

    template = ChatTemplate.of(tokenizer, folder)
    try:
        return [template.prompt(messages_of(example)) for example in examples]
    except TemplateFailure as error:
        raise CodexRayError(f"the model's chat template failed ({error}); leave chat=true out") from error


def messages_of(example: Example) -> list[dict[str, Any]]:
    """Return an example's prompt as chat messages."""
    if isinstance(example.prompt, str):
        return [{"role": "user", "content": example.prompt}]
    return [dict(message) for message in example.prompt]


def sampling_of(settings: Answering) -> Sampling:
    """Return how tokens are drawn.

    Raises:
        ConfigError: a value that cannot be right.
    """
    return Sampling(settings.temperature, settings.top_k, settings.top_p)


def step_of(task: Task, place: int) -> int:
    """Return the number of the step that an example is a part of: of its task's name and its place."""
    name = hashlib.sha256(f"{task.name} {task.version}".encode()).digest()
    return int.from_bytes(name[:4], "big") << STEP_BITS | place // STEP_PROMPTS


def model_digest(model: str, revision: str | None) -> str:
    """Return what names a model's weights: the hash of its folder's configuration, weights and tokenizer.

    An adapter's has its base's in it. Of a model on the Hub it is the name and the commit.

    Raises:
        CodexRayError: there is no such model.
    """
    from codex_ray.model import resolve_model_folder
    from codex_ray.model.adapter import base_of, is_adapter
    from codex_ray.rollout.load import tokenizer_folder

    if not Path(model).expanduser().is_dir():
        return f"{model} at {tokenizer_folder(model, revision).name}"
    folder, digest = resolve_model_folder(model), hashlib.sha256()
    names = ("*.json", "*.safetensors", "*.bin", "*.model", "*.jinja", "*.txt")
    for path in sorted(path for name in names for path in folder.glob(name) if path.is_file()):
        digest.update(f"{path.name} {sha256_of(path)}\n".encode())
    if is_adapter(folder):
        digest.update(model_digest(*base_of(folder)).encode())
    return digest.hexdigest()


def requests_of(task: Task, asked: Asked, places: Sequence[int], seed: int) -> list[Request]:
    """Return what is asked for: each example as many times in a row as it has answers."""
    settings, sampling = task.answering, sampling_of(task.answering)
    return [
        Request(
            asked.ids[place],
            asked.most,
            sampling,
            turn_seed(seed, step_of(task, place), place % STEP_PROMPTS, sample, 0),
            tuple(settings.stop),
        )
        for place in places
        for sample in range(settings.samples)
    ]


def answer_of(done: Completion) -> Answer:
    """Return what is kept of a completion."""
    return Answer(done.text, len(done.ids), done.finish_reason)


@dataclass(frozen=True)
class LocalModel:
    """A model of this process.

    Attributes:
        model, tokenizer: that belong together; ``folder``: where the tokenizer is.
        identity: names the weights.
        slots: sequences that are sampled together; it changes no answer.
    """

    model: Any
    tokenizer: Tokenizer
    folder: Path
    identity: str
    slots: int = 32

    def answers(self, missing: Missing, seed: int, note: Note) -> Replies:
        """See :class:`Answerer`; sequences come and go at every step, so that slots stay full."""
        limit = max_positions(self.model)
        for task, places in missing:
            asked = encode(task, self.tokenizer, self.folder, limit, note)
            requests, samples = requests_of(task, asked, places, seed), task.answering.samples
            longest = max(len(request.prompt) for request in requests) + asked.most
            slots = min(self.slots, len(requests))
            sampler = Sampler(self.model, self.tokenizer, slots=slots, capacity=longest)
            for request in requests:
                sampler.submit(request)
            found: dict[int, dict[int, Answer]] = {}
            while sampler.running:
                for token in sampler.step():
                    if token.completion is None:
                        continue
                    example, sample = divmod(token.request, samples)  # requests are numbered from 0
                    mine = found.setdefault(example, {})
                    mine[sample] = answer_of(token.completion)
                    if len(mine) == samples:
                        yield task, places[example], [mine[number] for number in range(samples)]
                        del found[example]


@dataclass(frozen=True)
class SpreadModel:
    """A model on Ray actors, which answer all tasks' examples as one stream of batches.

    Attributes:
        spread: how many actors, and where; ``build``: makes their model.
        tokenizer, folder, identity, slots: as of :class:`LocalModel`.
        limit: the model's longest sequence.
    """

    spread: Spread
    build: FromFolder
    tokenizer: Tokenizer
    folder: Path
    identity: str
    limit: int | None
    slots: int

    def answers(self, missing: Missing, seed: int, note: Note) -> Replies:
        """See :class:`Answerer`; batches are yielded as they are done."""
        batches: list[tuple[Task, Sequence[int], list[Request]]] = []
        for task, places in missing:
            asked = encode(task, self.tokenizer, self.folder, self.limit, note)
            size = -(-2 * self.slots // task.answering.samples)
            for start in range(0, len(places), size):
                some = places[start : start + size]
                batches.append((task, some, requests_of(task, asked, some, seed)))
        found = completions(
            self.spread,
            self.build,
            [requests for _, _, requests in batches],
            _as_they_are,
            count=len(batches),
            slots=self.slots,
            ordered=False,
            note=note,
        )
        with closing(found):
            for number, done in found:
                task, places, _ = batches[number]
                samples = task.answering.samples
                for example, place in enumerate(places):
                    mine = done[example * samples : (example + 1) * samples]
                    yield task, place, [answer_of(one) for one in mine]


def _as_they_are(_: Tokenizer, requests: list[Request]) -> list[Request]:
    return requests


@dataclass(frozen=True)
class GivenAnswers:
    """Answers that are there already, by example id; ``all_asked`` where each must have its example."""

    texts: dict[str, list[str]]
    all_asked: bool = True
    identity: str = "predictions"

    def answers(self, missing: Missing, seed: int, note: Note) -> Replies:
        """See :class:`Answerer`.

        Raises:
            CodexRayError: an example has none, or an answer no example.
        """
        for task, places in missing:
            yield from self._answers(task, places)

    def _answers(self, task: Task, places: Sequence[int]) -> Replies:
        foreign = sorted(set(self.texts) - {example.id for example in task.examples})
        if foreign and self.all_asked:
            raise CodexRayError(
                f"the prediction {foreign[0]!r} is of no example of task {task.name} ({len(foreign)} such); "
                "leave it out, or give the task that it answers"
            )
        for place in places:
            name = task.examples[place].id
            if name not in self.texts:
                raise CodexRayError(
                    f"example {name!r} of task {task.name} has no prediction; give a line for each of the "
                    f"{len(task.examples)} examples"
                )
            yield task, place, [Answer(text) for text in self.texts[name]]
