"""Rates and initial weights that suit every width: the maximal update parametrisation (µP).

Tensor Programs V (Yang et al., 2022, arXiv 2203.03466), table 8, for Adam, with m = width / base width:

    =====================  ==================  ==============  ==============================================
    weights                initial deviation   rate            why
    =====================  ==================  ==============  ==============================================
    embedding, biases      1                   1               a finite number of inputs
    attention, MLP         1 / sqrt(m)         1 / m           width to width (Muon's rate: 1, its updates
                                                               are orthogonal, arXiv 2310.17813)
    output                 1, times 1 / m      1               width to a finite number of logits
    mixers' projections    1 / m               1 / m           the same: width times streams to a few logits
                                                               (table 3's form of the output's rule)
    =====================  ==================  ==============  ==============================================

The output's multiplier is the last norm's gain, which begins at 1 / m and learns at 1 / m of the rate: for
Adam that is the same function after every step, and nothing of the model's computation changes, so that model
folders load everywhere. Streams are read and written by a few gates each, whose logits do not depend on the
width once the projections follow the rule; their biases and gates are rated as biases. Heads keep their size
while their number grows, so that attention's scale is the same at every width. Decay is divided by what the
rate is multiplied by: weights shrink by rate times decay (arXiv 2405.13698).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from codex_ray.model.roles import optimizer_role

SCORES = ("value_head.weight", "score.weight")  # outputs of one number, from which nothing is divided


def width_multiplier(config: Any) -> float:
    """Return m of a model's configuration; 1 where its rates are not to follow the width."""
    base = getattr(config, "base_width", None)
    return 1.0 if base is None else float(config.hidden_size / base)


def follows_width(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a parameter's rate is divided by m."""
    if "lora_" in name:
        return False
    if name.endswith("model.norm.weight") or any(head in name for head in SCORES):
        return True
    return len(shape) == 2 and optimizer_role(name, shape) in ("matrix", "mixer")


@torch.no_grad()
def scale_initial(model: nn.Module, multiplier: float) -> None:
    """Bring fresh weights of the standard parametrisation to those of µP."""
    for name, parameter in model.named_parameters():
        if follows_width(name, tuple(parameter.shape)):
            matrix = optimizer_role(name, tuple(parameter.shape)) == "matrix"
            parameter.div_(math.sqrt(multiplier) if matrix else multiplier)
