"""Two variants at a time: do their typical runs differ, family-wise over all pairs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

from pipeline.statistics.claims import deciding_cases, false_claim, false_over_cases
from pipeline.statistics.crossed import Groups, Values, by_group
from pipeline.statistics.results import Interval, Pair, Pairing, without_inference
from pipeline.statistics.typical import (
    SAME,
    Contrast,
    Failed,
    TypicalRun,
    contrasts,
    is_descriptive,
    typical_run,
)

ALPHA = 0.05
THRESHOLD = 0.2  # correlation of seed means from which on seeds pair the variants
ENDLESS = 1000  # degrees of freedom from which on they are taken for infinite: within 0.2 %
CASES_ALONE = "Student's t of the cases' differences, Holm over all pairs"
TEST = "Tukey's studentized range of typical runs, each pair with its own error over {over}"


def choose_pairing(means: Values) -> Pairing:
    """The rule that was fixed beforehand, on means (V, S): V at least 2, S at least 2. Spearman's
    correlation, which one failed run does not decide. Two variants are always paired: the one
    correlation that they have is high by luck in a third of studies, and a rule that follows it is
    wrong in 6 % of them.

    Variants whose means do not vary have no correlation and are passed over; if all are so, seeds
    do not pair.
    """
    varying = means[np.ptp(means, axis=1) > 0]
    correlation = None
    if len(varying) > 1:
        matrix = np.corrcoef(stats.rankdata(varying, axis=1))
        correlation = float(matrix[np.triu_indices(len(varying), 1)].mean())
    paired = len(means) == 2 or (correlation is not None and correlation >= THRESHOLD)
    over = "seeds, which pair the two, and cases" if paired else "seeds and cases"
    return Pairing(
        correlation=correlation,
        threshold=THRESHOLD,
        paired=paired,
        test=TEST.format(over=over),
    )


def compare_pairs(
    values: Values,
    failed: Failed,
    names: Sequence[str],
    paired: bool,
    *,
    margin: float | None,
    groups: Groups | None = None,
    runs: Sequence[TypicalRun] | None = None,
) -> list[Pair]:
    """Every two variants of values (V, S, C), V, S and C at least 2, in the order of `names`;
    failed (V, S): the runs that did. groups: of cases (C,), two at least, as of by_group. runs:
    each variant's typical run, where its error is not that of `values` alone.

    The error is that of both, seeds and cases (statistics/typical.py), so that neither lucky seeds
    nor lucky cases show a difference. Over all pairs: Tukey's studentized range with each pair's
    own error and degrees of freedom (Games and Howell 1976); of equivalence Holm's procedure.
    Without inference where runs are too few (typical.is_descriptive).
    """
    variants = len(values)
    places = list(combinations(range(variants), 2))
    weights = np.zeros((len(places), variants))
    for row, (a, b) in enumerate(places):
        weights[row, a], weights[row, b] = 1, -1
    if runs is None:
        runs = [typical_run(*own) for own in zip(by_group(values, groups), failed, strict=True)]
    by_case = [typical_run(*own).by_case for own in zip(values, failed, strict=True)]
    found = contrasts(runs, weights, paired)
    equivalence = None
    if margin is not None:
        equivalence = holm([contrast.equivalence(margin) for contrast in found])
    means = values.mean(axis=2)
    pairs = []
    for row, ((a, b), contrast) in enumerate(zip(places, found, strict=True)):
        adjusted = tukey(contrast, variants)
        wins = superiority(means[a], means[b])
        pairs.append(
            Pair(
                first=names[a],
                second=names[b],
                difference=contrast.value,
                interval=contrast.interval(),
                p_value=contrast.p_value,
                adjusted_p_value=adjusted,
                shown=adjusted < ALPHA,
                equivalence_p_value=None if equivalence is None else float(equivalence[row]),
                equivalent=None if equivalence is None else bool(equivalence[row] < ALPHA),
                superiority=wins[0],
                superiority_interval=wins[1],
                false=false_claim(contrast),
                false_over_cases=false_over_cases(runs[a].by_case - runs[b].by_case),
                deciding_cases=deciding_cases(by_case[a] - by_case[b]),
            )
        )
    return [without_inference(pair) for pair in pairs] if is_descriptive(failed) else pairs


def compare_cases(values: Values, names: Sequence[str], groups: Groups | None = None) -> list[Pair]:
    """Every two variants of one run each, values (V, C), V and C at least 2, over cases alone:
    Student's t of the cases' differences, Holm over all pairs. What another seed would give is not
    in it, so nothing is called shown. groups: of cases (C,), two at least, as of by_group."""
    places = list(combinations(range(len(values)), 2))
    differences = [values[a] - values[b] for a, b in places]
    units = [by_group(each, groups) for each in differences]
    found = [DescrStatsW(each) for each in units]
    p_values = [_p_value(each) for each in found]
    adjusted = holm(p_values)
    pairs = []
    for (a, b), by_case, each, told, p_value, over_all in zip(
        places, differences, units, found, p_values, adjusted, strict=True
    ):
        low, high = told.tconfint_mean(alpha=ALPHA)
        pairs.append(
            Pair(
                first=names[a],
                second=names[b],
                difference=float(by_case.mean()),
                interval=Interval(low=float(low), high=float(high)),
                p_value=p_value,
                adjusted_p_value=float(over_all),
                shown=None,
                equivalence_p_value=None,
                equivalent=None,
                superiority=None,
                superiority_interval=None,
                false=None,
                false_over_cases=false_over_cases(each),
                deciding_cases=deciding_cases(by_case),
            )
        )
    return pairs


def _p_value(differences: DescrStatsW) -> float:
    if differences.std <= SAME:
        return float(abs(differences.mean) <= SAME)
    return float(differences.ttest_mean()[1])


def tukey(contrast: Contrast, variants: int) -> float:
    """The p-value of one difference of two among `variants`, adjusted over all pairs: the
    studentized range's, which of two variants is Student's t."""
    if variants == 2:
        return contrast.p_value
    freedom = contrast.freedom if contrast.freedom < ENDLESS else np.inf
    reached = float(stats.studentized_range.sf(np.sqrt(2) * contrast.distance, variants, freedom))
    return float(np.clip(reached, contrast.p_value, 1.0))


def holm(p_values: Sequence[float] | Values) -> Values:
    """Adjusted by Holm's procedure over all of them."""
    return np.asarray(multipletests(p_values, alpha=ALPHA, method="holm")[1], dtype=np.float64)


def superiority(first: Values, second: Values) -> tuple[float, Interval]:
    """P(a run of the first beats a run of the second), ties half: the share of seeds in which it
    does, means (S,) and (S,), with Clopper and Pearson's interval.

    Source: Bouthillier et al. 2021, section 4.2, of whose percentile interval ten wins of ten would
    leave no width.
    """
    wins = float(((np.sign(first - second) + 1) / 2).sum())
    low, high = proportion_confint(wins, len(first), alpha=ALPHA, method="beta")
    return wins / len(first), Interval(low=float(low), high=float(high))
