"""reporting/result_figures.py on made-up results: what is drawn, and when nothing is."""

from __future__ import annotations

import io
import re
from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pytest
from made_results import SEVEN, make_results
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from PIL import Image

from pipeline.reporting import result_figures
from pipeline.reporting.result_figures import (
    draw_cost,
    draw_forest,
    draw_ordering,
    draw_ranks,
    draw_runs,
    draw_variance,
)
from pipeline.reporting.style import MARKERS, STYLE
from pipeline.statistics.results import Interval

ALL = ("runs", "forest", "ranks", "cost", "variance", "ordering")
LONG = tuple(f"a_variant_whose_name_is_{number}_{'long_' * 8}" for number in range(3))


@pytest.fixture(autouse=True)
def style():
    with mpl.rc_context(STYLE):
        yield


def draw(name, results):
    return getattr(result_figures, f"draw_{name}")(results)


def change(results, **parts):
    """`results` with parts of its comparison replaced."""
    return results.model_copy(
        update={"comparison": results.comparison.model_copy(update=parts)}, deep=True
    )


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def rendered(figure, kind="png"):
    file = io.BytesIO()
    figure.savefig(file, format=kind, dpi=60, metadata={"Date": None} if kind == "svg" else None)
    return file


@pytest.mark.parametrize("name", ALL)
def test_every_variants_name_is_drawn_within_the_picture(name):
    results = make_results(LONG)
    figure = draw(name, results)
    with Image.open(rendered(figure)) as image:
        ink = (np.asarray(image.convert("RGB")) < 250).any(axis=-1)
    rim = ink.copy()
    rim[1:-1, 1:-1] = False
    assert ink.mean() > 0.01
    assert not rim.any()
    if name != "variance":  # which is of no one variant
        shown = " ".join(texts(figure))
        assert all(variant in shown for variant in LONG)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_the_same_results_give_the_same_bytes(name):
    first, second = (rendered(draw(name, make_results()), "svg").getvalue() for _ in range(2))
    assert first == second


@pytest.mark.parametrize("name", ALL)
def test_one_variant_with_one_seed_draws_run_and_cost_and_nothing_that_compares(name):
    figure = draw(name, make_results(["unet"], seeds=1))
    assert (figure is not None) == (name in ("runs", "cost"))


@pytest.mark.parametrize("seeds", [2, 6])
@pytest.mark.parametrize("name", ALL)
def test_few_seeds_draw_what_describes_them_and_nothing_that_is_concluded(name, seeds):
    figure = draw(name, make_results(seeds=seeds))
    assert (figure is None) == (name in ("forest", "ranks", "ordering"))
    if figure is not None:
        assert rendered(figure).getvalue()
        assert not any("interval" in text for text in texts(figure))
    if name == "runs":
        mean = "mean of the runs" if seeds < 5 else "typical run (of those that did not fail)"
        assert mean in texts(figure)


@pytest.mark.parametrize("name", ALL)
def test_one_seed_without_intervals_draws_runs_and_cost(name):
    figure = draw(name, make_results(["unet", "resunet"], seeds=1))
    assert (figure is not None) == (name in ("runs", "cost"))
    if figure is not None:
        assert rendered(figure).getvalue()
        assert not any(" to " in text for text in texts(figure))


def dots(figure, variants, kinds=MARKERS):
    """variant -> (Dice, failed) of each dot: its row, and whether it is hollow."""
    found = {variant: [] for variant in variants}
    for ax in figure.axes:
        low, high = ax.get_xlim()
        for line in ax.lines:
            x, y = line.get_xdata(), line.get_ydata()
            if line.get_marker() in kinds and len(x) == 1:
                hollow = to_rgb(line.get_markerfacecolor()) == to_rgb("white")
                assert low <= x[0] <= high
                found[variants[round(y[0])]].append((x[0], hollow))
    return {variant: sorted(own) for variant, own in found.items()}


def dice_of(results, variant):
    return {run.seed: run.metrics["dice"] for run in results.runs if run.variant == variant}


@pytest.mark.parametrize("seeds", [1, 2, 10, 40])
@pytest.mark.parametrize("depth", [0.06, 0.15, 0.9])
def test_each_run_is_a_dot_in_its_row_and_hollow_where_it_failed(seeds, depth):
    several = {SEVEN[1]: [0, 4, 7], SEVEN[6]: [9]} if seeds > 9 else {}
    results = make_results(seeds=seeds, failed=several, depth=depth)
    assert {own.variant: own.failed for own in results.failures if own.failed} == several
    found = dots(draw_runs(results), SEVEN)
    for variant in SEVEN:
        known = dice_of(results, variant)
        expected = [(dice, seed in several.get(variant, [])) for seed, dice in known.items()]
        assert found[variant] == sorted(expected)


