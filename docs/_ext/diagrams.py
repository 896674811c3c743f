"""Draw the diagrams of ``explanation.md`` as SVG before Sphinx reads its sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from sphinx.application import Sphinx

WIDTH, HEIGHT, GAP_X, GAP_Y = 186, 58, 62, 46


class Box(NamedTuple):
    """A box in a grid: its column and row, counted from 0, and its lines."""

    column: float
    row: float
    text: str


class Arrow(NamedTuple):
    """An arrow between two boxes, and what stands beside it."""

    start: str
    end: str
    text: str = ""


class Diagram(NamedTuple):
    """Boxes by name, and arrows between them."""

    boxes: Mapping[str, Box]
    arrows: Sequence[Arrow]


DIAGRAMS = {
    "architecture": Diagram(
        {
            "words": Box(0, 0, "command line, jobs,\nPython, notebooks"),
            "config": Box(1, 0, "config\nHydra, dataclasses"),
            "cluster": Box(2, 0, "cluster\nRay: embedded or joined"),
            "corpus": Box(0, 1, "corpus, tokenizer\nRay Data"),
            "train": Box(1, 1, "train, discover\nRay Train, DeepSpeed"),
            "rollout": Box(2, 1, "rollout, sandbox\nactors"),
            "folders": Box(0, 2, "folders\nmanifest written last"),
            "track": Box(1, 2, "track\nmetrics, MLflow, report"),
            "serve": Box(2, 2, "evaluate, serve\nRay Serve"),
        },
        [
            Arrow("words", "config"), Arrow("config", "cluster"), Arrow("cluster", "rollout"),
            Arrow("config", "train"), Arrow("corpus", "train", "rows"), Arrow("train", "rollout", "weights"),
            Arrow("corpus", "folders"), Arrow("train", "track"), Arrow("rollout", "serve"),
            Arrow("track", "folders"),
        ],
    ),
    "order": Diagram(
        {
            "seed": Box(0, 0, "seed, sources,\nweights"),
            "order": Box(1, 0, "order(position)\npermutation by arithmetic"),
            "batch": Box(2, 0, "global batch\npositions b*k .. b*(k+1)"),
            "ranks": Box(3, 0, "ranks\nconsecutive shares"),
            "cursor": Box(1, 1, "checkpoint\ncursor: one integer"),
            "resume": Box(2, 1, "resume with any\nnumber of workers"),
        },
        [
            Arrow("seed", "order"), Arrow("order", "batch"), Arrow("batch", "ranks"),
            Arrow("batch", "cursor", "step"), Arrow("cursor", "resume"),
            Arrow("resume", "ranks", "the same rows"),
        ],
    ),
    "mhc": Diagram(
        {
            "streams": Box(0, 1, "streams X\nN per token"),
            "read": Box(1, 0, "read\nu = sum pre_i X_i"),
            "sublayer": Box(2, 0, "sublayer F\nattention or feed-forward"),
            "mix": Box(1.5, 2, "mix: H X\nH doubly stochastic"),
            "write": Box(3, 1, "write\nX' = H X + post F(u)"),
        },
        [
            Arrow("streams", "read"), Arrow("read", "sublayer"), Arrow("sublayer", "write"),
            Arrow("streams", "mix"), Arrow("mix", "write"),
        ],
    ),
    "discover": Diagram(
        {
            "archive": Box(0, 0, "archive\nsolutions and values"),
            "start": Box(1, 0, "PUCT chooses starts"),
            "sample": Box(2, 0, "model samples\nattempts, in groups"),
            "grade": Box(3, 0, "verifier grades\nall of them"),
            "learn": Box(2, 1, "entropic advantage\nbeta per group, one step"),
            "best": Box(0, 1, "solution.json\nthe best ever found"),
        },
        [
            Arrow("archive", "start"), Arrow("start", "sample"), Arrow("sample", "grade"),
            Arrow("grade", "learn", "rewards"), Arrow("learn", "sample", "weights"), Arrow("archive", "best"),
        ],
    ),
    "sdft": Diagram(
        {
            "prompt": Box(0, 0, "prompt"),
            "student": Box(1, 0, "student\nsamples an answer"),
            "demonstration": Box(0, 1, "demonstration"),
            "teacher": Box(1, 1, "teacher: same model,\ndemonstration in view"),
            "divergence": Box(2, 0.5, "divergence\nof both, token by token"),
            "update": Box(3, 0.5, "step of the student\nteacher follows slowly"),
        },
        [
            Arrow("prompt", "student"), Arrow("prompt", "teacher"), Arrow("demonstration", "teacher"),
            Arrow("student", "divergence"), Arrow("teacher", "divergence"), Arrow("divergence", "update"),
        ],
    ),
}  # fmt: skip


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("builder-inited", lambda app: write(Path(app.srcdir)))
    return {"parallel_read_safe": True}


def write(docs: Path) -> list[Path]:
    """Write every diagram below ``_static/diagrams`` and return them."""
    folder = docs / "_static" / "diagrams"
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, diagram in DIAGRAMS.items():
        path, text = folder / f"{name}.svg", drawn(name, diagram)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def drawn(name: str, diagram: Diagram) -> str:
    """Return a diagram as SVG."""
    columns = max(box.column for box in diagram.boxes.values()) + 1
    rows = max(box.row for box in diagram.boxes.values()) + 1
    width, height = columns * (WIDTH + GAP_X) + GAP_X, rows * (HEIGHT + GAP_Y) + GAP_Y
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{name}" font-family="sans-serif" font-size="13">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" '
        'orient="auto"><path d="M0 0L8 4L0 8z" fill="#5b6b82"/></marker></defs>',
        f'<rect width="{width:g}" height="{height:g}" rx="10" fill="#fbfcfe"/>',
        *(_arrow(diagram.boxes, arrow) for arrow in diagram.arrows),
        *(_box(box) for box in diagram.boxes.values()),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _corner(box: Box) -> tuple[float, float]:
    return GAP_X + box.column * (WIDTH + GAP_X), GAP_Y + box.row * (HEIGHT + GAP_Y)


def _box(box: Box) -> str:
    x, y = _corner(box)
    lines = box.text.split("\n")
    first = y + HEIGHT / 2 + 5 - 9 * (len(lines) - 1)
    text = "".join(
        f'<text x="{x + WIDTH / 2:g}" y="{first + 18 * number:g}" text-anchor="middle" fill="#1d2838"'
        f"{' font-weight=' + chr(34) + '600' + chr(34) if number == 0 else ''}>{escape(line)}</text>"
        for number, line in enumerate(lines)
    )
    size = f'x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}"'
    return f'<rect {size} rx="8" fill="#e8effa" stroke="#7d97bd"/>{text}'


def _arrow(boxes: Mapping[str, Box], arrow: Arrow) -> str:
    """Draw from the edge of one box to that of another, sideways where columns differ."""
    (x1, y1), (x2, y2) = _corner(boxes[arrow.start]), _corner(boxes[arrow.end])
    if abs(x1 - x2) > WIDTH / 2:
        right = x2 > x1
        x1, x2 = (x1 + WIDTH, x2) if right else (x1, x2 + WIDTH)
        y1, y2 = y1 + HEIGHT / 2, y2 + HEIGHT / 2
    else:
        down = y2 > y1
        y1, y2 = (y1 + HEIGHT, y2) if down else (y1, y2 + HEIGHT)
        shift = 0 if down else 24  # so that two arrows between the same boxes are two
        x1, x2 = x1 + WIDTH / 2 + shift, x2 + WIDTH / 2 + shift
    line = f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="#5b6b82" marker-end="url(#tip)"/>'
    if not arrow.text:
        return line
    sideways = y1 == y2
    x, y = (x1 + x2) / 2 + (0 if sideways else 6), (y1 + y2) / 2 - 5
    anchor = "middle" if sideways else "start"
    place = f'x="{x:g}" y="{y:g}" text-anchor="{anchor}"'
    return line + f'<text {place} fill="#5b6b82" font-size="11">{escape(arrow.text)}</text>'
