"""Rules for the engine: ZeRO's stages and precision, and which of DeepSpeed's own keys can be given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from codex_ray.config.train import Pretrain, TrainingRun
from codex_ray.errors import ConfigError

# DeepSpeed keys that follow from other settings, and those settings.
_OWNED_BY = {
    "train_batch_size": "train.batch_tokens",
    "train_micro_batch_size_per_gpu": "train.micro_batch_rows",
    "gradient_accumulation_steps": "train.batch_tokens and train.micro_batch_rows",
    "gradient_clipping": "optimizer.clip_norm",
    "optimizer": "optimizer.kind and its settings",
    "scheduler": "schedule.kind and its settings",
    "bf16": "compute.dtype",
    "bfloat16": "compute.dtype",
    "fp16": "compute.dtype",
    "amp": "compute.dtype",
    "torch_autocast": "deepspeed.autocast and compute.dtype",
    "sequence_parallel_size": "cluster.sequence_parallel",
    "zero_optimization.stage": "deepspeed.stage",
    "zero_optimization.reduce_bucket_size": "deepspeed.bucket_elements",
    "zero_optimization.allgather_bucket_size": "deepspeed.bucket_elements",
}


def refuse_deepspeed(settings: TrainingRun, prefix: str) -> None:
    """Check the engine's settings and DeepSpeed's own keys against the others.

    Raises:
        ConfigError: one sentence with the keys and the remedy.
    """
    deepspeed, compute = settings.deepspeed, settings.compute
    if deepspeed.stage == 0 and compute.dtype in ("bfloat16", "float16") and not deepspeed.autocast:
        raise ConfigError(
            f"{prefix}deepspeed.stage=0 runs another optimizer under {prefix}compute.dtype={compute.dtype}; "
            f"give {prefix}deepspeed.stage=1, which is the same at one worker too, or dtype=float32"
        )
    if deepspeed.autocast and compute.dtype in ("float32", "float16"):
        why = (
            "has nothing to do"
            if compute.dtype == "float32"
            else "keeps a loss scale that DeepSpeed does not save, so that no run could be resumed,"
        )
        raise ConfigError(
            f"{prefix}deepspeed.autocast=true {why} with {prefix}compute.dtype={compute.dtype}; give "
            f"{prefix}compute.dtype=bfloat16, or leave {prefix}deepspeed.autocast unset"
        )
    for key in _dotted_keys(deepspeed.config):
        if key in _OWNED_BY:
            raise ConfigError(
                f"{prefix}deepspeed.config.{key} follows from other settings; set {_OWNED_BY[key]} instead"
            )
    _refuse_zero(settings, prefix)


def refuse_sequence_parallel(settings: Pretrain, prefix: str) -> None:
    """Check whether workers can share sequences between them.

    Raises:
        ConfigError: one sentence with the numbers and the remedy.
    """
    cluster, model, train = settings.cluster, settings.model, settings.train
    shared = cluster.sequence_parallel
    if shared == 1:
        return
    key = f"{prefix}cluster.sequence_parallel={shared}"
    if cluster.workers % shared:
        raise ConfigError(f"{key} does not divide {prefix}cluster.workers={cluster.workers}; give a divisor")
    if model.heads % shared or (model.key_value_heads % shared and shared % model.key_value_heads):
        raise ConfigError(
            f"{key} workers cannot share {prefix}model.heads={model.heads} and "
            f"{prefix}model.key_value_heads={model.key_value_heads} evenly; give a number that divides both"
        )
    refused = {
        "cluster.min_workers": cluster.min_workers is not None,
        "train.sequence_ramp": bool(train.sequence_ramp),
        "train.documents=separate": train.documents == "separate",
        "train.compile": train.compile,
    }
    for other, given in refused.items():
        if given:
            raise ConfigError(f"{key} cannot go with {prefix}{other}; leave one of them out")


def _refuse_zero(settings: TrainingRun, prefix: str) -> None:
    """Refuse what offloading and ZeRO++ cannot do here, before DeepSpeed does in words of its own."""
    zero = settings.deepspeed.config.get("zero_optimization", {})
    begin, workers = f"{prefix}deepspeed.config.zero_optimization", settings.cluster.workers
    on_gpus = settings.cluster.gpus_per_worker > 0
    if "tensor_parallel" in settings.deepspeed.config:
        raise ConfigError(
            f"{prefix}deepspeed.config.tensor_parallel cuts each layer over workers, which then must have "
            f"equal rows and save parts of weights; runs do neither: give {prefix}deepspeed.stage=3 for "
            f"large models, {prefix}cluster.sequence_parallel for long rows"
        )
    if "mics_shard_size" in zero or "mics_hierarchical_params_gather" in zero:
        raise ConfigError(
            f"{begin}.mics_shard_size asks for MiCS, which DeepSpeed has removed; give "
            f"{begin}.zero_hpz_partition_size, a copy of the weights in each group of GPUs (deepspeed=zeropp)"
        )
    for key in ("zero_quantized_weights", "zero_quantized_gradients"):
        if zero.get(key) and not on_gpus:
            raise ConfigError(
                f"{begin}.{key}=true needs GPUs, for DeepSpeed has no such operator on CPUs; leave it unset, "
                f"or give {prefix}cluster.gpus_per_worker=1 (cluster=gpu)"
            )
    if zero.get("zero_quantized_weights") and settings.deepspeed.autocast:
        raise ConfigError(
            f"{begin}.zero_quantized_weights=true cannot go with {prefix}deepspeed.autocast=true; leave one "
            "of them unset"
        )
    part = zero.get("zero_hpz_partition_size", 1)
    if settings.deepspeed.stage == 3 and isinstance(part, int) and part > 1:
        if settings.cluster.elastic:  # one of two neighbouring numbers is not divided
            raise ConfigError(
                f"{begin}.zero_hpz_partition_size={part} does not divide every number of workers from "
                f"{prefix}cluster.min_workers={settings.cluster.fewest_workers} to {workers}; leave one "
                "of them unset"
            )
        if workers % part:
            raise ConfigError(
                f"{begin}.zero_hpz_partition_size={part} does not divide {prefix}cluster.workers={workers}; "
                "give the number of GPUs of a node, and whole nodes"
            )
    _refuse_offload(settings, zero, begin, prefix)


def _refuse_offload(settings: TrainingRun, zero: Mapping[str, Any], begin: str, prefix: str) -> None:
    where = {key: zero.get(f"offload_{key}", {}).get("device", "none") for key in ("optimizer", "param")}
    on_gpus = settings.cluster.gpus_per_worker > 0
    for key, device in where.items():
        if device == "nvme" and not on_gpus:
            raise ConfigError(
                f"{begin}.offload_{key}.device=nvme needs GPUs, and DeepSpeed's async_io operator (libaio "
                "and a C++ compiler on each node); give cpu, or "
                f"{prefix}cluster.gpus_per_worker=1 (cluster=gpu)"
            )
    if where["param"] != "none" and settings.deepspeed.stage != 3:
        raise ConfigError(
            f"{begin}.offload_param needs {prefix}deepspeed.stage=3, for only it shards parameters; give "
            "it, or offload_optimizer alone"
        )
    if where["optimizer"] != "none" and settings.deepspeed.stage == 0:
        raise ConfigError(f"{begin}.offload_optimizer needs {prefix}deepspeed.stage of 1, 2 or 3; give 2")
    if where["optimizer"] == "nvme" and settings.train.ema_decay:
        raise ConfigError(
            f"{prefix}train.ema_decay={settings.train.ema_decay:g} cannot go with "
            f"{begin}.offload_optimizer.device=nvme, where no fp32 weights are at hand; give cpu"
        )
    if where["optimizer"] != "none" and on_gpus and settings.optimizer.kind == "muon":
        raise ConfigError(
            f"{prefix}optimizer.kind=muon gathers momentum over the GPUs' network, and "
            f"{begin}.offload_optimizer keeps it in host memory; give optimizer.kind=adamw, or leave the "
            "offload out"
        )


def _dotted_keys(config: Mapping[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for key, value in config.items():
        keys.append(f"{prefix}{key}")
        if isinstance(value, Mapping):
            keys += _dotted_keys(value, f"{prefix}{key}.")
    return keys
