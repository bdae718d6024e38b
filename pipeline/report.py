"""Stage report: the comparison as Markdown, CSV and LaTeX tables, and one page that shows it all.

Every number is results.json's or the data card's. The page (reports/index.html, from page.html and
report.html) holds its figures and its explorer of cases: it can be mailed as one file.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.deployment.loading import open_run
from pipeline.deployment.measurements import load_exported
from pipeline.engine.prepared import PreparedCases
from pipeline.reporting.explorer import explorer, templates
from pipeline.reporting.heatmaps import CAPTION
from pipeline.reporting.inlined import InlineFigure, inline_figure
from pipeline.reporting.modelcard import write_card
from pipeline.reporting.protocol import LOSSES, readings
from pipeline.reporting.run_chart import colours_of, run_chart
from pipeline.reporting.sections import sections
from pipeline.reporting.tables import SYNTHETIC, Table, all_tables, bold_note
from pipeline.reporting.writers import all_definitions, csv, latex, markdown
from pipeline.statistics.definitions import say
from pipeline.statistics.results import Results, open_results
from pipeline.statistics.runs import read_predictions
from pipeline.statistics.scores import disputed_cases, example_cases
from pipeline.statistics.verdict import question
from pipeline.study.errors import UserError, run_command
from pipeline.study.files import read_json, replacing
from pipeline.study.params import Study
from pipeline.study.reading import load_study, wants_partial
from pipeline.study.stages import at_stage
from pipeline.study.values import quantity

FIGURES = {  # file in reports/figures -> title, what the reader sees
    "forest.svg": (
        "Differences between variants",
        "Every two variants' difference in Dice, with its 95 % interval over {over}. Band: the "
        "margin within which two variants count as equal.",
    ),
    "settings.svg": (
        "Dice at each setting",
        "A typical run at each setting of a variant, and, filled, at the one that is best by "
        "validation: of several seeds that of the others. With their 95 % intervals.",
    ),
    "ranks.svg": (
        "Ranks",
        "Average rank of each variant over seeds, 1 the best. Ranks are of all runs, failed ones "
        "with them. Bars join variants whose ranks lie within the critical difference (Nemenyi, "
        "0.05).",
    ),
    "ordering.svg": (
        "Orderings",
        "How often each variant is the best, and which orderings come out, when seeds and cases "
        "are drawn anew. Failed runs are left out.",
    ),
    "dice_by_case.svg": (
        "Dice by case",
        "Per-case Dice on the test cases, all seeds of a variant together. Box: quartiles and "
        "median; whiskers: 5 % to 95 %; dots: cases outside; diamonds: each seed's mean.",
    ),
    "variance.svg": (
        "Where a score's variance comes from",
        "Shares of a single case's Dice: the variant, the seed, the case, and what is left. All "
        "runs, failed ones with them.",
    ),
    "cost.svg": (
        "Dice against cost",
        "Dice against what the network and its training cost.",
    ),
    "reliability.svg": (
        "Reliability",
        "Of the pixels given a probability of lesion, the share that is lesion: on the dashed line "
        "the two agree. Below: how many pixels each bin holds. Test cases, all seeds.",
    ),
    "thresholds.svg": (
        "Thresholds",
        "Mean Dice over the validation cases at each threshold, mean over seeds; marked: the best. "
        "Dotted: the study's threshold, which was fixed beforehand. Test cases have no part in it.",
    ),
    "validation_dice.svg": (
        "Validation Dice by epoch",
        "Mean per-case Dice on the validation cases. Line: mean over seeds; band: lowest to "
        "highest seed.",
    ),
    "loss_curves.svg": (
        "Losses by epoch",
        "BCE, Dice loss and focal loss on training and validation cases; training minimises "
        "{loss}. Line: mean over seeds; band: lowest to highest seed. The vertical axes are "
        "logarithmic.",
    ),
    "examples.png": (
        "Best, median and worst cases",
        "Test cases chosen by mean Dice over all runs. White: the true border; blue: the border "
        "predicted with each seed; number: the variant's Dice on this case, mean over seeds.",
    ),
    "disputed.png": (
        "Cases on which variants disagree most",
        "The largest standard deviation over variants of the Dice, most first. White: the true "
        "border; blue: the border predicted with each seed.",
    ),
}

# Those that not every study has: of one seed, of one variant, or without a Dice.
SOMETIMES = (
    "forest.svg", "settings.svg", "ranks.svg", "ordering.svg", "variance.svg", "cost.svg",
    "disputed.png",
)  # fmt: skip


def main(partial: bool = False) -> None:
    whole = load_study()
    with at_stage(whole, "report", partial=partial):
        study, results = open_results(whole, partial)
        write_reports(study, results)
    print(f"report: {study.reports_dir / 'index.html'}: {results.answer}")


def write_reports(study: Study, results: Results) -> None:
    """The tables, the page and, of a whole study, the networks' cards."""
    cases = PreparedCases.open(study.prepared_dir)
    tables = all_tables(results)
    reports = study.reports_dir
    write(reports / "table.md", markdown(results, tables))
    write(reports / "table.csv", csv(results))
    write(reports / "table.tex", latex(results, tables))
    if results.partial is None:
        write(reports / "model-cards.md", model_cards(study, results))
    write(reports / "index.html", page(study, cases, results, tables))


