"""What a value of params.yaml or of an option may be, and what is said of one that may not."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)


def expect(expectation: str) -> WrapValidator:
    """Say in words what a value must be, whatever of it is found wrong."""

    def check(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        try:
            return validate(value)
        except ValidationError:
            raise ValueError(f"must be {expectation}, got {shown(value)}") from None

    return WrapValidator(check)


def option(kind: Any) -> Callable[[str], Any]:
    """A type for argparse: the text of an option as a value of `kind`, such as Count."""
    adapter = TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False))

    def read(text: str) -> Any:
        try:
            return adapter.validate_python(text)
        except ValidationError as invalid:
            # argparse names the option itself.
            raise argparse.ArgumentTypeError(str(invalid.errors()[0]["ctx"]["error"])) from None

    return read


def shown(value: Any) -> str:
    """The value found, as params.yaml has it, cut to what fits a line."""
    if value is None:
        return "nothing"
    try:
        text = str(value).lower() if isinstance(value, bool) else repr(value)
    except ValueError:  # Python prints no number so long
        text = "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def quantity(number: int, noun: str) -> str:
    """`1 case`, `1,200 cases`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def significant(value: float, digits: int) -> str:
    """`value` with that many significant digits, without an exponent: `1190`, `0.0042`."""
    return format(Decimal(f"{value:.{digits}g}"), "f")


def percent(value: float) -> str:
    """`12.3 %` of 12.34; below 0.1 one significant digit: `0.004 %`."""
    return f"{f'{value:.1f}' if value >= 0.1 else significant(value, 1)} %"


def printable(name: str) -> str:
    """A file's name, or a text that has one, on one line: control characters and bytes that are no
    UTF-8 are escaped, as \\n and \\xe9."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text
    )


def shortened(text: str, longest: int = 20) -> str:
    """`text` with its middle left out where it is longer than `longest` characters."""
    half = (longest - 1) // 2
    return text if len(text) <= longest else f"{text[:half]}…{text[-half:]}"


def escape_markdown(text: str) -> str:
    """`text` such that Markdown shows it as it is, in a table too. An underscore within a word
    needs no escape and keeps its looks in the source."""
    text = re.sub(r"([\\`*\[\]<|~$&])", r"\\\1", text)
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
    return " ".join(text.split())


FORMULA = tuple("=+-@＝＋－＠")  # noqa: RUF001 - what OWASP names for CSV injection


def cell(text: str) -> str:
    """`text` as a cell that a spreadsheet shows and does not compute: with a `'` before it where it
    begins like a formula. So has what begins with `'` itself: no two texts become one."""
    return f"'{text}" if text.startswith(("'", *FORMULA)) else text


def unique(values: list[Any]) -> list[Any]:
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise ValueError(f"must name each once, got {', '.join(map(repr, twice))} more than once")
    return values


def size_of(depth: int | None, height: int, width: int) -> tuple[int, ...]:
    """Of what a network sees: height and width in pixels, of volumes depth before them."""
    return (height, width) if depth is None else (depth, height, width)


def extent(size: Sequence[int]) -> str:
    """A size (H, W) as `400x300 pixels`, (D, H, W) as `32x64x24 voxels`: width first."""
    return f"{'x'.join(map(str, size[::-1]))} {'pixels' if len(size) == 2 else 'voxels'}"


Count = Annotated[int, Field(ge=1), expect("a whole number of at least 1")]
Seed = Annotated[int, Field(ge=0, lt=2**32), expect("a whole number from 0 to 4294967295")]
Side = Annotated[  # five halvings; a network on more pixels fits no machine
    int, Field(ge=32, le=2**14, multiple_of=32), expect("a multiple of 32 from 32 to 16384")
]
Depth = Annotated[
    Annotated[int, Field(ge=1, le=2**14)] | None,
    expect("a whole number from 1 to 16384 of volumes, null of pictures"),
]
Fraction = Annotated[float, Field(gt=0, lt=1), expect("a number greater than 0 and less than 1")]
DrawnSide = Annotated[int, Field(ge=32, le=2**14), expect("a whole number from 32 to 16384")]
Share = Annotated[float, Field(ge=0, le=1), expect("a number from 0 to 1")]
Positive = Annotated[float, Field(gt=0), expect("a finite number greater than 0")]
NotNegative = Annotated[float, Field(ge=0), expect("a finite number of at least 0")]
PositiveOrNull = Annotated[
    Annotated[float, Field(gt=0)] | None, expect("a finite number greater than 0, or null")
]
Name = Annotated[  # names folders and DVC's stages
    str,
    Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]*$"),  # with a - before it would be an option
    expect("a name of letters, digits, - and _ that does not begin with -"),
]
Printed = Annotated[  # keeps the decimals that a number in YAML loses
    str,
    Field(pattern=r"^-?[0-9]{1,9}(\.[0-9]{1,9})?( ?%)?$"),
    expect('a figure in quotes, as printed, such as "0.8660" or "86.6 %"'),
]
Precision = Literal["auto", "float32", "bfloat16"]
OnProblem = Literal["stop", "skip"]  # a raw case that cannot be used ends the stage, or is left out
Resize = Literal["stretch", "center_crop", "pad"]
Resolution = Literal["network", "native"]
Loss = Literal["bce", "dice", "bce_dice", "focal"]
Select = Literal["last", "best_validation_dice"]
Averaging = Literal["flips", "seeds", "seeds_and_flips"]
Split = Literal["training", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
HEADLINES = ("dice", "iou", "focal_loss")  # the metrics that every overview begins with
METRIC_NAMES = (  # what a run is scored by: statistics/definitions.py says what each means
    "dice", "iou", "focal_loss", "sensitivity", "specificity", "thresholded_jaccard",
    "pooled_dice", "hausdorff_95", "surface_dice", "boundary_iou", "brier",
    "expected_calibration_error", "native_dice", "native_iou", "native_thresholded_jaccard",
    "native_hausdorff_95", "native_surface_dice",
)  # fmt: skip
