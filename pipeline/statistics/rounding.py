"""How many decimals a figure is told with: as many as what it may vary by allows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median_low
from typing import Protocol

from pipeline.statistics.results import Interval

FEWEST, MOST = 2, 4
NOTHING = 1e-9  # a width below is one of a sum's last bits


def shown(value: float, digits: int = MOST, *, sign: bool = False) -> str:
    """`value` with that many decimals; with `sign` a + before what is above 0. Of what reads as 0
    neither sign is written."""
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    return text if float(text) else text.lstrip("+-")


class Measured(Protocol):
    """A mean over seeds, an Estimate or an AveragedEstimate."""

    @property
    def standard_deviation(self) -> float | None: ...
    @property
    def interval(self) -> Interval | None: ...


def decimals(widths: Iterable[float | None]) -> int:
    """Of all figures of a column, so that they compare: two significant digits of the smallest
    width, but FEWEST at least and MOST at most; MOST where no width is known.

    widths: of the figures' intervals or, where they have none, their standard deviations.
    """
    known = [width for width in widths if width is not None and width > NOTHING]
    if not known:
        return MOST
    exponent = int(f"{min(known):.1e}".partition("e")[2])  # of the width as two digits round it
    return min(max(1 - exponent, FEWEST), MOST)


def width(interval: Interval | None) -> float | None:
    return None if interval is None else interval.high - interval.low


def decimals_of(found: Sequence[Measured], *, spread: bool = False) -> int:
    """Of a metric's figures in one column. Of deviations the median decides: of two or three seeds
    one may be small by chance. With `spread` they stand beside the figures, and the median is shown
    with one digit at least."""
    deviations = [each.standard_deviation for each in found if each.standard_deviation is not None]
    typical = median_low(deviations) if deviations else None
    widths = [width(each.interval) for each in found]
    if not any(widths):
        return decimals([typical])
    if spread and typical is not None:
        widths.append(10 * typical)
    return decimals(widths)
