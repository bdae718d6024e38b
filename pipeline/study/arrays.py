"""The arrays that stages write as .npy, read back memory-mapped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.study.errors import UserError


def read_array(
    path: Path, stage: str, dtype: type[np.generic], *shapes: tuple[int | None, ...]
) -> NDArray[Any]:
    """The array in `path`, which `stage` writes, memory-mapped. Raises UserError for a file that is
    missing, damaged, or of another type or of none of the shapes; None stands for any length."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # of a damaged header numpy and Python make errors of ten kinds
        told = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} is missing or unusable ({told}); run the stage {stage}") from None
    if not (
        isinstance(array, np.ndarray)
        and array.dtype == dtype
        and any(_fits(array.shape, shape) for shape in shapes)
    ):
        told = " or ".join(
            f"({', '.join('any' if length is None else str(length) for length in shape)})"
            for shape in shapes
        )
        found = f"{getattr(array, 'dtype', 'several arrays')} {getattr(array, 'shape', '')}"
        raise UserError(
            f"{path} must be {np.dtype(dtype)} of the shape {told}, got {found}; run the "
            f"stage {stage} again"
        )
    return array


def _fits(found: tuple[int, ...], shape: tuple[int | None, ...]) -> bool:
    return len(found) == len(shape) and all(
        length in (None, own) for length, own in zip(shape, found, strict=True)
    )
