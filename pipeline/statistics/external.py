"""Whether what was found on a study's own test cases is so on those of an external test set.

The same networks are scored on both. What a variant loses, and by how much a difference of two
variants changes, is of typical runs (statistics/typical.py), with an error over seeds and over the
cases of both sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from pipeline.statistics.analysis import Design, FailedRuns
from pipeline.statistics.crossed import Values, by_group
from pipeline.statistics.pairs import ALPHA, holm
from pipeline.statistics.results import Change
from pipeline.statistics.typical import Contrast, TypicalRun, changes, is_descriptive, typical_run


def mean_over_folds(scores: pd.DataFrame) -> pd.DataFrame:
    """A variant's and seed's score of each case: the mean over the networks of its folds, each of
    which has scored every case of an external set."""
    return scores.groupby(["variant", "seed", "id"], sort=False, as_index=False).mean(
        numeric_only=True, skipna=False
    )


def compare_sets(
    own: pd.DataFrame, external: pd.DataFrame, failed_runs: FailedRuns, *, paired: bool
) -> list[Change]:
    """How each variant, and each difference of two, changes from the study's cases to the others:
    first the variants, then the pairs, of those that were scored on both.

    own, external: tables with the columns variant, seed, case, value and group, as of `compare`,
    higher values better. failed_runs: on the study's own cases, set aside on both. paired: whether
    seeds pair the variants. Of one seed without a word on others. Empty where of several seeds a
    variant has fewer than two usable runs, or a set fewer than two cases.
    """
    here, there = Design(own, failed_runs), Design(external, failed_runs)
    names = [name for name in here.variants if name in there.variants]
    seeds = [seed for seed in here.seeds if seed in there.seeds]
    if not names or not seeds:
        return []
    here, there = (
        Design(table[table["variant"].isin(names) & table["seed"].isin(seeds)], failed_runs)
        for table in (own, external)
    )
    if len(seeds) > 1 and (min(here.units, there.units) < 2 or here.fewest_usable < 2):
        return []
    if len(seeds) == 1:
        return _of_one_run(names, *(design.scores.mean(axis=(1, 2)) for design in (here, there)))
    before, after = _typical_runs(here), _typical_runs(there)
    alone = np.eye(len(names))
    pairs = list(combinations(range(len(names)), 2))
    differences = np.array([alone[a] - alone[b] for a, b in pairs])
    # A variant's own change is no difference of variants: its error is not paired with others'.
    of_variants = changes(before, after, alone, paired=False)
    of_pairs = changes(before, after, differences, paired=paired) if pairs else []
    descriptive = is_descriptive(here.failed)
    found = [
        _change(contrast, [names[place]], before, alone[place], descriptive)
        for place, contrast in enumerate(of_variants)
    ]
    found += [
        _change(contrast, [names[a], names[b]], before, row, descriptive)
        for contrast, (a, b), row in zip(of_pairs, pairs, differences, strict=True)
    ]
    return _adjusted(found)


def _of_one_run(names: Sequence[str], here: Values, there: Values) -> list[Change]:
    """Of one run of each variant, by its means (V,) on the two sets: what another seed would change
    is not known."""
    places = range(len(names))
    weights: dict[tuple[int, ...], Values] = {(p,): np.eye(len(names))[p] for p in places}
    weights |= {(a, b): weights[(a,)] - weights[(b,)] for a, b in combinations(places, 2)}
    return [
        Change(
            variants=[names[place] for place in subject],
            here=float(row @ here),
            there=float(row @ there),
            change=float(row @ (there - here)),
            interval=None,
            p_value=None,
            adjusted_p_value=None,
            shown=None,
        )
        for subject, row in weights.items()
    ]


def _typical_runs(design: Design) -> list[TypicalRun]:
    units = by_group(design.scores, design.groups)
    return [typical_run(own, failed) for own, failed in zip(units, design.failed, strict=True)]


def _change(
    contrast: Contrast,
    variants: list[str],
    before: Sequence[TypicalRun],
    row: Values,
    descriptive: bool,
) -> Change:
    here = float(row @ np.array([run.mean for run in before]))
    return Change(
        variants=variants,
        here=here,
        there=here + contrast.value,
        change=contrast.value,
        interval=None if descriptive else contrast.interval(),
        p_value=None if descriptive else contrast.p_value,
        adjusted_p_value=None,
        shown=None,
    )


def _adjusted(found: Sequence[Change]) -> list[Change]:
    """With Holm over all variants, and over all pairs."""
    kept: list[Change] = []
    for size in (1, 2):
        own = [each for each in found if len(each.variants) == size]
        p_values = [each.p_value for each in own if each.p_value is not None]
        if not own or len(p_values) < len(own):
            kept += own
            continue
        kept += [
            each.model_copy(update={"adjusted_p_value": float(p), "shown": bool(p < ALPHA)})
            for each, p in zip(own, holm(p_values), strict=True)
        ]
    return kept
