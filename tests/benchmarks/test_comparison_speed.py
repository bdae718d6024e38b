"""The protocol's statistics against bootstraps written as loops."""

from __future__ import annotations

import time
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from pipeline.statistics.analysis import Protocol, compare

VARIANTS, SEEDS, CASES, DRAWS = 7, 10, 1000, 10_000
LOOPED = 100  # draws that the loops take; their time grows with the number


def scores() -> np.ndarray:
    """(V, S, C): variants, seeds and cases have effects of their own."""
    rng = np.random.default_rng(0)
    sizes = [(VARIANTS, 1, 1), (VARIANTS, SEEDS, 1), (1, 1, CASES), (VARIANTS, SEEDS, CASES)]
    effects = [
        scale * rng.standard_normal(size)
        for scale, size in zip((0.005, 0.005, 0.1, 0.05), sizes, strict=True)
    ]
    return np.clip(0.85 + sum(effects), 0, 1)


def loops(values: np.ndarray) -> None:
    """How often each ordering comes out, and each pair's difference, over seeds and cases."""
    rng = np.random.default_rng(0)
    orderings: dict[tuple[int, ...], int] = {}
    for _ in range(LOOPED):
        seeds, cases = rng.integers(0, SEEDS, SEEDS), rng.integers(0, CASES, CASES)
        order = tuple(np.argsort(-values[:, seeds][:, :, cases].mean(axis=(1, 2))))
        orderings[order] = orderings.get(order, 0) + 1
    for first, second in combinations(range(VARIANTS), 2):
        difference = values[first] - values[second]
        for _ in range(LOOPED):
            seeds, cases = rng.integers(0, SEEDS, SEEDS), rng.integers(0, CASES, CASES)
            difference[seeds][:, cases].mean()


@pytest.mark.benchmark(group="7 variants x 10 seeds x 1,000 cases, 10,000 draws")
def test_the_protocol_takes_less_than_the_loops_of_its_bootstraps_alone(benchmark):
    values = scores()
    index = pd.MultiIndex.from_product(
        [map(str, range(VARIANTS)), range(SEEDS), map(str, range(CASES))],
        names=["variant", "seed", "case"],
    )
    table = pd.DataFrame({"value": values.reshape(-1)}, index=index).reset_index()

    def protocol() -> float:
        start = time.process_time()
        compare(table, Protocol("dice", margin=0.005, baseline="0", draws=DRAWS))
        return time.process_time() - start

    own = benchmark.pedantic(protocol, rounds=1, warmup_rounds=1)
    start = time.process_time()
    loops(values)
    plain = (time.process_time() - start) * DRAWS / LOOPED
    benchmark.extra_info |= {"processor_seconds": own, "ratio": plain / own, "better": "higher"}
    print(f"\ncomparison: {own:.1f} s of processor time, loops take {plain / own:.1f} times that")
    assert plain / own > 2
