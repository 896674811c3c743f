"""Rewards that a model gives: a sequence classifier with one label, which reads the very tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codex_ray.config.common import Device
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.rollout.environment import Environment
from codex_ray.rollout.episode import Episode


@dataclass(frozen=True)
class ByModel:
    """An environment whose turns another one answers, and whose reward is what a model says of all tokens.

    A sequence is scored alone, so that its reward does not depend on what was sampled beside it.

    Attributes:
        answering: the other one.
        model: a sequence classifier with one label, ready for inference.
        longest: tokens that it takes; None where it names no limit.
    """

    answering: Environment
    model: Any
    longest: int | None

    @classmethod
    def load(cls, answering: Environment, folder: str, compute: Device, threads: int) -> ByModel:
        """Load the model for this process.

        Raises:
            CodexRayError: it is missing or damaged.
            ConfigError: it is no reward model, or the device cannot be had.
        """
        import torch

        from codex_ray.model.reward import load_reward_model
        from codex_ray.rollout.sampler import max_positions

        torch.set_num_threads(threads)
        model = load_reward_model(folder, device=compute.device, dtype=compute.dtype)
        return cls(answering, model, max_positions(model))

    def respond(self, episode: Episode) -> str | None:
        """See :meth:`Environment.respond`."""
        return self.answering.respond(episode)

    def score(self, episode: Episode) -> float:
        """Return what the model says.

        Raises:
            CodexRayError: the sequence is longer than it takes.
        """
        import torch

        ids = episode.ids
        if self.longest is not None and len(ids) > self.longest:
            raise CodexRayError(
                f"a sequence of {len(ids)} tokens is longer than the {self.longest} that the reward model "
                "takes; lower rollout.max_new_tokens or give shorter prompts"
            )
        with torch.inference_mode():
            row = torch.tensor([ids], device=self.model.device)
            found = self.model(input_ids=row, attention_mask=torch.ones_like(row), use_cache=False)
        return float(found.logits.float().squeeze())


def refuse_other_tokenizer(folder: Path, own: Path) -> None:
    """Refuse a reward model whose tokens mean something else than those of the model that learns.

    Args:
        folder: of the reward model, or of its run; ``own``: with the tokenizer of the model that learns.

    Raises:
        CodexRayError: the folder holds no model.
        ConfigError: the vocabularies differ.
    """
    from codex_ray.rollout.load import tokenizer_folder
    from codex_ray.tokenizer import Tokenizer

    theirs = tokenizer_folder(str(folder), None)
    if Tokenizer.load(theirs).vocabulary() != Tokenizer.load(own).vocabulary():
        raise ConfigError(
            f"on_policy.reward={folder} was trained with another tokenizer than the model that is to learn; "
            "give a reward model that began from the same model"
        )
