"""What sets one kind of run apart for the workers: its corpus, its model, and what a row is.

A task is made by the driver, which imports no torch, and is sent to every worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from codex_ray.config.finetune import ON_POLICY, Finetune
from codex_ray.config.followed import Evaluation
from codex_ray.config.train import Pretrain, TrainingRun
from codex_ray.corpus.index import BEST_FIT, packing_method
from codex_ray.corpus.manifest import Manifest
from codex_ray.train.batches import Batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from codex_ray.rollout.episode import Prompt, Rollout
    from codex_ray.rollout.pool import RolloutPool
    from codex_ray.tokenizer import Tokenizer
    from codex_ray.track.report import Sections
    from codex_ray.train.abilities import Abilities, Followed
    from codex_ray.train.documents import Rows
    from codex_ray.train.engine import Engine
    from codex_ray.train.methods import Objectives
    from codex_ray.train.rollouts import Controller
    from codex_ray.train.updates import Updates


@dataclass(frozen=True)
class OfRollouts:
    """How rollouts are sampled and learnt from; see :class:`codex_ray.train.rollouts.RolloutSource`."""

    pool: RolloutPool
    samples: int
    updates: Updates
    micro_batch_tokens: int
    learnable: Callable[[Sequence[Rollout]], tuple[Any, dict[str, float]]]
    gate: Callable[[Engine, Sequence[Prompt]], str | None] | None
    controller: Controller | None = None


@dataclass(frozen=True)
class Learning:
    """How a model learns: what makes its objectives around an engine, and of what, if not of the corpus.

    ``abilities`` measures the tasks that the run follows, if there are any.
    """

    objectives: Callable[[Engine], Objectives]
    rollouts: OfRollouts | None = None
    abilities: Abilities | None = None


class Task(Protocol):
    """One kind of run."""

    @property
    def settings(self) -> TrainingRun:
        """The settings of the run."""

    @property
    def corpus(self) -> Path:
        """The folder of the rows."""

    @property
    def base(self) -> str | None:
        """The model to begin from, as every node finds it; None where weights are fresh."""

    def configuration(self, tokenizer: Tokenizer, manifest: Manifest) -> dict[str, Any] | None:
        """Return the configuration of the model to begin from, which the run keeps; None where it is fresh.

        Raises:
            CodexRayError: it does not fit the rows.
        """

    def model(
        self, configuration: dict[str, Any] | None, tokenizer: Tokenizer, length: int, *, resumed: bool
    ) -> PreTrainedModel:
        """Return the model in fp32; where the run is resumed, its weights are about to be loaded."""

    def rows(self, tokenizer: Tokenizer, manifest: Manifest) -> Rows | None:
        """Say what rows are; None where they are text without padding, all tokens alike."""

    def batches(self, length: int, workers: int, *, fewest: int | None = None) -> Batches:
        """Return the global batches for rows of so many tokens.

        Raises:
            ConfigError: a batch cannot be divided.
        """

    def epoch_rows(self, manifest: Manifest) -> float:
        """Return how many positions of training an epoch is."""

    def learning(self, model: Any, rows: Rows | None, tokenizer: Tokenizer, rank: int) -> Learning:
        """Return how a model learns.

        Args:
            model: before the engine takes it.
            rows: what rows are; ``tokenizer``: theirs.
            rank: whose.
        """

    @property
    def on_policy(self) -> bool:
        """Whether what is learnt is sampled while training, and not read from the corpus."""

    @property
    def actor_cpus(self) -> float:
        """CPUs that are wanted beside those of workers and data."""

    @property
    def sections(self) -> Sections | None:
        """What a report says of this kind of run alone."""

    def opened(self) -> AbstractContextManager[Task]:
        """Give, in a Ray session, the task with all that it needs running."""


@dataclass(frozen=True)
class Pretraining:
    """Fresh weights, or those of an upcycled model, learn packed text; ``followed`` is measured meanwhile."""

    settings: Pretrain
    corpus: Path
    followed: tuple[Followed, ...] = ()

    @property
    def base(self) -> str | None:
        """See :meth:`Task.base`."""
        from codex_ray.train.base import place_of

        return None if self.settings.start is None else place_of(self.settings.start)

    def configuration(self, tokenizer: Tokenizer, manifest: Manifest) -> dict[str, Any] | None:
        """See :meth:`Task.configuration`."""
        from codex_ray.train.start import start_config

        start = self.settings.start
        return None if start is None else start_config(start, tokenizer, manifest.sequence_length)

    def model(
        self, configuration: dict[str, Any] | None, tokenizer: Tokenizer, length: int, *, resumed: bool
    ) -> PreTrainedModel:
        """See :meth:`Task.model`."""
        from codex_ray.model import build_model
        from codex_ray.train.start import start_model

        settings = self.settings
        if settings.start is not None and configuration is not None:
            unread = resumed and not settings.lora.rank  # checkpoints of adapters hold no base
            return start_model(settings.start, configuration, resumed=unread)
        return build_model(
            settings.model,
            vocabulary_size=tokenizer.vocabulary_size,
            sequence_length=length,
            seed=settings.seed,
            special_ids=tokenizer.special_ids,
        )

    def rows(self, tokenizer: Tokenizer, manifest: Manifest) -> Rows | None:
        """See :meth:`Task.rows`."""
        from codex_ray.train.documents import Documents

        separate = self.settings.train.documents == "separate"
        sources = manifest.splits["train"].sources
        padded = any(packing_method(manifest, source.source) == BEST_FIT for source in sources)
        return Documents.of(tokenizer, separate=separate) if separate or padded else None

    def batches(self, length: int, workers: int, *, fewest: int | None = None) -> Batches:
        """See :meth:`Task.batches`."""
        return Batches.of(self.settings.train, length, workers, fewest=fewest)

    def epoch_rows(self, manifest: Manifest) -> float:
        """See :meth:`Task.epoch_rows`."""
        return manifest.splits["train"].rows

    def learning(self, model: Any, rows: Rows | None, tokenizer: Tokenizer, rank: int) -> Learning:
        """See :meth:`Task.learning`."""
        from codex_ray.train.objectives.next_token import NextToken

        shared_by = self.settings.cluster.sequence_parallel
        training = NextToken(rows, shared_by=shared_by, part=rank % shared_by)
        abilities = _abilities(self.settings.evaluation, self.followed, tokenizer, self.corpus)
        return Learning(lambda engine: (training, NextToken(rows)), abilities=abilities)

    @property
    def on_policy(self) -> bool:
        """See :attr:`Task.on_policy`."""
        return False

    @property
    def actor_cpus(self) -> float:
        """See :attr:`Task.actor_cpus`."""
        return 0.0

    @property
    def sections(self) -> None:
        """See :attr:`Task.sections`: nothing."""

    def opened(self) -> AbstractContextManager[Task]:
        """See :meth:`Task.opened`."""
        return nullcontext(self)


@dataclass(frozen=True)
class Finetuning:
    """Any causal language model learns packed examples.

    ``base`` is the model to begin from, as every node finds it; ``followed`` are tasks that are measured
    meanwhile; ``pool`` samples from the model, on policy.
    """

    settings: Finetune
    corpus: Path
    base: str
    followed: tuple[Followed, ...] = ()
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
        from codex_ray.model.head import attach_value_head
        from codex_ray.model.load import empty_model
        from codex_ray.model.reward import start_reward_model

        if self.settings.method == "reward":
            return start_reward_model(self.base)
        if resumed and configuration is not None and not self.settings.lora.rank:
            model = empty_model(configuration)
        else:
            model = load_model(self.base)
        if self.settings.method == "ppo":
            attach_value_head(model)
        return model

    def rows(self, tokenizer: Tokenizer, manifest: Manifest) -> Rows:
        """See :meth:`Task.rows`."""
        from codex_ray.train.documents import MarkedRows

        return MarkedRows()

    def batches(self, length: int, workers: int, *, fewest: int | None = None) -> Batches:
        """See :meth:`Task.batches`; on policy a row is a prompt."""
        training, own = self.settings.train, self.settings.on_policy
        if not self.on_policy:
            return Batches.of(training, length, workers, fewest=fewest)
        training = replace(training, batch_tokens=own.prompts * length, micro_batch_rows=None)
        return replace(Batches.of(training, length, workers, fewest=fewest), updates=own.updates)

    def epoch_rows(self, manifest: Manifest) -> float:
        """See :meth:`Task.epoch_rows`: until the new rows have been seen once, old ones among them."""
        new = manifest.splits["train"].sources[0]
        return new.rows / new.weight

    def learning(self, model: Any, rows: Rows | None, tokenizer: Tokenizer, rank: int) -> Learning:
        """See :meth:`Task.learning`."""
        from codex_ray.train.methods import objectives
        from codex_ray.train.on_policy import Method, samples_of
        from codex_ray.train.updates import Updates

        abilities = _abilities(self.settings.evaluation, self.followed, tokenizer, self.corpus)
        if self.pool is None:
            return Learning(objectives(self.settings, model), abilities=abilities)
        method = Method(self.settings, model, tokenizer, self.corpus / "tokenizer")
        own = self.settings.on_policy
        rollouts = OfRollouts(
            self.pool,
            samples_of(own, self.settings.method),
            Updates(self.settings.seed, own.epochs, own.minibatches),
            own.micro_batch_tokens,
            method.learnable,
            method.gate,
        )
        return Learning(method.objectives, rollouts, abilities)

    @property
    def on_policy(self) -> bool:
        """See :attr:`Task.on_policy`."""
        return self.settings.method in ON_POLICY

    @property
    def actor_cpus(self) -> float:
        """See :attr:`Task.actor_cpus`."""
        scored = self.settings.method != "sdft"
        return self.settings.rollout.cpus(scored=scored) if self.on_policy else 0.0

    @property
    def sections(self) -> None:
        """See :attr:`Task.sections`: nothing."""

    @contextmanager
    def opened(self) -> Iterator[Task]:
        """See :meth:`Task.opened`."""
        if not self.on_policy:
            yield self
            return
        from codex_ray.rollout.actor import FromFolder
        from codex_ray.rollout.pool import open_pool
        from codex_ray.rollout.rewards import rewarded, stops_of

        settings, own = self.settings, self.settings.rollout
        judge = rewarded(settings.on_policy, own, settings.compute, self.corpus / "tokenizer")
        own = replace(own, stop=[*own.stop, *stops_of(settings.on_policy.environment)])
        build = FromFolder(self.base, settings.compute, lora=settings.lora, sampler=own.sampler)
        scored = settings.method != "sdft"  # whose gate alone looks at rewards
        with open_pool(own, build, judge if scored else None, seed=settings.seed) as pool:
            yield replace(self, pool=pool)


def _abilities(
    wanted: Evaluation, followed: tuple[Followed, ...], tokenizer: Tokenizer, corpus: Path
) -> Abilities | None:
    """Return what asks a model the questions of the tasks that a run follows, if it follows any."""
    from codex_ray.tokenizer.conversation import ChatTemplate
    from codex_ray.train.abilities import Abilities

    if not followed:
        return None
    return Abilities(
        followed,
        ChatTemplate.of(tokenizer, corpus / "tokenizer"),
        every=wanted.every_steps,
        verifier_seconds=wanted.verifier_seconds,
        asynchronous=wanted.asynchronous,
    )
