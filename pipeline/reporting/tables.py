"""The comparison as tables: what stands in them.

Every number is one of results.json's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.statistics.definitions import AVERAGED, MAIN, PRIMARY, Better, metric_of
from pipeline.statistics.results import (
    AveragedEstimate,
    Comparison,
    Cost,
    Estimate,
    FailureRate,
    Interval,
    Results,
)
from pipeline.statistics.verdict import cases_of, find_pair, probability
from pipeline.study.paper import Paper, levels
from pipeline.study.values import Averaging, quantity

DASH = "\N{EN DASH}"
DECIMALS = 4
BOUNDARY_METRICS = (
    "hausdorff_95", "surface_dice", "boundary_iou", "brier", "expected_calibration_error",
)  # fmt: skip
NATIVE_METRICS = ("native_dice", "native_iou", "native_thresholded_jaccard")
OTHER_METRICS = ("sensitivity", "specificity", "thresholded_jaccard", "pooled_dice")

AVERAGINGS: dict[Averaging, str] = {  # averaging in params.yaml -> what a reader calls it
    "flips": "four flips",
    "seeds": "all seeds",
    "seeds_and_flips": "all seeds, four flips",
}

BOLD = (
    "Bold marks the best mean of a column, over all runs, failed ones with them, and the best "
    "typical run. Whether typical runs differ by more than chance, the table of pairs says."
)
BOLD_OF_ONE = (
    "Bold marks the best of a column. Whether runs differ by more than chance, the table of pairs "
    "says of cases, and nothing says of seeds."
)
TYPICAL = (
    "what does a run give that does not fail? It is the mean over those runs; of seven or more a "
    "tenth, one at least, is left out at either end."
)
DECIDED = (
    "the fewest cases without which the order of the two turns round; a dash where no removal "
    "turns it."
)
OVER_SEEDS = ("First wins", "Shown", "Equal")  # columns that one run of each variant cannot fill
SYNTHETIC = "Synthetic lesions: the figures say nothing about skin lesions."


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

    subject: the title of the rows' names. bold: whether its best means are marked.
    """

    key: str  # labels it in LaTeX and HTML
    caption: str
    header: list[str]
    rows: list[Row]
    subject: str = "Variant"
    bold: bool = False

    @property
    def texts(self) -> list[list[str]]:
        """The columns of text at the left, each with its title first."""
        columns = [[self.subject, *(row.name for row in self.rows)]]
        papers = [row.paper for row in self.rows if row.paper is not None]
        if papers:
            columns.append(["Paper's row", *papers])
        return columns


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
        *subgroup_tables(results),
        cost_table(results.costs),
    ]
    return [table for table in tables if table.rows]


def main_table(results: Results, metrics: Sequence[str] = MAIN) -> Table:
    """These metrics, and those that the paper prints beside its figures; variants as in
    params.yaml."""
    variants = results.study.variants
    ranks = results.comparison.ranks
    averages = {} if ranks is None else ranks.average
    columns: dict[str, list[Cell]] = {}
    if len(set(_seeds(results))) > 1:
        columns["Seeds"] = [Cell(str(number)) for number in _seeds(results)]
    paper = results.paper
    scored = {found.metric for found in results.estimates}
    printed = [] if paper is None else [name for name in paper.metrics() if name in scored]
    for metric in dict.fromkeys((*metrics, *printed)):
        label = metric_of(metric).label
        estimates = [results.estimate(variant, metric) for variant in variants]
        cases = estimates[0].cases
        if cases != len(results.cases.ids):
            label += f", {quantity(cases, 'case')}"
        better = _better(results, metric)
        columns[label] = _means(estimates, better)
        if metric == results.comparison.metric:
            if max(_seeds(results)) > 1:
                columns["Typical run"] = _typical(estimates, better)
            columns["95 % interval"] = [Cell(_bounds(found.interval)) for found in estimates]
            if max(_seeds(results)) > 1:
                columns["Failed runs"] = [Cell(failed_of(results, name)) for name in variants]
                columns["Rank"] = [
                    Cell(f"{averages[name]:.2f}" if name in averages else DASH) for name in variants
                ]
        figures = {} if paper is None else paper.figures(metric)
        if figures:
            columns[f"{label}, paper"] = [Cell(figures.get(name, DASH)) for name in variants]
    what = " and ".join(metric_of(metric).label for metric in metrics)
    if metrics == MAIN:
        what = "Per-case Dice and IoU, and focal loss"
    caption = f"{what}, on {_cases(results)}. Each metric is the {_over_seeds(results)}"
    if max(_seeds(results)) > 1:
        caption += (
            f": what do all runs give, failed ones with them? Typical run: {TYPICAL} 95 % "
            "interval: where may the typical run lie with other seeds and cases? Failed runs: how "
            "many lie far below their variant's upper quartile? Rank: the average over seeds, of "
            "all runs, failed ones with them"
        )
    elif any(found.interval is not None for found in results.estimates):
        caption += ", with its 95 % interval over cases alone: no other seed is in it"
    caption += "."
    if paper is not None and paper.metrics():
        caption += f" {_papers_figures(paper)}"
    papers = [None if paper is None else label_of(paper, variant) for variant in variants]
    return _table("comparison", caption, results, papers, columns)


