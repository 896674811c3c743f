"""Whose request is next."""

from __future__ import annotations

from codex_ray.serve.fairness import FairQueue


def test_the_owner_who_was_served_least_is_next() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(3):
        queue.push("greedy", f"g{number}")
    queue.push("modest", "m0")
    assert queue.pop() == "g0"
    queue.charge("greedy", read=10, drawn=5)
    assert [queue.pop(), queue.pop(), queue.pop()] == ["m0", "g1", "g2"]
    assert len(queue) == 0


def test_a_newcomer_has_saved_nothing_up() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(4):
        queue.push("old", f"o{number}")
    queue.pop()
    queue.charge("old", drawn=1000)
    queue.push("new", "n0")
    queue.push("new", "n1")
    assert queue.pop() in ("n0", "o1")  # equal counts: either
    queue.charge("new", drawn=1)
    queue.charge("old", drawn=1)
    assert abs(queue._counts["new"] - queue._counts["old"]) == 0


def test_removed_items_are_gone_and_counts_end_with_the_last() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("a", "x")
    queue.push("b", "y")
    queue.charge("b", drawn=7)
    assert queue.remove("a", "x")
    assert not queue.remove("a", "x")
    assert queue.pop() == "y"
    queue.done("b")
    assert not queue._counts and not queue._active and not queue._waiting
