"""The comparison as tables: what stands in them.

Every number is one of results.json's. A column's figures have the same decimals, as many as its
narrowest interval allows; a column without a figure is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from pipeline.statistics.definitions import AVERAGED, PRIMARY, Better, metric_of, say
from pipeline.statistics.results import (
    AveragedEstimate,
    Comparison,
    Cost,
    Estimate,
    ExternalSet,
    FailureRate,
    Interval,
    Pair,
    Results,
    Tuning,
)
from pipeline.statistics.rounding import MOST, decimals, decimals_of, shown, width
from pipeline.statistics.verdict import cases_of, find_pair, probability
from pipeline.study.paper import Paper, levels
from pipeline.study.values import HEADLINES, Averaging, quantity

DASH = "\N{EN DASH}"
BOUNDARY_METRICS = (
    "hausdorff_95", "surface_dice", "boundary_iou", "brier", "expected_calibration_error",
)  # fmt: skip
NATIVE_METRICS = ("native_dice", "native_iou", "native_thresholded_jaccard")
NATIVE_DISTANCES = ("native_hausdorff_95", "native_surface_dice")  # of volumes
OTHER_METRICS = ("sensitivity", "specificity", "thresholded_jaccard", "pooled_dice")

AVERAGINGS: dict[Averaging, str] = {  # averaging in params.yaml -> what a reader calls it
    "flips": "four flips",
    "seeds": "all seeds",
    "seeds_and_flips": "all seeds, four flips",
}

BOLD = "Bold marks the best of a column, by the figures as they are shown. "
DECIDED = (
    "The fewest cases without which the order of the two turns round; a dash where no removal "
    "turns it."
)
SYNTHETIC = "Synthetic lesions: the figures say nothing about real ones."


@dataclass(frozen=True)
class Cell:
    """Plain text, escaped by each writer for its format."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Row:
    """A line: what it is of, most often a variant; `paper` is the variant's row in the paper, where
    the table names it."""

    name: str
    paper: str | None
    cells: list[Cell]


@dataclass(frozen=True)
class Table:
    """A table for readers; `caption` names the definition and the sample, `header` the cells.

    subject: the title of the rows' names. bold: whether its best means are marked. notes: a
    column's title, and what it means.
    """

    key: str  # labels it in LaTeX and HTML
    caption: str
    header: list[str]
    rows: list[Row]
    subject: str = "Variant"
    bold: bool = False
    notes: list[tuple[str, str]] = field(default_factory=list)

    @property
    def texts(self) -> list[list[str]]:
        """The columns of text at the left, each with its title first."""
        columns = [[self.subject, *(row.name for row in self.rows)]]
        papers = [row.paper for row in self.rows if row.paper is not None]
        if papers:
            columns.append(["Paper's row", *papers])
        return columns


@dataclass(frozen=True)
class Column:
    """A title, a cell a row, and what the column means where the title does not say it."""

    title: str
    cells: list[Cell]
    note: str = ""


def _column(title: str, texts: Sequence[str], note: str = "") -> Column:
    return Column(title, [Cell(text) for text in texts], note)


def _table(
    key: str,
    caption: str,
    names: Sequence[str],
    columns: Sequence[Column],
    *,
    subject: str = "Variant",
    told: str = "",
    papers: Sequence[str | None] | None = None,
    bold: bool = False,
) -> Table:
    """Columns turned into rows; one without any figure is left out, and its note with it. told:
    what the subject means."""
    filled = [each for each in columns if any(cell.text != DASH for cell in each.cells)]
    rows = [
        Row(name, None if papers is None else papers[place], [own.cells[place] for own in filled])
        for place, name in enumerate(names)
    ]
    notes = [(subject, told), *((each.title, each.note) for each in filled)]
    notes = [(title, note) for title, note in notes if note]
    return Table(key, caption, [each.title for each in filled], rows, subject, bold, notes)


def all_tables(results: Results) -> list[Table]:
    """Those that the study has something to fill with, most important first."""
    tables = [
        main_table(results),
        failures_table(results),
        claims_table(results.comparison),
        pairs_table(results.comparison),
        effects_table(results.comparison),
        paper_table(results),
        averaging_table(results),
        other_table(results),
        boundary_table(results),
        native_table(results),
        thresholds_table(results),
        *settings_tables(results),
        *external_tables(results),
        *subgroup_tables(results),
        cost_table(results.costs),
    ]
    depth = results.params["prepare"]["depth"]
    return [_said(table, depth) for table in tables if table.rows]


def _said(table: Table, depth: int | None) -> Table:
    """A table with its words said of volumes where there are any."""
    notes = [(title, say(note, depth)) for title, note in table.notes]
    return replace(table, caption=say(table.caption, depth), notes=notes)


