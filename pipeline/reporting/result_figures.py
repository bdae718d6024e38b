"""Figures of what results.json holds: runs, differences, ranks, orderings, variance and cost.

Each function draws from a Results object alone, and returns None where there is nothing to draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, groupby
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from pipeline.reporting.style import BLACK_LETTERS, COLOURS, MARKERS, WHITE_LETTERS, legend_columns
from pipeline.statistics.definitions import metric_of
from pipeline.statistics.results import Estimate, Interval, Pair, Ranks, Results
from pipeline.statistics.rounding import MOST, NOTHING, decimals, decimals_of, width
from pipeline.statistics.verdict import p_text, percent
from pipeline.study.values import quantity

MINUS = "\N{MINUS SIGN}"
GREY = "0.45"
INK = "0.15"
SHOWN_ORDERINGS = 8
AT_BEST = "best by validation"
LETTER = 0.078  # inches a letter of 9 points takes, on average
ROW, PLOT, DOT = 0.62, 4.9, 0.08  # inches: of a variant's runs, of their axis, of a run's dot
FAR = 0.5  # share of the axis by which a failed run lies below it that is drawn beside it
SHOWN_SEEDS = 3  # of failed runs that lie together


class Look(NamedTuple):
    """A variant's colour and marker, the same in every figure."""

    colour: Any  # as matplotlib takes it
    marker: str


def conclusions(results: Results) -> dict[str, Figure]:
    """Runs, differences, settings, ranks, orderings and variance, by name: those that there is
    something to draw for."""
    figures = {
        "runs": draw_runs(results),
        "forest": draw_forest(results),
        "settings": draw_settings(results),
        "ranks": draw_ranks(results),
        "ordering": draw_ordering(results),
        "variance": draw_variance(results),
    }
    return {name: figure for name, figure in figures.items() if figure is not None}


