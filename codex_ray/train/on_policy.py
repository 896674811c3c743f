"""sdft, grpo and ppo: what they make of a model's own answers, and their objectives."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from codex_ray.config.finetune import Finetune, OnPolicy
from codex_ray.errors import CodexRayError
from codex_ray.model.adapter import bare
from codex_ray.model.head import TokenHead
from codex_ray.rollout.apart import Apart, turn_of
from codex_ray.rollout.episode import Episode, Prompt, Rollout
from codex_ray.rollout.generate import prompt_ids
from codex_ray.rollout.rewards import expected, rewarded
from codex_ray.rollout.sampler import max_positions
from codex_ray.tokenizer import Tokenizer
from codex_ray.tokenizer.conversation import ChatTemplate
from codex_ray.train.agree import agree
from codex_ray.train.answers import answering_model, likeliest_answers
from codex_ray.train.documents import MarkedRows
from codex_ray.train.engine import Engine
from codex_ray.train.methods import Objectives, began_from
from codex_ray.train.objectives.demonstrated import (
    TEMPLATE,
    Completed,
    Demonstrated,
    teacher_messages,
    teacher_text,
)
from codex_ray.train.objectives.distillation import SelfDistillation
from codex_ray.train.objectives.divergence import Divergence
from codex_ray.train.objectives.gate import Advantage, log_likelihood_advantage
from codex_ray.train.objectives.grpo import GRPO, group_advantages
from codex_ray.train.objectives.next_token import NextToken
from codex_ray.train.objectives.objective import Weights
from codex_ray.train.objectives.ppo import PPO
from codex_ray.train.objectives.sequences import Sequences
from codex_ray.train.objectives.shared import attention_worth

MIX = {"forward": 0.0, "jensen_shannon": 0.5, "reverse": 1.0}


class Method:
    """One of the methods, around a model that no engine has taken yet.

    Args:
        settings: of the run.
        model: with a value head, if the method is ppo.
        tokenizer: the model's; ``folder``: where its chat template lies.
    """

    def __init__(self, settings: Finetune, model: Any, tokenizer: Tokenizer, folder: Path) -> None:
        self._settings, self._own, self._head = settings, settings.on_policy, TokenHead(model)
        self._shared = attention_worth(bare(model))
        self._tokenizer, self._template = tokenizer, ChatTemplate.of(tokenizer, folder)
        self._window, self._folder = max_positions(model) or 2**31, folder

    def objectives(self, engine: Engine) -> Objectives:
        """Return the objective, and what validation measures: the likelihood of the rows' own answers."""
        likelihood, own, temperature = NextToken(MarkedRows()), self._own, self._settings.rollout.temperature
        if self._settings.method == "sdft":
            divergence = Divergence(MIX[own.divergence], top_k=own.top_k)
            distillation = SelfDistillation(
                self._head,
                self._teacher(engine),
                divergence=divergence,
                estimator=own.estimator,
                temperature=temperature,
                skip=own.skip,
                importance="token" if self._settings.rollout.staleness else "none",
            )
            return distillation, likelihood
        adapters = bool(self._settings.lora.rank)
        reference = began_from(engine, adapters=adapters) if own.kl else nullcontext
        if self._settings.method == "ppo":
            return PPO(
                self._head, clip=own.clip, kl=own.kl, reference=reference, temperature=temperature
            ), likelihood
        grouped = GRPO(
            self._head,
            clip_low=own.clip,
            clip_high=own.clip,
            updates=own.updates,
            kl=own.kl,
            reference=reference,
            temperature=temperature,
        )
        return grouped, likelihood

    def learnable(self, rollouts: Sequence[Rollout]) -> tuple[Any, dict[str, float]]:
        """Make rollouts what the objective takes; also returns how many were left out, by reason."""
        if self._settings.method == "sdft":
            completed = [self._completed(rollout) for rollout in rollouts]
            demonstrated, counts = Demonstrated.of(completed, window=self._window)
            left_out = {"over_long": counts.left_out_over_long, "empty": counts.left_out_empty}
            return demonstrated, {f"rollout/left_out_{why}": float(n) for why, n in left_out.items()}
        rewards = [rollout.reward or 0.0 for rollout in rollouts]
        numbers = rewards if self._settings.method == "ppo" else [_advantage(one) for one in rollouts]
        name = "rewards" if self._settings.method == "ppo" else "advantages"
        rows = Sequences.of_completions(
            [rollout.prompt_ids for rollout in rollouts],
            [rollout.completion_ids for rollout in rollouts],
            masks=[rollout.mask for rollout in rollouts],
            logprobs=[rollout.sampling_logprobs for rollout in rollouts],
            rows={name: numbers},
            shared=self._shared,
        )
        return rows, {}

    def gate(self, engine: Engine, prompts: Sequence[Prompt]) -> str | None:
        """Refuse self-distillation where a demonstration in context does not help; every rank takes part.

        By ``on_policy.gate`` that is how much likelier a row's answer becomes where the teacher is shown
        another row, whose answer cannot be copied; or how much better the answers are that the model writes
        itself with the row in view, as it will teach.

        Returns:
            What was measured, for the user; None of other methods, and where nothing is asked for.

        Raises:
            CodexRayError: the gain is too small, or no demonstration fits into the model's window.
        """
        if self._settings.method != "sdft" or self._own.least_gain is None:
            return None
        by_answers = self._own.gate == "answers"
        shown = prompts if by_answers else [*prompts[1:], prompts[0]]
        teachers = [
            self._teacher_prompt(prompt.problem, expected(other.problem))
            for prompt, other in zip(prompts, shown, strict=True)
        ]
        measure = self._better_answers if by_answers else self._likelier_answers
        advantage, what = measure(engine, prompts, teachers)
        advantage.require(self._own.least_gain, what)
        return (
            f"a demonstration in context changes this model's {what} on {advantage.examples} rows from "
            f"{advantage.student:.4g} to {advantage.teacher:.4g}: it has something to teach"
        )

    def _likelier_answers(
        self, engine: Engine, prompts: Sequence[Prompt], teachers: Sequence[list[int]]
    ) -> tuple[Advantage, str]:
        if len(prompts) < 2:
            raise CodexRayError(
                "there is one row, and what another row's demonstration does for it cannot be measured; give "
                "more rows, on_policy.gate=answers, or on_policy.least_gain=null to ask for nothing"
            )
        end = self._tokenizer.special_ids["eos"]
        answers = [[*self._tokenizer.encode(expected(prompt.problem)), end] for prompt in prompts]
        behind = [
            Completed(prompt.ids, teacher, answer)
            for prompt, teacher, answer in zip(prompts, teachers, answers, strict=True)
        ]
        demonstrated, counts = Demonstrated.of(behind, window=self._window)
        if not counts.kept:
            raise self._no_room()
        micros = demonstrated.split(self._own.micro_batch_tokens)
        device = next(engine.module.parameters()).device
        ready = [micro.to(device) for micro in micros]
        advantage = log_likelihood_advantage(self._head, engine.forward, ready)
        return advantage, "log-likelihood per token of an answer, shown another row,"

    def _better_answers(
        self, engine: Engine, prompts: Sequence[Prompt], teachers: Sequence[list[int]]
    ) -> tuple[Advantage, str]:
        longest = self._settings.rollout.max_new_tokens
        pairs = list(zip(prompts, teachers, strict=True))
        fitting = [(one, teacher) for one, teacher in pairs if len(teacher) + longest <= self._window]
        if not fitting:
            raise self._no_room()
        model, count = answering_model(engine), len(fitting)
        asked = [teacher for _, teacher in fitting] + [prompt.ids for prompt, _ in fitting]
        stop = self._settings.rollout.stop
        found = likeliest_answers(model, asked, self._tokenizer, max_new_tokens=longest, stop=stop)
        episodes = [
            Episode(0, number, 0, 0, prompt, (turn_of(done),))
            for number, (prompt, done) in enumerate(zip([one for one, _ in fitting] * 2, found, strict=True))
        ]
        rewards = agree(partial(self._judged, episodes), next(engine.module.parameters()).device)
        what = f"reward {self._own.reward} of its own answers"
        return Advantage.of(rewards[:count], rewards[count:]), what

    def _judged(self, episodes: Sequence[Episode]) -> list[float]:
        """Return what the reward says of answers behind the plain prompts, in a process of its own."""
        rollouts = self._settings.rollout
        build = rewarded(self._own, rollouts, self._settings.compute, self._folder)
        seconds, what = rollouts.score_seconds, f"on_policy.reward={self._own.reward}"
        with Apart(build, seconds=seconds, what=what, key="rollout.score_seconds") as scorer:
            return [scorer.judge(episode) for episode in episodes]

    def _no_room(self) -> CodexRayError:
        return CodexRayError(
            f"no demonstration fits, with the teacher's template and the answer, into the {self._window} "
            "tokens that the model takes; give a shorter on_policy.teacher_template or shorter examples"
        )

    def _completed(self, rollout: Rollout) -> Completed:
        return Completed(
            rollout.prompt_ids,
            self._teacher_prompt(rollout.problem, expected(rollout.problem)),
            rollout.completion_ids,
            rollout.finish_reason == "length",
            rollout.sampling_logprobs,
        )

    def _teacher_prompt(self, row: dict[str, Any], demonstration: str) -> list[int]:
        template = self._own.teacher_template or TEMPLATE
        if "messages" in row:
            messages = teacher_messages(template, row["messages"][:-1], demonstration)
            return self._template.prompt(messages, row.get("tools"))
        return prompt_ids(self._tokenizer, [teacher_text(template, row["prompt"], demonstration)])[0]

    def _teacher(self, engine: Engine) -> Weights:
        if self._own.teacher == "frozen":
            return began_from(engine, adapters=bool(self._settings.lora.rank))
        if self._own.teacher == "live":
            return nullcontext
        return engine.hold(self._own.teacher_rate).in_place


def _advantage(rollout: Rollout) -> float:
    """What a rollout's reward is above its group's, in the group's deviations."""
    rewards = [*rollout.group_rewards]
    own = rollout.reward or 0.0
    place = rewards.index(own)
    return group_advantages(rewards, [0] * len(rewards))[place]


def samples_of(own: OnPolicy, method: str) -> int:
    """Return how many answers each prompt has."""
    return own.samples or (1 if method == "sdft" else 8)
