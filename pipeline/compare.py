"""Stage compare: the protocol's statistics over all runs, as reports/results.json."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import pandas as pd

from pipeline.deployment.measurements import load_exported
from pipeline.engine.prepared import PreparedCases
from pipeline.statistics.analysis import (
    FailedRuns,
    Protocol,
    as_groups,
    beside_each_other,
    estimate,
    estimate_averaged,
)
from pipeline.statistics.crossed import Groups, Values, by_group, count_groups
from pipeline.statistics.definitions import (
    AVERAGED,
    CASE_METRICS,
    PRIMARY,
    SHARE,
    metrics_of,
    say,
    state,
)
from pipeline.statistics.external import compare_sets, mean_over_folds
from pipeline.statistics.failures import failure_rates, mean_with_failures
from pipeline.statistics.results import (
    SCHEMA_VERSION,
    AveragedEstimate,
    Bin,
    Calibration,
    Cases,
    Comparison,
    Cost,
    Estimate,
    ExternalRun,
    ExternalSet,
    FailureRate,
    MissingRun,
    Partial,
    Results,
    RunResult,
    StudyRecord,
    Subgroup,
    Tail,
    ThresholdSweep,
    headlines,
    save_results,
)
from pipeline.statistics.runs import (
    CLOCK,
    Binned,
    median_facts,
    missing_runs,
    read_averaged,
    read_binned,
    read_histories,
    read_scores,
    read_thresholds,
    read_validation,
    test_ids,
)
from pipeline.statistics.scores import both_empty, score_runs
from pipeline.statistics.subgroups import FEWEST_CASES, GROUPINGS, group_cases
from pipeline.statistics.tuning import tune
from pipeline.statistics.typical import Failed, typical_interval, typical_mean
from pipeline.statistics.unequal import compare_available
from pipeline.statistics.verdict import answer, verdict
from pipeline.study.errors import UserError, run_command, warn
from pipeline.study.files import read_json, write_json
from pipeline.study.paper import Paper
from pipeline.study.params import Run, Study
from pipeline.study.reading import load_study, wants_partial
from pipeline.study.stages import at_stage
from pipeline.study.values import HEADLINES

WORST = 0.05  # share of cases that are the hardest
DECIMALS = 6  # of a single case's score
EXPORTED = ("exported_bytes", "cpu_milliseconds", "cpu")  # of Cost: not of a run's


def main(partial: bool = False) -> None:
    study = load_study()
    with at_stage(study, "compare", partial=partial):
        cases = PreparedCases.open(study.prepared_dir)
        missing = missing_runs(study) if partial else []
        part = study.without(missing) if partial else study
        results = collect(part, cases)
        if study.compare.baseline not in (None, *study.settings):
            warn(
                f"params.yaml: compare.baseline is {study.compare.baseline}, which is not among "
                f"those compared ({', '.join(study.settings)}): nothing is held against it"
            )
        if partial:
            known = describe_part(study, part, missing)
            results = results.model_copy(
                update={
                    "partial": known,
                    "params": study.model_dump(mode="json"),
                    "verdict": [*known.sentences(), *results.verdict],
                }
            )
        save_results(part.results_file, results)
        if not partial:
            write_json(study.summary_file, headlines(results))
    print(f"compare: {part.results_file}: {results.answer}")


def describe_part(study: Study, part: Study, missing: Sequence[Run]) -> Partial:
    """Which runs of the study the part has; missing: those that are not evaluated yet."""
    every, compared = len(study.runs()), len(part.runs())
    return Partial(
        runs=compared,
        of=every,
        folds=len(study.folds),
        waiting=every - compared - len(missing),
        missing=[MissingRun(**run._asdict()) for run in missing],
    )


def collect(study: Study, cases: PreparedCases) -> Results:
    """Everything that results.json holds. Raises UserError if a run's output is missing."""
    scores = read_scores(study, cases)
    facts = median_facts(study, cases)
    binned = read_binned(study, cases)
    runs = score_runs(scores, binned)
    group_of = dict(zip(cases.table["id"], cases.table["group"], strict=True))
    scores["group"] = scores["id"].map(group_of)
    groups = groups_of(scores)
    failures = find_failures(study, scores, runs, groups)
    failed_runs = {(each.variant, seed) for each in failures for seed in each.failed}
    paper = None if study.paper is None else study.paper.among(study.variants)
    estimates = beside_each_other(estimate_all(study, scores, runs, failed_runs, paper, groups))
    of_settings = _table(scores)
    table = of_settings[of_settings["variant"].isin(study.settings)]
    protocol = Protocol(
        metric=PRIMARY,
        margin=study.compare.equivalence_margin,
        baseline=study.compare.baseline,
        printed={} if paper is None else paper.values(PRIMARY),
        claims=[] if paper is None else paper.orderings(),
        factors=study.factors,
        draws=study.compare.draws,
        seed=study.compare.seed,
    )
    comparison = compare_available(table, protocol, failed_runs)
    external = [
        compare_external(study.on(each.name), table, protocol, failed_runs, comparison)
        for each in study.evaluate.external
    ]
    told = [each for each in estimates if each.variant in study.settings]
    of_compared = [each for each in failures if each.variant in study.settings]
    tuning = None
    if any(len(names) > 1 for names in study.settings.values()) and not study.is_part:
        tuning = tune(of_settings, read_validation(study), study.settings, protocol, failed_runs)
    subgroups = _subgroups(study, cases, scores, failed_runs, groups)
    return Results(
        schema_version=SCHEMA_VERSION,
        study=_study(study, cases, scores),
        params=study.model_dump(mode="json"),
        paper=paper,
        environment=_environment(facts.values()),
        answer=answer(comparison, told, of_compared),
        verdict=verdict(comparison, told, of_compared, paper, external, tuning),
        estimates=estimates,
        failures=failures,
        averaged=average_all(study, cases, scores, failed_runs, groups),
        comparison=comparison,
        external=external,
        tuning=tuning,
        tails=_tails(study, scores),
        groupings={
            each.grouping: say(GROUPINGS[each.grouping], study.prepare.depth) for each in subgroups
        },
        subgroups=subgroups,
        calibration=_calibration(study, binned, estimates),
        thresholds=_thresholds(study),
        runs=_runs(study, runs, facts),
        costs=_costs(study, facts),
        cases=_cases(cases, scores),
        histories=_histories(study),
    )


