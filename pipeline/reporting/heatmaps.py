"""Attention maps of every stage of a network on the same cases (the paper's figures 7 and 8)."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from pipeline.engine.prepared import PreparedCases
from pipeline.reporting.style import TRUTH_COLOUR, draw_contour, proportions, show_image
from pipeline.study.values import Resize, shortened

FURTHEST = 16.0  # times less or more than uniform, where the scale of received attention ends
# Both colour scales remain scales with any common colour blindness.
SCALES: dict[str, ScalarMappable] = {
    "alpha": ScalarMappable(Normalize(0, 1), "viridis"),
    "received": ScalarMappable(LogNorm(1 / FURTHEST, FURTHEST), "RdBu_r"),
}
LABELS = {"alpha": "gate: alpha, 0 to 1", "received": "attention received, times uniform"}
CAPTION = (
    "Every attention stage's map on the same cases; white: the true border. A gate's alpha is "
    "coloured from 0 to 1. Attention received is relative to uniform (1: what every position "
    "would receive if all received the same), on a logarithmic scale that ends at "
    f"{FURTHEST:g} times less and more. The scales are the same in all figures."
)


@dataclass(frozen=True)
class AttentionStage:
    """One attention module's maps.

    name: what it is, in words; size: of its maps, as a part of the picture's side, in words.
    kind: `alpha`, a gate's weights in (0, 1), or `received`, a self-attention's: how much attention
        a position receives, in units of what it would if all received the same (mean 1).
    maps: (cases, h, w) float32.
    """

    name: str
    size: str
    kind: Literal["alpha", "received"]
    maps: NDArray[np.float32]


def draw_attention(
    stages: Sequence[AttentionStage],
    ids: Sequence[str],
    cases: PreparedCases,
    resize: Resize,
) -> Figure | None:
    """A row a case, its image and then a column a stage; None for a network without stages.

    stages: of one network, their maps those of the cases `ids` in this order.
    """
    if not stages:
        return None
    table = cases.table.reset_index(drop=True)
    places = [int(table.index[table["id"] == id][0]) for id in ids]
    shown = proportions(cases, resize)[places]
    columns = 1 + len(stages)
    cell_width = min(1.5, 11.5 / columns)  # inches: a wider picture would shrink its letters
    heights = cell_width / shown
    letters = round(cell_width / 0.075)  # of 7.5 points that fit
    names = ["image", *(f"{stage.name}\n({stage.size})" for stage in stages)]
    titles = [
        "\n".join(textwrap.fill(line, letters) for line in name.split("\n")) for name in names
    ]
    title_height = 0.13 * max(title.count("\n") + 1 for title in titles)
    figure = Figure(
        figsize=(0.3 + (cell_width + 0.05) * columns, 0.9 + title_height + 1.05 * heights.sum()),
        layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0),
    )
    axes = figure.subplots(
        len(ids), columns, squeeze=False, height_ratios=(heights / heights[0]).tolist()
    )
    for row, place in enumerate(places):
        image, truth, proportion = cases.images[place], cases.masks[place], float(shown[row])
        show_image(axes[row, 0], image, proportion)
        axes[row, 0].set_ylabel(shortened(ids[row], 16), fontsize=6.5)
        for ax, stage in zip(axes[row, 1:], stages, strict=True):
            _show_map(ax, stage.maps[row], SCALES[stage.kind], truth.shape, proportion)
        for ax in axes[row]:
            draw_contour(ax, truth, TRUTH_COLOUR)
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title, fontsize=7.5)
    _add_scales(figure, axes, list(dict.fromkeys(stage.kind for stage in stages)))
    return figure


def _show_map(
    ax: Axes,
    map: NDArray[np.float32],
    scale: ScalarMappable,
    shape: tuple[int, ...],
    proportion: float,
) -> None:
    """map (h, w) over the whole picture of `shape` (height, width), each position one rectangle."""
    height, width = shape
    ax.imshow(
        scale.to_rgba(map),
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        aspect=width / height / proportion,
        interpolation="nearest",
        rasterized=True,
    )
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def _add_scales(figure: Figure, axes: NDArray[Any], kinds: Sequence[str]) -> None:
    for place, kind in enumerate(kinds):
        half = np.array_split(np.arange(axes.shape[1]), len(kinds))[place]
        bar = figure.colorbar(
            SCALES[kind], ax=axes[:, half], location="bottom", aspect=40, shrink=0.8, pad=0.02,
            extend="both" if kind == "received" else "neither",
        )  # fmt: skip
        bar.set_label(LABELS[kind], fontsize=8)
        bar.ax.tick_params(labelsize=7)
        mark_scale(bar, kind)


def mark_scale(bar: Colorbar, kind: str) -> None:
    """Received attention's ticks as the fractions and multiples that they are."""
    if kind == "received":
        ticks = [1 / FURTHEST, 1 / 4, 1, 4, FURTHEST]
        bar.set_ticks(ticks, labels=["1/16", "1/4", "1", "4", "16"])
        bar.minorticks_off()
