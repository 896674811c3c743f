from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_ray.config.check import BatchPlan, check, derive_batch
from codex_ray.config.compose import compose
from codex_ray.errors import ConfigError


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["model.heads=6", "model.key_value_heads=4"], "must be one of 1, 2, 3, 6"),
        (["model.head_size=33"], "give 32 or 34"),
        (["model.residual.streams=1", "model.residual.exit=learned"], "residual.streams=1 has one"),
        (["model=plain-tiny", "model.residual.exit=learned"], "residual.kind=plain has one"),
        (["model=permutation-tiny", "model.residual.streams=6"], "weighs all 720 orders of 6 streams"),
        (["lora.rank=4"], "a base that is written nowhere; give start=FOLDER, lora.merge=true"),
        (["train.epochs=null"], "the length of training is not given; give exactly one of train.steps"),
        (["train.steps=2", "train.seconds=5"], "train.steps and train.seconds are all given"),
        (["train.epochs=0"], "train.epochs=0 trains nothing"),
        (["train.seconds=30"], "schedule.kind=cosine must know; give schedule=wsd"),
        (["train.seconds=30", "schedule=linear"], "schedule.kind=linear must know"),
        (["optimizer.betas=[0.9]"], "optimizer.betas=[0.9] must be two numbers"),
        (["optimizer.betas=[0.9,1.0]"], "from 0 to below 1"),
        (["optimizer.betas=[-0.1,0.9]"], "from 0 to below 1"),
        (["compute.device=cpu", "compute.dtype=float16"], "give auto, float32 or bfloat16"),
        (["deepspeed=zero0", "compute.dtype=bfloat16"], "give deepspeed.stage=1"),
        (["deepspeed=zero0", "cluster=gpu", "compute.dtype=float16"], "give deepspeed.stage=1"),
        (["cluster=gpu", "compute.dtype=float16"], "train.on_nonfinite=stop cannot go with"),
        (["cluster=gpu", "compute.dtype=float16", "deepspeed.autocast=true"], "DeepSpeed does not save"),
        (
            ["deepspeed.autocast=true", "compute.dtype=float32"],
            "has nothing to do with compute.dtype=float32",
        ),
        (
            ["deepspeed.config.torch_autocast.enabled=true"],
            "set deepspeed.autocast and compute.dtype instead",
        ),
        (["deepspeed=zeropp", "cluster.workers=8"], "zero_quantized_weights=true needs GPUs"),
        (["deepspeed=zeropp", "cluster=gpu", "cluster.workers=12"], "does not divide cluster.workers=12"),
        (
            ["deepspeed=zeropp", "cluster=gpu", "cluster.workers=16", "cluster.min_workers=8"],
            "does not divide every number of workers from cluster.min_workers=8 to 16; leave one of them",
        ),
        (
            ["deepspeed=zeropp", "cluster=gpu", "cluster.workers=8", "deepspeed.autocast=true"],
            "cannot go with deepspeed.autocast=true",
        ),
        (["deepspeed=zero3-nvme"], "offload_optimizer.device=nvme needs GPUs, and DeepSpeed's async_io"),
        (["deepspeed=zero3-nvme", "cluster=gpu", "train.ema_decay=0.9"], "give cpu"),
        (["deepspeed=zero2-offload", "cluster=gpu", "optimizer=muon"], "give optimizer.kind=adamw, or leave"),
        (["deepspeed=zero3-offload", "deepspeed.stage=2"], "offload_param needs deepspeed.stage=3"),
        (["deepspeed=zero2-offload", "deepspeed.stage=0"], "needs deepspeed.stage of 1, 2 or 3"),
        (["deepspeed.config.zero_optimization.mics_shard_size=2"], "MiCS, which DeepSpeed has removed"),
        (["deepspeed.config.tensor_parallel.autotp_size=2"], "give deepspeed.stage=3 for large models"),
        (["deepspeed.config.sequence_parallel_size=2"], "set cluster.sequence_parallel instead"),
        (["cluster.sequence_parallel=3"], "does not divide cluster.workers=2"),
        (["cluster.sequence_parallel=2", "model.heads=3", "model.key_value_heads=3"], "share model.heads=3"),
        (["cluster.sequence_parallel=2", "train.documents=separate"], "cannot go with train.documents=sep"),
        (["cluster.gpu_kind=H100"], "give cluster.gpus_per_worker=1 (cluster=gpu)"),
        (["cluster.labels.rack=7"], "cluster.labels.rack must be text, not 7"),
        (["cluster=gpu", "compute.device=cpu"], "would leave 1 GPUs per worker idle"),
        (["compute.device=cuda"], "needs a GPU for each of the 2 workers"),
        (["cluster.gpus_per_worker=2"], "one process drives one GPU"),
        (["cluster.gpus_per_worker=0.5"], "one process drives one GPU"),
        (["deepspeed.config.train_batch_size=8"], "set train.batch_tokens instead"),
        (["deepspeed.config.optimizer.type=Adam"], "set optimizer.kind and its settings instead"),
        (["deepspeed.config.zero_optimization.stage=3"], "set deepspeed.stage instead"),
        (["deepspeed.config.bf16.enabled=true"], "set compute.dtype instead"),
        (["name=a/b"], "is not a plain folder name"),
        (["name=.."], "is not a plain folder name"),
        (
            ["track.samples.prompts=[a]", "deepspeed.stage=3"],
            "cannot go with deepspeed.stage=3; leave the prompts",
        ),
        (["track.samples.prompts=[a]", "train.compile=true"], "cannot go with train.compile=true; leave"),
        (["validation.asynchronous=true", "validation.patience=3"], "losses come some steps late; leave one"),
        (["track.alerts.url=ftp://host/x"], "track.alerts.url must be an address that begins with https://"),
        (["track.alerts.url=https:///x"], "begins with https:// or http:// and a host"),
        (["track.alerts.url='http://[x'"], "track.alerts.url must be an address that begins with https://"),
        (["track.alerts.spike_factor=1"], "track.alerts.spike_factor=1 calls ordinary losses spikes"),
        (["track.mlflow.uri=ftp://host"], "is not a tracking store that MLflow knows"),
        (["track.mlflow.register=a/b"], "is no name in MLflow's registry"),
        (["track.mlflow.register=a", "track.mlflow.enabled=false"], "needs track.mlflow.enabled=true"),
    ],
)
def test_settings_that_cannot_go_together_are_refused_with_the_remedy(words, sentence):
    with pytest.raises(ConfigError) as caught:
        compose("pretrain", words)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        ["train.seconds=30", "schedule=wsd"],
        ["train.seconds=30", "schedule=constant"],
        ["deepspeed=zero0", "compute.dtype=float32"],
        ["deepspeed=zero2-offload", "optimizer=muon"],
        ["deepspeed=zero3-offload", "cluster=gpu", "optimizer=adamw", "train.ema_decay=0.9"],
        ["deepspeed=zeropp", "cluster=gpu", "cluster.workers=16"],
        ["cluster.labels.pool=spot", "cluster.driver_labels.pool='!spot'"],
        ["cluster=gpu", "compute.device=cuda", "compute.dtype=float16", "train.on_nonfinite=skip"],
        ["deepspeed=zero0", "deepspeed.autocast=true", "compute.dtype=bfloat16"],
        ["cluster.workers=1", "cluster.gpus_per_worker=0.5"],
        ["deepspeed.config.zero_optimization.offload_optimizer.device=cpu"],
        ["optimizer.betas=[0,0]"],
        ["model.heads=6", "model.key_value_heads=6"],
        ["track.mlflow.uri=sqlite:///mlflow.db"],
        ["track.mlflow.uri=some/folder"],
        ["track.mlflow.uri=https://host"],
    ],
)
def test_what_is_possible_passes(words):
    compose("pretrain", words)


