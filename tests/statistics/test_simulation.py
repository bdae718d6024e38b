"""A short form of tests/simulation.py: the protocol keeps its promises on known truth."""

from __future__ import annotations

import numpy as np
import pytest
import simulation
from scipy import stats

from pipeline.statistics import pairs

pytestmark = pytest.mark.slow

STUDIES = 40


@pytest.fixture(scope="module")
def tukeys_own():
    own = pairs.tukey
    yield own
    pairs.tukey = own


@pytest.fixture(scope="module", params=[0.0, 0.5])
def rates(request, tukeys_own):
    return {seeds: simulation.rates(seeds, request.param, STUDIES, seed=1) for seeds in (5, 10)}


def most(share: float, count: int) -> float:
    """The largest share of `count` that is not surprising where `share` is the truth."""
    return stats.binom.ppf(0.9999, count, share) / count


@pytest.mark.parametrize("seeds", [5, 10])
def test_false_alarms_are_rare(rates, seeds):
    found = rates[seeds]
    assert found.shown_alarms <= most(0.05, STUDIES)
    assert found.factor_alarms <= most(0.05, STUDIES)
    assert found.test_alarms <= most(0.05, STUDIES)
    assert found.margin_wrong <= most(0.05, STUDIES)


@pytest.mark.parametrize("seeds", [5, 10])
def test_intervals_are_not_too_narrow(rates, seeds):
    found = rates[seeds]
    for covered in (found.mean_covered, found.difference_covered, found.run_covered):
        assert 1 - covered <= most(0.05, STUDIES)


def test_power_rises_with_seeds_and_effect_and_the_design_finds_more_than_a_pair(rates):
    assert rates[10].factor_found[1] > rates[5].factor_found[1]
    assert rates[10].factor_found[1] > rates[10].factor_found[0]
    assert rates[10].factor_found[1] > rates[10].pair_found[1]


def test_the_simulations_quick_tukey_is_scipys(tukeys_own):
    means = np.random.default_rng(0).normal(size=(6, 8))
    upper = np.triu_indices(6, 1)
    assert simulation.fast_tukey(means)[upper] == pytest.approx(tukeys_own(means)[upper], abs=5e-4)
