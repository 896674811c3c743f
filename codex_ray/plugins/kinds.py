"""The kinds of components: what each has to be, and which setting names it."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """What a component of a kind is.

    Attributes:
        named: the settings that name one.
        base: dotted path of what a class derives from or an object is an instance of; None: it is called.
        instance: whether it is an object, not a class.
        has: what it has to have.
    """

    named: str
    base: str | None = None
    instance: bool = False
    has: tuple[str, ...] = ()

    def wrong(self, found: Any) -> str | None:
        """Say what an object is in place of a component of this kind; None where it is one."""
        if not self.instance and not callable(found):
            return f"a {type(found).__name__}, which cannot be called"
        missing = next((name for name in self.has if not hasattr(found, name)), None)
        if missing:
            return f"without {missing!r}, which it must have"
        if self.base is None:
            return None
        module, _, name = self.base.rpartition(".")
        base = getattr(importlib.import_module(module), name)
        fits = (
            isinstance(found, base) if self.instance else isinstance(found, type) and issubclass(found, base)
        )
        return None if fits else f"no {self.base}"


KINDS = {
    "tokenizers": Kind("prepare's tokenizer.path", "codex_ray.tokenizer.tokenizer.Tokenizer"),
    "models": Kind(
        "model_type of a model folder", "transformers.PreTrainedModel", has=("config_class", "forward")
    ),
    "sources": Kind("path of a source", "codex_ray.corpus.sources.brought.TextSource"),
    "filters": Kind("clean.judges", has=("apply",)),
    "objectives": Kind("finetune's method", "codex_ray.train.objectives.objective.Objective"),
    "schedules": Kind("schedule.kind"),
    "problems": Kind("discover's problem", "codex_ray.discover.problem.Problem"),
    "scorers": Kind("on_policy.environment"),
    "rewards": Kind("on_policy.reward, the verifier of a task"),
    "metrics": Kind(
        "metrics of evaluation and its tasks", "codex_ray.evaluate.metrics.Metric", instance=True
    ),
    "trackers": Kind("track.trackers", "codex_ray.track.tracker.Tracker"),
    "engines": Kind("rollout.sampler", has=("load", "sampler", "refresh")),
}