def compare_external(
    on: Study, own: pd.DataFrame, protocol: Protocol, failed_runs: FailedRuns, here: Comparison
) -> ExternalSet:
    """The study on an external test set (Study.on), held against its own cases. own: their table,
    as of `compare`; here: what was found there. Raises UserError if a run's output is missing."""
    cases = PreparedCases.open(on.prepared_dir, stage=on.preparing)
    scores = mean_over_folds(read_scores(on, cases))
    group_of = dict(zip(cases.table["id"], cases.table["group"], strict=True))
    scores["group"] = scores["id"].map(group_of)
    groups = groups_of(scores)
    table = _table(scores)
    table = table[table["variant"].isin(on.settings)]
    estimates = []
    for variant in on.variants:
        values = scores[scores["variant"] == variant]
        failed = _failed(on, variant, failed_runs)
        estimates += [
            estimate(
                _crossed(values, metric), failed, variant=variant, metric=metric, groups=groups
            )
            for metric in metrics_of(on)
            if metric in CASE_METRICS
        ]
    card = read_json(on.prepared_dir / "card.json", "prepare_external")
    paired = here.pairing is not None and here.pairing.paired
    return ExternalSet(
        name=str(on.external_name),
        cases=scores["id"].nunique(),
        of_the_study=card["of_the_study"],
        unusable=card["unusable"],
        estimates=beside_each_other(estimates),
        comparison=compare_available(table, replace(protocol, printed={}), failed_runs),
        changes=compare_sets(own, table, failed_runs, paired=paired),
        runs=[
            ExternalRun(
                variant=variant,
                seed=seed,
                metrics={name: _finite(own[name].mean(skipna=False)) for name in HEADLINES},
            )
            for variant in on.variants
            for seed in on.seeds_of(variant)
            for own in [scores[(scores["variant"] == variant) & (scores["seed"] == seed)]]
        ],
    )


def _table(scores: pd.DataFrame) -> pd.DataFrame:
    """The primary metric as the protocol takes it."""
    table = scores.rename(columns={"id": "case", PRIMARY: "value"})
    return table[["variant", "seed", "case", "value", "group"]]


def groups_of(scores: pd.DataFrame) -> Groups | None:
    """Of cases, in the order of `_crossed`; None where each is of its own."""
    return as_groups(scores.drop_duplicates("id")["group"])


