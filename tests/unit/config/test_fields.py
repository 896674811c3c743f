from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from codex_ray.config.fields import build, setting, to_dict
from codex_ray.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    rate: float = setting(0.5, minimum=0.0, maximum=1.0, help="a share")
    names: list[str] = setting(["a"], help="names")
    extra: dict[str, Any] = setting({}, help="anything")


@dataclass(frozen=True)
class Outer:
    path: str = setting(help="a folder")
    count: int = setting(1, minimum=1, help="a count")
    flag: bool = setting(False, help="a switch")
    limit: int | None = setting(None, help="a limit")
    kind: str = setting("x", choices=("x", "y"), help="a kind")
    inner: Inner = setting(Inner, help="a section")


def test_defaults_are_filled_and_an_integer_may_stand_for_a_number():
    settings = build(Outer, {"path": "p", "inner": {"rate": 1}})
    assert settings == Outer(path="p", inner=Inner(rate=1.0))
    assert type(settings.inner.rate) is float


def test_defaults_that_can_change_are_not_shared():
    build(Outer, {"path": "p"}).inner.names.append("b")
    assert build(Outer, {"path": "p"}).inner.names == ["a"]


def test_to_dict_gives_back_what_was_built():
    data = {
        "path": "p",
        "count": 2,
        "flag": True,
        "limit": None,
        "kind": "y",
        "inner": {"rate": 0.25, "names": [], "extra": {"deep": {"er": 1}}},
    }
    assert to_dict(build(Outer, data)) == data


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({}, "setting 'path' is needed"),
        ({"path": 3}, "'path' must be text, not 3"),
        ({"path": "p", "count": "4"}, "'count' must be a whole number, not '4' (text)"),
        ({"path": "p", "count": 4.0}, "'count' must be a whole number, not 4.0"),
        ({"path": "p", "count": True}, "'count' must be a whole number, not True (true or false)"),
        ({"path": "p", "count": 0}, "'count' must be at least 1, not 0"),
        ({"path": "p", "flag": 1}, "'flag' must be true or false, not 1"),
        ({"path": "p", "flag": "true"}, "'flag' must be true or false, not 'true'"),
        ({"path": "p", "limit": "none"}, "'limit' must be a whole number or null, not 'none'"),
        ({"path": "p", "kind": "z"}, "'kind' must be one of x, y, not 'z'"),
        ({"path": "p", "inner": 3}, "'inner' must be a group of settings, not 3"),
        ({"path": "p", "inner": {"rate": float("nan")}}, "'inner.rate' must be finite"),
        ({"path": "p", "inner": {"rate": 1.5}}, "'inner.rate' must be at most 1.0"),
        ({"path": "p", "inner": {"names": "a"}}, "'inner.names' must be a list of text, not 'a'"),
        ({"path": "p", "inner": {"names": ["a", 1]}}, "'inner.names' must be a list of text"),
        ({"path": "p", "inner": {"rat": 1}}, "unknown setting 'inner.rat'; did you mean 'rate'?"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(data, sentence):
    with pytest.raises(ConfigError) as caught:
        build(Outer, data)
    assert sentence in str(caught.value)
