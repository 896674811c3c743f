"""lm-evaluation-harness with our models: its tasks in ``evaluate``, and our models in its own command line.

    codex-ray evaluate runs/first tasks=[harness:piqa]
    python -m codex_ray.evaluate.harness run --model codex_ray --model_args pretrained=runs/first --tasks piqa

Importing this module registers ``codex_ray`` as a model of the harness. It comes with the extra ``harness``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codex_ray.config.common import Device
from codex_ray.errors import CodexRayError, ConfigError, nearest

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import normalize_gen_kwargs
except ImportError as error:
    raise ConfigError(
        "tasks of lm-evaluation-harness need the package lm-eval, which is not installed; run pip install "
        "'codex-ray[harness]'"
    ) from error

from codex_ray.evaluate.continuations import Question, fits, score_questions
from codex_ray.evaluate.likelihood import Window, WindowScore, score_sequences, score_windows
from codex_ray.model.branches import may_branch
from codex_ray.rollout.generate import generate
from codex_ray.rollout.load import load_with_tokenizer, tokenizer_folder
from codex_ray.rollout.sampler import max_positions

LONGEST = 2048  # tokens of a model that names no longest sequence


@register_model("codex_ray")
class CodexRayLM(TemplateLM):
    """A model for the harness, scored and sampled by this project.

    Args:
        pretrained: model folder, run folder, adapter or Hub name.
        batch_size: sequences computed together.
        device, dtype: as of :func:`codex_ray.load`.
        revision: Hub revision.
        loaded: a model and its tokenizer that are there already.
        max_length: most tokens read at a time; unset is the model's longest, at most 2048.
        add_bos_token: put the beginning token, where there is one, before every context, as in training.
    """

    def __init__(
        self,
        pretrained: str,
        batch_size: int | str = 32,
        device: str | None = None,
        dtype: str = "float32",
        revision: str | None = None,
        loaded: tuple[Any, Any] | None = None,
        max_length: int | None = None,
        add_bos_token: bool = True,
        **_: Any,
    ) -> None:
        super().__init__()
        compute = Device(device or "auto", dtype)
        self._pretrained, self._revision = pretrained, revision
        self.model: Any
        self._tokenizer: Any
        self.model, self._tokenizer = loaded or load_with_tokenizer(pretrained, revision, compute)
        first = self._tokenizer.bos_id
        self._beginning: list[int] = [first] if add_bos_token and first is not None else []
        self._rows = int(batch_size) if str(batch_size).isdigit() else 32
        self._device = next(self.model.parameters()).device
        self._branches = may_branch(self.model)
        longest = max_positions(self.model) or LONGEST
        self.max_length = min(longest, max_length or LONGEST)

    @property
    def eot_token_id(self) -> int:
        """The end token."""
        return int(self._tokenizer.special_ids["eos"])

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text: its beginning token, as in training."""
        return int(self._tokenizer.special_ids["bos"])

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer in the harness's caches."""
        return str(self._tokenizer.digest)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Encode text, without special tokens unless they are asked for."""
        ids: list[int] = self._tokenizer.encode(string)
        return [self.prefix_token_id, *ids] if add_special_tokens else ids

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Encode both, with blanks between them in the continuation."""
        before, after = super()._encode_pair(context, continuation)
        return [*self._beginning, *before], after

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """Score continuations after contexts; of what is too long the end counts.

        Continuations of one context, such as the choices of a question, are read behind it in one row.
        """
        groups: dict[tuple[int, ...], list[int]] = {}
        for number, (_text, context, continuation) in enumerate(requests):
            if not continuation or len(continuation) > self.max_length:
                raise CodexRayError(
                    f"a continuation of {len(continuation)} tokens cannot be scored by a model that reads "
                    f"{self.max_length}; leave that task out"
                )
            groups.setdefault(tuple(context), []).append(number)
        alone, asked = [], dict[tuple[int, ...], Question]()
        vocabulary = self.model.config.get_text_config().vocab_size
        for shared, numbers in groups.items():
            question = Question(shared, [requests[number][2] for number in numbers])
            longest = len(shared) + max(map(len, question.continuations)) - 1
            together = self._branches and len(numbers) > 1 and longest <= self.max_length
            if together and fits(question, vocabulary):
                asked[shared] = question
            else:
                alone += numbers
        found: dict[int, WindowScore] = {}
        scores = score_questions(self.model, list(asked.values()), batch_rows=self._rows)
        for shared, mine in zip(asked, scores, strict=True):
            found.update(zip(groups[shared], mine, strict=True))
        chunks = []
        for number in alone:
            _text, context, continuation = requests[number]
            ids = [*context, *continuation][-(self.max_length + 1) :]
            chunks.append((ids, Window(0, len(ids) - 1, len(ids) - len(continuation))))

        def keep(place: int, score: WindowScore) -> None:
            found[alone[place]] = score

        score_windows(self.model, chunks, batch_rows=self._rows, on_score=keep)
        answers = [(-found[number].nats, found[number].greedy) for number in range(len(requests))]
        for (text, _context, _continuation), answer in zip(requests, answers, strict=True):
            if text is not None:
                self.cache_hook.add_partial("loglikelihood", text, answer)
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Score whole texts, as ``evaluate`` does with ``stride_share=1``."""
        sequences = [[self.prefix_token_id, *self.tok_encode(request.args[0])] for request in requests]
        nats = score_sequences(
            self.model, sequences, context=self.max_length, stride_share=1.0, batch_rows=self._rows
        )
        for request, lost in zip(requests, nats, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, -lost)
        return [-lost for lost in nats]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Complete contexts; requests of the same settings are sampled together."""
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[1].items())), []).append(number)
        found: dict[int, str] = {}
        for numbers in groups.values():
            kwargs = normalize_gen_kwargs(requests[numbers[0]].args[1], 256)
            most = min(int(kwargs["max_gen_toks"]), self.max_length - 1)
            room = self.max_length - most
            prompts = [
                [*self._beginning, *self.tok_encode(requests[number].args[0])][-room:] for number in numbers
            ]
            completions = generate(
                self.model,
                prompts,
                max_new_tokens=most,
                temperature=float(kwargs.get("temperature") or 0.0),
                top_p=float(kwargs.get("top_p") or 1.0),
                top_k=int(kwargs.get("top_k") or 0),
                stop=[stop for stop in kwargs["until"] if stop],
                tokenizer=self._tokenizer,
                batch_rows=self._rows,
            )
            for number, completion in zip(numbers, completions, strict=True):
                found[number] = completion.text
                self.cache_hook.add_partial("generate_until", requests[number].args, completion.text)
        return [found[number] for number in range(len(requests))]

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Render messages by the model's chat template."""
        from codex_ray.tokenizer.conversation import ChatTemplate

        folder = tokenizer_folder(self._pretrained, self._revision)
        template = ChatTemplate.of(self._tokenizer, folder)
        return template.render(chat_history, open_turn=add_generation_prompt)


