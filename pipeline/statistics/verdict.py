"""What the figures allow to be said, in plain sentences, and nothing more."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from itertools import pairwise

from pipeline.statistics.definitions import FEWEST_SEEDS, metric_of
from pipeline.statistics.results import (
    Change,
    Comparison,
    Estimate,
    ExternalSet,
    FailureRate,
    Interval,
    Pair,
    TunedVariant,
    Tuning,
)
from pipeline.statistics.rounding import decimals, shown, width
from pipeline.study.paper import Paper
from pipeline.study.values import quantity

USUAL = 3  # decimals of a figure without an interval
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
    if not comparison.pairs:
        return _no_pairs(comparison, estimates)
    if comparison.over == "cases alone":
        return _of_one_run(comparison)
    if comparison.descriptive:
        return (
            f"{_why_descriptive(comparison, failures)}: no conclusion can be drawn yet; at least "
            f"{_fewest(comparison)} are needed."
        )
    told = _of_claims(comparison) or _of_the_best(comparison)
    failed, runs = sum(len(each.failed) for each in failures), sum(each.runs for each in failures)
    if not failed:
        return told
    return f"{told[:-1]}; {failed} of {runs} runs failed and {_be(failed)} set aside."


def _be(number: int) -> str:
    return "is" if number == 1 else "are"


def _no_pairs(comparison: Comparison, estimates: Sequence[Estimate]) -> str:
    """With nothing to compare: of the one variant how good it is, else why."""
    own = [found for found in estimates if found.metric == comparison.metric]
    if len(own) != 1 or own[0].typical is None:
        return comparison.notes[-1] if comparison.notes else "There is nothing to compare."
    found = own[0]
    several = "a typical run of" if found.seeds > 1 else "the run of"
    text = f"{several} {found.variant} has {_label(comparison)} "
    text += shown(found.typical or 0.0, _digits(found.interval))
    if found.interval is not None:
        over = "" if found.seeds > 1 else " over cases alone"
        text += f", 95 % interval{over} {_range(found.interval)}"
    return f"{text[0].upper()}{text[1:]}; there is no other variant to compare it with."


def _of_one_run(comparison: Comparison) -> str:
    best = _best(comparison)
    equal = [
        name
        for name in comparison.variants
        if (pair := find_pair(comparison, best, name)) is not None and pair.difference == 0
    ]
    highest = f"{_listed([best, *equal])} {_be(1 + len(equal))} {_more(comparison, 'est')}"
    if comparison.claims:
        return (
            "One run of each variant: whether the paper's ordering holds cannot be said, for "
            f"another seed may turn it round; on these cases {highest}."
        )
    return (
        f"One run of each variant: {highest} on these cases, but what another seed would give is "
        "not known."
    )


def _why_descriptive(comparison: Comparison, failures: Sequence[FailureRate]) -> str:
    """`Two seeds`, or, of enough seeds, whose runs failed."""
    seeds = len(comparison.seeds)
    failed = [each for each in failures if each.failed]
    if seeds < 2:
        return "Too few seeds in common"
    if seeds < FEWEST_SEEDS or not failed:
        return counted(seeds, "seed").capitalize()
    told = "; ".join(f"{each.variant} {len(each.failed)} of {each.runs}" for each in failed)
    return f"Too many runs failed ({told})"


def _fewest(comparison: Comparison) -> str:
    """What would be enough; of enough seeds it is runs that are lacking."""
    if len(comparison.seeds) < FEWEST_SEEDS:
        return counted(FEWEST_SEEDS)
    return f"{counted(-(-FEWEST_SEEDS // 2), 'run')} of each variant that do not fail"


def _of_claims(comparison: Comparison) -> str | None:
    """Whether the paper's claims hold; None where it makes none of these variants."""
    held, turned_round, left_open, untested = _outcomes(comparison)
    number = len(comparison.claims)
    told = {
        "shown": len(held),
        "turned round": len(turned_round),
        "open": len(left_open),
        "not tested yet": len(untested),
    }
    parts = [f"{counted(each)} {_be(each)} {what}" for what, each in told.items() if each]
    if number == 0:
        return None
    of_claims = f"of its {counted(number)} claims {_listed(parts)}"
    what = "claim" if number == 1 else "ordering"
    if turned_round:
        pair = turned(max(turned_round, key=lambda pair: -pair.difference))
        text = f"The paper's {what} does not hold: {_apart(pair, comparison)}"
        return f"{text}; {of_claims}." if number > 1 else f"{text}."
    if number > 1:
        if len(held) == number:
            every = "both" if number == 2 else f"all {counted(number)}"
            return f"The paper's ordering holds: {every} of its claims are shown."
        return f"The paper's ordering is not shown: {of_claims}."
    if held:
        return f"The paper's claim holds: {_apart(held[0], comparison)}."
    better, worse = comparison.claims[0]
    left = "stays open" if left_open else "was not tested yet"
    return (
        f"The paper's claim is not shown: whether {better} is {_more(comparison)} than {worse} "
        f"{left}."
    )


