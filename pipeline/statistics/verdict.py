"""What the figures allow to be said, in plain sentences, and nothing more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from pipeline.statistics.definitions import metric_of
from pipeline.statistics.results import (
    Comparison,
    Estimate,
    FailureRate,
    Interval,
    Pair,
)
from pipeline.study.paper import Paper
from pipeline.study.values import quantity

DECIMALS = 4
FEW = 3  # variants of which every pair is told
TOO_FEW_TO_FAIL = (
    "Of fewer than five runs of a variant none can be called failed: what follows takes all runs "
    "for typical ones."
)


def verdict(
    comparison: Comparison,
    estimates: Sequence[Estimate],
    failures: Sequence[FailureRate],
    paper: Paper | None = None,
) -> list[str]:
    """The verdict, most important first. Sentences are plain text: escape them for their format."""
    sentences = [
        *_questions(comparison, failures),
        *_groups(comparison),
        *_ordering(comparison),
        *(_claims(comparison) or _pairs(comparison)),
        *_baseline(comparison),
        *_factorial(comparison),
        *_equivalence(comparison),
        *_papers_figures(comparison, estimates, paper),
        *_power(comparison),
    ]
    return [*comparison.notes, *sentences]


def _questions(comparison: Comparison, failures: Sequence[FailureRate]) -> list[str]:
    """How often a run fails; that the rest is about runs that do not; and why not the mean."""
    known = [(each, each.interval) for each in failures if each.interval is not None]
    if not known:
        several = any(each.runs > 1 for each in failures)
        return [TOO_FEW_TO_FAIL] if several else []
    label = metric_of(comparison.metric).label
    told = [
        f"{each.variant} {len(each.failed)} of {each.runs} (seed"
        f"{'' if len(each.failed) == 1 else 's'} {', '.join(map(str, each.failed))}), failure rate "
        f"{_rate(rate)}"
        for each, rate in known
        if each.failed
    ]
    free = {each.runs: rate for each, rate in known if not each.failed}
    if free:
        runs = min(free)
        who = "none of the other variants" if told else "none of any variant"
        told.append(f"{who}, failure rate {_rate(free[runs])} with {quantity(runs, 'run')}")
    drop = known[0][0].drop  # one for all variants
    sentences = [
        f"Failed runs: {'; '.join(told)} (95 % intervals).",
        f"A run has failed if its {label} is more than {drop:.3g} below the upper quartile of its "
        "variant's runs. What follows is about a typical run, one that has not failed.",
    ]
    bounds = [each.mean_interval for each, _ in known if each.mean_interval is not None]
    if bounds:
        low = min(each.low for each in bounds)
        sentences.append(
            "The mean over all runs, failed ones with them, is not compared: failures that were "
            f"not seen could bring a variant's down to {low:.2f} {label}."
        )
    return sentences


def _groups(comparison: Comparison) -> list[str]:
    if comparison.groups is None:
        return []
    return [
        f"{cases_of(comparison.cases, comparison.groups, 'test case')}: in errors over cases "
        "near-duplicates, and cases of a known group, count as one."
    ]


def cases_of(cases: int, groups: int | None, noun: str = "case") -> str:
    """`1,000 cases`, or `1,000 cases of 870 groups`."""
    told = quantity(cases, noun)
    return told if groups is None else f"{told} of {quantity(groups, 'group')}"


def _rate(interval: Interval) -> str:
    """`0 to 31 %`, rounded outwards."""
    return f"{math.floor(100 * interval.low)} to {math.ceil(100 * interval.high)} %"


def _ordering(comparison: Comparison) -> list[str]:
    ordering = comparison.ordering
    if ordering is None or not ordering.best:
        return []
    sentences = []
    if ordering.paper_share is not None and ordering.kendall_tau_interval is not None:
        agreement = _range(ordering.kendall_tau_interval, decimals=2)
        sentences.append(
            f"The paper's ordering ({' > '.join(ordering.paper)}) came out in "
            f"{percent(ordering.paper_share)} of {ordering.draws:,} draws of seeds and cases; "
            f"Kendall's tau to it is {_number(ordering.kendall_tau or 0.0, 2)} "
            f"(95 % of draws: {agreement})."
        )
    share = max(ordering.best.values())
    first = [name for name, best in ordering.best.items() if best == share]
    if len(first) == 1:
        sentences.append(
            f"{first[0]} was the best of all variants in {percent(share)} of draws of seeds and "
            "cases, a share that tests nothing."
        )
    else:
        told = " and ".join(first)
        sentences.append(
            f"{told} were the best equally often, each in {percent(share)} of draws of seeds and "
            "cases."
        )
    return sentences


def _claims(comparison: Comparison) -> list[str]:
    """Each claim of the paper that was compared: the pair, how likely it is false, and how few
    cases decide it."""
    sentences = []
    for better, worse in comparison.claims:
        pair = find_pair(comparison, better, worse)
        if pair is None:
            continue
        text = f"The paper claims {better} > {worse}. {describe_pair(pair, comparison.metric)}"
        if pair.false_over_cases is not None:
            text += (
                " The claim is false with a probability of "
                f"{probability(pair.false_over_cases)} over cases alone"
            )
            text += (
                ", which holds no seed."
                if pair.false is None
                else (f", of {probability(pair.false)} with seeds.")
            )
        if pair.deciding_cases is not None:
            text += (
                f" {quantity(pair.deciding_cases, 'case')} of {comparison.cases:,} "
                f"{'decides' if pair.deciding_cases == 1 else 'decide'} the order of the two: "
                "without them it turns round."
            )
        sentences.append(text)
    return sentences


def _pairs(comparison: Comparison) -> list[str]:
    """All pairs of a few variants; of more the neighbours in rank, the paper's where it ranks."""
    told = list(comparison.pairs)
    if len(comparison.variants) > FEW:
        # Without an ordering of all, which a study that is not done may lack, params.yaml's.
        order = comparison.variants
        if comparison.ordering is not None:
            ranked = comparison.ordering.paper
            order = ranked if len(ranked) > 1 else comparison.ordering.observed
        told = [pair for names in pairwise(order) if (pair := find_pair(comparison, *names))]
    return [describe_pair(pair, comparison.metric) for pair in told]


