"""study/arguments.py: what a number on the command line may be."""

from __future__ import annotations

import argparse

import pytest

from pipeline.study.arguments import count, not_negative, positive, share


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (count, "1", 1),
        (count, "12", 12),
        (share, "0.25", 0.25),
        (share, "1e-9", 1e-9),
        (positive, "0.5", 0.5),
        (positive, "999999", 999_999),
        (not_negative, "0", 0),
        (not_negative, "1e300", 1e300),
    ],
)
def test_a_number_within_the_bounds_is_taken(kind, text, value):
    assert kind(text) == value


@pytest.mark.parametrize(
    ("kind", "text", "expectation"),
    [
        *[(count, text, "a whole number of at least 1") for text in ("0", "-3", "1.5", "many", "")],
        *[(share, text, "greater than 0 and less than 1") for text in ("0", "1", "nan", "half")],
        *[
            (positive, text, "greater than 0 and less than 1000000")
            for text in ("0", "-1", "1e6", "inf", "nan", "x")
        ],
        *[
            (not_negative, text, "a finite number of at least 0")
            for text in ("-0.1", "inf", "nan", "x")
        ],
    ],
)
def test_any_other_text_is_told_with_what_was_expected(kind, text, expectation):
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        kind(text)
    assert str(caught.value) == f"must be {expectation}, got {text!r}"
