"""How likely a claim `a beats b` is false, given the scores, and how few cases decide it.

With nothing known beforehand about the difference (a flat prior), its distribution given the scores
is Student's t about the one found, with that one's error and degrees of freedom; the claim is false
where it lies below 0.
- over seeds and cases: error and freedom of the typical runs' difference (statistics/typical.py).
- over cases alone, for these very runs: Student's t with n - 1 degrees of freedom, its error the
  standard deviation of the n cases' differences over sqrt(n); cases of one group count as one
  (crossed.by_group). Source: Christodoulou et al. 2025, arXiv 2505.04720, whose
  s_a^2 + s_b^2 - 2 r s_a s_b is that deviation's square.
That a run's seed belongs into the error: arXiv 2511.02453.

Assumed: the test cases are a random sample, and differences that large were no less likely before
than small ones. Who expects methods to differ little should believe a claim less than this says.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from pipeline.statistics.crossed import Values
from pipeline.statistics.typical import SAME, Contrast


def false_claim(difference: Contrast) -> float:
    """The probability that a claimed `difference` above 0 is not; over seeds and cases."""
    return float(stats.t.sf(np.sign(difference.value) * difference.distance, difference.freedom))


def false_over_cases(differences: Values) -> float:
    """The same over cases alone, of the differences (C,) of cases or groups of cases, C at least
    2."""
    error = float(differences.std(ddof=1) / np.sqrt(len(differences)))
    mean = float(differences.mean())
    if error <= SAME:
        return 0.5 if abs(mean) <= SAME else float(mean < 0)
    return float(stats.t.sf(mean / error, len(differences) - 1))


def deciding_cases(differences: Values) -> int | None:
    """The fewest cases without which the mean of `differences` (C,) has the other sign; None where
    no removal turns it, for all lie on one side, or it has no sign."""
    total = float(differences.sum())
    if abs(total) <= SAME * len(differences):
        return None
    along = np.sort(differences * np.sign(total))[::-1]  # those that speak for it most first
    left = np.abs(total) - np.cumsum(along)
    turned = np.flatnonzero(left[:-1] < -SAME * len(differences))
    return int(turned[0]) + 1 if len(turned) else None
