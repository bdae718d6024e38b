"""How an original is laid into a picture of another size: stretched, cropped or padded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.study.values import Resize

Size = tuple[int, int]  # height, width in pixels


@dataclass(frozen=True)
class Placement:
    """The part of the original that is shown, and where in the picture it stands.

    box: left, top, right, bottom in the original's pixels, fractions of pixels too.
    left, top, width, height: whole pixels of the picture of the given size; black around it.
    """

    size: Size
    box: tuple[float, float, float, float]
    left: int
    top: int
    width: int
    height: int

    def scale(self) -> float:
        """Pixels of the picture to one of the original, along the side that is shrunk less."""
        left, top, right, bottom = self.box
        return max(self.width / (right - left), self.height / (bottom - top))


def place(original: Size, size: Size, resize: Resize) -> Placement:
    """Where an original of that height and width goes in a picture of `size`.

    stretch shows all of it in other proportions; center_crop the largest centred part of the
    picture's proportions; pad all of it in its own proportions, centred.
    """
    height, width = original
    box = (0.0, 0.0, float(width), float(height))
    if resize == "center_crop":
        shrink = min(height / size[0], width / size[1])
        left, top = (width - shrink * size[1]) / 2, (height - shrink * size[0]) / 2
        box = (left, top, width - left, height - top)
    elif resize == "pad":
        scale = min(size[0] / height, size[1] / width)
        inner = (max(1, round(scale * height)), max(1, round(scale * width)))
        left, top = (size[1] - inner[1]) // 2, (size[0] - inner[0]) // 2
        return Placement(size, box, left, top, inner[1], inner[0])
    return Placement(size, box, 0, 0, size[1], size[0])


def lay_image(image: Image.Image, placement: Placement, shrunk: float = 1.0) -> NDArray[np.uint8]:
    """An RGB image as (height, width, 3), filtered bilinearly over the area that a pixel covers.

    `shrunk`: how many times smaller than the original `image` was decoded.
    """
    return _lay(image, placement, Image.Resampling.BILINEAR, shrunk)


def lay_mask(mask: Image.Image, placement: Placement) -> NDArray[np.uint8]:
    """A mask of 0 and 255 as (height, width) in {0, 1}: 1 where half of a pixel's area is lesion.

    Pillow's BOX filter averages the area from whole original pixels, taken by their centres: that
    is exact where the size divides the original's; else 1 pixel in 5,000 of ISIC's masks differs.
    """
    return (_lay(mask, placement, Image.Resampling.BOX) >= 128).astype(np.uint8)


def _lay(
    image: Image.Image, placement: Placement, filter: Image.Resampling, shrunk: float = 1.0
) -> NDArray[np.uint8]:
    # A decoder that shrinks rounds the size up: the box stays within what it covers.
    left, top, right, bottom = (edge / shrunk for edge in placement.box)
    inner = image.resize(
        (placement.width, placement.height),
        filter,
        (left, top, min(right, image.width), min(bottom, image.height)),
    )
    if (placement.height, placement.width) == placement.size:
        return np.asarray(inner)
    outer = Image.new(image.mode, (placement.size[1], placement.size[0]))
    outer.paste(inner, (placement.left, placement.top))
    return np.asarray(outer)
