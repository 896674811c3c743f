"""The GPU path as it runs: Ray Train, DeepSpeed over NCCL, bf16, and the model on CUDA."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from codex_ray.cluster.session import open_session
from codex_ray.config.common import Cluster, Device
from codex_ray.config.corpus import Pack, Tokenizer
from codex_ray.config.model import Model, Residual
from codex_ray.config.train import Checkpoints, DeepSpeed, Optimizer, Pretrain, Training, Validation
from codex_ray.corpus.prepare import prepare
from codex_ray.model import build_model, mixing
from codex_ray.model.configuration import RESIDUAL_KINDS
from codex_ray.rollout.generate import generate
from codex_ray.rollout.load import load_with_tokenizer
from codex_ray.rollout.request import Completion, Request
from codex_ray.rollout.sampler import Sampler
from codex_ray.rollout.sampling import Sampling
from codex_ray.track.hardware import choose_dtype, data_sheet_flops, measure_matmul, peak_flops
from codex_ray.track.metrics import read_metrics
from codex_ray.track.spans import read_spans
from codex_ray.train.driver import pretrain
from codex_ray.train.pulse import STEP_PHASES
from tests.integration.training import QUIET, assert_same_end, corpus_settings, losses, run_settings
from tests.unit.rollout.models import gemma3, llama, mhc, train_small_tokenizer

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(240)]

LENGTH, ROWS, STEPS = 256, 16, 12
ONE_GPU = Cluster(workers=1, gpus_per_worker=1.0, threads_per_worker=2, logical_cpus=8)
WIDE = Model(hidden_size=256, intermediate_size=512, layers=4, heads=4, key_value_heads=2, head_size=64)


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    with open_session(ONE_GPU):
        yield


@pytest.fixture(scope="module")
def corpus(session: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sources that every machine with PyTorch has, in rows of 256 tokens."""
    folder = tmp_path_factory.mktemp("gpu") / "corpus"
    text = Path(torch.__file__).parent / "nn"
    settings = corpus_settings(text, folder, pack=Pack(sequence_length=LENGTH, row_group_rows=32))
    prepare(replace(settings, tokenizer=Tokenizer(vocabulary_size=2048), cluster=ONE_GPU))
    return folder


def gpu_settings(corpus: Path, runs: Path, name: str, stage: int, kind: str = "adamw") -> Pretrain:
    return run_settings(
        corpus,
        runs,
        name,
        compute=Device(device="cuda", dtype="bfloat16"),
        model=replace(WIDE, residual=Residual(kind="mhc", streams=4)),
        optimizer=Optimizer(kind=kind, learning_rate=2e-3, matrix_learning_rate=0.01),
        deepspeed=DeepSpeed(stage=stage),
        train=Training(steps=STEPS, batch_tokens=ROWS * LENGTH, micro_batch_rows=8),
        checkpoints=Checkpoints(every=5),
        validation=Validation(every=6, rows=8),
        cluster=ONE_GPU,
    )


@pytest.mark.parametrize(("stage", "kind"), [(1, "muon"), (2, "adamw"), (3, "muon")])
def test_a_stopped_run_continues_bit_for_bit(corpus: Path, tmp_path: Path, stage: int, kind: str) -> None:
    whole = gpu_settings(corpus, tmp_path, "whole", stage, kind)
    done = pretrain(whole)
    assert done.completed and losses(done.run)[-1] < losses(done.run)[0] - 0.3
    assert_spans_fill_the_steps(done.run)
    part = replace(whole, name="part")
    stopped = pretrain(replace(part, train=replace(part.train, stop_after=7)))
    assert not stopped.completed and stopped.step == 7
    continued = pretrain(replace(part, resume="must"))
    assert continued.completed
    assert_same_end(continued.run, done.run)


