"""Documents kept apart within a row give what each gives alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from codex_ray.model import CodexRayForCausalLM, next_token_loss_sum
from codex_ray.model.operations import CausalAttention, document_starts
from codex_ray.train.documents import Documents
from codex_ray.train.objectives.next_token import NextToken
from tests.unit.model.small import KINDS, SPECIAL_IDS, build, stir, tokens

APART = Documents(separate=True, begin_id=1, end_id=2, pad_id=3)


def document(length: int, seed: int) -> Tensor:
    inner = tokens(1, length - 2, seed)[0]
    return torch.cat([torch.tensor([1]), inner, torch.tensor([2])])


def packed() -> tuple[Tensor, list[Tensor]]:
    """Two rows of whole and cut documents, the second filled up, and the documents by themselves."""
    cut = document(15, seed=9)[4:]  # the end of a document that began in another row
    first = [cut, document(7, seed=1), document(22, seed=2)]
    second = [document(3, seed=3), document(25, seed=4)]
    padding = torch.full((40 - 28,), SPECIAL_IDS["pad"])
    return torch.stack([torch.cat(first), torch.cat([*second, padding])]), first + second


def gradients(model: CodexRayForCausalLM, loss: Tensor) -> dict[str, Tensor]:
    loss.backward()
    found = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("attention", ["sdpa", "eager", "sdpa kernel"])
@pytest.mark.parametrize("kind", KINDS)
def test_documents_in_a_row_are_as_if_each_stood_alone(
    kind: str, attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = stir(build(kind))
    model.set_attn_implementation(attention.split()[0])
    if "kernel" in attention:
        monkeypatch.setattr("codex_ray.model.modeling.ATTENTION_LENGTH", 0)
    rows, documents = packed()
    logits = model(rows, position_ids=APART.positions(rows), use_cache=False).logits.flatten(0, 1)
    alone = torch.cat([model(one[None]).logits[0] for one in documents])
    torch.testing.assert_close(logits[: len(alone)], alone, rtol=1e-5, atol=1e-5)

    objective = NextToken(APART)
    total = objective.weight(rows)
    assert total == sum(len(one) - 1 for one in documents)
    together = objective.loss(model, rows, total)
    apart = sum((next_token_loss_sum(model, one[None]) for one in documents), torch.zeros(())) / total
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-5)
    left, right = gradients(model, together), gradients(model, apart)
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_does_not_see_what_stands_before_it(kind: str) -> None:
    """Outside attention no sublayer looks at another token: the streams' mixers neither."""
    model, (rows, _) = stir(build(kind)), packed()
    other = rows.clone()
    other[0, :11] = tokens(1, 11, seed=77)[0]
    positions = APART.positions(rows)
    before, after = (model(ids, position_ids=positions, use_cache=False).logits for ids in (rows, other))
    assert torch.equal(before[:, 11:], after[:, 11:])
    assert not torch.allclose(before[0, :11], after[0, :11])
    joined, changed = (model(ids).logits for ids in (rows, other))
    assert not torch.allclose(joined[0, 11:], changed[0, 11:])


def test_gradient_checkpointing_keeps_documents_apart() -> None:
    model, (rows, _) = stir(build("mhc")).train(), packed()
    objective = NextToken(APART)
    plain = gradients(model, objective.loss(model, rows, 1))
    model.activation_checkpointing_enable()
    for name, gradient in gradients(model, objective.loss(model, rows, 1)).items():
        torch.testing.assert_close(gradient, plain[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("length", [5, 64, 150])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
def test_attention_within_documents(length: int, heads: tuple[int, int]) -> None:
    torch.manual_seed(0)
    begins = torch.rand(3, length) < 0.1
    begins[2] = False
    positions = torch.stack(
        [
            torch.tensor(
                [place - max([0, *(at for at in range(place + 1) if row[at])]) for place in range(length)]
            )
            for row in begins
        ]
    )
    starts = document_starts(positions)
    if starts is None:
        starts = torch.zeros_like(positions)
    places = torch.arange(length)
    mask = (places <= places[:, None]) & (places >= starts[:, :, None])
    leaves = [torch.randn(3, count, length, 8).requires_grad_() for count in (heads[0], heads[1], heads[1])]
    ours = CausalAttention.apply(*leaves, 0.3, starts)
    library = functional.scaled_dot_product_attention(
        *leaves, attn_mask=mask[:, None], scale=0.3, enable_gqa=True
    ).transpose(1, 2)
    torch.testing.assert_close(ours, library, rtol=1e-5, atol=1e-5)
    weights = torch.randn_like(ours)
    for one, other in zip(
        torch.autograd.grad((ours * weights).sum(), leaves),
        torch.autograd.grad((library * weights).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_rows_of_one_document_have_no_starts() -> None:
    assert document_starts(torch.arange(7).expand(2, 7)) is None
    assert document_starts(torch.arange(3, 10).expand(2, 7)) is None
    found = document_starts(torch.tensor([[0, 1, 0, 1, 2, 0]]))
    assert found is not None
    assert found.tolist() == [[0, 0, 2, 2, 2, 5]]
