"""Predictions to look at: a lesion's border on its picture, attention maps as heat maps."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.data.geometry import Size
from pipeline.evaluation.native import lay_back
from pipeline.study.values import Resize

if TYPE_CHECKING:  # with matplotlib, which overlays need nothing of
    from pipeline.reporting.heatmaps import AttentionStage

LONGEST = 1024  # pixels of an overlay's longer side: enough for a screen
BORDER = (0, 213, 255)  # figures.PREDICTION_COLOUR
UNSEEN = (128, 128, 128)  # what a centre crop left out, in heat maps


def draw_border(picture: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A copy of picture (H, W, 3) RGB with the border of mask (H, W), closed along its rim."""
    height, width = mask.shape
    contours, _ = cv2.findContours(
        np.pad(mask, 1).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=(-1, -1)
    )
    drawn = np.array(picture)
    thickness = max(1, round(max(height, width) / 300))
    cv2.drawContours(drawn, contours, -1, BORDER, thickness, cv2.LINE_AA)
    return drawn


def overlay(
    picture: Image.Image, probabilities: NDArray[np.float32], threshold: float, resize: Resize
) -> Image.Image:
    """The picture with the border of where p > threshold; probabilities (h, w) as predicted."""
    mask = lay_back(probabilities, (picture.height, picture.width), resize) > threshold
    return Image.fromarray(draw_border(np.asarray(picture), mask))


def heat_map(
    stage: AttentionStage,
    small: NDArray[np.float32],
    shown: Size,
    probabilities: NDArray[np.float32],
    threshold: float,
    resize: Resize,
) -> Image.Image:
    """A map of an attention stage in the colours of the report's figures, `shown` (H, W) large,
    with the border of where probabilities (h, w) are above the threshold."""
    from pipeline.reporting.heatmaps import SCALES

    # A whole number of times, so that a cell stays a square; a small original has fewer pixels.
    down, across = (
        -(-side // cells) for side, cells in zip(probabilities.shape, small.shape, strict=True)
    )
    blocks = np.repeat(np.repeat(small, down, 0), across, 1)
    laid = lay_back(np.ascontiguousarray(blocks), shown, resize)
    colours = SCALES[stage.kind].to_rgba(laid, bytes=True)[..., :3]
    seen = lay_back(np.ones_like(probabilities), shown, resize) > 0
    mask = lay_back(probabilities, shown, resize) > threshold
    return Image.fromarray(
        draw_border(np.where(seen[..., None], colours, UNSEEN).astype(np.uint8), mask)
    )


def file_name(number: int, stage: AttentionStage) -> str:
    """`3-decoder-gate-1.png`: stages in their order, from input to output."""
    return f"{number}-{re.sub(r'[^a-z0-9]+', '-', stage.name.lower())}.png"


def draw_scales() -> bytes:
    """What the heat maps' colours mean, as a PNG of their two scales."""
    from matplotlib.figure import Figure

    from pipeline.reporting.heatmaps import LABELS, SCALES, mark_scale

    figure = Figure(figsize=(5, 1.8), layout="constrained")
    for kind, ax in zip(SCALES, figure.subplots(len(SCALES)), strict=True):
        bar = figure.colorbar(SCALES[kind], cax=ax, orientation="horizontal")
        bar.set_label(LABELS[kind])
        mark_scale(bar, kind)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()
