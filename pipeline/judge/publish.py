"""What a table gives, written to a folder: results.json, tables, figures and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from pipeline.judge.paper_file import PaperFile
from pipeline.judge.printed import (
    MEANS_TERMS,
    Printed,
    Spread,
    answer,
    claims_of_means,
    sensitivity,
)
from pipeline.reporting.explorer import templates
from pipeline.reporting.inlined import inline_figure
from pipeline.reporting.result_figures import conclusions
from pipeline.reporting.run_chart import colours_of, run_chart
from pipeline.reporting.sections import sections
from pipeline.reporting.style import STYLE
from pipeline.reporting.tables import (
    Table,
    bold_note,
    claims_table,
    effects_table,
    failures_table,
    main_table,
    pairs_table,
    paper_table,
)
from pipeline.reporting.writers import (
    BOOKTABS,
    all_definitions,
    csv,
    latex,
    latex_table,
    markdown,
    markdown_table,
)
from pipeline.statistics.results import Comparison, Results, save_results
from pipeline.statistics.verdict import question
from pipeline.study.files import replacing
from pipeline.study.paper import Paper
from pipeline.study.values import cell, escape_markdown

TITLE = "Scores of"
FIGURES = {  # file in figures -> title, what the reader sees, and what he sees of several runs
    "forest": (
        "Differences between variants",
        "Every two variants' difference, with its 95 % interval over {over}, each for itself.",
        "Failed runs are left out.",
    ),
    "ranks": (
        "Ranks",
        "Average rank of each variant over seeds, 1 the best, of all runs. Bars join variants "
        "whose ranks lie within the critical difference (Nemenyi, 0.05).",
        "",
    ),
    "ordering": (
        "Orderings",
        "How often each variant is the best, and which orderings come out, when seeds and cases "
        "are drawn anew. Failed runs are left out.",
        "",
    ),
    "variance": (
        "Where a score's variance comes from",
        "Shares of a single case's score: the variant, the seed, the case, and what is left.",
        "",
    ),
}


def publish(results: Results, folder: Path, notes: Sequence[str]) -> None:
    """Write all of it below `folder`; files of the same names are replaced, others stay.

    notes: how the table was read. Raises UserError where the disk refuses.
    """
    tables = tables_of(results)
    with mpl.rc_context(STYLE):
        write_figures(conclusions(results), folder)
    for name, text in {
        "table.md": markdown(results, tables, TITLE),
        "table.csv": csv(results),
        "table.tex": latex(results, tables),
        "index.html": page(results, folder, tables, notes),
    }.items():
        with replacing(folder / name) as path:
            path.write_text(text, encoding="utf-8")
    save_results(folder / "results.json", results)


def publish_means(
    pairs: Sequence[Printed],
    file: PaperFile,
    spread: Spread,
    told: Sequence[str],
    folder: Path,
) -> None:
    """What printed means give, written below `folder`: the tables and the page, with the sentences
    for a review."""
    tables = [
        claims_of_means(pairs, file, spread),
        *(sensitivity(pair, place, file, spread) for place, pair in enumerate(pairs, start=1)),
    ]
    paper = file.paper
    (folder / "results.json").unlink(missing_ok=True)  # of a table that was judged before
    write_figures({}, folder)
    for name, text in {
        "table.md": _markdown(paper, [answer(pairs, file, spread), *told], tables),
        "table.csv": _csv(tables[0]),
        "table.tex": _latex(tables),
        "index.html": templates()
        .get_template("judged.html")
        .render(
            title="Printed means:",
            name=paper.title,
            paper=paper,
            variants=len(paper.rows),
            seeds=[paper.runs or 1],
            cases=paper.cases,
            notes=[],
            sections=sections("Do the paper's claims hold?", tables, {}, ["definitions"]),
            answer=answer(pairs, file, spread),
            chart=None,
            colours={},
            verdict=told,
            bold="",
            definitions=MEANS_TERMS,
        ),
    }.items():
        with replacing(folder / name) as path:
            path.write_text(text, encoding="utf-8")


def _markdown(paper: Paper, told: Sequence[str], tables: Sequence[Table]) -> str:
    parts = [f"# Printed means: {escape_markdown(paper.title)}"]
    parts.append("\n".join(f"- {escape_markdown(sentence)}" for sentence in told))
    for table in tables:
        parts += [escape_markdown(table.caption), markdown_table(table)]
    parts += [f"- **{word}**: {escape_markdown(meaning)}" for word, meaning in MEANS_TERMS]
    return "\n\n".join(parts) + "\n"


def _csv(table: Table) -> str:
    rows = [[cell(row.name), *(each.text for each in row.cells)] for row in table.rows]
    frame = pd.DataFrame(rows, columns=[table.subject, *table.header])
    return str(frame.to_csv(index=False, lineterminator="\n"))


def _latex(tables: Sequence[Table]) -> str:
    written = [latex_table(table, table.caption, f"means-{table.key}") for table in tables]
    return "\n\n".join([BOOKTABS, *written]) + "\n"


def tables_of(results: Results) -> list[Table]:
    """Those that the table has something to fill with, most important first."""
    metrics = list(dict.fromkeys(found.metric for found in results.estimates))
    tables = [
        main_table(results, metrics),
        failures_table(results),
        claims_table(results.comparison),
        pairs_table(results.comparison),
        effects_table(results.comparison),
        paper_table(results),
    ]
    return [table for table in tables if table.rows]


def write_figures(figures: Mapping[str, Figure], folder: Path) -> None:
    """Those of FIGURES that there are, without a date; of the others none of an earlier table."""
    for name in ("runs", *FIGURES):  # every run is the page's own picture
        for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
            path = folder / "figures" / f"{name}.{kind}"
            if name not in figures:
                path.unlink(missing_ok=True)
                continue
            with replacing(path) as temporary:
                figures[name].savefig(temporary, format=kind, dpi=120, metadata=metadata)


def page(results: Results, folder: Path, tables: Sequence[Table], notes: Sequence[str]) -> str:
    """index.html: every text from the table is escaped by the template."""
    shown = {
        name: inline_figure(path, title, _caption(text, more, results.comparison), "plot")
        for name, (title, text, more) in FIGURES.items()
        if (path := folder / "figures" / f"{name}.svg").is_file()
    }
    others = ["definitions", *(["table"] if notes else [])]
    seeds = sorted({found.seeds for found in results.estimates})
    return (
        templates()
        .get_template("judged.html")
        .render(
            title=TITLE,
            name=results.study.name,
            paper=results.paper,
            variants=len(results.study.variants),
            seeds=seeds,
            cases=len(results.cases.ids),
            notes=notes,
            sections=sections(question(results.comparison), tables, shown, others),
            answer=results.answer,
            chart=run_chart(results, linked=False),
            colours=colours_of(results),
            verdict=results.verdict,
            bold=bold_note(results),
            definitions=all_definitions(results),
        )
    )


def _caption(text: str, more: str, comparison: Comparison) -> str:
    text = text.format(over=comparison.over)
    return f"{text} {more}".strip() if len(comparison.seeds) > 1 else text