def main_table(results: Results, metrics: Sequence[str] = HEADLINES) -> Table:
    """These metrics, and those that the paper prints beside its figures; variants as in
    params.yaml."""
    variants, paper = results.study.variants, results.paper
    columns = []
    if len(set(_seeds(results))) > 1:
        columns.append(_column("Seeds", [str(number) for number in _seeds(results)]))
    scored = {found.metric for found in results.estimates}
    printed = [] if paper is None else [name for name in paper.metrics() if name in scored]
    told = False  # what stands behind the paper's figures
    for metric in dict.fromkeys((*metrics, *printed)):
        label = metric_of(metric).label
        estimates = [results.estimate(variant, metric) for variant in variants]
        cases = estimates[0].cases
        if cases != len(results.cases.ids):
            label += f", {quantity(cases, 'case')}"
        primary = metric == results.comparison.metric
        note = "What all runs give, failed ones with them." if primary and _several(results) else ""
        better, settings = _better(results, metric), results.setting_of
        columns.append(_means(label, estimates, better, note, left_out=settings))
        if primary:
            columns += _of_runs(results, estimates)
        figures = {} if paper is None else paper.figures(metric)
        if paper is not None and figures:
            note = "" if told else _papers_figures(paper)
            told = True
            texts = [figures.get(name, DASH) for name in variants]
            columns.append(_column(f"{label}, paper", texts, note))
    what = " and ".join(metric_of(metric).label for metric in metrics)
    if metrics == HEADLINES:
        what = "Per-case Dice and IoU, and focal loss"
    caption = f"{what}, on {_cases(results)}: {_over_seeds(results)}."
    papers = [None if paper is None else label_of(paper, variant) for variant in variants]
    note = _settings_told(results)
    return _table("comparison", caption, variants, columns, papers=papers, bold=True, told=note)


def _settings_told(results: Results) -> str:
    """Which variants are settings of another, and not compared; nothing where none is."""
    settings: dict[str, list[str]] = {}
    for name in results.study.variants:
        if (variant := results.setting_of.get(name)) is not None:
            settings.setdefault(variant, []).append(name)
    told = [f"{' and '.join(names)} of {variant}" for variant, names in settings.items()]
    return f"Settings, which are not compared with others: {'; '.join(told)}." if told else ""


def _of_runs(results: Results, estimates: Sequence[Estimate]) -> list[Column]:
    """What stands beside the mean of the primary metric, of typical runs and of all of them."""
    variants, metric = results.study.variants, results.comparison.metric
    if not _several(results):
        alone = "Where the run's mean may lie with other cases. No other seed is in it."
        return [_intervals(estimates, alone)]
    columns = []
    if any(number(found.typical) != number(found.mean) for found in estimates):
        note = (
            "What a run gives that does not fail: the mean over those runs. Of seven or more a "
            "tenth, one at least, is left out at either end."
        )
        better, settings = _better(results, metric), results.setting_of
        columns.append(_typical(estimates, better, note, left_out=settings))
    if any(found.interval is not None for found in estimates):
        note = "Where the typical run may lie with other seeds and cases."
        columns.append(_intervals(estimates, note))
    else:
        own = [_scores(results, variant, metric) for variant in variants]
        digits = decimals_of(estimates)
        texts = [
            f"{number(min(runs), digits)} to {number(max(runs), digits)}" if runs else DASH
            for runs in own
        ]
        columns.append(_column("Lowest to highest run", texts, "Of too few seeds for an interval."))
    ranks = results.comparison.ranks
    averages = {} if ranks is None else ranks.average
    ranked = [f"{averages[name]:.2f}" if name in averages else DASH for name in variants]
    return [
        *columns,
        _column(
            "Failed runs",
            [failed_of(results, name) for name in variants],
            "How many lie far below their variant's upper quartile.",
        ),
        _column(
            "Rank", ranked, "The average over seeds, of all runs, failed ones with them; 1 is best."
        ),
    ]


def _scores(results: Results, variant: str, metric: str) -> list[float]:
    """Of the variant's runs that have one."""
    return [
        value
        for run in results.runs
        if run.variant == variant and (value := run.metrics.get(metric)) is not None
    ]


def failures_table(results: Results) -> Table:
    """How often a variant's runs fail; no row where no variant has five runs."""
    metric = results.comparison.metric
    label = metric_of(metric).label
    rated = any(found.interval is not None for found in results.failures)
    failures = results.failures if rated else []
    drop = f"{results.params['compare']['failure_drop']:g}" if rated else ""
    estimates = [results.estimate(found.variant, metric) for found in failures]
    own = decimals_of(estimates)
    of_means = decimals(width(found.mean_interval) for found in failures)
    columns = [
        _column(
            "Failed runs",
            [DASH if found.interval is None else _failed(found) for found in failures],
            f"Those whose {label} lies below the upper quartile of the variant's runs by more than "
            "the drop. Of fewer than five runs none is called failed.",
        ),
        _column(
            "Rate",
            [_figure(found.rate, 100, ".1f", " %") for found in failures],
            "The share of runs that failed.",
        ),
        _column(
            "95 % interval of the rate",
            [
                DASH
                if found.interval is None
                else f"{100 * found.interval.low:.1f} to {100 * found.interval.high:.1f} %"
                for found in failures
            ],
            "Exact (Clopper and Pearson).",
        ),
        _column("Upper quartile", [number(found.upper_quartile, own) for found in failures]),
        _column(
            "Drop",
            [f"{found.drop:.3g}" for found in failures],
            f"{drop}; where runs spread widely, four robust standard deviations of a run.",
        ),
        _column(
            "Mean over all runs",
            [number(found.mean, of_means) for found in estimates],
            "What all runs give, failed ones with them.",
        ),
        _column(
            "95 % interval of the mean",
            [_bounds(found.mean_interval, of_means) for found in failures],
            "It admits failures not yet seen: as many as the rate's interval allows, each as deep "
            f"as {label} goes. Few seeds leave it wide.",
        ),
    ]
    names = [found.variant for found in failures]
    return _table("failures", "How often does a run fail?", names, columns)