def _apart(pair: Pair, comparison: Comparison) -> str:
    """`a is higher than b, by 0.02 Dice`"""
    return (
        f"{pair.first} is {_more(comparison)} than {pair.second}, by {_difference(pair)} "
        f"{_label(comparison)}"
    )


def _outcomes(
    comparison: Comparison,
) -> tuple[list[Pair], list[Pair], list[Pair], list[tuple[str, str]]]:
    """The paper's claims: as pairs those shown, those of which the contrary is, and the rest; and
    those of which no pair was tested."""
    pairs = [(find_pair(comparison, *names), names) for names in comparison.claims]
    tested = [pair for pair, _ in pairs if pair is not None and pair.shown is not None]
    held = [pair for pair in tested if pair.shown and pair.difference > 0]
    turned_round = [pair for pair in tested if pair.shown and pair.difference <= 0]
    untested = [names for pair, names in pairs if pair is None or pair.shown is None]
    return held, turned_round, [pair for pair in tested if not pair.shown], untested


def _of_the_best(comparison: Comparison) -> str:
    """Which variant is best, and which of the others it is shown to be better than."""
    best = _best(comparison)
    others = [name for name in comparison.variants if name != best]
    found = {name: find_pair(comparison, best, name) for name in others}
    pairs = [pair for pair in found.values() if pair is not None]
    worse = [pair.second for pair in pairs if pair.shown]
    other = [pair.second for pair in pairs if not pair.shown]
    more, most = _more(comparison), _more(comparison, "est")
    missing = [name for name, pair in found.items() if pair is None]
    rest = f"; {_named(missing)} {_be(len(missing))} not compared yet" if missing else ""
    if not other:
        least = min(pairs, key=lambda pair: pair.difference)
        if len(worse) == 1:
            return f"{_apart(least, comparison)}{rest}."
        all_others = "all that it was compared with" if missing else "every other variant"
        return (
            f"{best} is {more} than {all_others}, by {_difference(least)} {_label(comparison)} "
            f"or more{rest}."
        )
    if all(pair.equivalent for pair in comparison.pairs):
        margin = f"{comparison.equivalence_margin:g}"
        return f"The variants are equal within {margin} {_label(comparison)}{rest}."
    if not worse:
        if len(other) == 1:
            return f"No difference is shown between {best} and {other[0]}{rest}."
        return (
            f"No variant can be called best: {best} is {most}, and none of the others is shown to "
            f"be worse{rest}."
        )
    return (
        f"{best} is {most}, but not shown to be {more} than {_named(other)}; "
        f"it is {more} than {_named(worse)}{rest}."
    )


def _label(comparison: Comparison) -> str:
    """The metric's, and that less of it is better, where it is."""
    label = metric_of(comparison.metric).label
    return label if comparison.better == "higher" else f"{label} (lower is better)"


def _named(names: Sequence[str]) -> str:
    """`a, b and c`; of more than NAMED `four others`."""
    if len(names) > NAMED:
        return f"{counted(len(names))} others"
    return _listed(names)


