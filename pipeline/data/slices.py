"""Pictures of volumes: which slices show a case, and which way up they stand.

Of a volume (D, H, W) a slice across depth is axial, with the front at the top; one across height is
coronal and one across width sagittal, with the head at the top.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

AXES = ("depth", "height", "width")  # of a volume, as cases.csv calls them
PLANES = ("axial", "coronal", "sagittal")  # across depth, height and width


def largest(mask: NDArray[Any], axis: int = 0) -> int:
    """Which slice of a mask (D, H, W) across `axis` has the largest lesion; the first of several,
    the middle one where there is no lesion."""
    areas = np.count_nonzero(mask, axis=tuple({0, 1, 2} - {axis}))
    return int(areas.argmax()) if areas.any() else mask.shape[axis] // 2


def spread(mask: NDArray[Any], most: int) -> list[int]:
    """At most `most` slices of a mask (D, H, W) across depth, ascending: at even steps over those
    with a lesion, or over all where there is none; that of `largest` in place of the nearest."""
    lesion = np.flatnonzero(mask.any(axis=(1, 2)))
    spanned = lesion if lesion.size else np.arange(len(mask))
    steps = np.linspace(0, len(spanned) - 1, min(most, len(spanned)))
    chosen = spanned[steps.round().astype(int)]
    shown = largest(mask)
    chosen[np.abs(chosen - shown).argmin()] = shown
    return [int(place) for place in chosen]


def cut(volume: NDArray[Any], place: int, axis: int = 0) -> NDArray[Any]:
    """A slice of a volume (D, H, W), or of (D, H, W, channels), as it is looked at."""
    found: NDArray[Any] = np.take(volume, place, axis)[::-1]
    return found


def in_colour(slice: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey (height, width, 1) as RGB (height, width, 3)."""
    return np.repeat(slice, 3, axis=-1)
