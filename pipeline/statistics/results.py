"""reports/results.json: every number of the report, in a documented form, enough to redraw it.

The schema is docs/results-schema.json, made from the classes below. A null stands where a figure
cannot be concluded; `notes` say why: of two to six runs, or where too few did not fail, nothing is
(comparison.descriptive). Dice points are units of Dice: 0.005 is half a point.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pipeline.study.errors import UserError, first_fault
from pipeline.study.files import write_json
from pipeline.study.paper import Paper
from pipeline.study.params import Run, Study
from pipeline.study.values import HEADLINES, Averaging

SCHEMA_VERSION: Literal[4] = 4


class Record(BaseModel):
    """A part of the file: no unknown key, no conversion of types, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @field_validator("schema_version", mode="before", check_fields=False)
    @classmethod
    def _whole(cls, version: Any) -> Any:
        if type(version) is not int:  # true and 1.0 equal 1
            raise ValueError("input should be a whole number")
        return version


class Interval(Record):
    """95 % unless its owner says otherwise; low <= high, in the metric's units."""

    low: float
    high: float
    scale: Literal["plain", "logit", "log"] = Field(
        default="plain",
        description="on which it reaches as far to either side: that of a metric between 0 and 1 "
        "the logit, of one that is above 0 alone the log (crossed.around); of differences, and of "
        "what has no known bounds or lies at one, the metric's own",
    )


class Estimate(Record):
    """A variant's metric over its seeds."""

    variant: str
    metric: str
    mean: float | None = Field(description="over all runs, failed ones with them")
    standard_deviation: float | None = Field(description="over seeds, n - 1; null for one seed")
    typical: float | None = Field(
        description="of a typical run: the mean over runs that did not fail, of seven or more "
        "without a tenth, one at least, at either end"
    )
    interval: Interval | None = Field(
        description="of the typical run over seeds and cases: winsorised two-way error, t; of one "
        "run over cases alone; null for two to six runs, or fewer than four that did not fail"
    )
    seeds: int
    cases: int
    paper: float | None = Field(None, description="the paper's figure; null where it prints none")
    paper_rounding: float | None = Field(
        None, description="half a unit of that figure's last decimal"
    )
    paper_interval: Interval | None = Field(
        None,
        description="where the paper's figure would lie if its runs were such as these: prediction "
        "interval of the mean of as many more runs that do not fail, on another test set, of as "
        "many cases as the paper says (else one run, and as many cases as here); 95 % for all the "
        "paper's figures of the metric together; null likewise, and for one run",
    )

    @property
    def paper_lies(self) -> Literal["inside", "above", "below"] | None:
        """Where the paper's figure, as far as it is rounded, lies to the interval."""
        if self.paper is None or self.paper_interval is None:
            return None
        rounding = self.paper_rounding or 0.0
        if self.paper - rounding > self.paper_interval.high:
            return "above"
        return "below" if self.paper + rounding < self.paper_interval.low else "inside"


def _estimate(estimates: Sequence[Estimate], variant: str, metric: str) -> Estimate:
    for found in estimates:
        if (found.variant, found.metric) == (variant, metric):
            return found
    raise KeyError((variant, metric))


class FailureRate(Record):
    """How often a variant's runs fail: by more than `drop` below their upper quartile."""

    variant: str
    runs: int
    failed: list[int] = Field(description="their seeds")
    rate: float | None = Field(description="null below five runs, of which none is called failed")
    interval: Interval | None = Field(description="of the rate: Clopper and Pearson's, exact")
    upper_quartile: float | None = Field(description="the upper quartile of the runs' mean Dice")
    drop: float = Field(
        description="compare.failure_drop, or four robust standard deviations of a run if larger"
    )
    mean_interval: Interval | None = Field(
        None,
        description="of the mean over all runs, with as many failures as the rate's interval "
        "allows, each as deep as the metric goes; null below seven runs, or four that did not fail",
    )


