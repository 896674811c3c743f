"""Learning from demonstrations and from pairs: supervised, DFT, DPO, Bradley-Terry."""

from __future__ import annotations

import math
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from codex_ray.errors import ConfigError
from codex_ray.model.head import TokenHead
from codex_ray.train.objectives.divergence import Divergence
from codex_ray.train.objectives.objective import nothing_added
from codex_ray.train.objectives.preference import DPO
from codex_ray.train.objectives.reward import BradleyTerry, padding_id
from codex_ray.train.objectives.scoring import score
from codex_ray.train.objectives.sequences import Sequences
from codex_ray.train.objectives.supervised import Supervised
from tests.unit.model.small import build, stir

IDS = [[5, 6, 7, 8, 2], [5, 6, 9], [10, 11, 12, 2], [10, 13, 14, 15, 16]]
MASKS = [
    [False, False, True, True, True],
    [False, False, True],
    [False, True, True, True],
    [False] + [True] * 4,
]


def made() -> tuple[Any, Sequences, TokenHead]:
    model = stir(build()).double()
    return model, Sequences.of(IDS, MASKS), TokenHead(model)


def slope(loss: torch.Tensor, model: Any) -> torch.Tensor:
    found: torch.Tensor = torch.autograd.grad(loss, model.lm_head.weight, retain_graph=True)[0]
    return found


@contextmanager
def halved(model: Any) -> Any:
    """A reference: the model with another output matrix."""
    model.lm_head.weight.data.mul_(0.5)
    yield
    model.lm_head.weight.data.mul_(2.0)


def test_supervised_is_the_models_own_loss() -> None:
    model, rows, head = made()
    labels_BS = rows.input_ids_BS.masked_fill(~rows.mask_BS, -100)
    objective = Supervised(head)
    own = model(input_ids=rows.input_ids_BS, labels=labels_BS, return_logits=False).loss
    loss = objective.loss(model, rows, objective.weight(rows))
    assert loss.item() == pytest.approx(own.item(), abs=1e-9)
    assert torch.allclose(slope(loss, model), slope(own, model), atol=1e-9)
    assert objective.figures.means(objective.figures.take()) == {"nll": pytest.approx(own.item(), abs=1e-9)}


def test_dft_has_the_gradient_of_the_probabilities() -> None:
    model, rows, head = made()
    loss = Supervised(head, dynamic=True).loss(model, rows, 11)
    likelihood = score(head, model, rows)[0].exp().sum() / 11
    assert torch.allclose(slope(loss, model), -slope(likelihood, model), atol=1e-12)
    logprob_T = score(head, model, rows)[0]
    assert loss.item() == pytest.approx((-(logprob_T.exp() * logprob_T)).sum().item() / 11)


@pytest.mark.parametrize("divergence", [None, Divergence(0.0), Divergence(0.5, top_k=7)])
def test_a_divergence_from_the_reference_is_added(divergence: Divergence | None) -> None:
    model, rows, head = made()
    plain = Supervised(head).loss(model, rows, 11)
    at_home = Supervised(head, kl=3.0, divergence=divergence).loss(model, rows, 11)
    assert at_home.item() == pytest.approx(plain.item(), abs=1e-12)
    assert torch.allclose(slope(at_home, model), slope(plain, model), atol=1e-12)
    objective = Supervised(head, kl=3.0, divergence=divergence, reference=lambda: halved(model))
    away = objective.loss(model, rows, 11)
    figures = objective.figures.means(objective.figures.take())
    assert figures["reference_divergence"] > 0
    assert away.item() == pytest.approx(plain.item() + 3.0 * figures["reference_divergence"], abs=1e-9)
    if divergence is None:  # KL(model || reference), by hand
        logs = model(rows.input_ids_BS).logits.flatten(0, 1)[rows.places].log_softmax(-1)
        with halved(model), torch.no_grad():
            other = model(rows.input_ids_BS).logits.flatten(0, 1)[rows.places].log_softmax(-1)
        by_hand = (logs.exp() * (logs - other)).sum(-1).mean().item()
        assert figures["reference_divergence"] == pytest.approx(by_hand, abs=1e-9)


def test_dpo_at_the_reference() -> None:
    model, rows, head = made()
    objective = DPO(head, beta=0.3)
    micro = objective.prepare(model, [rows], nothing_added)[0]
    loss = objective.loss(model, micro, objective.weight(micro))
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)
    sum_B = rows.sums(score(head, model, rows)[0])
    expected = -0.3 * 0.5 * (sum_B[0::2] - sum_B[1::2]).sum() / 2
    assert torch.allclose(slope(loss, model), slope(expected, model), atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_dpo_is_what_numpy_makes_of_it(smoothing: float) -> None:
    model, rows, head = made()
    objective = DPO(head, beta=0.3, smoothing=smoothing, reference=lambda: halved(model))
    parts = objective.prepare(model, rows.split(10, at_least=3, unit=2), nothing_added)
    assert [objective.weight(part) for part in parts] == [1, 1, 0]
    loss = sum(objective.loss(model, part, 2).item() for part in parts)

    def logprob_sums() -> Any:
        logs_BSV = model(rows.input_ids_BS).logits.log_softmax(-1).detach()
        return np.array(
            [
                sum(logs_BSV[b, t - 1, row[t]].item() for t in range(len(row)) if MASKS[b][t])
                for b, row in enumerate(IDS)
            ]
        )

    own = logprob_sums()
    with halved(model):
        reference = logprob_sums()
    reward = 0.3 * (own - reference)
    margin = reward[0::2] - reward[1::2]
    agreed, contrary = np.log1p(np.exp(-margin)), np.log1p(np.exp(margin))
    assert loss == pytest.approx(np.mean((1 - smoothing) * agreed + smoothing * contrary), abs=1e-6)
    figures = objective.figures.means(objective.figures.take())
    assert figures["margin"] == pytest.approx(margin.mean(), abs=1e-6)
    assert figures["accuracy"] == np.mean(margin > 0)


def test_bradley_terry_is_what_numpy_makes_of_it() -> None:
    reward_B = torch.tensor([1.5, 0.5, -1.0, 2.0, 0.0, 0.0], dtype=torch.float64)

    def forward(input_ids: Any, attention_mask: Any, use_cache: bool) -> Any:
        assert attention_mask.sum(1).tolist() == [5, 3, 4, 5, 0, 0]
        return SimpleNamespace(logits=reward_B[:, None])

    rows = Sequences.of([*IDS, [4], [4]], [*MASKS, [False], [False]])
    rows = Sequences(rows.input_ids_BS, rows.mask_BS, rows.lengths_B * (rows.counts > 0))
    objective = BradleyTerry(centring=0.1)
    assert objective.weight(rows) == 2
    margin, added = np.array([1.0, -3.0]), np.array([2.0, 1.0])
    expected = np.mean(np.log1p(np.exp(-margin)) + 0.1 * added**2)
    assert objective.loss(forward, rows, 2).item() == pytest.approx(expected, abs=1e-12)
    figures = objective.figures.means(objective.figures.take())
    assert figures == {"accuracy": 0.5, "margin": -1.0, "mean_reward": 0.75}


def test_a_reward_model_needs_a_padding_token() -> None:
    model = build()
    assert padding_id(model) == 3
    model.config.pad_token_id = None
    with pytest.raises(ConfigError, match="pad_token_id"):
        padding_id(model)
