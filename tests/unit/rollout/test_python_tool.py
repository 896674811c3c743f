"""Python as a tool of a model: programs in a sandbox, and what the model reads of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from codex_ray.rollout import python_tool
from codex_ray.rollout.environment import Environment
from codex_ray.rollout.episode import Episode, Prompt, Turn
from codex_ray.rollout.rewards import Rewarded, stops_of


def episode(*written: str) -> Episode:
    turns = tuple(Turn(None, [], [5], text, text, [0.0], [0.0], "stop") for text in written)
    return Episode(0, 0, 0, 0, Prompt([1], {"prompt": "2**9 = ", "response": "512"}), turns)


@pytest.fixture(scope="module")
def python() -> Iterator[Environment]:
    assert stops_of("python") == ("</python>",)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(python_tool, "SECONDS", 2.0)
        made = Rewarded("last_number", "python")()
        yield made
    made.sandbox.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("program", "read"),
    [
        ("print(2**9)", "512"),
        ("import math\nfor i in range(3):\n    print(math.comb(4, i))", "1\n4\n6"),
        ("", ""),
        ("print('a' * 9999)", "a" * 500),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("print(", "SyntaxError: '(' was never closed"),
        ("open('/etc/passwd').read()", "FileNotFoundError: "),
    ],
)
def test_a_model_reads_what_its_program_printed(python: Environment, program: str, read: str) -> None:
    said = python.respond(episode(f"so <python>{program}</python>"))
    assert said is not None and said.endswith("</output>")
    found = said.removeprefix("<output>").removesuffix("</output>")
    assert found == read or (":" in read and found.startswith(read))


def test_programs_are_of_one_turn_and_come_to_an_end(python: Environment) -> None:
    said = python.respond(episode("<python>a = 1</python>", "<python>print(a)</python>"))
    assert str(said).startswith("<output>NameError: name 'a' is not defined")
    assert "2 s" in str(python.respond(episode("<python>while True: pass</python>")))
    for ended in ("512", "<python>print(1)", "<python>print(1)</python> 1", "print(1)</python>"):
        assert python.respond(episode(ended)) is None
    assert python.score(episode("<python>print(2**9)</python>", "so it is 512")) == 1.0
    assert python.score(episode("it is 511")) == 0.0