class AveragedEstimate(Record):
    """Averaged probabilities of a variant in one metric, beside its single networks.

    With `flips` each seed's network is averaged over an image's four flips. An ensemble (`seeds`,
    `seeds_and_flips`) is of all seeds' networks: there is one, so how much another choice of seeds
    would change it is not known, and its intervals do not hold it.
    """

    variant: str
    averaging: Averaging
    metric: str
    runs: int = Field(description="what was scored: one a seed, or the one ensemble")
    cases: int
    mean: float | None
    standard_deviation: float | None = Field(
        description="over seeds, n - 1; null for one seed and for an ensemble"
    )
    interval_over: Literal["seeds and cases", "cases"] = Field(
        description="what both intervals are over: as of estimates, of a typical run; or, "
        "of an ensemble, cases alone, Student's t"
    )
    interval: Interval | None = Field(
        description="of the mean; null for flips of one seed, and where the variant's estimate has "
        "none"
    )
    difference: float | None = Field(
        description="from the variant's single networks: with flips that of a typical run, else "
        "from their mean"
    )
    difference_interval: Interval | None = Field(
        description="paired by case, and by seed too where it is over seeds; each for itself"
    )


# What is concluded of a table, by the names of its records' fields.
INFERENCE = {
    "interval", "p_value", "adjusted_p_value", "shown", "equivalence_p_value", "equivalent",
    "superiority", "superiority_interval", "false", "false_over_cases", "anova_f", "anova_p_value",
    "friedman_statistic", "friedman_p_value", "critical_difference",
}  # fmt: skip
Described = TypeVar("Described", bound=Record)


def without_inference(record: Described) -> Described:
    """The record with a null for each of INFERENCE, as of runs too few to conclude from: what is
    left describes them."""
    nulls = dict.fromkeys(INFERENCE & type(record).model_fields.keys())
    return record.model_copy(update=nulls)


class Pairing(Record):
    """Whether a seed's runs are compared with each other (the rule is fixed beforehand)."""

    correlation: float | None = Field(
        description="Spearman's, of the variants' seed means, mean over all pairs of variants"
    )
    threshold: float = Field(description="from here on seeds pair the variants")
    paired: bool
    test: str = Field(description="the test whose adjusted p-value is given, in words")


class Pair(Record):
    """Two variants; `difference` is that of their typical runs, first less second. With two to six
    seeds, or fewer than four runs of a variant that did not fail, all else is null but what decides
    it."""

    first: str
    second: str
    difference: float
    interval: Interval | None = Field(
        description="winsorised two-way error of the difference, t; with one seed over cases alone"
    )
    p_value: float | None = Field(
        description="that the difference is 0 for all such seeds and cases; unadjusted"
    )
    adjusted_p_value: float | None = Field(
        description="family-wise over all pairs: Tukey's studentized range, each pair with its own "
        "error and degrees of freedom (Games and Howell 1976); Holm where seeds are not all "
        "common, and with one seed"
    )
    shown: bool | None = Field(description="adjusted p below 0.05; null with one seed")
    equivalence_p_value: float | None = Field(
        description="two one-sided tests with the same error; Holm over all pairs"
    )
    equivalent: bool | None
    superiority: float | None = Field(
        description="P(a run of first beats a run of second), failed ones with them, ties half: "
        "the share of common seeds in which it does (Bouthillier et al. 2021)"
    )
    superiority_interval: Interval | None = Field(
        description="Clopper and Pearson's; exact without ties"
    )
    false: float | None = Field(
        None,
        description="probability that it is false that first is the better one, over seeds and "
        "cases: Student's t of the difference in errors, with nothing known beforehand",
    )
    false_over_cases: float | None = Field(
        None, description="the same for these very runs, over cases alone (arXiv 2505.04720)"
    )
    deciding_cases: int | None = Field(
        None,
        description="the fewest cases without which the difference has the other sign; null where "
        "no removal turns it",
    )


class Effect(Record):
    """A main effect, or the interaction of two factors, of a crossed design on typical runs, in the
    metric's units."""

    factors: list[str] = Field(description="one of a main effect, two of an interaction")
    difference: float
    interval: Interval | None = Field(description="winsorised two-way error of the contrast, t")
    p_value: float | None = Field(description="that it is 0; unadjusted")
    adjusted_p_value: float | None = Field(description="Holm over all effects")
    shown: bool | None


class Ranks(Record):
    """All variants together, on the means of all runs, failed ones too; rank 1 is the best."""

    anova_f: float | None
    anova_p_value: float | None = Field(description="repeated-measures ANOVA")
    friedman_statistic: float | None
    friedman_p_value: float | None
    average: dict[str, float]
    critical_difference: float | None = Field(description="Nemenyi's at 0.05 (Demsar 2006)")
    groups: list[list[str]] = Field(
        description="largest sets of variants whose average ranks lie within it; empty without it"
    )


class OrderingShare(Record):
    """An ordering, best first, and the share of bootstrap draws in which it came out."""

    variants: list[str]
    share: float