def failed_of(results: Results, variant: str) -> str:
    """`1 of 10`; a dash for fewer than five runs, of which none is called failed."""
    for found in results.failures:
        if found.variant == variant and found.interval is not None:
            return f"{len(found.failed)} of {found.runs}"
    return DASH


def _failed(found: FailureRate) -> str:
    """`1 of 10 (seed 3)`"""
    text = f"{len(found.failed)} of {found.runs}"
    if found.failed:
        several = "s" if len(found.failed) > 1 else ""
        text += f" (seed{several} {', '.join(map(str, found.failed))})"
    return text


def other_table(results: Results) -> Table:
    """The secondary metrics and the hardest cases, variants as in params.yaml."""
    variants = results.study.variants
    tails = {tail.variant: tail for tail in results.tails}
    threshold = results.params["evaluate"]["jaccard_threshold"]
    meanings = {
        "thresholded_jaccard": f"IoU, where below {threshold:g} counts as 0.",
        "pooled_dice": "Of the pixels of all cases together.",
    }
    columns = [
        *_metrics(results, OTHER_METRICS, meanings),
        _column(
            "Worst 5 %",
            [number(tails[name].worst_mean, _primary_decimals(results)) for name in variants],
            "Mean Dice of a variant's hardest cases.",
        ),
        _column(
            f"IoU below {threshold:g}",
            [_figure(tails[name].below_threshold, 100, ".1f", " %") for name in variants],
            "Share of the scored cases.",
        ),
    ]
    caption = f"Secondary metrics, on {_cases(results)}: {_over_seeds(results)}."
    return _table("secondary", caption, variants, columns, bold=True)


def boundary_table(results: Results) -> Table:
    """How well outlines are met and probabilities mean what they say."""
    evaluation = results.params["evaluate"]
    meanings = {
        "hausdorff_95": "In pixels of the prepared size; lower is better.",
        "surface_dice": f"Tolerance in pixels: {evaluation['surface_tolerance']:g}.",
        "brier": "Lower is better.",
        "expected_calibration_error": f"In {evaluation['calibration_bins']} bins; lower is better.",
    }
    columns = _metrics(results, BOUNDARY_METRICS, meanings)
    caption = f"Boundary and calibration, on {_cases(results)}: {_over_seeds(results)}."
    return _table("boundary", caption, results.study.variants, columns, bold=True)


def native_table(results: Results) -> Table:
    """The network's size beside the originals'; no row where a study scores only the first."""
    scored = {found.metric for found in results.estimates}
    variants = results.study.variants if scored >= set(NATIVE_METRICS) else []
    metrics = [m for native in NATIVE_METRICS for m in (native, native.removeprefix("native_"))]
    volumes = scored >= set(NATIVE_DISTANCES)
    metrics += NATIVE_DISTANCES if volumes else ()
    as_where = "" if volumes else ", as the ISIC 2018 challenge scores"
    caption = (
        f"At the originals' size{as_where} (native), beside the network's own size, on "
        f"{_cases(results)}: {_over_seeds(results)}."
    )
    tolerance = results.params["evaluate"]["surface_tolerance"]
    meanings = {
        "native_hausdorff_95": "In millimetres; lower is better.",
        "native_surface_dice": f"Within {tolerance:g} mm.",
    }
    columns = _metrics(results, metrics, meanings) if variants else []
    return _table("native", caption, variants, columns, bold=True)


def thresholds_table(results: Results) -> Table:
    """What the threshold would be if the validation cases chose it."""
    threshold, digits = results.params["evaluate"]["threshold"], _primary_decimals(results)
    found = results.thresholds
    columns = [
        _column("Best threshold", [f"{each.best:.2f}" for each in found]),
        _column("Validation Dice there", [number(each.best_dice, digits) for each in found]),
        _column(f"At {threshold:g}", [number(each.study_dice, digits) for each in found]),
        _column("Gain", [number(each.best_dice - each.study_dice, sign=True) for each in found]),
    ]
    caption = (
        "Thresholds swept over the validation cases alone: where the mean Dice over cases and "
        f"seeds is best. The test figures use the study's, {threshold:g}."
    )
    return _table("thresholds", caption, [each.variant for each in found], columns)


def subgroup_tables(results: Results) -> list[Table]:
    """A table a grouping: a row a group, a column a variant."""
    label = metric_of(results.comparison.metric).label
    digits = decimals(width(found.interval) for found in results.subgroups)
    if all(found.interval is None for found in results.subgroups):
        digits = _primary_decimals(results)
    tables = []
    for place, (grouping, told) in enumerate(results.groupings.items(), start=1):
        own = [found for found in results.subgroups if found.grouping == grouping]
        rows: dict[tuple[str, str], list[str]] = {}
        for found in own:
            text = number(found.typical, digits)
            if found.interval is not None:
                text += f" ({_bounds(found.interval, digits)})"
            cases = f"{found.cases:,}"
            if found.groups is not None:
                cases += f" of {quantity(found.groups, 'group')}"
            rows.setdefault((found.group, cases), []).append(text)
        of = "a typical run's mean over cases" if _several(results) else "the mean over cases"
        if any(found.interval is not None for found in own):
            over = "seeds and cases" if _several(results) else "cases alone"
            of += f", with its 95 % interval over {over}, each for itself"
        many = "Near-duplicates, and cases of a known group, count as one case."
        note = many if results.comparison.groups is not None else ""
        names = [group for group, _ in rows]
        columns = [
            _column("Cases", [cases for _, cases in rows], note),
            *(
                _column(variant, [texts[column] for texts in rows.values()])
                for column, variant in enumerate(results.study.variants)
            ),
        ]
        caption, key = f"{label} by {grouping}: {of}.", f"subgroups-{place}"
        tables.append(_table(key, caption, names, columns, subject="Group", told=told))
    return tables


