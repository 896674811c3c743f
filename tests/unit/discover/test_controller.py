"""The search without a model: what is started from, kept, learnt and remembered."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from codex_ray.config.discover import Learn, Search
from codex_ray.discover.controller import Controller
from codex_ray.discover.grader import Grader, Grading
from codex_ray.discover.objectives import Advantages
from codex_ray.discover.problems.verdict import Verdict
from codex_ray.discover.seeds import Seed, graded_seeds
from codex_ray.discover.solution import SolutionFile, certified, read_solution
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.rollout.episode import Episode, Prompt, Rollout, Scored, Turn
from tests.unit.discover.climb import Climb

SEARCH = Search(groups=3, samples=4)
PATH = "tests.unit.discover.climb.Climb"


@pytest.fixture(scope="module", autouse=True)
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One rank."""
    store = dist.FileStore(str(tmp_path_factory.mktemp("store") / "file"), 1)
    dist.init_process_group("gloo", rank=0, world_size=1, store=store)
    yield
    dist.destroy_process_group()


def controller(found: list[Any] | None = None, learn: Learn | None = None, **changes: Any) -> Controller:
    told = [] if found is None else found
    search = replace(SEARCH, **changes)
    seeds = Seed.graded(Climb(), 1, search.groups)
    return Controller(
        Climb(), seeds, search, Advantages(learn or Learn()), 1, lambda text: [1, 2], 0, told.append
    )


def episode(prompt: Prompt, text: str, *, finish: str = "stop", step: int = 0, sample: int = 0) -> Episode:
    ids = [ord(letter) for letter in text] or [2]
    turn = Turn(None, [], ids, text, text, [-1.0] * len(ids), [-1.0] * len(ids), finish)
    return Episode(step, 0, sample, 0, prompt, (turn,))


def rollouts(prompts: list[Prompt], step: int, samples: int = 4) -> list[Rollout]:
    """What some model would write, graded."""
    draw, grader, made = random.Random(step), Grader(Climb(), None), []
    for position, prompt in enumerate(prompts):
        group = []
        for sample in range(samples):
            text = "".join(draw.choices("abcdefghi", k=draw.randint(1, 8)))
            one = replace(episode(prompt, text, step=step, sample=sample), position=position)
            scored = grader.score(one)
            group.append((one, scored))
        rewards = tuple(scored.reward for _, scored in group)
        for one, scored in group:
            turn = one.turns[0]
            made.append(
                Rollout(
                    *one.key, 0, list(prompt.ids), turn.ids, [True] * len(turn.ids), turn.logprobs,
                    turn.sampling_logprobs, [turn.text], "stop", scored.reward, None, prompt.problem,
                    rewards, scored.detail,
                )
            )  # fmt: skip
    return made


def searched(search: Controller, steps: range) -> list[dict[str, float]]:
    return [search.learnable(rollouts(search.prompts(step), step))[1] for step in steps]


def test_a_search_climbs_and_tells_of_each_better_solution_with_its_lineage() -> None:
    found: list[Any] = []
    search = controller(found)
    told = searched(search, range(6))
    assert told[-1]["discover/best"] > 2 and told[-1]["discover/rollouts"] == 72
    assert [row["discover/best"] for row in told] == sorted(row["discover/best"] for row in told)
    assert told[-1]["discover/gap"] == pytest.approx(10 - told[-1]["discover/best"])
    values = [one["value"] for one in found]
    assert values == sorted(set(values)) and values[-1] == told[-1]["discover/best"]
    best = found[-1]
    figures = [one["figure"] for one in best["lineage"]]
    assert (
        len(figures) >= 3
        and figures == sorted(figures)
        and figures[0] < 0.05
        and figures[-1] < best["figure"]
    )
    assert best["step"] > best["lineage"][-1]["step"] and best["text"]
    tree = {number: (parent, figure) for number, parent, figure, _ in best["tree"]}
    assert [tree[one["number"]][1] for one in best["lineage"]] == figures
    assert (best["lineage"][-1]["number"], best["figure"]) in tree.values()
    assert len({parent for parent, _ in tree.values()}) < len(tree) - 1  # it branches


def test_a_search_that_is_restored_goes_on_to_the_same_end() -> None:
    whole = controller()
    told = searched(whole, range(6))
    first = controller()
    searched(first, range(3))
    again = controller()
    again.restore(json.loads(json.dumps(first.saved())))
    assert searched(again, range(3, 6)) == told[3:]
    assert again.saved() == whole.saved()


def test_what_is_remembered_of_another_problem_is_refused() -> None:
    saved = controller().saved()
    saved["archive"]["problem"] = "other"
    with pytest.raises(CodexRayError, match="archive is of problem 'other'"):
        controller().restore(saved)