class Ordering(Record):
    """Bootstrap over seeds and cases of the means of runs that did not fail. Shares, no tests. What
    is observed alone where comparison.descriptive: nothing is drawn."""

    draws: int = Field(description="0 where nothing is drawn")
    observed: list[str]
    shares: list[OrderingShare] = Field(description="the most frequent, at most ten")
    distinct: int = Field(description="orderings that came out at all")
    best: dict[str, float] = Field(description="share of draws in which a variant is the best")
    paper: list[str] = Field(description="the paper's ordering of the variants that it reports")
    paper_share: float | None
    kendall_tau: float | None = Field(description="of the observed means to the paper's")
    kendall_tau_interval: Interval | None


class Variance(Record):
    """Components of a case's score, in squared units of the metric (seeds within variants)."""

    variant: float
    seed: float
    case: float
    rest: float


class Tail(Record):
    """A variant's hardest cases."""

    variant: str
    worst_mean: float | None = Field(
        description="mean of the worst 5 % of cases, mean over seeds each"
    )
    below_threshold: float | None = Field(
        description="share of scored cases with IoU below the threshold"
    )


class Power(Record):
    """What the study can show, and what it would take to show more."""

    power: float
    standard_deviation: float | None = Field(
        description="over seeds, of runs that did not fail, or of their paired differences; null "
        "where too few did not fail"
    )
    detectable: float | None = Field(
        description="smallest difference of typical runs that is shown with that power; null where "
        "comparison.descriptive"
    )
    gap: float | None = Field(description="between the paper's two best figures of these variants")
    seeds_for_gap: int | None = Field(
        description="that show it, with as many test cases; null where no number up to 1,000 does"
    )
    seeds_for_margin: int | None = Field(description="that show equivalence_margin; likewise")
    failure_rate: float = Field(description="one to be ruled out")
    seeds_for_failure_rate: int = Field(description="without a failed run that show a lower one")


class Comparison(Record):
    """The variants against each other in the primary metric. With one seed all is over cases alone:
    what another seed would give is not in it."""

    metric: str
    variants: list[str]
    seeds: list[int] = Field(description="those that every variant has")
    cases: int
    groups: int | None = Field(
        None,
        description="of cases that belong together (near-duplicates, prepare.groups): errors over "
        "cases, in all of the file, take those of one as one; null where each is of its own",
    )
    descriptive: bool = Field(
        default=False,
        description="whether there are several runs of each variant and too few to conclude from: "
        "two to six seeds, or of a variant fewer than four that did not fail; where not all have "
        "the same seeds, whether that is so of every pair",
    )
    notes: list[str] = Field(description="what cannot be concluded, and why")
    pairing: Pairing | None
    pairs: list[Pair]
    baseline: str | None
    equivalence_margin: float | None = Field(
        description="null where nothing is called equal: none fits the metric"
    )
    better: Literal["higher", "lower"] = Field(
        "higher",
        description="of the metric; where lower is better differences are of its negative, so that "
        "they are above 0 where first is the better one",
    )
    claims: list[tuple[str, str]] = Field(
        [], description="of the paper: the better variant, then the worse, both compared here"
    )
    design: dict[str, list[str]] = Field(
        {}, description="variant -> the factors that it has; empty without effects"
    )
    factorial: list[Effect]
    ranks: Ranks | None
    ordering: Ordering | None
    variance: Variance | None
    power: Power | None

    @property
    def over(self) -> str:
        """What the pairs' intervals are over, in words."""
        one_run = [pair.false is None and pair.false_over_cases is not None for pair in self.pairs]
        return "cases alone" if one_run and all(one_run) else "seeds and cases"


class RunResult(Record):
    """A run's metrics, and what it cost; null where a fact was not recorded."""

    variant: str
    seed: int
    metrics: dict[str, float | None]
    cost: dict[str, float | None]


class Cost(Record):
    """A variant's runs: medians over runs, the memory's highest."""

    variant: str
    parameters: float | None
    gflops: float | None = Field(description="a forward pass of one image")
    images_per_second: float | None = Field(
        description="in training: a run's median epoch, the median over runs"
    )
    validation_images_per_second: float | None = Field(description="likewise, with losses and Dice")
    seconds_per_epoch: float | None = Field(description="likewise, training and validation")
    wall_seconds: float | None = Field(description="of a whole training, the median over runs")
    peak_memory_bytes: float | None = Field(description="the highest of all runs")
    exported_bytes: int | None = Field(
        None, description="of model.onnx, of the first seed and fold; null where it is not exported"
    )
    cpu_milliseconds: float | None = Field(
        None, description="an image in ONNX Runtime on one thread, the median; null likewise"
    )
    cpu: str | None = Field(None, description="the processor that took them; null likewise")