def find_pair(comparison: Comparison, first: str, second: str) -> Pair | None:
    """The pair as `first` less `second`; None where it was not compared."""
    for pair in comparison.pairs:
        if (pair.first, pair.second) == (first, second):
            return pair
        if (pair.first, pair.second) == (second, first):
            return turned(pair)
    return None


def turned(pair: Pair) -> Pair:
    """The same comparison, seen from the second variant."""
    changes = {
        "first": pair.second,
        "second": pair.first,
        "difference": -pair.difference,
        "false": None if pair.false is None else 1 - pair.false,
        "false_over_cases": None if pair.false_over_cases is None else 1 - pair.false_over_cases,
        "interval": _negative(pair.interval),
        "superiority": None if pair.superiority is None else 1 - pair.superiority,
        "superiority_interval": None
        if pair.superiority_interval is None
        else Interval(
            low=1 - pair.superiority_interval.high, high=1 - pair.superiority_interval.low
        ),
    }
    return pair.model_copy(update=changes)


def _negative(interval: Interval | None) -> Interval | None:
    return None if interval is None else Interval(low=-interval.high, high=-interval.low)


def describe_pair(pair: Pair, metric: str) -> str:
    """`A typical run of a beats one of b by 0.0040 Dice, 95 % interval -0.0020 to 0.0100: not
    shown.`"""
    label = metric_of(metric).label
    if pair.false is None and pair.false_over_cases is not None:  # of one run each
        return _describe_runs(pair, label)
    if round(pair.difference, DECIMALS) == 0:
        text = (
            f"Typical runs of {pair.first} and {pair.second} have the same {label} to {DECIMALS} "
            "decimals"
        )
    elif pair.difference > 0:
        text = (
            f"A typical run of {pair.first} beats one of {pair.second} by "
            f"{_number(pair.difference)} {label}"
        )
    else:
        text = (
            f"A typical run of {pair.first} falls behind one of {pair.second} by "
            f"{_number(-pair.difference)} {label}"
        )
    bounds = pair.interval if pair.difference >= 0 else _negative(pair.interval)
    if bounds is not None:
        text += f", 95 % interval {_range(bounds)}"
    return f"{text}: {_conclusion(pair.shown, pair.adjusted_p_value)}."


def _describe_runs(pair: Pair, label: str) -> str:
    """The same of one run each: `The run of a beats that of b by 0.0040 Dice, 95 % interval over
    cases alone -0.0020 to 0.0100.`"""
    if round(pair.difference, DECIMALS) == 0:
        return (
            f"The runs of {pair.first} and {pair.second} have the same {label} to {DECIMALS} "
            "decimals."
        )
    how = "beats" if pair.difference >= 0 else "falls behind"
    text = f"The run of {pair.first} {how} that of {pair.second} by "
    text += f"{_number(abs(pair.difference))} {label}"
    bounds = pair.interval if pair.difference >= 0 else _negative(pair.interval)
    return text if bounds is None else f"{text}, 95 % interval over cases alone {_range(bounds)}."


def _conclusion(shown: bool | None, p_value: float | None) -> str:
    if shown is None:
        return "descriptive only"
    told = "shown" if shown else "not shown"
    return told if p_value is None else f"{told} ({p_text(p_value)}, adjusted)"


