"""Volumes of a blob in tissue, drawn instead of scanned: the source of volumes that needs no data.

As a scan of soft tissue looks: uneven brightness over all of it, texture, one organ or lesion that
is brighter or darker with a soft border, and noise. The mask is the blob's own geometry.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Field = NDArray[np.float64]  # (depth, height, width)

SPACING = (2.0, 1.0, 1.0)  # millimetres of depth, height and width: slices are thicker than pixels
BLOB = (0.05, 0.30)  # fraction of the volume


def draw_volume(
    seed: int, index: int, *, depth: int, height: int, width: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw one synthetic case; it depends on these five arguments alone.

    Returns the volume (depth, height, width), uint8 grey, and the mask of the same shape, uint8 in
    {0, 1}, whose blob is a fraction of the volume within BLOB.
    """
    # A stream for each part, so that a part drawn otherwise leaves all the others as they were.
    blob_rng, tissue_rng, noise_rng = np.random.default_rng([seed, index]).spawn(3)
    shape = (depth, height, width)
    inside = blob(blob_rng, shape)
    brightness = tissue_rng.uniform(0.3, 0.5) + 0.08 * smooth_noise(tissue_rng, shape, 0.25)
    brightness += 0.05 * smooth_noise(tissue_rng, shape, 0.04)
    contrast = tissue_rng.uniform(0.2, 0.4) * tissue_rng.choice([-1, 1], p=[0.2, 0.8])
    border = 1 / (1 + np.exp(-inside / tissue_rng.uniform(0.02, 0.08)))
    texture = 1 + 0.3 * smooth_noise(tissue_rng, shape, 0.06)
    image = brightness + contrast * border * texture
    image += noise_rng.normal(0, noise_rng.uniform(0.02, 0.06), shape)
    return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8), (inside >= 0).astype(np.uint8)


def save(path: Path, voxels: NDArray[np.uint8]) -> None:
    """Write a drawn volume, or its mask, as a NIfTI file of SPACING. Equal voxels make equal bytes.

    The axes of the file are width, from the left, height, from the back, and depth, from the feet.
    """
    from nibabel.nifti1 import Nifti1Image  # here, for who draws pictures needs none

    volume = Nifti1Image(voxels.transpose(), np.diag([*SPACING[::-1], 1.0]))
    path.write_bytes(gzip.compress(volume.to_bytes(), mtime=0))


def blob(rng: Generator, shape: tuple[int, int, int]) -> Field:
    """An ellipsoid of uneven surface: about the depth below it, in half sides, negative outside."""
    smallest, largest = BLOB
    share = smallest + (largest - smallest) * rng.beta(1.5, 2.5)
    centre = rng.uniform(-1, 1, 3) * (0.4 - share)  # a large blob stays near the middle
    stretch = rng.uniform(0.7, 1.3, 3)
    axes = np.ix_(*(np.linspace(-1, 1, length) for length in shape))
    squares = [
        ((axis - middle) / length) ** 2
        for axis, middle, length in zip(axes, centre, stretch, strict=True)
    ]
    radius = np.sqrt(squares[0] + squares[1] + squares[2])
    radius = radius * (1 + 0.15 * smooth_noise(rng, shape, 0.12))
    # The share is drawn first and the surface placed to enclose it: never empty, never all.
    return np.asarray(np.quantile(radius, share) - radius)


def smooth_noise(rng: Generator, shape: tuple[int, int, int], scale: float) -> Field:
    """Noise of mean 0 and spread 1 whose patches are about `scale` of each side long."""
    noise = gaussian_filter(rng.standard_normal(shape), [scale * length for length in shape])
    return np.asarray((noise - noise.mean()) / max(noise.std(), 1e-12))
