"""vLLM in place of the sampler, where it is installed (the extra ``gpu``), for the same requests.

vLLM draws the tokens; what ends a completion and what its text is are decided here, as they are for the
sampler. Its log-probabilities are the model's own before anything is left out, so that only plain sampling is
taken: at other settings it would not tell the probability that a token was drawn with.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.rollout.request import Drawn, Request, Row
from codex_ray.rollout.sampler import banned_ids, check_prompt, end_ids, max_positions

if TYPE_CHECKING:
    from torch import Tensor

    from codex_ray.config.common import Device
    from codex_ray.tokenizer import Tokenizer

NEVER = -100.0
"""What vLLM adds to a logit that shall not be drawn; the least that it takes."""


class VllmModel:
    """A model in vLLM, and beside it, in main memory, one that weights are published to.

    Args:
        engine: a ``vllm.LLM`` in this process.
        model: the same model in Transformers.
    """

    def __init__(self, engine: Any, model: Any) -> None:
        self.engine, self.model = engine, model

    @classmethod
    def load(cls, model: str, revision: str | None, compute: Device) -> tuple[VllmModel, Tokenizer]:
        """Load a model folder, a run folder or a Hub name, and its tokenizer.

        Raises:
            ConfigError: vLLM is not installed here.
            CodexRayError: the model is missing or damaged, or vLLM cannot run it.
        """
        # In this process, so that published weights need not be sent to another one.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        try:
            from vllm import LLM
        except ImportError as error:
            raise ConfigError(
                f"rollout.sampler=vllm needs vLLM, which cannot be imported here ({error}); run pip install "
                "'codex-ray[gpu]' on the nodes that sample, or leave rollout.sampler out"
            ) from None
        from codex_ray.config.common import Device
        from codex_ray.model import resolve_model_folder
        from codex_ray.rollout.load import load_with_tokenizer

        dtype = "bfloat16" if compute.dtype == "auto" else compute.dtype  # auto would measure this CPU
        plain, tokenizer = load_with_tokenizer(model, revision, Device("cpu", dtype))
        folder = resolve_model_folder(model) if Path(model).expanduser().is_dir() else model
        try:
            engine = LLM(
                model=str(folder),
                revision=revision,
                dtype=str(plain.dtype).removeprefix("torch."),
                logprobs_mode="raw_logprobs",
                generation_config="vllm",
                seed=0,
            )
        except (ValueError, RuntimeError, NotImplementedError) as error:
            raise CodexRayError(
                f"vLLM cannot run {model} ({str(error).strip()[:200]}); leave rollout.sampler out, as "
                "codex_ray's own samples any causal language model"
            ) from error
        return cls(engine, plain), tokenizer

    def sampler(self, tokenizer: Tokenizer, *, slots: int, capacity: int) -> VllmSampler:
        """Return what samples from it; how many sequences it decodes together is up to vLLM."""
        return VllmSampler(self, tokenizer, capacity=capacity)

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Those that weights are published to."""
        yield from self.model.named_parameters()

    def requires_grad_(self, wanted: bool) -> None:
        """Of the model in main memory."""
        self.model.requires_grad_(wanted)

    def refresh(self) -> None:
        """Give vLLM the weights that have been published, and have it forget the keys of the old ones."""

        def load(model: Any) -> None:
            model.load_weights((name, parameter.detach()) for name, parameter in self.named_parameters())

        self.engine.apply_model(load)
        self.engine.reset_prefix_cache()


class VllmSampler:
    """What :class:`~codex_ray.rollout.sampler.Sampler` is to a pool, by vLLM.

    Args:
        model: in vLLM; ``tokenizer``: decodes, and names the end and padding tokens.
        capacity: longest sequence, prompt and completion, in tokens; at most what the model takes.
    """

    def __init__(self, model: VllmModel, tokenizer: Tokenizer, *, capacity: int) -> None:
        limit = max_positions(model.model)
        self.capacity = capacity if limit is None else min(capacity, limit)
        self._model, self._tokenizer = model, tokenizer
        self._end_ids = end_ids(model.model, tokenizer)
        self._banned = dict.fromkeys(banned_ids(model.model, tokenizer, self._end_ids), NEVER)
        self._waiting: list[Row] = []
        self._submitted = 0

    @property
    def running(self) -> int:
        """Requests that have not ended."""
        return len(self._waiting)

    def submit(self, request: Request) -> int:
        """Take a request and return its number; :meth:`step` does the work.

        Raises:
            ConfigError: settings of which vLLM does not tell the distribution that is drawn from.
            CodexRayError: an empty or too long prompt, or an id the model does not have.
        """
        from codex_ray.tokenizer import StreamDecoder

        number, vocabulary = self._submitted, self._model.model.config.get_text_config().vocab_size
        check_prompt(request.prompt, number + 1, self.capacity, vocabulary)
        ends = self._end_ids.union(request.stop_ids)
        room = min(request.max_new_tokens, self.capacity - len(request.prompt))
        row = Row(number, request, list(request.prompt), room, ends, StreamDecoder(self._tokenizer))
        if not row.plain or request.regex is not None:
            raise ConfigError(
                "rollout.sampler=vllm draws at temperature 1 from all tokens; set rollout.temperature=1, "
                "rollout.top_k=0, rollout.top_p=1 and rollout.min_p=0, or leave rollout.sampler out"
            )
        self._waiting.append(row)
        self._submitted += 1
        return number

    def step(self) -> list[Drawn]:
        """Complete all requests; the last token of each.

        Raises:
            CodexRayError: a completion ended where nothing ends one.
        """
        from vllm import SamplingParams

        rows, self._waiting = self._waiting, []
        settings = [
            SamplingParams(
                temperature=1.0,
                max_tokens=row.room,
                seed=row.request.seed % 2**63,
                stop=list(row.request.stop),
                stop_token_ids=sorted(row.end_ids),
                ignore_eos=True,  # the end tokens above are all there are
                logit_bias=self._banned or None,
                logprobs=0,
            )
            for row in rows
        ]
        prompts = [{"prompt_token_ids": row.prompt} for row in rows]
        outputs = self._model.engine.generate(prompts, settings, use_tqdm=False)
        return [self._taken(row, output.outputs[0]) for row, output in zip(rows, outputs, strict=True)]

    def _taken(self, row: Row, output: Any) -> Drawn:
        text, logprob = "", 0.0
        for token, told in zip(output.token_ids, output.logprobs, strict=True):
            if row.finish_reason is None:
                logprob = told[token].logprob
                text += row.accept(token, logprob, logprob)
        if row.finish_reason is None:
            raise CodexRayError(
                f"vLLM ended a completion after {len(row.ids)} tokens ({output.finish_reason}) where neither "
                "an end token nor a stop string is; leave rollout.sampler out"
            )
        return Drawn(row.number, row.ids[-1], text, logprob, logprob, row.completion())