def model_cards(study: Study, results: Results) -> str:
    """Of the networks that the stage export wrote, one after the other."""
    cards = []
    for variant in study.export:
        run = open_run(study.run_dir(variant, study.seeds[0], study.folds[0]))
        exported = load_exported(study.exported_dir / variant / "export.json")
        cards.append(write_card(run, exported, results))
    return "\n".join(cards) or "No variant is named under `export` in params.yaml.\n"


def page(study: Study, cases: PreparedCases, results: Results, tables: Sequence[Table]) -> str:
    """reports/index.html: every text from data is escaped by the template."""
    scores = results.scores()
    read = readings(study)
    others = ["failures", "data", "protocol", "definitions", *(["readings"] if read else [])]
    return (
        templates()
        .get_template("report.html")
        .render(
            study=study,
            partial=None if results.partial is None else results.partial.sentences(),
            synthetic=SYNTHETIC if results.study.synthetic else None,
            counts=cases.counts(),
            sections=sections(
                question(results.comparison),
                tables,
                figures(study, results.comparison.over),
                others,
            ),
            answer=results.answer,
            chart=run_chart(results, linked=True),
            colours=colours_of(results),
            verdict=results.verdict,
            bold=bold_note(results),
            attention=attention_figures(study),
            attention_caption=f"{CAPTION} {attention_seeds(study, results)}",
            explorer=explorer(
                results,
                cases,
                lambda ids, seed, at: read_predictions(study, cases, ids, seed, at),
                study.prepare.resize,
            ),
            examples=[*example_cases(scores), *disputed_cases(scores)],
            definitions=all_definitions(results),
            empty=f"{results.study.both_empty} of {results.study.both_empty_of}"
            if results.study.both_empty
            else "",
            protocol=(study.folder / "params.yaml").read_text(encoding="utf-8"),
            readings=read,
            paper=results.paper,
            card=data_card(study),
            external=results.external,
            environment=results.environment.items(),
            commands=commands(study, results),
            epochs=epochs_of(study),
        )
    )


def epochs_of(study: Study) -> str:
    """`10 epochs`, `up to 10 epochs`, `4 to 10 epochs`: of a training."""
    trainings = [study.of(variant).train for variant in study.variants]
    least, most = (choose(train.epochs for train in trainings) for choose in (min, max))
    told = quantity(most, "epoch")
    if any(train.early_stopping is not None for train in trainings):
        return f"up to {told}"
    return told if least == most else f"{least} to {told}"


