"""The comparison as tables: what stands in them, and how Markdown, CSV and LaTeX write it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.comparison import METRICS, PAPER, PaperRow
from pipeline.params import Study

DASH = "\N{EN DASH}"
DECIMALS = 4
MAIN_METRICS = ("dice", "iou", "focal_loss")  # those of the paper's Table 1
OTHER_METRICS = ("sensitivity", "specificity", "thresholded_jaccard", "pooled_dice")

DESCRIPTIVE = "Differences are descriptive: no test is made yet."
BOLD = "Bold marks the best mean of a column; it says nothing about significance."
SYNTHETIC = "Synthetic lesions: the figures say nothing about skin lesions."


@dataclass(frozen=True)
class Cell:
    """Plain text, escaped by each writer for its format."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Row:
    """A variant's line; `paper` is its row of the paper's Table 1, where the table names it."""

    variant: str
    paper: str | None
    cells: list[Cell]


@dataclass(frozen=True)
class Table:
    """A table for readers; `caption` names the definition and the sample, `header` the cells."""

    key: str  # labels it in LaTeX and HTML
    caption: str
    header: list[str]
    rows: list[Row]

    @property
    def texts(self) -> list[list[str]]:
        """The columns of text at the left, each with its title first."""
        columns = [["Variant", *(row.variant for row in self.rows)]]
        papers = [row.paper for row in self.rows if row.paper is not None]
        if papers:
            columns.append(["Paper's row", *papers])
        return columns


def main_table(study: Study, summary: pd.DataFrame) -> Table:
    """The paper's three metrics beside the paper's figures, variants as in params.yaml."""
    columns: dict[str, list[Cell]] = {}
    for metric in MAIN_METRICS:
        label = METRICS[metric].label
        columns[label] = _metric_column(study, summary, metric)
        figures = [getattr(paper_row(variant), metric) for variant in study.variants]
        columns[f"{label}, paper"] = [
            Cell(DASH if figure is None else f"{figure:.4f}".removesuffix("0"))
            for figure in figures
        ]
    caption = (
        f"Mean per-case Dice and IoU, and focal loss, on {_cases(summary)} test cases: mean ± "
        "standard deviation over seeds. The paper's figures are one run each."
    )
    papers = [paper_row(variant).name for variant in study.variants]
    return _table("comparison", caption, study, summary, papers, columns)


def other_table(study: Study, summary: pd.DataFrame) -> Table:
    """The secondary metrics, variants as in params.yaml."""
    columns = {
        METRICS[metric].label: _metric_column(study, summary, metric) for metric in OTHER_METRICS
    }
    caption = (
        "Secondary metrics: per-case sensitivity, specificity and thresholded Jaccard (below "
        f"{study.evaluate.jaccard_threshold:g} counts as 0), and Dice pooled over all pixels, on "
        f"{_cases(summary)} test cases: mean ± standard deviation over seeds."
    )
    papers = [None for _ in study.variants]
    return _table("secondary", caption, study, summary, papers, columns)


def _table(
    key: str,
    caption: str,
    study: Study,
    summary: pd.DataFrame,
    papers: Sequence[str | None],
    columns: dict[str, list[Cell]],
) -> Table:
    """Columns of cells, with the number of seeds as the last, turned into rows."""
    seeds = [Cell(str(summary.loc[(variant, "dice"), "seeds"])) for variant in study.variants]
    columns = columns | {"Seeds": seeds}
    lines = zip(*columns.values(), strict=True)
    rows = [
        Row(variant, paper, list(cells))
        for variant, paper, cells in zip(study.variants, papers, lines, strict=True)
    ]
    return Table(key, caption, list(columns), rows)


def paper_row(variant: str) -> PaperRow:
    """The paper's row of that name; a dash where the paper has none."""
    return PAPER.get(variant, PaperRow(DASH))


def number(value: float) -> str:
    """`value` as the tables show it; a dash where there is none."""
    return DASH if math.isnan(value) else f"{value:.{DECIMALS}f}"


def _metric_column(study: Study, summary: pd.DataFrame, metric: str) -> list[Cell]:
    column = summary.xs(metric, level="metric").loc[study.variants]
    # Rounded, so that of two figures that read the same not one alone is bold.
    means = column["mean"].round(DECIMALS)
    best = means.max() if METRICS[metric].better == "higher" else means.min()
    return [
        Cell(
            f"{number(mean)} ± {number(deviation)}",
            best=len(study.variants) > 1 and rounded == best,
        )
        for mean, deviation, rounded in zip(
            column["mean"], column["standard_deviation"], means, strict=True
        )
    ]


def _cases(summary: pd.DataFrame) -> int:
    return int(summary["cases"].iloc[0])


