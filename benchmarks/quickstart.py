"""What the quickstart reaches on this machine, and what everything in it took.

python -m benchmarks.quickstart            runs it in a folder of its own
python -m benchmarks.quickstart FOLDER     takes the figures of a finished quickstart folder
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks.results import Figure, write_result
from codex_ray.cli import main as command
from codex_ray.files import read_json

LESS, MORE = "lower", "higher"
UNITS = {
    "bits_per_byte": ("bits/byte", LESS, 1.21),
    "gzip_bits_per_byte": ("bits/byte", LESS, None),
    "xz_bits_per_byte": ("bits/byte", LESS, None),
    "xz_primed_bits_per_byte": ("bits/byte", LESS, None),
    "unigram_bits_per_byte": ("bits/byte", LESS, None),
    "ngram_bits_per_byte": ("bits/byte", LESS, None),
    "headers_parsed": ("share", MORE, None),
    "ngram_headers_parsed": ("share", MORE, None),
    "tokens": ("tokens", MORE, None),
    "tokens_per_second": ("tokens/s", MORE, None),
    "mfu": ("share of the measured matmul peak", MORE, None),
    "train_seconds": ("s", LESS, 300.0),
    "first_step_seconds": ("s", LESS, None),
    "quickstart_seconds": ("s", LESS, 720.0),
    "parameters": ("parameters", LESS, None),
}


def main(words: list[str]) -> int:
    """Run or read a quickstart and write the result file."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(words[0]) if words else Path(temporary)
        if not words and (status := command(["quickstart", f"folder={folder}"])):
            return status
        summary = read_json(folder / "run" / "summary.json", "summary")
    figures = {
        name: Figure(summary[name], unit, better, aim)
        for name, (unit, better, aim) in UNITS.items()
        if name in summary
    }
    startup = {name: value for name, value in summary.items() if name.startswith("startup/")}
    print(write_result("quickstart", figures, extra={"startup": startup}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
