"""The codex_ray decoder as a Transformers model.

Pre-norm decoder with grouped-query attention, rotary positions, RMSNorm on queries and keys, and
SwiGLU; its residual connections are hyper-connections (see ``hyper_connections.py``).

Shape legend: B batch, S sequence, D hidden size, N residual streams, H heads, G key/value heads,
E head size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, dynamic_rope_update
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, slice_logits_to_keep
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration import CodexRayConfig
from .hyper_connections import (
    PROJECTION_STD,
    ExitMixer,
    Mixer,
    expand_streams,
    mean_streams,
)
from .mixing import Rule
from .operations import (
    ATTENTION_LENGTH,
    IGNORED,
    CausalAttention,
    NormAndRotate,
    RMSNorm,
    TokenLoss,
    document_starts,
)
from .recomputation import StreamBlocks, best_block, connect

MIXERS = (Mixer, ExitMixer)


class CodexRayRMSNorm(nn.Module):
    """RMSNorm over the last dimension (arXiv 1910.07467), in fp32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` at unit root mean square, scaled by the weight."""
        normed: Tensor = RMSNorm.apply(x, self.weight, self.eps)  # type: ignore[no-untyped-call]
        return normed


class HeadNorm(CodexRayRMSNorm):
    """RMSNorm on each head, followed by the rotation to its position."""

    def forward(self, x_BSHE: Tensor, turn_BSE2: Tensor) -> Tensor:  # type: ignore[override]
        """Return normed and turned heads, [B, H, S, E]."""
        turned: Tensor = NormAndRotate.apply(  # type: ignore[no-untyped-call]
            x_BSHE, self.weight, turn_BSE2, self.eps
        )
        return turned


class CodexRayRotaryEmbedding(nn.Module):
    """The rotary embedding (arXiv 2104.09864) at given positions."""

    inv_freq: Tensor

    def __init__(self, config: CodexRayConfig) -> None:
        super().__init__()
        self.config = config
        self.max_seq_len_cached = config.max_position_embeddings
        self.original_max_seq_len = config.max_position_embeddings
        assert config.rope_parameters is not None
        self.rope_type = config.rope_parameters["rope_type"]
        initialise = ROPE_INIT_FUNCTIONS.get(self.rope_type, self.compute_default_rope_parameters)
        inv_freq, self.attention_scaling = initialise(config)
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.register_buffer("original_inv_freq", inv_freq.clone(), persistent=False)

    @staticmethod
    def compute_default_rope_parameters(config: CodexRayConfig, **_: Any) -> tuple[Tensor, float]:
        """Return inverse frequencies [E/2] and the attention scaling."""
        assert config.rope_parameters is not None
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float) / config.head_dim
        return 1.0 / config.rope_parameters["rope_theta"] ** exponents, 1.0

    @torch.no_grad()
    @dynamic_rope_update
    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return scaled cosines and sines, [B, S, E/2], at least as precise as ``x``."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        angles = (position_ids[..., None].float() * self.inv_freq.float()).to(dtype)
        return angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Attention by plain matrix products, for implementations that want its weights."""
    groups = int(module.num_key_value_groups)  # type: ignore[arg-type]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class CodexRayAttention(nn.Module):
    """Grouped-query causal attention with rotary positions."""

    def __init__(self, config: CodexRayConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = config.head_dim**-0.5
        self.is_causal = True
        inner, narrow = config.num_attention_heads * self.head_dim, config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, inner, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, narrow, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, narrow, bias=config.attention_bias)
        self.o_proj = nn.Linear(inner, config.hidden_size, bias=config.attention_output_bias)
        if config.query_key_norm:
            self.q_norm = HeadNorm(self.head_dim, config.rms_norm_eps)
            self.k_norm = HeadNorm(self.head_dim, config.rms_norm_eps)

    def forward(
        self,
        x_BSD: Tensor,
        position_embeddings: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        starts_BS: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the attended values, [B, S, D], and the weights where the implementation has them.

        ``starts`` are where documents begin, for the attention that needs no mask (see ``_short``).
        """
        shape = (*x_BSD.shape[:-1], -1, self.head_dim)
        query, key = self.q_proj(x_BSD).view(shape), self.k_proj(x_BSD).view(shape)
        value_BGSE = self.v_proj(x_BSD).view(shape).transpose(1, 2)
        if self.config.query_key_norm:
            query, key = self.q_norm(query, position_embeddings), self.k_norm(key, position_embeddings)
        else:
            query, key = (
                NormAndRotate.apply(x, None, position_embeddings, 0.0)  # type: ignore[no-untyped-call]
                for x in (query, key)
            )
        if past_key_values is not None:
            key, value_BGSE = past_key_values.update(key, value_BGSE, self.layer_idx)
        if self._short(query, key, attention_mask, kwargs):
            attended = CausalAttention.apply(  # type: ignore[no-untyped-call]
                query, key, value_BGSE, self.scaling, starts_BS
            )
            weights = None
        else:
            attend: Callable[..., tuple[Tensor, Tensor | None]] = ALL_ATTENTION_FUNCTIONS.get_interface(
                self.config._attn_implementation, eager_attention
            )
            attended, weights = attend(
                self,
                query,
                key,
                value_BGSE,
                attention_mask,
                dropout=0.0,
                scaling=self.scaling,
                **kwargs,
            )
        return self.o_proj(attended.reshape(*x_BSD.shape[:-1], -1)), weights

    def _short(
        self, query_BHSE: Tensor, key_BGSE: Tensor, mask: Tensor | None, kwargs: dict[str, Any]
    ) -> bool:
        """Whether this is plain causal attention over short rows on a CPU."""
        length = query_BHSE.shape[2]
        return (
            mask is None
            and length == key_BGSE.shape[2]
            and _short_rows(self.config, query_BHSE, length, kwargs)
        )


def _short_rows(config: CodexRayConfig, x: Tensor, length: int, kwargs: dict[str, Any]) -> bool:
    """Whether causal attention over rows of this length is ours: short ones on a CPU."""
    return (
        config._attn_implementation == "sdpa"
        and x.device.type == "cpu"
        and 1 < length <= ATTENTION_LENGTH
        and kwargs.get("is_causal") is not False
        and kwargs.get("cache") is None  # a paged cache belongs to the registered function
    )


class CodexRayMLP(nn.Module):
    """SwiGLU feed-forward (arXiv 2002.05202)."""

    def __init__(self, config: CodexRayConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def forward(self, x_BSD: Tensor) -> Tensor:
        """Return down(silu(gate(x)) * up(x))."""
        output: Tensor = self.down_proj(functional.silu(self.gate_proj(x_BSD)) * self.up_proj(x_BSD))
        return output


def _rule(config: CodexRayConfig) -> Rule:
    return Rule(
        kind=config.residual_kind,
        streams=config.residual_streams,
        iterations=config.sinkhorn_iterations,
        eps=config.sinkhorn_eps,
        norm_eps=config.rms_norm_eps,
    )


def _mixer(config: CodexRayConfig, index: int) -> Mixer:
    return Mixer(
        _rule(config),
        hidden_size=config.hidden_size,
        index=index,
        gate_init=config.gate_init,
        off_diagonal_init=config.off_diagonal_init,
    )


class CodexRayDecoderLayer(GradientCheckpointingLayer):
    """Attention, then feed-forward, each read from and written to the residual streams.

    With one stream both are the plain pre-norm residual, without any mixer.
    """

    def __init__(self, config: CodexRayConfig, layer_idx: int) -> None:
        super().__init__()
        self.attention = CodexRayAttention(config, layer_idx)
        self.mlp = CodexRayMLP(config)
        self.attention_norm = CodexRayRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp_norm = CodexRayRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mixed = config.mixed_streams > 1
        if self.mixed:
            self.attention_mixer = _mixer(config, 2 * layer_idx)
            self.mlp_mixer = _mixer(config, 2 * layer_idx + 1)

    def forward(self, hidden_states: Tensor, blocks: StreamBlocks | None = None, **kwargs: Any) -> Tensor:
        """Map [B, S, D] (one stream) or [B, S, N, D] to the same shape."""
        if not self.mixed:
            hidden_states = hidden_states + self.attend(hidden_states, **kwargs)
            return hidden_states + self.feed(hidden_states)
        attend = partial(self.attend, **kwargs)
        hidden_states = connect(self.attention_mixer, hidden_states, attend, blocks)
        return connect(self.mlp_mixer, hidden_states, self.feed, blocks)

    def attend(self, u_BSD: Tensor, **kwargs: Any) -> Tensor:
        """Return what the attention adds to the streams, [B, S, D]."""
        attended: Tensor = self.attention(self.attention_norm(u_BSD), **kwargs)[0]
        return attended

    def feed(self, u_BSD: Tensor) -> Tensor:
        """Return what the feed-forward adds to the streams, [B, S, D]."""
        output: Tensor = self.mlp(self.mlp_norm(u_BSD))
        return output

    def compile_sublayers(self, backend: str | Callable[..., Any]) -> None:
        """Compile attention and feed-forward; mixers have kernels of their own and stay as they are."""
        self.attend = torch.compile(self.attend, backend=backend)  # type: ignore[method-assign]
        self.feed = torch.compile(self.feed, backend=backend)  # type: ignore[method-assign]


class MeanState(nn.Module):
    """The state after a layer as tools outside know it: the mean of its streams, [B, S, D]."""

    def forward(self, embedded_BSD: Tensor, hidden_states: Tensor) -> Tensor:
        """Return the mean; the embedding is what stands before the first layer."""
        return mean_streams(hidden_states) if hidden_states.dim() > embedded_BSD.dim() else hidden_states


class CodexRayPreTrainedModel(PreTrainedModel):
    """What the base model and the causal language model share."""

    config: CodexRayConfig
    config_class = CodexRayConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["CodexRayDecoderLayer"]  # noqa: RUF012 - Transformers' own convention
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {  # noqa: RUF012
        "hidden_states": MeanState,
        "attentions": CodexRayAttention,
    }

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Write a model folder; its configuration also names the base model, for inference engines."""
        self.config.auto_map = {"AutoModel": "modeling.CodexRayModel"}
        super().save_pretrained(*args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MIXERS):
            if isinstance(module, Mixer) and module.rule.kind == "hc":
                init.zeros_(module.phi)
            else:
                init.normal_(module.phi, mean=0.0, std=PROJECTION_STD)
            init.zeros_(module.bias)
            init.constant_(module.gate, module.gate_init)
            init.copy_(module.bias_constant, module.initial_bias())


class CodexRayModel(CodexRayPreTrainedModel):
    """The decoder without its output matrix."""

    def __init__(self, config: CodexRayConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            [CodexRayDecoderLayer(config, index) for index in range(config.num_hidden_layers)]
        )
        self.norm = CodexRayRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = CodexRayRotaryEmbedding(config)
        if config.mixed_streams > 1 and config.residual_exit == "learned":
            self.exit_mixer = ExitMixer(
                _rule(config), hidden_size=config.hidden_size, gate_init=config.gate_init
            )
        self.mean_state = MeanState()
        mixers = {name.rpartition(".")[2] for name, part in self.named_modules() if isinstance(part, MIXERS)}
        self._keep_in_fp32_modules_strict = mixers
        self.gradient_checkpointing = False
        self.stream_block = 0
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Return the last hidden state, [B, S, D], after the final norm.

        Hidden states recorded with ``output_hidden_states`` are the embedding, the mean of the streams
        after each layer, and last the result itself, all [B, S, D].
        Positions default to each row's count of unmasked tokens, so padding on either side is
        the same as none. Given positions that begin again within a row, without a mask or a cache,
        make it several documents: none attends to another.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        mask = starts = None
        packed = position_ids is not None and attention_mask is None and past_key_values is None
        if position_ids is None:
            position_ids = self._positions(inputs_embeds, attention_mask, past_key_values)
        if packed and _short_rows(self.config, inputs_embeds, inputs_embeds.shape[1], kwargs):
            starts = document_starts(position_ids.expand(inputs_embeds.shape[:2]))
        else:
            mask = create_causal_mask(
                config=self.config,
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                position_ids=position_ids,
            )
        streams = self.config.mixed_streams
        hidden_states = inputs_embeds if streams == 1 else expand_streams(inputs_embeds, streams)
        position_embeddings = torch.stack(self.rotary_emb(inputs_embeds, position_ids), dim=-1)
        recorded = kwargs.get("output_hidden_states", self.config.output_hidden_states)
        blocks = self._blocks(hidden_states)
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                blocks=blocks,
                attention_mask=mask,
                position_embeddings=position_embeddings,
                position_ids=position_ids,
                past_key_values=past_key_values,
                starts_BS=starts,
                use_cache=use_cache,
                **kwargs,
            )
            if recorded:
                self.mean_state(inputs_embeds, hidden_states)
        return BaseModelOutputWithPast(
            last_hidden_state=self.norm(self._exit(hidden_states)), past_key_values=past_key_values
        )

    def _exit(self, hidden_states: Tensor) -> Tensor:
        if self.config.mixed_streams == 1:
            return hidden_states
        learned = self.config.residual_exit == "learned"
        return self.exit_mixer(hidden_states) if learned else mean_streams(hidden_states)

    def recompute_streams(self, block: int | None = None) -> None:
        """Keep the streams of every ``block``-th sublayer only while training; 0 keeps all of them.

        Unset, the block is the one that needs least memory. Not together with gradient checkpointing,
        which makes whole layers again.
        """
        sublayers = 2 * self.config.num_hidden_layers
        self.stream_block = best_block(self.config.mixed_streams, sublayers) if block is None else block

    def compile_sublayers(self, backend: str | Callable[..., Any] = "inductor") -> None:
        """Compile every layer's attention and feed-forward, for training at a fixed shape.

        The mixers are left out: Inductor's backward pass of the Sinkhorn iterations can overflow.
        """
        for layer in self.layers:
            layer.compile_sublayers(backend)  # type: ignore[operator]

    def _blocks(self, hidden_states: Tensor) -> StreamBlocks | None:
        """Return what decides which streams are kept; None where all are."""
        wanted = self.stream_block and hidden_states.dim() == 4 and self.training and torch.is_grad_enabled()
        return StreamBlocks(self.stream_block, hidden_states) if wanted else None

    def _positions(self, embedded_BSD: Tensor, mask: Tensor | None, cache: Cache | None) -> Tensor:
        length = embedded_BSD.shape[1]
        if mask is not None and mask.dim() == 2:
            return (mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]
        past = cache.get_seq_length() if cache is not None else 0
        return (torch.arange(length, device=embedded_BSD.device) + past).unsqueeze(0)


class OutputMatrix(nn.Linear):
    """The output matrix; its module also holds the loss, so that it alone touches its weight."""

    def forward(self, hidden: Tensor, targets: Tensor | None = None) -> Tensor:
        """Return logits, or, given ``targets`` of the same places, the sum of their losses."""
        if targets is None:
            return super().forward(hidden)
        loss: Tensor = TokenLoss.apply(  # type: ignore[no-untyped-call]
            hidden.flatten(0, 1), self.weight, targets.flatten()
        )
        return loss


class CodexRayForCausalLM(CodexRayPreTrainedModel, GenerationMixin):
    """The decoder with its output matrix, for training and generation."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012
    _tp_plan = {"lm_head": "colwise_gather_output"}  # noqa: RUF012
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}  # noqa: RUF012

    def __init__(self, config: CodexRayConfig) -> None:
        super().__init__(config)
        self.model = CodexRayModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = OutputMatrix(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        shift_labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        return_logits: bool = True,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Return logits, [B, S, V], and the loss when ``labels`` are given.

        Labels are token ids at their own places (the shift happens here), ``shift_labels`` at the places
        of the tokens before, for rows that go on elsewhere; -100 is not counted. The
        loss is the mean, or the sum over ``num_items_in_batch`` when that is given. Training that
        needs the loss only sets ``return_logits=False``: logits are then never all in memory.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        logits = loss = None
        # An adapter around the output matrix is not part of the matrix's own loss.
        targets = shift_labels
        if targets is None and labels is not None:
            targets = functional.pad(labels, (0, 1), value=IGNORED)[:, 1:]
        if targets is not None and not return_logits and type(self.lm_head) is OutputMatrix:
            count = kwargs.get("num_items_in_batch")
            loss = self.lm_head(hidden_states, targets)
            loss = loss / ((targets != IGNORED).sum() if count is None else count)
        else:
            logits = self.lm_head(slice_logits_to_keep(hidden_states, logits_to_keep))
            if targets is not None:
                given = {"labels": labels, "shift_labels": shift_labels}
                loss = self.loss_function(logits=logits, vocab_size=self.vocab_size, **given, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
