"""Reward models: from a language model to a sequence classifier, saved, and loaded by plain Transformers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForCausalLM

from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.model.reward import load_reward_model, start_reward_model
from codex_ray.train.objectives.reward import rewards
from codex_ray.train.objectives.sequences import Sequences
from tests.unit.model.small import build, stir

IDS = [[5, 9, 7, 30, 2], [11, 12, 3], [4, 8, 15, 16, 23, 42, 60]]
MASKS = [[False] + [True] * (len(row) - 1) for row in IDS]


def llama() -> Any:
    torch.manual_seed(0)
    shape = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=61, pad_token_id=0, **shape))


@pytest.mark.parametrize("make", [lambda: stir(build()), llama], ids=["ours", "llama"])
def test_a_language_model_becomes_a_reward_model(make: Any, tmp_path: Path) -> None:
    language_model = make()
    language_model.save_pretrained(tmp_path / "lm")
    model = start_reward_model(tmp_path / "lm")
    pad = model.config.pad_token_id
    rows = Sequences.of(IDS, MASKS, pad_id=pad)
    assert rewards(model, rows).tolist() == [0.0] * 3
    for name, weight in language_model.base_model.state_dict().items():
        assert torch.equal(weight, model.base_model.state_dict()[name])
    torch.nn.init.normal_(model.score.weight)
    together = rewards(model, rows)
    alone = [rewards(model, Sequences.of([row], [mask])) for row, mask in zip(IDS, MASKS, strict=True)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)
    model.save_pretrained(tmp_path / "reward")
    for again in (
        load_reward_model(tmp_path / "reward"),
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward").eval(),
    ):
        assert torch.allclose(rewards(again, rows), together, atol=1e-5)
    with pytest.raises(CodexRayError, match="is no reward model; give one that method=reward has trained"):
        load_reward_model(tmp_path / "lm")


def test_the_last_token_is_the_masks_whatever_its_id() -> None:
    """Where the padding is the end token, the end of an answer is still read at that token."""
    from codex_ray.model import CodexRayForSequenceClassification

    config = build().config
    config.num_labels, config.pad_token_id = 1, 2
    torch.manual_seed(1)
    model = CodexRayForSequenceClassification(config).eval()
    ends = Sequences.of([[5, 6, 2], [7, 8, 9, 10, 2]], [[False, True, True], [False] + [True] * 4], pad_id=2)
    hidden_BSD = model.model(ends.input_ids_BS).last_hidden_state
    expected = model.score(hidden_BSD[torch.arange(2), torch.tensor([2, 4])]).squeeze(-1)
    assert torch.allclose(rewards(model, ends), expected, atol=1e-5)
    left = torch.tensor([[2, 2, 5, 6, 2]])
    masked = model(input_ids=left, attention_mask=torch.tensor([[0, 0, 1, 1, 1]])).logits
    assert torch.allclose(masked.squeeze(), expected[0], atol=1e-5)
    by_id = model(input_ids=torch.tensor([[5, 6, 7, 2, 2]])).logits
    assert torch.allclose(by_id, model(input_ids=torch.tensor([[5, 6, 7]])).logits, atol=1e-5)
    labelled = model(input_ids=torch.tensor([[5, 6, 7]]), labels=torch.tensor([[0.5]]))
    assert labelled.loss.item() == pytest.approx((labelled.logits.item() - 0.5) ** 2, rel=1e-5)


def test_a_saved_one_loads_where_the_package_is_not(tmp_path: Path) -> None:
    config = build().config
    config.num_labels = 1
    from codex_ray.model import CodexRayForSequenceClassification

    CodexRayForSequenceClassification(config).save_pretrained(tmp_path / "reward")
    script = (
        "import sys, torch; from transformers import AutoModelForSequenceClassification as Auto;"
        "sys.modules['codex_ray'] = None;"
        f"model = Auto.from_pretrained({str(tmp_path / 'reward')!r}, trust_remote_code=True);"
        "print(tuple(model(torch.tensor([[5, 6, 7]])).logits.shape))"
    )
    home = {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, env=home, cwd=tmp_path
    )
    assert done.stdout.strip() == "(1, 1)", done.stderr[-2000:]


def test_other_models_are_refused(tmp_path: Path) -> None:
    from codex_ray.model import CodexRayForSequenceClassification

    config = build().config
    config.num_labels = 3
    CodexRayForSequenceClassification(config).save_pretrained(tmp_path / "three")
    with pytest.raises(ConfigError, match="3 labels"):
        load_reward_model(tmp_path / "three")
