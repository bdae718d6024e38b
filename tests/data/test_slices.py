"""data/slices.py: which slice of a volume is looked at, and which way up."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.data.slices import PLANES, cut, in_colour, largest


def test_the_slice_shown_is_that_of_the_largest_lesion_across_each_axis():
    mask = np.zeros((4, 5, 6), np.uint8)
    mask[1, 0:2, 0:2] = 1
    mask[2, 0:3, 1:5] = 1
    assert [largest(mask, axis) for axis in range(len(PLANES))] == [2, 0, 1]
    assert [largest(np.zeros_like(mask), axis) for axis in range(3)] == [2, 2, 3]


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
