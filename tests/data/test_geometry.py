"""data/geometry.py: stretched, cropped and padded pictures, against Pillow and arithmetic."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.data.geometry import Placement, lay_image, lay_mask, place


def stretched(mask: NDArray[np.bool_], *, height: int, width: int) -> NDArray[np.uint8]:
    """The mask at that size."""
    picture = Image.fromarray(mask.astype(np.uint8) * 255)
    return lay_mask(picture, place(mask.shape, (height, width), "stretch"))


def test_a_mask_reduced_by_two_is_lesion_where_two_of_four_pixels_are():
    blocks = list(itertools.product([False, True], repeat=4))
    mask = np.concatenate([np.reshape(block, (2, 2)) for block in blocks], axis=1)
    small = stretched(mask, height=1, width=16)
    assert small.tolist() == [[int(sum(block) >= 2) for block in blocks]]


def area_average(mask: NDArray[np.bool_], height: int, width: int) -> NDArray[np.float64]:
    """The share of each pixel (height, width) that is lesion, from the overlaps of the edges."""

    def overlaps(large: int, small: int) -> NDArray[np.float64]:
        """(small, large): the share of each small pixel that each large one covers."""
        starts, large_starts = np.arange(small)[:, None] * large / small, np.arange(large)
        ends = np.minimum(large_starts + 1, starts + large / small)
        return np.clip(ends - np.maximum(large_starts, starts), 0, None) * small / large

    return overlaps(mask.shape[0], height) @ mask @ overlaps(mask.shape[1], width).T


@pytest.mark.parametrize(("height", "width"), [(32, 48), (32, 16), (16, 16), (96, 144)])
def test_a_mask_reduced_by_whole_factors_is_the_area_average_with_a_threshold(height, width):
    mask = np.random.default_rng(0).random((96, 144)) < 0.5
    area = area_average(mask, height, width)
    clear = np.abs(area - 0.5) > 1.5 / 255  # the average is rounded to grey levels, twice
    assert clear.mean() > 0.6
    small = stretched(mask, height=height, width=width)
    np.testing.assert_array_equal(small[clear], (area > 0.5)[clear])


def test_a_mask_reduced_from_isics_commonest_size_keeps_its_shape_and_area():
    y, x = np.mgrid[:767, :1022]
    mask = np.hypot(y - 383, 0.7 * (x - 500)) < 250
    small = stretched(mask, height=256, width=256)
    assert (small != (area_average(mask, 256, 256) >= 0.5)).mean() < 0.0015
    assert small.mean() == pytest.approx(mask.mean(), rel=0.003)


def test_a_mask_at_its_own_size_is_unchanged():
    mask = np.random.default_rng(0).random((32, 64)) < 0.5
    np.testing.assert_array_equal(stretched(mask, height=32, width=64), mask)


def photograph(height: int, width: int) -> Image.Image:
    """Smooth colours."""
    colours = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)


def test_stretching_is_pillows_bilinear_resize():
    image = photograph(50, 70)
    laid = lay_image(image, place((50, 70), (32, 64), "stretch"))
    expected = image.resize((64, 32), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(laid, np.asarray(expected))


@pytest.mark.parametrize(
    ("original", "size", "box"),
    [
        ((100, 200), (64, 64), (50, 0, 150, 100)),
        ((200, 100), (64, 64), (0, 50, 100, 150)),
        ((100, 200), (32, 64), (0, 0, 200, 100)),  # of the same proportions: all of it
        ((90, 160), (64, 96), (12.5, 0, 147.5, 90)),
    ],
)
def test_center_crop_shows_the_largest_centred_part_of_the_proportions(original, size, box):
    placement = place(original, size, "center_crop")
    assert placement.box == pytest.approx(box)
    assert (placement.left, placement.top) == (0, 0)
    assert (placement.height, placement.width) == size


def test_center_crop_is_a_crop_and_then_a_resize():
    image = photograph(100, 200)
    laid = lay_image(image, place((100, 200), (64, 64), "center_crop"))
    expected = image.crop((50, 0, 150, 100)).resize((64, 64), Image.Resampling.BILINEAR)
    # The filter sees a pixel or two beyond the crop, so the outermost pixels differ a little.
    np.testing.assert_array_equal(laid[2:-2, 2:-2], np.asarray(expected)[2:-2, 2:-2])


@pytest.mark.parametrize(
    ("original", "size", "inner"),  # left, top, width, height
    [
        ((100, 200), (64, 64), (0, 16, 64, 32)),
        ((200, 100), (64, 64), (16, 0, 32, 64)),
        ((50, 100), (32, 64), (0, 0, 64, 32)),
        ((1, 500), (64, 64), (0, 31, 64, 1)),  # never less than a pixel
    ],
)
def test_pad_shows_all_in_its_own_proportions_centred(original, size, inner):
    placement = place(original, size, "pad")
    assert (placement.left, placement.top, placement.width, placement.height) == inner
    assert placement.box == (0, 0, original[1], original[0])


def test_padding_is_black_around_a_resize_and_no_lesion():
    image, mask = photograph(100, 200), Image.new("L", (200, 100), 255)
    placement = place((100, 200), (64, 64), "pad")
    laid, lesion = lay_image(image, placement), lay_mask(mask, placement)
    expected = image.resize((64, 32), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(laid[16:48], np.asarray(expected))
    assert not laid[:16].any()
    assert not laid[48:].any()
    assert lesion[16:48].all()
    assert lesion.sum() == 32 * 64


@pytest.mark.parametrize("resize", ["stretch", "center_crop", "pad"])
def test_an_image_and_its_mask_are_laid_alike(resize):
    """A disc in the image and in the mask, off the centre: they still cover each other."""
    y, x = np.mgrid[:300, :500]
    disc = (np.hypot(y - 120, x - 260) < 70).astype(np.uint8) * 255
    placement = place((300, 500), (96, 128), resize)
    image = lay_image(Image.fromarray(np.stack([disc] * 3, axis=-1)), placement)
    mask = lay_mask(Image.fromarray(disc), placement)
    assert 0.01 < mask.mean() < 0.5
    assert ((image[..., 0] > 127) != mask).mean() < 0.002


@pytest.mark.parametrize("resize", ["stretch", "center_crop", "pad"])
def test_a_picture_decoded_smaller_is_laid_where_the_whole_one_is(resize):
    """63 x 101 pixels shrunk by 4 are 16 x 26: the last row and column are partly covered."""
    whole = photograph(63, 101)
    shrunk = whole.reduce(4)
    placement = place((63, 101), (32, 32), resize)
    difference = lay_image(whole, placement).astype(float) - lay_image(shrunk, placement, 4)
    assert np.abs(difference).mean() < 6


def test_the_scale_is_that_of_the_side_that_is_shrunk_less():
    assert place((100, 200), (50, 50), "stretch").scale() == 0.5
    assert place((100, 200), (50, 50), "center_crop").scale() == 0.5
    assert place((100, 200), (50, 50), "pad").scale() == 0.25
    assert isinstance(place((3, 3), (32, 32), "pad"), Placement)