@pytest.mark.parametrize(
    ("verb", "words", "sentence"),
    [
        ("prepare", ["split.validation=0.5", "split.test=0.5"], "sum is below 1"),
        ("prepare", ["clean.min_bytes=100", "clean.max_bytes=10"], "no document could stay"),
        ("prepare", ["suffixes=[]"], "no file would be read"),
        (
            "prepare",
            ["duplicates.near=true", "duplicates.similarity=0.5"],
            "only 5% of the documents that share 0.5 of their shingles; give duplicates.rows=3 and dupl",
        ),
        (
            "prepare",
            ["duplicates.near=true", "duplicates.bands=1"],
            "duplicates.rows=2 and duplicates.bands=4",
        ),
        ("evaluate", ["m"], "neither of corpus and files given"),
        ("evaluate", ["m", "corpus=c", "files=[a]"], "both corpus and files given"),
        ("evaluate", ["m", "corpus=c", "compute.device=cpu", "compute.dtype=float16"], "not possible"),
        ("generate", ["m", "prompt=a", "prompts_file=b"], "give one of them"),
        ("generate", ["m", "top_p=0"], "keeps no token"),
        ("tokenizer train", ["tokenizer.path=t"], "nothing is left to train"),
        ("tokenizer encode", ["t", "text=a", "files=[b]"], "both text and files given"),
        ("tokenizer decode", ["t", "ids=[1]", "file=b"], "both ids and file given"),
        ("quickstart", ["pretrain.model.head_size=33"], "pretrain.model.head_size=33 is odd"),
        (
            "pretrain",
            ["train.compile=true", "deepspeed.stage=3"],
            "give deepspeed.stage=2, or leave",
        ),
        ("pretrain", ["train.spike_factor=0.9"], "give more than 1, such as 3"),
        (
            "pretrain",
            ["checkpoints.storage=http://host/x"],
            "is no place for checkpoints; give a folder, s3://",
        ),
        (
            "pretrain",
            ["train.on_nonfinite=rollback", "compute.dtype=float16", "compute.device=cuda", "cluster=gpu"],
            "scale overflows now and then",
        ),
        ("pretrain", ["cluster.min_workers=3"], "give at most 2, or more workers"),
        (
            "finetune",
            [
                *("m", "d.jsonl", "method=grpo", "on_policy.reward=a.py:b", "lora.rank=4"),
                *("rollout.sampler=vllm", "rollout.gpus_per_actor=1"),
            ],
            "rollout.sampler=vllm takes whole weights and lora.rank=4 trains an adapter",
        ),
        ("quickstart", ["schedule=cosine"], "pretrain.schedule.kind=cosine must know"),
        ("quickstart", ["pretrain.train.batch_tokens=700"], "give pretrain.train.batch_tokens=4096"),
    ],
)
def test_other_verbs_are_checked_too(verb, words, sentence):
    with pytest.raises(ConfigError) as caught:
        compose(verb, words)
    assert sentence in str(caught.value)


