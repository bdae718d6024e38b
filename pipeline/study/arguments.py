"""What a number on the command line may be: types for argparse, which names the option itself."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import TypeVar

N = TypeVar("N", int, float)


def count(text: str) -> int:
    return _number(int, text, lambda value: value >= 1, "a whole number of at least 1")


def share(text: str) -> float:
    return _number(float, text, lambda value: 0 < value < 1, "greater than 0 and less than 1")


def positive(text: str) -> float:
    expectation = "greater than 0 and less than 1000000"
    return _number(float, text, lambda value: 0 < value < 1e6, expectation)


def not_negative(text: str) -> float:
    expectation = "a finite number of at least 0"
    return _number(float, text, lambda value: 0 <= value < math.inf, expectation)


def _number(kind: Callable[[str], N], text: str, fits: Callable[[N], bool], expectation: str) -> N:
    try:
        value = kind(text)
        if fits(value):
            return value
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"must be {expectation}, got {text!r}")
