"""reporting/result_figures.py on made-up results: what is drawn, and when nothing is."""

from __future__ import annotations

import io

import matplotlib as mpl
import numpy as np
import pytest
from made_results import SEVEN, make_results
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from PIL import Image

from pipeline.reporting import result_figures
from pipeline.reporting.result_figures import (
    draw_cost,
    draw_forest,
    draw_ordering,
    draw_ranks,
    draw_variance,
)
from pipeline.reporting.style import STYLE

ALL = ("forest", "ranks", "cost", "variance", "ordering")
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
def test_one_variant_with_one_seed_draws_its_cost_and_nothing_that_compares(name):
    figure = draw(name, make_results(["unet"], seeds=1))
    assert (figure is not None) == (name == "cost")


@pytest.mark.parametrize("name", ALL)
def test_one_seed_draws_differences_and_cost_without_intervals(name):
    figure = draw(name, make_results(["unet", "resunet"], seeds=1))
    assert (figure is not None) == (name in ("forest", "cost"))
    if figure is not None:
        assert rendered(figure).getvalue()
        assert not any(" to " in text for text in texts(figure))


def test_the_forest_marks_what_is_shown_by_filling_and_what_is_equal_by_a_square():
    results = make_results()
    axes = draw_forest(results).axes[0]
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
    results = make_results(seeds=2)
    pairs = [
        pair.model_copy(update={"adjusted_p_value": 0.01}) for pair in results.comparison.pairs
    ]
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


def test_ranks_without_a_critical_difference_are_drawn_without_one():
    results = make_results()
    ranks = results.comparison.ranks.model_copy(
        update={"critical_difference": None, "groups": [], "friedman_p_value": None}
    )
    shown = " ".join(texts(draw_ranks(change(results, ranks=ranks))))
    assert "critical" not in shown
    assert "Friedman" not in shown


def test_a_variant_without_a_recorded_cost_is_left_out_and_an_empty_panel_too():
    results = make_results()
    costs = [cost.model_copy(update={"gflops": None}) for cost in results.costs]
    costs[0] = costs[0].model_copy(update={"wall_seconds": None})
    figure = draw_cost(results.model_copy(update={"costs": costs}))
    assert [ax.get_xlabel() for ax in figure.axes] == ["Training of a run, seconds"]
    assert SEVEN[0] not in texts(figure)
    assert SEVEN[1] in texts(figure)
    assert draw_cost(results.model_copy(update={"costs": []})) is None


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