def test_the_quickstart_takes_steps_in_place_of_its_seconds():
    assert compose("quickstart", ["pretrain.train.steps=4", "schedule=cosine"]).pretrain.train.steps == 4


def test_settings_without_rules_pass():
    check(object())


def test_a_batch_is_shared_out_evenly():
    assert derive_batch(4096, 256, 2) == BatchPlan(16, 8, 8, 1)
    assert derive_batch(65536, 256, 2) == BatchPlan(256, 128, 16, 8)
    assert derive_batch(4096, 256, 2, 2) == BatchPlan(16, 8, 2, 4)
    assert derive_batch(256 * 34, 256, 2) == BatchPlan(34, 17, 1, 17)


@given(st.integers(1, 10**7), st.integers(1, 4096), st.integers(1, 64), st.none() | st.integers(1, 64))
def test_a_batch_is_planned_exactly_or_refused_with_one_that_works(tokens, length, workers, micro):
    try:
        plan = derive_batch(tokens, length, workers, micro)
    except ConfigError as error:
        for offered in re.findall(r"\d+", str(error).rpartition("train.batch_tokens=")[2]):
            derive_batch(int(offered), length, workers, micro)
        assert tokens % (length * workers * (micro or 1))
    else:
        assert plan.global_rows * length == tokens
        assert plan.rows_per_worker * workers == plan.global_rows
        assert plan.micro_rows * plan.accumulation == plan.rows_per_worker
        assert plan.micro_rows == micro if micro else plan.micro_rows <= 16
