"""Ranks that agree: rank 0 decides, and the others wait for as long as it is at work."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from codex_ray.errors import CodexRayError

Value = TypeVar("Value")
WORD_SECONDS = 1.0  # between two words of rank 0 that it is still at work


def agree(decide: Callable[[], Value], device: torch.device) -> Value:
    """Let rank 0 decide for all; its error is everyone's. All ranks call it.

    A decision may take longer than ranks wait for each other, as fetching and hashing a checkpoint does.

    Raises:
        CodexRayError: what rank 0 raised.
        RuntimeError: rank 0 raised another error; its log has the traceback.
    """
    box: list[Any] = [None]

    def work() -> None:
        try:
            box[0] = decide()
        except CodexRayError as error:
            box[0] = error
        except Exception as error:  # whatever it is, it can be sent as text
            logging.exception("rank 0 could not decide")
            box[0] = RuntimeError(f"rank 0 could not decide: {type(error).__name__}: {error}")

    thread = threading.Thread(target=work, name="decision")
    leads = dist.get_rank() == 0
    if leads:
        thread.start()
    working = torch.ones(1, device=device)
    while working.item():
        if leads:
            thread.join(WORD_SECONDS)
            working.fill_(thread.is_alive())
        dist.broadcast(working, src=0)
    dist.broadcast_object_list(box, src=0)
    if isinstance(box[0], Exception):
        raise box[0]
    value: Value = box[0]
    return value
