"""study/values.py: what an option may be; what params.yaml may hold is in test_params.py."""

from __future__ import annotations

import argparse

import pytest

from pipeline.study.values import (
    Count,
    Fraction,
    NotNegative,
    extent,
    option,
    percent,
    quantity,
    significant,
)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Count, "1", 1),
        (Count, "12", 12),
        (Fraction, "0.25", 0.25),
        (Fraction, "1e-9", 1e-9),
        (NotNegative, "0", 0),
        (NotNegative, "1e300", 1e300),
    ],
)
def test_an_option_within_the_bounds_is_taken(kind, text, value):
    read = option(kind)(text)
    assert read == value
    assert type(read) is (int if kind is Count else float)


@pytest.mark.parametrize(
    ("kind", "text", "expectation"),
    [
        *[(Count, text, "a whole number of at least 1") for text in ("0", "-3", "1.5", "many", "")],
        *[
            (Fraction, text, "a number greater than 0 and less than 1")
            for text in ("0", "1", "nan", "half")
        ],
        *[
            (NotNegative, text, "a finite number of at least 0")
            for text in ("-0.1", "inf", "nan", "x")
        ],
    ],
)
def test_any_other_text_is_told_with_what_was_expected(kind, text, expectation):
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        option(kind)(text)
    assert str(caught.value) == f"must be {expectation}, got {text!r}"


@pytest.mark.parametrize(
    ("number", "told"), [(0, "0 cases"), (1, "1 case"), (2, "2 cases"), (12000, "12,000 cases")]
)
def test_a_quantity_is_counted_in_words(number, told):
    assert quantity(number, "case") == told


def test_sizes_are_told_width_first_in_pixels_or_voxels():
    assert extent((32, 64)) == "64x32 pixels"
    assert extent((16, 32, 64)) == "64x32x16 voxels"


def test_small_and_large_figures_are_told_in_digits_and_not_by_exponent():
    assert [significant(value, 3) for value in (1187.6, 20.54, 0.6, 2e-5)] == [
        "1190", "20.5", "0.6", "0.00002"
    ]  # fmt: skip
    assert [percent(value) for value in (100.0, 12.34, 0.1, 0.0043, 0.0)] == [
        "100.0 %", "12.3 %", "0.1 %", "0.004 %", "0 %"
    ]  # fmt: skip
