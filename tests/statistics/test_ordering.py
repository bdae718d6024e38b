"""statistics/ordering.py against scipy, scikit-posthocs and published examples."""

from __future__ import annotations

import numpy as np
import pytest
import scikit_posthocs
from scipy import stats

from pipeline.statistics.ordering import critical_difference, order_all, rank_all
from studies import simulate

# Demsar 2006, table 6: AUC of C4.5 and three variants of it on 14 data sets.
DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.9751, 0.975],
        [0.957, 0.978, 0.946, 0.970],
    ]
).T
NAMES = ["C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf"]


def ordered(values, *given, failed=None, **options):
    lost = np.zeros(values.shape[:2], dtype=bool) if failed is None else failed
    return order_all(values, lost, *given, **options)


def test_demsars_published_ranks_and_critical_difference():
    ranks = rank_all(DEMSAR, NAMES)
    published = {"C4.5": 3.143, "C4.5+m": 2.000, "C4.5+cf": 2.893, "C4.5+m+cf": 1.964}
    assert ranks.average == pytest.approx(published, abs=5e-4)
    assert ranks.critical_difference == pytest.approx(1.25, abs=5e-3)  # his 2.569 sqrt(4*5/(6*14))
    # He finds C4.5+m+cf and C4.5+m better than C4.5 at 0.10 alone: at 0.05 all hang together.
    assert ranks.groups == [["C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5"]]


def test_friedmans_statistic_is_demsars():
    # 9.28 in his text, without the correction for ties that scipy makes.
    squares = (np.array([3.143, 2.000, 2.893, 1.964]) ** 2).sum()
    assert 12 * 14 / (4 * 5) * (squares - 4 * 25 / 4) == pytest.approx(9.28, abs=0.02)
    found = rank_all(DEMSAR, NAMES)
    assert found.friedman_statistic == pytest.approx(stats.friedmanchisquare(*DEMSAR).statistic)
    assert found.friedman_statistic > 9.28


def test_groups_are_those_that_nemenyis_test_does_not_part():
    means = simulate(np.random.default_rng(0), [0.7, 0.8, 0.9], seeds=10, cases=20).mean(axis=2)
    found = rank_all(means, "abc")
    p_values = scikit_posthocs.posthoc_nemenyi_friedman(means.T).to_numpy()
    together = {
        tuple(sorted((a, b))) for group in found.groups for a in group for b in group if a != b
    }
    expected = {("abc"[i], "abc"[j]) for i in range(3) for j in range(i) if p_values[i, j] > 0.05}
    assert together == {tuple(sorted(pair)) for pair in expected}
    assert critical_difference(3, 10) == pytest.approx(2.343 * np.sqrt(3 * 4 / 60), abs=1e-3)


def test_the_repeated_measures_anova_of_two_variants_is_the_paired_t_test():
    means = np.random.default_rng(3).normal(size=(2, 9))
    found = rank_all(means, "ab")
    expected = stats.ttest_rel(*means)
    assert found.anova_f == pytest.approx(expected.statistic**2)
    assert found.anova_p_value == pytest.approx(expected.pvalue)
    assert found.friedman_p_value is None


def test_identical_variants_share_their_rank_and_have_no_test():
    found = rank_all(np.repeat(np.arange(4.0)[None], 3, axis=0), "abc")
    assert set(found.average.values()) == {2.0}
    assert (found.anova_f, found.friedman_statistic) == (None, None)


@pytest.mark.parametrize("paired", [True, False])
def test_a_clear_ordering_comes_out_in_every_draw(paired):
    values = simulate(np.random.default_rng(0), [0.7, 0.8, 0.9], seeds=8, cases=50)
    found = ordered(values, "abc", ["c", "b", "a"], paired, draws=1000, seed=0)
    assert found.observed == ["c", "b", "a"]
    assert [(row.variants, row.share) for row in found.shares] == [(["c", "b", "a"], 1.0)]
    assert (found.paper_share, found.kendall_tau, found.best["c"]) == (1.0, 1.0, 1.0)


def test_kendalls_tau_is_scipys_and_the_shares_sum_to_one():
    values = simulate(np.random.default_rng(5), [0.8] * 4, seeds=8, cases=50)
    found = ordered(values, "abcd", ["a", "b", "c", "d"], False, draws=1000, seed=0)
    expected = stats.kendalltau(values.mean(axis=(1, 2)), [4, 3, 2, 1]).statistic
    assert found.kendall_tau == pytest.approx(expected)
    assert sum(found.best.values()) == pytest.approx(1)
    if found.distinct <= 10:
        assert sum(row.share for row in found.shares) == pytest.approx(1)
    assert found.kendall_tau_interval.low < found.kendall_tau_interval.high


