"""Figures of probabilities: whether they mean what they say, and what another threshold gives.

Each function draws from a Results object alone, and returns None where there is nothing to draw.
"""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from pipeline.reporting.result_figures import GREY, INK, looks
from pipeline.reporting.style import legend_columns
from pipeline.statistics.definitions import say
from pipeline.statistics.results import Results
from pipeline.statistics.rounding import decimals_of


def draw_reliability(results: Results) -> Figure | None:
    """Observed share of lesion against probability, a line a variant; below it each bin's pixels.

    Source: DeGroot and Fienberg 1983. None without calibration.
    """
    if not results.calibration:
        return None
    look = looks(results.study.variants)
    digits = _decimals(results, "expected_calibration_error")
    figure = Figure(figsize=(6.4, 8.4), layout="constrained")
    curves, pixels = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
    curves.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="calibrated")
    for found in results.calibration:
        style = {"color": look[found.variant].colour, "marker": look[found.variant].marker}
        filled = [one for one in found.bins if one.probability is not None]
        curves.plot(
            [one.probability for one in filled],
            [one.observed for one in filled],
            **style,
            markersize=5,
            linewidth=1.3,
            label=f"{found.variant} (error {found.expected_calibration_error:.{digits}f})",
        )
        total = sum(one.pixels for one in found.bins)
        pixels.plot(
            [one.probability for one in filled],
            [100 * one.pixels / total for one in filled],
            **style,
            markersize=3.5,
            linewidth=1,
        )
    curves.set(ylabel="Observed share of lesion", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    counted = say("Pixels, %", results.params["prepare"]["depth"])
    pixels.set(xlabel="Mean probability of lesion in a bin", ylabel=counted, yscale="log")
    pixels.yaxis.set_major_locator(LogLocator(numticks=5))
    pixels.yaxis.set_major_formatter("{x:g}")
    pixels.yaxis.set_minor_formatter(NullFormatter())
    handles, labels = curves.get_legend_handles_labels()
    columns = min(2, legend_columns(labels))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)
    return figure


def draw_thresholds(results: Results) -> Figure | None:
    """Mean Dice over validation cases against the threshold, the best marked. None without any."""
    if not results.thresholds:
        return None
    look = looks(results.study.variants)
    digits = _decimals(results, "dice")
    figure = Figure(figsize=(8, 4.4), layout="constrained")
    ax = figure.subplots()
    used = results.params.get("evaluate", {}).get("threshold")
    if used is not None:
        ax.axvline(used, color=INK, linewidth=0.9, linestyle=":")
    for found in results.thresholds:
        colour, marker = look[found.variant]
        ax.plot(found.thresholds, found.dice, color=colour, linewidth=1.4)
        ax.plot(
            found.best, found.best_dice, marker=marker, color=colour, markersize=8,
            markeredgecolor="white", markeredgewidth=0.5, linestyle="none",
            label=f"{found.variant} (best {found.best:.2f}: {found.best_dice:.{digits}f})",
        )  # fmt: skip
    ax.set(xlim=(0, 1), xlabel="Threshold", ylabel="Mean Dice over validation cases")
    _, labels = ax.get_legend_handles_labels()
    figure.legend(loc="outside lower center", ncols=min(2, legend_columns(labels)))
    return figure


def _decimals(results: Results, metric: str) -> int:
    """As the tables show the metric."""
    return decimals_of([found for found in results.estimates if found.metric == metric])
