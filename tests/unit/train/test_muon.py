from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_ray.train.muon import MuonAdamW, Piece, orthogonalise
from codex_ray.train.optimizer import partition_layout, sharded_layout

SHAPES = st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=5)


def optimizer(parameters: list[torch.Tensor], muon: bool = True) -> MuonAdamW:
    group = {
        "params": parameters,
        "lr": 0.1,
        "weight_decay": 0.01,
        "muon": muon,
        "momentum": 0.9,
        "betas": (0.9, 0.95),
        "eps": 1e-8,
    }
    return MuonAdamW([group], newton_schulz_steps=5, newton_schulz_dtype=torch.float32)


@pytest.mark.parametrize("shape", [(4, 16, 32), (3, 32, 16), (1, 24, 24)])
def test_singular_values_come_near_one(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape), 5, torch.float32))
    assert values.min() > 0.4 and values.max() < 1.3


def test_update_matches_torch_muon() -> None:
    torch.manual_seed(1)
    weights, gradients = torch.randn(12, 20), [torch.randn(12, 20) for _ in range(4)]
    ours, theirs = weights.clone().requires_grad_(), weights.clone().requires_grad_()
    mine = optimizer([ours])
    reference = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.01, momentum=0.9, nesterov=True)
    for gradient in gradients:
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        mine.step()
        reference.step()
    # torch iterates in bfloat16, ours in fp32 here: directions agree to bfloat16's precision.
    moved = torch.nn.functional.cosine_similarity(
        (ours - weights).flatten(), (theirs - weights).flatten(), dim=0
    )
    assert moved > 0.999
    assert (ours - weights).norm().item() == pytest.approx((theirs - weights).norm().item(), rel=0.02)


def test_adamw_group_equals_torch_adamw() -> None:
    torch.manual_seed(2)
    weights = torch.randn(9)
    ours, theirs = weights.clone().requires_grad_(), weights.clone().requires_grad_()
    mine = optimizer([ours], muon=False)
    reference = torch.optim.AdamW(
        [theirs], lr=0.1, weight_decay=0.01, betas=(0.9, 0.95), eps=1e-8, foreach=False
    )
    for _ in range(5):
        gradient = torch.randn(9)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        mine.step()
        reference.step()
    assert torch.equal(ours, theirs)


@given(SHAPES, st.integers(1, 4), st.booleans())
def test_layouts_hold_every_element_once(shapes: list[tuple[int, int]], world: int, sharded: bool) -> None:
    sizes = [rows * columns for rows, columns in shapes]
    offsets = [sum(sizes[:index]) for index in range(len(sizes))]
    partition = -(-sum(sizes) // world)
    whole = (
        sharded_layout(list(shapes), world)
        if sharded
        else partition_layout(list(shapes), offsets, partition, world)
    )
    for index, size in enumerate(sizes):
        held = [
            element
            for pieces in whole
            for element in range(pieces[index].offset, pieces[index].offset + pieces[index].length)
            if pieces[index].length
        ]
        assert held == list(range(size))


@settings(max_examples=20, deadline=None)
@given(SHAPES)
def test_one_flat_partition_equals_whole_matrices(shapes: list[tuple[int, int]]) -> None:
    torch.manual_seed(3)
    matrices = [torch.randn(shape) for shape in shapes]
    gradients = [torch.randn(shape) for shape in shapes]
    whole = [matrix.clone().requires_grad_() for matrix in matrices]
    flat = torch.cat([matrix.flatten() for matrix in matrices] + [torch.zeros(3)]).requires_grad_()
    for parameter, gradient in zip(whole, gradients, strict=True):
        parameter.grad = gradient
    flat.grad = torch.cat([gradient.flatten() for gradient in gradients] + [torch.zeros(3)])
    sizes = [matrix.numel() for matrix in matrices]
    offsets = [sum(sizes[:index]) for index in range(len(sizes))]
    partitioned = optimizer([flat])
    partitioned.partitioned(flat, partition_layout(list(shapes), offsets, flat.numel(), 1))
    partitioned.step()
    optimizer(whole).step()  # type: ignore[arg-type]
    expected = torch.cat([parameter.detach().flatten() for parameter in whole])
    assert torch.allclose(flat[:-3], expected, atol=1e-6)


def test_piece_of_a_rank_without_the_matrix_is_empty() -> None:
    layout = partition_layout([(2, 2), (2, 2)], [0, 4], 4, 2)
    assert layout[0][1] == Piece((2, 2), 4, 0, 0) and layout[1][0].length == 0