def find_failures(
    study: Study, scores: pd.DataFrame, runs: pd.DataFrame, groups: Groups | None
) -> list[FailureRate]:
    """Of each variant, in the order of params.yaml; runs: score_runs's."""
    found = []
    # Settings of a variant may spread as they will: they change nothing of which runs failed.
    for each in failure_rates(runs[PRIMARY], study.compare.failure_drop, study.settings):
        values = _crossed(scores[scores["variant"] == each.variant], PRIMARY)
        if each.interval is not None and np.isfinite(values).all():
            failed = np.isin(study.seeds_of(each.variant), each.failed)
            bounds = mean_with_failures(by_group(values, groups), failed, each.interval, SHARE)
            each = each.model_copy(update={"mean_interval": bounds})
        found.append(each)
    return found


def _failed(study: Study, variant: str, failed_runs: FailedRuns) -> Failed:
    """Which of a variant's seeds failed, in their order."""
    return np.array(
        [(variant, seed) in failed_runs for seed in study.seeds_of(variant)], dtype=bool
    )


def estimate_all(
    study: Study,
    scores: pd.DataFrame,
    runs: pd.DataFrame,
    failed_runs: FailedRuns,
    paper: Paper | None,
    groups: Groups | None,
) -> list[Estimate]:
    """Every variant and metric, in the order of params.yaml and METRICS; runs: score_runs's. paper:
    of these variants."""
    found = []
    for variant in study.variants:
        failed = _failed(study, variant, failed_runs)
        own = scores[scores["variant"] == variant]
        for metric in metrics_of(study):
            if metric in CASE_METRICS:
                values, of_cases = _crossed(own, metric), groups
            else:  # a ratio of sums over cases has no case's score: seeds alone
                values, of_cases = runs.loc[[variant], metric].to_numpy()[:, None], None
            summary = estimate(
                values, failed, variant=variant, metric=metric, paper=paper, groups=of_cases
            )
            found.append(summary.model_copy(update={"cases": own["id"].nunique()}))
    return found


def average_all(
    study: Study,
    cases: PreparedCases,
    scores: pd.DataFrame,
    failed_runs: FailedRuns,
    groups: Groups | None,
) -> list[AveragedEstimate]:
    """Every variant, averaging and metric of AVERAGED, in this order. Raises UserError if the stage
    average has not scored what the study asks for."""
    if not study.averaging:
        return []
    averaged = read_averaged(study, cases)
    found = []
    for variant in study.variants:
        own = scores[scores["variant"] == variant]
        for averaging in study.averaging:
            chosen = (averaged["variant"] == variant) & (averaged["averaging"] == averaging)
            found += [
                estimate_averaged(
                    _crossed(averaged[chosen], metric),
                    _crossed(own, metric),
                    _failed(study, variant, failed_runs),
                    variant=variant,
                    averaging=averaging,
                    metric=metric,
                    groups=groups,
                )
                for metric in AVERAGED
            ]
    return found


def _crossed(own: pd.DataFrame, metric: str) -> Values:
    """A variant's scores as (S, C), in the order of the study's seeds, folds and cases."""
    table = own.pivot_table(index="seed", columns="id", values=metric, sort=False, dropna=False)
    return table.to_numpy(dtype=np.float64)


def _study(study: Study, cases: PreparedCases, scores: pd.DataFrame) -> StudyRecord:
    return StudyRecord(
        name=study.name,
        synthetic=study.data.source == "synthetic",
        variants=study.variants,
        seeds=study.seeds,
        folds=study.folds,
        cases_sha256=_checksum(cases, list(dict.fromkeys(scores["id"]))),
        external={each.name: _checksum_on(study.on(each.name)) for each in study.evaluate.external},
        definitions=dict(state(study)),
        both_empty=both_empty(scores),
        both_empty_of=len(scores),
    )


def _checksum_on(on: Study) -> str:
    cases = PreparedCases.open(on.prepared_dir, stage=on.preparing)
    return _checksum(cases, test_ids(cases, 0))


def _checksum(cases: PreparedCases, ids: list[str]) -> str:
    """Of the cases' ids and prepared masks."""
    digest = hashlib.sha256("\n".join(ids).encode())
    for place in _places(cases, ids):
        digest.update(cases.masks[place].tobytes())
    return digest.hexdigest()


def _places(cases: PreparedCases, ids: list[str]) -> list[int]:
    """Where in the arrays the cases of these ids lie."""
    places = {id: place for place, id in enumerate(cases.table["id"])}
    return [places[id] for id in ids]


