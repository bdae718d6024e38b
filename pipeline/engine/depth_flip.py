"""The flip of volumes that albumentations has no transform for."""

from __future__ import annotations

from typing import Any

import numpy as np
from albumentations import Transform3D


class DepthFlip(Transform3D):  # type: ignore[misc]  # albumentations has no types
    """Turns a volume (D, H, W, C) and its mask (D, H, W) over along depth, as HorizontalFlip does
    along width and VerticalFlip along height. p: how often, 0 to 1."""

    def apply_to_volume(self, volume: np.ndarray, **_: Any) -> np.ndarray:
        return volume[::-1]

    def apply_to_mask3d(self, mask3d: np.ndarray, **_: Any) -> np.ndarray:
        return mask3d[::-1]