def figures(study: Study, over: str) -> dict[str, InlineFigure]:
    """The figures that the page shows, by name; over: what differences' intervals are over. Raises
    UserError if one is missing that is always drawn."""
    shown = {}
    trainings = [study.of(variant).train for variant in study.variants]
    losses = dict.fromkeys(LOSSES[train.loss] for train in trainings)
    stops_early = any(train.early_stopping is not None for train in trainings)
    for name, (title, caption) in FIGURES.items():
        if name in SOMETIMES and not (study.reports_dir / "figures" / name).is_file():
            continue  # there was nothing to draw
        caption = say(caption.format(loss=" or ".join(losses), over=over), study.prepare.depth)
        if stops_early and "by epoch" in title:
            caption += " Where a seed's training ended early, the mean is over the others."
        path = study.reports_dir / "figures" / name
        shown[path.stem] = inline_figure(path, title, caption, "plot")
    return shown


def attention_figures(study: Study) -> list[InlineFigure]:
    """The attention maps of the variants that have any, each a figure."""
    folder = study.reports_dir / "attention"
    return [
        inline_figure(path, variant, "", "attention")
        for variant in study.variants
        if (path := folder / f"{variant}.webp").is_file()
    ]


def attention_seeds(study: Study, results: Results) -> str:
    """Whose networks the maps are of, and which of these runs failed."""
    first = {variant: study.seeds_of(variant)[0] for variant in study.variants}
    told = ", ".join(f"{variant} {seed}" for variant, seed in first.items())
    sentence = f"Networks of each variant's first seed: {told}."
    if len(set(first.values())) == 1:
        sentence = f"Networks of seed {study.seeds[0]}."
    failed = [found.variant for found in results.failures if first[found.variant] in found.failed]
    return f"{sentence} Of a run that failed: {', '.join(failed)}." if failed else sentence


@dataclass(frozen=True)
class DataCard:
    """data/prepared/card as the page shows it: `facts` is card.json, pictures are data URIs."""

    facts: dict[str, Any]
    problems: list[dict[Hashable, Any]]
    pictures: list[InlineFigure]


CARD_PICTURES = {
    "contact_sheet.png": (
        "Contact sheet",
        "Cases from the smallest lesion to the largest, at even steps, with their true borders. "
        "Under the id: the split, and the lesion's share of the image.",
    ),
    "lesion_areas.png": ("Lesion areas", "The lesion's share of the image, by split."),
    "near_duplicates.png": (
        "Near-duplicates",
        "Pairs that show one photograph twice; those across splits first. All pairs: "
        "data/prepared/card/near_duplicates.csv.",
    ),
}


def data_card(study: Study) -> DataCard:
    """Read the card. Raises UserError if it is missing."""
    folder = study.prepared_dir / "card"
    facts = read_json(folder / "card.json", "preprocess")
    try:
        table = pd.read_csv(folder / "problems.csv", dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder / 'problems.csv'} is missing or unusable ({error}); run the stage preprocess"
        ) from None
    problems = table.to_dict("records")
    pictures = [
        inline_figure(folder / name, title, caption, "preprocess")
        for name, (title, caption) in CARD_PICTURES.items()
        if name != "near_duplicates.png" or (folder / name).is_file()
    ]
    return DataCard(facts, problems, pictures)


def commands(study: Study, results: Results) -> str:
    """What to type, at the top of the sources, to get these figures again."""
    folder = os.path.relpath(study.folder, study.folder / study.code)
    commit = results.environment.get("commit", "")
    # Of several commits, or of one with changes, none gives these figures.
    lines = [f"git checkout {commit}"] if commit and " " not in commit else []
    lines += ["make setup", ". .venv/bin/activate"]
    lines.append("dvc repro" if folder == "." else f"dvc --cd {folder} repro")
    return "\n".join(lines)


def write(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run_command(lambda: main(wants_partial("Write the tables and the page.")))
