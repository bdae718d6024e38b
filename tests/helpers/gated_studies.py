"""Tier C's verdict of many studies at once, in numpy, to count its alarms; Dice alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import stats

KINDS = 4  # Dice, IoU, focal loss, failed runs


@dataclass(frozen=True)
class Alarms:
    """Of each study and variant, all variants last: (studies, V + 1), or (studies, 1) of one."""

    typical: np.ndarray
    failures: np.ndarray

    @property
    def any(self) -> np.ndarray:
        return self.typical.any(axis=1) | self.failures.any(axis=1)


def drawn(
    rng: np.random.Generator,
    studies: int,
    runs: int,
    rates: list[float],
    *,
    deviation: float = 0.003,
    depth: float = 0.13,
    level: float = 0.85,
) -> np.ndarray:
    """Dice (studies, variants, runs): normal, but for a share of runs that fail by `depth`."""
    shape = (studies, len(rates), runs)
    fails = rng.random(shape) < np.array(rates)[:, None]
    return rng.normal(level, deviation, shape) - depth * fails


@cache
def p_value(failed_then: int, then: int, failed_now: int, now: int) -> float:
    """Boschloo's, from its definition: the largest probability, over the rates of failure, of the
    tables that Fisher's test finds as unlikely."""
    if failed_now == 0:
        return 1.0
    k, j = np.meshgrid(np.arange(then + 1), np.arange(now + 1), indexing="ij")
    fisher = stats.hypergeom.sf(j - 1, then + now, k + j, now)
    least = np.argmax(fisher <= fisher[failed_then, failed_now] * (1 + 1e-9), axis=1)
    has = (fisher <= fisher[failed_then, failed_now] * (1 + 1e-9)).any(axis=1)
    rate = np.linspace(0, 1, 1001)[:, None]
    before = stats.binom.pmf(np.arange(then + 1), then, rate)
    after = stats.binom.sf(least - 1, now, rate)
    return float((before * after * has).sum(axis=1).max())


def p_values(*counts: np.ndarray | int) -> np.ndarray:
    table = np.stack(np.broadcast_arrays(*counts), axis=-1)
    flat, back = np.unique(table.reshape(-1, 4), axis=0, return_inverse=True)
    found = np.array([p_value(*map(int, row)) for row in flat])
    return found[back.reshape(-1)].reshape(table.shape[:-1])


def gated(then: np.ndarray, now: np.ndarray, *, alpha: float = 0.01) -> Alarms:
    """Dice (studies, variants, runs) of five baseline seeds or more, of which five do not fail."""
    (_, variants, seeds), runs = then.shape, now.shape[2]
    subjects = variants + (variants > 1)
    one, kind = alpha / (KINDS * subjects), alpha / KINDS

    middle = np.quantile(then, 0.75, axis=2, method="higher", keepdims=True)
    better = np.sort(then, axis=2)[..., seeds // 2 :]
    away = np.abs(better - np.median(better, axis=2, keepdims=True))
    drop = np.maximum(0.03, 4 * 2.5057 * np.median(away, axis=(1, 2), keepdims=True))
    failed_then = then < middle - drop
    low = now < middle - drop
    all_low = low.all(axis=2, keepdims=True)
    others = np.where(low & ~all_low, np.nan, now)
    own_middle = np.nanquantile(others, 0.75, axis=2, method="higher", keepdims=True)
    failed_now = now < np.minimum(middle, own_middle) - drop

    count_then = failed_then.sum(axis=2)
    total = count_then.sum(axis=1)
    low_now = np.where(all_low[..., 0], runs, failed_now.sum(axis=2))
    of_own = (count_then > 0) & (p_values(count_then, seeds, runs, runs) >= kind)
    of_most = (count_then > 0).sum(axis=1) > variants / 2
    of_all = of_most & (p_values(total, seeds * variants, runs, runs) >= kind)
    alike = p_values(total, seeds * variants, low_now.sum(axis=1), runs * variants) >= kind
    unclear = all_low & ((of_own | of_all[:, None]) & alike[:, None])[..., None]
    failed_now = failed_now | unclear
    count_now = failed_now.sum(axis=2)

    p = p_values(count_then, seeds, count_now, runs)
    p_total = p_values(total[:, None], seeds * variants, count_now, runs)
    more = (p < one) | ((2 * count_now > runs) & (np.maximum(p, p_total) < kind))

    good_then, good_now = np.where(failed_then, np.nan, then), np.where(failed_now, np.nan, now)
    unclear = unclear[..., 0]
    usual = np.nanmean(good_then, axis=2, keepdims=True)
    after = np.where(unclear, now.mean(axis=2), mean_of(good_now.transpose(0, 2, 1)))
    deepest = np.where(failed_then, usual - then, 0).max(axis=2)
    deepest = np.where(deepest > 0, deepest, deepest.max(axis=1, keepdims=True)) * unclear
    kept_now = np.where(unclear, runs, runs - count_now)
    deviation = np.nanstd(good_then, axis=2, ddof=1)
    allowed = deepest + bound(one, deviation, seeds - count_then, kept_now)
    lower = usual[..., 0] - after > allowed

    if variants > 1:
        then_means, now_means = (
            np.where(2 * (~np.isnan(good)).sum(axis=1) >= variants, mean_of(good - usual), np.nan)
            for good in (good_then, good_now)
        )
        fall = mean_of(then_means) - mean_of(now_means)
        deviation = np.nanstd(then_means, axis=1, ddof=1)
        kept_then, kept_now = ((~np.isnan(means)).sum(axis=1) for means in (then_means, now_means))
        all_lower = fall > bound(one, deviation, kept_then, np.maximum(1, kept_now))
        lower = np.hstack([lower, all_lower[:, None]])
        p = p_values(total, seeds * variants, count_now.sum(axis=1), runs * variants)
        more = np.hstack([more, (p < one)[:, None]])
    return Alarms(lower, more)


def mean_of(values: np.ndarray) -> np.ndarray:
    """Over axis 1, of what is a number; NaN where nothing is."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(axis=1) / known.sum(axis=1)


def bound(alpha: float, deviation: np.ndarray, then: np.ndarray, now: np.ndarray) -> np.ndarray:
    return np.maximum(0.001, stats.t.isf(alpha, then - 1) * deviation * np.sqrt(1 / then + 1 / now))