def test_of_fewer_than_five_runs_none_is_said_to_be_well():
    told = texts(draw_runs(make_results(seeds=4, failed={})))
    assert "4 runs" in told
    assert not any(text.startswith("failed") for text in told)
    assert "failed: 0 of 5" in texts(draw_runs(make_results(seeds=5, failed={})))


def test_a_dot_has_its_variants_colour_and_marker():
    results = make_results()
    looks = result_figures.looks(SEVEN)
    for ax in draw_runs(results).axes:
        for line in ax.lines:
            if line.get_marker() in MARKERS:
                own = looks[SEVEN[round(line.get_ydata()[0])]]
                assert (line.get_marker(), to_rgb(line.get_color())) == (
                    own.marker, to_rgb(own.colour),
                )  # fmt: skip


def test_failed_runs_have_their_seed_beside_them():
    known = dice_of(make_results(failed={}), SEVEN[2])
    order = sorted(known, key=known.get)
    ends = make_results(failed={SEVEN[0]: [3], SEVEN[2]: [order[0], order[-1]]}, depth=0.6)
    far, near = draw_runs(ends).axes
    told = {text.get_text(): text.xy for text in far.texts if text.get_text().startswith("seed")}
    assert set(told) == {"seed 3", f"seed {order[0]}", f"seed {order[-1]}"}
    for variant, seed, place in ((0, 3, 0), (2, order[0], 2), (2, order[-1], 2)):
        x, y = told[f"seed {seed}"]
        assert x == pytest.approx(dice_of(ends, SEVEN[variant])[seed], abs=0.002)
        assert round(y) == place
    assert not any(text.startswith("seed") for text in texts(near))

    nearest = min(pairwise(order), key=lambda two: known[two[1]] - known[two[0]])
    together = draw_runs(make_results(failed={SEVEN[2]: nearest}, depth=0.6))
    assert "seeds {}, {}".format(*nearest) in texts(together)
    many = draw_runs(make_results(seeds=40, failed={SEVEN[0]: range(12)}))
    (named,) = (text for text in texts(many) if text.startswith("seed"))
    assert re.fullmatch(r"seeds \d+, \d+, \d+, …", named)
    assert "failed: 12 of 40" in texts(many)


def test_runs_far_below_stand_on_a_scale_of_their_own_and_others_on_the_common_one():
    cases = [str(number) for number in range(100)]
    (ax,) = draw_runs(make_results(ids=cases, failed={})).axes
    far, near = draw_runs(make_results(ids=cases, depth=0.6)).axes
    assert near.get_xlim() == pytest.approx(ax.get_xlim(), abs=1e-3)
    assert far.get_xlim()[1] < near.get_xlim()[0]
    assert any("another scale" in text for text in texts(far))
    results = make_results(depth=0.05)  # with six cases the intervals reach as low
    (common,) = draw_runs(results).axes
    assert "seed 3" in texts(common)


def test_the_typical_run_stands_below_its_runs_with_interval_and_the_papers_figure():
    results = make_results()
    axes = draw_runs(results).axes[-1]
    rows = {round(line.get_ydata()[0] - 0.27, 6): [] for line in axes.lines}
    for line in axes.lines:
        rows[round(line.get_ydata()[0] - 0.27, 6)].append(line)
    for place, found in enumerate(results.estimates):
        own = {line.get_marker(): list(line.get_xdata()) for line in rows[place]}
        expected = {"d": [found.typical], "|": [found.interval.low, found.interval.high]}
        assert own == expected | ({} if found.paper is None else {"*": [found.paper]})
        # 0.08 wide: three decimals
        assert f"{found.typical:.3f} ({found.interval.low:.3f} to {found.interval.high:.3f})" in (
            texts(axes)
        )
    told = [text for text in texts(axes) if text.startswith("failed: ")]
    assert told == ["failed: 0 of 10", "failed: 1 of 10", *["failed: 0 of 10"] * 5]


def without_intervals(results):
    """As of too few seeds."""
    estimates = [each.model_copy(update={"interval": None}) for each in results.estimates]
    pairs = [each.model_copy(update={"interval": None}) for each in results.comparison.pairs]
    return change(results, pairs=pairs).model_copy(update={"estimates": estimates})


