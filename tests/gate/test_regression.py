"""gate/regression.py: how often the gate alarms falsely, and what it finds."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import REPOSITORY
from gated_studies import bound, drawn, gated
from results_by_hand import figures
from scipy import stats

from pipeline.gate.baseline import (
    Baseline,
    Spread,
    baseline_of,
    load_figures,
    spread_of,
    spreads_of,
)
from pipeline.gate.failed_runs import Runs, tell_apart
from pipeline.gate.regression import (
    ALL,
    FAILED,
    FEW_SEEDS,
    Check,
    Pair,
    alarms,
    compare_studies,
    deviation_over_seeds,
    differing,
    margin,
    means_over,
    pairs_to_compare,
)
from pipeline.study.errors import UserError
from pipeline.study.values import HEADLINES

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
    failed = {c.subject for c in compare_studies(figures(before), figures(after)) if not c.passed}
    assert failed == {ALL}


def told_apart(then: Baseline, now: Baseline) -> list[Pair]:
    variants = tell_apart(then, now, 0.0025)
    return pairs_to_compare(
        spreads_of([r for v in variants.values() for r in v.then.typical]), variants
    )


def test_the_mean_over_variants_is_taken_of_the_seeds_that_all_have():
    runs = figures({"a": [0.2, 0.4, 0.9], "b": [0.4, None]}).runs
    split = {name: Runs([run for run in runs if run.variant == name], []) for name in "ab"}
    assert means_over(split, "dice", {"a": 0.2, "b": 0.4}) == [pytest.approx(0.3), None]
    one = figures({"a": [0.2, 0.4]})
    assert {pair.subject for pair in told_apart(one, one)} == {"a"}
    assert {pair.averaged for pair in told_apart(one, one)} == {1}


def test_the_mean_over_variants_is_the_same_whichever_runs_failed():
    """a lies at 0.6, b at 0.8: without the failed ones, distances are 0.01 and -0.01."""
    runs = {
        run.variant + str(run.seed): run
        for run in figures({"a": [0.61, 0.3, 0.3], "b": [0.3, 0.79, 0.3]}).runs
    }
    split = {
        "a": Runs([runs["a0"]], [runs["a1"], runs["a2"]]),
        "b": Runs([runs["b1"]], [runs["b0"], runs["b2"]]),
    }
    found = means_over(split, "dice", {"a": 0.6, "b": 0.8})
    assert found == [pytest.approx(0.71), pytest.approx(0.69)]  # of seed 2 none is left
    more = split | {"c": Runs([], split["b"].all), "d": split["b"]}
    usual = {"a": 0.6, "b": 0.8, "c": 0.8, "d": 0.8}
    assert means_over(more, "dice", usual) == [
        pytest.approx(0.74)
    ]  # with seed 0 three of four fail


def test_without_a_seed_that_all_have_there_is_no_mean_over_variants():
    both = figures({"a": [0.2, 0.4], "b": [0.3, 0.5]})
    runs = [run for run in both.runs if (run.variant, run.seed) in (("a", 0), ("b", 1))]
    apart = baseline_of(both.study, {}, runs)
    assert ALL in {pair.subject for pair in told_apart(both, both)}
    for then, now in ((both, apart), (apart, both)):
        assert {pair.subject for pair in told_apart(then, now)} == {"a", "b"}


def test_a_check_tells_both_means_and_how_many_runs_they_are_of():
    stored = figures({"unet": [0.8, 0.81, 0.79, 0.8, 0.8]})
    dice, *_ = compare_studies(stored, figures({"unet": [0.7, 0.72]}))
    assert (dice.subject, dice.metric) == ("unet", "dice")
    assert (dice.baseline, dice.candidate) == (pytest.approx(0.8), pytest.approx(0.71))
    assert (dice.worse_by, dice.note) == (pytest.approx(0.09), "2 against 5 runs")
    few = figures({"unet": [0.8, 0.801]})
    notes = [check.note for check in compare_studies(few, few)]
    assert notes[:3] == ["2 against 2 runs, pooled"] * 3
    assert notes[3:] == ["0 of 2 runs failed, 0 of 2 before; blind: too few runs to show more"]


def test_two_seeds_of_seven_variants_find_a_collapse():
    rng = np.random.default_rng(0)
    names = [f"variant {n}" for n in range(7)]
    before = {name: list(rng.normal(0.8, 0.01, 2)) for name in names}
    after = before | {names[3]: [0.7, 0.7]}
    checks = compare_studies(figures(before), figures(after))
    failed = [(check.subject, check.metric) for check in checks if not check.passed]
    assert [pair for pair in failed if pair[0] != ALL] == [
        (names[3], metric) for metric in HEADLINES
    ]


def test_a_lower_loss_is_better():
    def with_loss(values: list[float]) -> object:
        return figures({"unet": [0.8, 0.81, 0.79, 0.8, 0.82]}, focal_loss={"unet": values})

    stored = with_loss([0.1, 0.11, 0.1, 0.09, 0.1])
    better, worse = with_loss([0.01] * 5), with_loss([0.5] * 5)
    assert all(check.passed for check in compare_studies(stored, better))
    failed = [check for check in compare_studies(stored, worse) if not check.passed]
    assert [(check.metric, round(check.worse_by, 3)) for check in failed] == [("focal_loss", 0.4)]


def test_a_bound_that_no_fall_exceeds_is_told():
    """Two seeds 0.4 apart: s = 0.283, t(1 - 0.01 / 3, 1) = 95."""
    wide, narrow = figures({"unet": [0.3, 0.7]}), figures({"unet": [0.49, 0.5, 0.5, 0.5, 0.51]})
    notes = {check.metric: check.note for check in compare_studies(wide, wide)}
    assert notes["dice"].endswith("; blind: no fall is that deep, store more seeds")
    assert "blind" not in notes["focal_loss"]
    assert not any("blind" in check.note for check in compare_studies(narrow, narrow))


def test_a_run_that_is_missing_or_there_twice_fails():
    whole = figures({"unet": [0.8, 0.81], "resunet": [0.7, 0.71]})
    for runs in (whole.runs[:-1], [*whole.runs, whole.runs[-1]]):
        candidate = baseline_of(whole.study, {}, runs)
        checks = compare_studies(whole, candidate)
        failed = [check for check in checks if not check.passed]
        assert [(check.subject, check.metric) for check in failed] == [("resunet", "runs")]
        assert failed[0].note == "seed 1 has not exactly one run"
        with pytest.raises(UserError, match="not one run for each"):
            compare_studies(candidate, whole)


def test_values_that_cannot_be_fail_as_missing_ones_do():
    stored = figures({"unet": [0.8, 0.81]})
    for candidate in (
        figures({"unet": [1.7, 1.7]}),
        figures({"unet": [0.8, 0.8]}, focal_loss={"unet": [-1.0, -1.0]}),
    ):
        failed = [check for check in compare_studies(stored, candidate) if not check.passed]
        assert {check.note for check in failed} == {"missing or not finite"}


def test_a_baseline_without_runs_or_with_a_missing_value_is_told():
    empty = baseline_of(figures({"unet": [0.8, 0.81]}).study, {}, [])
    with pytest.raises(UserError, match=r"^the baseline has not one run for each"):
        compare_studies(empty, empty)
    record = empty.study.model_copy(update={"variants": []})
    nothing = baseline_of(record, {}, [])
    with pytest.raises(UserError, match=r"^the baseline has no runs$"):
        compare_studies(nothing, nothing)
    lacking = figures({"unet": [0.8, None]})
    told = r"^the baseline has runs without a finite value: write another$"
    with pytest.raises(UserError, match=told):
        compare_studies(lacking, lacking)


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
        compare_studies(stored, figures({"unet": [0.9, 0.91]}, params=protocol(20)))
    more = figures({"unet": [0.8, 0.81], "mine": [0.8, 0.81]}, params=protocol(2, mine={}))
    assert all(check.passed for check in compare_studies(stored, more))


def test_a_baseline_of_one_seed_concludes_nothing():
    with pytest.raises(UserError) as told:
        compare_studies(figures({"unet": [0.8]}), figures({"unet": [0.8]}))
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


def spread_out(middle: float, runs: int = 10) -> list[float]:
    """Dice about 0.003 apart from each other."""
    return [middle + 0.0025 * step for step in stats.norm.ppf((np.arange(runs) + 0.5) / runs)]


def lowered(values: list[float], by: float, first: int | None = None) -> list[float]:
    return [value - by * (first is None or place < first) for place, value in enumerate(values)]


def failing(checks: list[Check]) -> list[tuple[str, str]]:
    return [(check.subject, check.metric) for check in checks if not check.passed]


NAMES = ("unet", "resunet", "attention_unet")
BEFORE = {name: spread_out(0.8) for name in NAMES}


def with_unet(values: list[float | None]) -> Baseline:
    """As many unharmed runs of the other variants."""
    return figures({name: spread_out(0.8, len(values)) for name in NAMES} | {"unet": values})


@pytest.mark.parametrize("by", [0.02, 0.035, 0.05, 0.13, 0.5])
@pytest.mark.parametrize("seeds", [2, 7])
def test_a_variant_all_of_whose_runs_are_lower_is_a_typical_run_that_is_worse(by, seeds):
    checks = compare_studies(figures(BEFORE), with_unet(lowered(spread_out(0.8, seeds), by)))
    assert failing(checks)[:3] == [("unet", metric) for metric in HEADLINES]
    assert set(failing(checks)[3:]) <= {(ALL, metric) for metric in HEADLINES}
    assert alarms(checks).startswith("a typical run is worse: unet")
    assert "fail" not in alarms(checks)


def test_a_failed_run_of_the_baseline_does_not_widen_the_bound_of_a_typical_one():
    clean, tainted = figures(BEFORE), figures(BEFORE | {"unet": [0.5, *spread_out(0.8)[1:]]})
    now = with_unet(lowered(spread_out(0.8, 2), 0.02))
    checks = compare_studies(tainted, now)
    dice = checks[0]
    assert dice.baseline == pytest.approx(np.mean(spread_out(0.8)[1:]))
    deviation = np.std(spread_out(0.8)[1:], ddof=1)
    expected = stats.t.isf(0.01 / 16, 8) * deviation * np.sqrt(1 / 9 + 1 / 2)
    assert dice.allowed == pytest.approx(expected)
    assert dice.note == "2 against 9 runs that did not fail"
    assert ("unet", "dice") in failing(checks)
    assert failing(compare_studies(clean, tainted)) == []


def test_failures_that_are_more_but_not_significantly_so_pass_and_are_told():
    after = with_unet(lowered(spread_out(0.8, 7), 0.13, first=3))
    checks = compare_studies(figures(BEFORE), after)
    assert failing(checks) == []
    dice, *_, failed = checks[:4]
    assert (dice.candidate, dice.note) == (
        pytest.approx(np.mean(spread_out(0.8, 7)[3:])),
        "4 against 10 runs that did not fail",
    )
    p = stats.boschloo_exact([[0, 3], [10, 4]], alternative="less").pvalue
    assert (failed.baseline, failed.candidate) == (0, pytest.approx(3 / 7))
    assert failed.note == (
        f"3 of 7 runs failed, 0 of 10 before; p = {p:.2g}, regressed if below {0.01 / 16:.2g}"
    )
    assert failed.allowed == pytest.approx(4 / 7)  # of five of seven p is 0.0009


@pytest.mark.parametrize(("failed", "p_value"), [(5, 0.00091), (4, 0.0051)])
def test_where_most_runs_fail_a_share_of_alpha_for_all_failures_is_enough(failed, p_value):
    after = with_unet(lowered(spread_out(0.8, 7), 0.13, first=failed))
    found = {(c.subject, c.metric): c for c in compare_studies(figures(BEFORE), after)}
    check = found["unet", FAILED]
    assert f"{failed} of 7 runs failed, 0 of 10 before; p = {p_value}" in check.note
    assert check.note.endswith("regressed if below 0.0025")
    assert check.passed == (p_value > 0.0025)
    assert found["unet", "dice"].passed


def test_most_runs_of_a_variant_may_fail_where_those_of_the_baseline_often_do():
    """4 of 10 failed in each variant before: 7 of 10 are no more, by all the baseline's runs."""
    often = {name: lowered(spread_out(0.8), 0.13, first=4) for name in NAMES}
    never = often | {"unet": spread_out(0.8)}
    after = often | {"unet": lowered(spread_out(0.8), 0.13, first=6)}
    assert failing(compare_studies(figures(never), figures(after))) == []
    assert ("unet", FAILED) in failing(compare_studies(figures(BEFORE), figures(after)))


