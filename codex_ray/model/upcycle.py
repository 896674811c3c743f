"""The verb ``upcycle``: a pretrained decoder of the Llama family in the form of ours, the same function.

Its matrices are taken over; what is new are the mixers, which start so that every stream is a copy, the
read gates sum to one and the write gates are one: whatever the mixing, that is the plain residual. The
gates of the dynamic part start at zero and learn from the first step, since its projection does not.

Rotation differs: there, the two numbers that are turned together stand half a head apart, here side by
side. Rows of the query and key matrices are put in that order, which leaves every product as it was.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel

from codex_ray.config.model import Residual
from codex_ray.config.use import Upcycle
from codex_ray.errors import CodexRayError
from codex_ray.model.build import residual_fields
from codex_ray.model.configuration import CodexRayConfig
from codex_ray.model.export import Exported, free_folder, write_folder
from codex_ray.model.load import load_model
from codex_ray.model.modeling import CodexRayForCausalLM

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")

# Names that differ; all others are the same.
_RENAMED = (
    (".self_attn.", ".attention."),
    (".input_layernorm.", ".attention_norm."),
    (".post_attention_layernorm.", ".mlp_norm."),
)
# Largest difference of logits, of the largest logit, that rounding makes.
_ROUNDING = {torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.1}
_TURNED = re.compile(r"\.[qk]_(proj|norm)\.(weight|bias)$")


@dataclass(frozen=True)
class Upcycled(Exported):
    """What ``upcycle`` wrote, and how far its logits are from those of the model it came from.

    ``difference`` is the largest over a batch of random tokens, relative to the largest logit.
    """

    difference: float


def upcycle(settings: Upcycle) -> Upcycled:
    """Write the model in our form, after comparing the two.

    Raises:
        CodexRayError: the model cannot be loaded or has a part that ours has not, the two differ, or the
            folder is in use.
    """
    folder = free_folder(settings.output)
    model = load_model(settings.model, dtype=settings.dtype, revision=settings.revision)
    ours = upcycled(model, settings.residual, settings.max_positions)
    difference = logit_difference(model, ours)
    if not difference <= _ROUNDING[model.dtype]:
        raise CodexRayError(
            f"logits of {settings.model} and of its upcycled form differ by {difference:.1e} of the largest, "
            f"more than rounding does in {settings.dtype}; nothing is written, since the model computes what "
            "its configuration does not say"
        )
    written = write_folder(ours, settings.model, folder, settings.max_shard_bytes, verb="upcycle")
    result = Upcycled(**vars(written), difference=difference)
    print(result)
    print(f"largest difference of logits from {settings.model}: {difference:.1e} of the largest logit")
    return result


def upcycled(
    model: PreTrainedModel, residual: Residual, max_positions: int | None = None
) -> CodexRayForCausalLM:
    """Return a model of the Llama family as one of ours, in the same precision, on the CPU.

    Raises:
        CodexRayError: the model has a part that ours has not.
    """
    config = upcycled_config(model.config, residual, max_positions)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(0)
        ours: CodexRayForCausalLM = CodexRayForCausalLM(config).float()
    for name, parameter in ours.named_parameters():
        if "mixer" not in name:  # mixers and buffers stay fp32
            parameter.data = parameter.data.to(model.dtype)
    weights = _weights(model.state_dict(), config)
    missing, unexpected = ours.load_state_dict(weights, strict=False)
    missing = [name for name in missing if "mixer" not in name]
    if missing or unexpected:
        raise CodexRayError(
            f"this {model.config.model_type} has weights that the decoder cannot take "
            f"({(unexpected or missing)[0]}); upcycle takes unchanged {', '.join(FAMILIES)} models"
        )
    ours.generation_config = model.generation_config or GenerationConfig()
    ours.eval()
    return ours


def upcycled_config(
    config: PreTrainedConfig, residual: Residual, max_positions: int | None = None
) -> CodexRayConfig:
    """Translate a configuration of the Llama family, for sequences of at most ``max_positions`` tokens.

    Raises:
        CodexRayError: it asks for something that our decoder does not do.
    """
    if config.model_type not in FAMILIES:
        raise CodexRayError(
            f"{config.model_type} models cannot be upcycled; give one of {', '.join(FAMILIES)}"
        )
    rope = dict(config.rope_parameters)
    positions = max_positions or config.max_position_embeddings
    window = getattr(config, "sliding_window", None)
    if not getattr(config, "use_sliding_window", True):
        window = None
    unlike = {
        f"the activation {config.hidden_act!r}": config.hidden_act not in ("silu", "swish"),
        "a partial rotation": rope.pop("partial_rotary_factor", 1.0) != 1.0,
        "attention dropout": bool(getattr(config, "attention_dropout", 0.0)),
    }
    if window is not None and window < positions:
        raise CodexRayError(
            f"the model attends to a window of {window} tokens and the decoder to all; "
            f"give max_positions={window}"
        )
    for what, there in unlike.items():
        if there:
            raise CodexRayError(f"the model has {what}, which the decoder does not; it cannot be upcycled")
    if residual.kind != "hc":  # whose projection starts at zero instead
        residual = replace(residual, gate_init=0.0)
    qwen2 = config.model_type == "qwen2"
    biased = qwen2 or bool(getattr(config, "attention_bias", False))
    return CodexRayConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads or config.num_attention_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        max_position_embeddings=positions,
        rope_parameters=rope,
        rms_norm_eps=config.rms_norm_eps,
        query_key_norm=config.model_type == "qwen3",
        attention_bias=biased,
        attention_output_bias=biased and not qwen2,
        mlp_bias=bool(getattr(config, "mlp_bias", False)),
        initializer_range=config.initializer_range,
        tie_word_embeddings=config.tie_word_embeddings,
        **residual_fields(residual),
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )


@torch.no_grad()
def logit_difference(model: PreTrainedModel, ours: PreTrainedModel) -> float:
    """Return the largest difference of two models' logits, relative to the largest logit."""
    length = min(64, ours.config.max_position_embeddings)
    generator = torch.Generator().manual_seed(0)
    ids_BS = torch.randint(ours.config.vocab_size, (2, length), generator=generator)
    theirs_BSV = model(ids_BS, use_cache=False).logits.float()
    difference = (ours(ids_BS, use_cache=False).logits.float() - theirs_BSV).abs().max()
    return float(difference / theirs_BSV.abs().max())


def _weights(theirs: Mapping[str, Tensor], config: CodexRayConfig) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for theirs_name, value in theirs.items():
        name = theirs_name
        for old, new in _RENAMED:
            name = name.replace(old, new)
        weights[name] = _side_by_side(value, config.head_dim) if _TURNED.search(name) else value
    return weights


def _side_by_side(value: Tensor, head_size: int) -> Tensor:
    """Put row i + E/2 of each head after row i."""
    halves = value.view(-1, 2, head_size // 2, *value.shape[1:])
    return halves.transpose(1, 2).reshape(value.shape)