def test_of_few_seeds_the_legend_and_the_axis_name_what_is_drawn():
    few = without_intervals(make_results(seeds=2))
    runs = texts(draw_runs(few))
    assert "mean of the runs" in runs
    assert not any("interval" in text or "typical" in text for text in runs)
    assert "0.8618" in runs  # deviation 0.003
    assert draw_forest(few) is None


def test_the_forests_figures_have_the_decimals_of_their_intervals():
    results = make_results(SEVEN[:2])
    (pair,) = results.comparison.pairs
    for half, shown in ((0.004, "+0.0012 (−0.0028 to 0.0052)"), (0.04, "+0.001 (−0.039 to 0.041)")):  # noqa: RUF001
        bounds = Interval(low=0.0012 - half, high=0.0012 + half)
        one = pair.model_copy(update={"difference": 0.0012, "interval": bounds, "shown": None})
        assert shown in texts(draw_forest(change(results, pairs=[one])))


def overlaps(figure, monkeypatch):
    """Pairs of texts that cover each other, of those that are drawn: ticks beyond the axis are
    not."""
    boxes, draw = [], Text.draw

    def noted(text, renderer):
        draw(text, renderer)
        if text.get_text().strip():
            boxes.append((text.get_text(), text.get_window_extent(renderer)))

    FigureCanvasAgg(figure).draw()  # the layout
    monkeypatch.setattr(Text, "draw", noted)
    FigureCanvasAgg(figure).draw()
    return [
        (a, b)
        for place, (a, first) in enumerate(boxes)
        for b, second in boxes[place + 1 :]
        if min(first.x1, second.x1) - max(first.x0, second.x0) > 1
        and min(first.y1, second.y1) - max(first.y0, second.y0) > 1
    ]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("seeds", [2, 10])
def test_seven_long_names_cover_nothing(name, seeds, monkeypatch):
    results = make_results([f"{own}_with_a_long_name" for own in SEVEN], seeds=seeds)
    if seeds < 7:
        results = without_intervals(results)
    assert overlaps(draw(name, results), monkeypatch) == []


def test_the_legend_says_what_failed_means_where_a_run_did():
    failed = "failed, with its seed: over 0.03 Dice below its variant's upper quartile"
    assert failed in texts(draw_runs(make_results()))
    assert not any("failed, " in text for text in texts(draw_runs(make_results(failed={}))))
    wide = make_results()
    rates = [each.model_copy(update={"drop": 0.0412}) for each in wide.failures]
    shown = texts(draw_runs(wide.model_copy(update={"failures": rates})))
    assert failed.replace("0.03", "0.0412") in shown


def test_runs_without_a_dice_are_left_out_and_without_any_nothing_is_drawn():
    results = make_results(SEVEN[:2], seeds=3)
    none = results.runs[0].model_copy(update={"metrics": {"dice": None}})
    figure = draw_runs(results.model_copy(update={"runs": [none, *results.runs[1:]]}))
    found = dots(figure, SEVEN)
    assert [len(found[name]) for name in SEVEN[:2]] == [2, 3]
    alone = results.model_copy(update={"runs": results.runs[3:]})
    assert "no run has a figure" in texts(draw_runs(alone))
    assert draw_runs(results.model_copy(update={"runs": [none]})) is None


def test_dots_that_would_hide_each_other_stand_apart():
    """On the row where there is room, else as near to it as there is."""
    apart = result_figures.apart
    assert apart([0.1, 0.3, 0.5], 0.1) == [0, 0, 0]
    assert apart([0.1, 0.15, 0.25], 0.1) == [0, 0.075, 0]
    seven = apart([0.5] * 7, 0.1)
    assert len(set(seven)) == 7
    assert max(map(abs, seven)) < 0.27  # where the typical run is
    assert set(apart([0.5] * 40, 0.1)) == set(seven)


def test_the_forest_marks_what_is_shown_by_filling_and_what_is_equal_by_a_square():
    results = make_results()
    axes = draw_forest(results).axes[0]
    assert (
        axes.get_xlabel()
        == "Difference in Dice between typical runs, 95 % interval over seeds and cases"
    )
    markers = [line for line in axes.lines if line.get_marker() in ("o", "s")]
    pairs = results.comparison.pairs
    assert len(markers) == len(pairs) == 21
    for pair, marker in zip(pairs, markers, strict=True):
        assert marker.get_xdata() == [pair.difference]
        filled = to_rgb(marker.get_markerfacecolor()) != to_rgb("white")
        assert filled == pair.shown
        assert (marker.get_marker() == "s") == pair.equivalent