def test_failures_of_all_variants_show_together_first():
    after = {name: lowered(spread_out(0.8, 5), 0.13, first=2) for name in NAMES}
    checks = compare_studies(figures(BEFORE), figures(after))
    assert failing(checks) == [(ALL, FAILED)]
    assert alarms(checks) == f"more runs fail: {ALL}"
    p = stats.boschloo_exact([[0, 6], [30, 9]], alternative="less").pvalue
    assert checks[-1].note == (
        f"6 of 15 runs failed, 0 of 30 before; p = {p:.2g}, regressed if below {0.01 / 16:.2g}"
    )


def test_one_of_two_runs_that_fails_leaves_the_other_to_tell():
    one = with_unet([0.67, 0.8])
    checks = compare_studies(figures(BEFORE), one)
    assert failing(checks) == []
    assert checks[0].note == "1 against 10 runs that did not fail"
    assert checks[3].note.startswith("1 of 2 runs failed, 0 of 10 before; p = 0.073")
    other = with_unet([0.67, 0.77])
    assert ("unet", "dice") in failing(compare_studies(figures(BEFORE), other))


def test_two_low_runs_of_a_variant_that_failed_before_may_both_have_failed():
    """One of ten failed before, by 0.13: both of two as deep pass, much deeper ones do not."""
    before = figures(BEFORE | {"unet": lowered(spread_out(0.8), 0.13, first=1)})
    low, deep = (
        compare_studies(before, with_unet(lowered([0.8, 0.801], by))) for by in (0.13, 0.25)
    )
    assert failing(low) == []
    typical = np.mean(spread_out(0.8)[1:])
    deviation = np.std(spread_out(0.8)[1:], ddof=1)
    of_seeds = stats.t.isf(0.01 / 16, 8) * deviation * np.sqrt(1 / 9 + 1 / 2)
    assert low[0].allowed == pytest.approx(of_seeds + typical - (spread_out(0.8)[0] - 0.13))
    assert low[0].candidate == pytest.approx(0.6705)
    assert low[0].note == (
        "2 against 9 runs; all as low as failed ones, and may fall as deep: train more seeds to "
        "tell"
    )
    assert low[3].note.startswith("2 of 2 runs failed, 1 of 10 before; p = 0.015")
    assert failing(deep) == [("unet", metric) for metric in HEADLINES]


