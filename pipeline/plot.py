"""Stage plot: draw what the runs learned and predicted, as PNG and SVG in reports/figures/.

The same inputs give the same bytes: no date, no random number, fixed ids in the SVG.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray
from PIL import Image

from pipeline.comparison import ExampleCase, example_cases, score_runs
from pipeline.errors import UserError, run_command
from pipeline.files import replacing
from pipeline.params import Study, load_study
from pipeline.prepared import PreparedCases
from pipeline.runs import read_histories, read_scores

LOSSES = {"bce": "BCE", "dice_loss": "Dice loss", "focal_loss": "Focal loss"}
CURVE_SPLITS = {"train": "training", "validation": "validation"}

# Ten colours chosen to remain apart with any common colour blindness (Petroff 2021), each with a
# marker of its own, so that colour is never the only difference.
COLOURS = mpl.color_sequences["petroff10"]
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")
TRUTH_COLOUR = "white"
TRUTH_RIM = withStroke(linewidth=1.7, foreground="black")  # white is lost on pale skin
PREDICTION_COLOUR = "#00d5ff"  # against skin's and lesion's browns

STYLE = {
    **sns.axes_style("whitegrid"),
    **sns.plotting_context("notebook"),
    "figure.dpi": 120,
    "savefig.facecolor": "white",
    "savefig.bbox": "tight",  # a long variant name is never cut
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters on every machine
    "font.size": 10,
    "axes.labelsize": 10,
    "axes.titlesize": 11,
    "axes.edgecolor": "0.4",
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.title_fontsize": 9,
    "axes.linewidth": 0.8,
    "grid.linewidth": 0.8,
    "grid.color": "0.9",
    "svg.hashsalt": "lesion-ablation",
    "text.parse_math": False,  # a $ in an id is a $
}


def main() -> None:
    study = load_study()
    cases = PreparedCases.open(study.prepared_dir)
    histories = read_histories(study)
    scores = read_scores(study, cases)
    examples = example_cases(scores)
    masks = read_predictions(study, cases, [example.id for example in examples])
    with mpl.rc_context(STYLE), replacing(study.reports_dir / "figures") as folder:
        folder.mkdir()
        save(draw_loss_curves(histories), folder / "loss_curves")
        save(draw_validation_dice(histories), folder / "validation_dice")
        save(draw_dice_by_case(scores), folder / "dice_by_case")
        save(draw_examples(examples, cases, scores, masks), folder / "examples", photographs=True)
    with replacing(study.reports_dir / "curves") as folder:
        folder.mkdir()
        write_curves(histories, folder)
    print(f"plot: 4 figures in {study.reports_dir / 'figures'}, runs drawn: {len(study.runs())}")


def write_curves(histories: pd.DataFrame, folder: Path) -> None:
    """A table for each curve of history.csv, for `dvc plots`: an epoch a row, a variant a column,
    the mean over seeds."""
    curves = [f"{split}_{loss}" for split in CURVE_SPLITS for loss in LOSSES]
    for curve in [*curves, "validation_dice", "validation_iou"]:
        means = histories.pivot_table(index="epoch", columns="variant", values=curve, sort=False)
        means.to_csv(folder / f"{curve}.csv")


def read_predictions(
    study: Study, cases: PreparedCases, ids: Sequence[str]
) -> dict[tuple[str, int], NDArray[np.uint8]]:
    """The masks that each run predicted for the test cases `ids`: (ids, height, width) in {0, 1}.

    Raises UserError if a run's predictions.npy is missing or of another shape.
    """
    test = cases.indices("test")
    test_ids = cases.table["id"].to_numpy()[test].tolist()
    rows = [test_ids.index(case_id) for case_id in ids]
    _, height, width = cases.masks.shape
    masks = {}
    for variant, seed in study.runs():
        path = study.evaluation_dir(variant, seed) / "predictions.npy"
        try:
            packed = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} is missing or unusable ({error}); run the stage evaluate"
            ) from None
        if packed.shape != (len(test), height, width // 8):
            raise UserError(
                f"{path} must have the shape {(len(test), height, width // 8)}, got "
                f"{packed.shape}; run the stage evaluate again"
            )
        masks[variant, seed] = np.unpackbits(packed[rows], axis=-1)
    return masks


def draw_loss_curves(histories: pd.DataFrame) -> Figure:
    """A row a loss, training beside validation on one scale; histories as of read_histories."""
    figure = Figure(figsize=(9, 9.2), layout="constrained")
    axes = figure.subplots(len(LOSSES), len(CURVE_SPLITS), sharex=True, sharey="row", squeeze=False)
    for row, (loss, loss_label) in zip(axes, LOSSES.items(), strict=True):
        for ax, (split, split_label) in zip(row, CURVE_SPLITS.items(), strict=True):
            _draw_curves(ax, histories, f"{split}_{loss}")
            ax.set(
                title=f"{loss_label}, {split_label}",
                xlabel="Epoch",
                ylabel=f"{loss_label} (log scale)",
            )
            ax.set_yscale("log")  # early validation losses can be many times the later ones
            _label_plainly(ax)
    _add_legend(figure, histories)
    return figure


def draw_validation_dice(histories: pd.DataFrame) -> Figure:
    """Mean per-case Dice on the validation cases by epoch; histories as of read_histories."""
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    ax = figure.subplots()
    _draw_curves(ax, histories, "validation_dice")
    ax.set(xlabel="Epoch", ylabel="Mean per-case Dice, validation")
    _add_legend(figure, histories)
    return figure


def _draw_curves(ax: Axes, histories: pd.DataFrame, column: str) -> None:
    """`column` by epoch: each variant's mean over seeds, and the range of its seeds as a band."""
    single_epoch = histories["epoch"].max() == 1  # a band has no width there, a bar has height
    sns.lineplot(
        histories,
        x="epoch",
        y=column,
        hue="variant",
        style="variant",
        palette=_by_variant(histories, COLOURS),
        markers=_by_variant(histories, MARKERS),
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


def _by_variant(table: pd.DataFrame, values: Sequence[Any]) -> dict[str, Any]:
    names = table["variant"].unique()
    return dict(zip(names, islice(cycle(values), len(names)), strict=True))


def _add_legend(figure: Figure, histories: pd.DataFrame) -> None:
    colours, markers = _by_variant(histories, COLOURS), _by_variant(histories, MARKERS)
    handles = [
        Line2D(
            [], [], color=colours[name], marker=markers[name], markeredgecolor="white", label=name
        )
        for name in colours
    ]
    seeds = histories["seed"].nunique()
    title = "mean over seeds; band: lowest to highest seed" if seeds > 1 else "one seed"
    columns = min(3, len(handles))
    figure.legend(handles=handles, title=title, loc="outside lower center", ncols=columns)


def draw_dice_by_case(scores: pd.DataFrame) -> Figure:
    """Per-case Dice of all seeds by variant, with the seeds' means; scores as of read_scores."""
    means = score_runs(scores)["dice"].reset_index()
    variants = list(scores["variant"].unique())
    figure = Figure(figsize=(9, 1.4 + 0.62 * len(variants)), layout="constrained")
    ax = figure.subplots()
    sns.violinplot(
        scores,
        x="dice",
        y="variant",
        hue="variant",
        palette=_by_variant(scores, COLOURS),
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
        flierprops={"marker": ".", "markersize": 3, "markerfacecolor": "0.25", "alpha": 0.5}
        | {"markeredgewidth": 0},
    )
    for outliers in boxes["fliers"]:
        outliers.set_rasterized(True)  # thousands of them would swell the SVG
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
    masks: dict[tuple[str, int], NDArray[np.uint8]],
) -> Figure:
    """A column a case: its image with the truth's contour, then a row a variant with every seed's.

    masks: (variant, seed) -> (examples, height, width) in {0, 1}, as of read_predictions.
    Images are stretched back to the proportions of the originals.
    """
    table = cases.table.reset_index(drop=True)
    places = [int(table.index[table["id"] == example.id][0]) for example in examples]
    proportions = (table["width"] / table["height"])[places].to_numpy()  # width / height
    variants = list(dict.fromkeys(variant for variant, _ in masks))
    dice = scores.groupby(["variant", "id"])["dice"].mean()

    cell_height = 1.15  # inches
    label_width = 0.2 + 0.078 * max(map(len, variants))  # of 9-point letters
    size = (
        label_width + cell_height * proportions.sum(),
        1.0 + (cell_height + 0.06) * (1 + len(variants)),
    )
    close = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    figure = Figure(figsize=size, layout=close)
    axes = figure.subplots(
        1 + len(variants), len(examples), squeeze=False, width_ratios=proportions.tolist()
    )
    for column, (example, place) in enumerate(zip(examples, places, strict=True)):
        image, truth = cases.images[place], cases.masks[place]
        for row, ax in enumerate(axes[:, column]):
            _show_image(ax, image, float(proportions[column]))
            if row > 0:
                variant = variants[row - 1]
                for (name, _), predicted in masks.items():
                    if name == variant:
                        _draw_contour(ax, predicted[column], PREDICTION_COLOUR)
                _write_in_corner(ax, f"{dice[variant, example.id]:.3f}")
            _draw_contour(ax, truth, TRUTH_COLOUR)  # last, so that what strays from it shows
        axes[0, column].set_title(
            f"{example.rank}, Dice {example.dice:.3f}\n{_shortened(example.id)}", fontsize=8
        )
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


