"""Scores of studies with known truth, for tests and simulations of the statistics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def simulate(
    rng: np.random.Generator,
    effects: Sequence[float],
    *,
    seeds: int,
    cases: int,
    correlation: float = 0.0,
    seed_deviation: float = 0.003,
    case_deviation: float = 0.1,
    fit_deviation: float = 0.03,
    rest_deviation: float = 0.05,
) -> NDArray[np.float64]:
    """Values (V, S, C) whose means are `effects`: score = effect + seed + case + fit + rest.

    correlation: of the seeds' effects between variants, each of seed_deviation. case_deviation: of
    a case's difficulty for all variants; fit_deviation: of how much it suits one variant.
    """
    variants = len(effects)
    shape = (variants, seeds, cases)
    common = rng.normal(0, seed_deviation, (1, seeds, 1)) * np.sqrt(correlation)
    own = rng.normal(0, seed_deviation, (variants, seeds, 1)) * np.sqrt(1 - correlation)
    values = np.asarray(effects, dtype=float)[:, None, None] + common + own
    values = values + rng.normal(0, case_deviation, (1, 1, cases))
    values = values + rng.normal(0, fit_deviation, (variants, 1, cases))
    return values + rng.normal(0, rest_deviation, shape)


def as_table(values: NDArray[np.float64], names: Sequence[str] | None = None) -> pd.DataFrame:
    """Values (V, S, C) as a long table; variants are a, b, ... unless named."""
    variant, seed, case = np.indices(values.shape).reshape(3, -1)
    labels = np.array(list(names or "abcdefghij"[: len(values)]))
    return pd.DataFrame(
        {
            "variant": labels[variant],
            "seed": seed,
            "case": [f"case-{number}" for number in case],
            "value": values.ravel(),
        }
    )
