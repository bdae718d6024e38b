"""A short form of tests/simulation.py: the protocol keeps its promises on known truth."""

from __future__ import annotations

import numpy as np
import pytest
import simulation
from scipy import stats

from pipeline.statistics import pairs
from pipeline.statistics.typical import Contrast

pytestmark = pytest.mark.slow

STUDIES = 60
NAMES = {
    "nothing fails",
    "nothing fails, seeds correlate 0.5",
    "10% fail by 0.13, equal in typical run",
    "20% fail by 0.05, equal in typical run",
    "10% fail by 0.13, equal in mean",
    "10% fail by 0.13, skewed cases",
    "patients of five photographs",
}
TRUTHS = [truth for truth in simulation.TRUTHS if truth.name in NAMES]
KEYS = [(truth, seeds) for truth in TRUTHS for seeds in (7, 10)]
ALARMS = ("pair_alarm", "effect_alarm", "equal_alarm", "paper_alarm")
COVERED = ("difference", "typical", "run", "rate", "mean")


@pytest.fixture(scope="module")
def tukeys_own():
    own = pairs.tukey
    yield own
    pairs.tukey = own


@pytest.fixture(scope="module")
def rates(tukeys_own):
    return {(t.name, seeds): simulation.rates(t, seeds, STUDIES, seed=1) for t, seeds in KEYS}


def most(share: float, count: int) -> float:
    """The largest share of `count` that is not surprising where `share` is the truth."""
    return stats.binom.ppf(0.9999, count, share) / count


def test_the_truths_are_those_of_the_table():
    assert len(TRUTHS) == len(NAMES)


@pytest.mark.parametrize(("truth", "seeds"), KEYS, ids=lambda key: getattr(key, "name", str(key)))
def test_false_alarms_are_rare_and_intervals_are_not_too_narrow(rates, truth, seeds):
    found = rates[truth.name, seeds]
    assert {name: found[name] for name in ALARMS if found[name] > most(0.05, STUDIES)} == {}
    assert {name: found[name] for name in COVERED if 1 - found[name] > most(0.05, STUDIES)} == {}


def test_means_over_all_runs_are_wrong_where_one_variant_fails(rates):
    """What the protocol is for: without it failing runs are taken for a difference."""
    found = rates["10% fail by 0.13, equal in mean", 10]
    assert found["plain_alarm"] > most(0.05, STUDIES) > found["pair_alarm"]
    assert found["plain_difference"] < 0.93 < found["difference"]


def test_patients_photographs_taken_each_for_itself_are_wrong_about_both(rates):
    found = rates["patients of five photographs", 10]
    assert found["alone_alarm"] > most(0.05, STUDIES) > found["pair_alarm"]
    assert found["alone_difference"] < 0.87 < 0.92 < found["difference"]
    assert found["alone_typical"] < 0.75 < 0.9 < found["typical"]
    assert np.isnan(rates["nothing fails", 10]["alone_typical"])


def test_where_nothing_fails_a_difference_is_found_as_often_as_by_means(tukeys_own):
    step = simulation.STEPS[0]
    found = simulation.rates(step, 10, STUDIES, seed=2)
    assert found["found"] >= found["plain_found"] - 0.1
    assert found["found"] > 0.5


@pytest.mark.parametrize("truth", simulation.BOUNDED, ids=lambda truth: truth.name)
def test_intervals_within_bounds_hold_the_truth_as_often_as_plain_ones(truth):
    for seeds in (1, 7):
        found = simulation.scales(truth, seeds, 100, 200, seed=1)
        assert list(found.index.unique("of")) == ["typical run", "one more run"][: 1 + (seeds > 1)]
        own, plain, cut = (found.xs(scale, level="scale") for scale in ("own", "plain", "cut"))
        assert (own["beyond"] == 0).all()
        assert (own["held"] >= plain["held"] - 0.025).all()  # five studies of 200
        assert (cut["held"] == plain["held"]).all()
        assert (own["width"] < 1.2 * plain["width"]).all()


def test_plain_intervals_of_a_dice_near_1_leave_it():
    found = simulation.scales(simulation.BOUNDED[0], 7, 20, 200, seed=1)
    assert found.loc[("one more run", "plain"), "beyond"] > 0.8
    assert found.loc[("one more run", "own"), "held"] > found.loc[("one more run", "cut"), "held"]


def test_a_truth_is_what_it_says():
    rng = np.random.default_rng(0)
    truth = simulation.Truth("", fails=0.2, by=0.1, equal="mean")
    drawn = [truth.draw(rng, 10) for _ in range(40)]
    means = np.mean([values.mean(axis=(1, 2)) for values, _, _ in drawn], axis=0)
    _, typical, mean = drawn[0]
    assert typical[0] - typical[2] == pytest.approx(0.02)
    assert mean[0] == pytest.approx(mean[2])
    assert means == pytest.approx(mean, abs=0.006)
    runs = np.concatenate([values[0].mean(axis=1) - typical[0] for values, _, _ in drawn])
    assert np.mean(runs < -0.05) == pytest.approx(0.2, abs=0.05)


def test_the_simulations_quick_tukey_is_scipys(tukeys_own):
    for distance, freedom in ((1.3, 7.7), (2.6, 11.0), (3.1, 33.3), (3.4, 500.0)):
        contrast = Contrast(distance, 1.0, 0.0, freedom)
        found = simulation.fast_tukey(contrast, 5)
        assert found == pytest.approx(tukeys_own(contrast, 5), abs=5e-4)