def _show_image(ax: Axes, image: NDArray[np.uint8], proportion: float) -> None:
    """image (height, width, 3), shown `proportion` times as wide as high, without axes."""
    height, width = image.shape[:2]
    ax.imshow(image, aspect=width / height / proportion, rasterized=True)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def _draw_contour(ax: Axes, mask: NDArray[np.uint8], colour: str) -> None:
    """The border of mask (height, width) in {0, 1}, closed where it meets the image's rim."""
    if not mask.any():
        return
    height, width = mask.shape
    contour = ax.contour(
        np.arange(-1, width + 1),
        np.arange(-1, height + 1),
        np.pad(mask, 1),
        levels=[0.5],
        colors=[colour],
        linewidths=0.9,
    )
    if colour == TRUTH_COLOUR:
        contour.set_path_effects([TRUTH_RIM])
    contour.set_rasterized(True)
    ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def _write_in_corner(ax: Axes, text: str) -> None:
    ax.text(
        0.03, 0.04, text, transform=ax.transAxes, fontsize=7, color="white", va="bottom",
        bbox={"boxstyle": "square,pad=0.2", "facecolor": "black", "alpha": 0.6, "linewidth": 0},
    )  # fmt: skip


def _shortened(text: str, longest: int = 20) -> str:
    """`text` with its middle left out where it is longer than `longest` characters."""
    half = (longest - 1) // 2
    return text if len(text) <= longest else f"{text[:half]}…{text[-half:]}"


def save(figure: Figure, path: Path, *, photographs: bool = False) -> None:
    """Write `path`.png and `path`.svg, without a date.

    With `photographs` the PNG is reduced to 256 colours, a third of the bytes, and the SVG's
    pictures are coarser.
    """
    png = path.with_suffix(".png")
    figure.savefig(png, dpi=120)
    if photographs:
        with Image.open(png) as image:
            image.convert("RGB").quantize(256).save(png, optimize=True)
    svg_dpi = 72 if photographs else 120  # of what is rasterized within
    figure.savefig(path.with_suffix(".svg"), dpi=svg_dpi, metadata={"Date": None})


if __name__ == "__main__":
    run_command(main)
