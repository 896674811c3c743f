"""Regular expressions as automata over UTF-8 bytes, so that text can be held to one byte by byte.

The syntax is that of Python's ``re``, without what is not regular (backreferences) or looks around. States of
the deterministic automaton are made at their first use: the set of states of the nondeterministic one over
characters (Thompson 1968) and the bytes of a character that is not whole yet.
"""

from __future__ import annotations

import functools
import re
from bisect import bisect_right
from collections.abc import Iterable
from re import _constants as names  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

from codex_ray.errors import ConfigError

MOST_STATES = 20_000
"""Of the automaton over characters; counted repetitions within one another multiply."""

Ranges = tuple[tuple[int, int], ...]
"""Sorted code points, first and last of each range; none next to another."""

UNIVERSE: Ranges = ((0, 0xD7FF), (0xE000, 0x10FFFF))  # surrogates have no bytes
DEAD = -1


class Automaton:
    """A deterministic automaton over bytes; its states are numbers, the first is 0.

    Every state that is not :data:`DEAD` has a way to the end.

    Args:
        pattern: the whole text must match it.

    Raises:
        ConfigError: the pattern is none of ``re``, is not regular, matches nothing, or is too large.
    """

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._silent: list[list[int]] = [[]]  # state 0 is the end
        self._edges: list[list[tuple[Ranges, int]]] = [[]]
        try:
            parsed = parser.parse(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise ConfigError(f"regex {pattern!r} is no regular expression ({error}); correct it") from error
        if parsed.state.flags & re.IGNORECASE:
            raise self._refusal("ignores case", "name both cases, such as [aA]")
        self._dotall = bool(parsed.state.flags & re.DOTALL)
        start = self._sequence(parsed, 0)
        self._prune()
        self._states: list[tuple[frozenset[int], bytes]] = []
        self._numbers: dict[tuple[frozenset[int], bytes], int] = {}
        self._moves: dict[tuple[int, int], int] = {}
        if self._number((self._closure([start]), b"")) == DEAD:
            raise self._refusal("matches no text", "leave a way to its end")

    def next(self, state: int, byte: int) -> int:
        """The state after one byte more, or :data:`DEAD`."""
        found = self._moves.get((state, byte))
        if found is None:
            found = self._moves[state, byte] = self._move(state, byte)
        return found

    def ends(self, state: int) -> bool:
        """Whether what led here is a whole match."""
        states, partial = self._states[state]
        return 0 in states and not partial

    def _move(self, state: int, byte: int) -> int:
        states, partial = self._states[state]
        partial += bytes([byte])
        interval = _interval(partial)
        if interval is None:
            return DEAD
        low, high = interval
        edges = [edge for one in states for edge in self._edges[one] if _meets(edge[0], low, high)]
        if low < high:
            return self._number((states, partial)) if edges else DEAD
        return self._number((self._closure(target for _, target in edges), b""))

    def _number(self, key: tuple[frozenset[int], bytes]) -> int:
        if not key[0]:
            return DEAD
        if key not in self._numbers:
            self._numbers[key] = len(self._states)
            self._states.append(key)
        return self._numbers[key]

    def _closure(self, states: Iterable[int]) -> frozenset[int]:
        found, left = set(), [one for one in states if one in self._alive]
        while left:
            one = left.pop()
            if one not in found:
                found.add(one)
                left += [other for other in self._silent[one] if other in self._alive]
        return frozenset(found)

    def _prune(self) -> None:
        """Find the states that have a way to the end."""
        before: dict[int, list[int]] = {}
        for state, (silent, edges) in enumerate(zip(self._silent, self._edges, strict=True)):
            for target in [*silent, *(target for ranges, target in edges if ranges)]:
                before.setdefault(target, []).append(state)
        self._alive, left = set[int](), [0]
        while left:
            one = left.pop()
            if one not in self._alive:
                self._alive.add(one)
                left += before.get(one, [])

    def _new(self, silent: list[int], edges: list[tuple[Ranges, int]]) -> int:
        if len(self._silent) == MOST_STATES:
            raise self._refusal(f"needs over {MOST_STATES} states", "repeat less often")
        self._silent.append(silent)
        self._edges.append(edges)
        return len(self._silent) - 1

    def _sequence(self, items: Any, end: int) -> int:
        """Make the states of a sequence that goes on at ``end``; the first of them."""
        for name, value in reversed(list(items)):
            end = self._item(name, value, end)
        return end

    def _item(self, name: Any, value: Any, end: int) -> int:
        if name in (names.LITERAL, names.NOT_LITERAL, names.ANY, names.IN):
            return self._new([], [(self._characters(name, value), end)])
        if name is names.BRANCH:
            return self._new([self._sequence(branch, end) for branch in value[1]], [])
        if name is names.SUBPATTERN and not value[1] and not value[2]:
            return self._sequence(value[3], end)
        if name in (names.MAX_REPEAT, names.MIN_REPEAT):
            least, most, items = value
            if most is names.MAXREPEAT:
                again = self._new([end], [])
                self._silent[again].append(self._sequence(items, again))
                end = again
            else:
                stop = end
                for _ in range(most - least):
                    end = self._new([stop, self._sequence(items, end)], [])
            for _ in range(least):
                end = self._sequence(items, end)
            return end
        if name is names.AT:
            raise self._refusal("has an anchor", "leave it out: the whole completion is matched")
        raise self._refusal(f"uses {str(name).lower()}, which is not regular here", "write it without")

    def _characters(self, name: Any, value: Any) -> Ranges:
        if name is names.ANY:
            return UNIVERSE if self._dotall else _without(((10, 10),))
        if name is names.NOT_LITERAL:
            return _without(((value, value),))
        if name is names.LITERAL:
            return _joined([(value, value)])
        negated = value[0][0] is names.NEGATE
        found = [one for kind, part in value[negated:] for one in _class_part(kind, part)]
        return _without(_joined(found)) if negated else _joined(found)

    def _refusal(self, reason: str, remedy: str) -> ConfigError:
        return ConfigError(f"regex {self._pattern!r} {reason}; {remedy}")


def _class_part(kind: Any, part: Any) -> Ranges:
    if kind is names.LITERAL:
        return ((part, part),)
    if kind is names.RANGE:
        return (part,)
    letter = {"DIGIT": "d", "SPACE": "s", "WORD": "w"}[str(part).rpartition("_")[2]]
    return _category(letter.upper() if "_NOT_" in str(part) else letter)


@functools.cache
def _category(letter: str) -> Ranges:
    """The characters of a class such as ``\\w``, as ``re`` counts them."""
    everything = "".join(chr(point) for first, last in UNIVERSE for point in range(first, last + 1))
    found = []
    for match in re.finditer(rf"\{letter}+", everything):
        found.append((ord(everything[match.start()]), ord(everything[match.end() - 1])))
    return _without(_without(_joined(found)))


def _joined(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Sort ranges and join those that touch, surrogates left out."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return tuple(
        (max(first, low), min(last, high))
        for first, last in found
        for low, high in UNIVERSE
        if first <= high and last >= low
    )


def _without(ranges: Ranges) -> Ranges:
    """All other characters."""
    gaps, after = [], 0
    for first, last in ranges:
        if after < first:
            gaps.append((after, first - 1))
        after = last + 1
    return _joined([*gaps, *([(after, 0x10FFFF)] if after <= 0x10FFFF else [])])


def _meets(ranges: Ranges, low: int, high: int) -> bool:
    """Whether a character from ``low`` to ``high`` is among the ranges."""
    place = bisect_right(ranges, (high, 0x10FFFF)) - 1
    return place >= 0 and ranges[place][1] >= low


def _interval(partial: bytes) -> tuple[int, int] | None:
    """The characters whose UTF-8 begins with these bytes; None where no character's does."""
    first = partial[0]
    length = 1 if first < 0x80 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4
    if 0x80 <= first < 0xC2 or first > 0xF4 or any(not 0x80 <= byte < 0xC0 for byte in partial[1:]):
        return None
    low = first if length == 1 else first & (0x7F >> length)
    for byte in partial[1:]:
        low = low << 6 | byte & 0x3F
    left = 6 * (length - len(partial))
    low, high = low << left, (low + 1 << left) - 1
    least = (0, 0, 0x80, 0x800, 0x10000)[length]
    low, high = max(low, least), min(high, 0x10FFFF)
    return (low, high) if _meets(UNIVERSE, low, high) and low <= high else None
