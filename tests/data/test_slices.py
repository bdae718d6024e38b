"""data/slices.py: which slice of a volume is looked at, and which way up."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.data.slices import PLANES, cut, in_colour, largest, spread


def test_the_slice_shown_is_that_of_the_largest_lesion_across_each_axis():
    mask = np.zeros((4, 5, 6), np.uint8)
    mask[1, 0:2, 0:2] = 1
    mask[2, 0:3, 1:5] = 1
    assert [largest(mask, axis) for axis in range(len(PLANES))] == [2, 0, 1]
    assert [largest(np.zeros_like(mask), axis) for axis in range(3)] == [2, 2, 3]


def of_areas(areas):
    """A mask of so many slices and as many pixels of lesion in each."""
    return (np.arange(4) < np.array(areas)[:, None]).astype(np.uint8)[:, None]


@pytest.mark.parametrize(
    ("areas", "most", "chosen"),
    [
        # Nine slices with a lesion, 2 to 10; a sixth of the way from one to the next is 4/3.
        ([0, 0, 1, 1, 1, 1, 2, 1, 1, 1, 1, 0], 7, [2, 3, 5, 6, 7, 9, 10]),
        ([0, 0, 1, 1, 2, 1, 1, 1, 1, 1, 1, 0], 7, [2, 4, 5, 6, 7, 9, 10]),  # in place of 3
        ([0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 0], 7, [2, 3, 5, 6, 7, 9, 10]),
        ([0, 0, 1, 1, 1, 1, 1, 2, 1, 1, 1, 0], 3, [2, 7, 10]),  # in place of 6
        ([0, 0, 1, 1, 1, 1, 1, 2, 1, 1, 1, 0], 1, [7]),
        ([0, 1, 2, 1, 0], 7, [1, 2, 3]),
        ([2, 1, 0, 0, 0, 0, 0, 1], 7, [0, 1, 7]),  # a lesion in two parts
        ([2, 1, 0, 0, 0, 0, 0, 1], 2, [0, 7]),
        ([0] * 9, 5, [0, 2, 4, 6, 8]),  # no lesion
        ([0] * 8, 3, [0, 4, 7]),
    ],
)
def test_slices_are_spread_over_the_lesion_with_the_largest_among_them(areas, most, chosen):
    mask = of_areas(areas)
    assert spread(mask, most) == chosen
    assert largest(mask) in chosen


@pytest.mark.parametrize("channels", [(), (1,)])
def test_the_front_and_the_head_are_at_the_top(channels):
    """Depth runs from the feet to the head, height from the back to the front."""
    volume = np.arange(2 * 3 * 4).reshape(2, 3, 4, *channels)
    assert np.array_equal(cut(volume, 1), volume[1, [2, 1, 0]])
    assert np.array_equal(cut(volume, 0, axis=1), volume[[1, 0], 0])
    assert np.array_equal(cut(volume, 3, axis=2), volume[[1, 0], :, 3])


def test_grey_is_three_equal_colours():
    grey = np.array([[[7], [200]]], np.uint8)
    assert in_colour(grey).tolist() == [[[7, 7, 7], [200, 200, 200]]]
