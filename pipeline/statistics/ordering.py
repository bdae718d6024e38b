"""All variants at once: ranks, tests of any difference, and how sure an ordering is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.anova import AnovaRM

from pipeline.statistics.crossed import Values
from pipeline.statistics.pairs import ALPHA
from pipeline.statistics.results import Interval, Ordering, OrderingShare, Ranks
from pipeline.statistics.typical import Failed

MOST_SHARES = 10
DIGITS = 12  # of a mean


def rank_all(means: Values, names: Sequence[str]) -> Ranks:
    """Ranks of means (V, S) within each seed, 1 the highest; V and S at least 2.

    Friedman's test needs three variants; both tests need means that differ.
    """
    variants, seeds = means.shape
    ranks = stats.rankdata(-means, axis=0).mean(axis=1)
    anova = _anova(means, names)
    friedman = None
    if variants > 2 and np.ptp(means, axis=0).any():
        friedman = stats.friedmanchisquare(*means)
    critical = critical_difference(variants, seeds)
    return Ranks(
        anova_f=anova[0] if anova else None,
        anova_p_value=anova[1] if anova else None,
        friedman_statistic=None if friedman is None else float(friedman.statistic),
        friedman_p_value=None if friedman is None else float(friedman.pvalue),
        average={name: float(rank) for name, rank in zip(names, ranks, strict=True)},
        critical_difference=critical,
        groups=_groups(ranks, names, critical),
    )


def critical_difference(variants: int, blocks: int) -> float:
    """Nemenyi's, at 0.05: q sqrt(k (k + 1) / (6 N)), q the studentized range's quantile over
    sqrt(2). Source: Demsar 2006, section 3.2.2."""
    q = float(stats.studentized_range.ppf(1 - ALPHA, variants, np.inf)) / np.sqrt(2)
    return float(q * np.sqrt(variants * (variants + 1) / (6 * blocks)))


def _anova(means: Values, names: Sequence[str]) -> tuple[float, float] | None:
    """F and p of the repeated-measures ANOVA; None where nothing is left beside the effects."""
    centred = means - means.mean(axis=0) - means.mean(axis=1)[:, None] + means.mean()
    if np.abs(centred).max() < 1e-12:
        return None
    table = pd.DataFrame(means, index=list(names)).rename_axis("variant").reset_index()
    long = table.melt("variant", var_name="seed", value_name="value")
    row = AnovaRM(long, "value", "seed", within=["variant"]).fit().anova_table.iloc[0]
    return float(row["F Value"]), float(row["Pr > F"])


def _groups(ranks: Values, names: Sequence[str], critical: float) -> list[list[str]]:
    """The largest sets of neighbours in rank, two at least, that lie within `critical`."""
    order = np.argsort(ranks, kind="stable")
    groups: list[list[str]] = []
    furthest = 0
    for start in range(len(order)):
        end = start
        while end + 1 < len(order) and ranks[order[end + 1]] - ranks[order[start]] < critical:
            end += 1
        if end > start and end > furthest:
            groups.append([names[place] for place in order[start : end + 1]])
            furthest = end
    return groups


def order_all(
    values: Values,
    failed: Failed,
    names: Sequence[str],
    paper: Sequence[str],
    paired: bool,
    *,
    draws: int,
    seed: int,
) -> Ordering:
    """How often each ordering comes out when seeds and cases are drawn anew: shares of draws, which
    test nothing. With no draws what is observed alone.

    values: (V, S, C), C cases or groups of cases (crossed.by_group), which are drawn whole. failed:
    (V, S), runs that have no part in a draw's means. paper: the
    paper's ordering, best first, of those among `names` that it reports. Seeds are drawn for all
    variants together where they pair them, else for each.
    """
    means = np.array([own[usable].mean() for own, usable in zip(values, ~failed, strict=True)])
    means = means.round(DIGITS)
    observed = [names[place] for place in np.argsort(-means, kind="stable")]
    reported = [names.index(name) for name in paper]
    tau = float(_kendall(means[reported][:, None])[0]) if len(paper) > 1 else None
    if draws == 0:
        return Ordering(
            draws=0, observed=observed, shares=[], distinct=0, best={}, paper=list(paper),
            paper_share=None, kendall_tau=tau, kendall_tau_interval=None,
        )  # fmt: skip
    variants, seeds, cases = values.shape
    rng = np.random.default_rng(seed)
    case_weights = resample(rng, draws, cases)
    by_run = values.reshape(variants * seeds, cases) @ case_weights.T  # (V * S, draws)
    by_run = by_run.reshape(variants, seeds, draws)
    common = resample(rng, draws, seeds)
    drawn = np.stack(  # (V, draws)
        [
            _mean(common if paired else resample(rng, draws, seeds), runs, usable)
            for runs, usable in zip(by_run, ~failed, strict=True)
        ]
    )
    # Ties stay ties: the last digits of a sum of products are chance.
    drawn = drawn.round(DIGITS)
    orders, counts = np.unique(
        np.argsort(-drawn, axis=0, kind="stable").T, axis=0, return_counts=True
    )
    frequent = np.argsort(-counts, kind="stable")[:MOST_SHARES]
    first = drawn == drawn.max(axis=0)
    winners = (first / first.sum(axis=0)).mean(axis=1)  # those that tie share a draw
    tau_interval = share = None
    if len(paper) > 1:
        taus = _kendall(drawn[reported])
        low, high = np.quantile(taus, [ALPHA / 2, 1 - ALPHA / 2])
        tau_interval = Interval(low=float(low), high=float(high))
        share = float((np.diff(drawn[reported], axis=0) < 0).all(axis=0).mean())
    return Ordering(
        draws=draws,
        observed=observed,
        shares=[
            OrderingShare(
                variants=[names[place] for place in orders[row]], share=float(counts[row] / draws)
            )
            for row in frequent
        ],
        distinct=len(orders),
        best={name: float(share) for name, share in zip(names, winners, strict=True)},
        paper=list(paper),
        paper_share=share,
        kendall_tau=tau,
        kendall_tau_interval=tau_interval,
    )


def _mean(weights: Values, runs: Values, usable: NDArray[np.bool_]) -> Values:
    """Of each draw: weights (draws, S), runs (S, draws), usable (S,). A draw of none of the usable
    runs has all of them."""
    own = weights * usable
    own[~own.any(axis=1)] = usable
    return np.asarray((own.T * runs).sum(axis=0) / own.sum(axis=1), dtype=np.float64)


def resample(rng: np.random.Generator, draws: int, size: int) -> Values:
    """Bootstrap weights (draws, size): how often each of `size` is drawn, over `size`."""
    drawn = rng.integers(size, size=(draws, size)) + size * np.arange(draws)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=draws * size).reshape(draws, size)
    return counts / size


def _kendall(scores: Values) -> Values:
    """Kendall's tau (a) of each column of scores (k, draws) to the rows' order, best first."""
    upper, lower = np.triu_indices(len(scores), 1)
    return np.asarray(np.sign(scores[upper] - scores[lower]).mean(axis=0), dtype=np.float64)
