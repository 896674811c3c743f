"""Transformers' common model and training tests on our decoder, run by ``test_suites.py`` on its own.

Not named ``test_``: the suite's markers and imports are not those of this project.
"""

from __future__ import annotations

import unittest
from typing import Any

import torch
from transformers.models.auto import modeling_auto
from transformers_suite.test_configuration_common import ConfigTester
from transformers_suite.test_modeling_common import GenerationTesterMixin, ModelTesterMixin, ids_tensor
from transformers_suite.test_training_mixin import TrainingTesterMixin

from codex_ray.model import CodexRayConfig, CodexRayForCausalLM, CodexRayModel

# The suite asks tables of names, which registering a class does not extend, what a class is for.
modeling_auto.MODEL_MAPPING_NAMES["codex_ray"] = "CodexRayModel"
modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["codex_ray"] = "CodexRayForCausalLM"


class Tester:
    """A small decoder and inputs for it."""

    base_model_class = CodexRayModel
    causal_lm_class = CodexRayForCausalLM
    batch_size, seq_length, is_training = 13, 7, True
    key_length = encoder_seq_length = seq_length
    vocab_size, hidden_size, intermediate_size = 99, 32, 37
    num_hidden_layers, num_attention_heads, num_key_value_heads = 2, 4, 2

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def get_config(self) -> CodexRayConfig:
        """Return the configuration."""
        return CodexRayConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=self.num_key_value_heads,
            head_dim=8,
            max_position_embeddings=512,
            pad_token_id=0,
            residual_kind=self.kind,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[CodexRayConfig, dict[str, Any]]:
        """Return the configuration and a padded batch."""
        input_ids = ids_tensor([self.batch_size, self.seq_length], self.vocab_size)
        return self.get_config(), {
            "input_ids": input_ids,
            "attention_mask": torch.tril(torch.ones_like(input_ids)),
        }


class Cases(ModelTesterMixin, GenerationTesterMixin, TrainingTesterMixin):
    """Every common test; none is overridden."""

    all_model_classes = (CodexRayModel, CodexRayForCausalLM)
    kind = "mhc"

    def setUp(self) -> None:
        """Make the model tester."""
        self.model_tester = Tester(self.kind)
        self.config_tester = ConfigTester(
            self,
            config_class=CodexRayConfig,
            hidden_size=32,
            common_properties=["hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size"],
        )

    def test_config(self) -> None:
        """The suite's tests of a configuration."""
        self.config_tester.run_common_tests()


class MhcTest(Cases, unittest.TestCase):
    """Sinkhorn mixing."""


class PermutationTest(Cases, unittest.TestCase):
    """Mixtures of permutations."""

    kind = "mhc_permutation"


class IdentityTest(Cases, unittest.TestCase):
    """Streams that are not mixed."""

    kind = "identity"


class UnconstrainedTest(Cases, unittest.TestCase):
    """Unconstrained hyper-connections."""

    kind = "hc"


class PlainTest(Cases, unittest.TestCase):
    """One stream."""

    kind = "plain"