def claims_table(comparison: Comparison) -> Table:
    """What the paper claims, and how likely each claim is false; no row without claims."""
    claimed = [
        (f"{better} > {worse}", pair)
        for better, worse in comparison.claims
        if (pair := find_pair(comparison, better, worse)) is not None
    ]
    pairs = [pair for _, pair in claimed]
    shown = [None if pair.shown is None else pair.shown and pair.difference > 0 for pair in pairs]
    columns = [
        *_differences(comparison, pairs),
        _column(
            "Shown", [_yes(each) for each in shown], "The better one is above, and p below 0.05."
        ),
        _column(
            "False, cases alone",
            [_probability(pair.false_over_cases) for pair in pairs],
            "How likely is the claim false, if these very runs saw other cases?",
        ),
        _column(
            "False, with seeds",
            [_probability(pair.false) for pair in pairs],
            "How likely is it false, if the networks were trained anew, too?",
        ),
        _column("Decided by", [_count(pair.deciding_cases) for pair in pairs], DECIDED),
    ]
    runs = "the runs" if comparison.over == "cases alone" else "typical runs"
    label = metric_of(comparison.metric).label
    caption = f"What the paper claims, by {label} of {runs}."
    names = [name for name, _ in claimed]
    return _table("claims", caption, names, columns, subject="Claim")


def pairs_table(comparison: Comparison) -> Table:
    """Every two variants: their difference in the primary metric, and what it shows."""
    pairs, margin = comparison.pairs, comparison.equivalence_margin
    wins = [DASH if p.superiority is None else f"{100 * p.superiority:.0f} %" for p in pairs]
    equal = "" if margin is None else f"{margin:g}"
    columns = [
        *_differences(comparison, pairs),
        _column(
            "First wins",
            wins,
            "The share of seeds in which the first's run is the better one, failed runs with "
            "them; a tie counts half.",
        ),
        _column("Shown", [_yes(pair.shown) for pair in pairs], "Adjusted p below 0.05."),
        _column(
            "Equal",
            [_yes(pair.equivalent) for pair in pairs],
            f"Typical runs differ by less than {equal}, by two one-sided tests, with Holm over all "
            "pairs.",
        ),
        _column("Decided by", [_count(pair.deciding_cases) for pair in pairs], DECIDED),
    ]
    alone = comparison.over == "cases alone"
    label = metric_of(comparison.metric).label
    caption = f"Do {'the' if alone else 'typical'} runs differ, in {label}?"
    names = [f"{pair.first} - {pair.second}" for pair in pairs]
    return _table("pairs", caption, names, columns, subject="Pair")


def _differences(comparison: Comparison, pairs: Sequence[Pair]) -> list[Column]:
    """Of pairs: the difference, its interval, and the p-value that holds for all of them."""
    digits = decimals(width(pair.interval) for pair in pairs)
    alone = comparison.over == "cases alone"
    sign = "Above 0 the first is the better one"
    sign += ", which is lower." if comparison.better == "lower" else "."
    test = "no test" if comparison.pairing is None else comparison.pairing.test
    return [
        _column(
            "Difference",
            [number(pair.difference, digits, sign=True) for pair in pairs],
            sign if alone else f"{sign} Failed runs are left out.",
        ),
        _column(
            "95 % interval",
            [_bounds(pair.interval, digits, sign=True) for pair in pairs],
            f"Over {comparison.over}, each for itself.",
        ),
        _column(
            "Adjusted p",
            [_p_value(pair.adjusted_p_value) for pair in pairs],
            f"For all pairs of variants together: {test}.",
        ),
    ]


def _papers_figures(paper: Paper) -> str:
    """What stands behind the paper's figures, in words."""
    runs = "Each is one run" if paper.runs == 1 else f"Each is the mean of {paper.runs} runs"
    if paper.runs is None:
        runs = "It does not say of how many runs each is: we take it for one"
    text = f"The paper's figures stand as printed. {runs}, to be held against the typical run."
    if paper.averaging == "pixels":
        text += " Its Dice is of all pixels together, so it stands beside the pooled Dice."
    return text


def settings_tables(results: Results) -> list[Table]:
    """Each variant at the best of its settings, the differences there, and what was chosen from;
    none where no variant has settings."""
    if results.tuning is None:
        return []
    return [
        _tuned_variants(results, results.tuning),
        _tuned_pairs(results.comparison, results.tuning.comparison),
        _settings(results, results.tuning),
    ]