def failures_table(results: Results) -> Table:
    """How often a variant's runs fail; no row where no variant has five runs."""
    label = metric_of(results.comparison.metric).label
    told = any(found.interval is not None for found in results.failures)
    rows = [
        _row(
            found.variant,
            [
                DASH if found.interval is None else _failed(found),
                _figure(found.rate, 100, ".1f", " %"),
                DASH
                if found.interval is None
                else f"{100 * found.interval.low:.1f} to {100 * found.interval.high:.1f} %",
                number(found.upper_quartile),
                number(found.drop),
                number(results.estimate(found.variant, results.comparison.metric).mean),
                _bounds(found.mean_interval),
            ],
        )
        for found in results.failures
        if told
    ]
    drop = results.params["compare"]["failure_drop"]
    caption = (
        f"How often does a run fail? A run has failed if its {label} lies below the upper quartile "
        f"of its variant's runs by more than the drop. The drop is {drop:g}. Where runs spread "
        "widely it is four robust standard deviations of a run. Of fewer than five runs none is "
        "called failed. Rate: the share of runs that "
        "failed, with its exact 95 % interval. What do all runs give, failed ones with them? Mean "
        "over all runs, with its 95 % interval. That interval admits failures not yet seen: as "
        f"many as the rate's interval allows, each as deep as {label} goes. So few seeds leave it "
        "wide."
    )
    header = [
        "Failed runs", "Rate", "95 % interval of the rate", "Upper quartile", "Drop",
        "Mean over all runs", "95 % interval of the mean",
    ]  # fmt: skip
    return Table("failures", caption, header, rows)


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
    columns = {
        metric_of(metric).label: _means(
            [results.estimate(name, metric) for name in variants], _better(results, metric)
        )
        for metric in OTHER_METRICS
    }
    tails = {tail.variant: tail for tail in results.tails}
    columns["Worst 5 %"] = [Cell(number(tails[name].worst_mean)) for name in variants]
    threshold = results.params["evaluate"]["jaccard_threshold"]
    columns[f"IoU below {threshold:g}"] = [
        Cell(_figure(tails[name].below_threshold, 100, ".1f", " %")) for name in variants
    ]
    caption = (
        "Secondary metrics: per-case sensitivity, specificity and thresholded Jaccard (below "
        f"{threshold:g} counts as 0), and Dice pooled over all pixels, on "
        f"{_cases(results)}: {_over_seeds(results)}. Worst 5 %: mean Dice of a "
        f"variant's hardest cases. IoU below {threshold:g}: share of the scored cases."
    )
    return _table("secondary", caption, results, [None for _ in variants], columns)


def boundary_table(results: Results) -> Table:
    """How well outlines are met and probabilities mean what they say."""
    variants = results.study.variants
    columns = {
        metric_of(metric).label: _means(
            [results.estimate(name, metric) for name in variants], _better(results, metric)
        )
        for metric in BOUNDARY_METRICS
    }
    evaluation = results.params["evaluate"]
    caption = (
        "Boundary and calibration: 95 % Hausdorff distance in pixels of the prepared size (lower "
        "is better), normalised surface Dice within "
        f"{evaluation['surface_tolerance']:g} px, boundary IoU; Brier score and expected "
        f"calibration error in {evaluation['calibration_bins']} bins (lower is better), on "
        f"{_cases(results)}: mean ± standard deviation over seeds."
    )
    return _table("boundary", caption, results, [None for _ in variants], columns)


