from __future__ import annotations

import hashlib
import json
import zlib
from functools import cache
from pathlib import Path

import pytest

from codex_ray.corpus.cleaning import gopher, web
from codex_ray.corpus.cleaning.words import View
from codex_ray.corpus.raw import Dropped
from tests.unit.corpus.cleaning.generated import document

GOLDEN = json.loads((Path(__file__).parents[3] / "golden" / "datatrove_quality.json").read_text())


@cache
def documents() -> list[str]:
    return [document(seed) for seed in range(GOLDEN["documents"])]


def test_diff() -> None:
    assert hashlib.sha256("\0".join(documents()).encode()).hexdigest() == GOLDEN["sha256"]
    for name, rules in (
        ("gopher_quality", gopher.quality),
        ("gopher_repetition", gopher.repetition),
        ("c4", web.c4),
        ("fineweb", web.fineweb),
    ):
        peers = GOLDEN["verdicts"][name]
        both = set()
        for seed, text in enumerate(documents()):
            theirs = peers["reasons"][ord(peers["of"][seed]) - 97]
            try:
                r = rules(View(text))
            except Exception as e:
                print(name, seed, repr(text[:50]), repr(e))
                continue
            ours = r.rule if isinstance(r, Dropped) else "keep"
            both.add((theirs, ours))
            if (ours == "keep") != (theirs == "keep"):
                print("DIFF", name, seed, theirs, r if isinstance(r, Dropped) else "keep")
        print(*sorted(both), sep="\n")
