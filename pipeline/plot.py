"""Stage plot: draw what the runs learned and predicted, as PNG and SVG in reports/figures/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from pipeline.engine.prepared import PreparedCases
from pipeline.reporting.evaluation_figures import draw_reliability, draw_thresholds
from pipeline.reporting.result_figures import conclusions, draw_cost, looks
from pipeline.reporting.style import (
    PREDICTION_COLOUR,
    STYLE,
    TRUTH_COLOUR,
    TRUTH_RIM,
    as_pictures,
    draw_contour,
    legend_columns,
    proportions,
    save,
    show_image,
    write_in_corner,
)
from pipeline.statistics.results import Results, open_results
from pipeline.statistics.runs import read_predictions
from pipeline.statistics.scores import ExampleCase, disputed_cases, example_cases
from pipeline.study.errors import run_command
from pipeline.study.files import replacing
from pipeline.study.params import Study
from pipeline.study.reading import load_study, wants_partial
from pipeline.study.stages import at_stage
from pipeline.study.values import Resize, quantity, shortened

LOSSES = {"bce": "BCE", "dice_loss": "Dice loss", "focal_loss": "Focal loss"}
CURVE_SPLITS = {"train": "training", "validation": "validation"}


def main(partial: bool = False) -> None:
    whole = load_study()
    with at_stage(whole, "plot", partial=partial):
        study, results = open_results(whole, partial)
        drawn = draw(study, results)
    print(
        f"plot: {quantity(drawn, 'figure')} in {study.reports_dir / 'figures'}, runs drawn: "
        f"{len(study.runs())}"
    )


def draw(study: Study, results: Results) -> int:
    """Draw every figure and write the curves; returns how many figures there are."""
    cases = PreparedCases.open(study.prepared_dir)
    histories, scores, variants = results.curves(), results.scores(), results.study.variants
    examples, disputed = example_cases(scores), disputed_cases(scores)
    ids = list(dict.fromkeys(case.id for case in (*examples, *disputed)))
    masks, pictures = predicted_masks(study, cases, ids), as_pictures(cases)
    with mpl.rc_context(STYLE), replacing(study.reports_dir / "figures") as folder:
        folder.mkdir()
        drawn = {
            "loss_curves": draw_loss_curves(histories, variants),
            "validation_dice": draw_validation_dice(histories, variants),
            "dice_by_case": draw_dice_by_case(scores, variants),
            **result_figures(results),
        }
        for name, figure in drawn.items():
            save(figure, folder / name)
        photographs = {"examples": examples, "disputed": disputed}
        for name, chosen in photographs.items():
            if chosen:
                figure = draw_examples(
                    chosen, pictures, scores, masks, study.prepare.resize, variants
                )
                save(figure, folder / name, photographs=True)
                drawn[name] = figure
    with replacing(study.reports_dir / "curves") as folder:
        folder.mkdir()
        write_curves(histories, folder)
    return len(drawn)


def result_figures(results: Results) -> dict[str, Figure]:
    """The figures of results.json's conclusions that there is something to draw for."""
    more = {
        "cost": draw_cost(results),
        "reliability": draw_reliability(results),
        "thresholds": draw_thresholds(results),
    }
    return conclusions(results) | {name: drawn for name, drawn in more.items() if drawn is not None}


def predicted_masks(
    study: Study, cases: PreparedCases, ids: Sequence[str]
) -> dict[tuple[str, int], dict[str, NDArray[np.uint8]]]:
    """(variant, seed) -> case -> the predicted mask (height, width) in {0, 1}."""
    return {
        (variant, seed): dict(zip(ids, np.unpackbits(packed, axis=-1), strict=True))
        for seed in study.seeds
        for variant, packed in read_predictions(study, cases, ids, seed).items()
    }


def write_curves(histories: pd.DataFrame, folder: Path) -> None:
    """A table for each curve of history.csv, for `dvc plots`: an epoch a row, a variant a column,
    the mean over seeds."""
    curves = [f"{split}_{loss}" for split in CURVE_SPLITS for loss in LOSSES]
    for curve in [*curves, "validation_dice", "validation_iou"]:
        means = histories.pivot_table(index="epoch", columns="variant", values=curve, sort=False)
        means.to_csv(folder / f"{curve}.csv")


