"""A model with all that its answers need: tokenizer, template, grammars, adapters, a place in an engine."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

from codex_ray.config.serve import Serve
from codex_ray.errors import CodexRayError
from codex_ray.rollout.load import load_with_tokenizer, tokenizer_folder
from codex_ray.rollout.lora import WEIGHTS, Adapter, load_adapter
from codex_ray.rollout.request import Request
from codex_ray.rollout.sampler import Sampler, end_ids
from codex_ray.rollout.sampling import Sampling
from codex_ray.serve.errors import ApiError
from codex_ray.serve.jobs import Lane
from codex_ray.serve.json_grammar import JsonGrammars
from codex_ray.serve.prompts import Prompts
from codex_ray.serve.shelf import Shelf
from codex_ray.track.registered import is_registered, registered_folder

LONGEST = 8192
"""Tokens of a sequence where neither settings nor the model name a limit below."""

BESIDE_TOKENS = 128
"""Tokens of a prompt that a CPU reads between two tokens of the others; of 512 these would feel the wait."""

PROBE_TOKENS = 8


class Loaded:
    """One of the models that a replica has; there are two while it changes from one to another.

    Args:
        settings: of serving.
        source: model folder, run folder, adapter folder, Hub name, or ``models:/`` of MLflow's registry.

    Raises:
        CodexRayError: the model cannot be loaded.
    """

    def __init__(self, settings: Serve, source: str) -> None:
        self.source, self._engine = source, settings.engine
        revision = settings.revision if source == settings.model else None
        folder = str(registered_folder(source)) if is_registered(source) else source
        self.model, self.tokenizer = load_with_tokenizer(folder, revision, settings.compute)
        self.ends = end_ids(self.model, self.tokenizer)
        self.vocabulary: int = self.model.config.get_text_config().vocab_size
        self.prompts = Prompts(self.tokenizer, tokenizer_folder(folder, revision))
        self.grammars = JsonGrammars(self.tokenizer, self.vocabulary, self.ends)
        self.created = int(time.time())
        self.lane = Lane(self._sampler)
        self._shelf, self._lock = Shelf(settings.adapters), threading.Lock()
        self._adapters: OrderedDict[str, tuple[int, Adapter]] = OrderedDict()

    def _sampler(self) -> Sampler:
        engine = self._engine
        return Sampler(
            self.model,
            self.tokenizer,
            slots=engine.slots,
            capacity=engine.max_tokens or LONGEST,
            cache_bytes=engine.cache_bytes,
            beside_tokens=BESIDE_TOKENS if self.model.device.type == "cpu" else None,
        )

    def probe(self) -> None:
        """Draw some tokens, so that a model which cannot is found before anybody asks.

        Raises:
            CodexRayError: its logits are not finite.
        """
        first = self.tokenizer.bos_id if self.tokenizer.bos_id is not None else 0
        sampler = self.lane.sampler
        sampler.submit(Request([first], PROBE_TOKENS, Sampling(temperature=0)))
        while sampler.running:
            sampler.step()

    def adapter(self, name: str) -> Adapter:
        """The adapter of a name, read when it is first asked for or has changed; few are kept.

        Raises:
            ApiError: there is none any more, or it cannot be held beside this model.
        """
        folder = self._shelf.present().get(name)
        with self._lock:
            try:
                if folder is None:
                    raise FileNotFoundError
                stamp = (folder / WEIGHTS).stat().st_mtime_ns
                kept = self._adapters.get(name)
                if kept is None or kept[0] != stamp:
                    kept = self._adapters[name] = (stamp, load_adapter(folder, self.model))
            except OSError:
                self._adapters.pop(name, None)
                raise ApiError(
                    404, f"the model {name!r} does not exist here", param="model", code="model_not_found"
                ) from None
            except CodexRayError as error:
                raise ApiError(400, str(error), param="model", code="adapter") from error
            self._adapters.move_to_end(name)
            while len(self._adapters) > self._engine.adapters:
                self._adapters.popitem(last=False)
        return kept[1]