class Cases(Record):
    """The test cases: lists in the order of `ids`."""

    ids: list[str]
    lesion_share: list[float] = Field(description="of the pixels, or voxels")
    dice: dict[str, dict[str, list[float | None]]] = Field(description="variant -> seed -> a case")
    iou: dict[str, list[float | None]] = Field(description="variant -> a case, mean over seeds")
    focal_loss: dict[str, list[float | None]]
    disagreement: list[float | None] = Field(
        description="standard deviation over variants of the Dice, mean over seeds"
    )


class Subgroup(Record):
    """A variant's primary metric on the test cases of one group."""

    grouping: str
    group: str
    cases: int
    groups: int | None = Field(None, description="of these cases, as of comparison")
    variant: str
    typical: float | None = Field(description="of a typical run")
    interval: Interval | None = Field(
        description="of the typical run over seeds and such cases, as of estimates, and null where "
        "those are; of one seed over cases alone. Each alone, not family-wise. Null below ten "
        "cases, or groups of cases"
    )


class Bin(Record):
    """Pixels whose probability lies in one of equal bins, those of all test cases and seeds."""

    pixels: int
    probability: float | None = Field(description="mean; null without pixels")
    observed: float | None = Field(description="share of them that is lesion")


class Calibration(Record):
    """Whether a variant's probabilities mean what they say."""

    variant: str
    expected_calibration_error: float = Field(description="of a run, mean over seeds")
    bins: list[Bin]


class ThresholdSweep(Record):
    """A variant's mean Dice over validation cases at each threshold; no test case has a part."""

    variant: str
    thresholds: list[float]
    dice: list[float] = Field(description="mean over seeds")
    best: float = Field(description="threshold of the largest; of several the middle one")
    best_dice: float
    study_dice: float = Field(description="at the threshold nearest to evaluate.threshold")


class StudyRecord(Record):
    """What was compared: figures of two files compare only where all of these are equal."""

    name: str
    synthetic: bool
    variants: list[str]
    seeds: list[int]
    folds: list[int]
    cases_sha256: str = Field(description="of the test cases' ids and prepared masks")
    external: dict[str, str] = Field({}, description="external test set -> the same of its cases")
    definitions: dict[str, str] = Field(description="metric -> its definition with constants")
    both_empty: int = Field(description="scored cases with no lesion in truth and prediction")
    both_empty_of: int


class MissingRun(Record):
    """A run that was not trained and evaluated yet."""

    variant: str
    seed: int
    fold: int


class Change(Record):
    """From the study's own test cases to those of an external set: of one variant its typical run,
    of two the difference of theirs, first less second."""

    variants: list[str]
    here: float = Field(description="on the study's own test cases")
    there: float
    change: float = Field(description="there less here")
    interval: Interval | None = Field(
        description="over seeds, which move both, and the cases of both sets, t; null where "
        "comparison.descriptive"
    )
    p_value: float | None = Field(description="that there is no change; unadjusted")
    adjusted_p_value: float | None = Field(
        description="Holm, over all variants or over all pairs of the set"
    )
    shown: bool | None


class ExternalRun(Record):
    """A run's metrics on an external test set, means over its cases."""

    variant: str
    seed: int
    metrics: dict[str, float | None]


class ExternalSet(Record):
    """An external test set: the same networks on other cases. Runs that failed are those that
    failed on the study's own."""

    name: str
    cases: int
    of_the_study: int = Field(description="cases not scored because the study has them, too")
    unusable: int = Field(description="cases left out for what is wrong with their files")
    estimates: list[Estimate] = Field(description="metrics of single cases; no figure of a paper")
    comparison: Comparison
    changes: list[Change] = Field(
        description="of each variant, then of each pair; empty where there are too few runs or "
        "cases"
    )
    runs: list[ExternalRun]

    def estimate(self, variant: str, metric: str) -> Estimate:
        """Raises KeyError where there is none."""
        return _estimate(self.estimates, variant, metric)


