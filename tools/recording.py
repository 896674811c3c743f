"""Record the README's terminal: ``python -m tools.recording FOLDER``, where FOLDER holds a quickstart.

Runs the commands below there, as a user would, and draws what they print in docs/_static/terminal.svg.
Nothing in it is made up; the picture fetches nothing.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "_static" / "terminal.svg"
WIDTH, LIMIT_SECONDS = 100, 300.0
COMMANDS = (
    "codex-ray runs list quickstart",
    "codex-ray corpus show quickstart/corpus samples=0",
    "codex-ray generate quickstart/run 'prompt=def parse(text):' max_new_tokens=48",
)
FETCHED = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def main(folder: Path) -> None:
    """Run the commands in a folder and write the picture."""
    PICTURE.write_text(picture([(command, said(command, folder)) for command in COMMANDS]), encoding="utf-8")
    print(f"{PICTURE}: {len(COMMANDS)} commands")


def said(command: str, folder: Path) -> str:
    """Return what a command of ours prints.

    Raises:
        CalledProcessError: it failed.
    """
    words = [sys.executable, "-m", "codex_ray", *shlex.split(command)[1:]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": str(WIDTH)}
    done = subprocess.run(
        words, cwd=folder, env=environment, check=True, capture_output=True, text=True, timeout=LIMIT_SECONDS
    )
    return done.stdout.rstrip()


def picture(session: list[tuple[str, str]]) -> str:
    """Return a terminal session as SVG."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere, force_terminal=True)
        for command, output in session:
            console.print(Text("$ ", style="bold green") + Text(command, style="bold"))
            console.print(Text(output), highlight=False)
            console.print()
        return FETCHED.sub("", console.export_svg(title="codex-ray", unique_id="codex-ray"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
