from __future__ import annotations

import shlex

import pytest

from codex_ray.config.compose import compose
from codex_ray.config.groups import group_choices, verb_slots
from codex_ray.config.help import overview, verb_group_help, verb_help
from codex_ray.config.tree import settings_keys
from codex_ray.config.verbs import VERBS, find_verb


@pytest.mark.parametrize("name", VERBS)
def test_help_names_every_setting_and_choice_within_100_columns(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    verb = find_verb(name)
    text = verb_help(verb)
    assert max(map(len, text.splitlines())) <= 100
    shown = {line.split("=")[0].strip() for line in text.splitlines() if "=" in line}
    assert {".".join(key) for key in settings_keys(verb.settings_class)} <= shown
    for slot in verb_slots(name):
        assert all(choice in text for choice in group_choices(slot.group))
    assert "Exit status: 0 done, 1 failed, 2 bad usage or settings, 130 interrupted." in text
    assert 3 <= len(verb.examples) <= 5


@pytest.mark.parametrize("name", VERBS)
def test_every_example_composes(name):
    for words, _ in find_verb(name).examples:
        compose(name, shlex.split(words)[len(name.split()) :])


def test_defaults_shown_are_the_composed_ones():
    text = verb_help(find_verb("quickstart"))
    assert "pretrain.optimizer.kind=muon" in text
    assert "seconds=290.0" in text
    assert "train.epochs=1.0" in verb_help(find_verb("pretrain"))
    assert "model=VALUE" in verb_help(find_verb("generate"))


def test_the_overview_lists_verbs_in_life_order_and_what_to_try_next():
    text = overview("1.2.3")
    lines = text.splitlines()
    places = [next(i for i, line in enumerate(lines) if line.startswith(f"  {name} ")) for name in VERBS]
    assert places == sorted(places)
    assert "Try next: codex-ray quickstart" in text
    assert max(map(len, lines)) <= 100


def test_a_word_that_needs_a_second_one_lists_them():
    text = verb_group_help("tokenizer")
    assert "train|encode|decode|export" in text


def test_colour_is_only_for_terminals_that_want_it(monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\033[1m" in overview("1")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\033" not in overview("1")


def test_narrow_terminals_get_narrow_help(monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    long = [line for line in verb_help(find_verb("pretrain")).splitlines() if len(line) > 70]
    assert all(line.startswith("  codex-ray ") for line in long)
