"""What the figures allow to be said, in plain sentences, and nothing more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from pipeline.statistics.definitions import FEWEST_SEEDS, metric_of
from pipeline.statistics.results import (
    Comparison,
    Estimate,
    FailureRate,
    Interval,
    Pair,
)
from pipeline.statistics.rounding import MOST, decimals, width
from pipeline.study.paper import Paper
from pipeline.study.values import quantity

NAMED = 3  # variants that a sentence names; of more it gives the number
FEW_CASES = 0.05  # share of the cases that, alone, decide an order of two
WORDS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def question(comparison: Comparison) -> str:
    """What a reader comes with."""
    if comparison.claims:
        return "Does the paper's ordering hold?"
    if len(comparison.variants) > 1:
        return "Which variant is best?"
    return "How good is it?"


def answer(
    comparison: Comparison, estimates: Sequence[Estimate], failures: Sequence[FailureRate]
) -> str:
    """What a colleague would say who is asked the question, in one sentence."""
    pairs = comparison.pairs
    if not pairs:
        return _no_pairs(comparison, estimates)
    if comparison.over == "cases alone":
        return (
            f"One run of each variant: {_best(comparison)} is {_more(comparison, 'est')} on these "
            "cases, but what another seed would give is not known."
        )
    if comparison.descriptive:
        return (
            f"{_why_descriptive(comparison, failures)}: no conclusion can be drawn yet; at least "
            f"{counted(FEWEST_SEEDS)} {_that_do(comparison)} needed."
        )
    return _of_claims(comparison) or _of_the_best(comparison)


def _no_pairs(comparison: Comparison, estimates: Sequence[Estimate]) -> str:
    """With nothing to compare: of the one variant how good it is, else why."""
    own = [found for found in estimates if found.metric == comparison.metric]
    if len(own) != 1 or own[0].typical is None:
        return next(iter(comparison.notes), "There is nothing to compare.")
    found, label = own[0], metric_of(comparison.metric).label
    several = "a typical run of" if found.seeds > 1 else "the run of"
    digits = _digits(found.interval)
    text = f"{several} {found.variant} has {label} {_number(found.typical or 0.0, digits)}"
    if found.interval is not None:
        over = "" if found.seeds > 1 else " over cases alone"
        text += f", 95 % interval{over} {_range(found.interval)}"
    return f"{text[0].upper()}{text[1:]}; there is no other variant to compare it with."


def _why_descriptive(comparison: Comparison, failures: Sequence[FailureRate]) -> str:
    """`Two seeds`, or, of enough seeds, whose runs failed."""
    seeds = len(comparison.seeds)
    failed = [each for each in failures if each.failed]
    if seeds < FEWEST_SEEDS or not failed:
        return counted(seeds, "seed").capitalize()
    told = "; ".join(f"{each.variant} {len(each.failed)} of {each.runs}" for each in failed)
    return f"Too many runs failed ({told})"


def _of_claims(comparison: Comparison) -> str | None:
    """Whether the paper's claims hold; None where it makes none of these variants."""
    shown, turned_round, left_open = _outcomes(comparison)
    number = len(shown) + len(turned_round) + len(left_open)
    label = metric_of(comparison.metric).label
    what = "claim" if number == 1 else "ordering"
    if number == 0:
        return None
    if turned_round:
        pair = turned(max(turned_round, key=lambda pair: -pair.difference))
        text = (
            f"The paper's {what} does not hold: {pair.first} is {_more(comparison)} than "
            f"{pair.second}, by {_difference(pair)} {label}"
        )
        if number > 1:
            told = {"shown": shown, "turned round": turned_round, "open": left_open}
            parts = [
                f"{counted(len(pairs))} {'is' if len(pairs) == 1 else 'are'} {what}"
                for what, pairs in told.items()
                if pairs
            ]
            text += f"; of its {counted(number)} claims {_listed(parts)}"
        return f"{text}."
    if not left_open:
        every = "both" if number == 2 else f"all {counted(number)}"
        if number == 1:
            pair = shown[0]
            return (
                f"The paper's claim holds: {pair.first} is {_more(comparison)} than "
                f"{pair.second}, by {_difference(pair)} {label}."
            )
        return f"The paper's ordering holds: {every} of its claims are shown."
    if number == 1:
        pair = left_open[0]
        return (
            f"The paper's claim is not shown: whether {pair.first} is {_more(comparison)} than "
            f"{pair.second} stays open."
        )
    return (
        f"The paper's ordering is not shown: of its {counted(number)} claims "
        f"{counted(len(shown)) if shown else 'none'} {'is' if len(shown) == 1 else 'are'}, and "
        f"{counted(len(left_open))} {'stays' if len(left_open) == 1 else 'stay'} open."
    )