def test_the_forest_has_the_equivalence_margin_as_a_band_and_a_line_at_zero():
    results = make_results()
    axes = draw_forest(results).axes[0]
    (band,) = axes.patches
    margin = results.comparison.equivalence_margin
    assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx((-margin, margin))
    assert any(list(line.get_xdata()) == [0, 0] for line in axes.lines)


def test_a_forest_without_tests_says_that_it_is_descriptive():
    results = make_results()
    untested = {"adjusted_p_value": 0.01, "shown": None}  # as of one run of each
    pairs = [pair.model_copy(update=untested) for pair in results.comparison.pairs]
    shown = " ".join(texts(draw_forest(change(results, pairs=pairs))))
    assert "descriptive" in shown
    assert "p = " not in shown
    assert "not shown" not in shown


def test_the_ranks_are_drawn_at_their_averages_with_a_bar_a_group():
    results = make_results()
    axes = draw_ranks(results).axes[0]
    ranks = results.comparison.ranks
    for variant, rank in ranks.average.items():
        assert any(variant in text and f"{rank:.2f}" in text for text in texts(axes))
    bars = [line for line in axes.lines if line.get_linewidth() == 4]
    assert len(bars) == len(ranks.groups)
    assert "critical difference 2.85" in texts(axes)
    assert any("of all runs, failed ones with them" in text for text in texts(draw_ranks(results)))


def test_ranks_without_a_test_are_drawn_without_one():
    results = make_results()
    ranks = results.comparison.ranks.model_copy(update={"friedman_p_value": None})
    assert "Friedman" not in " ".join(texts(draw_ranks(change(results, ranks=ranks))))


def test_a_variant_without_a_recorded_cost_is_left_out_and_an_empty_panel_too():
    results = make_results()
    costs = [cost.model_copy(update={"gflops": None}) for cost in results.costs]
    costs[0] = costs[0].model_copy(update={"wall_seconds": None})
    figure = draw_cost(results.model_copy(update={"costs": costs}))
    assert [ax.get_xlabel() for ax in figure.axes] == ["Training of a run, seconds"]
    assert SEVEN[0] not in texts(figure)
    assert SEVEN[1] in texts(figure)
    assert draw_cost(results.model_copy(update={"costs": []})) is None


def test_cost_is_drawn_beside_the_typical_run_with_its_own_interval():
    results = make_results()
    typical = {found.variant: found for found in results.estimates}
    axes = draw_cost(results).axes
    for ax in axes:
        middles = [line for line in ax.lines if len(line.get_xdata()) == 1]
        bars = [line for line in ax.lines if len(line.get_xdata()) == 2]
        assert [line.get_ydata()[0] for line in middles] == [typical[v].typical for v in SEVEN]
        assert [list(line.get_ydata()) for line in bars] == [
            [typical[v].interval.low, typical[v].interval.high] for v in SEVEN
        ]
    assert axes[0].get_ylabel() == "Dice of a typical run, 95 % interval"
    assert typical[SEVEN[1]].mean < typical[SEVEN[1]].typical - 0.01  # which would be seen


def test_the_parts_of_the_variance_fill_the_bar_and_are_told_as_numbers():
    results = make_results()
    figure = draw_variance(results)
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert sum(widths) == pytest.approx(100)
    shown = " ".join(texts(figure))
    assert "case: 79.9 %, standard deviation 0.0894 Dice" in shown
    assert "variant: 0.03 %" in shown


def test_no_variance_at_all_draws_no_bar():
    results = make_results()
    none = results.comparison.variance.model_copy(
        update={"variant": 0.0, "seed": 0.0, "case": 0.0, "rest": 0.0}
    )
    assert draw_variance(change(results, variance=none)) is None


def test_the_orderings_show_shares_and_mark_the_observed_one():
    figure = draw_ordering(make_results())
    best, orders = figure.axes
    assert [bar.get_width() for bar in best.patches] == pytest.approx(100 * 0.5 ** np.arange(1, 8))
    assert "50 %, observed" in texts(orders)
    assert len(orders.lines) == 7 * 7  # a marker a variant and ordering


def test_of_more_variants_than_colours_no_two_look_the_same():
    looks = result_figures.looks([f"variant-{place}" for place in range(20)])
    assert len({(str(look.colour), look.marker) for look in looks.values()}) == 20