def _tails(study: Study, scores: pd.DataFrame) -> list[Tail]:
    tails = []
    for variant, own in scores.groupby("variant", sort=False):
        means = np.sort(own.groupby("id")[PRIMARY].mean().to_numpy())
        hardest = means[: max(1, round(WORST * len(means)))]
        below = own["iou"] < study.evaluate.jaccard_threshold
        known = np.isfinite(own[[PRIMARY, "iou"]].to_numpy()).all()
        tails.append(
            Tail(
                variant=str(variant),
                worst_mean=float(hardest.mean()) if known else None,
                below_threshold=float(below.mean()) if known else None,
            )
        )
    return tails


def _subgroups(
    study: Study,
    cases: PreparedCases,
    scores: pd.DataFrame,
    failed_runs: FailedRuns,
    groups: Groups | None,
) -> list[Subgroup]:
    """Every grouping, group and variant, in this order. groups: of cases that count as one."""
    ids = list(dict.fromkeys(scores["id"]))
    groupings = group_cases(cases, _places(cases, ids), study.prepare.resize)
    values = {
        variant: _crossed(scores[scores["variant"] == variant], PRIMARY)
        for variant in study.variants
    }
    found = []
    for grouping, within_groups in groupings.items():
        for group, within in within_groups.items():
            together = None if groups is None else as_groups(groups[within])
            units = len(within) if together is None else count_groups(together)
            for variant, all_values in values.items():
                own, failed = all_values[:, within], _failed(study, variant, failed_runs)
                mean = typical_mean(own, failed)
                interval = None
                if units >= FEWEST_CASES and np.isfinite(mean):
                    interval = typical_interval(by_group(own, together), failed, SHARE)
                found.append(
                    Subgroup(
                        grouping=grouping,
                        group=group,
                        cases=len(within),
                        groups=None if together is None else units,
                        variant=variant,
                        typical=_finite(mean),
                        interval=interval,
                    )
                )
    return found


def _calibration(
    study: Study, binned: dict[tuple[str, int], Binned], estimates: list[Estimate]
) -> list[Calibration]:
    errors = {
        found.variant: found.mean
        for found in estimates
        if found.metric == "expected_calibration_error" and found.mean is not None
    }
    found = []
    for variant in study.variants:
        sums = sum(binned[variant, seed] for seed in study.seeds_of(variant))
        bins = [
            Bin(
                pixels=int(pixels),
                probability=probability / pixels if pixels else None,
                observed=lesion / pixels if pixels else None,
            )
            for pixels, probability, lesion in np.asarray(sums).tolist()
        ]
        found.append(
            Calibration(variant=variant, expected_calibration_error=errors[variant], bins=bins)
        )
    return found


