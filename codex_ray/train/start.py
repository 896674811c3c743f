"""What stands between a model and the first step of a run: where its weights come from, how it computes."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from codex_ray.config.train import Training
from codex_ray.errors import CodexRayError
from codex_ray.model import CodexRayConfig, CodexRayForCausalLM, load_model, resolve_model_folder
from codex_ray.model.load import load_config
from codex_ray.tokenizer import Tokenizer


def start_config(start: str, tokenizer: Tokenizer, sequence_length: int) -> dict[str, Any]:
    """Return the configuration of a model that a run can begin from, for the run to keep.

    Raises:
        CodexRayError: it is not one of ours, or does not fit the corpus.
    """
    config = load_config(start)
    if not isinstance(config, CodexRayConfig):
        raise CodexRayError(
            f"start={start} is a {config.model_type} model; codex-ray upcycle {start} output=FOLDER makes "
            "one that can be trained on"
        )
    if config.max_position_embeddings < sequence_length:
        raise CodexRayError(
            f"start={start} takes {config.max_position_embeddings} positions and the corpus has rows of "
            f"{sequence_length}; prepare it with pack.sequence_length={config.max_position_embeddings}"
        )
    folder = resolve_model_folder(start)
    named = any((folder / name).is_file() for name in ("tokenizer.model", "tokenizer.json"))
    same = not named or Tokenizer.load(folder).digest == tokenizer.digest
    if not same or tokenizer.vocabulary_size > config.vocab_size:
        raise CodexRayError(
            f"start={start} has another tokenizer than the corpus; prepare the corpus with "
            f"tokenizer.path={folder}"
        )
    found: dict[str, Any] = config.to_dict()
    return found


def start_model(start: str, config: dict[str, Any], *, resumed: bool) -> CodexRayForCausalLM:
    """Return the model in fp32; a resumed run needs no weights of it, its checkpoint has them.

    Raises:
        CodexRayError: the weights are missing, damaged or do not fit the configuration.
    """
    if resumed:
        fresh: CodexRayForCausalLM = CodexRayForCausalLM(CodexRayConfig.from_dict(config)).float()
        return fresh
    model = load_model(start)
    assert isinstance(model, CodexRayForCausalLM)  # start_config has seen to it
    model.train()
    return model


def ready_for_training(model: PreTrainedModel, settings: Training) -> None:
    """Have the model recompute and compile what the settings say.

    Raises:
        CodexRayError: it is to be compiled and the machine has no compiler, or it is of another family, of
            which only whole layers can be recomputed.
    """
    model.train()
    if not isinstance(model, CodexRayForCausalLM):
        if settings.compile or settings.recompute == "streams":
            key = "train.compile=true" if settings.compile else "train.recompute=streams"
            raise CodexRayError(
                f"{key} is for this project's own decoder and this is a {model.config.model_type} model; "
                "leave it out, or codex-ray upcycle makes one of ours of it"
            )
        if settings.recompute == "layers":
            model.activation_checkpointing_enable({"use_reentrant": False})
        return
    if settings.recompute == "streams":
        model.model.recompute_streams()
    elif settings.recompute == "layers":
        model.activation_checkpointing_enable()
    if settings.compile:
        _need_compiler()
        model.model.compile_sublayers()


def _need_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise CodexRayError(
            "train.compile=true needs a C++ compiler and none was found on this node; install g++, name one "
            "in CXX, or leave train.compile unset"
        ) from error