def _tuned_variants(results: Results, tuning: Tuning) -> Table:
    found, label = tuning.variants, metric_of(results.comparison.metric).label
    own = [results.estimate(each.variant, results.comparison.metric) for each in found]
    digits, seeds = decimals(width(each.interval) for each in found), len(tuning.comparison.seeds)
    columns = [
        _column("Own settings", [number(each.typical, digits) for each in own]),
        _column(
            "Best settings",
            [number(each.typical, digits) for each in found],
            "Of a typical run, each seed's at the setting that is best by the validation of the "
            "other seeds."
            if seeds > 1
            else "Of the run at the setting with the best validation.",
        ),
        _column(
            "95 % interval",
            [_bounds(each.interval, digits) for each in found],
            f"At the best settings, over {results.comparison.over}; the choice of the settings is "
            "in it.",
        ),
        _column(
            "Failed runs",
            [f"{len(each.failed)} of {seeds}" for each in found]
            if any(each.failed for each in found)
            else [DASH for _ in found],
            "Of those chosen; they are left out.",
        ),
        _column(
            "Change",
            [number(each.gain, digits, sign=True) for each in found],
            "From its own settings to the best.",
        ),
        _column(
            "95 % interval of the change",
            [_bounds(each.gain_interval, digits, sign=True) for each in found],
            "Each for itself.",
        ),
    ]
    caption = f"At the best settings by validation: {label}, on {_cases(results)}."
    return _table("tuned-variants", caption, [each.variant for each in found], columns)


def _tuned_pairs(own: Comparison, best: Comparison) -> Table:
    pairs = [(found, find_pair(own, found.first, found.second)) for found in best.pairs]
    digits = decimals(width(found.interval) for found, _ in pairs)
    columns = [
        _column(
            "Own settings",
            [
                DASH if here is None else number(here.difference, digits, sign=True)
                for _, here in pairs
            ],
            "The difference of the two, each at its own settings. Above 0 the first is better.",
        ),
        _column(
            "Best settings", [number(found.difference, digits, sign=True) for found, _ in pairs]
        ),
        _column(
            "95 % interval",
            [_bounds(found.interval, digits, sign=True) for found, _ in pairs],
            "At the best settings, with their choice in it, each for itself.",
        ),
        _column(
            "Adjusted p",
            [_p_value(found.adjusted_p_value) for found, _ in pairs],
            "At the best settings, for all pairs of variants together.",
        ),
        _column(
            "Shown at",
            [_shown_on(here, found, ("its own alone", "the best alone")) for found, here in pairs],
            "At which settings a difference of the two is shown.",
        ),
    ]
    names = [f"{found.first} - {found.second}" for found, _ in pairs]
    caption = "Is a difference the same at the best settings?"
    return _table("tuned-pairs", caption, names, columns, subject="Pair")


def _settings(results: Results, tuning: Tuning) -> Table:
    rows = [(each, name) for each in tuning.variants for name in each.settings]
    digits, seeds = _primary_decimals(results), len(tuning.comparison.seeds)
    columns = [
        _column("Of", [each.variant for each, _ in rows]),
        _column(
            "Differs in",
            [", ".join(_apart(results.params, each.variant, name)) or DASH for each, name in rows],
            "The keys under train in params.yaml, and their values.",
        ),
        _column(
            "Validation Dice",
            [number(each.validation_dice[name], digits) for each, name in rows],
            "The mean over validation cases and seeds, by which the setting is chosen.",
        ),
        _column(
            "Test Dice",
            [number(results.estimate(name, PRIMARY).typical, digits) for _, name in rows],
            "Of a typical run. It chooses nothing.",
        ),
        _column("Chosen", [f"{each.chosen[name]} of {seeds}" for each, name in rows]),
    ]
    caption = f"The settings that were chosen from, over {quantity(seeds, 'seed')}."
    names = [name for _, name in rows]
    return _table("settings", caption, names, columns, subject="Setting")


def _apart(params: Mapping[str, Any], variant: str, setting: str) -> list[str]:
    """The keys under train, and their values, in which a setting differs from its variant."""
    own, other = (
        pd.json_normalize(params["models"][name].get("train", params["train"])).iloc[0].to_dict()
        for name in (variant, setting)
    )
    return [f"{key} {value}" for key, value in other.items() if str(own.get(key)) != str(value)]


def external_tables(results: Results) -> list[Table]:
    """Of each external test set its scores with what each variant loses there, then whether each
    difference of two is so on both sets."""
    return [
        table
        for found in results.external
        for table in (_external_scores(results, found), _agreement(results, found))
    ]


