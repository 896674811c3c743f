"""What a run's report says of a search: what was found, how, and what it looks like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codex_ray.discover.problem import MAXIMISE, Problem, find_problem
from codex_ray.discover.solution import NAME, TREE, read_solution
from codex_ray.errors import CodexRayError
from codex_ray.files import read_json
from codex_ray.track.drawing import GRID, INK, MUTED, SERIES, drawn, to_svg
from codex_ray.track.metrics import Row
from codex_ray.track.page import columns_table, figure_card, section
from codex_ray.track.progress import figure

LONGEST_TEXT = 400  # characters of what made a solution


def sections(run_folder: Path, rows: Sequence[Row]) -> list[str]:
    """Return the report's sections about a search; none of a run that is no search, or has just begun."""
    path = run_folder / NAME
    if not path.exists():
        return []
    held = read_solution(path)
    try:
        problem = find_problem(held["problem"], held["language"], held["options"])
    except CodexRayError:
        return []  # a class of the user's that is not there where the report is made
    searched = [row for row in rows if "discover/best" in row]
    cards = []
    if len(searched) > 1:
        cards += [progress_card([("", searched)], problem), _rewards_card(searched), _signals_card(searched)]
    tree = run_folder / TREE
    if tree.exists():
        cards += _tree_card(read_json(tree, "the tree of solutions"), held, problem)
    drawing = problem.draw(held["solution"])
    if drawing:
        label = f"the best solution, of {problem.name}"
        cards.append(
            figure_card(drawing, "Best solution", figure(held["figure"]), "As it was graded.", label)
        )
    plots = section("Search", f'<div class="plots">{"".join(cards)}</div>' if cards else "")
    return [plots, section("Lineage of the best solution", _lineage(held, problem), _LINEAGE)]


_LINEAGE = "From the seed down: each was made from the one above it by what was written beside it."


def progress_card(runs: Sequence[tuple[str, Sequence[Row]]], problem: Problem) -> str:
    """Draw the best so far against rollouts, of several runs, with what is published as lines."""
    from matplotlib.figure import Figure

    with drawn():
        drawing = Figure(figsize=(4.6, 2.9), layout="constrained")
        axes = drawing.add_subplot()
        figures: list[float] = []
        for place, (name, rows) in enumerate(runs):
            across = [float(row["discover/rollouts"] or 0) for row in rows]
            best = [float(row["discover/best"] or 0) for row in rows]
            axes.step(
                across, best, where="post", color=SERIES[place % len(SERIES)], linewidth=1.4, label=name
            )
            figures += best
        for bound in problem.bounds:
            axes.axhline(bound.figure, color=MUTED, linewidth=0.7, linestyle=":")
        _framed(axes, "rollouts")
        if any(name for name, _ in runs):
            axes.legend(frameon=False, fontsize=7, labelcolor=INK)
        svg = to_svg(drawing)
    chosen = (max if problem.direction == MAXIMISE else min)(figures)
    published = ", ".join(f"{bound.figure:.7g} {bound.source.split(' (')[0]}" for bound in problem.bounds)
    caption = f"To {problem.direction}; dotted: {published or 'nothing is known'}."
    return figure_card(
        svg, "Best so far", figure(chosen), caption, f"the best figure by rollouts; at the end {chosen:.8g}"
    )


def _rewards_card(rows: Sequence[Row]) -> str:
    from matplotlib.figure import Figure

    steps = [float(row["step"] or 0) for row in rows]
    quarters = {
        name: [float(row[f"discover/reward_{name}"] or 0) for row in rows]
        for name in ("min", "q1", "median", "q3", "max")
    }
    with drawn():
        drawing = Figure(figsize=(4.6, 2.9), layout="constrained")
        axes = drawing.add_subplot()
        axes.fill_between(steps, quarters["min"], quarters["max"], color=SERIES[0], alpha=0.12, linewidth=0)
        axes.fill_between(steps, quarters["q1"], quarters["q3"], color=SERIES[0], alpha=0.3, linewidth=0)
        axes.plot(steps, quarters["median"], color=SERIES[0], linewidth=1.4)
        _framed(axes, "optimizer step")
        svg = to_svg(drawing)
    caption = "Of each step's rollouts: median, middle half, least and greatest; 0 is no solution."
    return figure_card(svg, "Rewards", figure(quarters["median"][-1]), caption, "rewards by optimizer step")


def _signals_card(rows: Sequence[Row]) -> str:
    from matplotlib.figure import Figure

    shown = {"valid": "discover/valid_share", "entropy": "entropy", "KL": "reference_kl"}
    with drawn():
        drawing = Figure(figsize=(4.6, 2.9), layout="constrained")
        axes = drawing.add_subplot()
        for place, (label, name) in enumerate(shown.items()):
            there = [
                (float(row["step"] or 0), float(row[name] or 0)) for row in rows if row.get(name) is not None
            ]
            if there:
                across, values = zip(*there, strict=True)
                axes.plot(across, values, color=SERIES[place], linewidth=1.2, label=label)
        _framed(axes, "optimizer step")
        axes.legend(frameon=False, fontsize=7, labelcolor=INK)
        svg = to_svg(drawing)
    share = rows[-1]["discover/valid_share"]
    caption = "Share of rollouts that were solutions; nats per token of entropy and of KL to where it began."
    return figure_card(
        svg, "Validity and policy", figure(share), caption, "valid share, entropy and KL by step"
    )


def _tree_card(tree: Sequence[Sequence[Any]], held: dict[str, Any], problem: Problem) -> list[str]:
    """Draw what was made from what, with the way to the best solution; nothing of a lone seed."""
    from matplotlib.figure import Figure

    places = {number: (step, value) for number, _, value, step in tree}
    way = [(one["step"], one["figure"]) for one in [*held["lineage"], held] if "figure" in one]
    if len(places) < 2:
        return []
    with drawn():
        drawing = Figure(figsize=(4.6, 2.9), layout="constrained")
        axes = drawing.add_subplot()
        for number, parent, _, _ in tree:
            if parent in places:
                axes.plot(*zip(places[parent], places[number], strict=True), color=MUTED, linewidth=0.5)
        axes.plot(*zip(*places.values(), strict=True), ".", color=MUTED, markersize=3)
        axes.plot(*zip(*way, strict=True), "o-", color=SERIES[0], markersize=4, linewidth=1.4)
        _framed(axes, "optimizer step")
        svg = to_svg(drawing)
    caption = "Each solution that was kept when the best was found, and what it was made from; the way to it."
    label = f"{len(places)} solutions and what each was made from, to {problem.direction}"
    return [figure_card(svg, "Tree of solutions", f"{len(places)} kept", caption, label)]


def _framed(axes: Any, across: str) -> None:
    axes.set_xlabel(across, color=MUTED)
    axes.tick_params(which="both", colors=MUTED, length=0, pad=5)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(GRID)


def _lineage(held: dict[str, Any], problem: Problem) -> str:
    rows, before = [], None
    for one in [*held["lineage"], held]:
        if "figure" not in one:
            rows.append((f"{one['number']}", "", "", "no longer kept"))
            continue
        gained = "" if before is None else f"{one['figure'] - before:+.4g}"
        before = one["figure"]
        text = str(one["text"])
        made = text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} ..."
        kind = "seed" if not one["step"] else figure(one["step"])
        rows.append((kind, f"{one['figure']:.8g}", gained, made.strip()))
    heads = ("step", problem.name.replace("_", " "), "change", "what was written")
    return columns_table(heads, rows, words=("what was written",))
