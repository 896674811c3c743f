"""What no set of nodes can hold is refused with the numbers."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_ray.cluster.preflight import NodeOffer, check_nodes, matches
from codex_ray.config.common import Cluster
from codex_ray.errors import CodexRayError

SPOT, FIXED, BARE = {"pool": "spot", "zone": "a"}, {"pool": "fixed", "zone": "b"}, {"zone": "b"}


@pytest.mark.parametrize(
    ("value", "wanted", "answer"),
    [
        ("spot", "spot", True), ("spot", "fixed", False), (None, "spot", False),
        ("spot", "!spot", False), ("fixed", "!spot", True), (None, "!spot", True),
        ("a", "in(a,b)", True), ("b", "in(a, b)", True), ("c", "in(a,b)", False), (None, "in(a)", False),
        ("a", "!in(a,b)", False), ("c", "!in(a,b)", True), (None, "!in(a,b)", True),
    ],
)  # fmt: skip
def test_labels_match_as_rays_selectors_do(value: str | None, wanted: str, answer: bool) -> None:
    assert matches(value, wanted) is answer


@given(
    cpus=st.lists(st.integers(0, 6), max_size=4),
    workers=st.integers(1, 5),
    each=st.integers(1, 3),
    placement=st.sampled_from(["pack", "spread", "strict_pack", "strict_spread"]),
)
def test_a_run_is_refused_exactly_when_no_placing_of_its_workers_fits(
    cpus: list[int], workers: int, each: int, placement: str
) -> None:
    def fits(nodes: tuple[int, ...]) -> bool:
        enough = all(nodes.count(node) * each <= cpus[node] for node in nodes)
        together = placement != "strict_pack" or len(set(nodes)) == 1
        apart = placement != "strict_spread" or len(set(nodes)) == workers
        return enough and together and apart

    possible = any(fits(nodes) for nodes in itertools.product(range(len(cpus)), repeat=workers))
    cluster = Cluster(workers=workers, cpus_per_worker=float(each), placement=placement)
    offers = [NodeOffer({"CPU": float(count)}, {}) for count in cpus]
    if possible:
        check_nodes(cluster, offers)
    else:
        with pytest.raises(CodexRayError):
            check_nodes(cluster, offers)


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ({"labels": {"pool": "spot"}}, None),
        (
            {"labels": {"pool": "spot", "zone": "b"}},
            "the run needs 2 workers of 1 CPUs on nodes with pool=spot with zone=b (cluster.placement=pack), "
            "and the cluster's 0 such nodes can hold 0; lower cluster.workers or change cluster.labels",
        ),
        ({"labels": {"pool": "!spot"}}, None),
        (
            {"labels": {"pool": "!in(spot,fixed)"}, "workers": 3},
            "the cluster's 1 such nodes can hold 2; lower",
        ),
        ({"placement": "strict_pack", "workers": 6, "min_workers": 5}, "lower cluster.min_workers or change"),
        ({"gpus_per_worker": 1.0, "gpu_kind": "H100"}, None),
        ({"gpus_per_worker": 1.0, "gpu_kind": "H200"}, "of 1 CPUs and 1 H200 GPUs on nodes"),
    ],
)
def test_labels_and_kinds_of_gpus_are_asked_for(wanted: dict[str, Any], sentence: str | None) -> None:
    offers = [
        NodeOffer({"CPU": 4.0, "GPU": 8.0, "accelerator_type:H100": 1.0}, SPOT),
        NodeOffer({"CPU": 4.0}, FIXED),
        NodeOffer({"CPU": 2.0}, BARE),
    ]
    cluster = Cluster(**({"workers": 2} | wanted))
    if sentence is None:
        check_nodes(cluster, offers)
        return
    with pytest.raises(CodexRayError) as caught:
        check_nodes(cluster, offers)
    assert sentence in str(caught.value)
