"""The 2 x 2 design within the variants: gates, encoder attention, and the two together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd
from statsmodels.formula.api import ols

from pipeline.statistics.crossed import Values, mean_interval, two_way_p
from pipeline.statistics.pairs import FEWEST_SEEDS, LEVEL, holm
from pipeline.statistics.results import Effect

SAME = 1e-12  # below it a difference of means is rounding
Name = Literal["gates", "encoder attention", "interaction"]
TERMS: dict[Name, str] = {
    "gates": "gates",
    "encoder attention": "attention",
    "interaction": "gates:attention",
}


def effects(cells: Mapping[tuple[bool, bool], Values], paired: bool) -> list[Effect]:
    """Main effects and interaction; cells: (gates, encoder attention) -> values (S, C), S >= 2.

    A main effect is the mean with less the mean without, over both levels of the other factor, so
    that each level has 2 S runs; the interaction is what gates add with encoder attention less what
    they add without. Tests: least squares on seed means, factors coded -1/2 and 1/2, seeds as
    blocks where they pair the variants, and as for pairs the two-way error, the larger p-value of
    both, each after Holm over the three. Below seven seeds nothing is shown.
    """
    signs = {cell: (cell[0] - 0.5, cell[1] - 0.5) for cell in cells}
    rows = [
        {"gates": signs[cell][0], "attention": signs[cell][1], "seed": seed, "value": mean}
        for cell, values in cells.items()
        for seed, mean in enumerate(values.mean(axis=1))
    ]
    seeds = len(next(iter(cells.values())))
    contrasts = {
        name: sum((_weight(name, *signs[cell]) * each for cell, each in cells.items()), np.zeros(1))
        for name in TERMS
    }
    p_values = _p_values(pd.DataFrame(rows), paired)
    if p_values is None:  # no noise to test against: what differs, differs
        p_values = {name: float(abs(each.mean()) < SAME) for name, each in contrasts.items()}
    two_way = [float(two_way_p(contrast)) for contrast in contrasts.values()]
    adjusted = np.maximum(holm(list(p_values.values())), holm(two_way))
    return [
        Effect(
            name=name,
            difference=float(contrast.mean()),
            interval=mean_interval(contrast),
            p_value=p_values[name],
            adjusted_p_value=float(adjusted[place]),
            shown=None if seeds < FEWEST_SEEDS else bool(adjusted[place] < LEVEL),
        )
        for place, (name, contrast) in enumerate(contrasts.items())
    ]


def _weight(name: Name, gates: float, attention: float) -> float:
    """A cell's weight in the contrast; gates and attention are -1/2 or 1/2."""
    return {"gates": gates, "encoder attention": attention, "interaction": 4 * gates * attention}[
        name
    ]


def _p_values(table: pd.DataFrame, paired: bool) -> dict[Name, float] | None:
    """None where the runs of a cell do not differ at all: there is no noise to test against."""
    model = ols("value ~ gates * attention" + (" + C(seed)" if paired else ""), table).fit()
    if model.mse_resid < 1e-24:
        return None
    return {name: float(model.pvalues[term]) for name, term in TERMS.items()}
