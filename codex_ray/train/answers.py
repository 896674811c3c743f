"""The likeliest answers of a model that is being trained, by all ranks together.

Nothing is drawn, so that a run which asks its model questions trains as one that does not, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from codex_ray.rollout.generate import generate
from codex_ray.rollout.request import Completion

if TYPE_CHECKING:
    from codex_ray.tokenizer import Tokenizer
    from codex_ray.train.engine import Engine

AT_ONCE = 32  # prompts that a rank answers together


def answering_model(engine: Engine) -> Any:
    """Return the engine's model, whole on every rank; every rank takes part.

    Under ZeRO-3, which has it in parts, that is a copy on the CPU, as large as the one that is exported.
    """
    from codex_ray.train.saving import whole_model

    return engine.module if engine.stage < 3 else whole_model(engine.module, engine.full_weights())


def likeliest_answers(
    model: Any,
    prompts: Sequence[Sequence[int]],
    tokenizer: Tokenizer,
    *,
    max_new_tokens: int,
    stop: Sequence[str] = (),
) -> list[Completion]:
    """Complete prompts of token ids, each rank its share, and tell all ranks.

    Args:
        model: of :func:`answering_model`.
        prompts: the same on every rank; ``tokenizer``: decodes.
        max_new_tokens: longest answer; ``stop``: texts that end one.
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    shares: list[Any] = [None] * world
    own = generate(
        model,
        prompts[rank::world],
        max_new_tokens=max_new_tokens,
        temperature=0.0,
        stop=stop,
        tokenizer=tokenizer,
        batch_rows=AT_ONCE,
    )
    if world == 1:
        return own
    dist.all_gather_object(shares, own)
    return [shares[number % world][number // world] for number in range(len(prompts))]
