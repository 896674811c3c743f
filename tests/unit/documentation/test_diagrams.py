"""The diagrams of the documentation: well-formed, every arrow between boxes, none over another, all shown."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[3]


def test_every_diagram_is_drawn_whole_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    from diagrams import DIAGRAMS, HEIGHT, WIDTH, write

    shown = re.findall(r"_static/diagrams/(\w+)\.svg", (ROOT / "docs" / "explanation.md").read_text())
    written = write(tmp_path)
    assert shown == [path.stem for path in written] == list(DIAGRAMS)
    for path, diagram in zip(written, DIAGRAMS.values(), strict=True):
        svg = ElementTree.fromstring(path.read_text())
        width, height = map(float, svg.attrib["viewBox"].split()[2:])
        boxes = [box for box in svg.iter("{http://www.w3.org/2000/svg}rect") if "x" in box.attrib]
        corners = [(float(box.attrib["x"]), float(box.attrib["y"])) for box in boxes]
        assert len(corners) == len(diagram.boxes)
        assert all(x + WIDTH <= width and y + HEIGHT <= height for x, y in corners)
        for (x, y), (other_x, other_y) in itertools.combinations(corners, 2):
            assert abs(x - other_x) >= WIDTH or abs(y - other_y) >= HEIGHT
        assert all({arrow.start, arrow.end} <= diagram.boxes.keys() for arrow in diagram.arrows)
        longest = max(len(line) for box in diagram.boxes.values() for line in box.text.split("\n"))
        assert longest * 7 < WIDTH + 10
