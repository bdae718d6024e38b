"""statistics/factorial.py against differences worked out by hand and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from pipeline.statistics.factorial import effects
from pipeline.statistics.typical import contrasts, typical_run
from studies import simulate

CELLS = ((False, False), (True, False), (False, True), (True, True))


def design(means, *, seeds=8, **noise):
    values = simulate(np.random.default_rng(0), means, seeds=seeds, cases=60, **noise)
    return dict(zip(CELLS, ((each, np.zeros(seeds, dtype=bool)) for each in values), strict=True))


def test_effects_are_differences_of_the_cells_means():
    cells = design([0.80, 0.81, 0.83, 0.90])
    # Of eight runs the best and the worst are trimmed.
    means = [np.sort(values.mean(axis=1))[1:-1].mean() for values, _ in cells.values()]
    gates, attention, interaction = effects(cells, paired=False)
    assert gates.difference == pytest.approx((means[1] + means[3] - means[0] - means[2]) / 2)
    assert attention.difference == pytest.approx((means[2] + means[3] - means[0] - means[1]) / 2)
    assert interaction.difference == pytest.approx(means[3] - means[2] - means[1] + means[0])


@pytest.mark.parametrize("paired", [True, False])
def test_each_effect_is_its_contrast_adjusted_over_the_three(paired):
    cells = design([0.80, 0.81, 0.83, 0.84], correlation=0.5, fit_deviation=0.05)
    runs = [typical_run(*cell) for cell in cells.values()]
    weights = [[-0.5, 0.5, -0.5, 0.5], [-0.5, -0.5, 0.5, 0.5], [1, -1, -1, 1]]
    expected = contrasts(runs, weights, paired)
    adjusted = multipletests([each.p_value for each in expected], method="holm")[1]
    found = effects(cells, paired)
    assert [effect.name for effect in found] == ["gates", "encoder attention", "interaction"]
    for place, (effect, contrast) in enumerate(zip(found, expected, strict=True)):
        assert effect.difference == pytest.approx(contrast.value)
        assert effect.interval == contrast.interval()
        assert effect.p_value == pytest.approx(contrast.p_value)
        assert effect.adjusted_p_value == pytest.approx(adjusted[place])
        assert effect.shown is bool(adjusted[place] < 0.05)


def test_a_failed_run_changes_no_effect():
    cells = design([0.80, 0.81, 0.83, 0.84])
    lost = np.arange(8) == 5
    failed = {cell: (values, lost) for cell, (values, _) in cells.items()}
    worse = {
        cell: (np.where(lost[:, None], values - 0.2, values), lost)
        for cell, (values, _) in cells.items()
    }
    assert effects(worse, False) == effects(failed, False)


def test_a_clear_main_effect_is_shown_and_the_others_are_not():
    gates, attention, interaction = effects(design([0.7, 0.8, 0.7, 0.8]), paired=False)
    assert (gates.shown, attention.shown, interaction.shown) == (True, False, False)


def test_from_seven_seeds_on_an_effect_may_be_shown():
    found = effects(design([0.7, 0.8, 0.7, 0.8], seeds=7), False)
    assert [effect.shown for effect in found] == [True, False, False]


def test_below_seven_seeds_no_effect_is_called_shown():
    assert {effect.shown for effect in effects(design([0.7, 0.8, 0.7, 0.8], seeds=6), True)} == {
        None
    }


def test_without_noise_what_differs_is_shown_and_what_does_not_is_not():
    none = np.zeros(8, dtype=bool)
    cells = {cell: (np.full((8, 5), 0.8 + 0.1 * cell[0]), none) for cell in CELLS}
    found = {effect.name: effect for effect in effects(cells, False)}
    assert [effect.p_value for effect in found.values()] == [0.0, 1.0, 1.0]
    assert [effect.shown for effect in found.values()] == [True, False, False]


def test_where_most_runs_of_a_cell_failed_no_effect_is_called_shown():
    cells = design([0.7, 0.8, 0.7, 0.8], seeds=8)
    lost = np.arange(8) < 5
    cells[False, False] = (cells[False, False][0], lost)
    assert {effect.shown for effect in effects(cells, False)} == {None}
