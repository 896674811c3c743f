"""Pages that change hands: no sequence loses or shares one, and a step reads each row's own positions."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_ray.rollout.pages import SCATTERED, PagedCache

SLOTS, GROUPS, SIZE = 4, 2, 3


def make(capacity: int = 150) -> PagedCache:
    return PagedCache(2, GROUPS, SIZE, torch.float32, SLOTS, capacity)


def write(cache: PagedCache, slot: int, values: list[float], start: int = 0) -> None:
    lines = torch.from_numpy(cache.places(slot, start, start + len(values)).ravel())
    given = torch.tensor(values)[:, None, None].expand(-1, GROUPS, SIZE).reshape(-1, SIZE)
    for kept in cache.kept:
        kept.view(-1, SIZE)[lines] = given
        kept.view(-1, SIZE)[lines + cache.half] = given


def content(cache: PagedCache, slot: int, length: int) -> list[float]:
    lines = torch.from_numpy(cache.places(slot, 0, length).ravel())
    found = {
        tuple(kept.view(-1, SIZE)[places].flatten().tolist())
        for kept in cache.kept
        for places in (lines, lines + cache.half)
    }
    assert len(found) == 1  # every layer's, keys and values
    return list(found.pop())[:: GROUPS * SIZE]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_sequences_keep_what_they_hold(data: st.DataObject) -> None:
    cache, held, number = make(), {slot: [] for slot in range(SLOTS)}, 0.0
    bounded = data.draw(st.booleans())
    most = cache.bound(300) if bounded else SLOTS * 150
    for _ in range(data.draw(st.integers(1, 20))):
        slot, other = (data.draw(st.integers(0, SLOTS - 1)) for _ in range(2))
        match data.draw(st.sampled_from(["longer", "again", "swap", "copy", "read"])):
            case "longer" | "again" as kind:
                kept = held[slot] if kind == "longer" else []
                more = min(data.draw(st.integers(1, 60)), 150 - len(kept))
                lengths = {one: len(values) for one, values in held.items()} | {slot: len(kept) + more}
                if not cache.holds(list(lengths.values())):
                    continue
                cache.take(slot, len(kept) + more)
                added = [number + step for step in range(more)]
                write(cache, slot, added, len(kept))
                held[slot], number = [*kept, *added], number + more
            case "swap" if slot != other:
                cache.swap(slot, other)
                held[slot], held[other] = held[other], held[slot]
            case "copy" if slot != other and held[other]:
                length = data.draw(st.integers(1, len(held[other])))
                if cache.holds([*(len(held[one]) for one in range(SLOTS) if one != slot), length]):
                    cache.copy(other, slot, length)
                    held[slot] = held[other][:length]
            case "read" if all(held[one] for one in range(slot + 1)):
                rows = slot + 1
                reading = cache.read_by([len(held[one]) - 1 for one in range(rows)])
                needed = sum(cache.pages(len(held[one])) for one in range(rows))
                assert needed <= len(reading.slot_N) <= SCATTERED * needed + 16
                seen = reading.hidden(torch.float32)[:, 0] == 0
                for one in range(rows):
                    pages = [page for page, of in enumerate(reading.slot_N) if of == one]
                    pages.sort(key=lambda page: int(reading.order_N[page]))
                    found = [
                        value for page in pages for value in cache.kept[1][0, page, 0, seen[page], 0].tolist()
                    ]
                    assert found == held[one]
        for one, values in held.items():
            assert not values or content(cache, one, len(values)) == values
        used = [page for table in cache.tables for page in table]
        assert len(used) == len(set(used)) and cache.nbytes <= most * cache.position_bytes + (
            0 if bounded else 4 * SLOTS * cache.position_bytes * cache.page
        )


def test_what_was_used_longest_ago_makes_room() -> None:
    cache = make(capacity=64)
    assert cache.bound(32) == 32 and cache.page == 2
    for slot in range(SLOTS):
        cache.take(slot, 8)
        write(cache, slot, [slot + 1.0] * 8)
    assert cache.holds([16, 16]) and not cache.holds([16, 17])
    assert cache.prepare([8, 16], rows=2, used=[9, 9, 3, 2]) == {3: 0}
    cache.take(1, 16)
    assert content(cache, 2, 8) == [3.0] * 8 and cache.nbytes == 32 * cache.position_bytes


def test_small_budgets_have_small_pages() -> None:
    cache = make()
    assert (cache.page, cache.most) == (32, 20)
    assert [make().bound(budget) for budget in (20, 150, 1000)] == [20, 144, 992]
