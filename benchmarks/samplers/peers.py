"""The same work by the sampler and by Transformers: ``generate``, ``generate_batch`` and ``serve``.

Each returns the seconds that the work took; all draw from the whole distribution at temperature 1.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from benchmarks.samplers.work import POSITIONS, Work
from codex_ray.cluster.ray_node import free_ports
from codex_ray.errors import CodexRayError
from codex_ray.rollout.request import Request
from codex_ray.rollout.sampler import Sampler
from codex_ray.rollout.sampling import Sampling
from codex_ray.tokenizer import Tokenizer

START_SECONDS, REQUEST_SECONDS = 120, 240


def ours(model: Any, tokenizer: Tokenizer, work: Work, slots: int) -> float:
    """All requests are submitted at once; the sampler takes ``slots`` of them at a time."""
    sampler = Sampler(model, tokenizer, slots=slots, capacity=POSITIONS)
    began = time.perf_counter()
    for number, (prompt, length) in enumerate(zip(work.prompts, work.lengths, strict=True)):
        sampler.submit(Request(prompt, length, Sampling(), number))
    drawn = 0
    while sampler.running:
        drawn += len(sampler.step())
    _check(drawn, work)
    return time.perf_counter() - began


class _Lengths(StoppingCriteria):
    """Ends each row at its own length."""

    def __init__(self, prompt: int, lengths: list[int]) -> None:
        self._ends_B = torch.tensor(lengths) + prompt

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        return self._ends_B <= input_ids.shape[1]


def generate(model: Any, tokenizer: Tokenizer, work: Work, slots: int) -> float:
    """Batches of ``slots`` requests in order, padded on the left; a batch ends with its longest row."""
    drawn, began = 0, time.perf_counter()
    for start in range(0, len(work.prompts), slots):
        part = slice(start, start + slots)
        arrays = tokenizer.pad_batch(work.prompts[part], side="left")
        ids_BS, mask_BS = (torch.from_numpy(array) for array in arrays)
        lengths = work.lengths[part]
        stop = StoppingCriteriaList([_Lengths(ids_BS.shape[1], lengths)])
        done = model.generate(
            ids_BS,
            attention_mask=mask_BS,
            do_sample=True,
            top_k=0,
            max_new_tokens=max(lengths),
            stopping_criteria=stop,
        )
        drawn += sum(min(done.shape[1] - ids_BS.shape[1], length) for length in lengths)
    _check(drawn, work)
    return time.perf_counter() - began


def generate_batch(model: Any, tokenizer: Tokenizer, work: Work, slots: int) -> float:
    """Continuous batching, at most ``slots`` requests at a time, each with its own length."""
    settings = GenerationConfig(do_sample=True, top_k=0, max_new_tokens=max(work.lengths), pad_token_id=3)
    cache = ContinuousBatchingConfig(
        num_blocks=64, page_size=256, max_batch_tokens=512, max_requests_per_batch=slots
    )
    with model.continuous_batching_context_manager(
        generation_config=settings, continuous_batching_config=cache, block=True, timeout=60
    ) as manager:
        began = time.perf_counter()
        for prompt, length in zip(work.prompts, work.lengths, strict=True):
            manager.add_request(prompt, max_new_tokens=length)
        drawn = done = 0
        while done < len(work.prompts):
            result = manager.get_result(timeout=REQUEST_SECONDS)
            if result is None or result.error is not None:
                raise CodexRayError(f"generate_batch has ended early: {result and result.error}")
            if result.is_finished():
                done, drawn = done + 1, drawn + len(result.generated_tokens)
        seconds = time.perf_counter() - began
    _check(drawn, work)
    return seconds


@contextmanager
def serving(folder: Path, log: Path) -> Iterator[str]:
    """Run ``transformers serve`` on a model folder; its address."""
    port = free_ports(1)[0]
    command = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve"]
    options = ["--continuous-batching", "--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    limits = ["--cb-block-size", "256", "--cb-num-blocks", "64", "--cb-max-batch-tokens", "512"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, str(folder), *options, *limits], env=environment, stdout=output, stderr=output
        )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _healthy(address):
            if process.poll() is not None or time.monotonic() > deadline:
                raise CodexRayError(f"transformers serve did not start: {log.read_text()[-600:]}")
            time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def serve(address: str, folder: Path, tokenizer: Tokenizer, work: Work, slots: int) -> float:
    """As many clients as there may be requests in flight, each waiting for its answer."""

    def ask(number: int) -> int:
        body = {
            "model": str(folder),
            "prompt": tokenizer.decode(work.prompts[number][1:]),
            "max_tokens": work.lengths[number],
            "temperature": 1.0,
            "top_p": 1.0,
        }
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(
            f"{address}/v1/completions", json.dumps(body).encode(), headers=headers
        )
        with urllib.request.urlopen(request, timeout=REQUEST_SECONDS) as answer:
            return int(json.load(answer)["usage"]["completion_tokens"])

    began = time.perf_counter()
    with ThreadPoolExecutor(slots) as clients:
        drawn = sum(clients.map(ask, range(len(work.prompts))))
    seconds = time.perf_counter() - began
    _check(drawn, work)
    return seconds


def _check(drawn: int, work: Work) -> None:
    if drawn != work.tokens:
        raise CodexRayError(f"{drawn} tokens were drawn and {work.tokens} asked for")
