"""From a table of scores to results: the study's protocol, as far as the table allows."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline.judge.assembly import Scores
from pipeline.judge.spreadsheets import UNNAMED, VALUE
from pipeline.statistics.analysis import FailedRuns, Protocol, beside_each_other, estimate
from pipeline.statistics.crossed import Values
from pipeline.statistics.definitions import SHARE, Better, metric_of, names_dice
from pipeline.statistics.failures import failure_rates, mean_with_failures
from pipeline.statistics.results import (
    SCHEMA_VERSION,
    Cases,
    Comparison,
    Estimate,
    FailureRate,
    Results,
    RunResult,
    StudyRecord,
)
from pipeline.statistics.unequal import compare_available
from pipeline.statistics.verdict import answer, verdict
from pipeline.study.errors import UserError
from pipeline.study.paper import Paper, value_of
from pipeline.study.values import quantity

PLAIN_DICE = ("dice", "dsc", "dicescore", "dicecoefficient", "meandice")
LARGEST = 1e12  # of a score: above it sums of squares lose what they count
DROP = 0.03  # as of a study's compare.failure_drop
MARGIN = 0.005  # of equivalence, likewise


class Asked(NamedTuple):
    """What the command line asks of a table; None leaves it to the table."""

    metric: str | None = None
    better: Better | None = None
    baseline: str | None = None
    margin: float | None = None
    failure_drop: float | None = None
    draws: int = 10_000


def judge(
    scores: Scores,
    asked: Asked,
    *,
    name: str,
    paper: Paper | None = None,
    factors: Mapping[str, Sequence[str]] | None = None,
) -> Results:
    """The results of a table, with empty parts where it has nothing for them.

    Raises UserError for a metric or baseline that the table has not, and for a paper none of whose
    variants it has.
    """
    scores = name_metric(scores, asked.metric)
    metric = choose_metric(scores.metrics, asked.metric)
    variants = list(dict.fromkeys(scores.table["variant"]))
    _check_names(variants, asked.baseline, paper)
    scores = with_seeds_in_common(as_shares(scores))
    whole, aborted = without_aborted(scores, metric)
    table, notes = complete(whole.table, metric)
    notes = aborted + notes
    better = asked.better or metric_of(metric).better
    is_dice = _is_dice(table, metric) and better == "higher"
    failures = find_failures(table, metric, asked.failure_drop) if is_dice else []
    failed_runs = {(each.variant, seed) for each in failures for seed in each.failed}
    own = None if paper is None else as_named(paper.among(variants), scores.metrics)
    notes += _not_answered(variants, paper, factors or {}, metric)
    comparison = compare_available(
        table[["variant", "seed", "case", metric]].rename(columns={metric: "value"}),
        Protocol(
            metric=metric,
            margin=asked.margin or (MARGIN if is_dice else None),
            baseline=asked.baseline,
            printed={} if own is None else own.values(metric),
            claims=[] if own is None else own.orderings(),
            factors={} if factors is None else factors,
            draws=asked.draws,
            better=better,
        ),
        failed_runs,
    )
    notes += _told(comparison, scores, is_dice=is_dice)
    comparison = comparison.model_copy(update={"notes": _first_the_runs(comparison, notes)})
    estimates = beside_each_other(
        [
            summary
            for each in dict.fromkeys([metric, *scores.metrics])
            for summary in estimate_all(whole.table, each, failed_runs, own)
        ]
    )
    ids = list(dict.fromkeys(table["case"]))
    return Results(
        schema_version=SCHEMA_VERSION,
        study=StudyRecord(
            name=name, synthetic=False, variants=variants,
            seeds=sorted(set(scores.table["seed"].tolist())), folds=[0],
            cases_sha256=hashlib.sha256("\n".join(ids).encode()).hexdigest(),
            external={},
            definitions={
                metric_of(each).label: _definition(each, better if each == metric else None)
                for each in scores.metrics
            },
            both_empty=0, both_empty_of=0,
        ),
        params={"compare": {"failure_drop": asked.failure_drop or DROP}},
        paper=own,
        environment={},
        answer=answer(comparison, estimates, failures),
        verdict=verdict(comparison, estimates, failures, own),
        estimates=estimates,
        failures=failures,
        averaged=[],
        comparison=comparison,
        external=[],
        tuning=None,
        tails=[], groupings={}, subgroups=[], calibration=[], thresholds=[],
        runs=_runs(whole),
        costs=[],
        cases=_cases(table, metric, ids),
        histories={},
    )  # fmt: skip


def name_metric(scores: Scores, wanted: str | None) -> Scores:
    """The one metric of a table that does not name it, as the command line does."""
    if wanted is None or scores.metrics != [VALUE]:
        return scores
    table = scores.table.rename(columns={VALUE: wanted})
    kept = [note for note in scores.notes if note != UNNAMED]
    return replace(scores, table=table, metrics=[wanted], notes=kept)


def as_named(paper: Paper, metrics: Sequence[str]) -> Paper:
    """The paper with its metrics named as the table's, whose letters and digits are the same.
    Raises UserError for a Dice that is no share."""

    def plain(name: str) -> str:
        return "dice" if _plain(name) in PLAIN_DICE else _plain(name)

    for variant, row in paper.rows.items():
        for key, figure in row.figures.items():
            if plain(key) == "dice" and not 0 <= value_of(figure) <= 1:
                raise UserError(
                    f"--paper: rows.{variant}.figures.{key} must be from 0 to 1, or have a % sign, "
                    f"got {figure!r}"
                )
    names = {plain(metric): metric for metric in metrics}
    if paper.averaging == "pixels":  # no table of cases has that
        names["dice"] = "dice of all pixels"
    rows = {
        variant: row.model_copy(
            update={"figures": {names.get(plain(key), key): f for key, f in row.figures.items()}}
        )
        for variant, row in paper.rows.items()
    }
    return paper.model_copy(update={"rows": rows})


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def as_shares(scores: Scores) -> Scores:
    """Dice from 0 to 100 as shares. Raises UserError for scores too large to compute with."""
    table, notes = scores.table.copy(), list(scores.notes)
    for metric in scores.metrics:
        values = table[metric].dropna()
        if len(values) and values.abs().max() > LARGEST:
            raise UserError(
                f"{metric}: scores must be within +- {LARGEST:g}, got {values.abs().max():g}; "
                "leave the cell empty where there is no score"
            )
        if names_dice(metric) and len(values) and values.max() > 1 and values.between(0, 100).all():
            table[metric] /= 100
            notes.append(f"{metric} goes up to {values.max():g}: it is taken for percent.")
    return replace(scores, table=table, notes=notes)


def with_seeds_in_common(scores: Scores) -> Scores:
    """Variants that have as many runs each, and not one seed in common, as runs 0, 1, ...: they are
    of other trainings, which pair nothing and are paired in the order given."""
    seeds = {
        str(name): sorted(set(own["seed"]))
        for name, own in scores.table.groupby("variant", sort=False)
    }
    numbers = {len(own) for own in seeds.values()}
    common = set.intersection(*(set(own) for own in seeds.values()))
    if len(seeds) < 2 or common or len(numbers) > 1:
        return scores
    places = {(name, seed): at for name, own in seeds.items() for at, seed in enumerate(own)}
    table = scores.table.assign(
        seed=[
            places[row] for row in zip(scores.table["variant"], scores.table["seed"], strict=True)
        ]
    )
    told = (
        "The variants have no seed in common: their runs are numbered from 0, in the order given."
    )
    return replace(scores, table=table, notes=[*scores.notes, told])


def without_aborted(scores: Scores, metric: str) -> tuple[Scores, list[str]]:
    """Without runs that have a number for fewer than half as many cases as the fullest: one that
    broke off would leave few cases to all others. What was left out, in words."""
    known = scores.table[np.isfinite(scores.table[metric])]
    keys = [scores.table["variant"], scores.table["seed"]]
    counts = known.groupby(["variant", "seed"], sort=False).size()
    runs = pd.MultiIndex.from_frame(scores.table[["variant", "seed"]].drop_duplicates())
    counts = counts.reindex(runs, fill_value=0)
    few = counts[2 * counts < counts.max()]
    kept = counts.index.difference(few.index)
    if few.empty or set(kept.get_level_values("variant")) < set(scores.table["variant"]):
        return scores, []  # a variant of such runs alone is told of by the comparison
    rows = pd.MultiIndex.from_arrays(keys).isin(kept)
    told = ", ".join(f"{name} seed {seed} ({number})" for (name, seed), number in few.items())
    return replace(scores, table=scores.table[rows]), [
        f"Left out: runs with a number for fewer than half of {counts.max()} cases: {told}."
    ]


def _not_answered(
    variants: Sequence[str],
    paper: Paper | None,
    factors: Mapping[str, Sequence[str]],
    metric: str,
) -> list[str]:
    """What the paper says that this table cannot answer."""
    notes = []
    absent = (
        []
        if paper is None
        else [
            name
            for name in dict.fromkeys(name for _, name in paper.names())
            if name not in variants
        ]
    )
    if absent:
        notes.append(f"Of the paper the table does not have {', '.join(absent)}: nothing is said.")
    lacking = [name for name in factors if name not in variants]
    if lacking:
        notes.append(
            f"No effect of a factor is told: the table does not have {', '.join(lacking)}."
        )
    if paper is not None and paper.averaging == "pixels":
        notes.append("The paper's Dice is of all pixels together: it is held against no case's.")
    if paper is not None and paper.claims and not names_dice(metric):
        notes.append(f"The paper's claims are tested by {metric_of(metric).label}.")
    return notes


def choose_metric(metrics: Sequence[str], wanted: str | None) -> str:
    """The primary one: that asked for, else the Dice, else the first."""
    if wanted is None:
        exact = [name for name in metrics if _plain(name) in PLAIN_DICE]
        return next(iter([*exact, *filter(names_dice, metrics), *metrics]))
    if wanted not in metrics:
        raise UserError(
            f"--metric must be one of the table's ({', '.join(metrics)}), got {wanted!r}"
        )
    return wanted


def _check_names(variants: Sequence[str], baseline: str | None, paper: Paper | None) -> None:
    there = ", ".join(variants)
    if baseline is not None and baseline not in variants:
        raise UserError(
            f"--baseline must be one of the table's variants ({there}), got {baseline!r}"
        )
    if paper is not None:
        named = dict.fromkeys(name for _, name in paper.names())
        if named and not set(named) & set(variants):
            raise UserError(
                f"--paper must name variants of the table ({there}), got {', '.join(named)}: write "
                "their names as the table has them"
            )


def complete(table: pd.DataFrame, metric: str) -> tuple[pd.DataFrame, list[str]]:
    """The rows of those cases for which every run has a number; where no two cases are so, all
    rows. What was left out, in words."""
    runs = table[["variant", "seed"]].drop_duplicates()
    known = table[np.isfinite(table[metric])]
    counts = known.groupby("case", sort=False)["variant"].size()
    whole = set(counts.index[counts == len(runs)])
    every = table["case"].nunique()
    if len(whole) < 2 or len(whole) == every:
        return table, []
    lacking = (
        len(whole) + known[~known["case"].isin(whole)].groupby(["variant", "seed"]).size()
    ).reindex(pd.MultiIndex.from_frame(runs), fill_value=len(whole))
    fewest = lacking.groupby(level="variant", sort=False).min()
    told = ", ".join(f"{name} has {number} of {every}" for name, number in fewest.items())
    left_out = every - len(whole)
    return table[table["case"].isin(whole)], [
        f"Left out: {quantity(left_out, 'case')} of {every}, for which not every run has a number "
        f"({told})."
    ]


def _is_dice(table: pd.DataFrame, metric: str) -> bool:
    """Whether the metric is a Dice from 0 to 1, for which the failure rule and the margin are."""
    values = table[metric].dropna()
    return names_dice(metric) and bool(values.between(0, 1).all())


def find_failures(table: pd.DataFrame, metric: str, drop: float | None) -> list[FailureRate]:
    """Of each variant, as of a study."""
    means = table.groupby(["variant", "seed"], sort=False)[metric].mean()
    found = []
    for each in failure_rates(means, drop or DROP):
        values = _crossed(table[table["variant"] == each.variant], metric)
        if each.interval is not None and values is not None and np.isfinite(values).all():
            seeds = table.loc[table["variant"] == each.variant, "seed"].drop_duplicates()
            failed = seeds.isin(each.failed).to_numpy()
            bounds = mean_with_failures(values, failed, each.interval, SHARE)
            each = each.model_copy(update={"mean_interval": bounds})
        found.append(each)
    return found


def estimate_all(
    table: pd.DataFrame, metric: str, failed_runs: FailedRuns, paper: Paper | None
) -> list[Estimate]:
    """Of each variant in one metric, in the order of the table; cases without a number in a run are
    left out of that metric's."""
    used, _ = complete(table, metric)
    found = []
    for variant, own in used.groupby("variant", sort=False):
        seeds = own["seed"].drop_duplicates()
        failed = np.array([(variant, seed) in failed_runs for seed in seeds], dtype=bool)
        found.append(
            estimate(
                _crossed(own, metric), failed, variant=str(variant), metric=metric, paper=paper
            )
        )
    return found