def native_table(results: Results) -> Table:
    """The network's size beside the originals'; no row where a study scores only the first."""
    scored = {found.metric for found in results.estimates}
    variants = results.study.variants if scored >= set(NATIVE_METRICS) else []
    columns = {
        metric_of(metric).label: _means(
            [results.estimate(name, metric) for name in variants], _better(results, metric)
        )
        for native in NATIVE_METRICS
        for metric in (native, native.removeprefix("native_"))
    }
    caption = (
        "At the originals' size, as the ISIC 2018 challenge scores (native), beside the network's "
        f"own size, on {_cases(results)}: mean ± standard deviation over seeds."
    )
    if not variants:
        return Table("native", caption, list(columns), [])
    return _table("native", caption, results, [None for _ in variants], columns)


def thresholds_table(results: Results) -> Table:
    """What the threshold would be if the validation cases chose it."""
    rows = [
        _row(
            found.variant,
            [
                f"{found.best:.2f}",
                number(found.best_dice),
                number(found.study_dice),
                number(found.best_dice - found.study_dice, sign=True),
            ],
        )
        for found in results.thresholds
    ]
    threshold = results.params["evaluate"]["threshold"]
    caption = (
        "Thresholds swept over the validation cases alone: where the mean Dice over cases and "
        f"seeds is best, and what it gains there over the study's {threshold:g}. The test figures "
        "use the study's."
    )
    header = ["Best threshold", "Validation Dice there", f"At {threshold:g}", "Gain"]
    return Table("thresholds", caption, header, rows)


def subgroup_tables(results: Results) -> list[Table]:
    """A table a grouping: a row a group, a column a variant."""
    label = metric_of(results.comparison.metric).label
    tables = []
    for place, (grouping, told) in enumerate(results.groupings.items(), start=1):
        own = [found for found in results.subgroups if found.grouping == grouping]
        rows: dict[tuple[str, str], list[str]] = {}
        for found in own:
            text = number(found.typical)
            if found.interval is not None:
                text += f" ({_bounds(found.interval)})"
            cases = f"{found.cases:,}"
            if found.groups is not None:
                cases += f" of {quantity(found.groups, 'group')}"
            rows.setdefault((found.group, cases), []).append(text)
        several = max(_seeds(results)) > 1
        over = "A typical run's mean over cases, with its 95 % interval over seeds and cases"
        alone = "Mean over the cases of one seed, with its 95 % interval over cases alone"
        caption = (
            f"{label} by {grouping}. {told} {over if several else alone}, each interval for "
            "itself; a group of fewer than ten cases has none."
        )
        if results.comparison.groups is not None:
            caption += " Near-duplicates, and cases of a known group, count as one case."
        if several and min(_seeds(results)) == 1:
            caption += " Of a variant with one seed it is over cases alone."
        lines = [_row(group, [cases, *texts]) for (group, cases), texts in rows.items()]
        header = ["Cases", *results.study.variants]
        tables.append(Table(f"subgroups-{place}", caption, header, lines, subject="Group"))
    return tables


def _sign(comparison: Comparison) -> str:
    """What a difference above 0 says, where lower is better."""
    lower = comparison.better == "lower"
    return " Above 0 the first is the better, lower one." if lower else ""


def claims_table(comparison: Comparison) -> Table:
    """What the paper claims, and how likely each claim is false; no row without claims."""
    label = metric_of(comparison.metric).label
    rows = []
    for better, worse in comparison.claims:
        pair = find_pair(comparison, better, worse)
        if pair is None:
            continue
        cells = [
            number(pair.difference, sign=True),
            _bounds(pair.interval, sign=True),
            _p_value(pair.adjusted_p_value),
            DASH if pair.shown is None else _yes(pair.shown and pair.difference > 0),
            _probability(pair.false_over_cases),
            _probability(pair.false),
            _count(pair.deciding_cases),
        ]
        rows.append(_row(f"{better} > {worse}", cells))
    caption = (
        f"What the paper claims, by {label}: the difference of the two typical runs, with its "
        f"95 % interval over {comparison.over}, for itself; the p-value adjusted over all pairs of "
        "variants; whether the claim is shown. How likely is it false? Over cases alone: if these "
        "very runs saw other cases. With seeds: if the networks were trained anew, too. Decided "
        f"by: {DECIDED}{_sign(comparison)}"
    )
    header = [
        "Difference", "95 % interval", "Adjusted p", "Shown", "False, cases alone",
        "False, with seeds", "Decided by",
    ]  # fmt: skip
    return Table("claims", caption, header, rows, subject="Claim")