def test_kendalls_tau_has_the_interval_that_95_percent_of_draws_lie_in():
    values = simulate(np.random.default_rng(7), [0.8, 0.8], seeds=20, cases=20)
    values += 0.8 - values.mean(axis=(1, 2), keepdims=True)
    error = np.sqrt(values.mean(axis=2).var(axis=1, ddof=1).sum() / 20)
    upset = []
    for apart in np.linspace(4.8, 7.2, 13):  # the more, the fewer draws have another order
        values[0] += 0.8 + apart * error - values[0].mean()
        for paper, tau in ((["a", "b"], 1), (["b", "a"], -1)):
            found = ordered(values, "ab", paper, False, draws=4000, seed=0)
            low, high = found.kendall_tau_interval.low, found.kendall_tau_interval.high
            rare = -tau if found.best["b"] > 0.025 else tau
            assert (found.kendall_tau, low, high) == (tau, min(tau, rare), max(tau, rare))
        upset.append(found.best["b"])
    assert any(0.025 < share < 0.03 for share in upset)
    assert any(0.018 < share < 0.025 for share in upset)


def test_two_equal_variants_win_about_half_of_the_draws_each():
    values = simulate(np.random.default_rng(7), [0.8, 0.8], seeds=30, cases=30)
    values += 0.8 - values.mean(axis=(1, 2), keepdims=True)
    found = ordered(values, "ab", [], False, draws=4000, seed=0)
    assert found.best["a"] == pytest.approx(0.5, abs=0.05)
    assert (found.paper_share, found.kendall_tau) == (None, None)


