"""statistics/verdict.py: sentences that say what the figures allow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from papers import FACTORS, PAPER, printing
from results_by_hand import results

from pipeline.statistics import verdict as module
from pipeline.statistics.analysis import Protocol, compare, estimate
from pipeline.statistics.failures import FEWEST_RUNS, rate_interval
from pipeline.statistics.results import (
    Comparison,
    Effect,
    Estimate,
    FailureRate,
    Interval,
    Ordering,
    Pair,
    Power,
)
from pipeline.statistics.verdict import (
    answer,
    counted,
    describe_pair,
    find_pair,
    percent,
    question,
    verdict,
)
from pipeline.study.paper import Paper
from studies import as_table, simulate

REPORTED = list(PAPER.figures("dice"))
BARE = results({"a": [0.8], "b": [0.7]}).comparison  # of two variants, with nothing in it


def pair(difference, low, high, shown, p_value=0.03):
    return Pair(
        first="a", second="b", difference=difference, interval=Interval(low=low, high=high),
        p_value=None, adjusted_p_value=p_value, shown=shown, equivalence_p_value=None,
        equivalent=None, superiority=0.75,
        superiority_interval=Interval(low=0.5, high=0.9),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (
            pair(0.004, -0.002, 0.01, False, 0.3),
            "A typical run of a is higher than one of b by 0.004 Dice, 95 % interval -0.002 to "
            "0.010: not shown (p = 0.3000, adjusted).",
        ),
        (
            pair(-0.02, -0.03, -0.01, True, 0.00001),
            "A typical run of b is higher than one of a by 0.020 Dice, 95 % interval 0.010 to "
            "0.030: shown (p < 0.0001, adjusted).",
        ),
        (
            pair(0.02, 0.01, 0.03, None),
            "A typical run of a is higher than one of b by 0.020 Dice, 95 % interval 0.010 to "
            "0.030: descriptive only.",
        ),
        (
            pair(0, 0, 0, False, 1.0),
            "Typical runs of a and b have the same Dice to 4 decimals, 95 % interval 0.0000 to "
            "0.0000: not shown (p = 1.0000, adjusted).",
        ),
    ],
)
def test_a_pair_in_words(found, sentence):
    assert describe_pair(found, BARE) == sentence


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (0.004, "under 1 %"), (0.034, "3 %"), (0.996, "over 99 %"), (1, "100 %")],
)
def test_a_share_is_never_rounded_to_none_or_all(share, text):
    assert percent(share) == text


def whole(effects, seeds=10):
    names = list(PAPER.rows)
    rng = np.random.default_rng(1)
    values = simulate(rng, effects, seeds=seeds, cases=100, fit_deviation=0.003)
    asked = Protocol(
        "dice", margin=0.005, baseline="resunet", printed=PAPER.values("dice"),
        claims=PAPER.orderings(), factors=FACTORS, draws=1000,
    )  # fmt: skip
    found = compare(as_table(values, names), asked)
    estimates = [
        estimate(each, np.zeros(seeds, dtype=bool), variant=name, metric="dice", paper=PAPER)
        for name, each in zip(names, values, strict=True)
    ]
    return found, [answer(found, estimates, []), *verdict(found, estimates, [], PAPER)]


@pytest.mark.slow
def test_the_papers_ordering_is_confirmed_where_it_is_the_truth():
    # Four figures in the paper's order, and what it claims of its baselines.
    _, sentences = whole([0.90, 0.87, 0.84, 0.80, 0.75, 0.70, 0.65])
    text = "\n".join(sentences)
    assert sentences[0] == "The paper's ordering holds: all six of its claims are shown."
    assert f"The paper's ordering ({' > '.join(REPORTED)}) came out in 100 % of" in text
    assert "Kendall's tau to it is 1.00" in text
    assert "Of the paper's claims shown: limit_encoder_attention > encoder_attention, +0.0" in text
    assert "Open:" not in text
    assert (
        "Against the baseline resunet, shown to be better: limit_encoder_attention, "
        "encoder_attention, gated_attention, encoder_and_gated_attention; shown to be worse: "
        "attention_unet, unet; neither: none." in text
    )


@pytest.mark.slow
def test_nothing_is_claimed_where_all_are_equal():
    _, sentences = whole([0.8] * 7)
    text = "\n".join(sentences)
    assert sentences[0] == ("The paper's ordering is not shown: of its six claims six are open.")
    assert "100 %" not in text
    assert "claims shown" not in text
    assert "Against the baseline resunet, shown to be better: none; shown to be worse: none" in text


def test_the_papers_figure_is_held_against_a_single_run():
    _, sentences = whole([0.5] * 7)
    text = "\n".join(sentences)
    assert "The paper's 0.8660 for limit_encoder_attention lies above where a run that does" in text


def test_of_few_seeds_the_verdict_is_three_lines_and_says_what_is_needed():
    _, sentences = whole([0.9, *[0.8] * 6], seeds=3)
    first, so_far, needed = sentences
    assert first == "Three seeds: no conclusion can be drawn yet; at least seven are needed."
    assert so_far.startswith("So far limit_encoder_attention is highest (Dice 0.")
    assert needed.startswith("By the spread of these runs, to show a difference of 0.005 takes ")
    text = " ".join(sentences)
    assert not any(word in text for word in ("interval", "p =", "p <", "paper", "shown to"))


def test_a_pair_is_found_from_either_side():
    found, _ = whole([0.8] * 7)
    one = find_pair(found, "resunet", "unet")
    other = find_pair(found, "unet", "resunet")
    assert (one.difference, one.interval.low) == (-other.difference, -other.interval.high)
    assert one.superiority == pytest.approx(1 - other.superiority)
    assert find_pair(found, "resunet", "nobody") is None


def said(
    estimates: list[Estimate] | None = None, paper: Paper | None = None, **changes: Any
) -> list[str]:
    """The verdict on a comparison of two variants with nothing in it but `changes`."""
    bare = results({"a": [0.8], "b": [0.7]}).comparison
    return verdict(Comparison.model_validate({**dict(bare), **changes}), estimates or [], [], paper)


def ordering(**changes: Any) -> Ordering:
    record = {
        "draws": 10_000, "observed": ["a", "b", "c", "d"], "shares": [], "distinct": 3,
        "best": {"a": 0.25, "b": 0.7, "c": 0.05, "d": 0.0}, "paper": ["c", "a"],
        "paper_share": 0.034, "kendall_tau": -0.5,
        "kendall_tau_interval": Interval(low=-1, high=0.333),
    }  # fmt: skip
    return Ordering.model_validate(record | changes)


def between(first: str, second: str, difference: float, **changes: Any) -> Pair:
    return pair(difference, difference - 0.01, difference + 0.01, False, 0.2).model_copy(
        update={"first": first, "second": second} | changes
    )


def test_nothing_compared_says_nothing_but_the_notes():
    assert said() == []
    # The last of them says why, and is the answer.
    assert said(notes=["First this.", "Then that."]) == ["First this."]


def test_an_ordering_in_words():
    assert said(ordering=ordering()) == [
        "The paper's ordering (c > a) came out in 3 % of 10,000 draws of seeds and cases; "
        "Kendall's tau to it is -0.50 (95 % of draws: -1.00 to 0.33)."
    ]
    assert "tau to it is 0.00 (95 %" in said(ordering=ordering(kendall_tau=0.0))[0]
    # Which variant is first in most draws tests nothing: the figure alone has it.
    bare = {"paper": [], "paper_share": None, "kendall_tau": None, "kendall_tau_interval": None}
    assert said(ordering=ordering(**bare)) == []


def test_of_few_variants_every_pair_is_told_and_of_more_the_neighbours_or_the_baselines():
    pairs = [between("a", "b", 0.02), between("a", "c", 0.01), between("b", "c", -0.01)]
    equal = {"equivalence_margin": 0.005, "baseline": None}
    first, second, third = said(variants=["a", "b", "c"], pairs=pairs, **equal)
    assert first == (
        "A typical run of a is higher than one of b by 0.020 Dice, 95 % interval 0.010 to "
        "0.030: not shown (p = 0.2000, adjusted)."
    )
    assert second.startswith("A typical run of a is higher than one of c by 0.010 Dice")
    assert third.startswith(
        "A typical run of c is higher than one of b by 0.010 Dice, 95 % interval 0.000 to 0.020:"
    )
    four = {"variants": ["a", "b", "c", "d"], "pairs": pairs, **equal}
    bare = {"paper": [], "paper_share": None, "observed": ["a", "c", "b", "d"]}
    assert [sentence.split(" by ")[0] for sentence in said(ordering=ordering(**bare), **four)] == [
        "A typical run of a is higher than one of c",
        "A typical run of c is higher than one of b",
    ]
    # Without an ordering the neighbours are those of params.yaml: a and b, b and c, no c and d.
    assert [sentence.split(" by ")[0] for sentence in said(**four)] == [
        "A typical run of a is higher than one of b",
        "A typical run of c is higher than one of b",
    ]
    assert said(**four | {"baseline": "a"}) == [
        "Against the baseline a, shown to be better: none; shown to be worse: none; neither: b, c."
    ]


def test_the_baseline_in_words():
    pairs = [
        between("a", "b", 0.02, shown=True),
        between("b", "c", 0.03, shown=True),
        between("b", "d", -0.01, shown=False),
        between("e", "b", 0.04, shown=None),
    ]
    *_, sentence = said(variants=["a", "b", "c", "d", "e", "f"], pairs=pairs, baseline="b")
    assert sentence == (
        "Against the baseline b, shown to be better: a; shown to be worse: c; neither: d, e."
    )
    nothing = [between("a", "b", 0.02, shown=None)]
    assert "baseline" not in " ".join(said(pairs=nothing, baseline="b"))


def test_the_designs_effects_in_words():
    def effect(factors: str, difference: float, shown: bool | None) -> Effect:
        return Effect(
            factors=factors.split("+"), difference=difference,
            interval=Interval(low=-0.001, high=0.0042), p_value=0.01,
            adjusted_p_value=0.0312, shown=shown,
        )  # fmt: skip

    told = said(
        factorial=[
            effect("gates", 0.0016, True),
            effect("encoder attention", -0.002, False),
            effect("gates+encoder attention", 0.0, None).model_copy(update={"interval": None}),
        ]
    )
    assert told == [
        "The factor gates changes Dice by +0.0016, 95 % interval -0.0010 to 0.0042: shown "
        "(p = 0.0312, adjusted).",
        "The factor encoder attention changes Dice by -0.0020, 95 % interval -0.0010 to 0.0042: "
        "not shown (p = 0.0312, adjusted).",
        "gates and encoder attention together change Dice by 0.000 more than their sum: "
        "descriptive only.",
    ]


def test_claims_are_told_by_what_became_of_them_and_which_of_them_few_cases_decide():
    likely = {"false": 0.31, "deciding_cases": 12}
    pairs = [
        between("a", "b", 0.02, shown=True, adjusted_p_value=0.001, false=0.001),
        between("c", "a", -0.02, **likely),
        between("b", "c", -0.03, shown=True, deciding_cases=51),
    ]
    told = said(
        variants=["a", "b", "c", "d"], pairs=pairs, cases=1000,
        claims=[("a", "b"), ("a", "c"), ("b", "c"), ("b", "d")],
    )  # fmt: skip
    assert told == [
        "Of the paper's claims shown: a > b, +0.020 Dice (0.010 to 0.030, p = 0.0010), false "
        "with a probability of under 1 %.",
        "The contrary is shown of: b > c, -0.030 Dice (-0.040 to -0.020, p = 0.2000).",
        # From the other side: what is unlikely of c > a is likely of a > c.
        "Open: a > c, +0.020 Dice (0.010 to 0.030, p = 0.2000), false with a probability of 69 %.",
        "Not tested yet: b > d.",
        "Without a few of the 1,000 cases the order of the two turns round: a > c (12).",
    ]


def outcome(*pairs: Pair, **changes: Any) -> str:
    variants = list(dict.fromkeys(name for each in pairs for name in (each.first, each.second)))
    bare = {**dict(BARE), "seeds": list(range(10)), "variants": variants, "pairs": list(pairs)}
    return answer(Comparison.model_validate(bare | changes), [], [])


def test_the_answer_to_whether_the_papers_claims_hold():
    ab, bc = between("a", "b", 0.02, shown=True), between("b", "c", 0.01, shown=False)
    cb = between("b", "c", -0.03, shown=True)
    ac = between("a", "c", 0.03, shown=True)
    both = {"claims": [("a", "b"), ("b", "c")]}
    assert outcome(ab, between("b", "c", 0.01, shown=True), ac, **both) == (
        "The paper's ordering holds: both of its claims are shown."
    )
    assert outcome(ab, bc, ac, **both) == (
        "The paper's ordering is not shown: of its two claims one is shown and one is open."
    )
    assert outcome(ab, cb, ac, **both) == (
        "The paper's ordering does not hold: c is higher than b, by 0.030 Dice; of its two "
        "claims one is shown and one is turned round."
    )
    one = {"claims": [("b", "c")]}
    assert outcome(ab, bc, ac, **one) == (
        "The paper's claim is not shown: whether b is higher than c stays open."
    )
    assert outcome(ab, cb, ac, **one) == (
        "The paper's claim does not hold: c is higher than b, by 0.030 Dice."
    )
    assert outcome(ab, cb, ac, claims=[("a", "b")]) == (
        "The paper's claim holds: a is higher than b, by 0.020 Dice."
    )


def test_the_answer_to_which_variant_is_best():
    ab, ac = between("a", "b", 0.02, shown=True), between("a", "c", 0.03, shown=True)
    bc = between("b", "c", 0.01, shown=True)
    assert outcome(ab) == "a is higher than b, by 0.020 Dice."
    assert outcome(ab, better="lower") == ("a is lower than b, by 0.020 Dice (lower is better).")
    assert outcome(ab, ac, bc) == "a is higher than every other variant, by 0.020 Dice or more."
    unknown = [between("a", "b", 0.02), between("a", "c", 0.03), between("b", "c", 0.01)]
    assert outcome(unknown[0]) == "No difference is shown between a and b."
    assert outcome(*unknown) == (
        "No variant can be called best: a is highest, and none of the others is shown to be worse."
    )
    assert outcome(unknown[0], ac, bc) == (
        "a is highest, but not shown to be higher than b; it is higher than c."
    )
    equal = [each.model_copy(update={"equivalent": True}) for each in unknown]
    assert outcome(*equal) == "The variants are equal within 0.005 Dice."


def test_the_answer_names_what_was_not_compared_and_never_holds_a_claim_for_tested_that_was_not():
    ab = between("a", "b", 0.02, shown=True)
    left_out = {"variants": ["c", "a", "b"]}
    assert outcome(ab, **left_out) == "a is higher than b, by 0.020 Dice; c is not compared yet."
    claims = [("a", "b"), ("b", "c")]
    assert outcome(ab, claims=claims, **left_out) == (
        "The paper's ordering is not shown: of its two claims one is shown and one is not tested "
        "yet."
    )
    assert outcome(ab, claims=[("b", "c")], **left_out) == (
        "The paper's claim is not shown: whether b is higher than c was not tested yet."
    )
    several = [between("a", name, 0.02, shown=True) for name in "bde"]
    names = {"variants": ["a", "b", "c", "d", "e"]}
    assert outcome(*several, **names) == (
        "a is higher than all that it was compared with, by 0.020 Dice or more; c is not compared "
        "yet."
    )


def test_the_answer_counts_the_runs_that_were_set_aside():
    ab = between("a", "b", 0.02, shown=True)
    bare = {**dict(BARE), "seeds": list(range(10)), "pairs": [ab]}
    told = answer(Comparison.model_validate(bare), [], [failures("a", 10, 3), failures("b", 10)])
    assert told == "a is higher than b, by 0.020 Dice; 1 of 20 runs failed and is set aside."


def test_one_run_each_answers_no_question_of_the_paper_and_equal_ones_are_told():
    same = between("a", "b", 0.0, false_over_cases=0.5)
    same = same.model_copy(update={"difference": 0.0})
    assert outcome(same, seeds=[0]).startswith("One run of each variant: a and b are highest on ")
    assert outcome(same, seeds=[0], claims=[("a", "b")]) == (
        "One run of each variant: whether the paper's ordering holds cannot be said, for another "
        "seed may turn it round; on these cases a and b are highest."
    )
    told = said(pairs=[between("a", "b", 0.02, false_over_cases=0.03)], claims=[("a", "b")])
    assert told[0] == (
        "Over these cases alone, with no seed in it, the paper's claims are false with a "
        "probability of: a > b 3 %."
    )


def test_of_a_metric_of_which_less_is_better_a_claims_difference_is_below_zero():
    pairs = [between("a", "b", 0.02, shown=True)]  # a has 0.02 less
    told = said(pairs=pairs, claims=[("a", "b")], better="lower")
    assert told[0].startswith("Of the paper's claims shown: a > b, -0.020 Dice (-0.030 to -0.010,")
    assert outcome(*pairs, better="lower", claims=[("a", "b")]) == (
        "The paper's claim holds: a is lower than b, by 0.020 Dice (lower is better)."
    )


def test_the_answer_where_nothing_can_be_concluded():
    unclear = between("a", "b", 0.02, shown=None)
    assert outcome(unclear, seeds=[0, 1], descriptive=True) == (
        "Two seeds: no conclusion can be drawn yet; at least seven are needed."
    )
    several = {**dict(BARE), "seeds": list(range(10)), "pairs": [unclear], "descriptive": True}
    assert answer(
        Comparison.model_validate(several), [], [failures("a", 10, 1, 2, 3, 4, 5, 6, 7)]
    ) == (
        "Too many runs failed (a 7 of 10): no conclusion can be drawn yet; at least four runs of "
        "each variant that do not fail are needed."
    )
    common = Comparison.model_validate(several | {"seeds": [3]})
    assert answer(common, [], []).startswith("Too few seeds in common: no conclusion")
    alone = unclear.model_copy(update={"false_over_cases": 0.1})
    assert outcome(alone, seeds=[0]) == (
        "One run of each variant: a is highest on these cases, but what another seed would give is "
        "not known."
    )
    assert answer(BARE.model_copy(update={"notes": ["Nothing."]}), [], []) == "Nothing."
    estimate = Estimate(
        variant="a", metric="dice", mean=0.8, standard_deviation=0.01, typical=0.8123,
        interval=Interval(low=0.79, high=0.83), seeds=8, cases=9,
    )  # fmt: skip
    assert answer(BARE, [estimate], []) == (
        "A typical run of a has Dice 0.812, 95 % interval 0.790 to 0.830; there is no other "
        "variant to compare it with."
    )


def test_the_question_follows_what_there_is():
    assert question(BARE) == "Which variant is best?"
    claimed = BARE.model_copy(update={"claims": [("a", "b")]})
    assert question(claimed) == "Does the paper's ordering hold?"
    assert question(BARE.model_copy(update={"variants": ["a"]})) == "How good is it?"


@pytest.mark.parametrize(
    ("number", "text"), [(1, "one seed"), (2, "two seeds"), (11, "11 seeds"), (1200, "1,200 seeds")]
)
def test_small_numbers_are_words(number, text):
    assert counted(number, "seed") == text


def test_equivalence_in_words():
    equal, apart = between("a", "b", 0, equivalent=True), between("a", "c", 0, equivalent=False)
    settings = {"variants": ["a", "b", "c"], "equivalence_margin": 0.005}
    *_, sentence = said(pairs=[equal, apart, between("c", "b", 0, equivalent=True)], **settings)
    assert sentence == "Typical runs shown to be equal within 0.005: a and b; c and b."
    *_, sentence = said(pairs=[apart], **settings)
    assert sentence == "No two variants' typical runs are shown to be equal within 0.005."
    assert "equal within" not in " ".join(said(pairs=[between("a", "b", 0)], **settings))


PRINTED = {"a": 830, "b": 780, "c": 770, "d": 820, "g": 500, "h": 821, "i": 820}


def test_the_papers_figures_in_words():
    def figure(variant: str, paper: float | None, **changes: Any) -> Estimate:
        return Estimate(
            variant=variant, metric="dice", mean=0.8, standard_deviation=0.01, typical=0.8,
            interval=None, seeds=5, cases=9, paper=paper, paper_rounding=0.0005,
            paper_interval=Interval(low=0.78, high=0.82),
        ).model_copy(update=changes)  # fmt: skip

    told = said(
        [
            figure("a", 0.83),
            figure("b", 0.78),
            figure("c", 0.77),
            figure("d", 0.82),
            figure("e", None),
            figure("f", 0.5, metric="iou"),
            figure("g", 0.5, paper_interval=None),
            figure("h", 0.8206),
            figure("i", 0.8204),  # what it was rounded from may lie inside
        ],
        printing(**{name: f"0.{figure}" for name, figure in PRINTED.items()}),
    )
    where = "where a run that does not fail is expected here, 0.780 to 0.820."
    assert told == [
        f"The paper's 0.830 for a lies above {where}",
        f"The paper's 0.770 for c lies below {where}",
        f"The paper's 0.821 for h lies above {where}",
        "The paper's figure is one that a run that does not fail may give here for: b, d, i.",
    ]


def test_power_in_words():
    def power(**changes: Any) -> Power:
        record = {
            "power": 0.8, "standard_deviation": 0.0036, "detectable": 0.0072, "gap": 0.0045,
            "seeds_for_gap": None, "seeds_for_margin": 14, "failure_rate": 0.1,
            "seeds_for_failure_rate": 36,
        }  # fmt: skip
        return Power.model_validate(record | changes)

    ten, takes = list(range(10)), "To be shown, with as many test cases: "
    rate = "a failure rate under 10 % takes 36 seeds of which none of the variant's fails."
    assert said(seeds=ten, power=power()) == [
        "10 seeds show a difference of 0.0072 in 80 % of studies.",
        f"{takes}the gap of 0.0045 between the paper's two best of these variants takes more "
        f"cases, or over 1,000 seeds; a difference of 0.005 takes 14 seeds; {rate}",
    ]
    assert said(seeds=ten, power=power(detectable=None, standard_deviation=0.0)) == [
        f"{takes}{rate}"
    ]


def failures(name: str, runs: int, *failed: int, low: float = 0.6):
    known = runs >= FEWEST_RUNS
    return FailureRate(
        variant=name, runs=runs, failed=list(failed), rate=len(failed) / runs if known else None,
        interval=rate_interval(len(failed), runs) if known else None, upper_quartile=0.85,
        drop=0.03, mean_interval=Interval(low=low, high=0.86) if known else None,
    )  # fmt: skip


def asked(*given: FailureRate) -> list[str]:
    return verdict(results({"a": [0.8], "b": [0.7]}).comparison, [], given)


def test_failed_runs_are_named_with_the_interval_of_their_rate():
    first, *_ = asked(failures("a", 10, 3), failures("b", 7, 0, 6), failures("c", 10))
    assert first == (
        "Failed runs: a 1 of 10 (seed 3; 95 % interval of the rate 0 to 45 %); b 2 of 7 (seeds 0, "
        "6; 95 % interval of the rate 3 to 71 %); of the other variants none, which leaves 0 to "
        "31 %. All else is about runs that did not fail."
    )
    alone, *_ = asked(failures("a", 10, 3))
    assert alone.endswith("0 to 45 %). All else is about runs that did not fail.")


def test_where_no_run_failed_the_rate_that_is_left_is_told():
    assert asked(failures("a", 10), failures("b", 7)) == [
        "No run failed; of 7 runs of a variant that leaves a failure rate of 0 to 41 % (95 % "
        "interval)."
    ]


def test_of_fewer_than_five_runs_nothing_is_said_of_failures():
    assert asked(failures("a", 4), failures("b", 2)) == []
    assert asked(failures("a", 1)) == []
    assert asked() == []


@pytest.mark.parametrize(
    ("p_value", "text"), [(0.00009, "p < 0.0001"), (0.0001, "p = 0.0001"), (0.5, "p = 0.5000")]
)
def test_a_p_value_in_words(p_value, text):
    assert module.p_text(p_value) == text
    assert describe_pair(pair(0.02, 0.01, 0.03, True, None), BARE).endswith("0.030: shown.")


def test_a_pair_without_intervals_is_turned_too():
    bare = pair(0.02, 0, 0, True).model_copy(
        update={"interval": None, "superiority": None, "superiority_interval": None}
    )
    other = module.turned(bare)
    assert (other.first, other.second, other.difference) == ("b", "a", -0.02)
    assert (other.interval, other.superiority, other.superiority_interval) == (None, None, None)
    assert module.turned(other) == bare
    whole = module.turned(pair(0.02, -0.01, 0.05, True))
    assert (whole.interval.low, whole.interval.high) == (-0.05, 0.01)
    assert whole.superiority == 0.25
    bounds = whole.superiority_interval
    assert (bounds.low, bounds.high) == (pytest.approx(0.1), 0.5)
    assert describe_pair(bare, BARE.model_copy(update={"metric": "iou"})).startswith(
        "A typical run of a is higher than one of b by 0.020 IoU: shown (p = 0.0300"
    )


def test_a_rounded_difference_of_none_is_told_as_the_same():
    assert describe_pair(pair(0.0004, -0.01, 0.01, False), BARE).startswith(
        "Typical runs of a and b have the"
    )
    assert describe_pair(pair(0.0006, -0.01, 0.01, False), BARE).startswith(
        "A typical run of a is higher than one of b by 0.001"
    )
    assert describe_pair(pair(-0.0004, -0.02, 0.01, False), BARE).startswith(
        "Typical runs of b and a have the same Dice to 3 decimals, 95 % interval -0.010 to 0.020"
    )


@pytest.mark.parametrize(
    ("share", "text"), [(0.01, "1 %"), (0.99, "99 %"), (0.0099, "under 1 %"), (0.9901, "over 99 %")]
)
def test_a_hundredth_is_told_as_one_percent(share, text):
    assert percent(share) == text