def pairs_table(comparison: Comparison) -> Table:
    """Every two variants: their difference in the primary metric, and what it shows."""
    label = metric_of(comparison.metric).label
    rows = []
    for pair in comparison.pairs:
        cells = [
            number(pair.difference, sign=True),
            _bounds(pair.interval, sign=True),
            _p_value(pair.adjusted_p_value),
            DASH if pair.superiority is None else f"{100 * pair.superiority:.0f} %",
            _yes(pair.shown),
            _yes(pair.equivalent),
            _count(pair.deciding_cases),
        ]
        rows.append(_row(f"{pair.first} - {pair.second}", cells))
    test = comparison.pairing.test if comparison.pairing else "no test"
    sign = _sign(comparison)
    margin, equal = comparison.equivalence_margin, ""
    if margin is not None:
        equal = (
            f" Equal: typical runs differ by less than {margin:g}, by two one-sided tests, with "
            "Holm over all pairs."
        )
    caption = (
        f"Do typical runs differ? Differences in {label}, with 95 % intervals over "
        f"{comparison.over}, each for itself.{sign} Failed runs are left out. Adjusted p holds for "
        f"all pairs together: {test}. First wins: the share of seeds in which the first's run "
        "beats the second's, failed runs with them; a tie counts half. Shown: adjusted p below "
        f"0.05.{equal} Decided by: {DECIDED}"
    )
    header = [
        "Difference", "95 % interval", "Adjusted p", "First wins", "Shown", "Equal", "Decided by",
    ]  # fmt: skip
    if comparison.over == "cases alone":  # no test over seeds has anything to say
        caption = (
            f"Do the runs differ? Differences in {label}, with 95 % intervals over cases alone, "
            f"each for itself.{sign} Adjusted p holds for all pairs together: {test}. Decided by: "
            f"{DECIDED}"
        )
        kept = [place for place, title in enumerate(header) if title not in OVER_SEEDS]
        header = [header[place] for place in kept]
        rows = [Row(row.name, None, [row.cells[place] for place in kept]) for row in rows]
    return Table("pairs", caption, header, rows, subject="Pair")


def _papers_figures(paper: Paper) -> str:
    """What stands behind the paper's figures, in words."""
    runs = "Each is one run" if paper.runs == 1 else f"Each is the mean of {paper.runs} runs"
    if paper.runs is None:
        runs = "It does not say of how many runs each is: we take it for one"
    text = f"The paper's figures stand as printed. {runs}, to be held against the typical run."
    if paper.averaging == "pixels":
        text += " Its Dice is of all pixels together, so it stands beside the pooled Dice."
    return text


def effects_table(comparison: Comparison) -> Table:
    """The crossed design's main effects and interactions."""
    rows = [
        _row(
            " x ".join(effect.factors),
            [
                number(effect.difference, sign=True),
                _bounds(effect.interval, sign=True),
                _p_value(effect.adjusted_p_value),
                _yes(effect.shown),
            ],
        )
        for effect in comparison.factorial
    ]
    factors = levels(comparison.design.values())
    caption = (
        f"The {' x '.join('2' for _ in factors)} design of {', '.join(comparison.design)}: what "
        "each factor changes, on average over the levels of the others; a x b: by how much the two "
        "together change more than their sum. Of typical runs: failed ones are left out. The error "
        "is over seeds and cases. Adjusted p: Holm over all rows."
    )
    label = metric_of(comparison.metric).label
    header = [f"Difference in {label}", "95 % interval", "Adjusted p", "Shown"]
    return Table("effects", caption, header, rows, subject="Effect")


