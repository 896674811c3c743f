"""What sdft, grpo and ppo make of rollouts, on a tiny model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from codex_ray.config.common import Device
from codex_ray.config.corpus import Tokenizer as Train
from codex_ray.config.finetune import Finetune, OnPolicy
from codex_ray.config.model import Model, Residual
from codex_ray.errors import CodexRayError
from codex_ray.model import build_model
from codex_ray.model.reward import start_reward_model
from codex_ray.rollout.episode import Prompt, Rollout
from codex_ray.rollout.request import Completion
from codex_ray.tokenizer import Tokenizer, train_tokenizer
from codex_ray.train import on_policy
from codex_ray.train.answers import likeliest_answers
from codex_ray.train.objectives.gate import Advantage
from codex_ray.train.on_policy import Method, samples_of

ROW = {"prompt": "sort 3 1 2 = ", "response": "1 2 3"}
CHAT = {"messages": [{"role": "user", "content": "sort 3 1"}, {"role": "assistant", "content": "1 3"}]}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(
        ["sort 3 1 2 = 1 2 3\nHere is a response, as an example\n"] * 50,
        Train(vocabulary_size=290),
        folder,
        1,
    )
    return Tokenizer.load(folder)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Any:
    shape = Model(
        hidden_size=32, intermediate_size=48, layers=1, heads=4, key_value_heads=2, head_size=8,
        residual=Residual(kind="plain"),
    )  # fmt: skip
    return build_model(
        shape, vocabulary_size=tokenizer.vocabulary_size, sequence_length=600, seed=3,
        special_ids=tokenizer.special_ids,
    )  # fmt: skip


@dataclass
class Alone:
    """A model that no engine has taken, where one is asked for."""

    module: Any
    stage: int = 0

    def forward(self, **inputs: Any) -> Any:
        return self.module(**inputs)


def rollout(
    tokenizer: Tokenizer, reward: float, group: tuple[float, ...], row: dict[str, Any] = ROW
) -> Rollout:
    completion = [*tokenizer.encode("1 2"), tokenizer.eos_id or 0]
    prompt = [tokenizer.bos_id or 0, *tokenizer.encode("sort 3 1 2 = ")]
    numbers = [-0.5] * len(completion)
    return Rollout(
        0, 0, 0, 0, prompt, completion, [True] * len(completion), numbers, numbers, ["1 2"], "stop", reward,
        None, row, group,
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_rank() -> Iterator[None]:
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


def method(model: Any, tokenizer: Tokenizer, name: str, tmp_path: Path, **own: Any) -> Method:
    compute = Device("cpu", "float32")
    return Method(
        Finetune(method=name, on_policy=OnPolicy(**own), compute=compute), model, tokenizer, tmp_path
    )


def test_groups_become_advantages_and_prompts_are_not_learnt(
    model: Any, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    made, _ = method(model, tokenizer, "grpo", tmp_path).learnable(
        [
            rollout(tokenizer, 1.0, (1.0, 0.0)),
            rollout(tokenizer, 0.0, (1.0, 0.0)),
            rollout(tokenizer, 0.5, (0.5,)),
        ]
    )
    first, second, alone = made.rows["advantages"].tolist()
    assert first == -second == pytest.approx(0.7071, abs=1e-3) and alone == 0.0
    assert made.targets.tolist()[-1] == tokenizer.eos_id
    assert made.at("sampler_logprobs").unique().tolist() == [-0.5]
    raw, _ = method(model, tokenizer, "ppo", tmp_path).learnable([rollout(tokenizer, 0.25, (0.25,))])
    assert raw.rows["rewards"].tolist() == [0.25]
    assert (samples_of(OnPolicy(), "sdft"), samples_of(OnPolicy(), "grpo")) == (1, 8)


def test_a_rank_without_rollouts_has_blank_rows(model: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    for name in ("grpo", "sdft"):
        learnt, _ = method(model, tokenizer, name, tmp_path).learnable([])
        (blank,) = learnt.split(64, at_least=1)
        assert blank.shape[0] == 1
    assert not blank.student.mask_BS.any()


def test_the_teacher_reads_the_answer_and_scores_the_same_tokens(
    model: Any, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    made = method(model, tokenizer, "sdft", tmp_path)
    both, left_out = made.learnable([rollout(tokenizer, 0.0, ()), rollout(tokenizer, 0.0, (), CHAT)])
    assert torch.equal(both.student.targets, both.teacher.targets)
    assert left_out == {"rollout/left_out_over_long": 0.0, "rollout/left_out_empty": 0.0}
    texts = [tokenizer.decode(ids.tolist()) for ids in both.teacher.input_ids_BS]
    assert all("as an example" in text for text in texts)
    assert "sort 3 1 2 = " in texts[0] and "1 2 3" in texts[0] and "user\nsort 3 1" in texts[1]
    student = tokenizer.decode(both.student.input_ids_BS[0].tolist())
    assert "as an example" not in student


def prompts_of(tokenizer: Tokenizer, rows: list[dict[str, str]]) -> list[Prompt]:
    begin = tokenizer.bos_id or 0
    return [Prompt([begin, *tokenizer.encode(row["prompt"])], row) for row in rows]


ROWS = [
    {"prompt": f"sort {a} {b} = ", "response": f"{min(a, b)} {max(a, b)}"}
    for a, b in ((3, 1), (2, 1), (3, 2))
]


def test_the_gate_refuses_a_teacher_whom_demonstrations_do_not_help(
    model: Any, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    prompts = prompts_of(tokenizer, ROWS)
    engine: Any = Alone(model)
    for gate, sentence in (
        ("likelihood", "of an answer, shown another row,"),
        ("answers", "reward exact of"),
    ):
        with pytest.raises(CodexRayError, match=f"{sentence}.* so it would teach noise"):
            method(model, tokenizer, "sdft", tmp_path, least_gain=1.0, gate=gate).gate(engine, prompts)
    assert method(model, tokenizer, "grpo", tmp_path, least_gain=1.0).gate(engine, prompts) is None
    assert method(model, tokenizer, "sdft", tmp_path, least_gain=None).gate(engine, prompts) is None
    with pytest.raises(CodexRayError, match=r"there is one row, .* give more rows, on_policy\.gate=answers"):
        method(model, tokenizer, "sdft", tmp_path).gate(engine, prompts[:1])
    long = [Prompt(prompts[0].ids, {"prompt": "sort", "response": "1 2 3 " * 200})] * 2
    for gate in ("likelihood", "answers"):
        with pytest.raises(CodexRayError, match=r"shorter on_policy\.teacher_template"):
            method(model, tokenizer, "sdft", tmp_path, gate=gate).gate(engine, long)


def test_a_reward_model_judges_the_answers_of_the_gate(
    model: Any, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """It reads the tokens behind the plain prompt, as it would in training, and no teacher's prompt."""
    model.save_pretrained(tmp_path / "policy")
    tokenizer.save(tmp_path / "policy")
    judge = start_reward_model(tmp_path / "policy")
    torch.nn.init.normal_(judge.score.weight, generator=torch.Generator().manual_seed(1))
    judge.save_pretrained(tmp_path / "judge")
    tokenizer.save(tmp_path / "judge")
    prompts = prompts_of(tokenizer, ROWS)
    wanted = {"gate": "answers", "reward": str(tmp_path / "judge")}
    one = method(model, tokenizer, "sdft", tmp_path / "policy", **wanted)
    engine: Any = Alone(model)
    advantage, what = one._better_answers(engine, prompts, [prompt.ids for prompt in prompts])
    assert advantage.gain == 0.0 and str(tmp_path / "judge") in what
    answers = likeliest_answers(model, [one.ids for one in prompts], tokenizer, max_new_tokens=128)
    with torch.inference_mode():
        rows = [torch.tensor([[*one.ids, *done.ids]]) for one, done in zip(prompts, answers, strict=True)]
        scores = [float(judge(input_ids=row, use_cache=False).logits) for row in rows]
    assert advantage.student == pytest.approx(sum(scores) / len(scores), abs=1e-4)


