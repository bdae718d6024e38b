"""How every figure of the project looks: colours, style, images with contours, files.

The same inputs give the same bytes: no date, no random number, fixed ids in the SVG.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from PIL import Image

from pipeline.data import slices
from pipeline.data.slices import AXES
from pipeline.engine.prepared import PreparedCases
from pipeline.study.values import Resize

# Ten colours chosen to remain apart with any common colour blindness (Petroff 2021), each with a
# marker of its own, so that colour is never the only difference.
COLOURS = mpl.color_sequences["petroff10"]
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")
TRUTH_COLOUR = "white"
TRUTH_RIM = withStroke(linewidth=1.7, foreground="black")  # white is lost on pale skin
# Letters on a variant's colour: no greys, which a dark page turns round.
WHITE_LETTERS, BLACK_LETTERS = "#fffffe", "#000001"
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


def legend_columns(labels: Sequence[str]) -> int:
    """So many that the labels are not wider than a figure of 9 inches; three at most."""
    return min(3, len(labels), max(1, 110 // (max(map(len, labels)) + 8)))


def show_image(ax: Axes, image: NDArray[np.uint8], proportion: float) -> None:
    """image (height, width, 3), shown `proportion` times as wide as high, without axes."""
    height, width = image.shape[:2]
    ax.imshow(image, aspect=width / height / proportion, rasterized=True)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def draw_contour(ax: Axes, mask: NDArray[np.uint8], colour: str) -> None:
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


def write_in_corner(ax: Axes, text: str) -> None:
    ax.text(
        0.03, 0.04, text, transform=ax.transAxes, fontsize=7, color="white", va="bottom",
        bbox={"boxstyle": "square,pad=0.2", "facecolor": "black", "alpha": 0.6, "linewidth": 0},
    )  # fmt: skip


def proportions(cases: PreparedCases, resize: Resize, axis: int = 0) -> NDArray[np.float64]:
    """Width over height that each case is shown with: the original's where it was stretched, and of
    volumes that of the slice across `axis`, in millimetres."""
    table = cases.table
    if "depth" in table:
        high, wide = (name for place, name in enumerate(AXES) if place != axis)
        sides = (table[name] * table[f"{name}_mm"] for name in (wide, high))
        return np.asarray(next(sides) / next(sides), dtype=np.float64)
    if resize == "stretch":
        return np.asarray(table["width"] / table["height"], dtype=np.float64)
    _, height, width = cases.masks.shape
    return np.full(len(cases.masks), width / height)


def view(
    cases: PreparedCases, place: int, axis: int = 0, at: int | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The picture (height, width, 3) that shows a case, and its mask (height, width): of a volume
    the slice `at` across `axis`, or the one with the largest lesion."""
    image, mask = cases.images[place], cases.masks[place]
    if mask.ndim == 2:
        return image, mask
    if at is None:
        at = slices.largest(mask, axis)
    return slices.in_colour(slices.cut(image, at, axis)), slices.cut(mask, at, axis)


def as_pictures(cases: PreparedCases) -> PreparedCases:
    """The cases as what is looked at: pictures as they are, of each volume its `view`."""
    if cases.masks.ndim == 3:
        return cases
    views = [view(cases, place) for place in range(len(cases.masks))]
    images, masks = (np.stack(part) for part in zip(*views, strict=True))
    return replace(cases, images=images, masks=masks)


def save(figure: Figure, path: Path, *, photographs: bool = False) -> None:
    """Write `path`.png and `path`.svg, without a date; with `photographs` smaller and coarser."""
    save_png(figure, path.with_suffix(".png"), photographs=photographs)
    svg_dpi = 72 if photographs else 120  # of what is rasterized within
    figure.savefig(path.with_suffix(".svg"), dpi=svg_dpi, metadata={"Date": None})


def save_png(figure: Figure, path: Path, *, photographs: bool = False) -> None:
    """Write a PNG; with `photographs` in 256 colours, a third of the bytes."""
    if photographs:
        settle(figure)
    figure.savefig(path, dpi=120)
    if photographs:
        with Image.open(path) as image:
            image.convert("RGB").quantize(256).save(path, optimize=True)


def settle(figure: Figure) -> None:
    """Lay a figure out for good, its axes at rounded places: the layout's solver differs in the
    last bits from one time to the next, and where a photograph's pixel ends so may its colour."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for ax in figure.axes:
        ax.set_position(np.round(ax.get_position(original=True).bounds, 6))


def save_webp(figure: Figure, path: Path) -> None:
    """Write a WebP, for a page that holds its pictures: a quarter of the PNG's bytes, and colours
    that grade into each other, where 256 of them would be steps. Colours of details finer than two
    pixels are averaged."""
    figure.savefig(path, dpi=120, pil_kwargs={"quality": 90, "method": 6})
