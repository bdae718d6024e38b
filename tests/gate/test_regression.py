"""gate/regression.py: how often the gate alarms falsely, and what it finds."""

from __future__ import annotations

import numpy as np
import pytest
from results_by_hand import figures
from scipy import stats

from pipeline.gate.baseline import GATED, Spread, baseline_of, spread_of
from pipeline.gate.regression import (
    ALL,
    FEW_SEEDS,
    Check,
    compare_means,
    deviation_over_seeds,
    differing,
    margin,
    means_over,
    pairs_to_compare,
)
from pipeline.study.errors import UserError

STUDIES = 20_000


def false_alarms(
    deviations: list[float], seeds: int, runs: int, *, alpha: float = 0.01, shared: float = 0.0
) -> float:
    """Share of simulated unharmed changes in which any of the variants' means, or their mean,
    fails; one metric. shared: the part of a seed's variance that is the same for all variants."""
    rng = np.random.default_rng(0)
    sd = np.array(deviations)[:, None]

    def draw(n: int) -> np.ndarray:  # (studies, variants, n)
        common = rng.normal(0, np.sqrt(shared), (STUDIES, 1, n))
        return 0.85 + sd * (common + rng.normal(0, np.sqrt(1 - shared), (STUDIES, len(sd), n)))

    then, now = draw(seeds), draw(runs)
    several = len(sd) > 1
    comparisons = len(sd) + several
    own = then.var(axis=2, ddof=1)
    of_mean = then.mean(axis=1).var(axis=1, ddof=1)
    degrees = seeds - 1
    if seeds < FEW_SEEDS:  # as deviation_over_seeds, for all studies at once
        pooled = own.mean(axis=1)
        own, of_mean = np.maximum(own, pooled[:, None]), np.maximum(of_mean, pooled / len(sd))
        degrees *= len(sd)
    unit = margin(1.0, degrees, seeds=seeds, runs=runs, alpha=alpha / comparisons, floor=0.0)
    worse_by = then.mean(axis=2) - now.mean(axis=2)
    alarms = (worse_by > unit * np.sqrt(own)).any(axis=1)
    if several:
        alarms |= worse_by.mean(axis=1) > unit * np.sqrt(of_mean)
    return float(alarms.mean())


def test_a_fixed_tolerance_alarms_falsely_twelve_times_as_often_as_the_formula():
    one, other = np.random.default_rng(0).normal(0.85, 0.003, (2, STUDIES))
    assert (one - other > 0.005).mean() == pytest.approx(0.12, abs=0.007)
    for seeds in (5, 10):
        assert false_alarms([0.003], seeds, runs=1) == pytest.approx(0.01, abs=0.003)


@pytest.mark.parametrize(("seeds", "runs"), [(5, 2), (10, 1), (10, 10)])
def test_the_whole_gate_alarms_falsely_in_one_percent_however_variants_vary(seeds, runs):
    for deviations in ([0.003] * 7, list(np.geomspace(0.001, 0.01, 7))):
        for shared in (0.0, 0.5):
            assert 0.006 < false_alarms(deviations, seeds, runs, shared=shared) < 0.013


@pytest.mark.parametrize(("seeds", "runs"), [(2, 2), (2, 1), (3, 3), (4, 2)])
def test_few_seeds_pooled_alarm_falsely_about_as_often(seeds, runs):
    equal, threefold, tenfold = ([0.003] * 7, *(np.geomspace(1, most, 7) for most in (3, 10)))
    assert false_alarms(equal, seeds, runs) < 0.01
    assert false_alarms(list(threefold), seeds, runs) < 0.02
    assert false_alarms(list(tenfold), seeds, runs) < 0.04
    assert false_alarms(equal, seeds, runs, shared=0.5) < 0.04


def test_the_margin_is_the_formulas():
    expected = stats.t.ppf(1 - 0.01 / 21, 9) * 0.003 * np.sqrt(1 / 10 + 1 / 2)
    given = margin(0.003, 9, seeds=10, runs=2, alpha=0.01 / 21, floor=0.001)
    assert given == pytest.approx(expected)
    assert margin(0.0, 9, seeds=10, runs=2, alpha=0.01, floor=0.001) == 0.001


def of_metric(values: dict[str, list[float]]) -> dict[str, Spread]:
    return {name: spread_of(found) for name, found in values.items()}


def test_from_five_seeds_on_a_variant_is_judged_by_its_own_deviation():
    values = {"quiet": [0.80, 0.81] * 3, "loud": [0.5, 0.9] * 3}
    found = of_metric(values)
    deviation, degrees, pooled = deviation_over_seeds(found["quiet"], list(found.values()))
    assert (degrees, pooled) == (5, False)
    assert deviation == pytest.approx(np.std(values["quiet"], ddof=1))