def _thresholds(study: Study) -> list[ThresholdSweep]:
    table = read_thresholds(study)
    found = []
    for variant in study.variants:
        dice = table[table["variant"] == variant].groupby("threshold")["dice"].mean()
        best = dice.index[dice == dice.max()]
        middle = float(best[len(best) // 2])
        nearest = int(np.abs(dice.index.to_numpy() - study.evaluate.threshold).argmin())
        found.append(
            ThresholdSweep(
                variant=variant,
                thresholds=dice.index.tolist(),
                dice=[round(value, DECIMALS) for value in dice],
                best=middle,
                best_dice=float(dice.max()),
                study_dice=float(dice.iloc[nearest]),
            )
        )
    return found


def _runs(study: Study, metrics: pd.DataFrame, facts: dict[Run, dict[str, Any]]) -> list[RunResult]:
    """A row a variant and seed; its costs are of its folds, as a variant's are of its runs."""
    rows = []
    for variant in study.variants:
        for seed in study.seeds_of(variant):
            folds = [fact for run, fact in facts.items() if run[:2] == (variant, seed)]
            cost = _cost(variant, folds).model_dump(exclude={"variant", *EXPORTED})
            row = metrics.loc[[(variant, seed)]].iloc[0]
            rows.append(
                RunResult(
                    variant=variant,
                    seed=seed,
                    metrics={name: _finite(row[name]) for name in metrics_of(study)},
                    cost=cost,
                )
            )
    return rows


def _costs(study: Study, facts: dict[Run, dict[str, Any]]) -> list[Cost]:
    """With what the exports of study.export say. Raises UserError if one is missing."""
    costs = []
    for variant in study.variants:
        own = [fact for run, fact in facts.items() if run.variant == variant]
        cost = _cost(variant, own)
        if variant in study.export:
            file = study.exported_dir / variant / "export.json"
            exported = load_exported(file)
            if exported.weights_sha256 != own[0].get("weights_sha256"):
                raise UserError(f"{file} is of other weights; run the stage export again")
            cost = cost.model_copy(
                update={
                    "exported_bytes": exported.bytes["model.onnx"],
                    "cpu_milliseconds": exported.latency_milliseconds.onnxruntime,
                    "cpu": exported.processor,
                }
            )
        costs.append(cost)
    return costs


def _cost(variant: str, facts: list[dict[str, Any]]) -> Cost:
    """Medians over runs, the memory's highest; null where no run says, as of exports."""

    def numbers(key: str) -> list[float]:
        return [float(fact[key]) for fact in facts if isinstance(fact.get(key), int | float)]

    medians = {
        key: median(found) if (found := numbers(key)) else None
        for key in Cost.model_fields
        if key not in ("variant", *EXPORTED)
    } | dict.fromkeys(EXPORTED)
    memory = max(numbers("peak_memory_bytes"), default=None)
    return Cost.model_validate(medians | {"variant": variant, "peak_memory_bytes": memory})


def _cases(cases: PreparedCases, scores: pd.DataFrame) -> Cases:
    ids = list(dict.fromkeys(scores["id"]))
    dice: dict[str, dict[str, list[float | None]]] = {}
    for (variant, seed), run in scores.groupby(["variant", "seed"], sort=False):
        found = run.set_index("id")["dice"].loc[ids]
        dice.setdefault(str(variant), {})[str(seed)] = _rounded(found.to_numpy())

    def means(metric: str) -> pd.DataFrame:
        """Over seeds: a row a case, a column a variant."""
        table = scores.assign(value=scores[metric].replace([np.inf, -np.inf], np.nan))
        return table.pivot_table(
            index="id",
            columns="variant",
            values="value",
            sort=False,
            dropna=False,
            aggfunc=lambda values: values.mean(skipna=False),
        ).loc[ids]

    def by_variant(metric: str) -> dict[str, list[float | None]]:
        return {str(name): _rounded(column.to_numpy()) for name, column in means(metric).items()}

    return Cases(
        ids=ids,
        lesion_share=[
            round(float(cases.masks[place].mean()), DECIMALS) for place in _places(cases, ids)
        ],
        dice=dice,
        iou=by_variant("iou"),
        focal_loss=by_variant("focal_loss"),
        disagreement=_rounded(means("dice").to_numpy().std(axis=1)),
    )


def _rounded(values: Values) -> list[float | None]:
    return [None if found is None else round(found, DECIMALS) for found in map(_finite, values)]


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _histories(study: Study) -> dict[str, dict[str, dict[str, list[float | None]]]]:
    histories = read_histories(study)
    found: dict[str, dict[str, dict[str, list[float | None]]]] = {}
    for (variant, seed), run in histories.groupby(["variant", "seed"], sort=False):
        columns = run.drop(columns=["variant", "seed", *CLOCK], errors="ignore")
        found.setdefault(str(variant), {})[str(seed)] = {
            str(name): [_finite(value) for value in column] for name, column in columns.items()
        }
    return found


def _environment(facts: Iterable[dict[str, Any]]) -> dict[str, str]:
    """What the runs say about where they ran; several values, `; ` between, where they differ."""
    stated: dict[str, dict[str, None]] = {}  # name -> its values, each once, in order
    for run in facts:
        versions = run.get("versions")
        found = {
            "commit": _commit(run),
            "device": run.get("device"),
            "precision": run.get("precision"),
            "threads": run.get("threads"),
            "platform": run.get("platform"),
            "python": run.get("python"),
            **(versions if isinstance(versions, dict) else {}),
        }
        for name, value in found.items():
            if value is not None:
                stated.setdefault(name, {})[str(value)] = None
    return {name: "; ".join(values) for name, values in stated.items()}


def _commit(run: dict[str, Any]) -> str:
    commit = run.get("commit")
    if not commit:
        return "not recorded, so that its sources cannot be told"
    return f"{commit} with uncommitted changes" if run.get("dirty") else str(commit)


if __name__ == "__main__":
    run_command(lambda: main(wants_partial("Compare the variants.")))
