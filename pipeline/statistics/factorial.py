"""The 2 x 2 design within the variants: gates, encoder attention, and the two together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from pipeline.statistics.crossed import Values
from pipeline.statistics.pairs import ALPHA, holm, is_descriptive
from pipeline.statistics.results import Effect
from pipeline.statistics.typical import Failed, contrasts, typical_run

Name = Literal["gates", "encoder attention", "interaction"]
NAMES: tuple[Name, ...] = ("gates", "encoder attention", "interaction")


def effects(cells: Mapping[tuple[bool, bool], tuple[Values, Failed]], paired: bool) -> list[Effect]:
    """Main effects and interaction of typical runs; cells: (gates, encoder attention) -> values
    (S, C) and which runs failed (S,), S at least 2.

    A main effect is the mean with less the mean without, over both levels of the other factor; the
    interaction is what gates add with encoder attention less what they add without. Tests: each
    contrast by its error over seeds and cases, Holm over the three. With too few runs nothing is
    shown (pairs.is_descriptive).
    """
    weights = []
    for name in NAMES:
        row = []
        for gates, attention in cells:
            signs = {"gates": 2 * gates - 1, "encoder attention": 2 * attention - 1}
            interaction = signs["gates"] * signs["encoder attention"]
            row.append(signs.get(name, 2 * interaction) / 2)
        weights.append(row)
    runs = [typical_run(values, failed) for values, failed in cells.values()]
    found = contrasts(runs, weights, paired)
    adjusted = holm([contrast.p_value for contrast in found])
    descriptive = is_descriptive(np.array([failed for _, failed in cells.values()]))
    return [
        Effect(
            name=name,
            difference=contrast.value,
            interval=contrast.interval(),
            p_value=contrast.p_value,
            adjusted_p_value=float(adjusted[place]),
            shown=None if descriptive else bool(adjusted[place] < ALPHA),
        )
        for place, (name, contrast) in enumerate(zip(NAMES, found, strict=True))
    ]