def test_the_same_seed_gives_the_same_draws():
    values = simulate(np.random.default_rng(5), [0.8] * 3, seeds=8, cases=50)
    first, again, other = (
        ordered(values, "abc", [], False, draws=1000, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_neighbours_within_the_critical_difference_make_the_largest_groups():
    # Of ten blocks the critical difference of four is 4.69 / sqrt(10) = 1.483. Average ranks:
    # a 1.4, b 1.9, c 3.1 and d 3.6, so that a and c, or b and d, are too far from each other.
    orders = ["abcd"] * 5 + ["bacd"] * 2 + ["abdc"] * 1 + ["acdb"] * 1 + ["bdac"] * 1
    means = np.array([[4.0 - order.index(name) for order in orders] for name in "abcd"])
    found = rank_all(means, "abcd")
    assert found.average == pytest.approx({"a": 1.4, "b": 1.9, "c": 3.1, "d": 3.6})
    assert found.critical_difference == pytest.approx(1.483, abs=1e-3)
    assert found.groups == [["a", "b"], ["b", "c"], ["c", "d"]]


@pytest.mark.parametrize("scale", [1.0, 0.01])  # Dice's differences are hundredths
def test_the_anovas_f_is_the_mean_squares_ratio(scale):
    means = scale * np.random.default_rng(4).normal([[0.0], [1.0], [0.5]], size=(3, 6))
    variants = 6 * ((means.mean(axis=1) - means.mean()) ** 2).sum() / 2
    rest = means - means.mean(axis=1, keepdims=True) - means.mean(axis=0) + means.mean()
    found = rank_all(means, "abc")
    assert found.anova_f == pytest.approx(variants / ((rest**2).sum() / 10))
    assert found.anova_p_value == pytest.approx(stats.f.sf(found.anova_f, 2, 10))
    friedman = stats.friedmanchisquare(*means)
    assert found.friedman_statistic == pytest.approx(friedman.statistic)
    assert found.friedman_p_value == pytest.approx(friedman.pvalue)


@pytest.mark.parametrize(("paired", "spread"), [(False, np.sqrt(2)), (True, 2)])
def test_draws_vary_with_the_seeds_of_each_variant_or_of_all_together(paired, spread):
    """Two variants whose seeds run against each other: where seeds pair them a draw's difference
    varies by twice one variant's error, else by the square root of two."""
    effects = np.random.default_rng(0).normal(0, 0.01, 40)
    effects -= effects.mean()
    values = np.stack([0.802 + effects, 0.8 - effects])[:, :, None] + np.zeros(5)
    found = ordered(values, "ab", ["b", "a"], paired, draws=20_000, seed=0)
    error = effects.std() / np.sqrt(40)
    expected = stats.norm.cdf(0.002 / (spread * error))
    assert found.best["a"] == pytest.approx(expected, abs=0.012)
    assert found.best["a"] + found.best["b"] == pytest.approx(1)
    assert found.paper_share == pytest.approx(found.best["b"])
    assert (found.draws, found.distinct) == (20_000, 2)
    assert [row.variants for row in found.shares] == [["a", "b"], ["b", "a"]]
    assert found.shares[0].share == pytest.approx(found.best["a"])
    assert (found.kendall_tau, found.observed, found.paper) == (-1, ["a", "b"], ["b", "a"])
    assert (found.kendall_tau_interval.low, found.kendall_tau_interval.high) == (-1, 1)


def test_draws_vary_with_the_cases_which_are_the_same_for_all_variants():
    # Both gain from the same cases: only the second's bonus on a quarter of them is chance.
    common = np.linspace(-1, 1, 40)
    bonus = np.where(np.arange(40) % 4 == 0, 0.5, -0.15)
    values = np.stack([common, common + bonus])[:, None, :] + np.zeros((2, 3, 1))
    found = ordered(values, "ab", [], False, draws=20_000, seed=0)
    expected = stats.binom.sf(9.23, 40, 0.25)  # 0.5 n > 0.15 (40 - n): of 40 draws more than 9.2
    assert found.best["b"] == pytest.approx(expected, abs=0.012)


def test_at_most_ten_orderings_are_told_the_most_frequent_first():
    values = simulate(np.random.default_rng(5), [0.8] * 5, seeds=4, cases=10)
    found = ordered(values, "abcde", ["a", "b", "c"], True, draws=2000, seed=1)
    assert found.distinct > len(found.shares) == 10
    shares = [row.share for row in found.shares]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) < 1
    assert found.observed == ["abcde"[place] for place in np.argsort(-values.mean(axis=(1, 2)))]


def test_variants_that_tie_share_the_draw_and_keep_their_order():
    values = np.full((3, 4, 5), 0.8) + np.array([0, 0, -0.1])[:, None, None]
    found = ordered(values, "abc", ["c", "a", "b"], True, draws=1000, seed=0)
    assert found.best == {"a": 0.5, "b": 0.5, "c": 0}
    assert (found.observed, found.distinct) == (["a", "b", "c"], 1)
    assert found.paper_share == 0
    assert found.kendall_tau == pytest.approx(-2 / 3)  # two of three pairs against, a tie


def test_the_papers_share_is_that_of_its_order_among_those_that_it_reports():
    values = np.array([0.7, 0.9, 0.8, 0.6])[:, None, None] + np.zeros((4, 3, 2))
    for paper, share, tau in (("ad", 1, 1), ("bc", 1, 1), ("bad", 1, 1), ("cba", 0, 1 / 3)):
        found = ordered(values, "abcd", list(paper), False, draws=1000, seed=0)
        assert (found.paper_share, found.kendall_tau) == (share, pytest.approx(tau))
    assert ordered(values, "abcd", ["a"], False, draws=1000, seed=0).paper_share is None


@pytest.mark.parametrize("paired", [True, False])
def test_failed_runs_are_never_drawn(paired):
    values = simulate(np.random.default_rng(0), [0.80, 0.81], seeds=8, cases=50)
    failed = np.zeros((2, 8), dtype=bool)
    failed[0, [1, 5]] = failed[1, 2] = True
    worse = np.where(failed[:, :, None], values - 0.4, values)
    one, other = (
        ordered(each, "ab", ["a", "b"], paired, failed=failed, draws=1000, seed=0)
        for each in (values, worse)
    )
    assert one == other
    assert ordered(worse, "ab", ["a", "b"], paired, draws=1000, seed=0).best != one.best


def test_a_draw_of_failed_runs_alone_has_all_others():
    values = np.array([0.9, 0.9, 0.5, 0.5, 0.8, 0.8, 0.8, 0.8]).reshape(2, 4, 1) + np.zeros(5)
    failed = np.array([[False, False, True, True], [False] * 4])
    found = ordered(values, "ab", [], False, failed=failed, draws=1000, seed=0)
    assert found.best == {"a": 1, "b": 0}