def test_groups_that_are_all_alike_teach_nothing_and_count() -> None:
    search = controller()
    prompts = search.prompts(0)
    alike = [replace(one, reward=0.0, detail=None) for one in rollouts(prompts, 0)]
    learnt, figures = search.learnable(alike)
    assert learnt.shape[0] == 1 and not learnt.mask_BS.any()
    assert figures["discover/constant_groups"] == 3 and figures["discover/valid_share"] == 0
    assert search.saved()["archive"]["expansions"] == 3
    mixed = rollouts(search.prompts(1), 1)
    mixed = [replace(one, reward=1.0) if one.position == 0 else one for one in mixed]
    learnt, figures = search.learnable(mixed)
    assert figures["discover/constant_groups"] == 1 and learnt.shape[0] == 8


def test_every_token_has_its_rollouts_advantage_and_forced_ones_are_left_out() -> None:
    search = controller()
    made = rollouts(search.prompts(0), 0)
    made[0] = replace(made[0], mask=[False, *made[0].mask[1:]])
    learnt, _ = search.learnable(made)
    weighed, _ = Advantages(Learn()).of([one.reward or 0.0 for one in made[:4]])
    assert learnt.at("advantages")[learnt.owners == 1].tolist() == pytest.approx(
        [weighed[1]] * len(made[1].mask)
    )
    assert int(learnt.counts[0]) == len(made[0].mask) - 1


def test_without_reuse_starts_are_always_the_seeds() -> None:
    search = controller(select="seeds")
    first = [one.problem for one in search.prompts(0)]
    searched(search, range(3))
    assert [one.problem for one in search.prompts(3)] == first
    assert search.saved()["best"]["value"] > max(start.solution for start in first)


def test_greedy_draws_follow_from_the_step() -> None:
    search = controller(select="greedy", epsilon=0.5)
    searched(search, range(3))
    assert search.prompts(3) == search.prompts(3)
    assert any(search.prompts(3) != search.prompts(step) for step in range(4, 9))


@pytest.mark.parametrize("objective", ["adaptive", "constant", "expected", "standardised", "none"])
def test_objectives_by_name(objective: str) -> None:
    rewards = [0.0, 0.0, 0.3, 0.4]
    weights, beta = Advantages(Learn(objective=objective)).of(rewards)
    assert (beta > 0) == (objective in ("adaptive", "constant"))
    if objective == "none":
        assert not weights.any()
        return
    assert weights[3] > weights[2] > weights[1] == weights[0]
    scaled, _ = Advantages(Learn(objective=objective)).of([10 * reward + 5 for reward in rewards])
    same = objective in ("adaptive", "standardised")
    assert (scaled == pytest.approx(weights, rel=1e-3)) == same


def test_a_seed_that_its_own_verifier_refuses_is_said() -> None:
    class Broken(Climb):
        def seeds(self, seed: int, count: int) -> list[Any]:
            return [-1.0]

    with pytest.raises(ConfigError, match="its own verifier refuses"):
        Seed.graded(Broken(), 1, 1)


def test_graders_force_an_answer_once_and_give_nothing_for_one_that_is_cut_off() -> None:
    grader = Grading(PATH, None, {}, "so:")()
    assert isinstance(grader, Grader)
    start = controller().prompts(0)[0]
    cut = episode(start, "aaab", finish="length")
    assert grader.respond(cut) == "so:" and grader.respond(episode(start, "aaab")) is None
    scored = grader.score(cut)
    assert scored == Scored(0.0, scored.detail) and "cut off" in scored.detail["reason"]
    second = Turn("so:", [1], [97], "ae", "ae", [-1.0], [-1.0], "stop")
    forced = replace(cut, turns=(*cut.turns, second))
    assert grader.respond(forced) is None
    assert grader.score(forced).detail["solution"] == pytest.approx(start.problem.solution + 6 / 9)


def test_solutions_are_certified_and_what_is_none_is_refused(tmp_path: Path) -> None:
    found: list[Any] = []
    searched(controller(found), range(2))
    file = SolutionFile(tmp_path / "solution.json", PATH, None)
    file.write(found[-1])
    assert certified(file.path, Climb())["certificate"] == {}
    held = read_solution(file.path)
    file.path.write_text(json.dumps({**held, "figure": held["figure"] + 1}))
    with pytest.raises(CodexRayError, match="graded again it does not hold"):
        certified(file.path, Climb())
    for text in ("[]", '{"format": 7, "solution": 1}', '{"format": 1}', "no JSON"):
        file.path.write_text(text)
        with pytest.raises(CodexRayError):
            read_solution(file.path)


def test_seeds_are_graded_once(tmp_path: Path) -> None:
    path = tmp_path / "seeds.jsonl"
    seeds = graded_seeds(Climb(), 1, 3, path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["def at 0.00 ", "def at 0.01 ", "def at 0.02 "]

    class Other(Climb):
        def verify(self, solution: Any) -> Verdict:
            raise AssertionError("not again")

    assert graded_seeds(Other(), 1, 3, path) == seeds
    path.write_text('{"prompt": 3}\n')
    with pytest.raises(CodexRayError, match="damaged"):
        graded_seeds(Climb(), 1, 3, path)
