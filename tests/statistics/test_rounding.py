"""statistics/rounding.py: decimals counted by hand."""

from __future__ import annotations

import pytest

from pipeline.statistics.results import Estimate, Interval
from pipeline.statistics.rounding import decimals, decimals_of, shown


@pytest.mark.parametrize(
    ("widths", "expected"),
    [
        ([0.23], 2),  # 0.72 to 0.95
        ([0.1], 2),
        ([0.95 - 0.85], 2),  # a bit below 0.1
        ([0.0996], 2),  # two digits round it to 0.10
        ([0.094], 3),
        ([0.012], 3),
        ([0.0031], 4),
        ([0.00004], 4),
        ([12.5], 2),
        ([0.23, None, 0.012], 3),  # the narrowest decides for the column
        ([0.23, 1e-17], 2),  # a sum's last bits are no width
        ([None, 0.0], 4),
        ([], 4),
    ],
)
def test_the_narrowest_width_has_two_digits_within_two_to_four_decimals(widths, expected):
    assert decimals(widths) == expected


def estimate(deviation, half):
    return Estimate(
        variant="a", metric="dice", mean=0.8512, standard_deviation=deviation, typical=0.85,
        interval=None if half is None else Interval(low=0.85 - half, high=0.85 + half), seeds=3,
        cases=9,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("deviation", "half", "alone", "beside"),
    [
        (0.08, None, 3, 3),  # 0.851 ± 0.080
        (0.0031, None, 4, 4),
        (None, None, 4, 4),
        (0.08, 0.115, 2, 2),  # 0.85 ± 0.08
        (0.003, 0.115, 2, 3),  # 0.851 ± 0.003: not ± 0.00
        (0.0, 0.115, 2, 2),
        (0.08, 0.006, 3, 3),
    ],
)
def test_the_interval_decides_then_the_deviation_which_is_never_shown_as_none(
    deviation, half, alone, beside
):
    found = [estimate(deviation, half)]
    assert (decimals_of(found), decimals_of(found, spread=True)) == (alone, beside)


def test_one_deviation_that_is_small_by_chance_decides_nothing():
    found = [estimate(deviation, None) for deviation in (0.0005, 0.038, 0.02, None)]
    assert decimals_of(found) == 3  # 0.038


@pytest.mark.parametrize(
    ("value", "sign", "text"),
    [(-0.00001, False, "0.0000"), (0.00001, True, "0.0000"), (0.25, True, "+0.2500"),
     (0.25, False, "0.2500"), (-0.25, False, "-0.2500"), (-0.25, True, "-0.2500")],
)  # fmt: skip
def test_no_sign_is_written_before_zero(value, sign, text):
    assert shown(value, sign=sign) == text
