"""Results of a study that never ran: random numbers in the form of reports/results.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from papers import PAPER

from pipeline.statistics.definitions import SHARE
from pipeline.statistics.failures import failure_rates, mean_with_failures
from pipeline.statistics.results import (
    SCHEMA_VERSION,
    Bin,
    Calibration,
    Cases,
    Comparison,
    Cost,
    Estimate,
    FailureRate,
    Interval,
    Ordering,
    OrderingShare,
    Pair,
    Ranks,
    Results,
    RunResult,
    StudyRecord,
    ThresholdSweep,
    Variance,
    without_inference,
)
from pipeline.statistics.typical import typical_interval, typical_mean

SEVEN = tuple(PAPER.rows)
DROP = 0.03


def make_results(
    variants: Sequence[str] = SEVEN,
    *,
    seeds: int = 10,
    ids: Sequence[str] = ("a", "b", "c", "d", "e", "f"),
    failed: Mapping[str, Sequence[int]] | None = None,
    depth: float = 0.15,
) -> Results:
    """Every part filled in where `seeds` and `variants` allow: nothing is concluded below seven
    seeds, and nothing compared with one variant.

    failed: variant -> seeds of runs that lie `depth` below the others; of more than three seeds the
    second variant's seed 3, unless given.
    """
    rng = np.random.default_rng(0)
    scores = _scores(rng, len(variants), seeds, len(ids))
    if failed is None:
        failed = {variants[min(1, len(variants) - 1)]: [3]} if seeds > 3 else {}
    for name, lost in failed.items():
        scores[list(variants).index(name), list(lost)] -= depth
    scores = np.clip(scores, 0, 1).round(6)
    failures = _failures(variants, scores)
    lost = {each.variant: np.isin(np.arange(seeds), each.failed) for each in failures}
    typical = {
        name: typical_mean(own, lost[name]) for name, own in zip(variants, scores, strict=True)
    }
    several, descriptive = len(variants) > 1 and seeds > 1, 1 < seeds < 7
    dice = {
        name: {str(seed): run.tolist() for seed, run in enumerate(own)}
        for name, own in zip(variants, scores, strict=True)
    }
    by_variant = {
        name: own.mean(axis=0).tolist() for name, own in zip(variants, scores, strict=True)
    }
    return Results(
        schema_version=SCHEMA_VERSION,
        study=StudyRecord(
            name="made-up", synthetic=True, variants=list(variants), seeds=list(range(seeds)),
            folds=[0], cases_sha256="0" * 64, definitions={}, both_empty=0,
            both_empty_of=scores.size,
        ),
        params={"prepare": {"depth": None}},
        paper=PAPER.among(variants),
        environment={},
        answer="Nobody knows.",
        verdict=[],
        estimates=[
            Estimate(
                variant=name, metric="dice", mean=float(own.mean()),
                standard_deviation=0.003 if seeds > 1 else None, typical=typical[name],
                interval=typical_interval(own, lost[name], SHARE) if seeds > 1 else None,
                seeds=seeds, cases=len(ids), paper=PAPER.values("dice").get(name),
                paper_rounding=None, paper_interval=None,
            )
            for name, own in zip(variants, scores, strict=True)
        ],
        failures=failures,
        averaged=[],
        comparison=Comparison(
            metric="dice", variants=list(variants), seeds=list(range(seeds)), cases=len(ids),
            descriptive=descriptive, notes=[], pairing=None, pairs=_pairs(typical, seeds),
            baseline=None,
            equivalence_margin=0.005, factorial=[],
            ranks=_ranks(variants, descriptive=descriptive) if several else None,
            ordering=_ordering(typical, descriptive=descriptive) if several else None,
            variance=Variance(variant=3e-6, seed=9e-6, case=8e-3, rest=2e-3) if several else None,
            power=None,
        ),
        tails=[],
        groupings={},
        subgroups=[],
        calibration=[_calibration(name, place) for place, name in enumerate(variants)],
        thresholds=[_sweep(name, place) for place, name in enumerate(variants)],
        runs=[
            RunResult(variant=name, seed=seed, metrics={"dice": float(run.mean())}, cost={})
            for name, own in zip(variants, scores, strict=True)
            for seed, run in enumerate(own)
        ],
        costs=[
            Cost(
                variant=name, parameters=2.9e7, gflops=18.3 + place, images_per_second=60.0,
                validation_images_per_second=None, seconds_per_epoch=None,
                wall_seconds=600.0 + 70 * (place % 3), peak_memory_bytes=None,
                exported_bytes=None, cpu_milliseconds=None,
            )
            for place, name in enumerate(variants)
        ],
        cases=Cases(
            ids=list(ids),
            lesion_share=rng.uniform(0.01, 0.6, len(ids)).round(6).tolist(),
            dice=dice,
            iou=by_variant,
            focal_loss=by_variant,
            disagreement=np.std(list(by_variant.values()), axis=0).round(6).tolist(),
        ),
        histories={},
    )  # fmt: skip


def _scores(
    rng: np.random.Generator, variants: int, seeds: int, cases: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """(V, S, C), of cases that are hard or easy to all, and of runs that differ by little."""
    return (
        0.85
        + rng.normal(0, 0.1, cases)
        + rng.normal(0, 0.003, (variants, seeds, 1))
        + rng.normal(0, 0.01, (variants, seeds, cases))
    )


def _failures(
    variants: Sequence[str], scores: np.ndarray[tuple[int, ...], np.dtype[np.float64]]
) -> list[FailureRate]:
    """Of scores (V, S, C), as the stage compare finds them."""
    _, seeds, _ = scores.shape
    rows = pd.MultiIndex.from_product([variants, range(seeds)], names=["variant", "seed"])
    found = failure_rates(pd.Series(scores.mean(axis=2).ravel(), rows), DROP)
    return [
        each.model_copy(
            update={
                "mean_interval": None
                if each.interval is None
                else mean_with_failures(
                    own, np.isin(np.arange(seeds), each.failed), each.interval, SHARE
                )
            }
        )
        for each, own in zip(found, scores, strict=True)
    ]


def _calibration(variant: str, place: int) -> Calibration:
    """Too sure, the more so the later the variant; the middle bin is empty."""
    bins = []
    for number in range(15):
        probability, count = (number + 0.5) / 15, int(1e8 * abs(number / 14 - 0.5) ** 6) + 900
        observed = probability + (0.02 + 0.02 * place) * np.sin(2 * np.pi * probability)
        known = number != 7
        bins.append(
            Bin(
                pixels=count if known else 0,
                probability=probability if known else None,
                observed=float(observed) if known else None,
            )
        )
    return Calibration(variant=variant, expected_calibration_error=0.01 + 0.004 * place, bins=bins)


def _sweep(variant: str, place: int) -> ThresholdSweep:
    thresholds = np.arange(1, 100) / 100
    dice = 0.85 - 0.002 * place - 0.15 * np.abs(thresholds - 0.45 + 0.02 * place) ** 1.5
    return ThresholdSweep(
        variant=variant,
        thresholds=thresholds.tolist(),
        dice=dice.tolist(),
        best=float(thresholds[dice.argmax()]),
        best_dice=float(dice.max()),
        study_dice=float(dice[49]),
    )


def _around(middle: float, half: float) -> Interval:
    return Interval(low=middle - half, high=middle + half)


def _pairs(means: dict[str, float], seeds: int) -> list[Pair]:
    pairs = []
    for place, (first, second) in enumerate(combinations(means, 2)):
        difference = means[first] - means[second]
        tested = seeds >= 7
        p_value = 0.00001 if place % 4 == 0 else 0.4321
        pairs.append(
            Pair(
                first=first, second=second, difference=difference,
                interval=_around(difference, 0.004) if tested else None,
                p_value=p_value if tested else None,
                adjusted_p_value=p_value if tested else None,
                shown=place % 4 == 0 if tested else None,
                equivalence_p_value=None, equivalent=place % 5 == 2 if tested else None,
                superiority=None, superiority_interval=None,
            )
        )  # fmt: skip
    return pairs


def _ranks(variants: Sequence[str], *, descriptive: bool) -> Ranks:
    count = len(variants)
    average = {name: 1 + place * (count - 1) / count for place, name in enumerate(variants)}
    ranks = Ranks(
        anova_f=4.0, anova_p_value=0.003, friedman_statistic=20.0, friedman_p_value=0.00001,
        average=average, critical_difference=2.85,
        groups=[list(variants[:4]), list(variants[2:6]), list(variants[4:])],
    )  # fmt: skip
    return without_inference(ranks).model_copy(update={"groups": []}) if descriptive else ranks


def _ordering(means: dict[str, float], *, descriptive: bool) -> Ordering:
    observed = sorted(means, key=lambda name: -means[name])
    others = [[*observed[turn:], *observed[:turn]] for turn in range(1, len(observed))]
    shares = 0.5 ** np.arange(1, len(observed) + 1)
    ordering = Ordering(
        draws=10_000,
        observed=observed,
        shares=[
            OrderingShare(variants=order, share=share)
            for order, share in zip([observed, *others], shares.tolist(), strict=True)
        ],
        distinct=1234,
        best=dict(zip(observed, shares.tolist(), strict=True)),
        paper=[],
        paper_share=None,
        kendall_tau=None,
        kendall_tau_interval=None,
    )
    nothing = {"draws": 0, "shares": [], "distinct": 0, "best": {}}
    return ordering.model_copy(update=nothing) if descriptive else ordering
