"""What the workers of a search do: begin with a model, sample from it, and learn from what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codex_ray.config.discover import Discover
from codex_ray.corpus.manifest import Manifest
from codex_ray.discover.problem import find_problem
from codex_ray.discover.seeds import Seed
from codex_ray.discover.solution import SolutionFile
from codex_ray.train.batches import Batches
from codex_ray.train.task import Learning, OfRollouts, Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from codex_ray.rollout.pool import RolloutPool
    from codex_ray.tokenizer import Tokenizer
    from codex_ray.track.report import Sections
    from codex_ray.train.documents import Rows
    from codex_ray.train.engine import Engine
    from codex_ray.train.methods import Objectives


@dataclass(frozen=True)
class Discovering:
    """Any causal language model searches one problem; see :class:`codex_ray.train.task.Task`.

    ``corpus`` holds the prompts of the seeds, and the model's tokenizer; ``base`` is the model to begin from,
    as every node finds it; ``found`` is where the best solution is written; ``seeds`` are what is begun with.
    """

    settings: Discover
    corpus: Path
    base: str
    found: SolutionFile
    seeds: Sequence[Seed]
    pool: RolloutPool | None = None

    def configuration(self, tokenizer: Tokenizer, manifest: Manifest) -> dict[str, Any] | None:
        """See :meth:`Task.configuration`."""
        from codex_ray.model.load import load_config

        found: dict[str, Any] = load_config(self.base).to_dict()
        return found

    def model(
        self, configuration: dict[str, Any] | None, tokenizer: Tokenizer, length: int, *, resumed: bool
    ) -> PreTrainedModel:
        """See :meth:`Task.model`."""
        from codex_ray.model import load_model
        from codex_ray.model.load import empty_model

        # With shaping the model as the run began is held beside the weights, from the checkpoint as well.
        if resumed and configuration is not None and not self.settings.lora.rank:
            return empty_model(configuration)
        return load_model(self.base)

    def rows(self, tokenizer: Tokenizer, manifest: Manifest) -> Rows:
        """See :meth:`Task.rows`."""
        from codex_ray.train.documents import MarkedRows

        return MarkedRows()

    def batches(self, length: int, workers: int, *, fewest: int | None = None) -> Batches:
        """See :meth:`Task.batches`; no rows are read, so the count says nothing."""
        training = replace(self.settings.train, batch_tokens=workers * length, micro_batch_rows=None)
        return Batches.of(training, length, workers)

    def epoch_rows(self, manifest: Manifest) -> float:
        """See :meth:`Task.epoch_rows`; there are none but the seeds."""
        return manifest.splits["train"].rows

    def learning(self, model: Any, rows: Rows | None, tokenizer: Tokenizer, rank: int) -> Learning:
        """See :meth:`Task.learning`."""
        from codex_ray.discover.controller import Controller
        from codex_ray.discover.objectives import Advantages
        from codex_ray.model.adapter import bare
        from codex_ray.model.head import TokenHead
        from codex_ray.tokenizer.conversation import ChatTemplate
        from codex_ray.train.documents import MarkedRows
        from codex_ray.train.methods import began_from
        from codex_ray.train.objectives.next_token import NextToken
        from codex_ray.train.objectives.policy_gradient import PolicyGradient
        from codex_ray.train.objectives.shared import attention_worth
        from codex_ray.train.updates import Updates

        assert self.pool is not None, "the task is opened first"
        settings, learn = self.settings, self.settings.learn
        problem = find_problem(settings.problem, settings.language, settings.options)
        template = ChatTemplate.of(tokenizer, self.corpus / "tokenizer")
        controller = Controller(
            problem,
            self.seeds,
            settings.search,
            Advantages(learn),
            settings.seed,
            encoder(tokenizer, template if settings.chat else None),
            attention_worth(bare(model)),
            self.found.write if rank == 0 else lambda best: None,
        )
        head = TokenHead(model)

        def objectives(engine: Engine) -> Objectives:
            shaped = learn.shaping and learn.objective != "none"
            reference = began_from(engine, adapters=bool(settings.lora.rank)) if shaped else nullcontext
            gradient = PolicyGradient(
                head,
                temperature=settings.rollout.temperature,
                shaping=learn.shaping if shaped else 0.0,
                reference=reference,
            )
            return gradient, NextToken(MarkedRows())

        sampled = OfRollouts(
            self.pool,
            settings.search.samples,
            Updates(settings.seed),
            learn.micro_batch_tokens,
            controller.learnable,
            None,
            controller,
        )
        return Learning(objectives, sampled)

    @property
    def on_policy(self) -> bool:
        """See :attr:`Task.on_policy`."""
        return True

    @property
    def actor_cpus(self) -> float:
        """See :attr:`Task.actor_cpus`."""
        return self.settings.rollout.cpus(scored=True)

    @property
    def sections(self) -> Sections:
        """See :attr:`Task.sections`: what was found, and how."""
        from codex_ray.discover.report import sections

        return sections

    @contextmanager
    def opened(self) -> Iterator[Task]:
        """See :meth:`Task.opened`."""
        from codex_ray.discover.grader import Grading
        from codex_ray.rollout.actor import FromFolder
        from codex_ray.rollout.pool import open_pool

        settings = self.settings
        grading = Grading(settings.problem, settings.language, settings.options, settings.forced)
        build = FromFolder(self.base, settings.compute, lora=settings.lora, sampler=settings.rollout.sampler)
        problem = find_problem(settings.problem, settings.language, settings.options)
        # What could not be scored has no reward and stays in its group: failed rollouts count.
        stop = settings.rollout.stop or list(problem.stop)
        rollout = replace(settings.rollout, failure_reward=0.0, stop=stop)
        with open_pool(rollout, build, grading, seed=settings.seed) as pool:
            yield replace(self, pool=pool)


def encoder(tokenizer: Tokenizer, template: Any) -> Any:
    """Return what makes a prompt's text token ids: as it is, or as a user's turn of a template."""
    from codex_ray.rollout.generate import prompt_ids

    def encode(text: str) -> list[int]:
        if template is not None:
            ids: list[int] = template.prompt([{"role": "user", "content": text}])
            return ids
        return prompt_ids(tokenizer, [text])[0]

    return encode
