"""The time of a step: work, traffic and rooflines by hand."""

from __future__ import annotations

import pytest

from codex_ray.config.check import BatchPlan
from codex_ray.config.compose import compose
from codex_ray.model.flops import flops_per_token
from codex_ray.plan.cards import CARDS, LAUNCH_SECONDS, LINK_SHARE, MEMORY_SHARE, PRODUCT_SHARE
from codex_ray.plan.measure import LARGE, SMALL, Measured, two_costs
from codex_ray.plan.step import slowest_link, step_on_card, step_on_cpu, traffic
from codex_ray.plan.work import Part, parts
from tests.unit.model.small import build

GB = 1e9


def test_traffic_of_a_billion_weights_over_eight_workers_by_hand() -> None:
    """2 bytes each, 7/8 of them: all-reduce and gather; stage 2 reduces for each of four micro-batches."""
    part = 2 * GB * 7 / 8
    assert traffic(10**9, 2, 0, 8, 4) == 2 * part
    assert traffic(10**9, 2, 1, 8, 4) == 3 * part
    assert traffic(10**9, 2, 2, 8, 4) == 9 * part
    assert traffic(10**9, 2, 3, 8, 4) == 12 * part
    assert traffic(10**9, 2, 3, 1, 4) == 0


def test_rings_over_nodes_are_as_fast_as_the_network() -> None:
    card = CARDS["H100"]
    assert (slowest_link(card, 8), slowest_link(card, 9)) == (card.link, card.network)


def test_operations_of_the_parts_are_those_of_a_token() -> None:
    """Attention apart, whose backward pass makes the scores again, the two ways of counting agree."""
    config = build("mhc", max_positions=256).config
    length, tokens = 128, 512
    found = {part.name: part.flops * part.count for part in parts(config, tokens, length, 2, "none")}
    attention = found.pop("attention") * 3 / 3.5  # as without making them again
    assert sum(found.values()) + attention == pytest.approx(
        tokens * flops_per_token(config, length), rel=0.01
    )


def test_recomputing_layers_costs_a_forward_pass_more() -> None:
    config = build("mhc").config
    none, layers = (
        {part.name: part.count for part in parts(config, 512, 128, 2, kind)} for kind in ("none", "layers")
    )
    assert layers["products"] == pytest.approx(none["products"] * 4 / 3)
    assert layers["loss"] == none["loss"]


def test_a_part_takes_the_longest_of_products_memory_and_launches() -> None:
    card, settings = CARDS["H100"], compose("pretrain", ["recipe=gpu-120m", "deepspeed=zero1"])
    work = [
        Part("products", 1, card.flops * PRODUCT_SHARE, 0, 1),
        Part("passes", 2, 0, card.bandwidth * MEMORY_SHARE, 1),
        Part("launches", 1, 0, 0, 1000),
    ]
    step = step_on_card(
        work,
        BatchPlan(4, 4, 2, 2),
        card,
        settings,
        tensors=10,
        numbers=10**6,
        matrices=10**6,
        dtype="bfloat16",
    )
    assert step.parts == pytest.approx({"products": 2.0, "passes": 4.0, "launches": 2000 * LAUNCH_SECONDS})
    assert step.communication == 0
    assert step.total == pytest.approx(6.0 + 2000 * LAUNCH_SECONDS + step.update)


def test_fp32_products_run_at_their_own_rate() -> None:
    settings = compose("pretrain", ["recipe=gpu-120m"])
    work = [Part("products", 1, 67e12 * PRODUCT_SHARE, 0, 1)]
    step = step_on_card(
        work,
        BatchPlan(1, 1, 1, 1),
        CARDS["H100"],
        settings,
        tensors=1,
        numbers=1,
        matrices=1,
        dtype="float32",
    )
    assert step.parts == pytest.approx({"products": 1.0})


def test_communication_is_added_and_hidden_where_it_overlaps() -> None:
    card = CARDS["H200"]
    words = ["recipe=h200-7b", "deepspeed=zero1"]
    hidden = [*words, "deepspeed.config={zero_optimization: {overlap_comm: true}}"]
    batch = BatchPlan(8, 1, 1, 1)
    plain, overlapped = (
        step_on_card(
            [Part("products", 1, card.flops, 0, 1)],
            batch,
            card,
            compose("pretrain", chosen),
            tensors=1,
            numbers=10**9,
            matrices=10**9,
            dtype="bfloat16",
        )
        for chosen in (words, hidden)
    )
    assert plain.communication == pytest.approx(3 * 2e9 * 7 / 8 / (card.link * LINK_SHARE))
    assert overlapped.communication == 0


def test_a_step_on_this_machine_adds_up_what_was_measured() -> None:
    measured = Measured({"products": 0.1, "loss": 0.05}, (1e-4, 1e-9), (2e-4, 3e-9), (1.0, 1.0), 1.0)
    work = [Part("products", 6, 0, 0, 1), Part("loss", 1, 0, 0, 1)]
    step = step_on_cpu(work, BatchPlan(8, 4, 2, 2), measured, tensors=100, numbers=10**6)
    assert step.parts == pytest.approx({"products": 1.2, "loss": 0.1})
    assert step.update == pytest.approx((0.01 + 0.001) + (0.02 + 0.003))


def test_an_engines_two_costs_are_told_apart() -> None:
    (tensors, size), (more, greater) = SMALL, LARGE
    per_tensor, per_number = 1e-4, 2e-9
    small = tensors * (per_tensor + size * per_number)
    large = more * (per_tensor + greater * per_number)
    assert two_costs(small, large) == pytest.approx([per_tensor, per_number])