def _outcomes(comparison: Comparison) -> tuple[list[Pair], list[Pair], list[Pair]]:
    """The paper's claims as pairs: those shown, those of which the contrary is, and the rest."""
    pairs = [pair for names in comparison.claims if (pair := find_pair(comparison, *names))]
    shown = [pair for pair in pairs if pair.shown and pair.difference > 0]
    turned_round = [pair for pair in pairs if pair.shown and pair.difference <= 0]
    return shown, turned_round, [pair for pair in pairs if not pair.shown]


def _of_the_best(comparison: Comparison) -> str:
    """Which variant is best, and which of the others it is shown to be better than."""
    label, best = metric_of(comparison.metric).label, _best(comparison)
    pairs = [pair for name in comparison.variants if (pair := find_pair(comparison, best, name))]
    worse = [pair.second for pair in pairs if pair.shown]
    other = [pair.second for pair in pairs if not pair.shown]
    more, most = _more(comparison), _more(comparison, "est")
    if not other:
        least = _difference(min(pairs, key=lambda pair: pair.difference))
        if len(worse) == 1:
            return f"{best} is {more} than {worse[0]}, by {least} {label}."
        return f"{best} is {more} than every other variant, by {least} {label} or more."
    if all(pair.equivalent for pair in comparison.pairs):
        margin = f"{comparison.equivalence_margin:g}"
        return f"The variants are equal within {margin} {label}."
    if not worse:
        if len(other) == 1:
            return f"No difference is shown between {best} and {other[0]}."
        return f"No variant can be called best: {best} is {most}, and no other is shown to be less."
    return (
        f"{best} is {most}, but not shown to be {more} than {_named(other)}; "
        f"it is {more} than {_named(worse)}."
    )


def _named(names: Sequence[str]) -> str:
    """`a, b and c`; of more than NAMED `four others`."""
    if len(names) > NAMED:
        return f"{counted(len(names))} others"
    return _listed(names)


def _listed(parts: Sequence[str]) -> str:
    """`a, b and c`"""
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def _best(comparison: Comparison) -> str:
    """The first of params.yaml of those that no other one lies above."""
    for name in comparison.variants:
        pairs = [find_pair(comparison, name, other) for other in comparison.variants]
        if all(pair.difference >= 0 for pair in pairs if pair is not None):
            return name
    return comparison.variants[0]


def _more(comparison: Comparison, ending: str = "er") -> str:
    """`higher`, or what is better in this metric."""
    return f"{'high' if comparison.better == 'higher' else 'low'}{ending}"


def counted(number: int, noun: str = "") -> str:
    """`two seeds`; numbers above ten in figures."""
    word = WORDS[number] if number < len(WORDS) else f"{number:,}"
    return f"{word} {noun}{'' if number == 1 else 's'}" if noun else word


def verdict(
    comparison: Comparison,
    estimates: Sequence[Estimate],
    failures: Sequence[FailureRate],
    paper: Paper | None = None,
) -> list[str]:
    """What stands behind the answer, most important first; of too few seeds two lines. Sentences
    are plain text: escape them for their format."""
    if comparison.descriptive:
        return [*_so_far(comparison, estimates), *_needed(comparison), *comparison.notes]
    sentences = [
        *_failed_runs(failures),
        *_groups(comparison),
        *(_claims(comparison) or _pairs(comparison)),
        *_ordering(comparison),
        *_baseline(comparison),
        *_factorial(comparison),
        *_equivalence(comparison),
        *_papers_figures(comparison, estimates, paper),
        *_power(comparison),
    ]
    return [*comparison.notes, *sentences]


