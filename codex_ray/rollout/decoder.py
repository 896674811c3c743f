"""Prompts and decoding steps in few calls, for small models on a CPU, where calls cost more than arithmetic.

Decoders of the Llama kind, ours among them, read prompts and take one token more of each row here instead of
in their own modules: the same operations on the same weights. What is added or multiplied is folded into the
matrix products, and these find their weights in the order they want them in (a copy). Where the compiled
kernels multiply, the layers of a step without prompts and adapters are one call. Other models, other devices
and models with too large weights go through their own ``forward``.

Tensor names end in their shape: R rows, D hidden size, H heads, G key/value heads, P the two
together, A with as many for values, E head size, V vocabulary.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from codex_ray.model.adapter import bare
from codex_ray.rollout import native
from codex_ray.rollout.attention import Attend, PagedAttention, Span, Turns
from codex_ray.rollout.lora import Adapter, Beside
from codex_ray.rollout.mixers import PackedMixer
from codex_ray.rollout.norms import normed
from codex_ray.rollout.packed import PackedGate, PackedLinear, plain_adapter
from codex_ray.rollout.pages import PagedCache

FAMILIES = {
    "codex_ray": ("attention", "attention_norm", "mlp_norm"),
    "llama": ("self_attn", "input_layernorm", "post_attention_layernorm"),
    "mistral": ("self_attn", "input_layernorm", "post_attention_layernorm"),
    "qwen2": ("self_attn", "input_layernorm", "post_attention_layernorm"),
    "qwen3": ("self_attn", "input_layernorm", "post_attention_layernorm"),
}
"""By model type: what a layer calls its attention and its two norms."""

PACKED_BYTES = 2**30
"""Weights up to here are worth a copy; larger ones take longer to read than the calls they save."""

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


MANY = 64
"""Tokens up to which numbers of them are rounded up to :data:`FEW`, and beyond to four times that."""

FEW = 8
"""oneDNN makes a kernel, which takes as long as a layer, for each number of tokens that it multiplies."""


@dataclass(frozen=True)
class _Layer:
    """What one layer computes with; mixers are those of hyper-connections, where it has them."""

    norms: tuple[Tensor, Tensor]
    heads_norm_PE: Tensor | None
    qkv: PackedLinear
    output: PackedLinear
    gate: PackedGate
    down: PackedLinear
    mixers: tuple[PackedMixer, PackedMixer] | None

    @property
    def maps(self) -> tuple[PackedLinear, ...]:
        """In order."""
        return self.qkv, self.output, self.gate, self.down


class PackedDecoder:
    """A model's weights, packed, and the pages they work on. See :func:`packable`.

    Args:
        model: a causal language model that :func:`packable` takes, or a LoRA on it.
        slots: most sequences at a time; ``capacity``: longest of them.
    """

    def __init__(self, model: Any, slots: int, capacity: int) -> None:
        self._model, self._capacity = bare(model), capacity
        model, configuration = self._model, model.config
        self._heads: int = configuration.num_attention_heads
        self._groups: int = configuration.num_key_value_heads
        self._eps: float = configuration.rms_norm_eps
        attention = getattr(model.model.layers[0], FAMILIES[configuration.model_type][0])
        self._size: int = attention.head_dim
        dtype = model.get_input_embeddings().weight.dtype
        ours = configuration.model_type == "codex_ray"
        self._streams = configuration.mixed_streams if ours else 1
        layers = len(model.model.layers)
        self.cache = PagedCache(layers, self._groups, self._size, dtype, slots, capacity)
        self._attention = PagedAttention(self.cache, self._heads, attention.scaling, self._eps, paired=ours)
        self._kernels = native.kernels(dtype)
        widths = {configuration.hidden_size, self._heads * self._size, configuration.intermediate_size}
        even = all(width % native.side_by_side(dtype) == 0 for width in widths)
        own = self._kernels is not None and self._kernels.products and even
        self._products = self._kernels if own else None
        self._beside = Beside()
        self.pack()

    def pack(self) -> None:
        """Copy the weights as they are now."""
        model = self._model
        attention_name, *norms = FAMILIES[model.config.model_type]
        self._layers = []
        names_of = {part: name for name, part in model.named_modules()}

        def given(*parts: Any) -> dict[str, Any]:
            names = [names_of[part] for part in parts]
            return {"names": names, "beside": self._beside, "kernels": self._products}

        def packed(*parts: Any) -> PackedLinear:
            return PackedLinear(*parts, **given(*parts))

        for layer in model.model.layers:
            attention, mlp = getattr(layer, attention_name), layer.mlp
            normed = getattr(attention, "q_norm", None) is not None
            parts = [(attention.q_norm, self._heads), (attention.k_norm, self._groups)] if normed else []
            rows = [norm.weight.detach().expand(count, -1) for norm, count in parts]
            first, second = (getattr(layer, name).weight.detach().float() for name in norms)
            self._layers.append(
                _Layer(
                    norms=(first, second),
                    heads_norm_PE=torch.cat(rows).float() if normed else None,
                    qkv=packed(attention.q_proj, attention.k_proj, attention.v_proj),
                    output=packed(attention.o_proj),
                    gate=PackedGate(mlp.gate_proj, mlp.up_proj, **given(mlp.gate_proj, mlp.up_proj)),
                    down=packed(mlp.down_proj),
                    mixers=(
                        PackedMixer(layer.attention_mixer, first, self._eps, self.cache.dtype),
                        PackedMixer(layer.mlp_mixer, second, self._eps, self.cache.dtype),
                    )
                    if self._streams > 1
                    else None,
                )
            )
        self._head = packed(model.lm_head)
        self._norm = model.model.norm.weight.detach().float()
        self._turns = self._turning()
        self._at_once = None if self._products is None else self._addresses()

    def _addresses(self) -> ctypes.Array[native.Layer] | None:
        """The layers as the compiled kernel reads them; None where adapters change what they map."""
        if any(one.adapted for layer in self._layers for one in layer.maps):
            return None
        found = (native.Layer * len(self._layers))()
        for place, layer in zip(found, self._layers, strict=True):
            place.norms[:] = [norm.data_ptr() for norm in layer.norms]
            place.heads_norm = None if layer.heads_norm_PE is None else layer.heads_norm_PE.data_ptr()
            for name, one in zip(("qkv", "output", "gate", "down"), layer.maps, strict=True):
                setattr(place, name, one.panels.given)
            if layer.mixers is not None:
                place.mixing[:] = [mixer.address for mixer in layer.mixers]
        return found

    def _turning(self) -> Turns:
        """What turns queries and keys at every position: cosines and sines, each [capacity, E/2]."""
        weight = self._model.model.embed_tokens.weight
        positions = torch.arange(self._capacity)[None]
        cosine, sine = self._model.model.rotary_emb(weight, positions)
        half = self._size // 2  # other families have each twice
        return cosine[0, :, :half].float().contiguous(), sine[0, :, :half].float().contiguous()

    def run(
        self,
        tokens: list[int],
        positions: list[int],
        spans: Sequence[Span],
        adapters: Sequence[Adapter | None],
    ) -> Tensor:
        """Give each row of the first slots one token at its position, and read prompts.

        Returns:
            the logits after each row's token and after each prompt, [R + prompts, V].
        """
        rows, count = len(tokens), len(tokens) + sum(len(span.tokens) for span in spans)
        padding = [0] * (self._rounded(count) - count)
        every = [*tokens, *(token for span in spans for token in span.tokens), *padding]
        starts = [range(span.past, span.past + len(span.tokens)) for span in spans]
        places = [*positions, *(place for span in starts for place in span), *padding]
        places_R = torch.tensor(places)
        cosine, sine = (table.index_select(0, places_R) for table in self._turns)
        self._beside.of([*adapters, *(span.adapter for span in spans for _ in span.tokens)], places_R.device)
        if self._at_once is None or spans or self._beside.groups:
            attend = self._attention.over(positions, spans, len(every), (cosine, sine))
            hidden = self._layers_on(every, attend)
        else:
            hidden = self._decoded(tokens, self._attention.step_of(positions, (), (cosine, sine)))
        if spans:
            lasts = rows - 1 + np.cumsum([len(span.tokens) for span in spans])
            wanted = [*range(rows), *lasts.tolist()]
            hidden = hidden[torch.tensor(wanted + [0] * (self._rounded(len(wanted)) - len(wanted)))]
        return self._head(hidden)[: rows + len(spans)]

    def _decoded(self, tokens: list[int], step: native.Step) -> Tensor:
        """Take one token of each row through all layers and the last norm, [R, D]."""
        assert self._products is not None and self._at_once is not None
        for place, kept in zip(self._at_once, self.cache.kept, strict=True):  # which may have grown
            place.kept = kept.data_ptr()
        x = self._embedded(tokens)
        self._products.decode(x, self._at_once, step, self._model.config.intermediate_size)
        return self._left(x)

    def _embedded(self, tokens: list[int]) -> Tensor:
        x = functional.embedding(torch.tensor(tokens), self._model.model.embed_tokens.weight)
        return x if self._streams == 1 else x[:, None].repeat(1, self._streams, 1)

    def _left(self, x: Tensor) -> Tensor:
        if self._streams > 1:
            x = self._model.model._exit(x[:, None])[:, 0]
        return self._normed(x, self._norm)

    def _layers_on(self, tokens: list[int], attend: Attend) -> Tensor:
        """Take tokens through all layers and the last norm, [R, D]."""
        x = self._embedded(tokens)
        for number, layer in enumerate(self._layers):
            if layer.mixers is None:
                attended = self._attended(number, self._normed(x, layer.norms[0]), attend)
                x = layer.output.added_to(attended, x)
                x = layer.down.added_to(layer.gate(self._normed(x, layer.norms[1])), x)
                continue
            first, second = layer.mixers
            u, writing = first.read(x)
            x = first.write(x, layer.output(self._attended(number, u, attend)), writing)
            u, writing = second.read(x)
            x = second.write(x, layer.down(layer.gate(u)), writing)
        return self._left(x)

    def _attended(self, number: int, u_RD: Tensor, attend: Attend) -> Tensor:
        """Return the attended values, [R, H*E]; keys and values of the tokens are kept."""
        layer = self._layers[number]
        qkv_RAE = layer.qkv(u_RD).view(len(u_RD), self._heads + 2 * self._groups, self._size)
        return attend(number, qkv_RAE, layer.heads_norm_PE)

    def _rounded(self, count: int) -> int:
        if self._products is not None:
            return count
        step = FEW if count <= MANY else 4 * FEW
        return -(-count // step) * step

    def _normed(self, x_RD: Tensor, weight_D: Tensor) -> Tensor:
        if self._kernels is None:
            return normed(x_RD, weight_D, self._eps)
        return self._kernels.norm(x_RD, weight_D, self._eps)


def packable(model: Any) -> bool:
    """Whether a model can be packed: its family, its place, its size, and nothing but a LoRA added to it."""
    configuration, whole = model.config, bare(model)
    # Another wrapper, or a class of someone's own, computes something else.
    if configuration.model_type not in FAMILIES or not _own(type(whole)):
        return False
    if whole is not model and any(one.is_prompt_learning for one in model.peft_config.values()):
        return False
    adapters: list[Any] = [part for part in whole.modules() if plain_adapter(part)]
    inner = {id(part) for one in adapters for part in one.modules() if part is not one.base_layer}
    modules = [part for part in whole.modules() if id(part) not in inner]
    weights = list(whole.parameters())
    dtypes = {one.dtype for one in weights if one.dim() == 2 and one.dtype != torch.float32}
    linears = [part for part in modules if isinstance(part, nn.Linear)]
    return (
        all(one.device.type == "cpu" and one.numel() for one in weights)  # ZeRO-3 leaves empty ones
        and _supported(dtypes)
        and all(_own(type(part)) for part in modules)
        and len({part.weight.dtype for part in linears}) == 1
        and len(linears) == 1 + len(PROJECTIONS) * len(whole.model.layers)
        and getattr(configuration, "hidden_act", "silu") == "silu"
        and getattr(configuration, "sliding_window", None) is None
        and getattr(configuration, "residual_kind", "plain") != "hc"
        and configuration.rope_parameters["rope_type"] not in ("dynamic", "longrope")
        and sum(one.nbytes for one in weights) <= PACKED_BYTES
    )


def _own(kind: type) -> bool:
    return kind.__module__.split(".")[0] in ("torch", "transformers", "codex_ray")


def _supported(dtypes: set[torch.dtype]) -> bool:
    """Whether oneDNN multiplies in the model's precision here; all in fp32 is the empty set."""
    if not torch.backends.mkldnn.is_available():
        return False
    return not dtypes or (dtypes == {torch.bfloat16} and torch.ops.mkldnn._is_mkldnn_bf16_supported())
