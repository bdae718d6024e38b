"""gate/failed_runs.py: which runs failed, and whether more of them is luck."""

from __future__ import annotations

import numpy as np
import pytest
from gated_studies import p_value
from results_by_hand import figures

from pipeline.gate.baseline import Baseline, RunFigures
from pipeline.gate.failed_runs import Counts, Runs, Variant, explained, p_more_failures, tell_apart

LEVEL = 0.0025
STEADY = [0.800, 0.803, 0.797, 0.801, 0.799, 0.802, 0.798, 0.800, 0.801, 0.799]


def dice(runs: list[RunFigures]) -> list[float | None]:
    return sorted(run.metrics["dice"] for run in runs)


def told_apart(then: list[float | None], now: list[float | None]) -> Variant:
    return tell_apart(figures({"unet": then}), figures({"unet": now}), LEVEL)["unet"]


def test_two_failures_after_none_of_ten_have_the_probability_of_the_worst_rate():
    """Of p^2 (1 - p)^10, at p = 1/6."""
    assert p_more_failures(0, 10, 2, 2) == pytest.approx((1 / 6) ** 2 * (5 / 6) ** 10)


@pytest.mark.parametrize(
    "counts", [(1, 10, 2, 2), (0, 10, 5, 7), (3, 10, 7, 7), (4, 70, 7, 14), (0, 70, 10, 70)]
)
def test_the_p_value_is_boschloos_by_its_definition(counts):
    assert p_more_failures(*counts) == pytest.approx(p_value(*counts), rel=1e-3)
    assert Counts(*counts).p_value == p_more_failures(*counts)


def test_none_failed_or_all_did_before_is_no_rise():
    assert p_more_failures(0, 10, 0, 7) == 1
    assert p_more_failures(3, 3, 7, 7) == 1


def test_the_baselines_failed_runs_are_found_among_its_own():
    found = told_apart([0.76, *STEADY], STEADY)
    assert (dice(found.then.failed), found.now.failed) == ([0.76], [])
    assert dice(found.then.typical) == sorted(STEADY)
    assert found.counts == (1, 11, 0, 10)


@pytest.mark.parametrize(
    ("now", "failed"),
    [
        ([0.80, 0.67], [0.67]),  # of two, where the median lies between them
        ([0.67] * 6 + [0.80] * 4, [0.67] * 6),  # the median is a failed run
        ([0.75, 0.752], []),  # all are lower: none of them failed
        ([0.75] * 6 + [0.65], [0.65]),  # and one failed beside
        ([0.90] * 6 + [0.80], []),  # as good as it was
        ([0.90] * 6 + [0.76], [0.76]),
        ([0.769, 0.771, 0.772], []),  # one is low, and no run beside the others
        ([0.80, None, 0.67], [0.67]),
        ([None, None], []),
    ],
)
def test_the_candidates_failed_runs_lie_below_those_that_are_as_they_were(now, failed):
    found = told_apart(STEADY, now)
    assert dice(found.now.failed) == failed
    assert len(found.now.all) == len(now)
    assert found.counts == (0, 10, len(failed), sum(value is not None for value in now))
    assert not found.unclear


def test_a_candidate_that_spreads_widely_has_the_baselines_drop():
    erratic = [0.70, 0.74, 0.78, 0.80, 0.82, 0.86, 0.90]
    assert dice(told_apart(STEADY, erratic).now.failed) == [0.70, 0.74]
    assert told_apart(erratic, erratic).now.failed == []


def test_the_drop_is_that_of_most_variants():
    """The better halves of two of three have a median distance of 0.02: a drop of 0.20."""
    loud = [0.72 + 0.02 * place for place in range(9)]
    then = figures({"unet": STEADY[:9], "resunet": loud, "attention_unet": loud})
    best = sorted(STEADY[:9])[6]
    for by, failed in ((0.19, 0), (0.21, 1)):
        now = figures({"unet": [best, best - by], "resunet": loud[:2], "attention_unet": loud[:2]})
        assert len(tell_apart(then, now, LEVEL)["unet"].now.failed) == failed


def low_in(*counts: tuple[int, int, int, int]) -> dict[str, Variant]:
    """Variants with such counts."""

    def runs(failed: int, of: int) -> Runs:
        made = [RunFigures(variant="x", seed=n, metrics={"dice": 0.8}) for n in range(of)]
        return Runs(made[failed:], made[:failed])

    return {
        f"variant {n}": Variant(runs(*found[:2]), runs(*found[2:]))
        for n, found in enumerate(counts)
    }


FIRST = ["variant 0"]
NONE = (0, 10, 0, 2)


@pytest.mark.parametrize(
    ("counts", "low", "expected"),
    [
        # None of it failed before: it is lower, whatever failed of one other.
        ([(0, 10, 0, 2), NONE, NONE], FIRST, []),
        ([(0, 10, 0, 2), (4, 10, 0, 2), NONE], FIRST, []),
        # One of ten: p = 0.015 that both of two fail.
        ([(1, 10, 0, 2), NONE, NONE], FIRST, FIRST),
        # Seven of seven after two of ten: p = 0.0005; after four, 0.007.
        ([(2, 10, 0, 7)], FIRST, []),
        ([(4, 10, 0, 7)], FIRST, FIRST),
        # Most variants failed: in all, 5 of 30, p = 0.017.
        ([(0, 10, 0, 2), (2, 10, 0, 2), (3, 10, 0, 2)], FIRST, FIRST),
        # Where all are low, six of six after five of thirty, no failure explains it.
        ([(2, 10, 0, 2), (2, 10, 0, 2), (1, 10, 0, 2)], [f"variant {n}" for n in range(3)], []),
    ],
)
def test_failures_explain_low_runs_where_they_were_as_frequent_before(counts, low, expected):
    assert explained(low_in(*counts), low, LEVEL) == expected


def test_runs_that_failures_explain_count_as_failed():
    found = told_apart([0.67, *STEADY[1:]], [0.67, 0.671])
    assert found.unclear
    assert (dice(found.now.failed), found.now.typical) == ([0.67, 0.671], [])
    assert found.counts == (1, 10, 2, 2)


def test_variants_that_the_baseline_lacks_are_left_out():
    then = figures({"unet": STEADY})
    more: Baseline = figures({"unet": STEADY, "mine": list(np.array(STEADY) / 2)})
    assert set(tell_apart(then, more, LEVEL)) == {"unet"}
