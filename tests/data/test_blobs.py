"""data/blobs.py: volumes that need no data."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import label

from pipeline.data.blobs import BLOB, draw_volume

SIZE = {"depth": 16, "height": 32, "width": 48}


def test_a_volume_depends_on_its_arguments_alone():
    first, second = (draw_volume(3, 5, **SIZE) for _ in range(2))
    assert all(np.array_equal(*pair) for pair in zip(first, second, strict=True))
    for other in (draw_volume(4, 5, **SIZE), draw_volume(3, 6, **SIZE)):
        assert not np.array_equal(first[0], other[0])
        assert not np.array_equal(first[1], other[1])


@pytest.mark.parametrize("index", range(8))
def test_a_blob_is_of_the_size_that_is_told_and_mostly_one_piece(index):
    image, mask = draw_volume(0, index, **SIZE)
    assert image.shape == mask.shape == (16, 32, 48)
    assert image.dtype == mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 1}
    assert BLOB[0] - 0.001 <= mask.mean() <= BLOB[1] + 0.001
    pieces, count = label(mask)
    assert np.bincount(pieces.ravel())[1:].max() >= 0.8 * mask.sum(), count


def test_a_blob_is_seen_and_no_threshold_finds_it_alone():
    """Its mean brightness is another than the tissue's; voxel by voxel the two overlap."""
    apart, overlaps = [], []
    for index in range(8):
        image, mask = draw_volume(0, index, **SIZE)
        inside, outside = image[mask == 1].astype(float), image[mask == 0].astype(float)
        apart.append(abs(inside.mean() - outside.mean()))
        middle = (inside.mean() + outside.mean()) / 2
        found = (image > middle) == (inside.mean() > outside.mean())
        overlaps.append(np.mean(found != (mask == 1)))
    assert min(apart) > 15
    assert np.median(overlaps) > 0.02