def paper_table(results: Results) -> Table:
    """The paper's figures against what such runs would give here; no row without a paper."""
    paper = results.paper
    if paper is None:
        return Table("paper", "", [], [])
    rows = []
    for found in results.estimates:
        place = found.paper_lies
        if place is None:
            continue
        name = f"{found.variant}, {metric_of(found.metric).label}"
        printed = paper.figures(found.metric)[found.variant]
        bounds = _bounds(found.paper_interval)
        rows.append(_row(name, [printed, number(found.typical), bounds, place]))
    several = paper.runs is not None and paper.runs > 1
    more = f"the mean of {paper.runs} more runs" if several else "one more run"
    cases = "as many" if paper.cases is None else f"{paper.cases:,}"
    caption = (
        "Could the paper's figure be one of runs such as these? It is held against where "
        f"{more} would lie, of those that do not fail, on {cases} other cases. That prediction "
        "interval is 95 % for all the paper's figures of a metric together. A figure lies inside "
        "where what it was rounded from may."
    )
    title = f"{paper.runs} more runs here" if several else "One more run here"
    header = ["Paper", "Typical run here", title, "The paper's lies"]
    return Table("paper", caption, header, rows, subject="Figure")


def averaging_table(results: Results) -> Table:
    """Averaged probabilities below each variant's single networks; no row where none are asked."""
    averaged: dict[tuple[str, str], dict[str, AveragedEstimate]] = {}
    for found in results.averaged:
        averaged.setdefault((found.variant, found.averaging), {})[found.metric] = found
    rows = []
    for variant in dict.fromkeys(found.variant for found in results.averaged):
        single = {metric: results.estimate(variant, metric) for metric in AVERAGED}
        rows.append(_row(variant, _averaging_cells(single, [DASH, DASH])))
        for averaging, name in AVERAGINGS.items():
            own = averaged.get((variant, averaging))
            if own is not None:
                gain = own[PRIMARY]
                gains = [
                    number(gain.difference, sign=True),
                    _bounds(gain.difference_interval, sign=True),
                ]
                rows.append(_row(f"{variant}, {name}", _averaging_cells(own, gains)))
    caption = (
        f"Averaged probabilities on {_cases(results)}, at the network's size: over an "
        "image's four flips (four flips), over the networks of all seeds (all seeds), or both. "
        "First the variant's single networks: "
        f"{_over_seeds(results)}, failed runs with them. Difference: in Dice, from the single "
        "networks, with its 95 % interval, each for itself. With four flips it is that of a "
        "typical run, over seeds and cases, paired by both; failed runs are left out. Of all "
        "seeds there is one ensemble, failed runs in it. Its difference is from the mean of all "
        "runs. Its interval is over cases alone and does not hold what other seeds would have "
        "given."
    )
    label = metric_of(PRIMARY).label
    others = [metric_of(metric).label for metric in AVERAGED if metric != PRIMARY]
    header = [label, "Difference", "95 % interval", *others]
    return Table("averaging", caption, header, rows)


def _averaging_cells(
    found: Mapping[str, Estimate | AveragedEstimate], gains: list[str]
) -> list[str]:
    """The mean of each metric of AVERAGED, and its deviation where it has one; `gains` behind the
    primary one's."""
    texts = {}
    for metric in AVERAGED:
        spread = found[metric].standard_deviation
        texts[metric] = number(found[metric].mean)
        if spread is not None:
            texts[metric] += f" ± {number(spread)}"
    primary = texts.pop(PRIMARY)
    return [primary, *gains, *texts.values()]


def cost_table(costs: Sequence[Cost]) -> Table:
    """What each variant costs."""
    columns: dict[str, Callable[[Cost], str]] = {
        "Parameters": lambda cost: _figure(cost.parameters, 1e-6, ".2f", " M"),
        "GFLOPs an image": lambda cost: _figure(cost.gflops, 1, ".1f"),
        "Training, images/s": lambda cost: _figure(cost.images_per_second, 1, ".1f"),
        "Inference, images/s": lambda cost: _figure(cost.validation_images_per_second, 1, ".1f"),
        "Seconds an epoch": lambda cost: _figure(cost.seconds_per_epoch, 1, ".1f"),
        "Training a run": lambda cost: _duration(cost.wall_seconds),
        "Peak memory": lambda cost: _figure(cost.peak_memory_bytes, 2**-30, ".1f", " GiB"),
    }
    exported = ""
    if any(cost.exported_bytes is not None for cost in costs):
        columns["ONNX file"] = lambda cost: _figure(cost.exported_bytes, 1e-6, ".1f", " MB")
        columns["CPU, ms/image"] = lambda cost: _figure(cost.cpu_milliseconds, 1, ".1f")
        named = " and ".join(dict.fromkeys(cost.cpu for cost in costs if cost.cpu is not None))
        exported = (
            " ONNX file: model.onnx of the first seed. CPU: one picture in ONNX Runtime on one "
            f"thread, the median of 20 calls, on {named}."
        )
    rows = [_row(cost.variant, [write(cost) for write in columns.values()]) for cost in costs]
    caption = (
        "Efficiency: means over runs, the memory's highest, on the devices under Environment. "
        "GFLOPs: one forward pass, multiply and add counted apart. Inference: on the validation "
        f"cases in training's precision, with losses and Dice.{exported}"
    )
    return Table("cost", caption, list(columns), rows)