def _listed(parts: Sequence[str]) -> str:
    """`a, b and c`"""
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def _best(comparison: Comparison) -> str:
    """The first of params.yaml of those compared that no other one lies above."""
    compared = {name for pair in comparison.pairs for name in (pair.first, pair.second)}
    names = [name for name in comparison.variants if name in compared]
    for name in names:
        pairs = [find_pair(comparison, name, other) for other in names]
        if all(pair.difference >= 0 for pair in pairs if pair is not None):
            return name
    return names[0]


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
    external: Sequence[ExternalSet] = (),
    tuning: Tuning | None = None,
) -> list[str]:
    """What stands behind the answer, most important first; of too few seeds two lines. Sentences
    are plain text: escape them for their format."""
    told = answer(comparison, estimates, failures)
    notes = [note for note in comparison.notes if note != told]
    if comparison.descriptive:
        return [
            *_so_far(comparison, estimates),
            *_needed(comparison),
            *_tuned(tuning, comparison, estimates),
            *(told for each in external for told in _elsewhere(each, comparison, estimates)),
            *notes,
        ]
    sentences = [
        *_failed_runs(failures),
        *_groups(comparison),
        *(_claims(comparison) or _pairs(comparison)),
        *_ordering(comparison),
        *_baseline(comparison),
        *_factorial(comparison),
        *_equivalence(comparison),
        *_tuned(tuning, comparison, estimates),
        *(told for each in external for told in _elsewhere(each, comparison, estimates)),
        *_papers_figures(comparison, estimates, paper),
        *_power(comparison),
    ]
    return [*notes, *sentences]


def _so_far(comparison: Comparison, estimates: Sequence[Estimate]) -> list[str]:
    """What the runs that did not fail gave, without a word of what others would."""
    label = _label(comparison)
    own = [each for each in estimates if each.metric == comparison.metric]
    found = {each.variant: each.typical for each in own if each.typical is not None}
    if len(found) < 2:
        return []
    sign = 1 if comparison.better == "higher" else -1
    order = sorted(found, key=lambda name: -sign * found[name])
    ends = [shown(found[name], USUAL) for name in (order[0], order[-1])]
    told = (
        f"{order[0]} is {_more(comparison, 'est')} ({label} {ends[0]}) and {order[-1]} the other "
        f"end ({ends[1]})"
    )
    if ends[0] == ends[1]:
        told = f"all variants are alike ({label} {ends[0]})"
    deviation = max(each.standard_deviation or 0.0 for each in own)
    return [
        f"So far {told}. The runs of one variant have a standard deviation of up to "
        f"{shown(deviation, USUAL)}."
    ]


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
        f"Kendall's tau to it is {shown(ordering.kendall_tau or 0.0, 2)} "
        f"(95 % of draws: {agreement})."
    ]


def _claims(comparison: Comparison) -> list[str]:
    """The paper's claims by what became of them, and which of them few cases decide."""
    if comparison.over == "cases alone":
        return _claims_of_runs(comparison)
    held, turned_round, left_open, untested = _outcomes(comparison)
    told = {
        "Of the paper's claims shown": [_claim(pair, comparison) for pair in held],
        "The contrary is shown of": [_claim(pair, comparison) for pair in turned_round],
        "Open": [_claim(pair, comparison) for pair in left_open],
        "Not tested yet": [" > ".join(names) for names in untested],
    }
    sentences = [f"{what}: {'; '.join(claims)}." for what, claims in told.items() if claims]
    few = [
        f"{pair.first} > {pair.second} ({pair.deciding_cases})"
        for pair in (*held, *turned_round, *left_open)
        if pair.deciding_cases is not None and pair.deciding_cases <= FEW_CASES * comparison.cases
    ]
    if few:
        sentences.append(
            f"Without a few of the {comparison.cases:,} cases the order of the two turns round: "
            f"{'; '.join(few)}."
        )
    return sentences


def _claim(pair: Pair, comparison: Comparison) -> str:
    """`a > b, +0.004 Dice (-0.002 to 0.010, p = 0.3000), false with a probability of 8 %`; the
    difference in the metric itself, which is below 0 where the better one has less of it."""
    difference, bounds = pair.difference, pair.interval
    if comparison.better == "lower":
        difference, bounds = -difference, _negative(bounds)
    text = f"{pair.first} > {pair.second}, {shown(difference, _digits(bounds), sign=True)} "
    text += metric_of(comparison.metric).label
    within = [] if bounds is None else [_range(bounds)]
    within += [] if pair.adjusted_p_value is None else [p_text(pair.adjusted_p_value)]
    if within:
        text += f" ({', '.join(within)})"
    if pair.false is not None:
        text += f", false with a probability of {probability(pair.false)}"
    return text


