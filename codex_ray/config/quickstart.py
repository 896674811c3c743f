"""Settings of ``quickstart``: the whole life on real text."""

from __future__ import annotations

from dataclasses import dataclass

from codex_ray.config.common import DEFAULT_SEED
from codex_ray.config.corpus import Prepare
from codex_ray.config.fields import setting
from codex_ray.config.train import Pretrain


@dataclass(frozen=True)
class Quickstart:
    """Raw text to a trained, evaluated, talking model on this machine."""

    text: str = setting("stdlib", help="folder of text; 'stdlib' is this Python's standard library")
    folder: str = setting("quickstart", help="folder that receives the corpus, the run and the model")
    seconds: float = setting(290.0, minimum=1.0, help="training time")
    headers: int = setting(200, minimum=0, help="function headers completed and parsed (Python text)")
    seed: int = setting(DEFAULT_SEED, minimum=0, help="seed of everything; 0 becomes 1234")
    prepare: Prepare = setting(Prepare, help="settings of the corpus")
    pretrain: Pretrain = setting(Pretrain, help="settings of the training")
