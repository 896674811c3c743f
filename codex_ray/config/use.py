"""Settings of the verbs that use a trained model: generate, export, upcycle, inspect."""

from __future__ import annotations

from dataclasses import dataclass

from codex_ray.config.common import DEFAULT_SEED, Device
from codex_ray.config.fields import setting
from codex_ray.config.model import Residual
from codex_ray.config.rollout import Spread
from codex_ray.errors import ConfigError


@dataclass(frozen=True)
class Generate:
    """Complete prompts with a trained model."""

    model: str = setting(help="model folder, run folder or Hub name")
    revision: str | None = setting(None, help="Hub revision (branch, tag or commit) of the model")
    prompt: str | None = setting(None, help="text to continue; unset reads standard input")
    prompts_file: str | None = setting(
        None, help='JSONL file of {"prompt": ...} lines to complete in batches'
    )
    chat: bool = setting(
        False, help="a prompt is a user's turn, which the model's chat template makes what the model reads"
    )
    output: str | None = setting(None, help="JSONL file for the completions; unset prints")
    resume: bool = setting(False, help="go on with an output that was cut off; its whole lines stay")
    max_new_tokens: int = setting(128, minimum=1, help="longest completion")
    temperature: float = setting(0.8, minimum=0.0, help="0 is greedy")
    top_k: int = setting(0, minimum=0, help="keep the k likeliest tokens; 0 keeps all")
    top_p: float = setting(0.95, minimum=0.0, maximum=1.0, help="keep the smallest set with this probability")
    stop: list[str] = setting([], help="strings that end a completion")
    stop_ids: list[int] = setting([], help="token ids that end a completion")
    regex: str | None = setting(
        None, help="regular expression (Python's) that every completion is held to; unset is free text"
    )
    cache_bytes: int | None = setting(
        None,
        minimum=1,
        help="most bytes of keys and values, prompts beyond wait; unset has room for batch_rows sequences",
    )
    batch_rows: int = setting(16, minimum=1, help="prompts completed together")
    spread: Spread = setting(Spread, help="Ray actors that complete a file of prompts")
    seed: int = setting(DEFAULT_SEED, minimum=0, help="seed of sampling; 0 becomes 1234")
    compute: Device = setting(Device, help="device and precision")


@dataclass(frozen=True)
class Export:
    """Write a model folder that Transformers loads, from a run or a checkpoint."""

    model: str = setting(help="run folder, checkpoint's run folder or model folder")
    output: str = setting(help="folder to write")
    revision: str | None = setting(None, help="Hub revision (branch, tag or commit) of the model")
    dtype: str = setting("float32", choices=("float32", "bfloat16", "float16"), help="stored precision")
    max_shard_bytes: int = setting(5 * 10**9, minimum=1000, help="largest safetensors file, in bytes")
    allow_pickle: bool = setting(False, help="take weights stored as pickles too, reading tensors only")
    chat_template: str | None = setting(
        None,
        help="Jinja file that makes messages a prompt; unset keeps the model's own, else turns",
    )


@dataclass(frozen=True)
class Upcycle:
    """Write a pretrained decoder of the Llama family as an mHC decoder with the same function."""

    model: str = setting(help="model folder or Hub name: llama, mistral, qwen2 or qwen3")
    output: str = setting(help="folder to write")
    revision: str | None = setting(None, help="Hub revision (branch, tag or commit) of the model")
    dtype: str = setting("float32", choices=("float32", "bfloat16", "float16"), help="stored precision")
    max_shard_bytes: int = setting(5 * 10**9, minimum=1000, help="largest safetensors file, in bytes")
    max_positions: int | None = setting(
        None,
        minimum=1,
        help="longest sequence; unset is the model's; a model with a sliding window takes its window",
    )
    residual: Residual = setting(Residual, help="residual connections of the new model")


@dataclass(frozen=True)
class Inspect:
    """Print a model's parameters by part, what it needs in memory and what a token costs."""

    model: str = setting(help="model folder, run folder or Hub name")
    revision: str | None = setting(None, help="Hub revision (branch, tag or commit) of the model")
    sequence_length: int | None = setting(
        None, minimum=1, help="tokens per row for costs; unset is the model's longest, at most 2048"
    )
    workers: int = setting(8, minimum=1, help="workers that ZeRO shards over")


def refuse_generation(settings: Generate, prefix: str = "") -> None:
    """Refuse settings that contradict each other.

    Raises:
        ConfigError: one sentence with the keys and the remedy.
    """
    if settings.prompt is not None and settings.prompts_file is not None:
        raise ConfigError(f"both {prefix}prompt and {prefix}prompts_file given; give one of them")
    if settings.temperature and not settings.top_p:
        raise ConfigError(
            f"{prefix}top_p=0 keeps no token; give {prefix}top_p above 0, or {prefix}temperature=0 for the "
            "likeliest token"
        )
    if settings.resume and (settings.prompts_file is None or settings.output is None):
        raise ConfigError(
            f"{prefix}resume=true goes on with a file of completions; give {prefix}prompts_file and "
            f"{prefix}output, or leave it out"
        )
    if settings.spread.actors and settings.prompts_file is None:
        raise ConfigError(
            f"{prefix}spread.actors={settings.spread.actors} share a file of prompts; give "
            f"{prefix}prompts_file=FILE, or leave {prefix}spread out"
        )
    if settings.spread.actors and settings.cache_bytes is not None:
        raise ConfigError(
            f"{prefix}cache_bytes={settings.cache_bytes} is of this process, and "
            f"{prefix}spread.actors={settings.spread.actors} hold {prefix}batch_rows sequences each; lower "
            f"{prefix}batch_rows in its place"
        )
