"""An architecture of one's own, as Transformers has them: here Llama under another name."""

from __future__ import annotations

from transformers import LlamaConfig, LlamaForCausalLM


class VowelsConfig(LlamaConfig):
    """Its ``model_type`` is the component's name."""

    model_type = "vowels"


class VowelsForCausalLM(LlamaForCausalLM):
    """The model."""

    config_class = VowelsConfig
