"""How long the runs that are not done will take, by those that are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from pipeline.status.overview import RunStatus


class Remaining(NamedTuple):
    """seconds: of all runs that are not done, one after the other; None where nothing is known.

    at_once: runs that are on their way now, one at least. unknown: variants of which no training
    has begun, counted as the mean of the others. evaluated: whether evaluations are in it.
    """

    seconds: float | None
    at_once: int
    unknown: tuple[str, ...]
    evaluated: bool


def remaining(runs: Sequence[RunStatus], epochs: Mapping[str, int]) -> Remaining:
    """A waiting run takes the mean of its variant's finished ones, or, before there is one, of what
    those on their way will have taken. One on its way takes the epochs that it has left, each as
    long as its own before. Early stopping is not foreseen. epochs: of each variant's trainings."""
    begun = _means(
        (
            found.run.variant,
            found.seconds_per_epoch and epochs[found.run.variant] * found.seconds_per_epoch,
        )
        for found in runs
        if found.training_seconds is None
    )
    training = begun | _means((found.run.variant, found.training_seconds) for found in runs)
    evaluation = _means((found.run.variant, found.evaluation_seconds) for found in runs)
    at_once = max(1, sum(found.state in ("running", "evaluating") for found in runs))
    left = [found for found in runs if found.state != "done"]
    if left and not training:
        return Remaining(None, at_once, (), False)
    seconds = 0.0
    unknown: dict[str, None] = {}  # in order
    for found in left:
        variant = found.run.variant
        seconds += _of(variant, evaluation)
        if found.training_seconds is not None:
            continue
        done = 0.0 if found.epoch is None else found.epoch - 1 + found.epoch_share
        per_epoch = found.seconds_per_epoch or _of(variant, training) / epochs[variant]
        seconds += per_epoch * max(0.0, epochs[variant] - done)
        if variant not in training:
            unknown[variant] = None
    return Remaining(seconds, at_once, tuple(unknown), bool(evaluation))


def _means(known: Iterable[tuple[str, float | None]]) -> dict[str, float]:
    """Each variant's mean, where it is known."""
    values: dict[str, list[float]] = {}
    for variant, value in known:
        if value is not None:
            values.setdefault(variant, []).append(value)
    return {variant: fmean(own) for variant, own in values.items()}


def _of(variant: str, means: dict[str, float]) -> float:
    """The variant's own mean, else that of the others; 0 where none is known."""
    return means.get(variant, fmean(means.values()) if means else 0.0)