def _claims_of_runs(comparison: Comparison) -> list[str]:
    """The paper's claims held against one run of each variant."""
    told = [
        f"{better} > {worse} {probability(pair.false_over_cases)}"
        for better, worse in comparison.claims
        if (pair := find_pair(comparison, better, worse)) is not None
        and pair.false_over_cases is not None
    ]
    if not told:
        return []
    return [
        "Over these cases alone, with no seed in it, the paper's claims are false with a "
        f"probability of: {'; '.join(told)}."
    ]


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


def _order(estimates: Sequence[Estimate], comparison: Comparison, variants: Collection[str]) -> str:
    """`a > b > c`, of these variants by typical runs, better ones first."""
    sign = 1 if comparison.better == "higher" else -1
    found = {
        each.variant: each.typical
        for each in estimates
        if each.metric == comparison.metric and each.variant in variants
        if each.typical is not None
    }
    return " > ".join(sorted(found, key=lambda name: -sign * found[name]))


def _elsewhere(
    found: ExternalSet, comparison: Comparison, estimates: Sequence[Estimate]
) -> list[str]:
    """Whether what is so on the study's own cases is so on an external test set."""
    label, name = metric_of(comparison.metric).label, found.name
    cases = cases_of(found.cases, found.comparison.groups, "case")
    told = [f"On {name}: {note}" for note in found.comparison.notes if note not in comparison.notes]
    both = set(comparison.variants) & set(found.comparison.variants)
    if len(both) > 1:
        here, there = (_order(each, comparison, both) for each in (estimates, found.estimates))
        same = "as on the study's own cases" if here == there else f"on the study's own {here}"
        told.append(f"On {name} ({cases}) the order is {there}; {same}.")
    told += _both_ways(
        comparison,
        found.comparison,
        (
            f"Shown on both sets, the study's and {name}",
            f"Shown on both sets, and turned round on {name}",
            f"Shown on the study's own cases and not on {name}",
            f"Shown on {name} alone",
        ),
        f"No difference is shown on the study's cases or on {name}.",
    )
    of_pairs = [each for each in found.changes if len(each.variants) == 2]
    another = [
        f"{' less '.join(each.variants)} {_changed(each)}" for each in of_pairs if each.shown
    ]
    if another:
        told.append(f"A difference is another on {name}, in {label}: {'; '.join(another)}.")
    elif any(each.shown is not None for each in of_pairs):
        widest = max(of_pairs, key=lambda each: abs(each.change))
        what = "that which changes most" if len(of_pairs) > 1 else "the change"
        told.append(
            f"No difference is shown to be another on {name}; {what}: "
            f"{' less '.join(widest.variants)} {_changed(widest)}."
        )
    return [*told, *_losses(found, comparison)]


def _both_ways(
    comparison: Comparison, other: Comparison, outcomes: Sequence[str], none: str
) -> list[str]:
    """Which differences are shown in both comparisons, in both and turned round, in the first and
    not in the other, in the other alone: `outcomes`, in words; none: what is told where none is."""
    found: list[list[str]] = [[] for _ in outcomes]
    held, turned_round, here_alone, there_alone = found
    tested = False
    for pair in comparison.pairs:
        own = pair if pair.difference > 0 else turned(pair)
        there = find_pair(other, own.first, own.second)
        if there is None or own.shown is None or there.shown is None:
            continue
        tested = True
        ahead = there if there.difference > 0 else turned(there)
        if own.shown and there.shown:
            (held if there.difference > 0 else turned_round).append(f"{own.first} > {own.second}")
        elif own.shown:
            here_alone.append(f"{own.first} > {own.second}")
        elif there.shown:
            there_alone.append(f"{ahead.first} > {ahead.second}")
    parts = [
        f"{what}: {', '.join(pairs)}." for what, pairs in zip(outcomes, found, strict=True) if pairs
    ]
    return [" ".join(parts) or none] if tested else []