def _crossed(own: pd.DataFrame, metric: str) -> Values:
    """A variant's scores as (S, C)."""
    wide = own.pivot_table(index="seed", columns="case", values=metric, sort=False, dropna=False)
    return wide.to_numpy(dtype=np.float64)


def _told(comparison: Comparison, scores: Scores, *, is_dice: bool) -> list[str]:
    """What a reader must know of the table beside what the comparison says of itself."""
    told = []
    if not is_dice:
        told.append(
            f"{metric_of(comparison.metric).label}: {comparison.better} is taken to be better. No "
            "run is called failed, for the rule is one for a Dice from 0 to 1."
        )
    if len(scores.metrics) == 1:
        told.append("The table has one metric: what another would say is not known.")
    return told + scores.notes


def _first_the_runs(comparison: Comparison, notes: Sequence[str]) -> list[str]:
    """That there is one run of each variant is what a reader must know first."""
    return [*comparison.notes[:1], *notes, *comparison.notes[1:]]


def _definition(metric: str, better: Better | None) -> str:
    return f"As the table has it; {better or metric_of(metric).better} is taken to be better."


def _runs(scores: Scores) -> list[RunResult]:
    """Each run's means, null where a case has no number."""
    runs = []
    for (variant, seed), own in scores.table.groupby(["variant", "seed"], sort=False):
        means = {name: float(own[name].mean(skipna=False)) for name in scores.metrics}
        known = {name: mean if np.isfinite(mean) else None for name, mean in means.items()}
        runs.append(RunResult(variant=str(variant), seed=int(str(seed)), metrics=known, cost={}))
    return runs


def _cases(table: pd.DataFrame, metric: str, ids: list[str]) -> Cases:
    """The primary metric of each case, variant and seed."""
    dice: dict[str, dict[str, list[float | None]]] = {}
    for (variant, seed), run in table.groupby(["variant", "seed"], sort=False):
        values = run.set_index("case")[metric].reindex(ids)
        dice.setdefault(str(variant), {})[str(seed)] = [
            float(value) if np.isfinite(value) else None for value in values
        ]
    return Cases(ids=ids, lesion_share=[], dice=dice, iou={}, focal_loss={}, disagreement=[])