def test_a_failed_run_with_a_better_loss_leaves_the_bound_as_it_is():
    losses = {name: [0.2 + value / 1000 for value in range(10)] for name in NAMES}
    better = losses | {"unet": [0.0, *losses["unet"][1:]]}
    dice = BEFORE | {"unet": lowered(spread_out(0.8), 0.13, first=1)}
    two = {name: found[:2] for name, found in losses.items()}
    now = figures({name: [0.8, 0.8] for name in NAMES} | {"unet": [0.67, 0.671]}, focal_loss=two)
    check = compare_studies(figures(dice, focal_loss=better), now)[2]
    deviation = np.std(losses["unet"][1:], ddof=1)
    expected = stats.t.isf(0.01 / 16, 8) * deviation * np.sqrt(1 / 9 + 1 / 2)
    assert (check.metric, check.allowed) == ("focal_loss", pytest.approx(expected))
    assert "may fall as deep" in check.note


def test_a_failed_run_that_lacks_a_metric_fails_all_the_same():
    then = figures(BEFORE)
    now = figures(BEFORE | {"unet": [0.5, *spread_out(0.8)[1:]]})
    now.runs[0].metrics["iou"] = None
    found = compare_studies(then, baseline_of(now.study, {}, now.runs))
    assert failing(found) == [("unet", "iou"), (ALL, "iou")]
    assert alarms(found) == f"missing or not finite: unet, {ALL}"