def _tuned(
    tuning: Tuning | None, comparison: Comparison, estimates: Sequence[Estimate]
) -> list[str]:
    """Whether what is so of the variants as they are is so of each at the best of its settings."""
    if tuning is None:
        return []
    seeds, label = len(tuning.comparison.seeds), metric_of(comparison.metric).label
    several = [each for each in tuning.variants if len(each.settings) > 1]
    notes = [note for note in tuning.comparison.notes if note not in comparison.notes]
    chosen = [f"{each.variant} {_chosen(each, seeds)}" for each in several]
    told = [
        *(f"At the best settings: {note}" for note in notes),
        f"The best setting by validation: {'; '.join(chosen)}.",
    ]
    typical = {each.variant: each.typical for each in tuning.variants if each.typical is not None}
    names = [name for name in typical if name in comparison.variants]
    if len(names) > 1:
        here = _order(estimates, comparison, names)
        there = " > ".join(sorted(names, key=lambda name: -typical[name]))
        same = "as at its own settings" if here == there else f"at its own settings {here}"
        told.append(f"Each at the best of its settings, the order is {there}; {same}.")
    told += _both_ways(
        comparison,
        tuning.comparison,
        (
            "Shown at its own settings and at the best",
            "Shown at both, and turned round at the best settings",
            "Shown at its own settings and not at the best",
            "Shown at the best settings alone",
        ),
        "No difference is shown, at its own settings or at the best.",
    )
    gains = [
        f"{each.variant} {shown(each.gain, _digits(each.gain_interval), sign=True)}"
        + ("" if each.gain_interval is None else f" ({_range(each.gain_interval)})")
        for each in several
        if each.gain is not None
    ]
    if gains:
        told.append(f"From its own settings to the best {label} changes by: {'; '.join(gains)}.")
    return told


def _chosen(found: TunedVariant, seeds: int) -> str:
    """`its own`, where that is chosen for every seed; else `its own (8 of 10 seeds), b (2)`"""
    used = [name for name in found.settings if found.chosen[name]]
    first, *rest = sorted(used, key=lambda name: -found.chosen[name])
    names = {found.variant: "its own"}
    told = [names.get(first, first)]
    if rest:
        told = [f"{told[0]} ({found.chosen[first]} of {quantity(seeds, 'seed')})"]
    return ", ".join([*told, *(f"{names.get(name, name)} ({found.chosen[name]})" for name in rest)])


def _losses(found: ExternalSet, comparison: Comparison) -> list[str]:
    changes = [each for each in found.changes if len(each.variants) == 1]
    if not changes:
        return []
    parts = [
        f"{each.variants[0]} {_changed(each)}"
        for each in sorted(changes, key=lambda each: each.change)
    ]
    label = metric_of(comparison.metric).label
    return [f"From the study's own cases to {found.name} {label} changes by: {'; '.join(parts)}."]


def _changed(change: Change) -> str:
    """`-0.050 (-0.080 to -0.020)`"""
    text = shown(change.change, _digits(change.interval), sign=True)
    return text if change.interval is None else f"{text} ({_range(change.interval)})"


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
        number = shown(effect.difference, _digits(effect.interval), sign=True)
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
                f"the gap of {shown(power.gap)} between the paper's two best of these variants "
                f"takes {_seeds(power.seeds_for_gap)}"
            )
        if comparison.equivalence_margin is not None:
            takes.append(
                f"a difference of {comparison.equivalence_margin:g} takes "
                f"{_seeds(power.seeds_for_margin)}"
            )
    if power.detectable is not None:
        sentences.append(
            f"{quantity(seeds, 'seed')} show a difference of {shown(power.detectable)} in "
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
    return f"{shown(interval.low, digits)} to {shown(interval.high, digits)}"


def _digits(interval: Interval | None) -> int:
    """How many decimals a figure with that interval is told with."""
    return USUAL if interval is None else decimals([width(interval)])


def _difference(pair: Pair, *, sign: bool = False) -> str:
    return shown(pair.difference, _digits(pair.interval), sign=sign)
