"""An engine that samples for rollouts: codex_ray's own sampler, told to take the likeliest token."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from codex_ray.config.common import Device
from codex_ray.rollout.load import load_with_tokenizer
from codex_ray.rollout.request import Request
from codex_ray.rollout.sampler import Sampler
from codex_ray.tokenizer import Tokenizer


class Greedy:
    """A model, and what samples from it; ``named_parameters`` are those that weights are published to."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.config = model.config
        self.named_parameters = model.named_parameters
        self.requires_grad_ = model.requires_grad_

    @classmethod
    def load(cls, model: str, revision: str | None, compute: Device) -> tuple[Greedy, Tokenizer]:
        """Load a model and its tokenizer; called in the actor's process."""
        found, tokenizer = load_with_tokenizer(model, revision, compute)
        return cls(found), tokenizer

    def sampler(self, tokenizer: Tokenizer, *, slots: int, capacity: int) -> Sampler:
        """Return what has submit(request), step() and running."""
        return Likeliest(self.model, tokenizer, slots=slots, capacity=capacity)

    def refresh(self) -> None:
        """New weights were published; nothing is kept of the old ones here."""


class Likeliest(Sampler):
    """codex_ray's sampler at temperature 0."""

    def submit(self, request: Request) -> int:
        return super().submit(replace(request, sampling=replace(request.sampling, temperature=0.0)))
