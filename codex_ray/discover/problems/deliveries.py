"""Deliveries: a heuristic optimisation problem in the style of AtCoder's, scored over many seeded cases.

A case has 60 orders, each from one place of a grid to another, and asks for 20 of them and a route that
starts and ends in the middle and collects every order before it is delivered; a shorter route is better. A
program reads the case and prints the route, in a time limit, in a sandbox of its own for each case. Scores
are recomputed from the route in whole numbers; what was found is graded on other cases at the end.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from codex_ray.discover.problem import MAXIMISE, Bound, Problem
from codex_ray.discover.problems.blocks import PYTHON, last_block
from codex_ray.discover.problems.python import InSandbox
from codex_ray.discover.problems.verdict import Verdict
from codex_ray.errors import ConfigError

ORDERS, WANTED, SIDE = 60, 20, 1000
MIDDLE = (SIDE // 2, SIDE // 2)
SCALE = 10**9  # of a case's score: SCALE / (1000 + length)
FEWEST = 150

GREEDY = """\
def main():
    count, wanted = map(int, input().split())
    orders = [tuple(map(int, input().split())) for _ in range(count)]

    def far(a, b):
        return abs(a[0] - b[0]) + abs(a[1] - b[1])

    here, left, held, done, route = (500, 500), set(range(count)), set(), 0, []
    while done < wanted:
        steps = [(far(here, orders[i][2:]), i, 1) for i in held]
        if done + len(held) < wanted:
            steps += [(far(here, orders[i][:2]), i, 0) for i in left]
        _, order, delivers = min(steps)
        (held if delivers else left).remove(order)
        if delivers:
            done += 1
        else:
            held.add(order)
        here = orders[order][2:] if delivers else orders[order][:2]
        route.append(order + 1)
    print(*route)


main()
"""

_TASK = f"""\
Deliveries. Standard input: a line "{ORDERS} {WANTED}", then {ORDERS} lines "a b c d": an order from (a, b)
to (c, d), whole numbers from 0 to {SIDE}. Choose {WANTED} orders and a route from ({MIDDLE[0]}, {MIDDLE[1]})
back to it. Print the route as {2 * WANTED} numbers of orders, counted from 1: the first time that a number
stands there the order is collected, the second time it is delivered. Length is in Manhattan distance; a case
scores
{SCALE} / (1000 + length), and the figure is the mean over the cases."""


class Deliveries(Problem):
    """The problem.

    Args:
        cases: that a program is scored on, from seed 0 on.
        seconds: time limit of a case.
        sandbox: other settings of the sandbox.
    """

    name = "deliveries"
    direction = MAXIMISE

    def __init__(
        self, cases: int = FEWEST, seconds: float = 2.0, sandbox: Mapping[str, Any] | None = None
    ) -> None:
        if cases < 1:
            raise ConfigError(f"deliveries needs a case or more, not {cases}")
        self._cases, self._seconds = cases, seconds
        limits = {"wall_seconds": seconds, "cpu_seconds": max(1, round(seconds)), "processes": 1}
        self._cell = InSandbox(sandbox, **limits)
        self.baseline = (
            Bound(BASELINE, "always the nearest place that may come next") if cases == FEWEST else None
        )

    def seeds(self, seed: int, count: int) -> list[Any]:
        """Return the baseline's program."""
        return [GREEDY]

    def verify(self, solution: Any) -> Verdict:
        """Run a program on every case; one that it fails makes it no solution."""
        return self._graded(solution, 0)

    def certificate(self, solution: Any) -> dict[str, Any]:
        """Return the figure on as many other cases, which no search has seen."""
        other = self._graded(solution, 10**6)
        how = f"mean score of {self._cases} cases from seed {10**6} on, and of those that the search saw"
        return {"figure_elsewhere": other.figure, "reason_elsewhere": other.reason, "how": how}

    def _graded(self, solution: Any, first: int) -> Verdict:
        if not isinstance(solution, str):
            return Verdict.refused(f"a program is text, not a {type(solution).__name__}")
        total = 0
        for seed in range(first, first + self._cases):
            orders = case(seed)
            done = self._cell.sandbox.run(solution, stdin=written(orders))
            if not done.ok:
                return Verdict.refused(f"case {seed}: {done.reason}")
            length = length_of(done.stdout, orders)
            if isinstance(length, str):
                return Verdict.refused(f"case {seed}: {length}")
            total += round(SCALE / (1000 + length))
        mean = total / self._cases
        return Verdict(valid=True, reward=mean / 10**5, value=mean, figure=mean)

    def prompt(self, solution: Any, verdict: Verdict) -> str:
        """Tell the task, and the program to be bettered."""
        limit = (
            "Write one Python program in a block of code at the end of your answer. It has "
            f"{self._seconds:g} seconds for a case and one thread; nothing is kept from case to case."
        )
        return f"{_TASK}\n\n{limit}\n\nNow: {verdict.figure:.2f}, by\n```python\n{solution}```\n"

    def read(self, solution: Any, text: str) -> Any:
        """Take the answer's program; it runs when it is graded."""
        return last_block(text, PYTHON)


BASELINE = 124_299.95  # of GREEDY, on 150 cases

Order = tuple[int, int, int, int]


def case(seed: int) -> list[Order]:
    """Return the orders of a case: places around a few centres and anywhere."""
    draw = random.Random(f"deliveries {seed}")
    centres = [(draw.randint(0, SIDE), draw.randint(0, SIDE)) for _ in range(5)]

    def place() -> tuple[int, int]:
        if draw.random() < 0.5:
            return draw.randint(0, SIDE), draw.randint(0, SIDE)
        x, y = draw.choice(centres)
        return tuple(min(SIDE, max(0, round(draw.gauss(at, 80)))) for at in (x, y))  # type: ignore[return-value]

    return [(*place(), *place()) for _ in range(ORDERS)]


def written(orders: list[Order]) -> str:
    """Return a case as a program reads it."""
    lines = [f"{len(orders)} {WANTED}", *(" ".join(map(str, order)) for order in orders)]
    return "\n".join(lines) + "\n"


def length_of(printed: str, orders: list[Order]) -> int | str:
    """Return the length of a route as a program printed it, or why it is none."""
    words = printed.split()
    if len(words) != 2 * WANTED:
        return f"{len(words)} words were printed, and {2 * WANTED} numbers are wanted"
    here, length, seen = MIDDLE, 0, dict[int, int]()
    for word in words:
        if not (word.isascii() and word.isdigit() and len(word) <= 4 and 1 <= int(word) <= len(orders)):
            return f"{word[:20]!r} is no number of an order"
        order = int(word) - 1
        seen[order] = seen.get(order, 0) + 1
        there = orders[order][:2] if seen[order] == 1 else orders[order][2:]
        length += abs(there[0] - here[0]) + abs(there[1] - here[1])
        here = there
    wrong = [order + 1 for order, times in seen.items() if times != 2]
    if wrong:
        return f"order {wrong[0]} stands there {seen[wrong[0] - 1]} times, not twice"
    return length + abs(here[0] - MIDDLE[0]) + abs(here[1] - MIDDLE[1])