def _so_far(comparison: Comparison, estimates: Sequence[Estimate]) -> list[str]:
    """What the runs gave, without a word of what others would."""
    label = metric_of(comparison.metric).label
    found = {
        each.variant: each
        for each in estimates
        if each.metric == comparison.metric and each.typical is not None
    }
    if len(found) < 2:
        return []
    sign = 1 if comparison.better == "higher" else -1
    order = sorted(found, key=lambda name: -sign * (found[name].typical or 0.0))
    first, last = found[order[0]], found[order[-1]]
    deviations = [each.standard_deviation or 0.0 for each in found.values()]
    return [
        f"So far {first.variant} is {_more(comparison, 'est')} (mean {label} "
        f"{_number(first.mean or 0.0, 3)}) and {last.variant} the other end "
        f"({_number(last.mean or 0.0, 3)}). The runs of one variant have a standard deviation of "
        f"up to {_number(max(deviations), 3)}."
    ]


def _that_do(comparison: Comparison) -> str:
    """Of enough seeds it is runs that are lacking."""
    enough = len(comparison.seeds) >= FEWEST_SEEDS
    return "runs of a variant that do not fail are" if enough else "are"


def _needed(comparison: Comparison) -> list[str]:
    """What it would take to conclude something, by the spread of the runs so far."""
    power, margin = comparison.power, comparison.equivalence_margin
    if power is None or margin is None or not power.standard_deviation:
        return []
    return [
        f"By the spread of these runs, to show a difference of {margin:g} takes "
        f"{_seeds(power.seeds_for_margin)}."
    ]


def _failed_runs(failures: Sequence[FailureRate]) -> list[str]:
    """How often a run fails, and that the rest is about runs that do not."""
    known = [(each, each.interval) for each in failures if each.interval is not None]
    if not known:
        return []
    told = [
        f"{each.variant} {len(each.failed)} of {each.runs} (seed"
        f"{'' if len(each.failed) == 1 else 's'} {', '.join(map(str, each.failed))}; 95 % interval "
        f"of the rate {_rate(rate)})"
        for each, rate in known
        if each.failed
    ]
    free = {each.runs: rate for each, rate in known if not each.failed}
    if not told:
        runs = min(free)
        return [
            f"No run failed; of {quantity(runs, 'run')} of a variant that leaves a failure rate of "
            f"{_rate(free[runs])} (95 % interval)."
        ]
    rest = f"; of the other variants none, which leaves {_rate(free[min(free)])}" if free else ""
    return [f"Failed runs: {'; '.join(told)}{rest}. All else is about runs that did not fail."]


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
    """How often the paper's ordering came out; whose rank is first tests nothing, and is told by
    the figure alone."""
    ordering = comparison.ordering
    if ordering is None or ordering.paper_share is None or ordering.kendall_tau_interval is None:
        return []
    agreement = _range(ordering.kendall_tau_interval, 2)
    return [
        f"The paper's ordering ({' > '.join(ordering.paper)}) came out in "
        f"{percent(ordering.paper_share)} of {ordering.draws:,} draws of seeds and cases; "
        f"Kendall's tau to it is {_number(ordering.kendall_tau or 0.0, 2)} "
        f"(95 % of draws: {agreement})."
    ]


def _claims(comparison: Comparison) -> list[str]:
    """The paper's claims by what became of them, and which of them few cases decide."""
    if comparison.over == "cases alone":
        return [_claim_of_runs(comparison, *names) for names in comparison.claims]
    shown, turned_round, left_open = _outcomes(comparison)
    told = {
        "Of the paper's claims shown": shown,
        "The contrary is shown of": turned_round,
        "Open": left_open,
    }
    sentences = [
        f"{what}: {'; '.join(_claim(pair, comparison.metric) for pair in pairs)}."
        for what, pairs in told.items()
        if pairs
    ]
    few = [
        f"{pair.first} > {pair.second} ({pair.deciding_cases})"
        for pair in (*shown, *turned_round, *left_open)
        if pair.deciding_cases is not None and pair.deciding_cases <= FEW_CASES * comparison.cases
    ]
    if few:
        sentences.append(
            f"Without a few of the {comparison.cases:,} cases the order of the two turns round: "
            f"{'; '.join(few)}."
        )
    return sentences


