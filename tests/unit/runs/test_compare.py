"""`runs compare`: one page of several runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from codex_ray.cli import main
from codex_ray.config.compose import compose
from codex_ray.errors import ConfigError
from codex_ray.runs.compare import _places
from codex_ray.track.plots import Plot, Series, svg_of
from tests.unit.runs.folders import write_run
from tests.unit.track.pages import Page


def test_a_page_of_three_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, rate in (("first", 0.01), ("second", 0.02), ("third", 0.01)):
        secret = {"track": {"mlflow": {"uri": "https://me:s3cret@host/x"}}}
        write_run(tmp_path, name, 40, "completed", optimizer={"rate": rate, "kind": "muon"}, **secret)
    output = tmp_path / "page.html"
    words = ["first", "second", str(tmp_path / "third"), f"runs={tmp_path}", f"output={output}"]
    assert main(["runs", "compare", *words]) == 0
    assert str(output) in capsys.readouterr().out
    text = output.read_text()
    page = Page(text)
    assert page.tags.count("svg") == 4 and "s3cret" not in text
    for said in ("Loss by step", "Loss by tokens", "Loss by time", "Validation loss", "hours of training"):
        assert said in page.text, said
    assert "optimizer.rate0.010.020.01" in page.text and "optimizer.kind" not in page.text
    assert "name" not in page.text.split("Settings that differ")[1].split("Closing")[0]
    assert "steps404040" in page.text


def test_any_name_is_in_the_legend_and_keeps_its_colour() -> None:
    names = ["_first", r"a$\x$", "third"]
    curves = [Series(name, [1.0, 2.0], [3.0, float(place)]) for place, name in enumerate(names)]
    drawn = svg_of(Plot("Loss", "", curves))
    assert all(f">{name}<" in drawn for name in names)
    without = svg_of(Plot("Loss", "", [Series("_first", [], []), *curves[1:]]))
    assert "--series-1" not in without and "--series-3" in without


def test_rows_stand_where_their_steps_are() -> None:
    rows = [{"step": step, "tokens": step * 10**6, "step_seconds": 36.0} for step in (5, 10, 20)]
    assert _places(rows, "step") == [5, 10, 20]
    assert _places(rows, "tokens") == [5, 10, 20]
    assert _places(rows, "hours") == pytest.approx([0.05, 0.1, 0.2])


@pytest.mark.parametrize("words", [["one"], ["a", "a"], list("abcdefg")])
def test_too_few_too_many_or_the_same_are_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="give two to 6 different ones"):
        compose("runs compare", words)