def markdown(study: Study, tables: Sequence[Table]) -> str:
    """The tables with their definitions, as GitHub reads them."""
    parts = [f"# Study {escape_markdown(study.name)}"]
    if study.data.source == "synthetic":
        parts.append(f"> **{SYNTHETIC}**")
    for table in tables:
        parts += [escape_markdown(table.caption), _markdown_table(table)]
    parts.append(f"**{DESCRIPTIVE}** {BOLD}")
    parts.append(
        "\n".join(
            f"- **{escape_markdown(label)}**: {escape_markdown(definition)}"
            for label, definition in definitions(study)
        )
    )
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> str:
    titles, *names = zip(*table.texts, strict=True)
    lines = [[escape_markdown(title) for title in (*titles, *table.header)]]
    lines.append(["---"] * len(titles) + ["---:"] * len(table.header))
    for name, row in zip(names, table.rows, strict=True):
        lines.append(
            [escape_markdown(text) for text in name] + list(map(_markdown_cell, row.cells))
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _markdown_cell(cell: Cell) -> str:
    text = escape_markdown(cell.text)
    return f"**{text}**" if cell.best else text


def escape_markdown(text: str) -> str:
    """`text` such that Markdown shows it as it is, in a table too. An underscore within a word
    needs no escape and keeps its looks in the source."""
    text = re.sub(r"([\\`*\[\]<|~$&])", r"\\\1", text)
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
    return " ".join(text.split())


def csv(study: Study, summary: pd.DataFrame) -> str:
    """A row a variant: means and standard deviations over seeds of every metric, the paper's."""
    rows = []
    for variant in study.variants:
        paper = paper_row(variant)
        row: dict[str, Any] = {
            "variant": variant,
            "paper_row": None if paper.name == DASH else paper.name,
            "seeds": summary.loc[(variant, "dice"), "seeds"],
            "cases": summary.loc[(variant, "dice"), "cases"],
        }
        for metric in METRICS:
            row[f"{metric}_mean"] = summary.loc[(variant, metric), "mean"]
            row[f"{metric}_standard_deviation"] = summary.loc[
                (variant, metric), "standard_deviation"
            ]
        for metric in MAIN_METRICS:
            row[f"{metric}_paper"] = getattr(paper, metric)
        rows.append(row)
    text: str = pd.DataFrame(rows).to_csv(index=False, float_format="%.6f", lineterminator="\n")
    return text


def latex(study: Study, tables: Sequence[Table]) -> str:
    """The tables as floats, for a document that loads booktabs and graphicx."""
    parts = ["% Needs \\usepackage{booktabs} and \\usepackage{graphicx}."]
    if study.data.source == "synthetic":
        parts.append(f"% {SYNTHETIC}")
    for table in tables:
        notes = [table.caption, DESCRIPTIVE, BOLD]
        if study.data.source == "synthetic":
            notes.append(SYNTHETIC)
        parts.append(_latex_table(table, " ".join(notes), label=f"{study.name}-{table.key}"))
    return "\n\n".join(parts) + "\n"


def _latex_table(table: Table, caption: str, label: str) -> str:
    titles, *names = zip(*table.texts, strict=True)
    alignments = "l" * len(titles) + "r" * len(table.header)
    header = [escape_latex(title) for title in (*titles, *table.header)]
    rows = [
        [escape_latex(text) for text in name] + list(map(_latex_cell, row.cells))
        for name, row in zip(names, table.rows, strict=True)
    ]
    return "\n".join(
        [
            r"\begin{table}[htbp]",
            r"  \centering",
            rf"  \caption{{{escape_latex(caption)}}}",
            rf"  \label{{tab:{label}}}",
            r"  \resizebox{\textwidth}{!}{%",
            rf"  \begin{{tabular}}{{@{{}}{alignments}@{{}}}}",
            r"    \toprule",
            "    " + " & ".join(header) + r" \\",
            r"    \midrule",
            *("    " + " & ".join(row) + r" \\" for row in rows),
            r"    \bottomrule",
            r"  \end{tabular}}",
            r"\end{table}",
        ]
    )


def _latex_cell(cell: Cell) -> str:
    text = escape_latex(cell.text)
    return rf"\textbf{{{text}}}" if cell.best else text


_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "_": r"\_",
        "%": r"\%",
        "&": r"\&",
        "#": r"\#",
        "$": r"\$",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "±": r"$\pm$",
        DASH: "--",
    }
)


def escape_latex(text: str) -> str:
    """`text` such that LaTeX sets it as it is."""
    return " ".join(text.translate(_LATEX).split())


def definitions(study: Study) -> list[tuple[str, str]]:
    """(label, definition) of every metric, with the study's constants."""
    constants = {
        "jaccard_threshold": study.evaluate.jaccard_threshold,
        "alpha": study.focal.alpha,
        "gamma": study.focal.gamma,
    }
    stated = [(metric.label, metric.definition.format(**constants)) for metric in METRICS.values()]
    shared = (
        f"A pixel is lesion where p > {study.evaluate.threshold:g}; TP, FP, FN and TN count a "
        "case's pixels at the prepared size. A ratio of 0 to 0 is 1: truth and prediction both "
        "empty give Dice = IoU = 1."
    )
    return [("Pixels and empty masks", shared), *stated]
