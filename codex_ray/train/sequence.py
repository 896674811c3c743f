"""Sequences shared out among workers: Ulysses sequence parallelism (arXiv 2309.14509), as DeepSpeed has it.

The workers of a group hold the same rows, and each one stretch of every sequence. Around attention they trade
stretches of all heads for whole sequences of some heads, and back; everything else in the model looks at one
token at a time. Gradients of a group's workers add up to those of whole sequences.
"""

from __future__ import annotations

from typing import Any

from transformers import AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "codex_ray_sequence_parallel"


def share_attention(model: PreTrainedModel, workers: int, micro_rows: int) -> Any:
    """Let groups of ``workers`` ranks compute a model's attention together while it trains.

    Every rank takes part. In evaluation mode each is by itself. Other models of this process are left alone.

    Returns:
        the groups, for DeepSpeed's ``initialize``.
    """
    from deepspeed.runtime.sequence_parallel import parallel_state_sp
    from deepspeed.runtime.sequence_parallel.ulysses_sp import UlyssesSPAttentionHF

    ALL_ATTENTION_FUNCTIONS[NAME] = sdpa_attention_forward  # which DeepSpeed then wraps
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.config._attn_implementation = NAME
    # DeepSpeed makes groups once per process; a run that goes back makes its engine again.
    parallel_state_sp._SEQUENCE_PARALLEL_GROUP = None
    parallel_state_sp._SEQUENCE_DATA_PARALLEL_GROUP = None
    return UlyssesSPAttentionHF.register_with_transformers(
        model, NAME, workers, micro_rows, seq_length_is_variable=True, disable_in_eval=True
    )
