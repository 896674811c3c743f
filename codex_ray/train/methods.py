"""The objective of each method of fine-tuning, around a model and then an engine."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from codex_ray.config.finetune import Finetune, kind_of
from codex_ray.model.head import TokenHead
from codex_ray.plugins import find, is_own
from codex_ray.train.documents import MarkedRows
from codex_ray.train.engine import Engine
from codex_ray.train.objectives.decoded import Decoded, one_by_one, packed
from codex_ray.train.objectives.next_token import NextToken
from codex_ray.train.objectives.objective import Objective, Weights
from codex_ray.train.objectives.preference import DPO
from codex_ray.train.objectives.reward import BradleyTerry
from codex_ray.train.objectives.supervised import Supervised

Objectives = tuple[Objective[Any], Objective[Any]]
"""What is trained, and what validation measures."""


def objectives(settings: Finetune, model: Any) -> Callable[[Engine], Objectives]:
    """Return what makes the objectives of a method.

    Args:
        settings: of the run.
        model: before the engine takes it.
    """
    if not is_own("objectives", settings.method):
        return _brought(settings, model)
    likelihood, method, loss = NextToken(MarkedRows()), settings.method, settings.loss
    if method == "reward":
        ranking = Decoded(BradleyTerry(centring=loss.centring), one_by_one)
        return lambda engine: (ranking, ranking)
    if method == "sft" and not loss.kl:
        return lambda engine: (likelihood, likelihood)
    head = TokenHead(model)

    def build(engine: Engine) -> Objectives:
        compared = method == "dpo" or bool(loss.kl)
        reference = began_from(engine, adapters=bool(settings.lora.rank)) if compared else nullcontext
        if method == "dpo":
            preference = DPO(head, beta=loss.beta, smoothing=loss.smoothing, reference=reference)
            ranking = Decoded(preference, one_by_one)
            return ranking, ranking
        supervised = Supervised(head, dynamic=method == "dft", kl=loss.kl, reference=reference)
        return Decoded(supervised, packed), likelihood

    return build


def _brought(settings: Finetune, model: Any) -> Callable[[Engine], Objectives]:
    """Return what makes a component's objective: called with the model's head, and with the reference."""
    head, build = TokenHead(model), find("objectives", settings.method, "method")
    ranked = kind_of(settings.method) == "preferences"

    def made(engine: Engine) -> Objectives:
        reference = began_from(engine, adapters=bool(settings.lora.rank)) if build.compared else nullcontext
        objective = Decoded(build(head, reference=reference), one_by_one if ranked else packed)
        return objective, objective if ranked else NextToken(MarkedRows())

    return made


def began_from(engine: Engine, *, adapters: bool) -> Weights:
    """Return the context in which an engine's model is the one that the run began from.

    Of a model with adapters that is the model without them; otherwise a second copy of the weights is held.
    """
    module: Any = engine.module
    began: Weights = module.disable_adapter if adapters else engine.hold().in_place
    return began
