"""ZeRO stages 0 to 3 and the plain PyTorch loop give the same losses, at one and at two workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from codex_ray.config.train import Training
from codex_ray.train.frozen import frozen_names
from tests.integration.engine_runs import (
    adapted,
    engine_losses,
    global_batch,
    plain_losses,
    plain_training,
    tiny_model,
)

pytestmark = pytest.mark.integration
STAGES = (0, 1, 2, 3)
MIXERS = ["attention_mixer", "mlp_mixer"]


@pytest.mark.parametrize("world", [pytest.param(1, marks=pytest.mark.verify), 2])
def test_losses_equal_the_plain_loop_at_every_stage(world: int, tmp_path: Path) -> None:
    kinds = [(stage, kind) for kind in ("adamw", "muon") for stage in STAGES]
    results = engine_losses(world, [{"stage": stage, "kind": kind} for stage, kind in kinds], tmp_path)
    plain = {kind: plain_losses(kind) for kind in ("adamw", "muon")}
    for (stage, kind), (losses, _) in zip(kinds, results, strict=True):
        # Muon's iteration amplifies rounding: its bound is ten times AdamW's.
        tolerance = 1e-5 if kind == "adamw" else 1e-4
        assert losses == pytest.approx(plain[kind], rel=tolerance), (stage, kind)
        assert losses[-1] < losses[0]


@pytest.mark.verify
def test_accumulation_changes_nothing(tmp_path: Path) -> None:
    runs = [{"stage": stage, "accumulation": parts} for stage in (1, 3) for parts in (1, 3)]
    results = engine_losses(2, runs, tmp_path)
    for whole, parts in ((0, 1), (2, 3)):
        assert results[parts][0] == pytest.approx(results[whole][0], rel=1e-5)


@pytest.mark.parametrize(
    "adapter",
    [
        pytest.param({}, marks=pytest.mark.verify, id="lora"),
        pytest.param({"use_dora": True}, marks=pytest.mark.verify, id="dora"),
        pytest.param({"modules_to_save": MIXERS}, id="mixers saved"),
    ],
)
def test_an_adapter_trains_and_is_saved_at_every_stage(adapter: dict[str, Any], tmp_path: Path) -> None:
    results = engine_losses(2, [{"stage": stage, "adapter": adapter} for stage in STAGES], tmp_path)
    plain = plain_losses(adapter=adapter)
    for stage, (losses, weights) in enumerate(results):
        assert losses == pytest.approx(plain, rel=1e-5), stage
        assert losses[-1] < losses[0]
        trained = adapted(tiny_model(), adapter).eval()
        trained.save_pretrained(tmp_path / f"{stage}", state_dict=weights)  # as PEFT does under ZeRO-3
        trained.load_state_dict(weights, strict=False)  # tied weights come once, buffers too
        again = PeftModel.from_pretrained(tiny_model(), tmp_path / f"{stage}").eval()
        logits = again(global_batch(0)).logits
        assert torch.equal(logits, trained(global_batch(0)).logits)
        assert not torch.allclose(logits, tiny_model()(global_batch(0)).logits, atol=1e-2)


@pytest.mark.verify
def test_compiling_and_recomputing_change_no_loss(tmp_path: Path) -> None:
    ways = [
        Training(compile=compiled, recompute=what)
        for compiled in (False, True)
        for what in ("none", "streams", "layers")
    ]
    runs = [
        {"stage": stage, "training": way} for stage in STAGES for way in ways if stage < 3 or not way.compile
    ]
    results = engine_losses(2, runs, tmp_path)
    for run, (losses, _) in zip(runs, results, strict=True):
        assert losses == pytest.approx(results[0][0], rel=1e-4), run


KINDS = [(stage, kind) for stage in STAGES for kind in ("adamw", "muon")]


@pytest.mark.verify
def test_autocast_loses_what_float32_does_and_continues_exactly(tmp_path: Path) -> None:
    """Weights stay fp32, products are bf16: near fp32's losses, the same at every stage, exact to resume."""
    runs = []
    for stage, kind in KINDS:
        base = {"stage": stage, "kind": kind, "dtype": "bfloat16", "autocast": True}
        folder = str(tmp_path / f"{stage}{kind}")
        runs += [base, base | {"last": 10, "save": folder}, base | {"first": 10, "load": folder}]
    results = engine_losses(2, runs, tmp_path)
    plain = {kind: plain_losses(kind) for kind in ("adamw", "muon")}
    for index, (stage, kind) in enumerate(KINDS):
        (whole, weights), (head, _), (tail, resumed) = results[3 * index : 3 * index + 3]
        assert whole == pytest.approx(plain[kind], rel=1e-3), (stage, kind)
        assert whole != plain[kind]
        assert whole == head + tail, (stage, kind)
        assert all(torch.equal(weights[name], resumed[name]) for name in weights), (stage, kind)


