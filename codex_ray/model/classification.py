"""The decoder as a sequence classifier; with one label, a reward model.

Shape legend: B batch, S sequence, L labels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_outputs import SequenceClassifierOutputWithPast
from transformers.utils import can_return_tuple

from .configuration import CodexRayConfig
from .modeling import CodexRayModel, CodexRayPreTrainedModel


class CodexRayForSequenceClassification(CodexRayPreTrainedModel):
    """The decoder with a score of each row, read from its last token."""

    def __init__(self, config: CodexRayConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = CodexRayModel(config)
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=False)
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
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutputWithPast:
        """Return scores, [B, L], and the loss when ``labels`` are given.

        A row's last token is the last that ``attention_mask`` attends to, whatever its id. Without a mask
        it is the last that is not padding by id, and without a padding token the last of all.
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
        scores_BSL = self.score(outputs.last_hidden_state)
        rows_B = torch.arange(scores_BSL.shape[0], device=scores_BSL.device)
        scores_BL = scores_BSL[rows_B, self._last(scores_BSL, input_ids, attention_mask)]
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=scores_BSL, labels=labels, pooled_logits=scores_BL, config=self.config
            )
        return SequenceClassifierOutputWithPast(
            loss=loss,
            logits=scores_BL,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _last(self, scores_BSL: Tensor, input_ids: Tensor | None, attention_mask: Tensor | None) -> Tensor:
        """Return each row's last place, [B]."""
        pad, length = self.config.pad_token_id, scores_BSL.shape[1]
        if attention_mask is not None and attention_mask.dim() == 2:
            counted_BS = attention_mask[:, -length:].bool()
        elif input_ids is not None and pad is not None:
            counted_BS = input_ids != pad
        else:
            counted_BS = torch.ones_like(scores_BSL[..., 0], dtype=torch.bool)
        places_S = torch.arange(length, device=scores_BSL.device)
        last_B: Tensor = (places_S * counted_BS).argmax(-1)
        return last_B