def test_a_variant_without_any_dice_fails_in_each_of_its_checks():
    found = compare_studies(figures(BEFORE), with_unet([None, None]))
    failed = [check for check in found if not check.passed and check.subject == "unet"]
    assert [check.metric for check in failed] == [*HEADLINES, FAILED]
    assert {check.note for check in failed} == {"missing or not finite"}


@pytest.mark.slow
def test_the_numpy_of_the_simulations_decides_as_the_gate_does():
    rng = np.random.default_rng(0)
    told = {"typical": 0, "failures": 0}
    for before, after, runs, level in (
        ([0.2] * 3, [0.8] * 3, 2, 0.84),
        ([0.2, 0.1, 0.0], [0.8, 0.2, 0.0], 5, 0.84),
        ([0.1], [0.6], 2, 0.845),
        ([0.0], [0.7], 7, 0.85),
        ([0.2] * 2, [0.6] * 2, 3, 0.7),
        ([0.0] * 2, [0.6] * 2, 10, 0.85),
    ):
        then, now = drawn(rng, 12, 10, before), drawn(rng, 12, runs, after, level=level)
        expected = gated(then, now)
        for study in range(len(then)):
            pair = (
                figures({f"variant {n}": list(found) for n, found in enumerate(values[study])})
                for values in (then, now)
            )
            checks = compare_studies(*pair)
            for name, metric in (("typical", "dice"), ("failures", FAILED)):
                failed = [not check.passed for check in checks if check.metric == metric]
                wanted = getattr(expected, name)[study].tolist()
                assert failed + [False] * (len(wanted) - len(failed)) == wanted
                told[name] += any(failed)
    assert min(told.values()) >= 12


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.1, 0.2])
@pytest.mark.parametrize("runs", [2, 7])
@pytest.mark.parametrize("others", [0, 6])
def test_a_variant_whose_runs_fail_now_and_then_alarms_falsely_in_less_than_one_percent(
    rate, runs, others
):
    rng = np.random.default_rng(0)
    rates = [rate] + [0.0] * others
    then, now = drawn(rng, STUDIES, 10, rates), drawn(rng, STUDIES, runs, rates)
    assert 0.001 < gated(then, now).any.mean() < 0.009
    means_over_all_runs = then.mean(axis=2) - now.mean(axis=2) > bound(
        0.01 / (4 * (others + 2 - (not others))),
        then.std(axis=2, ddof=1),
        np.array(10),
        np.array(runs),
    )
    assert means_over_all_runs.any(axis=1).mean() > 0.03  # what the gate was before