def draw_loss_curves(histories: pd.DataFrame, variants: Sequence[str]) -> Figure:
    """A row a loss, training beside validation on one scale; histories as of Results.curves."""
    figure = Figure(figsize=(9, 9.2), layout="constrained")
    axes = figure.subplots(len(LOSSES), len(CURVE_SPLITS), sharex=True, sharey="row", squeeze=False)
    for row, (loss, loss_label) in zip(axes, LOSSES.items(), strict=True):
        for ax, (split, split_label) in zip(row, CURVE_SPLITS.items(), strict=True):
            _draw_curves(ax, histories, f"{split}_{loss}", variants)
            ax.set(
                title=f"{loss_label}, {split_label}",
                xlabel="Epoch",
                ylabel=f"{loss_label} (log scale)",
            )
            ax.set_yscale("log")  # early validation losses can be many times the later ones
            _label_plainly(ax)
    _add_legend(figure, histories, variants)
    return figure


def draw_validation_dice(histories: pd.DataFrame, variants: Sequence[str]) -> Figure:
    """Mean per-case Dice on the validation cases by epoch; histories as of Results.curves."""
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    ax = figure.subplots()
    _draw_curves(ax, histories, "validation_dice", variants)
    ax.set(xlabel="Epoch", ylabel="Mean per-case Dice, validation")
    _add_legend(figure, histories, variants)
    return figure


def _draw_curves(ax: Axes, histories: pd.DataFrame, column: str, variants: Sequence[str]) -> None:
    """`column` by epoch: each variant's mean over seeds, and the range of its seeds as a band."""
    look = looks(variants)
    single_epoch = histories["epoch"].max() == 1  # a band has no width there, a bar has height
    sns.lineplot(
        histories,
        x="epoch",
        y=column,
        hue="variant",
        style="variant",
        hue_order=variants,
        style_order=variants,
        palette={name: own.colour for name, own in look.items()},
        markers={name: own.marker for name, own in look.items()},
        dashes=False,
        errorbar=("pi", 100),
        err_style="bars" if single_epoch else "band",
        err_kws={} if single_epoch else {"alpha": 0.12, "linewidth": 0},
        markersize=6,
        legend=False,
        ax=ax,
    )
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _label_plainly(ax: Axes) -> None:
    """Tick labels such as 0.2 in place of powers of ten."""
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def _add_legend(figure: Figure, histories: pd.DataFrame, variants: Sequence[str]) -> None:
    handles = [
        Line2D(
            [], [], color=own.colour, marker=own.marker, markeredgecolor="white",
            markeredgewidth=0.5, label=name,
        )
        for name, own in looks(variants).items()
    ]  # fmt: skip
    seeds = histories["seed"].nunique()
    title = "mean over seeds; band: lowest to highest seed" if seeds > 1 else "one seed"
    columns = legend_columns(variants)
    figure.legend(handles=handles, title=title, loc="outside lower center", ncols=columns)


