"""How long the runs that are not done will take, by those that are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import NamedTuple

from pipeline.status.overview import RunStatus


class Remaining(NamedTuple):
    """seconds: of all runs that are not done, one after the other; None where nothing is known.

    at_once: runs that are on their way now, one at least. unknown: variants without a finished
    training, counted as the mean of the others. evaluated: whether evaluations are in it.
    """

    seconds: float | None
    at_once: int
    unknown: tuple[str, ...]
    evaluated: bool


def remaining(runs: Sequence[RunStatus], epochs: int) -> Remaining:
    """A waiting run takes the mean of its variant's finished ones. One on its way takes the epochs
    that it has left, each as long as its own before, or as its variant's. Early stopping is not
    foreseen. `epochs`: of a training."""
    training = _means(runs, lambda found: found.training_seconds)
    evaluation = _means(runs, lambda found: found.evaluation_seconds)
    at_once = max(1, sum(found.state in ("running", "evaluating") for found in runs))
    seconds = 0.0
    unknown: dict[str, None] = {}  # in order
    for found in runs:
        if found.state == "done":
            continue
        variant = found.run.variant
        whole = training.get(variant, training.get(""))
        evaluating = evaluation.get(variant, evaluation.get("", 0.0))
        if found.training_seconds is not None:  # trained, and not evaluated
            seconds += evaluating
            continue
        own = found.seconds_per_epoch
        per_epoch = own or (None if whole is None else whole / epochs)
        if per_epoch is None:
            return Remaining(None, at_once, (), False)
        if variant not in training and own is None:
            unknown[variant] = None
        if found.epoch is None:
            left = per_epoch * epochs if whole is None else whole
        else:
            left = per_epoch * max(0.0, epochs - (found.epoch - 1) - found.epoch_share)
        seconds += left + evaluating
    return Remaining(seconds, at_once, tuple(unknown), bool(evaluation))


def _means(
    runs: Sequence[RunStatus], seconds: Callable[[RunStatus], float | None]
) -> dict[str, float]:
    """Each variant's mean where it is known; under "" the mean of those, where any is."""
    known: dict[str, list[float]] = {}
    for found in runs:
        value = seconds(found)
        if value is not None:
            known.setdefault(found.run.variant, []).append(value)
    means = {variant: fmean(values) for variant, values in known.items()}
    return means | ({"": fmean(means.values())} if means else {})
