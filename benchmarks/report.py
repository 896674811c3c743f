"""Write ``benchmarks/README.md``, and the table of aims in ``README.md``, from the result files.

``python -m benchmarks.report`` writes both; ``--check`` writes nothing and fails where they are out of date.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.results import Figure, Result, read_results
from codex_ray.errors import CodexRayError
from codex_ray.files import write_text

ROOT = Path(__file__).resolve().parents[1]
START, END = "<!-- figures: written by `python -m benchmarks.report` -->", "<!-- end of figures -->"
HEAD = """# Benchmarks

Written by `python -m benchmarks.report` from the files in `results/`. A `+` after a commit means that the
working tree differed from it. Ratios have both sides measured in one run on one machine.
"""


def main() -> int:
    """Write or check both files and return the exit status."""
    parser = argparse.ArgumentParser(description="Write benchmarks/README.md from benchmarks/results/*.json.")
    parser.add_argument("--check", action="store_true", help="fail where the files are out of date")
    arguments = parser.parse_args()
    try:
        outdated = [path for path, text in rendered(read_results()).items() if not _holds(path, text)]
        if arguments.check:
            for path in outdated:
                print(f"{path} is out of date; run python -m benchmarks.report", file=sys.stderr)
            return 1 if outdated else 0
        for path, text in rendered(read_results()).items():
            write_text(path, text)
            print(path)
    except CodexRayError as error:
        print(f"benchmarks.report: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def rendered(results: list[Result]) -> dict[Path, str]:
    """Return the text that each generated file must hold."""
    readme = ROOT / "README.md"
    before, start, rest = readme.read_text(encoding="utf-8").partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise CodexRayError(f"{readme} has lost the lines {START!r} and {END!r}; put them back")
    summary = f"{before}{START}\n\n{aims_table(results)}\n{END}{after}"
    return {ROOT / "benchmarks" / "README.md": benchmarks_page(results), readme: summary}


def benchmarks_page(results: list[Result]) -> str:
    """Return the whole of ``benchmarks/README.md``."""
    parts = [HEAD]
    if not results:
        parts.append("\nNothing has been measured yet.\n")
    for result in results:
        title = f"\n## {result.benchmark} on {result.machine}\n\nCommit {result.commit}, {result.date}.\n\n"
        rows = [
            _row(name, *_cells(figure), "" if figure.reached is None else _yes_no(figure.reached))
            for name, figure in result.figures.items()
        ]
        parts.append(title + _table(("Figure", "Value", "Unit", "Aim", "Reached"), rows))
    pending = [
        _row(name, result.machine, f"`{figure.command}`")
        for result in results
        for name, figure in result.figures.items()
        if figure.value is None
    ]
    if pending:
        parts.append("\n## Pending\n\n" + _table(("Figure", "Machine", "Measured by"), pending))
    return "".join(parts)


def aims_table(results: list[Result]) -> str:
    """Return the table of the figures that have an aim."""
    rows = [
        _row(
            name,
            *_cells(figure),
            result.machine,
            "pending" if figure.value is None else _yes_no(figure.reached),
        )
        for result in results
        for name, figure in result.figures.items()
        if figure.aim is not None
    ]
    if not rows:
        return "Nothing has been measured yet.\n"
    return _table(("Figure", "Value", "Unit", "Aim", "Machine", "Reached"), rows)


def _cells(figure: Figure) -> tuple[str, str, str]:
    sign = "≥" if figure.better == "higher" else "≤"
    aim = "" if figure.aim is None else f"{sign} {_number(figure.aim)}"
    return "pending" if figure.value is None else _number(figure.value), figure.unit, aim


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def _yes_no(reached: bool | None) -> str:
    return "yes" if reached else "no"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |\n"


def _table(head: tuple[str, ...], rows: list[str]) -> str:
    return _row(*head) + _row(*("---" for _ in head)) + "".join(rows)


def _holds(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main())