class TunedVariant(Record):
    """A variant in the primary metric at the best of its settings, which each seed's run has from
    the validation of the other seeds; of one seed from its own."""

    variant: str
    settings: list[str] = Field(description="variants that are its settings, itself first")
    validation_dice: dict[str, float] = Field(
        description="setting -> mean over validation cases and seeds, after the epoch whose "
        "weights are evaluated"
    )
    chosen: dict[str, int] = Field(description="setting -> seeds whose run is of it")
    failed: list[int] = Field(description="seeds whose chosen run failed; they are set aside")
    typical: float | None = Field(description="of a typical run of those chosen")
    interval: Interval | None = Field(
        description="as of estimates, and with the error of the choices: jackknife over seeds; of "
        "one seed over cases alone"
    )
    gain: float | None = Field(
        description="from a typical run at its own settings; null where it has no others"
    )
    gain_interval: Interval | None = Field(
        description="paired by seed and case; each for itself; null likewise"
    )


class Tuning(Record):
    """The variants of `comparison`, each at the best of its settings by validation."""

    variants: list[TunedVariant]
    comparison: Comparison = Field(
        description="pairs alone, with the error of the choices; of chosen runs, not of a variant's"
    )


class Partial(Record):
    """That the comparison is of a part of the study, and of which."""

    runs: int = Field(description="compared")
    of: int = Field(description="runs that the study has")
    folds: int = Field(description="that each variant and seed of the study has")
    waiting: int = Field(description="evaluated, and left out because a fold of their seed is not")
    missing: list[MissingRun]

    def sentences(self) -> list[str]:
        """What a reader must know first."""
        told = f"Partial: {self.runs} of {self.of} runs."
        if self.waiting:
            told += f" Waiting for the other folds of their seed: {self.waiting} more."
        missing = self._missing_in_words()
        return [
            told,
            *([f"Missing: {missing}."] if missing else []),
            "Do not stop the study because of these figures: a test that is looked at again and "
            "again finds too much.",
        ]

    def _missing_in_words(self) -> str:
        """`unet seeds 3 to 9; resunet seed 0 (fold 1)`"""
        variants: dict[str, dict[int, list[int]]] = {}
        for run in self.missing:
            variants.setdefault(run.variant, {}).setdefault(run.seed, []).append(run.fold)
        parts = []
        for variant, seeds in variants.items():
            whole = [seed for seed, folds in seeds.items() if len(folds) == self.folds]
            told = [_ranges("seed", whole)] if whole else []
            told += [
                f"{_ranges('seed', [seed])} ({_ranges('fold', folds)})"
                for seed, folds in seeds.items()
                if len(folds) < self.folds
            ]
            parts.append(f"{variant} {', '.join(told)}")
        return "; ".join(parts)


def _ranges(noun: str, numbers: Sequence[int]) -> str:
    """`seeds 0, 1, 4 to 9`; numbers ascending, or as params.yaml has them."""
    groups: list[list[int]] = []
    for number in numbers:
        if groups and number == groups[-1][-1] + 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    told = [
        f"{group[0]} to {group[-1]}" if len(group) > 2 else ", ".join(map(str, group))
        for group in groups
    ]
    return f"{noun}{'s' if len(numbers) > 1 else ''} {', '.join(told)}"


class Results(Record):
    """reports/results.json."""

    schema_version: Literal[4]
    partial: Partial | None = Field(
        default=None, description="absent where the comparison is of the whole study"
    )
    study: StudyRecord
    params: dict[str, Any] = Field(description="params.yaml")
    paper: Paper | None = Field(None, description="what the study is held against")
    environment: dict[str, str]
    answer: str = Field(description="to the study's question, in one sentence")
    verdict: list[str] = Field(description="sentences generated from the figures")
    estimates: list[Estimate]
    failures: list[FailureRate] = Field(description="of each variant, in the primary metric")
    averaged: list[AveragedEstimate] = Field([], description="empty where params.averaging is")
    comparison: Comparison
    external: list[ExternalSet] = Field(
        [], description="in the order of evaluate.external; none of a part of a study"
    )
    tuning: Tuning | None = Field(
        None, description="null where no variant has settings, and of a part of a study"
    )
    tails: list[Tail]
    groupings: dict[str, str] = Field(description="grouping of subgroups -> what its groups are of")
    subgroups: list[Subgroup]
    calibration: list[Calibration]
    thresholds: list[ThresholdSweep]
    runs: list[RunResult]
    costs: list[Cost]
    cases: Cases
    histories: dict[str, dict[str, dict[str, list[float | None]]]] = Field(
        description="variant -> seed -> column of history.csv -> an epoch"
    )

    @property
    def setting_of(self) -> dict[str, str]:
        """A variant that is a further setting of another -> that one."""
        tuning: dict[str, list[str]] = self.params.get("tuning", {})
        return {name: variant for variant, names in tuning.items() for name in names}

    def estimate(self, variant: str, metric: str) -> Estimate:
        """Raises KeyError where there is none."""
        return _estimate(self.estimates, variant, metric)

    def scores(self) -> pd.DataFrame:
        """A row a variant, seed and case: variant, seed, id, dice (NaN where it has none)."""
        tables = [
            pd.DataFrame(
                {"variant": variant, "seed": int(seed), "id": self.cases.ids, "dice": dice}
            )
            for variant, runs in self.cases.dice.items()
            for seed, dice in runs.items()
        ]
        return pd.concat(tables, ignore_index=True).astype({"dice": float})

    def curves(self) -> pd.DataFrame:
        """A row a variant, seed and epoch: variant, seed and the columns of history.csv."""
        tables = [
            pd.DataFrame(columns).assign(variant=variant, seed=int(seed))
            for variant, runs in self.histories.items()
            for seed, columns in runs.items()
        ]
        return pd.concat(tables, ignore_index=True)


