"""The protocol where variants do not have the same seeds: a study that is not done."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pandas as pd

from pipeline.statistics.analysis import Design, FailedRuns, Protocol, compare
from pipeline.statistics.definitions import FEWEST_SEEDS
from pipeline.statistics.pairs import ALPHA, THRESHOLD, compare_pairs, holm
from pipeline.statistics.results import Comparison, Pair, Pairing

ONE_SEED = (
    "No two variants have two seeds in common: what follows is of the one seed that all have, over "
    "cases alone. What another seed would give is in no interval, so no difference is called shown."
)
TEST = (
    "Student's t of typical runs, paired by the seeds that both have, over seeds and cases; Holm "
    "over all pairs"
)


def compare_available(
    table: pd.DataFrame, protocol: Protocol, failed_runs: FailedRuns = ()
) -> Comparison:
    """`compare`, which it is where all variants have the same seeds. Else each pair is compared on
    the seeds that both have, by the protocol of two variants, and adjusted by Holm over all pairs;
    a pair with fewer than two, of which neither failed, has no test. What is of all variants
    together (ranks, orderings, effects, variance, power) is of the seeds that all have."""
    whole = compare(table, protocol, failed_runs)
    used = protocol.oriented(table[table["variant"].isin(whole.variants)])
    own_seeds = used.groupby("variant", sort=False)["seed"].agg(frozenset)
    if own_seeds.nunique() < 2 or (whole.groups or whole.cases) < 2:
        return whole
    pairs: list[Pair] = []
    shared: list[int] = []
    untested: list[str] = []
    for names in combinations(whole.variants, 2):
        design = Design(used[used["variant"].isin(names)], failed_runs)
        if len(design.seeds) < 2 or design.fewest_usable < 2:
            untested.append(" and ".join(names))
            continue
        shared.append(len(design.seeds))
        pairs += compare_pairs(
            design.scores, design.failed, names, paired=True, margin=protocol.margin,
            groups=design.groups,
        )  # fmt: skip
    if not pairs and whole.pairs:  # over cases alone, of the one seed that all have
        return whole.model_copy(update={"notes": [ONE_SEED, *whole.notes[1:]]})
    pairs = _adjusted(pairs)
    few = any(1 < len(seeds) < FEWEST_SEEDS for seeds in own_seeds)
    return whole.model_copy(
        update={
            "descriptive": few if not pairs else all(pair.shown is None for pair in pairs),
            "notes": _notes(whole, shared, untested, few=few),
            "pairing": Pairing(correlation=None, threshold=THRESHOLD, paired=True, test=TEST),
            "pairs": pairs,
        }
    )


def _adjusted(pairs: Sequence[Pair]) -> list[Pair]:
    """Pairs compared each alone, with Holm over all of them, those without a test with them."""
    if not pairs:
        return []
    p_values = holm([1.0 if p is None else p for p in (each.adjusted_p_value for each in pairs)])
    equal: Sequence[float | None] = [None for _ in pairs]
    tested = [pair.equivalence_p_value for pair in pairs]
    if any(p is not None for p in tested):  # none where no margin is known
        equal = holm([1.0 if p is None else p for p in tested]).tolist()
    return [
        pair.model_copy(
            update={
                "adjusted_p_value": float(p_value),
                "shown": bool(p_value < ALPHA),
                "equivalence_p_value": equivalence,
                "equivalent": None if equivalence is None else equivalence < ALPHA,
            }
        )
        if pair.adjusted_p_value is not None
        else pair
        for pair, p_value, equivalence in zip(pairs, p_values, equal, strict=True)
    ]


def _notes(
    comparison: Comparison, shared: Sequence[int], untested: Sequence[str], *, few: bool
) -> list[str]:
    """What cannot be concluded, in place of what `compare` says of seeds that not all have; few:
    whether a variant has two to six runs."""
    kept = [
        note
        for note in comparison.notes
        if " is left out of comparisons: " in note and not note.startswith("Seed ")
    ]
    told = "The variants do not have the same seeds: each pair is compared on those that both have"
    if shared:
        told += f", {_range(shared)} of them"
    common = len(comparison.seeds)
    together = (
        f"ranks and orderings are of those that all have, {common}"
        if common > 1
        else "there are no ranks and orderings, for want of two that all have"
    )
    notes = [f"{told}; {together}."]
    if few or any(number < FEWEST_SEEDS for number in shared):
        notes.append(
            f"Descriptive only: fewer than {FEWEST_SEEDS} seeds allow no interval of a variant, "
            "and fewer common ones no test of a pair."
        )
    if untested:
        notes.append(
            f"No test, for want of two common seeds that did not fail: {'; '.join(untested)}."
        )
    return [*kept, *notes]


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"