def _external_scores(results: Results, found: ExternalSet) -> Table:
    metric = results.comparison.metric
    variants = list(dict.fromkeys(each.variant for each in found.estimates))
    by_key = {(each.variant, each.metric): each for each in found.estimates}
    estimates = [by_key[name, metric] for name in variants]
    changes = {each.variants[0]: each for each in found.changes if len(each.variants) == 1}
    own = [changes.get(name) for name in variants]
    digits = decimals(width(each.interval) for each in own if each is not None)
    label = metric_of(metric).label
    better = _better(results, metric)
    columns = [_means(label, estimates, better, left_out=results.setting_of)]
    if _several(results) and any(number(e.typical) != number(e.mean) for e in estimates):
        note = "What a run gives that did not fail."
        columns.append(_typical(estimates, better, note, left_out=results.setting_of))
    columns += [
        _intervals(estimates, "Where the typical run may lie with other seeds and such cases."),
        _column(
            "Change",
            [number(None if each is None else each.change, digits, sign=True) for each in own],
            f"From the typical run's {label} on the study's own test cases. The same networks are "
            "scored; runs that failed there are left out.",
        ),
        _column(
            "95 % interval of the change",
            [_bounds(None if each is None else each.interval, digits, sign=True) for each in own],
            "Over seeds and the cases of both sets, each for itself.",
        ),
        _column(
            "Adjusted p",
            [_p_value(None if each is None else each.adjusted_p_value) for each in own],
            "That there is no change; Holm over all variants.",
        ),
        *(
            _means(
                metric_of(other).label,
                [by_key[name, other] for name in variants],
                _better(results, other),
                left_out=results.setting_of,
            )
            for other in HEADLINES
            if other != metric
        ),
    ]
    cases = cases_of(found.cases, found.comparison.groups, "case")
    caption = f"{found.name}: {cases}, none of them the study's; {_over_seeds(results)}."
    if found.of_the_study:
        caption += f" Left out, for the study has them: {quantity(found.of_the_study, 'case')}."
    return _table(f"external-{found.name}", caption, variants, columns, bold=True)


def _agreement(results: Results, found: ExternalSet) -> Table:
    pairs = [each for each in found.changes if len(each.variants) == 2]
    digits = decimals(width(each.interval) for each in pairs)
    both = [
        (find_pair(results.comparison, *each.variants), find_pair(found.comparison, *each.variants))
        for each in pairs
    ]
    columns = [
        _column(
            "Study's cases",
            [number(each.here, digits, sign=True) for each in pairs],
            "The difference of the two on the study's own test cases. Above 0 the first is better.",
        ),
        _column(found.name, [number(each.there, digits, sign=True) for each in pairs]),
        _column(
            "Change",
            [number(each.change, digits, sign=True) for each in pairs],
            "The difference of the two differences.",
        ),
        _column(
            "95 % interval of the change",
            [_bounds(each.interval, digits, sign=True) for each in pairs],
            "Over seeds and the cases of both sets, each for itself.",
        ),
        _column(
            "Adjusted p",
            [_p_value(each.adjusted_p_value) for each in pairs],
            "That the difference is the same on both; Holm over all pairs.",
        ),
        _column(
            "Shown on",
            [_shown_on(here, there) for here, there in both],
            "Where a difference of the two is shown, by the adjusted p of each set's own pairs.",
        ),
    ]
    names = [" - ".join(each.variants) for each in pairs]
    caption = f"Is a difference the same on {found.name}?"
    return _table(f"agreement-{found.name}", caption, names, columns, subject="Pair")


def _shown_on(
    here: Pair | None,
    there: Pair | None,
    alone: tuple[str, str] = ("the study's alone", "the other alone"),
) -> str:
    if here is None or there is None or here.shown is None or there.shown is None:
        return DASH
    if here.shown and there.shown:
        return "both" if here.difference * there.difference > 0 else "both, turned round"
    if here.shown or there.shown:
        return alone[0 if here.shown else 1]
    return "neither"


def effects_table(comparison: Comparison) -> Table:
    """The crossed design's main effects and interactions."""
    effects = comparison.factorial
    digits = decimals(width(effect.interval) for effect in effects)
    factors = levels(comparison.design.values())
    label = metric_of(comparison.metric).label
    columns = [
        _column(
            f"Difference in {label}",
            [number(effect.difference, digits, sign=True) for effect in effects],
            "Of typical runs, on average over the levels of the other factors; failed runs are "
            "left out. a x b: by how much the two together change more than their sum.",
        ),
        _column(
            "95 % interval",
            [_bounds(effect.interval, digits, sign=True) for effect in effects],
            "Over seeds and cases.",
        ),
        _column(
            "Adjusted p",
            [_p_value(effect.adjusted_p_value) for effect in effects],
            "Holm over all rows.",
        ),
        _column("Shown", [_yes(effect.shown) for effect in effects], "Adjusted p below 0.05."),
    ]
    caption = (
        f"What each factor changes in the {' x '.join('2' for _ in factors)} design of "
        f"{', '.join(comparison.design)}."
    )
    names = [" x ".join(effect.factors) for effect in effects]
    return _table("effects", caption, names, columns, subject="Effect")


def paper_table(results: Results) -> Table:
    """The paper's figures against what such runs would give here; no row without a paper."""
    paper = results.paper
    if paper is None:
        return Table("paper", "", [], [])
    held = [found for found in results.estimates if found.paper_lies is not None]
    digits = decimals(width(found.paper_interval) for found in held)
    several = paper.runs is not None and paper.runs > 1
    more = f"the mean of {paper.runs} more runs" if several else "one more run"
    cases = "as many" if paper.cases is None else f"{paper.cases:,}"
    columns = [
        _column("Paper", [paper.figures(found.metric)[found.variant] for found in held]),
        _column("Typical run here", [number(found.typical, digits) for found in held]),
        _column(
            f"{paper.runs} more runs here" if several else "One more run here",
            [_bounds(found.paper_interval, digits) for found in held],
            f"Where {more} would lie, of those that do not fail, on {cases} other cases: a "
            "prediction interval, 95 % for all the paper's figures of a metric together.",
        ),
        _column(
            "The paper's lies",
            [found.paper_lies or DASH for found in held],
            "Inside where what it was rounded from may.",
        ),
    ]
    caption = "Could the paper's figure be one of runs such as these?"
    names = [f"{found.variant}, {metric_of(found.metric).label}" for found in held]
    return _table("paper", caption, names, columns, subject="Figure")


