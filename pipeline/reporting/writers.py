"""Tables as Markdown, CSV and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

from pipeline.reporting.tables import DASH, SYNTHETIC, Cell, Table, bold_note, label_of
from pipeline.statistics.results import AveragedEstimate, FailureRate, Results
from pipeline.statistics.terms import ONE_RUN, state_terms
from pipeline.study.values import cell, escape_markdown

BOOKTABS = "% Needs \\usepackage{booktabs} and \\usepackage{graphicx}."


def markdown(results: Results, tables: Sequence[Table], title: str = "Study") -> str:
    """Verdict and tables with their definitions, as GitHub reads them; title: before the name."""
    parts = [f"# {title} {escape_markdown(results.study.name)}"]
    if results.partial is not None:
        parts.append(f"> **{escape_markdown(' '.join(results.partial.sentences()))}**")
    if results.study.synthetic:
        parts.append(f"> **{SYNTHETIC}**")
    if results.paper is not None:
        held = f"Held against: {results.paper.title} ({results.paper.reference})."
        parts.append(escape_markdown(held))
    parts.append(f"**{escape_markdown(results.answer)}**")
    parts.append("\n".join(f"- {escape_markdown(sentence)}" for sentence in results.verdict))
    for table in tables:
        parts += [escape_markdown(table.caption), markdown_table(table)]
    parts += [note] if (note := bold_note(results)) else []
    parts.append(
        "\n".join(
            f"- **{escape_markdown(label)}**: {escape_markdown(definition)}"
            for label, definition in all_definitions(results)
        )
    )
    return "\n\n".join(parts) + "\n"


def all_definitions(results: Results) -> list[tuple[str, str]]:
    """Of the metrics, then of the words that the verdict and the tables use."""
    paper = results.paper is not None
    if max(found.seeds for found in results.estimates) > 1:
        drop = results.params["compare"]["failure_drop"]
        equal = results.comparison.equivalence_margin is not None
        concluded = not results.comparison.descriptive
        terms = state_terms(
            drop,
            paper=paper,
            failures=bool(results.failures),
            equal=equal,
            concluded=concluded,
            external=any(found.changes for found in results.external),
            settings=results.tuning is not None,
        )
    else:
        terms = ONE_RUN if paper else ONE_RUN[:1]
    return [*results.study.definitions.items(), *terms]


def markdown_table(table: Table) -> str:
    """The table, and below it what its columns mean."""
    titles, *names = zip(*table.texts, strict=True)
    lines = [[escape_markdown(title) for title in (*titles, *table.header)]]
    lines.append(["---"] * len(titles) + ["---:"] * len(table.header))
    for name, row in zip(names, table.rows, strict=True):
        lines.append(
            [escape_markdown(text) for text in name] + list(map(_markdown_cell, row.cells))
        )
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    notes = [f"- *{escape_markdown(t)}*: {escape_markdown(meaning)}" for t, meaning in table.notes]
    return "\n\n".join([text, "\n".join(notes)]) if notes else text


def _markdown_cell(cell: Cell) -> str:
    text = escape_markdown(cell.text)
    return f"**{text}**" if cell.best else text


def csv(results: Results) -> str:
    """A row a variant: of every metric the mean and standard deviation over all runs, and the
    typical run with its interval; how many runs failed, and the interval of that rate; the paper's
    figures, and those of averaged probabilities. Empty where there is none."""
    failures = {found.variant: found for found in results.failures}
    scored = list(dict.fromkeys(found.metric for found in results.estimates))
    rows = []
    for variant in results.study.variants:
        primary = results.estimate(variant, results.comparison.metric)
        row: dict[str, Any] = {"variant": cell(variant)}
        if results.partial is not None:
            row["partial"] = f"{results.partial.runs} of {results.partial.of} runs"
        paper = results.paper
        if paper is not None:
            named = label_of(paper, variant)
            row["paper_row"] = None if named == DASH else cell(named)
        row |= {"seeds": primary.seeds, "cases": primary.cases}
        for metric in scored:
            found = results.estimate(variant, metric)
            row[f"{metric}_mean"] = found.mean
            row[f"{metric}_standard_deviation"] = found.standard_deviation
            row[f"{metric}_typical"] = found.typical
            row[f"{metric}_low"] = None if found.interval is None else found.interval.low
            row[f"{metric}_high"] = None if found.interval is None else found.interval.high
        row |= _failure_columns(failures.get(variant))
        for metric in [] if paper is None else paper.metrics():
            if metric in scored:
                row[f"{metric}_paper"] = results.estimate(variant, metric).paper
        for averaged in results.averaged:
            if averaged.variant == variant:
                row |= _averaged_columns(averaged)
        rows.append(row)
    text: str = pd.DataFrame(rows).to_csv(index=False, float_format="%.6f", lineterminator="\n")
    return text


def _failure_columns(found: FailureRate | None) -> dict[str, float | None]:
    rate = None if found is None else found.interval
    return {
        "failed_runs": None if found is None or rate is None else len(found.failed),
        "failure_rate_low": None if rate is None else rate.low,
        "failure_rate_high": None if rate is None else rate.high,
    }


def _averaged_columns(found: AveragedEstimate) -> dict[str, float | None]:
    named, gain = f"{found.averaging}_{found.metric}", found.difference_interval
    return {
        f"{named}_mean": found.mean,
        f"{named}_standard_deviation": found.standard_deviation,
        f"{named}_low": None if found.interval is None else found.interval.low,
        f"{named}_high": None if found.interval is None else found.interval.high,
        f"{named}_difference": found.difference,
        f"{named}_difference_low": None if gain is None else gain.low,
        f"{named}_difference_high": None if gain is None else gain.high,
    }


def latex(results: Results, tables: Sequence[Table]) -> str:
    """The tables as floats, for a document that loads booktabs and graphicx."""
    parts = [BOOKTABS]
    synthetic = [SYNTHETIC] if results.study.synthetic else []
    partial = [] if results.partial is None else results.partial.sentences()
    parts += [f"% {sentence}" for sentence in (*partial, *synthetic)]
    for table in tables:
        notes = [
            *partial[:1],
            table.caption,
            *([note] if table.bold and (note := bold_note(results)) else []),
            *synthetic,
        ]
        label = f"{results.study.name}-{table.key}"
        parts.append(latex_table(table, " ".join(notes), label))
    return "\n\n".join(parts) + "\n"


def latex_table(table: Table, caption: str, label: str) -> str:
    """A float, what its columns mean below it."""
    titles, *names = zip(*table.texts, strict=True)
    alignments = "l" * len(titles) + "r" * len(table.header)
    header = [escape_latex(title) for title in (*titles, *table.header)]
    rows = [
        [escape_latex(text) for text in name] + list(map(_latex_cell, row.cells))
        for name, row in zip(names, table.rows, strict=True)
    ]
    meanings = [rf"\emph{{{escape_latex(t)}}}: {escape_latex(note)}" for t, note in table.notes]
    notes = []
    if meanings:
        notes = [
            r"  \par\smallskip\begin{minipage}{\textwidth}\footnotesize",
            *(f"  {meaning}" for meaning in meanings),
            r"  \end{minipage}",
        ]
    return "\n".join(
        [
            r"\begin{table}[htbp]",
            r"  \centering",
            rf"  \caption{{{escape_latex(caption)}}}",
            rf"  \label{{tab:{re.sub('[^A-Za-z0-9:_-]+', '-', label)}}}",
            r"  \resizebox{\textwidth}{!}{%",
            rf"  \begin{{tabular}}{{@{{}}{alignments}@{{}}}}",
            r"    \toprule",
            "    " + " & ".join(header) + r" \\",
            r"    \midrule",
            *("    " + " & ".join(row) + r" \\" for row in rows),
            r"    \bottomrule",
            r"  \end{tabular}}",
            *notes,
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
