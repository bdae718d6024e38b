"""statistics/factorial.py against differences worked out by hand and scipy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from pipeline.statistics.factorial import effects
from pipeline.statistics.typical import contrasts, typical_run
from studies import simulate

GATES, ATTENTION = "gates", "encoder attention"
CELLS = ((), (GATES,), (ATTENTION,), (GATES, ATTENTION))


def design(means, *, seeds=8, **noise):
    values = simulate(np.random.default_rng(0), means, seeds=seeds, cases=60, **noise)
    none = np.zeros(seeds, dtype=bool)
    return {str(v): (cell, values[v], none) for v, cell in enumerate(CELLS)}


def test_effects_are_differences_of_the_cells_means():
    cells = design([0.80, 0.81, 0.83, 0.90])
    # Of eight runs the best and the worst are trimmed.
    means = [np.sort(values.mean(axis=1))[1:-1].mean() for _, values, _ in cells.values()]
    gates, attention, interaction = effects(cells, paired=False)
    assert gates.difference == pytest.approx((means[1] + means[3] - means[0] - means[2]) / 2)
    assert attention.difference == pytest.approx((means[2] + means[3] - means[0] - means[1]) / 2)
    assert interaction.difference == pytest.approx(means[3] - means[2] - means[1] + means[0])


@pytest.mark.parametrize("paired", [True, False])
def test_each_effect_is_its_contrast_adjusted_over_the_three(paired):
    cells = design([0.80, 0.81, 0.83, 0.84], correlation=0.5, fit_deviation=0.05)
    runs = [typical_run(*cell[1:]) for cell in cells.values()]
    weights = [[-0.5, 0.5, -0.5, 0.5], [-0.5, -0.5, 0.5, 0.5], [1, -1, -1, 1]]
    expected = contrasts(runs, weights, paired)
    adjusted = multipletests([each.p_value for each in expected], method="holm")[1]
    found = effects(cells, paired)
    assert [effect.factors for effect in found] == [[GATES], [ATTENTION], [GATES, ATTENTION]]
    for place, (effect, contrast) in enumerate(zip(found, expected, strict=True)):
        assert effect.difference == pytest.approx(contrast.value)
        assert effect.interval == contrast.interval()
        assert effect.p_value == pytest.approx(contrast.p_value)
        assert effect.adjusted_p_value == pytest.approx(adjusted[place])
        assert effect.shown is bool(adjusted[place] < 0.05)


def test_a_failed_run_changes_no_effect():
    cells = design([0.80, 0.81, 0.83, 0.84])
    lost = np.arange(8) == 5
    failed = {name: (cell, values, lost) for name, (cell, values, _) in cells.items()}
    worse = {
        name: (cell, np.where(lost[:, None], values - 0.2, values), lost)
        for name, (cell, values, _) in cells.items()
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
    cells = {
        str(cell): (cell, np.full((8, 5), 0.8 + 0.1 * (GATES in cell)), none) for cell in CELLS
    }
    found = effects(cells, False)
    assert [effect.p_value for effect in found] == [0.0, 1.0, 1.0]
    assert [effect.shown for effect in found] == [True, False, False]


def test_where_most_runs_of_a_cell_failed_no_effect_is_called_shown():
    cells = design([0.7, 0.8, 0.7, 0.8], seeds=8)
    lost = np.arange(8) < 5
    cells["0"] = (*cells["0"][:2], lost)
    assert {effect.shown for effect in effects(cells, False)} == {None}


def test_one_factor_is_the_difference_of_its_two_variants():
    (values, better), none = (
        np.asarray(simulate(np.random.default_rng(0), [0.80, 0.83], seeds=8, cases=60)),
        np.zeros(8, dtype=bool),
    )
    (effect,) = effects({"a": (["gates"], better, none), "b": ([], values, none)}, True)
    expected = contrasts([typical_run(better, none), typical_run(values, none)], [[1, -1]], True)
    assert effect.factors == ["gates"]
    assert effect.difference == pytest.approx(expected[0].value)
    assert effect.adjusted_p_value == pytest.approx(expected[0].p_value)


def test_of_three_factors_each_effect_is_averaged_over_the_levels_of_the_others():
    """Against ordinary least squares on +-1 codes, of runs without noise."""
    names = ("a", "b", "c")
    having = [
        tuple(n for n, on in zip(names, bits, strict=True) if on)
        for bits in itertools.product([0, 1], repeat=3)
    ]
    means = np.random.default_rng(2).uniform(0.7, 0.9, 8)
    none = np.zeros(8, dtype=bool)
    cells = {
        str(cell): (cell, np.full((8, 5), m), none) for cell, m in zip(having, means, strict=True)
    }
    found = {frozenset(each.factors): each.difference for each in effects(cells, False)}
    signs = np.array([[1 if n in cell else -1 for n in names] for cell in having])
    code = {frozenset(n): signs[:, i] for i, n in enumerate(names)}
    code |= {
        frozenset((m, n)): code[frozenset(m)] * code[frozenset(n)]
        for m, n in itertools.combinations(names, 2)
    }
    fit = np.linalg.lstsq(np.column_stack([np.ones(8), *code.values()]), means, rcond=None)[0][1:]
    # An effect is two coefficients wide; the interaction a difference of such.
    expected = {
        each: (2 if len(each) == 1 else 4) * slope for each, slope in zip(code, fit, strict=True)
    }
    assert found == pytest.approx(expected)
