"""The README of a model folder: what the model is, what it was trained on and how, and how to load it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from transformers import PreTrainedModel

from codex_ray.model.configuration import CodexRayConfig


def model_card(model: PreTrainedModel, name: str, run: Path | None = None) -> str:
    """Return the README of a model folder, in the Hub's form.

    Args:
        model: the model.
        name: the folder's name.
        run: the run folder that trained it; what it recorded is in the card.
    """
    config = model.config
    ours = isinstance(config, CodexRayConfig)
    flag = ", trust_remote_code=True" if ours else ""
    sources = _sources(run)
    licences = sorted({str(source["licence"]) for source in sources.values() if source.get("licence")})
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        *(["tags:", "- codex_ray", "- custom_code"] if ours else []),
        "---",
        "",
        f"# {name}",
        "",
        f"A causal language model of {model.num_parameters():,} parameters, written by codex_ray.",
        "",
        *(_shape(config) if isinstance(config, CodexRayConfig) else []),
        *_training(run),
        *_data(sources, licences),
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'model = AutoModelForCausalLM.from_pretrained("{name}"{flag})',
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")',
        "```",
    ]
    if ours:
        lines += [
            "",
            "With codex_ray imported (`import codex_ray.model`), `trust_remote_code` is not needed.",
        ]
    return "\n".join(lines) + "\n"


def _shape(config: CodexRayConfig) -> list[str]:
    return [
        f"- {config.num_hidden_layers} layers, hidden size {config.hidden_size}, "
        f"{config.num_attention_heads} query heads over {config.num_key_value_heads} key/value heads",
        f"- residual connections: {config.residual_kind}, {config.mixed_streams} streams",
        f"- vocabulary {config.vocab_size}, sequences of {config.max_position_embeddings} tokens",
        "",
    ]


def _training(run: Path | None) -> list[str]:
    """Describe the run from what it wrote; what is missing or damaged is left out."""
    summary, settings = _read(run, "summary.json"), _read(run, "config.yaml")
    decided, environment = _read(run, "decided.json"), _read(run, "environment.json")
    if run is None or not summary.get("steps"):
        return []
    optimizer, train = settings.get("optimizer", {}), settings.get("train", {})
    rows = {
        "run": run.name,
        "began from": settings.get("start"),
        "optimizer steps": f"{summary['steps']:,.0f}",
        "tokens": f"{summary['tokens']:,.0f}" if "tokens" in summary else None,
        "tokens per step": f"{train['batch_tokens']:,}" if "batch_tokens" in train else None,
        "optimizer": optimizer.get("kind"),
        "precision": decided.get("dtype"),
        "weights": _weights(train),
        "training loss": _number(summary.get("loss")),
        "validation loss": _number(summary.get("validation_loss")),
        "validation bits per byte": _number(summary.get("validation_bits_per_byte")),
        "training time": f"{summary['train_seconds']:,.0f} s" if "train_seconds" in summary else None,
        "began": environment.get("time"),
        "commit of codex_ray": (environment.get("commit") or {}).get("commit"),
        "seed": settings.get("seed"),
    }
    table = [f"| {name} | {value} |" for name, value in rows.items() if value is not None]
    return ["## Training", "", "| | |", "| --- | --- |", *table, ""]


def _weights(train: dict[str, Any]) -> str | None:
    """Say that the folder holds an average of the weights, where it does."""
    decay = train.get("ema_decay")
    averaged = decay and "export" in train.get("ema_for", ())
    return f"exponential moving average, decay {decay:g}" if averaged else None


def _data(sources: dict[str, Any], licences: list[str]) -> list[str]:
    if not sources:
        return []
    rows = [
        f"| {name} | {source.get('kept', 0):,} | {source.get('licence') or 'not stated'} |"
        for name, source in sources.items()
    ]
    note = [f"Licences of the data: {', '.join(licences)}.", ""] if licences else []
    return ["## Data", "", "| source | documents | licence |", "| --- | --- | --- |", *rows, "", *note]


def _sources(run: Path | None) -> dict[str, Any]:
    corpus = _read(run, "config.yaml").get("corpus")
    sources: dict[str, Any] = (
        _read(Path(corpus).expanduser(), "manifest.json").get("sources", {}) if corpus else {}
    )
    return sources


def _read(folder: Path | None, name: str) -> dict[str, Any]:
    """Read a file that a run wrote; empty where there is none: a card never fails an export."""
    path = folder / name if folder is not None else None
    if path is None or not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}"