@pytest.mark.parametrize("stage", [1, 3])
def test_a_stopped_run_in_float16_keeps_its_loss_scale(corpus: Path, tmp_path: Path, stage: int) -> None:
    whole = gpu_settings(corpus, tmp_path, "whole", stage)
    whole = replace(
        whole,
        compute=Device(device="cuda", dtype="float16"),
        train=replace(whole.train, steps=30, on_nonfinite="skip"),
    )
    done = pretrain(whole)
    assert done.completed and losses(done.run)[-1] < losses(done.run)[0] - 0.3
    part = replace(whole, name="part")
    pretrain(replace(part, train=replace(part.train, stop_after=7)))
    assert_same_end(pretrain(replace(part, resume="must")).run, done.run)


def test_autocast_loses_what_bfloat16_does(corpus: Path, tmp_path: Path) -> None:
    settings = gpu_settings(corpus, tmp_path, "rounded", 1)
    autocast = replace(settings, name="autocast", deepspeed=DeepSpeed(stage=1, autocast=True))
    assert losses(pretrain(autocast).run) == pytest.approx(losses(pretrain(settings).run), rel=2e-2)


def assert_spans_fill_the_steps(run: Path) -> None:
    """Phases are measured in the GPU's stream, and add up to the steps as the host's clock has them."""
    spans = list(read_spans([run / "attempts" / "1" / "spans_0.jsonl"]))
    for row in read_metrics(run / "metrics.jsonl")[2:]:
        phases = {span["phase"]: span["seconds"] for span in spans if span["step"] == row["step"]}
        assert phases["forward"] == pytest.approx(row["forward_seconds"], abs=1e-6)
        inside = sum(phases[name] for name in STEP_PHASES if name in phases)
        assert 0.8 * float(row["step_seconds"]) < inside <= 1.02 * float(row["step_seconds"])  # type: ignore[arg-type]


def test_compiled_sublayers_lose_what_the_others_do(corpus: Path, tmp_path: Path) -> None:
    settings = gpu_settings(corpus, tmp_path, "eager", 1)
    compiled = replace(settings, name="compiled", train=replace(settings.train, compile=True))
    assert losses(pretrain(compiled).run) == pytest.approx(losses(pretrain(settings).run), rel=2e-2)


def test_a_run_streams_from_ray_data_and_its_model_generates_on_the_gpu(corpus: Path, tmp_path: Path) -> None:
    settings = gpu_settings(corpus, tmp_path, "streamed", 2)
    direct = pretrain(replace(settings, name="direct"))
    streamed = pretrain(replace(settings, stream="ray", track=replace(QUIET, mixing_every=5)))
    assert losses(direct.run) == losses(streamed.run)
    assert streamed.model is not None
    model, tokenizer = load_with_tokenizer(str(streamed.model), None, Device(device="cuda", dtype="bfloat16"))
    prompt = tokenizer.encode("def forward(self")
    first, second = (
        generate(model, [prompt], max_new_tokens=20, temperature=0.0, tokenizer=tokenizer) for _ in range(2)
    )
    assert next(model.parameters()).is_cuda
    assert 0 < len(first[0].ids) <= 20 and first[0].ids == second[0].ids


@pytest.mark.parametrize("kind", RESIDUAL_KINDS)
def test_loss_and_gradients_are_those_of_the_cpu(kind: str) -> None:
    settings = replace(WIDE, residual=Residual(kind=kind, streams=4))
    here = build_model(
        settings, vocabulary_size=512, sequence_length=128, seed=3, special_ids={"bos": 1, "eos": 2, "pad": 3}
    )
    there = copy.deepcopy(here).cuda()
    input_ids_BS = torch.randint(4, 512, (3, 128), generator=torch.Generator().manual_seed(1))
    for separate in (False, True):
        positions_BS = torch.arange(128).expand(3, -1) % (50 if separate else 128)
        results = []
        for model, device in ((here, "cpu"), (there, "cuda")):
            ids, positions = input_ids_BS.to(device), positions_BS.to(device)
            model.zero_grad()
            output = model(input_ids=ids, position_ids=positions, labels=ids, use_cache=False)
            output.loss.backward()
            results.append((output.logits.detach().cpu(), [p.grad.cpu() for p in model.parameters()]))
        (logits_here, gradients_here), (logits_there, gradients_there) = results
        torch.testing.assert_close(logits_there, logits_here, rtol=1e-3, atol=1e-4)
        for ours, theirs in zip(gradients_there, gradients_here, strict=True):
            assert (ours - theirs).norm() <= 2e-3 * theirs.norm() + 1e-6