def _claim(pair: Pair, metric: str) -> str:
    """`a > b by 0.0040 Dice (-0.0020 to 0.0100; p = 0.3000), false with a probability of 8 %`"""
    text = f"{pair.first} > {pair.second}, {_difference(pair, sign=True)} "
    text += metric_of(metric).label
    within = [] if pair.interval is None else [_range(pair.interval)]
    within += [] if pair.adjusted_p_value is None else [p_text(pair.adjusted_p_value)]
    if within:
        text += f" ({', '.join(within)})"
    if pair.false is not None:
        text += f", false with a probability of {probability(pair.false)}"
    return text


def _claim_of_runs(comparison: Comparison, better: str, worse: str) -> str:
    """A claim of the paper held against one run of each variant."""
    pair = find_pair(comparison, better, worse)
    if pair is None or pair.false_over_cases is None:
        return f"The paper claims {better} > {worse}, which was not compared."
    return (
        f"The paper claims {better} > {worse}. {describe_pair(pair, comparison)} The claim is "
        f"false with a probability of {probability(pair.false_over_cases)} over cases alone, "
        "which holds no seed."
    )


def _pairs(comparison: Comparison) -> list[str]:
    """All pairs of a few variants; of more the table has them, and the baseline's are told."""
    if len(comparison.variants) > NAMED and comparison.baseline is not None:
        return []
    told = list(comparison.pairs)
    if len(comparison.variants) > NAMED:
        order = comparison.variants
        if comparison.ordering is not None and comparison.ordering.observed:
            order = comparison.ordering.observed
        told = [pair for names in pairwise(order) if (pair := find_pair(comparison, *names))]
    return [describe_pair(pair, comparison) for pair in told]


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


def describe_pair(pair: Pair, comparison: Comparison) -> str:
    """`A typical run of a is higher than one of b by 0.0040 Dice, 95 % interval -0.0020 to 0.0100:
    not shown.`; of one run each `The run of a is higher than that of b by ...`"""
    label = metric_of(comparison.metric).label
    alone = pair.false is None and pair.false_over_cases is not None  # of one run each
    if pair.difference < 0:
        pair = turned(pair)
    runs, one = ("The run", "that") if alone else ("A typical run", "one")
    digits = _digits(pair.interval)
    if round(pair.difference, digits) == 0:
        text = (
            f"{runs.removeprefix('A ').capitalize()}s of {pair.first} and {pair.second} have the "
            f"same {label} to {digits} decimals"
        )
    else:
        text = (
            f"{runs} of {pair.first} is {_more(comparison)} than {one} of {pair.second} by "
            f"{_difference(pair)} {label}"
        )
    if pair.interval is not None:
        over = " over cases alone" if alone else ""
        text += f", 95 % interval{over} {_range(pair.interval)}"
    return f"{text}." if alone else f"{text}: {_conclusion(pair.shown, pair.adjusted_p_value)}."


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
        number = _number(effect.difference, _digits(effect.interval), sign=True)
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
    """What the study can show, and what it takes to show more."""
    power, seeds = comparison.power, len(comparison.seeds)
    if power is None:
        return []
    sentences = []
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
    if power.detectable is not None:
        sentences.append(
            f"{quantity(seeds, 'seed')} show a difference of {_number(power.detectable)} in "
            f"{percent(power.power)} of studies."
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


def _range(interval: Interval, digits: int | None = None) -> str:
    digits = _digits(interval) if digits is None else digits
    return f"{_number(interval.low, digits)} to {_number(interval.high, digits)}"


def _digits(interval: Interval | None) -> int:
    """How many decimals a figure with that interval is told with."""
    return decimals([width(interval)])


def _difference(pair: Pair, *, sign: bool = False) -> str:
    return _number(pair.difference, _digits(pair.interval), sign=sign)


def _number(value: float, digits: int = MOST, *, sign: bool = False) -> str:
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    return text.replace("-", "") if not float(text) else text
