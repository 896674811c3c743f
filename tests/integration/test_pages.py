"""The report of an evaluation in a real browser: its samples, worst and best first, nothing from outside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codex_ray.config.common import Mlflow, Track
from codex_ray.config.evaluate import Evaluate, Rows
from codex_ray.evaluate.run import evaluate
from tests.browser import browser

pytestmark = pytest.mark.integration

ATTACK = "<script>window.attacked = true</script><img src=http://outside.example/x onerror=attacked=true>"


def test_samples_of_an_evaluation_are_browsed_in_chromium(tmp_path: Path) -> None:
    rows = [
        {
            "id": f"n{n}",
            "prompt": f"Count to {n}. {ATTACK}",
            "response": "one two three four five six seven eight".partition(f" {n}")[0],
            "prediction": " ".join(["one", "two", "three", "four"][: n % 5]) + ATTACK * (n == 7),
        }
        for n in range(40)
    ]
    (tmp_path / "counted.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluate(
        Evaluate(
            predictions=str(tmp_path / "counted.jsonl"),
            rows=Rows(metrics=["token_f1", "chrf"]),
            output=str(tmp_path / "measured"),
            track=Track(progress="off", mlflow=Mlflow(enabled=False)),
        )
    )
    lines = (tmp_path / "measured" / "examples.ndjson").read_text().splitlines()
    scores = {one["id"]: one["scores"]["token_f1"] for one in map(json.loads, lines)}
    with browser() as page:
        page.size(1280, 900)
        page.open((tmp_path / "measured" / "report.html").as_uri())
        assert page.run("document.querySelectorAll('svg').length") >= 2
        for number, order in ((1, sorted(scores.values())), (2, sorted(scores.values(), reverse=True))):
            assert not page.run(
                "[...document.querySelectorAll('details.reason .row')].some(e => e.checkVisibility())"
            )
            page.run(f"[...document.querySelectorAll('details.reason')][{number - 1}].id = 'asked'")
            page.click("#asked > summary")
            page.wait("document.querySelector('#asked').open")
            shown = page.run(
                "[...document.querySelectorAll('#asked .row')].filter(e => e.checkVisibility())"
                ".map(e => e.querySelector('p').firstChild.textContent.trim())"
            )
            assert len(shown) == 12
            assert [scores[name] for name in shown] == order[:12]
            page.click("#asked > summary")
            page.wait("!document.querySelector('#asked').open")
            page.run("document.querySelector('#asked').id = ''")
        page.screenshot(tmp_path / "report.png")
        assert (tmp_path / "report.png").stat().st_size > 20_000
        page.size(390, 844, dark=True)
        assert page.run("document.documentElement.scrollWidth <= innerWidth")
        assert page.run("window.attacked") is None
        assert page.errors == []
        assert [url for url in page.requests if not url.startswith(("file:", "data:"))] == []