@pytest.mark.parametrize("kind", [kind for kind in RESIDUAL_KINDS if kind != "plain"])
def test_kernels_do_what_the_plain_operations_do_in_bf16(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(WIDE, residual=Residual(kind=kind, streams=4))
    special = {"bos": 1, "eos": 2, "pad": 3}
    model = build_model(settings, vocabulary_size=512, sequence_length=128, seed=3, special_ids=special)
    model = model.cuda().bfloat16().train()
    ids_BS = torch.randint(4, 512, (3, 128), generator=torch.Generator().manual_seed(1)).cuda()
    assert mixing.fusable(model.lm_head.weight, 4)
    gradients = []
    for usable in (mixing.fusable, lambda values, streams: False):
        monkeypatch.setattr(mixing, "fusable", usable)
        model.zero_grad()
        model(input_ids=ids_BS, labels=ids_BS, use_cache=False).loss.backward()
        gradients.append([parameter.grad.float() for parameter in model.parameters()])
    for fused, plain in zip(*gradients, strict=True):
        assert (fused - plain).norm() <= 5e-2 * plain.norm() + 1e-5


def test_an_offloaded_cache_generates_the_same() -> None:
    special = {"bos": 1, "eos": 2, "pad": 3}
    model = build_model(WIDE, vocabulary_size=512, sequence_length=128, seed=3, special_ids=special)
    model = model.cuda().eval()
    ids_BS = torch.randint(4, 512, (2, 20), generator=torch.Generator().manual_seed(1)).cuda()
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    offloaded = model.generate(ids_BS, cache_implementation="offloaded", **options)
    assert torch.equal(offloaded, model.generate(ids_BS, **options))


@pytest.mark.parametrize("make", [mhc, llama, gemma3])
def test_captured_steps_draw_what_others_draw(make: Callable[[int], Any], tmp_path: Path) -> None:
    tokenizer = train_small_tokenizer(tmp_path / "tokenizer")
    model = make(tokenizer.vocabulary_size).cuda().eval()
    results = []
    for graphs in (False, True):
        sampler = Sampler(model, tokenizer, slots=5, capacity=64, graphs=graphs)
        done: dict[int, Completion] = {}
        for number in range(9):
            prompt = [1, *range(4 + number, 8 + 3 * number)]
            sampler.submit(Request(prompt, 5 + 2 * number, Sampling(1.0), number, regex="[^x]*"))
        while sampler.running:
            done |= {drawn.request: drawn.completion for drawn in sampler.step() if drawn.completion}
        results.append(done)
    assert sampler._model.graphs is not None and len(sampler._model.graphs.captured) > 1
    for number, plain in results[0].items():
        captured = results[1][number]
        assert captured.ids == plain.ids and "x" not in plain.text
        assert captured.logprobs == pytest.approx(plain.logprobs, abs=1e-4)


def test_the_peak_is_above_what_this_card_reaches_and_not_far_above() -> None:
    peak, source = peak_flops("cuda", "bfloat16", 1)
    measured = measure_matmul("bfloat16", 1, 0.5, device="cuda")
    if data_sheet_flops(torch.cuda.get_device_name()) is not None:
        assert source.startswith("data sheet")
    assert 0.4 * peak <= measured <= 1.05 * peak
    assert choose_dtype("cuda", 1)[0] == "bfloat16"
