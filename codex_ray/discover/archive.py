"""The archive of solutions, and which to start from: PUCT over states (TTT-Discover, arXiv 2601.16175, A.2).

A state's priority is ``Q + c * scale * P * sqrt(1 + T) / (1 + n)``: Q the best value among its children, or
its own while it has none; P a prior by rank; n how often it or a descendant was expanded; T all expansions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from codex_ray.errors import CodexRayError

SMALLEST_SCALE = 1e-6
FORMAT = 1


@dataclass
class State:
    """A solution.

    Attributes:
        number: its place in the order of insertion.
        value: what the search maximises; the training reward is another matter.
        parent: the state it was made from; None for a seed.
        key: by which duplicates are known: the construction, or the program.
        solution: what the problem makes of it, JSON.
        visits: expansions of it or of a descendant, failed ones included.
        best_child: highest value among its own children, kept or not; None without any.
    """

    number: int
    value: float
    parent: int | None
    key: str
    solution: Any = None
    visits: int = 0
    best_child: float | None = None


@dataclass(frozen=True)
class Child:
    """A valid solution that an expansion gave."""

    value: float
    key: str
    solution: Any = None


@dataclass
class Archive:
    """States that can be started from.

    Attributes:
        exploration: c.
        capacity: states kept, the best by value; seeds are kept beyond it.
        children_kept: best children per expansion.
        count_rollouts: count every rollout as an expansion, as the authors' code does.
        scale_over: ``all`` states, or ``children``: all but the seeds while there are others, for seeds may
            have values far from any.
        problem: whose solutions these are.
    """

    exploration: float = 1.0
    capacity: int = 1000
    children_kept: int = 2
    count_rollouts: bool = False
    scale_over: str = "all"
    problem: str = ""
    states: dict[int, State] = field(default_factory=dict)
    parents: list[int | None] = field(default_factory=list)  # of every state there ever was
    expansions: int = 0

    def seed(self, value: float, key: str, solution: Any = None) -> State:
        """Add a state without a parent."""
        return self._insert(Child(value, key, solution), None)

    def ancestors(self, number: int) -> list[int]:
        """Numbers of a state's ancestors, the parent first; some may not be kept any more."""
        found = []
        parent = self.parents[number]
        while parent is not None:
            found.append(parent)
            parent = self.parents[parent]
        return found

    def priors(self) -> dict[int, float]:
        """P of each state: linear in rank, the best highest, adding up to 1."""
        ranked = sorted(self.states.values(), key=lambda state: (-state.value, state.number))
        whole = len(ranked) * (len(ranked) + 1) / 2
        return {state.number: (len(ranked) - rank) / whole for rank, state in enumerate(ranked)}

    def scale(self) -> float:
        """The spread of values, which the exploration is measured in."""
        values = [state.value for state in self.states.values() if state.parent is not None]
        if self.scale_over == "all" or not values:
            values = [state.value for state in self.states.values()]
        return max(SMALLEST_SCALE, max(values) - min(values))

    def scores(self) -> dict[int, float]:
        """The priority of each state."""
        priors, reach = self.priors(), self.exploration * self.scale() * math.sqrt(1 + self.expansions)
        return {
            number: (state.value if state.best_child is None else state.best_child)
            + reach * priors[number] / (1 + state.visits)
            for number, state in self.states.items()
        }

    def select(self, count: int) -> list[int]:
        """Choose states to expand, best first, none an ancestor of another; fewer where there are too few."""
        scores = self.scores() if self.states else {}
        order = sorted(scores, key=lambda number: (-scores[number], -self.states[number].value, number))
        return self._apart(order, count, lambda free: 0)

    def select_greedily(self, count: int, epsilon: float, draw: np.random.Generator) -> list[int]:
        """Choose states to expand by value alone, with probability ``epsilon`` any other; apart as above."""
        order = sorted(self.states, key=lambda number: (-self.states[number].value, number))

        def pick(free: int) -> int:
            return int(draw.integers(free)) if draw.random() < epsilon else 0

        return self._apart(order, count, pick)

    def _apart(self, order: list[int], count: int, pick: Callable[[int], int]) -> list[int]:
        """Pick states one by one out of an order; none is an ancestor of another."""
        lineages = {number: set(self.ancestors(number)) for number in order}
        chosen: list[int] = []
        free = list(order)
        while free and len(chosen) < count:
            taken = free[pick(len(free))]
            chosen.append(taken)
            near = lineages[taken]
            free = [
                number
                for number in free
                if number != taken and number not in near and taken not in lineages[number]
            ]
        return chosen

    def expanded(self, number: int, children: Iterable[Child], rollouts: int) -> list[State]:
        """Take in what an expansion gave; failed rollouts are not among ``children`` and count all the same.

        Args:
            number: the state that was expanded.
            children: its valid rollouts.
            rollouts: all of them.

        Returns:
            the children that are new and kept.
        """
        times, children = rollouts if self.count_rollouts else 1, list(children)
        for other in (number, *self.ancestors(number)):
            if other in self.states:
                self.states[other].visits += times
        self.expansions += times
        parent = self.states.get(number)  # gone, where what came of others has pushed it out meanwhile
        if children and parent is not None:
            best = max(child.value for child in children)
            parent.best_child = best if parent.best_child is None else max(parent.best_child, best)
        known = {state.key for state in self.states.values()}
        added: list[State] = []
        for child in sorted(children, key=lambda child: -child.value):
            if child.key not in known and len(added) < self.children_kept:
                known.add(child.key)
                added.append(self._insert(child, number))
        self._drop()
        return [state for state in added if state.number in self.states]

    def best(self) -> State:
        """The state of the highest value, the oldest of equals.

        Raises:
            CodexRayError: there is none.
        """
        if not self.states:
            raise CodexRayError("the archive holds no state yet; give it a seed first")
        return max(self.states.values(), key=lambda state: (state.value, -state.number))

    def to_json(self) -> dict[str, Any]:
        """All of it, for a checkpoint."""
        held = {name: value for name, value in vars(self).items() if name != "states"}
        return {"format": FORMAT, **held, "states": [asdict(state) for state in self.states.values()]}

    @classmethod
    def from_json(cls, held: dict[str, Any], problem: str) -> Archive:
        """Read what :meth:`to_json` gave.

        Raises:
            CodexRayError: it is of another problem or format.
        """
        if held.get("format") != FORMAT or held.get("problem") != problem:
            raise CodexRayError(
                f"the archive is of problem {held.get('problem')!r} in format {held.get('format')} and this "
                f"run is of {problem!r} in format {FORMAT}; give that run's own archive, or begin anew"
            )
        known = {name: value for name, value in held.items() if name not in ("format", "states")}
        states: Sequence[dict[str, Any]] = held["states"]
        return cls(**known, states={state["number"]: State(**state) for state in states})

    def _insert(self, child: Child, parent: int | None) -> State:
        if not math.isfinite(child.value):
            raise CodexRayError(f"a state's value is {child.value}; a verifier must refuse such a solution")
        state = State(len(self.parents), child.value, parent, child.key, child.solution)
        self.states[state.number] = state
        self.parents.append(parent)
        return state

    def _drop(self) -> None:
        """Keep the best; a seed always."""
        ranked = sorted(self.states.values(), key=lambda state: (-state.value, state.number))
        for state in ranked[self.capacity :]:
            if state.parent is not None:
                del self.states[state.number]