def averaging_table(results: Results) -> Table:
    """Averaged probabilities below each variant's single networks; no row where none are asked."""
    averaged: dict[tuple[str, str], dict[str, AveragedEstimate]] = {}
    for found in results.averaged:
        averaged.setdefault((found.variant, found.averaging), {})[found.metric] = found
    rows: dict[str, Mapping[str, Estimate | AveragedEstimate]] = {}
    gains: list[AveragedEstimate | None] = []
    for variant in dict.fromkeys(found.variant for found in results.averaged):
        rows[variant] = {metric: results.estimate(variant, metric) for metric in AVERAGED}
        gains.append(None)
        for averaging, name in AVERAGINGS.items():
            own = averaged.get((variant, averaging))
            if own is not None:
                rows[f"{variant}, {name}"] = own
                gains.append(own[PRIMARY])
    digits = decimals(width(gain.difference_interval) for gain in gains if gain is not None)
    differences = [
        _column(
            "Difference",
            [
                DASH if gain is None else number(gain.difference, digits, sign=True)
                for gain in gains
            ],
            "In Dice, from the single networks. With four flips it is that of a typical run; "
            "failed runs are left out. Of all seeds there is one ensemble, failed runs in it: its "
            "difference is from the mean of all runs.",
        ),
        _column(
            "95 % interval",
            [
                DASH if gain is None else _bounds(gain.difference_interval, digits, sign=True)
                for gain in gains
            ],
            "Of the difference, each for itself. With four flips over seeds and cases, paired by "
            "both. Of an ensemble over cases alone: it does not hold what other seeds would have "
            "given.",
        ),
    ]
    columns = []
    for metric in AVERAGED:
        own_metric = [own[metric] for own in rows.values()]
        columns.append(_column(metric_of(metric).label, _with_deviations(own_metric)))
        if metric == PRIMARY:
            columns += differences
    caption = (
        f"Averaged probabilities on {_cases(results)}: over an image's four flips, or over the "
        "networks of all seeds. First the variant's single networks: "
        f"{_over_seeds(results)}."
    )
    return _table("averaging", caption, list(rows), columns)


def cost_table(costs: Sequence[Cost]) -> Table:
    """What each variant costs."""
    named = " and ".join(dict.fromkeys(cost.cpu for cost in costs if cost.cpu is not None))

    def column(title: str, write: Callable[[Cost], str], note: str = "") -> Column:
        return _column(title, [write(cost) for cost in costs], note)

    epochs = "The median over a run's epochs, then over runs"
    columns = [
        column("Parameters", lambda cost: _figure(cost.parameters, 1e-6, ".2f", " M")),
        column(
            "GFLOPs an image",
            lambda cost: _figure(cost.gflops, 1, ".1f"),
            "One forward pass, multiply and add counted apart.",
        ),
        column(
            "Training, images/s",
            lambda cost: _figure(cost.images_per_second, 1, ".1f"),
            f"{epochs}.",
        ),
        column(
            "Inference, images/s",
            lambda cost: _figure(cost.validation_images_per_second, 1, ".1f"),
            f"{epochs}; on the validation cases in training's precision, with losses and Dice.",
        ),
        column(
            "Seconds an epoch",
            lambda cost: _figure(cost.seconds_per_epoch, 1, ".1f"),
            f"{epochs}; with validation.",
        ),
        column(
            "Training a run", lambda cost: _duration(cost.wall_seconds), "The median over runs."
        ),
        column(
            "Peak memory",
            lambda cost: _figure(cost.peak_memory_bytes, 2**-30, ".1f", " GiB"),
            "The highest of all runs.",
        ),
        column(
            "ONNX file",
            lambda cost: _figure(cost.exported_bytes, 1e-6, ".1f", " MB"),
            "model.onnx of the first seed.",
        ),
        column(
            "CPU, ms/image",
            lambda cost: _figure(cost.cpu_milliseconds, 1, ".1f"),
            f"One image in ONNX Runtime on one thread, the median of 20 calls, on {named}.",
        ),
    ]
    caption = "Efficiency, on the devices under Environment. Times are medians."
    return _table("cost", caption, [cost.variant for cost in costs], columns)


def _figure(value: float | None, scale: float, form: str, unit: str = "") -> str:
    return DASH if value is None else f"{value * scale:{form}}{unit}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return DASH
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _bounds(interval: Interval | None, digits: int = MOST, *, sign: bool = False) -> str:
    if interval is None:
        return DASH
    low, high = interval.low, interval.high
    return f"{number(low, digits, sign=sign)} to {number(high, digits, sign=sign)}"


def _p_value(p_value: float | None) -> str:
    if p_value is None:
        return DASH
    return "< 0.0001" if p_value < 0.0001 else f"{p_value:.4f}"


def _probability(share: float | None) -> str:
    return DASH if share is None else probability(share)