@pytest.mark.slow
@pytest.mark.parametrize("deviation", [0.01, 0.05])
def test_runs_that_spread_widely_without_failing_alarm_falsely_no_more(deviation):
    rng = np.random.default_rng(0)
    sound = [0.0] * 7
    for seeds, runs in ((10, 2), (7, 7)):
        then = drawn(rng, 6000, seeds, sound, deviation=deviation)
        found = gated(then, drawn(rng, 6000, runs, sound, deviation=deviation))
        assert found.any.mean() < 0.006


@pytest.mark.slow
def test_several_variants_that_fail_alarm_falsely_about_as_often():
    rng = np.random.default_rng(0)
    for rates, runs, most in (
        ([0.06] * 7, 2, 0.018),
        ([0.2] * 3 + [0.0] * 4, 2, 0.022),
        ([0.2] * 7, 7, 0.01),
        ([0.1] + [0.0] * 6, 1, 0.04),
    ):
        found = gated(drawn(rng, 6000, 10, rates), drawn(rng, 6000, runs, rates))
        assert found.any.mean() < most


@pytest.mark.slow
def test_runs_as_skewed_as_the_demos_alarm_falsely_in_less_than_four_percent():
    """Redrawn from its stored runs, with a little noise."""
    stored = load_figures(REPOSITORY / "studies" / "demo" / "baseline.json")
    dice = np.array([run.metrics["dice"] for run in stored.runs], dtype=float)
    by_variant = dice.reshape(len(stored.spreads), -1)  # the file's order
    seeds = by_variant.shape[1]
    rng = np.random.default_rng(0)

    def redrawn(runs: int) -> np.ndarray:
        places = rng.integers(0, seeds, (6000, len(by_variant), runs))
        found = np.take_along_axis(by_variant[None], places, axis=2)
        return found + rng.normal(0, 0.005, found.shape)

    for runs in (2, 7):
        assert gated(redrawn(seeds), redrawn(runs)).any.mean() < 0.04


def test_a_real_rise_of_failures_and_a_lower_typical_run_are_each_caught_and_named():
    rng = np.random.default_rng(0)
    sound = [0.0] * 7
    then = drawn(rng, 500, 10, sound)
    rise = gated(then, drawn(rng, 500, 10, [0.6] * 7))
    assert rise.failures[:, -1].all()
    assert rise.typical.any(axis=1).mean() < 0.08  # all of a variant's ten failed, or nearly
    for runs in (2, 7):
        for fall in (0.02, 0.035, 0.13):
            now = drawn(rng, 500, runs, sound)
            now[:, 0] -= fall
            lower = gated(then, now)
            assert lower.typical[:, 0].mean() > 0.98
            assert not lower.failures.any()
