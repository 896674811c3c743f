"""What is found and what is left alone, in whole texts."""

from __future__ import annotations

import random
import sysconfig
from pathlib import Path

import pytest
from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_ray.safety import PLACEHOLDERS, Finding, find, mask, redact
from codex_ray.safety.find import LONGEST_PIECE, is_suspicious
from codex_ray.safety.finding import merged
from codex_ray.safety.secrets import plugins, secrets_in
from tests.unit.safety.samples import INNOCENT, PERSONAL, private_key, tokens

TRUE_POSITIVES = [
    (kind, line, secret)
    for kind, pairs in {**tokens(random.Random(7)), **PERSONAL}.items()
    for line, secret in pairs
]

FRAGMENTS = [
    *(line for _, line, _ in TRUE_POSITIVES),
    *(secret for _, _, secret in TRUE_POSITIVES),
    *INNOCENT,
    *PLACEHOLDERS.values(),
    private_key(random.Random(1)),
    private_key(random.Random(2), kind="", lines=2, newline="\\n"),
    private_key(random.Random(3)).rpartition("\n")[0],
    *(
        "aws",
        "key",
        "password=",
        "token: ",
        "://u:",
        "@",
        "+49 ",
        '"',
        "'",
        "\n",
        " ",
        "=",
        "-----",
        "请",
        "İ",
    ),
]


def texts() -> st.SearchStrategy[str]:
    """Generate texts that are rich in secrets, parts of secrets and what surrounds them."""
    return st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=12)), max_size=8).map("".join)


def everything(text: str) -> list[Finding]:
    return find(text, secrets=True, personal=True)


@pytest.mark.parametrize(("kind", "line", "secret"), TRUE_POSITIVES)
def test_finds(kind: str, line: str, secret: str) -> None:
    text = f"before\n{line}\nafter"
    found = [(one.kind, text[one.start : one.stop]) for one in everything(text)]
    if line.startswith("Account"):  # the pattern names the setting with its value
        secret = line
    assert found == [(kind, secret)]


@pytest.mark.parametrize("line", INNOCENT)
def test_leaves_alone(line: str) -> None:
    assert everything(line) == []


def test_a_private_key_is_one_finding_from_begin_to_end() -> None:
    for kind in ("", "RSA ", "EC ", "OPENSSH ", "ENCRYPTED "):
        for newline in ("\n", "\r\n", "\\n", '\\n"\n    "'):
            key = private_key(random.Random(5), kind, newline=newline)
            assert mask(f'k = "{key}"; x', everything(f'k = "{key}"; x')) == 'k = "<PRIVATE_KEY>"; x'


def test_a_private_key_without_end_ends_where_prose_begins() -> None:
    key = private_key(random.Random(5)).split("\n")[:-2]
    text = "\n".join([*key, "", "And so it goes on."])
    assert mask(text, everything(text)) == "<PRIVATE_KEY>\n\nAnd so it goes on."


def test_a_private_key_with_headers() -> None:
    first, *rest = private_key(random.Random(5)).split("\n")
    text = "\n".join([first, "Proc-Type: 4,ENCRYPTED", "DEK-Info: AES-128-CBC,0123", "", *rest])
    assert mask(text, everything(text)) == "<PRIVATE_KEY>"


def test_each_policy_looks_for_its_own() -> None:
    _, line, secret = TRUE_POSITIVES[0]
    text = f"{line} me@site.org"
    assert redact(text, secrets="keep", personal="keep").text == text
    masked = redact(text, secrets="mask", personal="keep")
    assert secret not in masked.text and "me@site.org" in masked.text
    assert masked.counts == {"AWS key": 1} and masked.drop is None
    dropped = redact(text, secrets="mask", personal="drop")
    assert (dropped.text, dropped.drop, dropped.counts) == (text, "e-mail", {"AWS key": 1, "e-mail": 1})


def test_overlapping_findings_become_the_most_specific() -> None:
    overlapping = [
        Finding("high-entropy string", 2, 30),
        Finding("AWS key", 10, 34),
        Finding("e-mail", 34, 40),
    ]
    assert merged(overlapping) == [Finding("AWS key", 2, 34), Finding("e-mail", 34, 40)]


@settings(max_examples=150, deadline=None)
@given(texts(), st.booleans(), st.booleans())
def test_findings_are_sorted_and_masking_leaves_none(text: str, secrets: bool, personal: bool) -> None:
    found = find(text, secrets=secrets, personal=personal)
    places = [place for one in found for place in (one.start, one.stop)]
    assert places == sorted(places) and all(one.start < one.stop for one in found)
    assert not places or (places[0] >= 0 and places[-1] <= len(text))
    masked = mask(text, found)
    assert find(masked, secrets=secrets, personal=personal) == []


@settings(max_examples=60, deadline=None)
@given(st.text())
def test_any_text_can_be_looked_at(text: str) -> None:
    everything(text)


def test_long_lines_are_looked_at_in_pieces() -> None:
    kind, _, secret = TRUE_POSITIVES[0]
    text = f"word {secret} " * (3 * LONGEST_PIECE // len(secret))
    assert {text[one.start : one.stop] for one in everything(text)} == {secret}
    assert mask(text, everything(text)).count(PLACEHOLDERS[kind]) == text.count(secret)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "unit",
    ["token" + " " * 4000 + "a" * 24, "password" + "=" * 4000, "a@" * 2000, "://a:" * 800, "aws key " * 500],
)
def test_no_text_takes_endlessly(unit: str) -> None:
    assert isinstance(everything(unit * 5), list)


def standard_library() -> list[str]:
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = sorted([*folder.glob("*.py"), *folder.glob("test/test_[hsu]*.py"), *folder.glob("email/*.py")])
    return [path.read_text(encoding="utf-8", errors="replace") for path in files]


def test_no_line_in_which_something_would_be_found_is_passed_over() -> None:
    """The plugins and this project's own rules find nothing in lines without an anchor."""
    lines = [line for _, line, _ in TRUE_POSITIVES]
    for seed in range(20):
        lines += [line for pairs in tokens(random.Random(seed)).values() for line, _ in pairs]
    lines += [line.upper() for line in lines] + [line.replace("_", "-") for line in lines]
    for text in standard_library()[::6]:
        lines += [line for line in text.split("\n") if len(line) <= 200]
    passed = [line for line in lines if not is_suspicious(line, secrets=True, personal=False)]
    assert len(passed) > 10_000
    block = "\n".join(passed)
    for plugin, _ in plugins():
        for pattern in plugin.denylist:
            spans = [match[0] for match in pattern.finditer(block) if "\n" not in match[0].strip()]
            assert spans == [], plugin.secret_type
    assert [line for line in passed[:: len(passed) // 2000] if list(secrets_in(line))] == []


def test_every_plugin_is_used_or_replaced_by_a_rule_of_this_project() -> None:
    used = {plugin.secret_type for plugin, _ in plugins()}
    assert len(used) == len(get_mapping_from_secret_type_to_class()) - 5
