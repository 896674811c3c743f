"""The mHC decoder as a Transformers model, and loading any causal language model.

Importing this package makes ``AutoModelForCausalLM.from_pretrained`` know ``codex_ray`` models.
"""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from codex_ray.model.build import build_model
from codex_ray.model.classification import CodexRayForSequenceClassification
from codex_ray.model.configuration import CodexRayConfig
from codex_ray.model.deepseek import load_deepseek, to_deepseek
from codex_ray.model.flops import flops_per_token
from codex_ray.model.gains import mixing_gains
from codex_ray.model.load import load_model, resolve_model_folder
from codex_ray.model.loss import next_token_loss_sum, stretch_loss_sum
from codex_ray.model.modeling import CodexRayForCausalLM, CodexRayModel
from codex_ray.model.operations import IGNORED
from codex_ray.model.roles import optimizer_role

__all__ = [
    "IGNORED",
    "CodexRayConfig",
    "CodexRayForCausalLM",
    "CodexRayForSequenceClassification",
    "CodexRayModel",
    "build_model",
    "flops_per_token",
    "load_deepseek",
    "load_model",
    "mixing_gains",
    "next_token_loss_sum",
    "optimizer_role",
    "resolve_model_folder",
    "stretch_loss_sum",
    "to_deepseek",
]

AutoConfig.register("codex_ray", CodexRayConfig, exist_ok=True)
AutoModel.register(CodexRayConfig, CodexRayModel, exist_ok=True)
AutoModelForCausalLM.register(CodexRayConfig, CodexRayForCausalLM, exist_ok=True)
AutoModelForSequenceClassification.register(CodexRayConfig, CodexRayForSequenceClassification, exist_ok=True)
# Saved folders then carry the code, for machines without this package.
CodexRayConfig.register_for_auto_class()
CodexRayModel.register_for_auto_class("AutoModel")
CodexRayForCausalLM.register_for_auto_class("AutoModelForCausalLM")
CodexRayForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