def test_the_teacher_of_the_gate_is_shown_another_row_whose_answer_it_cannot_copy(
    model: Any, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def measured(head: Any, forward: Any, micros: list[Any]) -> Advantage:
        seen.extend(micros)
        return Advantage.of([1.0, 1.1, 0.9], [0.0, 0.0, 0.0])

    monkeypatch.setattr(on_policy, "log_likelihood_advantage", measured)
    told = method(model, tokenizer, "sdft", tmp_path).gate(Alone(model), prompts_of(tokenizer, ROWS))  # type: ignore[arg-type]
    assert told is not None and "on 3 rows from 0 to 1: it has something to teach" in told
    read = [
        tokenizer.decode(ids[:-1][~mask[:-1]].tolist())
        for micro in seen
        for ids, mask in zip(micro.teacher.input_ids_BS, micro.teacher.mask_BS.bool(), strict=True)
    ]
    for row, other in zip(ROWS, [*ROWS[1:], ROWS[0]], strict=True):
        (text,) = [text for text in read if row["prompt"] in text]
        assert other["response"] in text and row["response"] not in text


def test_the_gate_by_answers_has_the_model_write_with_its_own_row_in_view(
    model: Any, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written(_: Any, prompts: list[list[int]], *__: Any, **settings: Any) -> list[Completion]:
        assert settings["max_new_tokens"] == 128 and len(prompts) == 2 * len(ROWS)
        texts = [tokenizer.decode(ids) for ids in prompts]
        right = [next((r["response"] for r in ROWS if r["response"] in text), "no") for text in texts]
        return [Completion([], text, [], [], "stop") for text in right]

    monkeypatch.setattr(on_policy, "likeliest_answers", written)
    made = method(model, tokenizer, "sdft", tmp_path, gate="answers", least_gain=0.5)
    told = made.gate(Alone(model), prompts_of(tokenizer, ROWS))  # type: ignore[arg-type]
    assert told is not None and "reward exact of its own answers on 3 rows from 0 to 1" in told
