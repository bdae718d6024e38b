"""The arrays that stages write as .npy, read back memory-mapped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.study.errors import UserError


def read_array(
    path: Path, stage: str, shape: tuple[int | None, ...], dtype: type[np.generic]
) -> NDArray[Any]:
    """The array in `path`, which `stage` writes, memory-mapped. Raises UserError for a file that is
    missing, damaged, or of another type or shape; None stands for any length."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # of a damaged header numpy and Python make errors of ten kinds
        told = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} is missing or unusable ({told}); run the stage {stage}") from None
    if not (
        isinstance(array, np.ndarray)
        and array.dtype == dtype
        and len(array.shape) == len(shape)
        and all(length in (None, found) for length, found in zip(shape, array.shape, strict=True))
    ):
        lengths = ", ".join("any" if length is None else str(length) for length in shape)
        found = f"{getattr(array, 'dtype', 'several arrays')} {getattr(array, 'shape', '')}"
        raise UserError(
            f"{path} must be {np.dtype(dtype)} of the shape ({lengths}), got {found}; run the "
            f"stage {stage} again"
        )
    return array
