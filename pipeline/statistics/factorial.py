"""A crossed design of two-level factors within the variants: what each factor changes, and whether
two together change more than their sum."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import combinations
from math import prod

import numpy as np

from pipeline.statistics.crossed import Values
from pipeline.statistics.pairs import ALPHA, holm
from pipeline.statistics.results import Effect, without_inference
from pipeline.statistics.typical import Failed, contrasts, is_descriptive, typical_run
from pipeline.study.paper import levels

Cell = tuple[Collection[str], Values, Failed]


def effects(cells: Mapping[str, Cell], paired: bool) -> list[Effect]:
    """Main effects and two-factor interactions of typical runs.

    cells: variant -> the factors that it has, its values (S, C) of cases or groups of cases, and
    which of its runs failed (S,), S at least 2; crossed: each combination of the factors is one
    variant's (study/paper.py).
    A main effect is the mean with less the mean without, over all levels of the other factors; an
    interaction is what the first factor adds with the second less what it adds without, over all
    levels of the rest. Tests: each contrast by its error over seeds and cases, Holm over all.
    Without inference where runs are too few (typical.is_descriptive).
    """
    having = [cell[0] for cell in cells.values()]
    names = levels(having)
    told = [(name,) for name in names] + list(combinations(names, 2))
    weights = [
        [
            prod(1 if name in factors else -1 for name in effect) / 2 ** (len(names) - len(effect))
            for factors in having
        ]
        for effect in told
    ]
    runs = [typical_run(values, failed) for _, values, failed in cells.values()]
    found = contrasts(runs, weights, paired)
    adjusted = holm([contrast.p_value for contrast in found])
    effects_of = [
        Effect(
            factors=list(effect),
            difference=contrast.value,
            interval=contrast.interval(),
            p_value=contrast.p_value,
            adjusted_p_value=float(p_value),
            shown=bool(p_value < ALPHA),
        )
        for effect, contrast, p_value in zip(told, found, adjusted, strict=True)
    ]
    descriptive = is_descriptive(np.array([failed for _, _, failed in cells.values()]))
    return [without_inference(each) for each in effects_of] if descriptive else effects_of
