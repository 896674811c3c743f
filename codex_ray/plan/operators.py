"""The parts of a micro-batch's work as operators that can be run and timed, forward and backward.

Each runs the decoder's own functions on random numbers of the run's shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from codex_ray.model import CodexRayConfig, CodexRayForCausalLM
from codex_ray.model.hyper_connections import expand_streams, write_streams
from codex_ray.model.operations import ATTENTION_LENGTH, CausalAttention
from codex_ray.plan.work import linear_shapes

Operator = Callable[[], object]


class Operators:
    """Runs each part once, by name as :func:`codex_ray.plan.work.parts` names them.

    Args:
        config: the decoder's; only one layer of it is made.
        rows: of a micro-batch; ``length``: tokens of a row.
        dtype: compute precision.
    """

    def __init__(self, config: CodexRayConfig, rows: int, length: int, dtype: torch.dtype) -> None:
        self.config, self.rows, self.length, self.dtype = config, rows, length, dtype
        one = CodexRayConfig.from_dict({**config.to_dict(), "num_hidden_layers": 1})
        self.model = CodexRayForCausalLM(one).to(dtype).train()
        self.layer = self.model.model.layers[0]

    def named(self) -> dict[str, Operator]:
        """Return the parts' operators."""
        return {
            "products": self._products(),
            "attention": self._attention(),
            "norms": self._norms(),
            "activation": self._activation(),
            "connections": self._connections(),
            "embedding and exit": self._ends(),
            "loss": self._loss(),
        }

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(self.rows, self.length, *shape, dtype=self.dtype)

    def _products(self) -> Operator:
        layers = [
            (
                self._random(inputs).requires_grad_(),
                torch.nn.Linear(inputs, outputs, bias=False, dtype=self.dtype),
            )
            for inputs, outputs in linear_shapes(self.config).values()
        ]
        gradients = [torch.randn_like(linear(x)) for x, linear in layers]

        def run() -> None:
            for (x, linear), gradient in zip(layers, gradients, strict=True):
                torch.autograd.grad(linear(x), [x, linear.weight], gradient)

        return run

    def _attention(self) -> Operator:
        config, attention = self.config, self.layer.attention
        query, key, value = (
            self._random(heads, config.head_dim).transpose(1, 2).contiguous().requires_grad_()
            for heads in (config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads)
        )
        gradient = self._random(config.num_attention_heads, config.head_dim)
        scaling = attention.scaling

        def attend() -> Tensor:
            if self.length > ATTENTION_LENGTH:
                library: Any = ALL_ATTENTION_FUNCTIONS["sdpa"]
                found: Tensor = library(attention, query, key, value, None, dropout=0.0, scaling=scaling)[0]
                return found
            short: Any = CausalAttention.apply
            found = short(query, key, value, scaling, None)
            return found

        return lambda: torch.autograd.grad(attend(), [query, key, value], gradient)

    def _norms(self) -> Operator:
        config, layer = self.config, self.layer
        positions = torch.arange(self.length).unsqueeze(0)
        x = self._random(config.hidden_size).requires_grad_()
        turn = torch.stack(self.model.model.rotary_emb(x, positions), dim=-1)
        heads = [
            self._random(count, config.head_dim).requires_grad_()
            for count in (config.num_attention_heads, config.num_key_value_heads)
        ]
        norms = [layer.attention_norm, layer.mlp_norm]

        def run() -> None:
            for norm in norms:
                self._back(norm(x), [x, norm.weight])
            for each, norm in zip(heads, (layer.attention.q_norm, layer.attention.k_norm), strict=True):
                self._back(norm(each, turn), [each, norm.weight])

        return run

    def _activation(self) -> Operator:
        gate, up = (self._random(self.config.intermediate_size).requires_grad_() for _ in range(2))
        return lambda: self._back(functional.silu(gate) * up, [gate, up])

    def _connections(self) -> Operator:
        config = self.config
        output = self._random(config.hidden_size).requires_grad_()
        if config.mixed_streams == 1:
            before = self._random(config.hidden_size).requires_grad_()
            return lambda: self._back(before + output, [before, output])
        streams = self._random(config.mixed_streams, config.hidden_size).requires_grad_()
        mixer = self.layer.attention_mixer
        gradients = [torch.randn_like(streams), torch.randn_like(output)]

        def run() -> None:
            read, writing, passed = mixer(streams)
            written = write_streams(passed, output, writing)
            torch.autograd.grad([written, read], [streams, output, *mixer.parameters()], gradients)

        return run

    def _ends(self) -> Operator:
        model, streams = self.model.model, self.config.mixed_streams
        ids = torch.randint(4, self.config.vocab_size, (self.rows, self.length))

        def run() -> None:
            embedded = model.embed_tokens(ids)
            hidden = embedded if streams == 1 else expand_streams(embedded, streams)
            self._back(model.norm(model._exit(hidden)), [model.embed_tokens.weight, model.norm.weight])

        return run

    def _loss(self) -> Operator:
        hidden = self._random(self.config.hidden_size).requires_grad_()
        targets = torch.randint(4, self.config.vocab_size, (self.rows, self.length))
        head = self.model.lm_head
        return lambda: torch.autograd.grad(head(hidden, targets), [hidden, head.weight])

    def _back(self, output: Tensor, inputs: Sequence[Tensor]) -> object:
        return torch.autograd.grad(output, inputs, torch.ones_like(output))
