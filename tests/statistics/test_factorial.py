"""statistics/factorial.py against differences worked out by hand and scipy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from statsmodels.formula.api import ols
from statsmodels.stats.multitest import multipletests

from pipeline.statistics.crossed import mean_interval, two_way_p
from pipeline.statistics.factorial import effects
from studies import simulate

CELLS = ((False, False), (True, False), (False, True), (True, True))


def design(means, *, seeds=8, **noise):
    values = simulate(np.random.default_rng(0), means, seeds=seeds, cases=60, **noise)
    return dict(zip(CELLS, values, strict=True))


def test_effects_are_differences_of_the_cells_means():
    cells = design([0.80, 0.81, 0.83, 0.90])
    means = [values.mean() for values in cells.values()]
    gates, attention, interaction = effects(cells, paired=False)
    assert gates.difference == pytest.approx((means[1] + means[3] - means[0] - means[2]) / 2)
    assert attention.difference == pytest.approx((means[2] + means[3] - means[0] - means[1]) / 2)
    assert interaction.difference == pytest.approx(means[3] - means[2] - means[1] + means[0])


@pytest.mark.parametrize("paired", [True, False])
def test_p_values_are_those_of_treatment_coded_least_squares(paired):
    cells = design([0.800, 0.801, 0.803, 0.804], correlation=0.9)
    rows = {"value": [], "cell": [], "seed": []}
    for number, values in enumerate(cells.values()):
        for seed, mean in enumerate(values.mean(axis=1)):
            for key, entry in zip(rows, (mean, str(number), str(seed)), strict=True):
                rows[key].append(entry)
    model = ols("value ~ 0 + cell" + (" + seed" if paired else ""), pd.DataFrame(rows)).fit()
    contrasts = [[-1, 1, -1, 1], [-1, -1, 1, 1], [1, -1, -1, 1]]
    for effect, contrast in zip(effects(cells, paired), contrasts, strict=True):
        padded = np.pad(contrast, (0, len(model.params) - 4))
        assert effect.p_value == pytest.approx(float(model.t_test(padded).pvalue))


@pytest.mark.parametrize("paired", [True, False])
def test_intervals_and_adjusted_p_values_are_those_of_the_contrasts(paired):
    # Cases that suit a variant by chance, so that the two-way error's p-values are the larger ones.
    cells = design([0.80, 0.81, 0.83, 0.84], fit_deviation=0.05)
    neither, gates, attention, both = cells.values()
    contrasts = (
        (gates + both - neither - attention) / 2,
        (attention + both - neither - gates) / 2,
        both - attention - gates + neither,
    )
    found = effects(cells, paired)
    assert [effect.name for effect in found] == ["gates", "encoder attention", "interaction"]
    of_seeds = multipletests([effect.p_value for effect in found], method="holm")[1]
    two_way = multipletests([float(two_way_p(each)) for each in contrasts], method="holm")[1]
    assert (two_way > of_seeds).any()
    for place, (effect, contrast) in enumerate(zip(found, contrasts, strict=True)):
        assert effect.interval.low == pytest.approx(mean_interval(contrast).low)
        assert effect.interval.high == pytest.approx(mean_interval(contrast).high)
        assert effect.adjusted_p_value == pytest.approx(max(of_seeds[place], two_way[place]))
        assert effect.shown is bool(effect.adjusted_p_value < 0.05)


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
    cells = {cell: np.full((8, 5), 0.8 + 0.1 * cell[0]) for cell in CELLS}
    found = {effect.name: effect for effect in effects(cells, False)}
    assert [effect.p_value for effect in found.values()] == [0.0, 1.0, 1.0]
    assert [effect.shown for effect in found.values()] == [True, False, False]
