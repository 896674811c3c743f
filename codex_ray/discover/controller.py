"""The search: which solutions each step starts from, what its rollouts came to, and what to learn from them.

Every rank has the same controller: it sees the whole step's rollouts and draws from seeds of the step, so
that all know the same without asking each other again.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch.distributed as dist

from codex_ray.config.discover import Search
from codex_ray.discover.archive import Archive, Child
from codex_ray.discover.grader import Start
from codex_ray.discover.objectives import Advantages
from codex_ray.discover.problem import MINIMISE, Problem, best_known, key_of
from codex_ray.discover.problems.verdict import Verdict
from codex_ray.discover.seeds import Seed
from codex_ray.rollout.episode import Prompt, Rollout
from codex_ray.train.objectives.sequences import Sequences


@dataclass(frozen=True)
class Attempt:
    """What one rollout came to."""

    position: int
    sample: int
    parent: int
    reward: float
    text: str
    grade: dict[str, Any] | None  # None where scoring failed


class Controller:
    """Runs the archive.

    Args:
        problem: what is searched; ``seeds``: what it begins with.
        settings: of the search; ``advantages``: of rewards.
        seed: of draws.
        encode: makes a prompt's text token ids.
        shared: what attention is worth to the model, by which rollouts of one prompt are learnt together.
        found: called on every rank, with all that is known of it, after a step that gave a
            better solution than any before.
    """

    def __init__(
        self,
        problem: Problem,
        seeds: Sequence[Seed],
        settings: Search,
        advantages: Advantages,
        seed: int,
        encode: Callable[[str], list[int]],
        shared: int,
        found: Callable[[dict[str, Any]], None],
    ) -> None:
        self._problem, self._settings, self._advantages = problem, settings, advantages
        self._seed, self._encode, self._shared, self._found = seed, encode, shared, found
        self._archive = Archive(
            exploration=settings.exploration,
            capacity=settings.capacity,
            children_kept=settings.children,
            count_rollouts=settings.count == "rollout",
            scale_over=settings.scale_over,
            problem=problem.name,
        )
        self._rollouts = self._steps = 0
        self._best: dict[str, Any] = {"value": -float("inf")}
        for one in seeds:
            held = _held(one.solution, one.figure, one.reward, "", 0)
            self._archive.seed(one.value, key_of(problem.identity(one.solution)), held)
            self._take_best(one.value, None, held)
        self._told = -float("inf")

    def prompts(self, step: int) -> list[Prompt]:
        """See :class:`codex_ray.train.rollouts.Controller`."""
        return [self._prompt(number) for number in self._select(step)]

    def learnable(self, rollouts: Sequence[Rollout]) -> tuple[Sequences, dict[str, float]]:
        """Take in a step's rollouts, of all ranks; return what this rank's teach.

        Groups whose rewards are all equal teach nothing and are left out, after they were counted.
        """
        groups = _groups(_everybodys([_attempt(rollout) for rollout in rollouts]))
        self._steps += 1
        self._rollouts += sum(map(len, groups.values()))
        for attempts in groups.values():
            self._expand(attempts)
        self._tell()
        weighed = {
            position: self._advantages.of([one.reward for one in attempts])
            for position, attempts in groups.items()
        }
        figures = self._figures(groups)
        figures["discover/beta"] = statistics.median([beta for _, beta in weighed.values()] or [0.0])
        taught = [
            (rollout, weighed[rollout.position][0][_place(groups[rollout.position], rollout)])
            for rollout in rollouts
            if weighed[rollout.position][0].any()
        ]
        # A rank with nothing to learn takes part all the same, with a row in which no token counts.
        rows = taught or [(rollout, 0.0) for rollout in rollouts[:1]]
        mask = bool(taught)
        learnt = Sequences.of_completions(
            [rollout.prompt_ids for rollout, _ in rows],
            [rollout.completion_ids for rollout, _ in rows],
            masks=[[mask and own for own in rollout.mask] for rollout, _ in rows],
            logprobs=[rollout.sampling_logprobs for rollout, _ in rows],
            rows={"advantages": [float(advantage) for _, advantage in rows]},
            shared=self._shared,
        )
        each = learnt.rows["advantages"][learnt.owners]
        if dist.get_rank():  # every rank knows the same, and figures are added up over them
            figures = dict.fromkeys(figures, 0.0)
        return learnt.with_tokens(advantages=each), figures

    def saved(self) -> dict[str, Any]:
        """See :class:`codex_ray.train.rollouts.Controller`."""
        counts = {"rollouts": self._rollouts, "steps": self._steps}
        return {"archive": self._archive.to_json(), "best": self._best, **counts}

    def restore(self, saved: dict[str, Any]) -> None:
        """See :class:`codex_ray.train.rollouts.Controller`.

        Raises:
            CodexRayError: the archive is of another problem or format.
        """
        self._archive = Archive.from_json(saved["archive"], self._problem.name)
        self._best, self._rollouts, self._steps = saved["best"], saved["rollouts"], saved["steps"]

    def _select(self, step: int) -> list[int]:
        settings, archive = self._settings, self._archive
        if settings.select == "seeds":
            return [number for number, state in archive.states.items() if state.parent is None]
        if settings.select == "greedy":
            draw = np.random.default_rng([self._seed, step])
            return archive.select_greedily(settings.groups, settings.epsilon, draw)
        return archive.select(settings.groups)

    def _prompt(self, number: int) -> Prompt:
        state = self._archive.states[number]
        held = state.solution
        verdict = Verdict(True, held["reward"], state.value, held["figure"])
        text = self._problem.prompt(held["solution"], verdict)
        return Prompt(self._encode(text), Start(number, held["solution"]))

    def _expand(self, attempts: Sequence[Attempt]) -> None:
        """Have the archive know what a group came to."""
        parent, children = attempts[0].parent, []
        for one in attempts:
            if one.grade is None or not one.grade["valid"]:
                continue
            held = _held(one.grade["solution"], one.grade["figure"], one.reward, one.text, self._steps)
            children.append(Child(one.grade["value"], one.grade["key"], held))
            self._take_best(one.grade["value"], parent, held)
        if self._settings.select != "seeds":
            self._archive.expanded(parent, children, len(attempts))

    def _take_best(self, value: float, parent: int | None, held: dict[str, Any]) -> None:
        if value <= self._best["value"]:
            return
        self._best = {"value": value, **held, "parent": parent, "rollouts": self._rollouts}

    def _tell(self) -> None:
        """Say what the best is, where that was not said yet."""
        if self._best["value"] > self._told:
            self._told = self._best["value"]
            lineage = self._lineage(self._best["parent"])
            self._found({**self._best, "lineage": lineage, "tree": self._tree()})

    def _lineage(self, parent: int | None) -> list[dict[str, Any]]:
        """Return what a state was made from, the seed first; of states gone from the archive the number."""
        if parent is None:
            return []
        numbers = [parent, *self._archive.ancestors(parent)][::-1]
        states = self._archive.states
        return [
            {"number": number, **(states[number].solution if number in states else {})} for number in numbers
        ]

    def _tree(self) -> list[list[Any]]:
        """Return number, parent's number, figure and step of all solutions that are kept."""
        states = self._archive.states.values()
        return [[one.number, one.parent, one.solution["figure"], one.solution["step"]] for one in states]

    def _figures(self, groups: dict[int, list[Attempt]]) -> dict[str, float]:
        attempts = [one for group in groups.values() for one in group]
        rewards = np.array([one.reward for one in attempts])
        grades = [one.grade for one in attempts if one.grade is not None]
        valid = [grade["figure"] for grade in grades if grade["valid"]]
        quarters = dict(
            zip(("min", "q1", "median", "q3", "max"), np.quantile(rewards, np.arange(5) / 4), strict=True)
        )
        figures = {
            "discover/rollouts": float(self._rollouts),
            "discover/valid_share": sum(grade["valid"] for grade in grades) / len(attempts),
            "discover/constant_groups": float(
                sum(len({one.reward for one in group}) == 1 for group in groups.values())
            ),
            "discover/states": float(len(self._archive.states)),
            **{f"discover/reward_{name}": float(number) for name, number in quarters.items()},
        }
        if valid:
            figures["discover/step_best"] = (min if self._problem.direction == MINIMISE else max)(valid)
        figures["discover/best"] = self._best["figure"]
        known = best_known(self._problem)
        if known is not None:
            apart = self._best["figure"] - known
            figures["discover/gap"] = apart if self._problem.direction == MINIMISE else -apart
        return figures


def _held(solution: Any, figure: float, reward: float, text: str, step: int) -> dict[str, Any]:
    """What the archive keeps of a solution."""
    return {"solution": solution, "figure": figure, "reward": reward, "text": text, "step": step}


def _attempt(rollout: Rollout) -> Attempt:
    text = "".join(rollout.text)
    parent: Start = rollout.problem
    reward = 0.0 if rollout.reward is None else rollout.reward
    return Attempt(rollout.position, rollout.sample, parent.number, reward, text, rollout.detail)


def _everybodys(own: list[Attempt]) -> list[Attempt]:
    """Return the attempts of all ranks."""
    shares: list[list[dict[str, Any]]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(shares, [asdict(one) for one in own])
    return [Attempt(**one) for share in shares for one in share]


def _groups(attempts: Sequence[Attempt]) -> dict[int, list[Attempt]]:
    groups: dict[int, list[Attempt]] = {}
    for one in sorted(attempts, key=lambda one: (one.position, one.sample)):
        groups.setdefault(one.position, []).append(one)
    return groups


def _place(group: Sequence[Attempt], rollout: Rollout) -> int:
    return next(place for place, one in enumerate(group) if one.sample == rollout.sample)
