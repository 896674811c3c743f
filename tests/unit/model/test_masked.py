"""Masked language models of BERT's and MiniLM's shape, with random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertModel

from codex_ray.errors import CodexRayError
from codex_ray.model.masked import embed, load_encoder, load_masked_model, pseudo_log_likelihood
from tests.unit.model.small import VOCABULARY, build, tokens

MASK = 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(2)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=40,
        pad_token_id=3,
    )
    BertForMaskedLM(config).save_pretrained(tmp_path)
    return tmp_path


def test_every_token_is_scored_by_the_others(folder: Path) -> None:
    model, ids = load_masked_model(folder), tokens(1, 40)[0]
    scores = pseudo_log_likelihood(model, ids, MASK)
    for place in (0, 17, 39):
        masked = ids.clone()
        masked[place] = MASK
        with torch.no_grad():
            logits = model(masked[None], attention_mask=torch.ones(1, 40)).logits[0, place]
        assert scores[place].item() == pytest.approx(logits.log_softmax(-1)[ids[place]].item(), abs=1e-5)
    counted = torch.zeros(40, dtype=torch.bool)
    counted[5:9] = True
    some = pseudo_log_likelihood(model, ids, MASK, counted)
    torch.testing.assert_close(some[5:9], scores[5:9])
    assert some.count_nonzero() == 4


def test_padding_changes_no_embedding(folder: Path) -> None:
    encoder = load_encoder(folder)
    assert isinstance(encoder, BertModel)
    ids = tokens(1, 9)
    padded = torch.cat([ids, torch.full((1, 5), 3)], dim=1)
    mask = (torch.arange(14) < 9).long()[None]
    alone = embed(encoder, ids, torch.ones_like(ids))
    torch.testing.assert_close(embed(encoder, padded, mask), alone)
    torch.testing.assert_close(alone.norm(dim=-1), torch.ones(1))


def test_a_decoder_is_no_masked_model(tmp_path: Path) -> None:
    build("mhc").save_pretrained(tmp_path)
    with pytest.raises(CodexRayError, match="cannot be loaded"):
        load_masked_model(tmp_path)