def test_five_seeds_are_enough_for_an_own_deviation():
    found = of_metric({"quiet": [0.8, 0.81, 0.8, 0.81, 0.8], "loud": [0.5, 0.9] * 3})
    assert deviation_over_seeds(found["quiet"], list(found.values()))[1:] == (4, False)


def test_few_seeds_take_the_larger_of_own_and_pooled_deviation():
    values = {"quiet": [0.80, 0.81], "loud": [0.5, 0.9], "middle": [0.7, 0.8]}
    pooled = np.sqrt(np.mean([np.var(found, ddof=1) for found in values.values()]))
    found = of_metric(values)
    every = list(found.values())
    assert deviation_over_seeds(found["quiet"], every) == (pytest.approx(pooled), 3, True)
    own = pytest.approx(np.std(values["loud"], ddof=1))
    assert deviation_over_seeds(found["loud"], every) == (own, 3, True)
    of_mean = pytest.approx(pooled / np.sqrt(3))
    assert deviation_over_seeds(spread_of([0.7, 0.7]), every, 3) == (of_mean, 3, True)


def test_harm_of_every_variant_shows_in_their_mean_first():
    rng = np.random.default_rng(0)
    before = {f"variant {n}": list(rng.normal(0.8, 0.02, 2)) for n in range(7)}
    after = {name: [value - 0.05 for value in found] for name, found in before.items()}
    failed = {c.subject for c in compare_means(figures(before), figures(after)) if not c.passed}
    assert failed == {ALL}


def test_the_mean_over_variants_is_taken_of_the_seeds_that_all_have():
    runs = figures({"a": [0.2, 0.4, 0.9], "b": [0.4, None]}).runs
    assert means_over(["a", "b"], "dice", runs) == [pytest.approx(0.3), None]
    one = figures({"a": [0.2, 0.4]})
    assert {pair.subject for pair in pairs_to_compare(one, one)} == {"a"}
    assert {pair.averaged for pair in pairs_to_compare(one, one)} == {1}


def test_without_a_seed_that_all_have_there_is_no_mean_over_variants():
    both = figures({"a": [0.2, 0.4], "b": [0.3, 0.5]})
    runs = [run for run in both.runs if (run.variant, run.seed) in (("a", 0), ("b", 1))]
    apart = baseline_of(both.study, {}, runs)
    assert ALL in {pair.subject for pair in pairs_to_compare(both, both)}
    for then, now in ((both, apart), (apart, both)):
        assert {pair.subject for pair in pairs_to_compare(then, now)} == {"a", "b"}


def test_a_check_tells_both_means_and_how_many_runs_they_are_of():
    stored = figures({"unet": [0.8, 0.81, 0.79, 0.8, 0.8]})
    dice, *_ = compare_means(stored, figures({"unet": [0.7, 0.72]}))
    assert (dice.subject, dice.metric) == ("unet", "dice")
    assert (dice.baseline, dice.candidate) == (pytest.approx(0.8), pytest.approx(0.71))
    assert (dice.worse_by, dice.note) == (pytest.approx(0.09), "2 against 5 runs")
    few = figures({"unet": [0.8, 0.801]})
    assert {check.note for check in compare_means(few, few)} == {"2 against 2 runs, pooled"}


def test_two_seeds_of_seven_variants_find_a_collapse():
    rng = np.random.default_rng(0)
    names = [f"variant {n}" for n in range(7)]
    before = {name: list(rng.normal(0.8, 0.01, 2)) for name in names}
    after = before | {names[3]: [0.7, 0.7]}
    checks = compare_means(figures(before), figures(after))
    failed = [(check.subject, check.metric) for check in checks if not check.passed]
    assert [pair for pair in failed if pair[0] != ALL] == [(names[3], metric) for metric in GATED]


def test_a_lower_loss_is_better():
    def with_loss(values: list[float]) -> object:
        return figures({"unet": [0.8, 0.81, 0.79, 0.8, 0.82]}, focal_loss={"unet": values})

    stored = with_loss([0.1, 0.11, 0.1, 0.09, 0.1])
    better, worse = with_loss([0.01] * 5), with_loss([0.5] * 5)
    assert all(check.passed for check in compare_means(stored, better))
    failed = [check for check in compare_means(stored, worse) if not check.passed]
    assert [(check.metric, round(check.worse_by, 3)) for check in failed] == [("focal_loss", 0.4)]


