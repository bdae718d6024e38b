"""statistics/verdict.py: sentences that say what the figures allow."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.statistics import verdict as module
from pipeline.statistics.analysis import compare, estimate
from pipeline.statistics.paper import FACTORS, PAPER
from pipeline.statistics.results import Interval, Pair
from pipeline.statistics.verdict import describe_pair, find_pair, percent, verdict
from studies import as_table, simulate

REPORTED = [name for name, row in PAPER.items() if row.dice is not None]


def pair(difference, low, high, shown, p_value=0.03):
    return Pair(
        first="a", second="b", difference=difference, interval=Interval(low=low, high=high),
        p_value=None, exact_p_value=None, two_way_p_value=None, adjusted_p_value=p_value,
        shown=shown, equivalence_p_value=None, equivalent=None, superiority=0.75,
        superiority_interval=Interval(low=0.5, high=0.9),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (
            pair(0.004, -0.002, 0.01, False, 0.3),
            "a beats b by 0.0040 Dice, 95 % interval -0.0020 to 0.0100: not shown (p = 0.3000, "
            "adjusted).",
        ),
        (
            pair(-0.02, -0.03, -0.01, True, 0.00001),
            "a falls behind b by 0.0200 Dice, 95 % interval 0.0100 to 0.0300: shown (p < 0.0001, "
            "adjusted).",
        ),
        (
            pair(0.02, 0.01, 0.03, None),
            "a beats b by 0.0200 Dice, 95 % interval 0.0100 to 0.0300: descriptive only.",
        ),
        (
            pair(0, 0, 0, False, 1.0),
            "a and b have the same Dice to 4 decimals, 95 % interval 0.0000 to 0.0000: not shown "
            "(p = 1.0000, adjusted).",
        ),
    ],
)
def test_a_pair_in_words(found, sentence):
    assert describe_pair(found, "dice") == sentence


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (0.004, "under 1 %"), (0.034, "3 %"), (0.996, "over 99 %"), (1, "100 %")],
)
def test_a_share_is_never_rounded_to_none_or_all(share, text):
    assert percent(share) == text


def whole(effects, seeds=10):
    names = list(PAPER)
    rng = np.random.default_rng(1)
    values = simulate(rng, effects, seeds=seeds, cases=100, fit_deviation=0.003)
    paper = {name: PAPER[name].dice for name in REPORTED}
    found = compare(
        as_table(values, names), metric="dice", baseline="resunet", margin=0.005, paper=paper,
        factors=FACTORS, draws=1000,
    )  # fmt: skip
    estimates = [
        estimate(each, variant=name, metric="dice", paper=paper.get(name))
        for name, each in zip(names, values, strict=True)
    ]
    return found, verdict(found, estimates)


@pytest.mark.slow
def test_the_papers_ordering_is_confirmed_where_it_is_the_truth():
    _, sentences = whole([0.90, 0.87, 0.84, 0.80, 0.80, 0.80, 0.70])
    text = "\n".join(sentences)
    assert f"The paper's ordering ({' > '.join(REPORTED)}) came out in 100 % of" in text
    assert "Kendall's tau to it is 1.00" in text
    assert "limit_encoder_attention beats encoder_attention by 0.0" in text
    assert "not shown" not in sentences[2]
    assert (
        "Against the baseline resunet, shown to be better: limit_encoder_attention, "
        "encoder_attention, gated_attention" in text
    )
    assert "shown to be worse: unet; neither: " in text


def test_nothing_is_claimed_where_all_are_equal():
    _, sentences = whole([0.8] * 7)
    text = "\n".join(sentences)
    assert "100 %" not in text
    assert ": shown" not in text
    assert "Against the baseline resunet, shown to be better: none; shown to be worse: none" in text


def test_the_papers_figure_is_held_against_a_single_run():
    _, sentences = whole([0.5] * 7)
    text = "\n".join(sentences)
    assert "The paper's 0.8660 for limit_encoder_attention lies above where a single run" in text


def test_few_seeds_are_told_first():
    _, sentences = whole([0.8] * 7, seeds=3)
    assert sentences[0].startswith("Descriptive only: 3 seeds")
    assert "not shown" not in "\n".join(sentences)


def test_a_pair_is_found_from_either_side():
    found, _ = whole([0.8] * 7)
    one = find_pair(found, "resunet", "unet")
    other = find_pair(found, "unet", "resunet")
    assert (one.difference, one.interval.low) == (-other.difference, -other.interval.high)
    assert one.superiority == pytest.approx(1 - other.superiority)
    assert find_pair(found, "resunet", "nobody") is None


def test_a_minus_is_not_written_before_zero():
    assert module._number(-0.00001) == "0.0000"
