"""A run's best, median and worst test case as small pictures: the true border and the predicted."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.data import slices
from pipeline.engine.prepared import PreparedCases
from pipeline.study.arrays import read_array
from pipeline.study.columns import read_table
from pipeline.study.errors import UserError
from pipeline.study.params import Run, Study
from pipeline.study.values import shortened

NAMES = ("best", "median", "worst")
LONGEST = 384  # pixels of a picture's longer side
TRUE, PREDICTED = (255, 255, 255), (0, 213, 255)  # as in the report's figures
CAPTION = 22  # pixels of the line below


def thumbnail_files(study: Study, run: Run) -> list[str]:
    """Their file names; none of a run that is not evaluated. MLflow shows JPEG, and no WebP."""
    evaluated = (study.evaluation_dir(*run) / "predictions.npy").is_file()
    return [f"{name}.jpg" for name in NAMES] if evaluated else []


def draw_thumbnails(study: Study, run: Run, folder: Path) -> None:
    """Write `thumbnail_files` to `folder`, some 20 KB each. Raises UserError where the evaluation
    does not fit the prepared cases."""
    if not thumbnail_files(study, run):
        return
    evaluation = study.evaluation_dir(*run)
    cases = PreparedCases.open(study.prepared_dir, run.fold)
    test = cases.indices("test")
    *sides, width = cases.masks.shape[1:]
    packed = (len(test), *sides, -(-width // 8))
    predictions = read_array(evaluation / "predictions.npy", "evaluate", np.uint8, packed)
    scores = read_table(evaluation / "cases.csv", "evaluate", ["dice"])
    if len(scores) != len(test):
        raise UserError(
            f"{evaluation}/cases.csv must have the {len(test)} test cases, got {len(scores)}; run "
            "the stage evaluate again"
        )
    order = scores["dice"].to_numpy().argsort(kind="stable")
    for name, place in zip(NAMES, (order[-1], order[(len(order) - 1) // 2], order[0]), strict=True):
        case = cases.table.iloc[test[place]]
        stretched = study.prepare.resize == "stretch"
        image, truth = np.asarray(cases.images[test[place]]), np.asarray(cases.masks[test[place]])
        found = np.unpackbits(predictions[place], axis=-1, count=width)
        proportion = case["width"] / case["height"] if stretched else width / sides[-1]
        if truth.ndim == 3:  # a volume: its slice with the largest lesion
            at = slices.largest(truth)
            image, truth, found = (slices.cut(each, at) for each in (image, truth, found))
            image = slices.in_colour(image)
            proportion *= case["width_mm"] / case["height_mm"]
        picture = _draw(image, truth, found, proportion)
        told = f"{shortened(str(case['id']), 24)}: Dice {scores['dice'].iloc[place]:.4f}"
        _with_caption(picture, told).save(folder / f"{name}.jpg", quality=80, subsampling=0)


def _draw(
    image: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    found: NDArray[np.uint8],
    proportion: float,
) -> NDArray[np.uint8]:
    """image (H, W, 3), `proportion` times as wide as high, with the borders of the masks (H, W) in
    {0, 1}, closed along its rim."""
    height = LONGEST / max(1.0, proportion)
    size = [max(1, round(side)) for side in (height * proportion, height)]
    drawn = cv2.resize(image, size)
    for mask, colour, thickness in ((truth, (0, 0, 0), 3), (truth, TRUE, 1), (found, PREDICTED, 2)):
        inside = cv2.resize(mask.astype(np.float32), size) > 0.5
        borders, _ = cv2.findContours(
            np.pad(inside, 1).astype(np.uint8),
            cv2.RETR_CCOMP,
            cv2.CHAIN_APPROX_NONE,
            offset=(-1, -1),
        )
        cv2.drawContours(drawn, borders, -1, colour, thickness, cv2.LINE_AA)
    return drawn.astype(np.uint8)


def _with_caption(picture: NDArray[np.uint8], told: str) -> Image.Image:
    """The picture and, below it, what it shows and which border is which."""
    height, width, _ = picture.shape
    image = Image.new("RGB", (width, height + CAPTION))
    image.paste(Image.fromarray(picture))
    draw, font, left = ImageDraw.Draw(image), ImageFont.load_default(12), 4.0
    for text, colour in ((told, TRUE), ("true", TRUE), ("predicted", PREDICTED)):
        draw.text((left, height + 4), text, colour, font)
        left += draw.textlength(text, font) + 12
    return image
