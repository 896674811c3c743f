"""Requests that come and go: each as if it were alone, nothing read twice, nothing left behind."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import Tensor

from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.rollout import cached as module
from codex_ray.rollout import native
from codex_ray.rollout.attention import Span
from codex_ray.rollout.decoder import packable
from codex_ray.rollout.request import Completion, Request
from codex_ray.rollout.sampler import Sampler
from codex_ray.rollout.sampling import Sampling
from codex_ray.tokenizer import Tokenizer
from tests.unit.model.families import OTHERS, other
from tests.unit.rollout.models import (
    POSITIONS,
    llama,
    mhc,
    permutation,
    plain_decoder,
    train_small_tokenizer,
)

WARM = Sampling(0.9, top_k=40, top_p=0.95)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train_small_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def plain(tokenizer: Tokenizer) -> Any:
    return llama(tokenizer.vocabulary_size).eval()


def prompt(seed: int, length: int) -> list[int]:
    return [1, *random.Random(seed).choices(range(4, 400), k=length - 1)]


def finish(sampler: Sampler) -> dict[int, Completion]:
    """Run until every request has ended."""
    done = {}
    while sampler.running:
        done |= {drawn.request: drawn.completion for drawn in sampler.step() if drawn.completion}
    return done


def alone(model: Any, tokenizer: Tokenizer, request: Request) -> Completion:
    sampler = Sampler(model, tokenizer, slots=1, capacity=POSITIONS)
    sampler.submit(request)
    return finish(sampler)[0]


def assert_same(one: Completion, another: Completion) -> None:
    assert (one.ids, one.text, one.finish_reason) == (another.ids, another.text, another.finish_reason)
    assert one.logprobs == pytest.approx(another.logprobs, abs=1e-5)
    assert one.sampling_logprobs == pytest.approx(another.sampling_logprobs, abs=1e-4)


class Reads:
    """Counts the tokens that a sampler's model is given, by its own forward pass or packed."""

    def __init__(self, sampler: Sampler) -> None:
        self.tokens = 0
        self._model, packed = sampler._model.model, sampler._model._packed
        self._hook = self._model.register_forward_pre_hook(self._count, with_kwargs=True)
        assert packed is not None
        run = packed.run

        def counted(tokens: list[int], positions: list[int], spans: Sequence[Span], adapters: Any) -> Tensor:
            self.tokens += len(tokens) + sum(len(span.tokens) for span in spans)
            return run(tokens, positions, spans, adapters)

        packed.run = counted  # type: ignore[method-assign]

    def _count(self, _: Any, __: Any, kwargs: dict[str, Any]) -> None:
        self.tokens += kwargs["input_ids"].numel()

    def stop(self) -> int:
        self._hook.remove()
        return self.tokens


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_requests_that_come_and_go_end_as_if_alone(
    plain: Any, tokenizer: Tokenizer, data: st.DataObject
) -> None:
    sampler = Sampler(plain, tokenizer, slots=data.draw(st.integers(1, 4)), capacity=POSITIONS)
    requests: dict[int, Request] = {}
    done: dict[int, Completion] = {}
    cancelled = set()
    for _ in range(data.draw(st.integers(1, 25))):
        if data.draw(st.booleans()):
            settings = data.draw(st.sampled_from([Sampling(0), WARM, Sampling(min_p=0.05)]))
            start = prompt(data.draw(st.integers(0, 2)), data.draw(st.sampled_from([2, 9, 30, 45])))
            number = data.draw(st.integers(0, 9))
            request = Request(start, data.draw(st.integers(1, 12)), settings, seed=number)
            requests[sampler.submit(request)] = request
        elif requests and data.draw(st.integers(0, 4)) == 0:
            number = data.draw(st.sampled_from(sorted(requests)))
            if number not in done:
                sampler.cancel(number)
                cancelled.add(number)
        done |= {drawn.request: drawn.completion for drawn in sampler.step() if drawn.completion}
    done |= finish(sampler)
    assert set(done) == set(requests) - cancelled
    for number, completion in done.items():
        assert_same(completion, alone(plain, tokenizer, requests[number]))