def _figure(value: float | None, scale: float, form: str, unit: str = "") -> str:
    return DASH if value is None else f"{value * scale:{form}}{unit}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return DASH
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _row(name: str, texts: Sequence[str]) -> Row:
    return Row(name, None, [Cell(text) for text in texts])


def _bounds(interval: Interval | None, *, sign: bool = False) -> str:
    if interval is None:
        return DASH
    return f"{number(interval.low, sign=sign)} to {number(interval.high, sign=sign)}"


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


def _table(
    key: str,
    caption: str,
    results: Results,
    papers: Sequence[str | None],
    columns: dict[str, list[Cell]],
) -> Table:
    """Columns of cells turned into rows."""
    variants = results.study.variants
    lines = zip(*columns.values(), strict=True)
    rows = [
        Row(variant, paper, list(cells))
        for variant, paper, cells in zip(variants, papers, lines, strict=True)
    ]
    return Table(key, caption, list(columns), rows, bold=True)


def label_of(paper: Paper, variant: str) -> str:
    """The variant's row in the paper; a dash where it has none."""
    return paper.rows[variant].label if variant in paper.rows else DASH


def number(value: float | None, *, sign: bool = False) -> str:
    """`value` as the tables show it; a dash where there is none."""
    if value is None:
        return DASH
    text = f"{value:{'+' if sign else ''}.{DECIMALS}f}"
    return text if float(text) else text.lstrip("+-")


def _better(results: Results, metric: str) -> Better:
    """Whether higher or lower values of the metric are better."""
    compared = results.comparison.metric == metric
    return results.comparison.better if compared else metric_of(metric).better


def _means(estimates: Sequence[Estimate], better: Better) -> list[Cell]:
    """Mean and standard deviation of one metric, the best mean marked."""
    best = _best(estimates, [found.mean for found in estimates], better)
    several = max(found.seeds for found in estimates) > 1
    return [
        Cell(
            f"{number(found.mean)} ± {number(found.standard_deviation)}"
            if several
            else number(found.mean),
            best=marked,
        )
        for found, marked in zip(estimates, best, strict=True)
    ]


def _typical(estimates: Sequence[Estimate], better: Better) -> list[Cell]:
    """Typical runs in one metric, the best marked."""
    best = _best(estimates, [found.typical for found in estimates], better)
    return [
        Cell(number(found.typical), best=marked)
        for found, marked in zip(estimates, best, strict=True)
    ]


def _best(
    estimates: Sequence[Estimate], values: Sequence[float | None], better: Better
) -> list[bool]:
    """Which of these figures of the estimates is the best; none where that cannot be said."""
    # Rounded, so that of two figures that read the same not one alone is bold.
    rounded = [None if value is None else round(value, DECIMALS) for value in values]
    known = [value for value in rounded if value is not None]
    best = None
    comparable = len({found.seeds for found in estimates}) == 1
    if len(estimates) > 1 and known and comparable:
        best = max(known) if better == "higher" else min(known)
    return [value is not None and value == best for value in rounded]


def bold_note(results: Results) -> str:
    """What bold means, where there is any."""
    if max(_seeds(results)) == 1:
        return BOLD_OF_ONE
    if len(set(_seeds(results))) == 1:
        return BOLD
    return "No best mean is marked: the variants do not have the same number of seeds."


def _cases(results: Results) -> str:
    return cases_of(len(results.cases.ids), results.comparison.groups, "test case")


def _over_seeds(results: Results) -> str:
    numbers = _seeds(results)
    low, high = min(numbers), max(numbers)
    if high == 1:
        return "mean of one seed"
    told = str(low) if low == high else f"{low} to {high}"
    return f"mean ± standard deviation over {told} seeds"


def _seeds(results: Results) -> list[int]:
    """How many seeds each variant has: all the study's, unless it is not done."""
    metric = results.comparison.metric
    return [results.estimate(variant, metric).seeds for variant in results.study.variants]
