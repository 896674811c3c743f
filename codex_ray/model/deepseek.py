"""Hyper-connection weights as DeepSeek-V4's checkpoints have them, to ours and back.

There the weights of a sublayer are ``fn`` [K, N*D], ``base`` [K] and ``scale`` [3], in the same order as
here: reading, writing, mixing. But its mixing matrix is stored as the transpose of the one that is applied,
so the rows that belong to it change places. Its constants are all in ``base``; ours are a buffer and a
learned difference, which are added on the way out; on the way in they become the buffer, which no engine
casts, and the difference is zero.

Names are those of Transformers: ``layers.I.attn_hc``, ``layers.I.ffn_hc`` and ``hc_head``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from codex_ray.errors import CodexRayError
from codex_ray.model.hyper_connections import ExitMixer, Mixer
from codex_ray.model.modeling import MIXERS, CodexRayForCausalLM


def to_deepseek(model: CodexRayForCausalLM) -> dict[str, Tensor]:
    """Return the hyper-connections of a model of kind ``mhc``, fp32, by DeepSeek-V4's names.

    Raises:
        CodexRayError: the model's mixing is of another kind.
    """
    weights = {}
    for name, mixer in _mixers(model):
        fn, base, scale = _names(name)
        order = _transposed(mixer)
        weights[fn] = mixer.phi.detach().float()[order]
        weights[base] = (mixer.bias_constant + mixer.bias.detach().float())[order]
        weights[scale] = mixer.gate.detach().float().clone()
    return weights


@torch.no_grad()
def load_deepseek(model: CodexRayForCausalLM, weights: Mapping[str, Tensor]) -> None:
    """Give a model of kind ``mhc`` the hyper-connections of a DeepSeek-V4 checkpoint.

    Args:
        model: as many layers and streams, and the same hidden size.
        weights: by DeepSeek-V4's names, with or without ``model.`` before them; others are not looked at.

    Raises:
        CodexRayError: weights are missing or of another shape, or the model's mixing is of another kind.
    """
    weights = {name.removeprefix("model."): value for name, value in weights.items()}
    for name, mixer in _mixers(model):
        order = _transposed(mixer)
        for theirs, ours in zip(_names(name), (mixer.phi, mixer.bias_constant, mixer.gate), strict=True):
            found = weights.get(theirs)
            if found is None or found.shape != ours.shape:
                shape = "missing" if found is None else f"of shape {list(found.shape)}"
                raise CodexRayError(
                    f"{theirs} is {shape} and the model needs {list(ours.shape)}; give the weights of a "
                    "DeepSeek-V4 model with its layers, streams and hidden size"
                )
            ours.copy_(found if ours is mixer.gate else found[order])
        mixer.bias.zero_()


def _mixers(model: CodexRayForCausalLM) -> Iterator[tuple[str, Mixer | ExitMixer]]:
    if model.config.residual_kind != "mhc" or model.config.mixed_streams == 1:
        raise CodexRayError(
            f"DeepSeek-V4's hyper-connections are of kind mhc and the model's are "
            f"{model.config.residual_kind}; build it with residual.kind=mhc and several streams"
        )
    for name, module in model.model.named_modules():
        if isinstance(module, MIXERS):
            yield name, module


def _names(name: str) -> tuple[str, str, str]:
    """Names of the projection, the constants and the gates of one mixer."""
    if name == "exit_mixer":
        return "hc_head.hc_fn", "hc_head.hc_base", "hc_head.hc_scale"
    name = name.replace("attention_mixer", "attn_hc").replace("mlp_mixer", "ffn_hc")
    return f"{name}.fn", f"{name}.base", f"{name}.scale"


def _transposed(mixer: Mixer | ExitMixer) -> Tensor:
    """Return the places of the logits with those of the mixing matrix transposed: its own inverse."""
    order, n = torch.arange(mixer.bias.numel()), mixer.rule.streams
    if isinstance(mixer, Mixer):
        order[2 * n :] = 2 * n + torch.arange(n * n).view(n, n).t().flatten()
    return order
