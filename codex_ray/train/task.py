"""What sets one kind of run apart for the workers: its corpus, its model, and what a row is.

A task is made by the driver, which imports no torch, and is sent to every worker.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from codex_ray.config.finetune import Finetune
from codex_ray.config.train import Pretrain, TrainingRun
from codex_ray.corpus.index import BEST_FIT, packing_method
from codex_ray.corpus.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel

    from codex_ray.tokenizer import Tokenizer
    from codex_ray.train.documents import Rows
    from codex_ray.train.engine import Engine
    from codex_ray.train.methods import Objectives


class Task(Protocol):
    """One kind of run."""

    @property
    def settings(self) -> TrainingRun:
        """The settings of the run."""

    @property
    def corpus(self) -> Path:
        """The folder of the rows."""

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

    def objectives(self, model: Any, rows: Rows | None, rank: int) -> Callable[[Engine], Objectives]:
        """Return what makes, around an engine, the objective of training and that of validation.

        Args:
            model: before the engine takes it.
            rows: what rows are; ``rank``: whose objectives.
        """


@dataclass(frozen=True)
class Pretraining:
    """Fresh weights, or those of an upcycled model, learn packed text."""

    settings: Pretrain
    corpus: Path

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
            return start_model(settings.start, configuration, resumed=resumed)
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

    def objectives(self, model: Any, rows: Rows | None, rank: int) -> Callable[[Engine], Objectives]:
        """See :meth:`Task.objectives`."""
        from codex_ray.train.objectives.next_token import NextToken

        shared_by = self.settings.cluster.sequence_parallel
        training = NextToken(rows, shared_by=shared_by, part=rank % shared_by)
        return lambda engine: (training, NextToken(rows))


@dataclass(frozen=True)
class Finetuning:
    """Any causal language model learns packed examples.

    ``base`` is the model to begin from, as every node finds it.
    """

    settings: Finetune
    corpus: Path
    base: str

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
        from codex_ray.model.reward import start_reward_model

        if self.settings.method == "reward":
            return start_reward_model(self.base)
        if resumed and configuration is not None and not self.settings.lora.rank:
            return empty_model(configuration)
        return load_model(self.base)

    def rows(self, tokenizer: Tokenizer, manifest: Manifest) -> Rows:
        """See :meth:`Task.rows`."""
        from codex_ray.train.documents import MarkedRows

        return MarkedRows()

    def objectives(self, model: Any, rows: Rows | None, rank: int) -> Callable[[Engine], Objectives]:
        """See :meth:`Task.objectives`."""
        from codex_ray.train.methods import objectives

        return objectives(self.settings, model)
