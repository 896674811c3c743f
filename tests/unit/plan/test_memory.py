"""Memory: the closed forms beside what PyTorch really keeps, and ZeRO's shares by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from codex_ray.config.check import derive_batch
from codex_ray.config.compose import compose
from codex_ray.model import CodexRayForCausalLM
from codex_ray.model.inspect import zero_shares
from codex_ray.plan.memory import Memory, activations, memory
from codex_ray.train.environment import LARGE_BYTES
from tests.unit.model.small import build, tokens

ROWS, LENGTH = 3, 40
WORDS = ["recipe=smoke", "train.batch_tokens=16384", "cluster.workers=4", "deepspeed.bucket_elements=1000"]


def needed(
    stage: int, *words: str, recompute: str = "none", dtype: str = "bfloat16", matrices: int = 600_000
) -> Memory:
    """Memory of a small model with a million parameters, 600,000 of them in matrices."""
    settings = compose("pretrain", [*WORDS, *words])
    return memory(
        settings,
        build("mhc").config,
        derive_batch(settings.train.batch_tokens, LENGTH_OF_ROWS, settings.cluster.workers),
        parameters=10**6,
        matrices=matrices,
        sequence_length=LENGTH_OF_ROWS,
        dtype=dtype,
        stage=stage,
        on_cpu=True,
        process=5e6,
        recompute=recompute,
    )


LENGTH_OF_ROWS = 64


def kept(model: CodexRayForCausalLM, length: int) -> int:
    """Bytes that the decoder keeps for its backward pass, parameters and what all layers share left out."""
    own = {part.untyped_storage().data_ptr() for part in [*model.parameters(), *model.buffers()]}
    found: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and tensor.is_floating_point() and tensor.shape[-1] != 2:
            found[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model.model(input_ids=tokens(ROWS, length), use_cache=False)
    assert output.last_hidden_state.requires_grad
    return sum(storage.nbytes() for storage in found.values())


@pytest.mark.parametrize("kind", ["plain", "mhc", "mhc_permutation", "identity"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [40, 130])
def test_activations_are_what_the_forward_pass_keeps(kind: str, dtype: torch.dtype, length: int) -> None:
    model = build(kind, max_positions=256).to(dtype).train()
    size = torch.tensor([], dtype=dtype).element_size()
    predicted = activations(model.config, ROWS * length, length, size, on_cpu=True)
    measured = kept(model, length)
    assert predicted == pytest.approx(measured, rel=0.01)


def test_zero_shares_state_as_its_paper_says() -> None:
    """Weights, gradients, masters, moments of a million parameters over four workers, by hand."""
    by_hand = {
        1: (2e6, 2e6, 1e6, 2e6),
        2: (2e6, 0.5e6, 1e6, 2e6),
        3: (0.5e6 + 2e6, 0.5e6, 1e6, 2e6),  # ZeRO-3 keeps what it has gathered of so small a model
    }
    for stage, state in by_hand.items():
        found = needed(stage)
        assert (found.weights, found.gradients, found.masters, found.moments) == state
    alone = needed(0, dtype="float32")
    assert (alone.weights, alone.gradients, alone.masters, alone.moments) == (4e6, 4e6, 0.0, 8e6)


def test_muon_keeps_one_moment_of_matrices_and_gathers_them_all() -> None:
    adam, muon = needed(1), needed(1, "optimizer=muon")
    assert adam.moments - muon.moments == 4 * 600_000 / 4
    assert muon.update == 4 * 600_000 * (1 + 5 / 4)
    assert adam.update == (2 + 4 + 8) * 600_000 / 4


def test_the_peak_is_state_and_the_larger_of_passes_and_update() -> None:
    found = needed(2)
    state = found.process + found.weights + found.gradients + found.masters + found.moments
    assert found.total == state + max(found.activations + found.passing + found.buckets, found.update)
    assert found.buckets == 1000 * 2


def test_large_updates_come_on_top_of_what_a_cpu_keeps_of_the_passes() -> None:
    for large in (False, True):
        found = replace(needed(2), apart=large)
        passes = found.activations + found.passing + found.buckets
        state = found.weights + found.gradients + found.masters + found.moments
        assert found.model == state + (passes + found.update if large else max(passes, found.update))
    matrices = LARGE_BYTES // 4 * 4  # shared by four workers
    assert needed(2, matrices=matrices).apart and not needed(2, matrices=matrices - 4).apart
    assert not needed(0, matrices=matrices, dtype="float32").apart


@given(st.integers(2, 512), st.integers(10**5, 10**11))
def test_each_stage_needs_less_state_than_the_one_before(workers: int, parameters: int) -> None:
    totals = [sum(zero_shares(parameters, "bfloat16", stage, workers)) for stage in range(4)]
    assert totals == sorted(totals, reverse=True)
    assert totals[3] == pytest.approx(16 * parameters / workers)


def test_recomputing_more_keeps_less() -> None:
    kept = [needed(1, recompute=kind).activations for kind in ("none", "streams", "layers")]
    assert kept[0] > kept[1] > kept[2]


def test_recomputed_layers_keep_their_input_only() -> None:
    config = build("mhc").config
    tokens = 128
    streams, last = tokens * 4 * 24 * 2, tokens * (24 * 2 + 4)
    assert activations(config, tokens, 64, 2, on_cpu=True, recompute="layers") == 3 * streams + last
