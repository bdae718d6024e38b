"""reporting/evaluation_figures.py on made-up results."""

from __future__ import annotations

import io

import matplotlib as mpl
import pytest
from made_results import SEVEN, make_results
from matplotlib.text import Text

from pipeline.reporting.evaluation_figures import draw_reliability, draw_thresholds
from pipeline.reporting.style import STYLE


@pytest.fixture(autouse=True)
def style():
    with mpl.rc_context(STYLE):
        yield


def texts(figure):
    return " ".join(text.get_text() for text in figure.findobj(Text))


@pytest.mark.slow
@pytest.mark.parametrize("draw", [draw_reliability, draw_thresholds])
def test_every_variant_is_named_with_its_figure_and_no_markup_is_left(draw):
    figure = draw(make_results())
    figure.savefig(io.BytesIO(), format="svg", metadata={"Date": None})
    assert all(variant in texts(figure) for variant in SEVEN)
    assert (
        "0.0100" in texts(figure) if draw is draw_reliability else "0.45: 0.850)" in texts(figure)
    )
    assert "$" not in texts(figure)


def test_reliability_shows_the_bins_that_have_pixels_and_their_shares():
    results = make_results(SEVEN[:1])
    curves, pixels = draw_reliability(results).axes
    (diagonal, line), (shares,) = curves.lines, pixels.lines
    assert diagonal.get_xydata().tolist() == [[0, 0], [1, 1]]
    filled = [one for one in results.calibration[0].bins if one.pixels]
    assert line.get_ydata().tolist() == [one.observed for one in filled]
    assert len(filled) == 14
    assert shares.get_ydata().sum() == pytest.approx(100)


def test_the_best_threshold_is_marked_where_the_curve_is_highest():
    results = make_results(SEVEN[:1])
    (ax,) = draw_thresholds(results).axes
    curve, best = ax.lines
    assert best.get_xydata().tolist() == [[0.45, max(curve.get_ydata())]]


@pytest.mark.parametrize("draw", [draw_reliability, draw_thresholds])
def test_nothing_is_drawn_of_nothing(draw):
    empty = make_results().model_copy(update={"calibration": [], "thresholds": []})
    assert draw(empty) is None