@pytest.mark.parametrize("family", OTHERS)
def test_other_families_draw_what_whole_passes_draw(family: str, tokenizer: Tokenizer) -> None:
    model = other(family, vocab_size=tokenizer.vocabulary_size)
    sampler = Sampler(model, tokenizer, slots=2, capacity=POSITIONS)
    starts = [prompt(1, 20), prompt(2, 5), prompt(3, 11)]
    for start in starts:
        sampler.submit(Request(start, 12, Sampling(0)))
    done = finish(sampler)
    for number, start in enumerate(starts):
        ids = torch.tensor([start + done[number].ids])
        with torch.no_grad():
            logprobs = model(ids).logits[0, len(start) - 1 : -1].log_softmax(-1)
        expected = logprobs.gather(-1, ids[0, len(start) :, None]).squeeze(-1)
        assert done[number].logprobs == pytest.approx(expected.tolist(), abs=1e-5)


EXACT = {
    "codex_ray mhc": mhc,
    "codex_ray permutation": permutation,
    "codex_ray plain": plain_decoder,
    "llama": lambda size: other("llama", vocab_size=size),
    "gpt2": lambda size: other("gpt2", vocab_size=size),
    "qwen3": lambda size: other("qwen3", vocab_size=size),
    "gemma3": lambda size: other("gemma3", vocab_size=size),
}


