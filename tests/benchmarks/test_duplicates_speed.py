"""The sieve's time against the number of cases, as a ratio."""

from __future__ import annotations

import time

import numpy as np
import pytest

from pipeline.data import duplicates


def alike(cases: int) -> np.ndarray:
    """Fingerprints (cases, 24 of HASHES set) that crowd: each hash is one of 2,000 kinds, each
    bit changed with a probability of 1/8, so two of a kind differ in 28 of 128 bits on average, the
    sieve's own bound; one case in 50 is a copy."""
    rng = np.random.default_rng(cases)
    kinds = rng.integers(1, 2**64, (2000, duplicates.WORDS), np.uint64)
    hashes = np.zeros((cases, duplicates.HASHES, duplicates.WORDS), np.uint64)
    chosen = kinds[rng.integers(0, len(kinds), (cases, 24))]
    first, second, third = rng.integers(0, 2**64, (3, *chosen.shape), np.uint64)
    hashes[:, :24] = chosen ^ (first & second & third)
    hashes[1::50] = hashes[::50]
    return hashes


def seconds(cases: int) -> float:
    fingerprints = alike(cases)
    start = time.perf_counter()
    duplicates.candidate_pairs(fingerprints)
    return time.perf_counter() - start


@pytest.mark.benchmark(group="sieve of near-duplicates, 40,000 cases of 24 features")
def test_four_times_the_cases_take_little_more_than_four_times_the_time(benchmark):
    small = min(seconds(10_000) for _ in range(2))
    ratio = benchmark.pedantic(seconds, args=(40_000,), rounds=1) / small
    benchmark.extra_info |= {"seconds_for_10000": small, "ratio": ratio, "better": "lower"}
    print(f"\nsieve: 4 times the cases take {ratio:.1f} times as long")
    assert ratio < 8  # about 5 on idle cores; comparing all with all would take 16 times as long