def save_results(path: Path, results: Results) -> None:
    absent = {"partial"} if results.partial is None else None
    write_json(path, results.model_dump(mode="json", exclude=absent), indent=None)


def headlines(results: Results) -> dict[str, Any]:
    """reports/summary.json, DVC's metric of a study: the best variant by mean Dice, of those that
    are no further settings of another, the test cases, and of each variant the mean over seeds and
    its standard deviation in HEADLINES; the same of each external test set, where there is one."""
    dice = {
        variant: mean
        for variant in results.study.variants
        if variant not in results.setting_of
        if (mean := results.estimate(variant, HEADLINES[0]).mean) is not None
    }
    figures: dict[str, Any] = {
        "best": max(dice, key=lambda variant: dice[variant], default=None),
        "test_cases": len(results.cases.ids),
    }
    figures |= _means(results, results.study.variants)
    for each in results.external:
        figures.setdefault("external", {})[each.name] = {
            "test_cases": each.cases,
            **_means(each, results.study.variants),
        }
    return figures


def _means(found: Results | ExternalSet, variants: Sequence[str]) -> dict[str, Any]:
    """metric of HEADLINES -> variant -> its mean over seeds and standard deviation."""
    estimates = {
        metric: {variant: found.estimate(variant, metric) for variant in variants}
        for metric in HEADLINES
    }
    return {
        metric: {
            variant: {"mean": _short(each.mean), "sd": _short(each.standard_deviation)}
            for variant, each in of_variants.items()
        }
        for metric, of_variants in estimates.items()
    }


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 5)


def load_results(
    path: Path, params: Mapping[str, Any] | None = None, *, partial: bool = False
) -> Results:
    """Raises UserError for a file that is missing, no JSON or not of this schema, where `params`
    are given for one that was made with others, and for one of a part of a study where the whole
    is wanted, or the other way round."""
    stage = "the command python -m pipeline.compare --partial" if partial else "the stage compare"
    try:
        results = Results.model_validate_json(path.read_bytes())
    except OSError as error:
        reason = error.strerror
        raise UserError(f"{path} cannot be read ({reason}); run {stage}") from None
    except ValidationError as invalid:
        raise UserError(f"{path}: {first_fault(invalid)}; run {stage} again") from None
    if params is not None and results.params != params:
        raise UserError(f"{path} was made with another params.yaml; run {stage}")
    if partial != (results.partial is not None):
        found = "the whole study" if partial else "a part of the study"
        raise UserError(f"{path} is of {found}; run {stage}")
    return results


def open_results(study: Study, partial: bool) -> tuple[Study, Results]:
    """results.json and what it is of: the study, or the part of it that was compared by
    `python -m pipeline.compare --partial`, whose results lie elsewhere. Raises UserError."""
    params = study.model_dump(mode="json")
    if not partial:
        return study, load_results(study.results_file, params)
    results = load_results(study.partial_dir / "results.json", params, partial=True)
    assert results.partial is not None
    missing = [Run(run.variant, run.seed, run.fold) for run in results.partial.missing]
    return study.without(missing), results


def schema() -> str:
    """docs/results-schema.json."""
    return json.dumps(Results.model_json_schema(), indent=2) + "\n"
