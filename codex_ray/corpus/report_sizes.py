"""What a corpus report says of sizes: documents by bytes and by tokens, on a logarithmic scale."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from codex_ray.corpus.account import Account
from codex_ray.corpus.index import BEST_FIT, packing_method
from codex_ray.corpus.manifest import DocumentsInfo, Manifest, check_size, damaged
from codex_ray.track.drawing import MUTED, PLACEHOLDERS, SERIES, drawn, new_axes, to_svg
from codex_ray.track.page import figure_card, section
from codex_ray.track.progress import figure

BATCH = 2**16  # lines of an index read at a time
LABELS = 7  # along the axis of a histogram
BINS = 64


@dataclass
class Lengths:
    """Documents by the binary logarithm of their tokens; ``longer`` of them do not fit into a row."""

    counts: NDArray[np.int64]
    documents: int = 0
    longer: int = 0
    longest: int = 0

    def add(self, tokens: NDArray[np.int64], row: int) -> None:
        """Count documents by their tokens."""
        if len(tokens):
            _, exponents = np.frexp(np.maximum(tokens, 1).astype(np.float64))
            self.counts += np.bincount(exponents - 1, minlength=BINS)
            self.documents += len(tokens)
            self.longer += int((tokens > row).sum())
            self.longest = max(self.longest, int(tokens.max()))


def sizes_section(manifest: Manifest, account: Account) -> str:
    """Return the histograms of documents by bytes and by tokens.

    Raises:
        CodexRayError: an index file is missing or damaged.
    """
    lengths = document_lengths(manifest)
    by_size = {int(size): count for size, count in account.sizes.items() if count > 0}
    by_length = {index: int(count) for index, count in enumerate(lengths.counts) if count}
    fit = f"Special tokens included; {lengths.longer:,} of {lengths.documents:,} are longer than a row."
    cards = [
        _histogram(by_size, "Documents by size", "UTF-8 text of the documents kept.", _binary_size),
        _histogram(by_length, "Documents by tokens", fit, lambda power: short(2**power)),
    ]
    body = "".join(cards)
    return section("Sizes", f'<div class="plots">{body}</div>' if body else "")


def document_lengths(manifest: Manifest) -> Lengths:
    """Count the documents of all splits by their tokens, in memory that does not grow with the corpus.

    Raises:
        CodexRayError: an index file is missing or damaged.
    """
    lengths = Lengths(np.zeros(BINS, dtype=np.int64))
    for split in manifest.splits.values():
        for source in split.sources:
            in_pieces = packing_method(manifest, source.source) == BEST_FIT
            for info in source.index_files:
                for tokens in _tokens(manifest, info, in_pieces):
                    lengths.add(tokens, manifest.sequence_length)
    return lengths


def _tokens(manifest: Manifest, info: DocumentsInfo, in_pieces: bool) -> Iterator[NDArray[np.int64]]:
    """Yield the tokens of the documents of an index file.

    Packed by best fit, a document may have several lines, not one after the other, but all in one file;
    the file's names are held then.
    """
    path = manifest.folder / info.path
    check_size(path, info.bytes)
    try:
        with pq.ParquetFile(path) as file:
            if in_pieces:
                table = file.read(columns=["name", "tokens"], use_threads=False)
                summed = table.group_by("name", use_threads=False).aggregate([("tokens", "sum")])
                yield summed.column("tokens_sum").to_numpy()
                return
            for batch in file.iter_batches(BATCH, columns=["tokens"], use_threads=False):
                yield batch.column(0).to_numpy().astype(np.int64)
    except (OSError, pa.ArrowException) as error:
        raise damaged(path, str(error)) from error


def _histogram(counts: dict[int, int], title: str, caption: str, label: Callable[[int], str]) -> str:
    """Draw documents by powers of two; nothing where there are none."""
    if not counts:
        return ""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

    first, last = min(counts), max(counts)
    with drawn():
        drawing, axes = new_axes(4.6, 2.7, PLACEHOLDERS)
        places = list(range(first, last + 1))
        heights = [counts.get(place, 0) for place in places]
        axes.bar(places, heights, width=0.9, align="edge", color=SERIES[0])
        step = max(1, -(-(last + 1 - first) // LABELS))
        axes.xaxis.set_major_locator(FixedLocator(list(range(first, last + 2, step))))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: label(round(value))))
        axes.set_xlim(first - 0.4, last + 1.4)
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: figure(round(value))))
        axes.set_ylim(0, max(heights) * 1.05)
        axes.set_ylabel("documents", color=PLACEHOLDERS[MUTED], fontsize=8)
        svg = to_svg(drawing)
    middle = _median(counts)
    aside = f"median {label(middle)} to {label(middle + 1)}"
    said = "; ".join(f"{label(place)} to {label(place + 1)}: {counts.get(place, 0):,}" for place in places)
    return figure_card(svg, title, aside, caption, f"{title}: {said}")


def _median(counts: dict[int, int]) -> int:
    left = sum(counts.values()) / 2
    for place in sorted(counts):
        left -= counts[place]
        if left <= 0:
            break
    return place


def _binary_size(power: int) -> str:
    unit = min(power // 10, 4)
    return f"{2 ** (power - 10 * unit):,} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[unit]}"


def short(value: int) -> str:
    """Write a count for people, in thousands of millions or in millions where it is large."""
    for size, sign in ((10**12, " T"), (10**9, " B"), (10**6, " M")):
        if value >= size:
            return f"{value / size:.3g}{sign}"
    return f"{value:,}"


def size_text(value: int) -> str:
    """Write a number of bytes for people."""
    for size, sign in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if value >= size:
            return f"{value / size:.3g} {sign}"
    return f"{value} bytes"