def _count(cases: int | None) -> str:
    return DASH if cases is None else quantity(cases, "case")


def _yes(concluded: bool | None) -> str:
    return DASH if concluded is None else "yes" if concluded else "no"


def label_of(paper: Paper, variant: str) -> str:
    """The variant's row in the paper; a dash where it has none."""
    return paper.rows[variant].label if variant in paper.rows else DASH


def number(value: float | None, digits: int = MOST, *, sign: bool = False) -> str:
    """`value` with that many decimals; a dash where there is none."""
    return DASH if value is None else shown(value, digits, sign=sign)


def _better(results: Results, metric: str) -> Better:
    """Whether higher or lower values of the metric are better."""
    compared = results.comparison.metric == metric
    return results.comparison.better if compared else metric_of(metric).better


def _metrics(results: Results, metrics: Sequence[str], meanings: Mapping[str, str]) -> list[Column]:
    """A column a metric, a row a variant."""
    return [
        _means(
            metric_of(metric).label,
            [results.estimate(variant, metric) for variant in results.study.variants],
            _better(results, metric),
            meanings.get(metric, ""),
            left_out=results.setting_of,
        )
        for metric in metrics
    ]


def _means(
    title: str,
    estimates: Sequence[Estimate],
    better: Better,
    note: str = "",
    *,
    left_out: Collection[str] = (),
) -> Column:
    """Mean and standard deviation of one metric, the best mean marked. left_out: as of _best."""
    digits = decimals_of(estimates, spread=True)
    best = _best(estimates, [number(found.mean, digits) for found in estimates], better, left_out)
    texts = _with_deviations(estimates)
    cells = [Cell(text, best=marked) for text, marked in zip(texts, best, strict=True)]
    return Column(title, cells, note)


def _with_deviations(found: Sequence[Estimate | AveragedEstimate]) -> list[str]:
    """`0.851 ± 0.012`; of one run, or of an ensemble, no deviation."""
    digits = decimals_of(found, spread=True)
    return [
        number(each.mean, digits)
        if each.standard_deviation is None
        else f"{number(each.mean, digits)} ± {number(each.standard_deviation, digits)}"
        for each in found
    ]


def _typical(
    estimates: Sequence[Estimate], better: Better, note: str, *, left_out: Collection[str] = ()
) -> Column:
    """Typical runs in one metric, the best marked. left_out: as of _best."""
    digits = decimals_of(estimates)
    texts = [number(found.typical, digits) for found in estimates]
    best = _best(estimates, texts, better, left_out)
    cells = [Cell(text, best=marked) for text, marked in zip(texts, best, strict=True)]
    return Column("Typical run", cells, note)


def _intervals(estimates: Sequence[Estimate], note: str) -> Column:
    digits = decimals_of(estimates)
    texts = [_bounds(found.interval, digits) for found in estimates]
    return _column("95 % interval", texts, note)


def _best(
    estimates: Sequence[Estimate],
    texts: Sequence[str],
    better: Better,
    left_out: Collection[str] = (),
) -> list[bool]:
    """Which of these figures, as they are shown, is the best: of several that read the same each.
    None where that cannot be said. left_out: variants that are not compared."""
    compared = [found.variant not in left_out for found in estimates]
    estimates = [found for found, own in zip(estimates, compared, strict=True) if own]
    known = [float(t) for t, own in zip(texts, compared, strict=True) if own and t != DASH]
    comparable = len({found.seeds for found in estimates}) == 1
    if len(estimates) < 2 or not known or not comparable:
        return [False for _ in texts]
    best = max(known) if better == "higher" else min(known)
    return [
        own and text != DASH and float(text) == best
        for text, own in zip(texts, compared, strict=True)
    ]


def bold_note(results: Results) -> str:
    """What bold means; nothing where there is none."""
    if len([name for name in results.study.variants if name not in results.setting_of]) < 2:
        return ""
    if len(set(_seeds(results))) > 1:
        return "No best mean is marked: the variants do not have the same number of seeds."
    if not _several(results):
        return (
            f"{BOLD}Whether runs differ by more than chance, the table of pairs says of cases, and "
            "nothing says of seeds."
        )
    if all(pair.shown is None for pair in results.comparison.pairs):
        return f"{BOLD}So few runs cannot say whether it is so by more than chance."
    return f"{BOLD}Whether typical runs differ by more than chance, the table of pairs says."


def _primary_decimals(results: Results) -> int:
    """Of the primary metric, for figures of it that have no interval of their own."""
    metric = results.comparison.metric
    return decimals_of([results.estimate(name, metric) for name in results.study.variants])


def _cases(results: Results) -> str:
    return cases_of(len(results.cases.ids), results.comparison.groups, "test case")


def _over_seeds(results: Results) -> str:
    numbers = _seeds(results)
    low, high = min(numbers), max(numbers)
    if high == 1:
        return "mean of one seed"
    told = str(low) if low == high else f"{low} to {high}"
    return f"mean ± standard deviation over {told} seeds"


def _several(results: Results) -> bool:
    """Whether any variant has more than one seed."""
    return max(_seeds(results)) > 1


def _seeds(results: Results) -> list[int]:
    """How many seeds each variant has: all the study's, unless it is not done."""
    metric = results.comparison.metric
    return [results.estimate(variant, metric).seeds for variant in results.study.variants]