def draw_dice_by_case(scores: pd.DataFrame, variants: Sequence[str]) -> Figure:
    """Per-case Dice of all seeds by variant, with the seeds' means; scores as of Results."""
    means = scores.groupby(["variant", "seed"], sort=False)["dice"].mean().reset_index()
    figure = Figure(figsize=(9, 1.4 + 0.62 * len(variants)), layout="constrained")
    ax = figure.subplots()
    sns.violinplot(
        scores,
        x="dice",
        y="variant",
        hue="variant",
        order=variants,
        hue_order=variants,
        palette={name: own.colour for name, own in looks(variants).items()},
        saturation=1,
        inner=None,
        cut=0,  # no density where there is no Dice
        density_norm="width",
        linewidth=0,
        alpha=0.35,
        legend=False,
        ax=ax,
    )
    dark = {"color": "0.25", "linewidth": 1.1}
    boxes = ax.boxplot(  # seaborn's boxplot uses an argument that matplotlib 3.11 deprecates
        [scores.loc[scores["variant"] == variant, "dice"].to_numpy() for variant in variants],
        positions=range(len(variants)),
        orientation="horizontal",
        manage_ticks=False,
        widths=0.22,
        whis=(5, 95),
        boxprops=dark,
        whiskerprops=dark,
        capprops=dark,
        medianprops=dark,
        flierprops={"marker": ".", "markersize": 3, "markerfacecolor": "0.5"}
        | {"markeredgewidth": 0},
    )
    for outliers in boxes["fliers"]:
        # Thousands of them would swell the SVG; their grey is seen on a dark page, too.
        outliers.set_rasterized(True)
    below_box = [variants.index(variant) + 0.28 for variant in means["variant"]]
    ax.scatter(
        means["dice"], below_box, marker="D", s=26, color="white", edgecolor="black", zorder=5,
        label="mean of a seed",
    )  # fmt: skip
    lowest = np.floor(10 * scores["dice"].min()) / 10
    margin = 0.015 * (1 - lowest)
    ax.set(
        xlabel="Per-case Dice, test cases of all seeds; box: quartiles; whiskers: 5 % to 95 %",
        ylabel="",
        xlim=(lowest - margin, 1 + margin),
    )
    figure.legend(loc="outside upper right")
    return figure


def draw_examples(
    examples: Sequence[ExampleCase],
    cases: PreparedCases,
    scores: pd.DataFrame,
    masks: dict[tuple[str, int], dict[str, NDArray[np.uint8]]],
    resize: Resize,
    variants: Sequence[str],
) -> Figure:
    """A column a case: its image with the truth's contour, then a row a variant with every seed's.

    masks: as of predicted_masks.
    Images that were stretched are shown in the proportions of the originals.
    """
    table = cases.table.reset_index(drop=True)
    places = [int(table.index[table["id"] == example.id][0]) for example in examples]
    shown = proportions(cases, resize)[places]
    dice = scores.groupby(["variant", "id"])["dice"].mean()

    cell_height = 1.15  # inches
    label_width = 0.2 + 0.078 * max(map(len, variants))  # of 9-point letters
    titles = [
        f"{example.rank}, Dice {example.dice:.3f}\n{shortened(example.id)}" for example in examples
    ]
    # At least as wide as its title of 8-point letters.
    widths = [
        max(cell_height * proportion, 0.062 * max(map(len, title.split("\n"))))
        for proportion, title in zip(shown, titles, strict=True)
    ]
    size = label_width + sum(widths), 1.0 + (cell_height + 0.06) * (1 + len(variants))
    close = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    figure = Figure(figsize=size, layout=close)
    axes = figure.subplots(1 + len(variants), len(examples), squeeze=False, width_ratios=widths)
    for column, (example, place) in enumerate(zip(examples, places, strict=True)):
        image, truth = cases.images[place], cases.masks[place]
        for row, ax in enumerate(axes[:, column]):
            show_image(ax, image, float(shown[column]))
            if row > 0:
                variant = variants[row - 1]
                for (name, _), predicted in masks.items():
                    if name == variant:
                        draw_contour(ax, predicted[example.id], PREDICTION_COLOUR)
                write_in_corner(ax, f"{dice[variant, example.id]:.3f}")
            draw_contour(ax, truth, TRUTH_COLOUR)  # last, so that what strays from it shows
        axes[0, column].set_title(titles[column], fontsize=8)
    for ax, label in zip(axes[:, 0], ["truth", *variants], strict=True):
        ax.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    figure.legend(
        handles=[
            Line2D([], [], color=TRUTH_COLOUR, path_effects=[TRUTH_RIM], label="truth"),
            Line2D([], [], color=PREDICTION_COLOUR, label="prediction, a line a seed"),
        ],
        title="number: Dice, mean over seeds",
        loc="outside lower center",
        ncols=2,
    )
    return figure


if __name__ == "__main__":
    run_command(lambda: main(wants_partial("Draw the figures.")))
