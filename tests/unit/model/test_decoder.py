"""The decoder as a whole: residual kinds, caches, padding, losses, precision, checkpointing."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

from codex_ray.model import CodexRayForCausalLM, mixing_gains, next_token_loss_sum
from codex_ray.model.hyper_connections import Mixer
from tests.unit.model.small import KINDS, VOCABULARY, build, stir, tokens


def plain_twin(model: CodexRayForCausalLM, **changes: object) -> CodexRayForCausalLM:
    """A plain model with the same weights outside mixers."""
    twin = build("plain", **changes).to(model.dtype)
    missing, unexpected = twin.load_state_dict(model.state_dict(), strict=False)
    assert not missing
    assert all("mixer" in name for name in unexpected)
    return twin


@pytest.mark.parametrize("kind", KINDS)
def test_one_stream_is_the_plain_residual_bit_for_bit(kind: str) -> None:
    model = build(kind, streams=1)
    ids = tokens()
    assert not [name for name, _ in model.named_parameters() if "mixer" in name]
    assert torch.equal(model(ids).logits, plain_twin(model)(ids).logits)


@pytest.mark.parametrize("kind", ["mhc", "mhc_permutation", "identity"])
def test_initial_model_equals_the_plain_one(kind: str) -> None:
    ids = tokens()
    model = build(kind)
    close = (model(ids).logits - plain_twin(model)(ids).logits).norm() / model(ids).logits.norm()
    assert close < 2e-3
    exact = build(kind, residual={"off_diagonal_init": -3.0}).double()
    for name, parameter in exact.named_parameters():
        if name.endswith("mixer.phi"):
            parameter.data.zero_()
    twin = plain_twin(exact)
    gap = (exact(ids).logits - twin(ids).logits).norm() / twin(ids).logits.norm()
    assert gap < 2e-5  # what is left is the epsilon of the read gates and of the normalisation


def test_streams_part_under_training_and_never_without_symmetry_breaking() -> None:
    ids = tokens(4, 16)

    def spread_after_training(broken: bool) -> float:
        model = build("mhc").train()
        if not broken:
            for name, parameter in model.named_parameters():
                if name.endswith("mixer.phi"):
                    parameter.data.zero_()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(5):
            optimizer.zero_grad()
            next_token_loss_sum(model, ids).backward()
            optimizer.step()
        last: list[Tensor] = []
        model.model.layers[-1].register_forward_hook(lambda _, __, output: last.append(output))
        model.eval()(ids)
        return (last[0] - last[0].mean(2, keepdim=True)).abs().max().item()

    assert spread_after_training(broken=True) > 1e-3
    assert spread_after_training(broken=False) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("exit_kind", ["mean", "learned"])
def test_cached_decoding_equals_one_pass(kind: str, exit_kind: str) -> None:
    model = stir(build(kind, residual={"exit": exit_kind}))
    ids = tokens(2, 12)
    whole = model(ids).logits
    cache = DynamicCache(config=model.config)
    parts = [model(ids[:, :5], past_key_values=cache, use_cache=True).logits]
    parts += [
        model(ids[:, place : place + 1], past_key_values=cache, use_cache=True).logits
        for place in range(5, 12)
    ]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["mhc", "plain"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_on_either_side_changes_nothing(kind: str, attention: str) -> None:
    model = stir(build(kind))
    model.set_attn_implementation(attention)
    rows = [tokens(1, length, seed=length)[0] for length in (5, 12, 9)]
    alone = [model(row[None]).logits[0] for row in rows]
    for side in ("left", "right"):
        ids = torch.full((3, 12), 3)
        mask = torch.zeros(3, 12, dtype=torch.long)
        places = []
        for index, row in enumerate(rows):
            place = slice(12 - len(row), 12) if side == "left" else slice(0, len(row))
            ids[index, place], mask[index, place] = row, 1
            places.append(place)
        logits = model(ids, attention_mask=mask).logits
        for index, place in enumerate(places):
            torch.testing.assert_close(logits[index, place], alone[index], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("length", [7, 40])
def test_short_rows_attend_as_the_library_does(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = stir(build("plain")), tokens(2, length)
    ours = model(ids).logits
    model.set_attn_implementation("eager")
    eager = model(ids).logits
    model.set_attn_implementation("sdpa")
    monkeypatch.setattr("codex_ray.model.modeling.ATTENTION_LENGTH", 0)
    torch.testing.assert_close(ours, eager, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours, model(ids).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_generation_is_the_same_with_and_without_cache(kind: str) -> None:
    model = stir(build(kind))
    ids = tokens(2, 6)
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    cached = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    again = model.generate(ids, attention_mask=torch.ones_like(ids), use_cache=False, **options)
    assert cached.shape == (2, 14)
    assert torch.equal(cached, again)


def test_left_padded_generation_equals_each_row_alone() -> None:
    model = stir(build("mhc"))
    rows = [tokens(1, 4)[0], tokens(1, 7, seed=5)[0]]
    ids, mask = torch.full((2, 7), 3), torch.zeros(2, 7, dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, 7 - len(row) :], mask[index, 7 - len(row) :] = row, 1
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    together = model.generate(ids, attention_mask=mask, **options)[:, 7:]
    for index, row in enumerate(rows):
        alone = model.generate(row[None], attention_mask=torch.ones_like(row[None]), **options)
        assert torch.equal(together[index], alone[0, len(row) :])


def test_logits_to_keep_and_hidden_states() -> None:
    model, ids = build("mhc"), tokens(2, 9)
    whole = model(ids, output_hidden_states=True)
    assert torch.equal(model(ids, logits_to_keep=2).logits, whole.logits[:, -2:])
    assert [tuple(states.shape) for states in whole.hidden_states] == [(2, 9, 24)] * 4
    assert torch.equal(whole.hidden_states[0], model.get_input_embeddings()(ids))
    model.set_attn_implementation("eager")
    assert len(model(ids, output_attentions=True).attentions) == 3


def expected_loss(model: CodexRayForCausalLM, ids: Tensor, labels: Tensor) -> Tensor:
    logits = model(ids).logits[:, :-1].flatten(0, 1).float()
    return functional.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum", ignore_index=-100)


@pytest.mark.parametrize("return_logits", [True, False])
def test_shifted_labels_are_those_of_the_next_places(return_logits: bool) -> None:
    model, ids = stir(build("mhc")), tokens(3, 10)
    shifted = functional.pad(ids, (0, 1), value=-100)[:, 1:].contiguous()
    plain = model(ids, labels=ids, return_logits=return_logits, num_items_in_batch=1).loss
    given = model(ids, shift_labels=shifted, return_logits=return_logits, num_items_in_batch=1).loss
    assert torch.equal(plain, given)


@pytest.mark.parametrize("return_logits", [True, False])
def test_loss_is_the_mean_or_the_sum_over_a_given_count(return_logits: bool) -> None:
    model, ids = stir(build("mhc")), tokens(3, 10)
    labels = ids.clone()
    labels[0, :4] = -100
    total, count = expected_loss(model, ids, labels), int((labels[:, 1:] != -100).sum())
    output = model(ids, labels=labels, return_logits=return_logits)
    assert (output.logits is not None) == return_logits
    torch.testing.assert_close(output.loss, total / count)
    summed = model(ids, labels=labels, return_logits=return_logits, num_items_in_batch=7)
    torch.testing.assert_close(summed.loss, total / 7)


@pytest.mark.parametrize("kind", ["mhc", "plain"])
@pytest.mark.parametrize("tied", [True, False])
def test_loss_sum_has_the_gradients_of_the_plain_computation(kind: str, tied: bool) -> None:
    model, ids = stir(build(kind, tie_embeddings=tied)), tokens(3, 10)
    loss = next_token_loss_sum(model, ids)
    expected = expected_loss(model, ids, ids)
    torch.testing.assert_close(loss, expected)
    parameters = dict(model.named_parameters())
    got = torch.autograd.grad(loss, list(parameters.values()))
    wanted = torch.autograd.grad(expected, list(parameters.values()))
    for name, left, right in zip(parameters, got, wanted, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_changes_no_gradient(kind: str) -> None:
    model, ids = stir(build(kind)).train(), tokens()

    def gradients() -> dict[str, Tensor]:
        model.zero_grad()
        next_token_loss_sum(model, ids).backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    expected = gradients()
    model.activation_checkpointing_enable()
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_in_bf16_train_as_an_engine_casts_them(kind: str) -> None:
    exact = stir(build(kind)).train()
    model = copy.deepcopy(exact)
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    assert all(buffer.dtype == torch.float32 for buffer in model.buffers())
    ids = tokens(4, 30)
    loss, expected = next_token_loss_sum(model, ids), next_token_loss_sum(exact, ids)
    assert loss.item() == pytest.approx(expected.item(), rel=5e-3)
    loss.backward()
    expected.backward()
    got = torch.cat([parameter.grad.float().flatten() for parameter in model.parameters()])
    wanted = torch.cat([parameter.grad.flatten() for parameter in exact.parameters()])
    assert (got - wanted).norm() < 0.05 * wanted.norm()
    if kind not in ("hc", "plain"):
        gains = mixing_gains(model, ids)
        assert gains["row_gain"] == pytest.approx(1, abs=2e-4)


def test_bf16_mixing_does_not_drift_over_many_layers() -> None:
    """With coefficients rounded to bf16 the gain of 60 sublayers leaves one by several per cent."""
    model = build("mhc", layers=30)
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    gains = mixing_gains(model, tokens(1, 16))
    assert gains["row_gain"] == pytest.approx(1, abs=2e-4)
    assert gains["column_gain"] == pytest.approx(1, abs=1e-2)
    rounded = torch.eye(4)
    for mixer in (module for module in model.modules() if isinstance(module, Mixer)):
        writing = mixer(torch.randn(1, 1, 4, 24).bfloat16())[1][0, :, :4]
        rounded = writing.bfloat16().float() @ rounded
    assert (rounded.sum(1) - 1).abs().max() > 0.02


def test_it_learns_one_batch_by_heart() -> None:
    model, ids = build("mhc").train(), tokens(2, 12)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        loss = next_token_loss_sum(model, ids) / 22
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    assert loss.item() < 0.05 * torch.tensor(float(VOCABULARY)).log().item()