def run_harness(
    names: Sequence[str],
    lm: CodexRayLM,
    *,
    include: str | None,
    shots: int | None,
    limit: int | None,
    seed: int,
) -> dict[str, float]:
    """Evaluate tasks of the harness; returns ``harness/TASK/METRIC``, and each one's standard error.

    Args:
        names: of tasks, groups or tags, or YAML files of tasks.
        lm: the model.
        include: folder of further tasks.
        shots: examples shown before each; unset is the task's.
        limit: most examples of each task.
        seed: of shots and draws.

    Raises:
        ConfigError: there is no such task.
        CodexRayError: its data cannot be had.
    """
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=include)
    _refuse_unknown(names, set(manager.all_tasks))
    try:
        found = simple_evaluate(
            lm,
            tasks=list(names),
            num_fewshot=shots,
            limit=limit,
            bootstrap_iters=1000,
            log_samples=False,
            task_manager=manager,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CodexRayError(
            f"lm-evaluation-harness could not evaluate {', '.join(names)} ({reason}); check that its data "
            "can be fetched, or is local"
        ) from error
    assert found is not None
    return {
        f"harness/{task}/{metric.partition(',')[0]}": float(value)
        for task, metrics in found["results"].items()
        for metric, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _refuse_unknown(names: Sequence[str], known: set[str]) -> None:
    for name in names:
        if name not in known and not Path(name).is_file():
            raise ConfigError(
                f"lm-evaluation-harness has no task {name!r}{nearest(name, known)}; harness.include=FOLDER "
                "adds tasks of yours"
            )


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