def looks(variants: Sequence[str]) -> dict[str, Look]:
    """Of more variants than colours the next round has each colour with another marker."""
    markers = (
        MARKERS[(place + place // len(COLOURS)) % len(MARKERS)] for place in range(len(variants))
    )
    return dict(zip(variants, map(Look, cycle(COLOURS), markers), strict=False))


def _number(value: float, digits: int = MOST, *, sign: bool = False) -> str:
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    return text.replace("-", MINUS) if float(text) else text.lstrip("+-")


class RunRow(NamedTuple):
    """A variant's runs as they are drawn: seed -> figure, lowest first."""

    variant: str
    sound: dict[int, float]
    failed: dict[int, float]
    told: str  # how many failed
    estimate: Estimate | None

    def bounds(self) -> list[float]:
        """What the axis has to hold besides runs that failed."""
        found = [*self.sound.values()]
        if self.estimate is not None:
            interval, paper = self.estimate.interval, self.estimate.paper
            found += [interval.low, interval.high] if interval is not None else []
            found += [paper] if paper is not None else []
        return found


def draw_runs(results: Results) -> Figure | None:
    """Every run's figure in the primary metric, a row a variant, and below them the typical run
    with its 95 % interval and the paper's figure.

    Hollow, with its seed: a run that failed. Those far below the others stand in a part of the axis
    with a scale of its own. None where no run has a figure.
    """
    rows = run_rows(results)
    if not any(row.sound or row.failed for row in rows):
        return None
    label, look = metric_of(results.comparison.metric).label, looks(results.study.variants)
    low, high = span([value for row in rows for value in row.bounds()])
    failed = [value for row in rows for value in row.failed.values()]
    far = [value for value in failed if value < low - FAR * (high - low)]
    near = (min([low, *(value for value in failed if value not in far)]), high)
    names = [row.variant for row in rows]
    digits = decimals_of([row.estimate for row in rows if row.estimate is not None])
    figure = Figure(
        figsize=(PLOT + 2.3 + LETTER * _longest(names), 1.75 + ROW * len(rows)),
        layout="constrained",
    )
    axes = _run_axes(figure, near, span(far) if far else None)
    for place, row in enumerate(rows):
        for ax, (start, end), inches in axes:
            within = [
                {seed: value for seed, value in runs.items() if start <= value <= end}
                for runs in (row.sound, row.failed)
            ]
            _draw_dots(ax, place, within, look[row.variant], (start, end), inches)
        _draw_typical(axes[-1][0], place, row, look[row.variant], digits)
    for ax, _, _ in axes:
        ax.set(ylim=(len(rows) - 0.45, -0.6))
        for place in range(1, len(rows)):
            ax.axhline(place - 0.52, color="0.9", linewidth=0.8, zorder=0)
    axes[0][0].set_yticks(range(len(rows)), names)
    axes[-1][0].set_xlabel(f"{label} of a run, mean over test cases")
    figure.legend(handles=_runs_legend(results, rows, label), loc="outside lower center", ncols=2)
    return figure


def run_rows(results: Results) -> list[RunRow]:
    metric = results.comparison.metric
    failed = {(each.variant, seed) for each in results.failures for seed in each.failed}
    rated = {each.variant for each in results.failures if each.interval is not None}
    estimates = {found.variant: found for found in results.estimates if found.metric == metric}
    rows = []
    for variant in results.study.variants:
        known = {
            run.seed: value
            for run in results.runs
            if run.variant == variant and (value := run.metrics.get(metric)) is not None
        }
        ordered = sorted(known, key=lambda seed: known[seed])
        sound, low = (
            {seed: known[seed] for seed in ordered if ((variant, seed) in failed) == kind}
            for kind in (False, True)
        )
        told = quantity(len(known), "run")
        if variant in rated:
            told = f"failed: {len(low)} of {len(known)}"
        rows.append(RunRow(variant, sound, low, told, estimates.get(variant)))
    return rows


def span(values: Sequence[float]) -> tuple[float, float]:
    """The least and the largest, a hundredth apart at least."""
    low, high = min(values), max(values)
    more = max(0.0, 0.01 - (high - low)) / 2
    return low - more, high + more


RunAxes = list[tuple[Axes, tuple[float, float], float]]  # with their limits, and inches


def _run_axes(
    figure: Figure, near: tuple[float, float], far: tuple[float, float] | None
) -> RunAxes:
    """The axis, and left of it the part for what lies far below."""
    spans = [(near, 0.06)] if far is None else [(far, 0.25), (near, 0.06)]
    widths = [PLOT] if far is None else [0.26 * PLOT, 0.74 * PLOT]
    grid = figure.subplots(1, len(spans), sharey=True, squeeze=False, width_ratios=widths)[0]
    axes = []
    for ax, ((low, high), beside), inches in zip(grid, spans, widths, strict=True):
        margin = beside * (high - low)
        limits = (low - margin, high + margin)
        ax.set_xlim(limits)
        ax.xaxis.set_major_locator(MaxNLocator(6 if inches > PLOT / 2 else 2))
        ax.grid(axis="y", visible=False)
        axes.append((ax, limits, inches))
    if far is not None:
        left, right = grid
        left.set_facecolor("0.96")
        left.set_xlabel("far below,\nanother scale")
        left.spines["right"].set_visible(False)
        right.spines["left"].set_visible(False)
        right.tick_params(left=False)
        cut = {
            "marker": [(-0.5, -1), (0.5, 1)], "markersize": 9, "linestyle": "none",
            "color": "0.4", "markeredgecolor": "0.4", "clip_on": False,
        }  # fmt: skip
        left.plot([1, 1], [0, 1], transform=left.transAxes, **cut)
        right.plot([0, 0], [0, 1], transform=right.transAxes, **cut)
    return axes


def _draw_dots(
    ax: Axes,
    place: int,
    within: Sequence[dict[int, float]],
    look: Look,
    limits: tuple[float, float],
    inches: float,
) -> None:
    """A row's runs that lie within the limits, sound ones and failed ones; those that would hide
    each other one above the other."""
    sound, failed = within
    scale = (limits[1] - limits[0]) / inches  # of an inch
    heights = apart(list(sound.values()), DOT * scale)
    for value, height in zip(sound.values(), heights, strict=True):
        ax.plot(
            value, place - 0.1 + height, marker=look.marker, color=look.colour, markersize=6,
            alpha=0.75, markeredgecolor="white", markeredgewidth=0.5, clip_on=False,
        )  # fmt: skip
    heights = apart(list(failed.values()), DOT * scale)
    for value, height in zip(failed.values(), heights, strict=True):
        ax.plot(
            value, place - 0.1 + height, marker=look.marker, color=look.colour, markersize=6.5,
            markerfacecolor="white", markeredgewidth=1.5, clip_on=False,
        )  # fmt: skip
    groups: list[list[int]] = []
    for seed, value in failed.items():
        if groups and value - failed[groups[-1][-1]] < 0.65 * scale:  # as wide as a label
            groups[-1].append(seed)
        else:
            groups.append([seed])
    for group in groups:
        text = _seeds_text(group)
        half = 0.5 * LETTER * len(text) * scale
        middle = (failed[group[0]] + failed[group[-1]]) / 2
        middle = min(max(middle, limits[0] + half), limits[1] - half)
        ax.annotate(
            text, (middle, place - 0.1 - 0.06 * (len(group) > 1)), xytext=(0, 5),
            textcoords="offset points", ha="center", va="bottom", fontsize=8,
        )  # fmt: skip


def apart(values: Sequence[float], width: float) -> list[float]:
    """How far above or below its row each dot goes, values ascending: to the nearest of seven
    heights where no other within `width` is."""
    heights = (0.0, 0.075, -0.075, 0.15, -0.15, 0.225, -0.225)
    found: list[float] = []
    taken: dict[float, float] = {}
    for value in values:
        free = [height for height in heights if value - taken.get(height, -np.inf) >= width]
        chosen = free[0] if free else min(heights, key=lambda height: taken[height])
        taken[chosen] = value
        found.append(chosen)
    return found


def _seeds_text(seeds: Sequence[int]) -> str:
    """`seed 3`, `seeds 3, 7, 9, …`"""
    shown = ", ".join(map(str, seeds[:SHOWN_SEEDS]))
    rest = ", …" if len(seeds) > SHOWN_SEEDS else ""
    return f"seed{'s' if len(seeds) > 1 else ''} {shown}{rest}"


def _draw_typical(ax: Axes, place: int, row: RunRow, look: Look, digits: int) -> None:
    """Below a row's runs the typical run; right of the axis what it and the failures are."""
    runs, found = len(row.sound) + len(row.failed), row.estimate
    line, place_of_text = place + 0.27, ax.get_yaxis_transform()
    told = row.told if runs else "no run has a figure"
    ax.text(1.012, place - 0.1, told, transform=place_of_text, va="center", fontsize=8.5)
    if found is None or found.typical is None:
        return
    text = _number(found.typical, digits)
    if found.interval is not None:
        ends = [found.interval.low, found.interval.high]
        text += f" ({_number(ends[0], digits)} to {_number(ends[1], digits)})"
        ax.plot(
            ends, [line, line], color=look.colour, linewidth=1.8, marker="|", markersize=7,
            markeredgewidth=1.8, clip_on=False,
        )  # fmt: skip
    if runs > 1:
        ax.plot(
            found.typical, line, marker="d", color=look.colour, markersize=7,
            markeredgecolor="white", markeredgewidth=0.5, clip_on=False,
        )  # fmt: skip
    if found.paper is not None:
        ax.plot(
            found.paper, line, marker="*", color=INK, markersize=8.5, markeredgecolor="white",
            markeredgewidth=0.6, clip_on=False,
        )  # fmt: skip
    ax.text(1.012, line, text, transform=place_of_text, va="center", fontsize=8.5)


def _runs_legend(results: Results, rows: Sequence[RunRow], label: str) -> list[Line2D]:
    def handle(text: str, marker: str, **changes: Any) -> Line2D:
        form = {"color": GREY, "markersize": 6.5, "linestyle": "none"}
        return Line2D([], [], marker=marker, label=text, **{**form, **changes})

    handles = [handle("a run, a seed each", "o")]
    if any(row.failed for row in rows):
        drop = results.failures[0].drop  # one for all variants
        told = f"failed, with its seed: over {drop:.4g} {label} below its variant's upper quartile"
        handles.append(handle(told, "o", markerfacecolor="white", markeredgewidth=1.5))
    bounded = any(row.estimate is not None and row.estimate.interval is not None for row in rows)
    most = max(len(row.sound) + len(row.failed) for row in rows)
    typical = "typical run (of those that did not fail)"
    found = [row.estimate for row in rows if row.estimate is not None]
    if all(abs((each.typical or 0.0) - (each.mean or 0.0)) < NOTHING for each in found):
        typical = "mean of the runs"
    line = {"linestyle": "-", "linewidth": 1.8}
    if most > 1 and bounded:
        handles.append(handle(f"{typical}, 95 % interval", "d", **line))
    elif most > 1:
        handles.append(handle(typical, "d"))
    elif bounded:
        handles.append(handle("95 % interval over cases alone", "", **line))
    if any(row.estimate is not None and row.estimate.paper is not None for row in rows):
        handles.append(handle("the paper's figure", "*", color=INK, markersize=8.5))
    return handles


def draw_forest(results: Results) -> Figure | None:
    """Every pair's difference of typical runs with its 95 % interval, grouped by the variant taken
    from.

    Filled: shown; square: equal within the margin, which the band marks. None without pairs that
    have an interval.
    """
    comparison = results.comparison
    if all(pair.interval is None for pair in comparison.pairs):
        return None
    label, margin = metric_of(comparison.metric).label, comparison.equivalence_margin
    groups = [(first, list(pairs)) for first, pairs in groupby(comparison.pairs, _first)]
    rows = len(comparison.pairs) + len(groups)
    inches = 7.2 + LETTER * _longest(comparison.variants)  # the plot keeps its own
    lower = comparison.better == "lower"
    runs = "the runs" if comparison.over == "cases alone" else "typical runs"
    against = "against" if lower else "minus"
    better = " (above 0 the first is better)" if lower else ""
    digits = decimals(width(pair.interval) for pair in comparison.pairs)
    bounded = any(pair.interval is not None for pair in comparison.pairs)
    interval = f", 95 % interval over {comparison.over}" if bounded else ""
    figure = Figure(figsize=(inches, 1.5 + 0.24 * rows), layout="constrained")
    ax = figure.subplots()
    if margin is not None:
        ax.axvspan(-margin, margin, color="0.92", linewidth=0, zorder=0)
    ax.axvline(0, color=INK, linewidth=0.9, zorder=1)
    row = 0
    for first, pairs in groups:
        _name_row(ax, row, f"{first} {against}", fontweight="bold")
        for pair in pairs:
            row += 1
            _draw_difference(ax, pair, row, digits)
        row += 1
    ax.set(
        ylim=(rows - 0.4, -0.6),
        yticks=[],
        xlabel=f"Difference in {label}{better} between {runs}{interval}",
    )
    ax.margins(x=0.06)
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.grid(axis="y", visible=False)
    figure.legend(
        handles=_forest_legend(comparison.pairs, margin), loc="outside lower center", ncols=2
    )
    return figure


def _longest(names: Sequence[str]) -> int:
    return max(map(len, names))


def _first(pair: Pair) -> str:
    return pair.first


def _draw_difference(ax: Axes, pair: Pair, row: int, digits: int) -> None:
    """One line of the forest: name at the left, interval, the figures at the right."""
    colour = COLOURS[0] if pair.shown else GREY
    if pair.interval is not None:
        ax.plot([pair.interval.low, pair.interval.high], [row, row], color=colour, linewidth=1.6)
    ax.plot(
        pair.difference, row, marker="s" if pair.equivalent else "o", color=colour,
        markerfacecolor=colour if pair.shown else "white", markeredgewidth=1.4, markersize=6,
    )  # fmt: skip
    _name_row(ax, row, pair.second)
    text = _difference_text(pair, digits)
    ax.text(1.012, row, text, transform=ax.get_yaxis_transform(), va="center", fontsize=8.5)


def _difference_text(pair: Pair, digits: int) -> str:
    text = _number(pair.difference, digits, sign=True)
    if pair.interval is not None:
        low, high = pair.interval.low, pair.interval.high
        text += f" ({_number(low, digits)} to {_number(high, digits)})"
    if pair.shown is not None and pair.adjusted_p_value is not None:
        text += f", {p_text(pair.adjusted_p_value)}"
    return text


def _forest_legend(pairs: Sequence[Pair], margin: float | None) -> list[Line2D | Patch]:
    bounded = any(pair.interval is not None for pair in pairs)

    def marker(text: str, kind: str, *, shown: bool) -> Line2D:
        colour = COLOURS[0] if shown else GREY
        return Line2D(
            [], [], marker=kind, color=colour, markeredgewidth=1.4, markersize=6, label=text,
            markerfacecolor=colour if shown else "white", linestyle="-" if bounded else "none",
        )  # fmt: skip

    band = []
    if margin is not None:
        band.append(Patch(color="0.92", label=f"equivalence margin, {margin:g}"))
    if all(pair.shown is None for pair in pairs):
        return [marker("descriptive: too few seeds for a test", "o", shown=False), *band]
    shown = [
        marker("shown (adjusted p below 0.05)", "o", shown=True),
        marker("not shown", "o", shown=False),
    ]
    if margin is not None:
        shown.append(marker("square: shown to be equal within the margin", "s", shown=False))
    return [*shown, *band]


class SettingRow(NamedTuple):
    """A typical run as it is drawn: at one setting, or at the best."""

    name: str
    typical: float | None
    interval: Interval | None
    told: str  # how many seeds chose it


def draw_settings(results: Results) -> Figure | None:
    """Each variant's typical run at each of its settings, and below them at the best by validation,
    with its 95 % interval. None where no variant has settings."""
    if results.tuning is None:
        return None
    metric, seeds = results.comparison.metric, len(results.tuning.comparison.seeds)
    groups = {}
    for each in results.tuning.variants:
        found = {name: results.estimate(name, metric) for name in each.settings}
        groups[each.variant] = [
            SettingRow(name, own.typical, own.interval, f"chosen {each.chosen[name]} of {seeds}")
            for name, own in found.items()
        ]
        groups[each.variant].append(SettingRow(AT_BEST, each.typical, each.interval, ""))
    rows = [row for group in groups.values() for row in group]
    digits = decimals(width(row.interval) for row in rows)
    inches = 7.2 + LETTER * max(len(row.name) for row in rows)
    figure = Figure(figsize=(inches, 1.5 + 0.24 * (len(rows) + len(groups))), layout="constrained")
    ax = figure.subplots()
    look, place = looks(results.study.variants), -1
    for variant, group in groups.items():
        place += 1
        _name_row(ax, place, variant, fontweight="bold")
        for row in group:
            place += 1
            _name_row(ax, place, row.name)
            _draw_setting(ax, place, row, look[variant], digits)
    bounded = any(row.interval is not None for row in rows)
    interval = f", 95 % interval over {results.comparison.over}" if bounded else ""
    ax.set(
        ylim=(place + 0.6, -0.6),
        yticks=[],
        xlabel=f"{metric_of(metric).label} of a typical run{interval}",
    )
    ax.margins(x=0.06)
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.grid(axis="y", visible=False)
    return figure


def _name_row(ax: Axes, place: float, name: str, **changes: Any) -> None:
    """A name left of the axis."""
    form = {"ha": "right", "va": "center", "fontsize": 9, **changes}
    ax.text(-0.012, place, name, transform=ax.get_yaxis_transform(), **form)


def _draw_setting(ax: Axes, place: int, row: SettingRow, look: Look, digits: int) -> None:
    """Point and interval, filled at the best, and right of the axis the figures."""
    text = "no figure" if row.typical is None else _number(row.typical, digits)
    if row.interval is not None:
        ends = (row.interval.low, row.interval.high)
        text += f" ({_number(ends[0], digits)} to {_number(ends[1], digits)})"
        ax.plot(ends, [place, place], color=look.colour, linewidth=1.6)
    if row.typical is not None:
        best = row.name == AT_BEST
        ax.plot(
            row.typical, place, marker="d" if best else "o", color=look.colour,
            markerfacecolor=look.colour if best else "white", markeredgewidth=1.4,
            markersize=7 if best else 6,
        )  # fmt: skip
    text = ", ".join(filter(None, (text, row.told)))
    ax.text(1.012, place, text, transform=ax.get_yaxis_transform(), va="center", fontsize=8.5)


def draw_ranks(results: Results) -> Figure | None:
    """The variants' average ranks; a bar joins those that the critical difference cannot part.

    Source: Demsar 2006, figure 1. None without it.
    """
    ranks = results.comparison.ranks
    if ranks is None or ranks.critical_difference is None or len(ranks.average) < 2:
        return None
    names = sorted(ranks.average, key=lambda name: ranks.average[name])
    count = len(names)
    groups = sorted(
        sorted(ranks.average[name] for name in group) for group in ranks.groups if len(group) > 1
    )
    first_label = 0.75 + 0.3 * len(groups)
    depth = first_label + 0.55 * ((count + 1) // 2 - 1)
    inches = 5.5 + 2 * LETTER * _longest(names)
    figure = Figure(figsize=(inches, 1.5 + 0.5 * (depth + 1)), layout="constrained")
    ax = figure.subplots()
    end = max(count, 1 + ranks.critical_difference)
    beside = 0.07 * (end - 1)
    ax.set(xlim=(1 - beside, end + beside), ylim=(depth + 0.4, -1.5))
    ax.axis("off")
    _draw_rank_axis(ax, count, ranks.critical_difference)
    for place, span in enumerate(groups):
        height = 0.4 + 0.3 * place
        ax.plot(
            [span[0] - beside / 8, span[-1] + beside / 8], [height] * 2, color=INK, linewidth=4,
            solid_capstyle="butt",
        )  # fmt: skip
    look = looks(results.study.variants)
    for place, name in enumerate(names):
        left = place < (count + 1) // 2
        row = place if left else count - 1 - place
        _draw_rank(ax, name, ranks.average[name], look[name], first_label + 0.55 * row, left=left)
    figure.supxlabel(_rank_note(ranks), fontsize=9)
    return figure


def _draw_rank_axis(ax: Axes, count: int, critical_difference: float) -> None:
    ax.plot([1, count], [0, 0], color=INK, linewidth=1.2)
    for rank in range(1, count + 1):
        ax.plot([rank, rank], [0, -0.12], color=INK, linewidth=1.2)
        ax.text(rank, -0.2, str(rank), ha="center", va="bottom", fontsize=9)
    end = 1 + critical_difference
    ax.plot([1, end], [-1.0, -1.0], color=INK, linewidth=1.6)
    for edge in (1, end):
        ax.plot([edge, edge], [-0.9, -1.1], color=INK, linewidth=1.6)
    text = f"critical difference {critical_difference:.2f}"
    ax.text((1 + end) / 2, -1.12, text, ha="center", va="bottom", fontsize=9)


def _draw_rank(ax: Axes, name: str, rank: float, look: Look, depth: float, *, left: bool) -> None:
    """A line from the axis down to the name, which stands beyond the axis' end."""
    (low, high) = ax.get_xlim()
    edge = low if left else high
    ax.plot([rank, rank, edge], [0, depth, depth], color=look.colour, linewidth=1.2)
    ax.plot(
        rank, 0, marker=look.marker, color=look.colour, markersize=7, markeredgecolor="white",
        markeredgewidth=0.5,
    )  # fmt: skip
    text = f"{name}  {rank:.2f}" if left else f"{rank:.2f}  {name}"
    ax.annotate(
        text, (edge, depth), xytext=(-4 if left else 4, 0), textcoords="offset points",
        ha="right" if left else "left", va="center", fontsize=9,
    )  # fmt: skip


def _rank_note(ranks: Ranks) -> str:
    tests = []
    for test, p_value in (
        ("Friedman", ranks.friedman_p_value),
        ("repeated-measures ANOVA", ranks.anova_p_value),
    ):
        if p_value is not None:
            tests.append(f"{test}: {p_text(p_value)}")
    lines = ["Average rank over seeds, 1 is the best, of all runs, failed ones with them"]
    return "\n".join([*lines, "; ".join(tests)] if tests else lines)


def draw_cost(results: Results) -> Figure | None:
    """The typical run in the primary metric, with its interval, against GFLOPs and against the time
    of a training.

    A variant without that figure is left out of the panel, a panel without variants of the figure.
    """
    metric = results.comparison.metric
    panels = {
        "GFLOPs a forward pass of one image": {c.variant: c.gflops for c in results.costs},
        "Training of a run, seconds": {c.variant: c.wall_seconds for c in results.costs},
    }
    estimates = {
        found.variant: (found.typical, found.interval)
        for found in results.estimates
        if found.metric == metric
    }
    drawn = {
        title: points for title, costs in panels.items() if (points := _points(costs, estimates))
    }
    if not drawn:
        return None
    look = looks(results.study.variants)
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    axes = figure.subplots(1, len(drawn), sharey=True, squeeze=False)[0]
    for ax, (title, points) in zip(axes, drawn.items(), strict=True):
        for variant, (cost, typical, interval) in points.items():
            colour, marker = look[variant]
            if interval is not None:
                ax.plot([cost, cost], [interval.low, interval.high], color=colour, linewidth=1.4)
            ax.plot(
                cost, typical, marker=marker, color=colour, markersize=9, markeredgecolor="white",
                markeredgewidth=0.5,
            )  # fmt: skip
        highest = max(cost for cost, _, _ in points.values())
        ax.set(xlabel=title, xlim=(0, 1.08 * highest or 1))
    label = metric_of(metric).label
    bounded = any(bounds is not None for _, bounds in estimates.values())
    axes[0].set_ylabel(f"{label} of a typical run{', 95 % interval' if bounded else ''}")
    _add_legend(figure, look, [name for name in look if any(name in p for p in drawn.values())])
    return figure


def _points(
    costs: dict[str, float | None], estimates: dict[str, tuple[float | None, Interval | None]]
) -> dict[str, tuple[float, float, Interval | None]]:
    """variant -> cost, typical run, interval, where both figures are known."""
    points = {}
    for variant, cost in costs.items():
        typical, interval = estimates.get(variant, (None, None))
        if cost is not None and typical is not None:
            points[variant] = (cost, typical, interval)
    return points


def _add_legend(figure: Figure, look: dict[str, Look], names: Sequence[str]) -> None:
    handles = [
        Line2D(
            [], [], color=look[name].colour, marker=look[name].marker, linestyle="none",
            markersize=8, markeredgecolor="white", markeredgewidth=0.5, label=name,
        )
        for name in names
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=legend_columns(names))


def draw_variance(results: Results) -> Figure | None:
    """What a single score's variance is of, as one bar. None without a variance to split."""
    variance = results.comparison.variance
    if variance is None:
        return None
    parts = {
        "variant": variance.variant,
        "seed, within a variant": variance.seed,
        "case": variance.case,
        "rest: case and run together": variance.rest,
    }
    total = sum(parts.values())
    if total <= 0:
        return None
    label = metric_of(results.comparison.metric).label
    figure = Figure(figsize=(9, 2.3), layout="constrained")
    ax = figure.subplots()
    start = 0.0
    handles = []
    fills = {COLOURS[0]: WHITE_LETTERS, COLOURS[1]: BLACK_LETTERS, "0.75": "black", "0.9": "black"}
    for (name, part), (fill, letters) in zip(parts.items(), fills.items(), strict=True):
        share = part / total
        ax.barh(0, 100 * share, left=100 * start, color=fill, edgecolor="white", linewidth=1.5)
        if share > 0.06:  # narrower ones cannot hold their number; the legend has it
            ax.text(
                100 * (start + share / 2), 0, percent(share), ha="center", va="center",
                fontsize=10, color=letters,
            )  # fmt: skip
        start += share
        text = f"{name}: {_share(share)}, standard deviation {np.sqrt(part):.4f} {label}"
        handles.append(Patch(color=fill, label=text))
    ax.set(xlim=(0, 100), yticks=[], xlabel=f"Share of the variance of one case's {label}, %")
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _share(share: float) -> str:
    return f"{100 * share:.2f} %" if share < 0.1 else f"{100 * share:.1f} %"


def draw_ordering(results: Results) -> Figure | None:
    """How often each variant is the best, and the orderings that came out most often.

    None where no ordering was drawn.
    """
    ordering = results.comparison.ordering
    if ordering is None or len(ordering.best) < 2:
        return None
    look = looks(results.study.variants)
    names = [name for name in ordering.observed if name in ordering.best]
    shown = ordering.shares[:SHOWN_ORDERINGS]
    figure = Figure(figsize=(9, 2.2 + 0.3 * len(names) + 0.3 * len(shown)), layout="constrained")
    best, orders = figure.subplots(2, 1, height_ratios=[len(names) + 1, len(shown) + 1.5])
    for row, name in enumerate(names):
        share = ordering.best[name]
        best.barh(row, 100 * share, color=look[name].colour, height=0.65)
        best.annotate(
            percent(share), (100 * share, row), xytext=(4, 0), textcoords="offset points",
            va="center", fontsize=9,
        )  # fmt: skip
    best.set_yticks(range(len(names)), names)
    best.set(
        ylim=(len(names) - 0.4, -0.6),
        xlim=(0, 108),
        xlabel=f"Share of {ordering.draws:,} draws of seeds and cases in which it is the best, %",
    )
    best.grid(axis="y", visible=False)

    for row, order in enumerate(shown):
        for rank, name in enumerate(order.variants, start=1):
            orders.plot(
                rank, row, marker=look[name].marker, color=look[name].colour, markersize=9,
                markeredgecolor="white", markeredgewidth=0.5,
            )  # fmt: skip
        observed = ", observed" if order.variants == ordering.observed else ""
        orders.text(
            1.012, row, f"{percent(order.share)}{observed}", va="center", fontsize=9,
            transform=orders.get_yaxis_transform(),
        )  # fmt: skip
    orders.set(
        xlim=(0.5, len(names) + 0.5),
        ylim=(len(shown) - 0.4, -0.6),
        xticks=range(1, len(names) + 1),
        yticks=[],
        xlabel=f"Rank in an ordering; the {len(shown)} most frequent of {ordering.distinct:,}",
    )
    orders.grid(visible=False)
    _add_legend(figure, look, names)
    return figure