@pytest.mark.verify
def test_the_average_of_the_weights_is_what_its_definition_says(tmp_path: Path) -> None:
    """Resumed by as many workers bit for bit, and by others after a cut."""
    runs = []
    for stage, kind in KINDS:
        base, folder = {"stage": stage, "kind": kind, "ema_decay": 0.9}, str(tmp_path / f"{stage}{kind}")
        runs += [base, base | {"last": 10, "save": folder}, base | {"first": 10, "load": folder}]
    results = engine_losses(2, runs, tmp_path)
    again = engine_losses(3, [run | {"written_by": 2} for run in runs[2::3]], tmp_path)
    plain = {kind: plain_training(kind, ema_decay=0.9)[1] for kind in ("adamw", "muon")}
    for index, (stage, kind) in enumerate(KINDS):
        (_, weights), _, (_, resumed) = results[3 * index : 3 * index + 3]
        assert all(torch.equal(weights[name], resumed[name]) for name in weights), (stage, kind)
        differences = {
            which: max(float((found[name] - average).abs().max()) for name, average in plain[kind].items())
            for which, found in {
                "two": {name: weights[f"average.{name}"] for name in plain[kind]},
                "three": {name: again[index][1][f"average.{name}"] for name in plain[kind]},
                "weights themselves": weights,
            }.items()
        }
        lag = differences.pop("weights themselves")
        assert lag > 2e-4 and max(differences.values()) < 0.1 * lag, (stage, kind, differences, lag)


OFFLOAD = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}
OFFLOAD_ALL = {
    "zero_optimization": {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}
}
SECOND_COPY = {"zero_optimization": {"zero_hpz_partition_size": 2}}


@pytest.mark.verify
@pytest.mark.parametrize(
    ("stage", "config", "kind"),
    [
        (1, OFFLOAD, "adamw"),
        (2, OFFLOAD, "muon"),
        (3, OFFLOAD_ALL, "adamw"),
        (2, OFFLOAD, "adamw"),
        (3, OFFLOAD_ALL, "muon"),
        (3, SECOND_COPY, "adamw"),
    ],
)
def test_offloading_and_a_second_copy_of_the_weights_change_no_loss(
    stage: int, config: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    base = {"stage": stage, "config": config, "kind": kind, "ema_decay": 0.9, "accumulation": 2}
    folder = str(tmp_path / "saved")
    runs = [base, base | {"last": 10, "save": folder}, base | {"first": 10, "load": folder}]
    (whole, weights), (head, _), (tail, resumed) = engine_losses(2, runs, tmp_path)
    assert whole == pytest.approx(plain_losses(kind), rel=1e-4)
    assert whole == head + tail
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)