def _baseline(comparison: Comparison) -> list[str]:
    baseline = comparison.baseline
    if baseline is None or all(pair.shown is None for pair in comparison.pairs):
        return []
    found: dict[str, list[str]] = {
        "shown to be better": [],
        "shown to be worse": [],
        "neither": [],
    }
    for name in comparison.variants:
        pair = find_pair(comparison, name, baseline) if name != baseline else None
        if pair is not None:
            better = "shown to be better" if pair.difference > 0 else "shown to be worse"
            found[better if pair.shown else "neither"].append(name)
    parts = [f"{what}: {', '.join(names) or 'none'}" for what, names in found.items()]
    return [f"Against the baseline {baseline}, {'; '.join(parts)}."]


def _factorial(comparison: Comparison) -> list[str]:
    label = metric_of(comparison.metric).label
    sentences = []
    for effect in comparison.factorial:
        number = _number(effect.difference, sign=True)
        text = f"The factor {effect.factors[0]} changes {label} by {number}"
        if len(effect.factors) > 1:
            both = " and ".join(effect.factors)
            text = f"{both} together change {label} by {number} more than their sum"
        if effect.interval is not None:
            text += f", 95 % interval {_range(effect.interval)}"
        sentences.append(f"{text}: {_conclusion(effect.shown, effect.adjusted_p_value)}.")
    return sentences


def _equivalence(comparison: Comparison) -> list[str]:
    if all(pair.equivalent is None for pair in comparison.pairs):
        return []
    equal = [f"{pair.first} and {pair.second}" for pair in comparison.pairs if pair.equivalent]
    margin = f"{comparison.equivalence_margin:g}"
    if not equal:
        return [f"No two variants' typical runs are shown to be equal within {margin}."]
    return [f"Typical runs shown to be equal within {margin}: {'; '.join(equal)}."]


def _papers_figures(
    comparison: Comparison, estimates: Sequence[Estimate], paper: Paper | None
) -> list[str]:
    """Of the primary metric; where the paper's is of all pixels together, of that."""
    if paper is None:
        return []
    metric = comparison.metric
    if not paper.figures(metric):
        metric = f"pooled_{metric}"
    several = paper.runs is not None and paper.runs > 1
    who = "a run that does not fail"
    if several:
        who = f"the mean of {paper.runs} runs that do not fail"
    held, sentences = [], []
    for estimate in estimates:
        lies, bounds = estimate.paper_lies, estimate.paper_interval
        if estimate.metric != metric or lies is None or bounds is None:
            continue
        if lies == "inside":
            held.append(estimate.variant)
            continue
        printed = paper.figures(metric)[estimate.variant]
        sentences.append(
            f"The paper's {printed} for {estimate.variant} lies {lies} where {who} is expected "
            f"here, {_range(bounds)}."
        )
    if held:
        sentences.append(
            f"The paper's figure is one that {who} may give here for: {', '.join(held)}."
        )
    return sentences


def _power(comparison: Comparison) -> list[str]:
    power, seeds = comparison.power, len(comparison.seeds)
    if power is None:
        return []
    sentences = []
    if power.detectable is not None:
        sentences.append(
            f"{quantity(seeds, 'seed')} show a difference of {_number(power.detectable)} between "
            f"typical runs in {percent(power.power)} of studies (standard deviation over seeds "
            f"{_number(power.standard_deviation or 0.0)})."
        )
    takes = []
    if power.standard_deviation:
        if power.gap is not None:
            takes.append(
                f"the gap of {_number(power.gap)} between the paper's two best of these variants "
                f"takes {_seeds(power.seeds_for_gap)}"
            )
        if comparison.equivalence_margin is not None:
            takes.append(
                f"a difference of {comparison.equivalence_margin:g} takes "
                f"{_seeds(power.seeds_for_margin)}"
            )
    takes.append(
        f"a failure rate under {percent(power.failure_rate)} takes "
        f"{_seeds(power.seeds_for_failure_rate)} of which none of the variant's fails"
    )
    sentences.append(f"To be shown, with as many test cases: {'; '.join(takes)}.")
    return sentences


def _seeds(number: int | None) -> str:
    return "more cases, or over 1,000 seeds" if number is None else quantity(number, "seed")


def p_text(p_value: float) -> str:
    return "p < 0.0001" if p_value < 0.0001 else f"p = {p_value:.4f}"


def percent(share: float) -> str:
    """A share as a whole percentage; `under 1 %` and `over 99 %` where rounding would lie."""
    if 0 < share < 0.01:
        return "under 1 %"
    if 0.99 < share < 1:
        return "over 99 %"
    return f"{100 * share:.0f} %"


def probability(share: float) -> str:
    """As `percent`, but that no probability is told to be 0 or 1: no figures are that sure."""
    return percent(min(max(share, 1e-9), 1 - 1e-9))


def _range(interval: Interval, decimals: int = DECIMALS) -> str:
    return f"{_number(interval.low, decimals)} to {_number(interval.high, decimals)}"


def _number(value: float, decimals: int = DECIMALS, *, sign: bool = False) -> str:
    text = f"{value:{'+' if sign else ''}.{decimals}f}"
    return text.replace("-", "") if not float(text) else text