def test_a_bound_that_no_fall_exceeds_is_told():
    """Two seeds 0.4 apart: s = 0.283, t(1 - 0.01 / 3, 1) = 95."""
    wide, narrow = figures({"unet": [0.3, 0.7]}), figures({"unet": [0.49, 0.5, 0.5, 0.5, 0.51]})
    notes = {check.metric: check.note for check in compare_means(wide, wide)}
    assert notes["dice"].endswith("; blind: no fall is that deep, store more seeds")
    assert "blind" not in notes["focal_loss"]
    assert not any("blind" in check.note for check in compare_means(narrow, narrow))


def test_a_run_that_is_missing_or_there_twice_fails():
    whole = figures({"unet": [0.8, 0.81], "resunet": [0.7, 0.71]})
    for runs in (whole.runs[:-1], [*whole.runs, whole.runs[-1]]):
        candidate = baseline_of(whole.study, {}, runs)
        checks = compare_means(whole, candidate)
        failed = [check for check in checks if not check.passed]
        assert [(check.subject, check.metric) for check in failed] == [("resunet", "runs")]
        assert failed[0].note == "seed 1 has not exactly one run"
        with pytest.raises(UserError, match="not one run for each"):
            compare_means(candidate, whole)


def test_values_that_cannot_be_fail_as_missing_ones_do():
    stored = figures({"unet": [0.8, 0.81]})
    for candidate in (
        figures({"unet": [1.7, 1.7]}),
        figures({"unet": [0.8, 0.8]}, focal_loss={"unet": [-1.0, -1.0]}),
    ):
        failed = [check for check in compare_means(stored, candidate) if not check.passed]
        assert {check.note for check in failed} == {"missing or not finite"}


def test_a_baseline_without_runs_or_with_a_missing_value_is_told():
    empty = baseline_of(figures({"unet": [0.8, 0.81]}).study, {}, [])
    with pytest.raises(UserError, match=r"^the baseline has not one run for each"):
        compare_means(empty, empty)
    record = empty.study.model_copy(update={"variants": []})
    nothing = baseline_of(record, {}, [])
    with pytest.raises(UserError, match=r"^the baseline has no runs$"):
        compare_means(nothing, nothing)
    lacking = figures({"unet": [0.8, None]})
    told = r"^the baseline has runs without a finite value: write another$"
    with pytest.raises(UserError, match=told):
        compare_means(lacking, lacking)


def test_every_key_that_differs_is_named_once_whoever_has_it():
    then = {"a": {"x": 1, "y": {"z": 1}}, "b": 1, "same": 5}
    now = {"a": {"x": 2, "y": {"z": 2, "w": 0}}, "c": 1, "same": 5}
    assert differing(then, now) == ["a.x", "a.y.w", "a.y.z", "b", "c"]
    assert differing(then, then) == []


def test_networks_of_other_variants_decide_no_figure():
    params = {"models": {"unet": {"width": 1}, "other": {"width": 2}}, "loader_workers": 4}
    kept = figures({"unet": [0.8, 0.81]}, params=params).params
    assert kept == {"models": {"unet": {"width": 1}}}


def test_another_protocol_does_not_compare():
    def protocol(epochs: int, **models: object) -> dict[str, object]:
        return {"train": {"epochs": epochs, "batch_size": 8}, "models": {"unet": {}, **models}}

    stored = figures({"unet": [0.8, 0.81]}, params=protocol(2))
    with pytest.raises(UserError, match=r"params differ: train\.epochs; if that was meant"):
        compare_means(stored, figures({"unet": [0.9, 0.91]}, params=protocol(20)))
    more = figures({"unet": [0.8, 0.81], "mine": [0.8, 0.81]}, params=protocol(2, mine={}))
    assert all(check.passed for check in compare_means(stored, more))


def test_a_baseline_of_one_seed_concludes_nothing():
    with pytest.raises(UserError) as told:
        compare_means(figures({"unet": [0.8]}), figures({"unet": [0.8]}))
    assert str(told.value) == (
        "the baseline has one seed a variant: without a deviation over seeds no change can be told "
        "from luck; write one of at least two seeds"
    )


@pytest.mark.parametrize(
    ("worse_by", "allowed", "passed"),
    [(0.1, 0.1, True), (0.11, 0.1, False), (-1.0, 0.1, True), (None, 0.1, False)],
)
def test_a_check_passes_up_to_what_is_allowed_and_fails_without_a_value(worse_by, allowed, passed):
    assert Check("unet", "dice", 0.8, 0.7, worse_by, allowed).passed == passed