@pytest.mark.parametrize(
    ("family", "compiled"),
    [
        *((family, "all") for family in EXACT),
        *((family, "none") for family in ("codex_ray mhc", "codex_ray permutation", "llama", "qwen3")),
        *((family, "but products") for family in ("codex_ray mhc", "llama")),
    ],
)
def test_logprobs_are_those_of_the_training_forward(
    family: str, compiled: str, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone, in a batch, beside a longer neighbour, and of rows padded on either side, to 1e-5 in fp32."""
    if compiled == "none":
        monkeypatch.setattr(native, "kernels", lambda _: None)
    elif compiled == "but products":
        monkeypatch.setattr(native.kernels(torch.float32), "products", False)
    model = EXACT[family](tokenizer.vocabulary_size).eval()
    starts = [prompt(seed, length) for seed, length in enumerate((3, 40, 17, 9))]
    together = Sampler(model, tokenizer, slots=3, capacity=POSITIONS)
    requests = [Request(start, 16, Sampling(1.0), seed=number) for number, start in enumerate(starts)]
    for request in requests:
        together.submit(request)
    done = finish(together)
    rows = [start + done[number].ids for number, start in enumerate(starts)]
    for side in ("left", "right"):
        ids_BS, mask_BS = (torch.from_numpy(array) for array in tokenizer.pad_batch(rows, side=side))
        # Positions are given, as training gives them: GPT-2 would count the padding.
        positions_BS = (mask_BS.cumsum(-1) - 1).clamp(min=0)
        with torch.no_grad():
            output = model(input_ids=ids_BS, attention_mask=mask_BS, position_ids=positions_BS)
        logprobs_BSV = output.logits.log_softmax(-1)
        for number, start in enumerate(starts):
            places = mask_BS[number].nonzero()[:, 0]
            before, at = places[len(start) - 1 : -1], places[len(start) :]
            expected = logprobs_BSV[number, before, ids_BS[number, at]]
            assert done[number].logprobs == pytest.approx(expected.tolist(), abs=1e-5)
    for number, request in enumerate(requests):
        assert_same(done[number], alone(model, tokenizer, request))


def test_weights_written_to_are_packed_again(tokenizer: Tokenizer) -> None:
    model = llama(tokenizer.vocabulary_size).eval()
    sampler = Sampler(model, tokenizer, slots=2, capacity=POSITIONS)
    request = Request(prompt(1, 9), 6, Sampling(0))
    sampler.submit(request)
    finish(sampler)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.neg_()
    sampler.forget()
    sampler.submit(request)
    assert_same(finish(sampler)[1], alone(model, tokenizer, request))


@pytest.mark.parametrize("change", ["lora", "lora of some", "dora", "prompt"])
@pytest.mark.parametrize("make", [llama, mhc])
def test_adapted_models_draw_what_their_forward_draws(make: Any, change: str, tokenizer: Tokenizer) -> None:
    """A LoRA is packed beside the weights it is for; whatever else is added goes the model's own way."""
    model = make(tokenizer.vocabulary_size).eval()
    targets = ["q_proj", "v_proj", "up_proj", "down_proj"] if change == "lora of some" else "all-linear"
    lora = LoraConfig(target_modules=targets, init_lora_weights=False, use_dora=change == "dora")
    prefix = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    adapted = get_peft_model(model, prefix if change == "prompt" else lora).eval()
    assert packable(adapted) == change.startswith("lora")
    if change == "prompt":
        return
    starts = [prompt(1, 9), prompt(2, 23)]
    sampler = Sampler(adapted, tokenizer, slots=2, capacity=POSITIONS)
    for start in starts:
        sampler.submit(Request(start, 8, Sampling(1.0), seed=3))
    done = finish(sampler)
    for number, start in enumerate(starts):
        ids = torch.tensor([start + done[number].ids])
        with torch.no_grad():
            logprobs = adapted(input_ids=ids).logits[0, len(start) - 1 : -1].log_softmax(-1)
        expected = logprobs.gather(-1, ids[0, len(start) :, None]).squeeze(-1)
        assert done[number].logprobs == pytest.approx(expected.tolist(), abs=1e-5)


def test_an_adapter_that_is_written_to_or_off_is_seen(tokenizer: Tokenizer) -> None:
    model = llama(tokenizer.vocabulary_size).eval()
    request = Request(prompt(1, 9), 6, Sampling(0))
    base = alone(model, tokenizer, request)
    adapted = get_peft_model(model, LoraConfig(target_modules="all-linear", init_lora_weights=False)).eval()
    sampler = Sampler(adapted, tokenizer, slots=2, capacity=POSITIONS)
    number = sampler.submit(request)
    before = finish(sampler)[number]
    assert before.logprobs != pytest.approx(base.logprobs, abs=1e-3)
    with adapted.disable_adapter():
        assert_same(alone(adapted, tokenizer, request), base)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    sampler.forget()
    number = sampler.submit(request)
    assert_same(finish(sampler)[number], base)


def test_bfloat16_is_near_float32(tokenizer: Tokenizer) -> None:
    for make in (llama, mhc):
        exact = make(tokenizer.vocabulary_size).eval()
        coarse = copy.deepcopy(exact).bfloat16()
        done = alone(coarse, tokenizer, Request(prompt(1, 20), 12, Sampling(1.0), seed=3))
        ids = torch.tensor([prompt(1, 20) + done.ids])
        with torch.no_grad():
            logprobs = coarse(input_ids=ids).logits[0, 19:-1].float().log_softmax(-1)
        expected = logprobs.gather(-1, ids[0, 20:, None]).squeeze(-1)
        assert done.logprobs == pytest.approx(expected.tolist(), abs=0.15)


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_keys_and_values_stay_within_their_budget(
    plain: Any, tokenizer: Tokenizer, data: st.DataObject
) -> None:
    one = 2 * 2 * 2 * 8 * 4  # of a position: layers, keys and values, heads, their size, bytes
    budget = one * data.draw(st.integers(20, 150))
    sampler = Sampler(plain, tokenizer, slots=4, capacity=POSITIONS, cache_bytes=budget)
    requests = {}
    for number in range(6):
        length = data.draw(st.integers(2, min(30, sampler.capacity - 1)))
        request = Request(prompt(number, length), data.draw(st.integers(1, 30)), WARM, seed=number)
        requests[sampler.submit(request)] = request
    done: dict[int, Completion] = {}
    while sampler.running:
        done |= {drawn.request: drawn.completion for drawn in sampler.step() if drawn.completion}
        assert 0 < sampler._model.cache.nbytes <= budget
    for number, request in requests.items():
        longest = min(request.max_new_tokens, sampler.capacity - len(request.prompt))
        assert_same(done[number], alone(plain, tokenizer, replace(request, max_new_tokens=longest)))


def test_what_no_budget_holds_is_refused(plain: Any, tokenizer: Tokenizer) -> None:
    sampler = Sampler(plain, tokenizer, slots=4, capacity=POSITIONS, cache_bytes=256 * 20)
    assert sampler.capacity == 20
    with pytest.raises(CodexRayError, match="prompt 1 has 20 tokens and cache_bytes=5120 holds 20"):
        sampler.submit(Request(prompt(1, 20), 4))
    with pytest.raises(ConfigError, match="cache_bytes=300 holds keys and values of 1 tokens"):
        Sampler(plain, tokenizer, slots=4, capacity=POSITIONS, cache_bytes=300)


def test_graphs_are_for_cuda(plain: Any, tokenizer: Tokenizer) -> None:
    with pytest.raises(ConfigError, match="graphs=True is for models on CUDA"):
        Sampler(plain, tokenizer, slots=1, capacity=20, graphs=True)


def test_slots_of_one_length_draw_the_same(tokenizer: Tokenizer) -> None:
    """What graphs need of the cache, without a GPU."""
    model = other("gpt2", vocab_size=tokenizer.vocabulary_size)
    requests = [Request(prompt(seed, 4 + 9 * seed), 9, WARM, seed=seed) for seed in range(4)]
    sampler = Sampler(model, tokenizer, slots=3, capacity=POSITIONS)
    sampler._model.cache.fixed, sampler._model.cache.room = True, sampler.capacity + 1
    for request in requests:
        sampler.submit(request)
    done = finish(sampler)
    assert all(layer.keys.shape[2] == POSITIONS + 1 for layer in sampler._model.cache.layers)
    for number, request in enumerate(requests):
        assert_same(done[number], alone(model, tokenizer, request))


def test_a_stop_token_ends_a_completion_and_is_not_text(plain: Any, tokenizer: Tokenizer) -> None:
    free = alone(plain, tokenizer, Request(prompt(1, 9), 12, Sampling(1.0), seed=4))
    stop = free.ids[5]
    done = alone(plain, tokenizer, Request(prompt(1, 9), 12, Sampling(1.0), seed=4, stop_ids=[stop]))
    first = free.ids.index(stop)
    assert done.ids == free.ids[: first + 1] and done.finish_reason == "stop"
    assert done.text == tokenizer.decode(free.ids[:first])
    sampler = Sampler(plain, tokenizer, slots=1, capacity=POSITIONS)
    with pytest.raises(ConfigError, match="stop token 9999"):
        sampler.submit(Request([1], 5, stop_ids=[9999]))


def test_equal_prompts_are_read_once(plain: Any, tokenizer: Tokenizer) -> None:
    requests = [Request(prompt(1, 30), 3, WARM, seed=seed) for seed in range(4)]
    sampler = Sampler(plain, tokenizer, slots=4, capacity=POSITIONS)
    reads = Reads(sampler)
    for request in requests:
        sampler.submit(request)
    done = finish(sampler)
    drawn = sum(len(completion.ids) - 1 for completion in done.values())
    assert reads.stop() == 30 + drawn
    for number, request in enumerate(requests):
        assert_same(done[number], alone(plain, tokenizer, request))
    assert len({tuple(completion.ids) for completion in done.values()}) > 1


def test_a_conversation_goes_on_from_what_is_still_held(plain: Any, tokenizer: Tokenizer) -> None:
    sampler = Sampler(plain, tokenizer, slots=2, capacity=POSITIONS)
    first = sampler.submit(Request(prompt(1, 20), 10, Sampling(0)))
    sampler.submit(Request(prompt(2, 20), 20, Sampling(0)))
    done = finish(sampler)
    longer = [*prompt(1, 20), *done[first].ids, 5, 6, 7]
    reads = Reads(sampler)
    again = sampler.submit(Request(longer, 1, Sampling(0)))
    completion = finish(sampler)[again]
    assert reads.stop() == 4  # the last token drawn was never read, and three are new
    assert_same(completion, alone(plain, tokenizer, Request(longer, 1, Sampling(0))))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize(("tight", "beside"), [(False, None), (True, None), (False, 20)])
def test_long_prompts_are_read_in_parts_while_others_go_on(
    family: str, tight: bool, beside: int | None, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One part a step, also where memory holds no more than what is on its way, or one is called off."""
    model = other(family, vocab_size=tokenizer.vocabulary_size)
    requests = [Request(prompt(seed, 55), 5, WARM, seed=seed) for seed in range(1, 4)]
    short = Request(prompt(9, 5), 20, WARM)
    whole = [alone(model, tokenizer, request) for request in requests]
    if beside is None:
        monkeypatch.setattr(module, "PREFILL_TOKENS", 20)
    of_position = Sampler(model, tokenizer, slots=1, capacity=8)._model.position_bytes()
    budget = 3 * POSITIONS * of_position if tight else None
    sampler = Sampler(model, tokenizer, slots=3, capacity=POSITIONS, cache_bytes=budget, beside_tokens=beside)
    first = sampler.submit(short)
    sampler.step()
    numbers = [sampler.submit(request) for request in requests]
    called_off = sampler.submit(Request(prompt(8, 55), 5, WARM))
    drawn = [{one.request for one in sampler.step()} for _ in range(3)]
    assert drawn == [{first}, {first}, {first, numbers[0]}]
    done: dict[int, Completion] = {}
    while sampler.running:
        if sampler._begun is not None and sampler._waiting[0].number == called_off:
            sampler.cancel(called_off)
        done |= {one.request: one.completion for one in sampler.step() if one.completion}
    assert set(done) == {first, *numbers}
    for number, expected in zip(numbers, whole, strict=True):
        assert_same(done[number], expected)


def test_new_weights_forget_what_the_old_ones_held(tokenizer: Tokenizer) -> None:
    model = mhc(tokenizer.vocabulary_size).eval()
    request = Request(prompt(1, 30), 5, Sampling(0))
    sampler = Sampler(model, tokenizer, slots=1, capacity=POSITIONS)
    sampler.submit(request)
    sampler.step()
    with pytest.raises(RuntimeError, match="on their way"):
        sampler.forget()
    before = finish(sampler)[0]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    sampler.forget()
    sampler.submit(request)
    after = finish(sampler)[1]
    assert before.logprobs != pytest.approx(after.logprobs, abs=1e-3)
    assert_same(after, alone(model, tokenizer, request))


def test_cancelled_requests_leave_at_once(plain: Any, tokenizer: Tokenizer) -> None:
    sampler = Sampler(plain, tokenizer, slots=1, capacity=POSITIONS)
    running, waiting, kept = (sampler.submit(Request(prompt(seed, 9), 8, Sampling(0))) for seed in range(3))
    sampler.step()
    sampler.cancel(running)
    sampler.cancel(waiting)
    sampler.cancel(99)  # ended, or never there
    assert sampler.running == 1
    assert set(finish(sampler)) == {kept}


def test_both_distributions_are_told(plain: Any, tokenizer: Tokenizer) -> None:
    done = alone(plain, tokenizer, Request(prompt(1, 12), 6, Sampling(0.7, top_k=5), seed=2))
    ids = torch.tensor([prompt(1, 12) + done.ids])
    with torch.no_grad():
        logits_TV = plain(ids).logits[0, 11:-1]
    tokens_T1 = ids[0, 12:, None]
    plainly = logits_TV.log_softmax(-1).gather(-1, tokens_T1).squeeze(-1)
    logits_TV[:, tokenizer.pad_id] = -torch.inf
    kept_TV = logits_TV.masked_fill(logits_TV < logits_TV.topk(5).values[:, -1:], -torch.inf)
    drawn = (kept_TV / 0.7).log_softmax(-1).gather(-1, tokens_T1).squeeze(-1)
    assert done.logprobs == pytest.approx(plainly.tolist(), abs=1e-5)
    assert done.sampling_logprobs == pytest.approx(drawn.tolist(), abs=1e-5)


def test_an_adjustment_decides_what_can_be_drawn(plain: Any, tokenizer: Tokenizer) -> None:
    def only_rising(ids: Sequence[int], logits_V: Tensor) -> Tensor:
        forbidden = torch.arange(len(logits_V)) <= (ids[-1] if ids else 100)
        return logits_V.masked_fill(forbidden, -torch.inf)

    sampler = Sampler(plain, tokenizer, slots=2, capacity=POSITIONS)
    sampler.submit(Request(prompt(1, 9), 5, WARM, adjust=only_rising))
    free = Request(prompt(2, 9), 5, WARM)
    sampler.submit(free)
    done = finish(sampler)
    assert done[0].ids == sorted(set(done[0].ids)) and done[0].ids[0] > 100
    assert_same(done[1], alone(plain, tokenizer, free))


def test_impossible_requests_are_refused(plain: Any, tokenizer: Tokenizer) -> None:
    sampler = Sampler(plain, tokenizer, slots=1, capacity=20)
    for request, sentence in [
        (Request([], 1), "has no tokens"),
        (Request(prompt(1, 20), 1), "has 20 tokens and the model takes 20"),
        (Request([1, 5000], 1), "holds token 5000"),
    ]:
        with pytest.raises(CodexRayError, match=sentence):
            sampler.submit(request)
    with pytest.raises(ConfigError, match="max_new_tokens"):
        sampler.submit(Request([1], 0))
    assert sampler.running == 0