@pytest.mark.parametrize(
    ("config", "upstream"),
    [
        ({"mics_shard_size": 2}, "MiCS ZeRO-3 sharding has been removed"),
        ({"zero_quantized_weights": True}, "This op had not been implemented on CPU backend"),
        ({"zero_quantized_gradients": True}, "This op had not been implemented on CPU backend"),
        ({"offload_param": {"device": "nvme", "nvme_path": "/tmp"}}, "Unable to JIT load the async_io op"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
@pytest.mark.verify
def test_what_is_refused_before_a_run_deepspeed_cannot_do(
    config: dict[str, Any], upstream: str, tmp_path: Path
) -> None:
    """When one of these no longer fails, its refusal in codex_ray.config.engine can go."""
    with pytest.raises(torch.multiprocessing.ProcessRaisedException) as caught:
        engine_losses(2, [{"stage": 3, "config": {"zero_optimization": config}}], tmp_path)
    assert upstream in str(caught.value)


SOME = [(1, "muon", "float32"), (3, "adamw", "float32"), (2, "adamw", "bfloat16"), (3, "muon", "bfloat16")]
ALL = [
    (stage, kind, dtype)
    for stage in (1, 2, 3)
    for kind in ("adamw", "muon")
    for dtype in ("float32", "bfloat16")
]


@pytest.mark.parametrize("cases", [SOME, pytest.param(ALL, marks=pytest.mark.verify)], ids=["some", "all"])
def test_save_and_load_is_exact(cases: list[tuple[int, str, str]], tmp_path: Path) -> None:
    """Ten steps, a save, a load in a fresh engine and ten steps equal twenty, bit for bit."""
    runs = []
    for stage, kind, dtype in cases:
        folder = str(tmp_path / f"{stage}{kind}{dtype}")
        base = {"stage": stage, "kind": kind, "dtype": dtype}
        runs += [base, base | {"last": 10, "save": folder}, base | {"first": 10, "load": folder}]
    results = engine_losses(2, runs, tmp_path)
    for index in range(0, len(runs), 3):
        (whole, weights), (head, _), (tail, resumed) = results[index : index + 3]
        assert whole == head + tail, runs[index]
        assert all(torch.equal(weights[name], resumed[name]) for name in weights), runs[index]


@pytest.mark.verify
def test_cutting_a_checkpoint_anew_loses_nothing(tmp_path: Path) -> None:
    """Saved by two workers, loaded and saved by three, loaded by two: the same training, bit for bit."""
    two, three = str(tmp_path / "two"), str(tmp_path / "three")
    bases = [{"stage": stage, "kind": kind, "dtype": dtype} for stage, kind, dtype in ALL]
    saved = [base | {"last": 10, "save": f"{two}{number}"} for number, base in enumerate(bases)]
    whole = engine_losses(2, [*bases, *saved], tmp_path)[: len(bases)]
    passed_on = [
        base
        | {"first": 10, "last": 10, "load": f"{two}{number}", "written_by": 2, "save": f"{three}{number}"}
        for number, base in enumerate(bases)
    ]
    engine_losses(3, passed_on, tmp_path)
    last = [
        base | {"first": 10, "load": f"{three}{number}", "written_by": 3} for number, base in enumerate(bases)
    ]
    for base, (losses, weights), (rest, resumed) in zip(
        bases, whole, engine_losses(2, last, tmp_path), strict=True
    ):
        assert rest == losses[10:], base
        assert all(torch.equal(weights[name], resumed[name]) for name in weights), base


@pytest.mark.parametrize(
    "stages", [(3,), pytest.param((0, 1, 2), marks=pytest.mark.verify)], ids=["sharded", "whole"]
)
def test_a_checkpoint_of_an_adapter_is_exact_without_its_base(
    stages: tuple[int, ...], tmp_path: Path
) -> None:
    """Saved by two workers and cut for three and for two again: twenty steps, and no base in any file."""
    two, three = str(tmp_path / "two"), str(tmp_path / "three")
    bases: list[dict[str, Any]] = [{"stage": stage, "adapter": {}} for stage in stages]
    saved = [base | {"last": 10, "save": f"{two}{base['stage']}"} for base in bases]
    whole = engine_losses(2, [*bases, *saved], tmp_path)[: len(bases)]
    loads = [base | {"first": 10, "load": f"{two}{base['stage']}"} for base in bases]
    engine_losses(
        3, [one | {"last": 10, "written_by": 2, "save": f"{three}{one['stage']}"} for one in loads], tmp_path
    )
    anew = [one | {"load": f"{three}{one['stage']}", "written_by": 3} for one in loads]
    tails = engine_losses(2, [*loads, *anew], tmp_path)
    for (losses, weights), *ends in zip(whole, tails[: len(bases)], tails[len(bases) :], strict=True):
        for rest, resumed in ends:
            assert rest == losses[10:]
            assert all(torch.equal(weights[name], resumed[name]) for name in weights)
    files = [*tmp_path.glob("*/engine/*model_states.pt")]
    assert len(files) > len(stages)
    frozen = frozen_names(adapted(tiny_model(), {}))
    for file in files:
        state = torch.load(file, weights_only=False)
        assert not frozen & set(state["module"])
        assert not state.get("frozen_param_fragments")
    with pytest.raises(AssertionError, match="was trained on another base"):
        engine_losses(2, [loads[0] | {"change": True}], tmp_path)


@pytest.mark.verify
@pytest.mark.parametrize("sizes", [(2, 1), (1, 3), (3, 2)], ids=str)
def test_a_checkpoint_is_loaded_by_another_number_of_workers(sizes: tuple[int, int], tmp_path: Path) -> None:
    """Ten steps by one number of workers and ten by another are twenty by either, up to rounding."""
    before, after = sizes
    cases = [(stage, kind) for stage in STAGES for kind in ("adamw", "muon")]
    first, last = [], []
    for stage, kind in KINDS:
        base, folder = {"stage": stage, "kind": kind}, str(tmp_path / f"{stage}{kind}")
        first += [base, base | {"last": 10, "save": folder}]
        last.append(base | {"first": 10, "load": folder, "written_by": before})
    heads, tails = engine_losses(before, first, tmp_path), engine_losses(after, last, tmp_path)
    for index, (_, kind) in enumerate(KINDS):
        (whole, weights), (head, _), (tail, resumed) = heads[2 * index], heads[2 * index + 1], tails[index]
        assert head == whole[:10], cases[index]
        tolerance = 1e-5 if kind == "adamw" else 1e-4
        assert tail == pytest.approx(whole[10:], rel=tolerance), cases[index]
        for name, value in weights.items():
            difference = (resumed[name] - value).norm() / (value.norm() + 1e-6)
            assert difference < 20 * tolerance, (cases[index], name, difference)
