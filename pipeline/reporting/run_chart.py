"""The page's first picture: every run as a dot, drawn as HTML so that it can be touched.

Places are percentages of the axis; run_chart.html draws them. Its static sister is figures/runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from urllib.parse import quote

from matplotlib.colors import to_hex
from matplotlib.ticker import MaxNLocator

from pipeline.reporting.result_figures import RunRow, apart, looks, run_rows, span
from pipeline.reporting.tables import number
from pipeline.statistics.definitions import metric_of
from pipeline.statistics.results import Results
from pipeline.statistics.rounding import decimals_of

DOT = 1.3  # percent of the axis that a dot takes
FAR = 0.5  # share of the axis by which a run lies below it that is drawn at its end
BESIDE = 0.04  # of the axis, left and right of what it holds


@dataclass(frozen=True)
class Dot:
    """A run. far: its figure, where it lies beyond the axis. link: to its cases, where the page has
    them."""

    place: float
    height: float
    told: str
    failed: bool
    far: str | None
    link: str | None


@dataclass(frozen=True)
class ChartRow:
    """A variant. low, width: of its interval; told, interval: beside the axis."""

    variant: str
    colour: str
    dots: list[Dot]
    typical: float | None
    low: float | None
    width: float | None
    paper: float | None
    paper_told: str
    told: str
    interval: str | None


@dataclass(frozen=True)
class Tick:
    place: float
    text: str


@dataclass(frozen=True)
class Key:
    """What a mark means."""

    kind: str
    told: str


@dataclass(frozen=True)
class RunChart:
    caption: str
    rows: list[ChartRow]
    ticks: list[Tick]
    keys: list[Key]


def run_chart(results: Results, *, linked: bool) -> RunChart | None:
    """None where no run has a figure. linked: whether the page has an explorer of cases."""
    rows = run_rows(results)
    if not any(row.sound or row.failed for row in rows):
        return None
    low, high = span([value for row in rows for value in row.bounds()])
    failed = [value for row in rows for value in row.failed.values()]
    low = min([low, *(value for value in failed if value >= low - FAR * (high - low))])
    axis = _Axis(low - BESIDE * (high - low), high + BESIDE * (high - low))
    label = metric_of(results.comparison.metric).label
    colours = colours_of(results)
    digits = decimals_of([row.estimate for row in rows if row.estimate is not None])
    return RunChart(
        caption=f"{label} of each run, mean over the test cases:",
        rows=[_row(row, axis, _Words(label, digits), colours[row.variant], linked) for row in rows],
        ticks=axis.ticks(),
        keys=_keys(rows),
    )


def colours_of(results: Results) -> dict[str, str]:
    """A variant's colour, #rrggbb: the one that every figure gives it."""
    return {name: to_hex(look.colour) for name, look in looks(results.study.variants).items()}


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float

    def place(self, value: float) -> float:
        """In percent, at its ends what lies beyond them."""
        share = 100 * (value - self.low) / (self.high - self.low)
        return round(min(max(share, 0.0), 100.0), 2)

    def ticks(self) -> list[Tick]:
        values = MaxNLocator(4).tick_values(self.low, self.high)
        step = values[1] - values[0]
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        decimals += round(step * 10**decimals, 6) != round(step * 10**decimals)
        inside = [value for value in values if self.low <= value <= self.high]
        return [Tick(self.place(value), f"{value:.{decimals}f}") for value in inside]


@dataclass(frozen=True)
class _Words:
    """The metric, and how many decimals its figures have."""

    label: str
    digits: int

    def of(self, value: float) -> str:
        return number(value, self.digits)


def _row(row: RunRow, axis: _Axis, words: _Words, colour: str, linked: bool) -> ChartRow:
    found = row.estimate
    typical = None if found is None else found.typical
    bounds = None if found is None else found.interval
    paper = None if found is None else found.paper
    runs = len(row.sound) + len(row.failed)
    return ChartRow(
        variant=row.variant,
        colour=colour,
        dots=_dots(row, axis, words, linked),
        typical=None if typical is None or runs < 2 else axis.place(typical),
        low=None if bounds is None else axis.place(bounds.low),
        width=None
        if bounds is None
        else round(axis.place(bounds.high) - axis.place(bounds.low), 2),
        paper=None if paper is None else axis.place(paper),
        paper_told="" if paper is None else f"the paper: {paper:g}",
        told="no figure" if typical is None else words.of(typical),
        interval=None if bounds is None else f"{words.of(bounds.low)} to {words.of(bounds.high)}",
    )


def _dots(row: RunRow, axis: _Axis, words: _Words, linked: bool) -> list[Dot]:
    """The sound runs above the typical one's line, then those that failed."""
    dots = []
    for runs, failed in ((row.sound, False), (row.failed, True)):
        places = [axis.place(value) for value in runs.values()]
        heights = apart(places, DOT)
        for (seed, value), place, height in zip(runs.items(), places, heights, strict=True):
            far = words.of(value) if value < axis.low else None
            dots.append(
                Dot(
                    place=place,
                    height=round(36 + 100 * height, 1),
                    told=f"seed {seed}: {words.label} {number(value)}"
                    + (", failed" if failed else ""),
                    failed=failed,
                    far=far,
                    link=f"#run={quote(row.variant, safe='')},{seed}" if linked else None,
                )
            )
    return dots


def _keys(rows: list[RunRow]) -> list[Key]:
    estimates = [row.estimate for row in rows if row.estimate is not None]
    several = any(len(row.sound) + len(row.failed) > 1 for row in rows)
    keys = [Key("dot", "a run")]
    if any(row.failed for row in rows):
        keys.append(Key("failed", "a run that failed"))
    if any(found.interval is not None for found in estimates):
        typical = "a typical run, with its 95 % interval over seeds and cases"
        keys.append(
            Key("range", typical) if several else Key("bar", "95 % interval over cases alone")
        )
    elif several:
        failed = any(row.failed for row in rows)
        keys.append(Key("typical", "the mean of those that did not" if failed else "their mean"))
    if any(found.paper is not None for found in estimates):
        keys.append(Key("paper", "the paper's figure"))
    return keys
