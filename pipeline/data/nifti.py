"""NIfTI files as volumes in one orientation, and what keeps a file from being one.

Volumes are (D, H, W): from the feet to the head, from the back to the front, from the left to the
right. The axes are nibabel's canonical ones (RAS), the last of them first.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal

import nibabel
import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from nibabel.orientations import (
    apply_orientation,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)
from nibabel.spatialimages import HeaderDataError, ImageDataError, SpatialImage
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray
from PIL import Image

from pipeline.data.integrity import BROKEN, UnusableError
from pipeline.study.values import quantity

VOLUME_SUFFIXES = (".nii", ".nii.gz")
Shape = tuple[int, int, int]  # depth, height, width in voxels
Foreground = Literal["nonzero"] | Sequence[int]  # which labels of a mask are lesion
MOST_VOXELS = 2**28  # a GiB of float32
GZIP = b"\x1f\x8b"
CANONICAL = io_orientation(np.eye(4))
PERCENTILES = (0.5, 99.5)  # of a volume's intensities, black and white
APART = 0.01  # voxels by which corners of an image and of its mask may lie apart: what is rounded
MAGIC = {348: (344, b"n+1"), 540: (4, b"n+2")}  # size of the header -> where its name stands
WRONG = (
    OSError,
    ValueError,
    TypeError,
    EOFError,
    OverflowError,
    MemoryError,
    zlib.error,
    HeaderDataError,
    ImageDataError,
    WrapStructError,
)


@dataclass(frozen=True)
class Volume:
    """A NIfTI file's volume.

    voxels: (D, H, W) float32, as the file scales them. affine: (4, 4) from the file's own indices
    to millimetres.
    """

    voxels: NDArray[np.float32]
    affine: NDArray[np.float64]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres from a voxel's centre to the next, of D, H and W."""
        width, height, depth = map(float, voxel_sizes(self.upright()))
        return depth, height, width

    def upright(self) -> NDArray[np.float64]:
        """(4, 4) from a voxel's W, H and D to millimetres."""
        turn, shape = self._turn(), self.stored(self.voxels).shape
        found: NDArray[np.float64] = self.affine @ inv_ornt_aff(turn, shape)
        return found

    def stored(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """(D, H, W) in the order of the file's own axes."""
        back = ornt_transform(CANONICAL, self._turn())
        turned: NDArray[Any] = apply_orientation(voxels.transpose(), back)
        return turned

    def _turn(self) -> NDArray[np.float64]:
        found: NDArray[np.float64] = io_orientation(self.affine)
        return found


def decode_volume(content: bytes) -> Volume:
    """The volume in a file's bytes, gzip or not. Raises UnusableError."""
    if not content:
        raise UnusableError("empty file", "is empty (0 bytes)")
    try:
        found = _image(content)
    except WRONG as error:
        raise UnusableError("cannot be decoded", f"{BROKEN}: {_told(error)}") from None
    shape = tuple(int(length) for length in found.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        told = "x".join(map(str, shape))
        raise UnusableError(
            "not a volume", f"must be one volume of three axes, got {told}; save the one meant"
        )
    if np.prod(shape, dtype=np.int64) > MOST_VOXELS:
        raise UnusableError("too large", f"has more than {MOST_VOXELS} voxels; save it smaller")
    affine = np.asarray(found.affine, np.float64)
    _check_affine(affine)
    try:
        voxels = np.asarray(found.dataobj, np.float32).reshape(shape)
    except WRONG as error:
        raise UnusableError("cannot be decoded", f"{BROKEN}: {_told(error)}") from None
    if lost := int(np.count_nonzero(~np.isfinite(voxels))):
        raise UnusableError(
            "not finite", f"must hold numbers, got NaN or infinity in {quantity(lost, 'voxel')}"
        )
    turned = apply_orientation(voxels, io_orientation(affine))
    return Volume(np.ascontiguousarray(turned.transpose(), np.float32), affine)


def _image(content: bytes) -> SpatialImage:
    if content[:2] == GZIP:
        with gzip.GzipFile(fileobj=BytesIO(content)) as file:
            content = file.read(8 * MOST_VOXELS + 1)
    kinds = {348: nibabel.Nifti1Image, 540: nibabel.Nifti2Image}
    for order in ("little", "big"):
        size = int.from_bytes(content[:4], order)
        place, name = MAGIC.get(size, (0, b""))
        if name and content[place : place + len(name)] == name:
            image: SpatialImage = kinds[size].from_bytes(content)
            return image
    raise UnusableError("not a volume", "is no NIfTI file")


def _told(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _check_affine(affine: NDArray[np.float64]) -> None:
    sizes = voxel_sizes(affine)
    if not np.isfinite(affine).all() or not (sizes > 0).all():
        told = " x ".join(f"{size:g}" for size in sizes)
        raise UnusableError(
            "no spacing", f"must have voxels of a size in millimetres, got {told}; save it anew"
        )
    if np.isnan(io_orientation(affine)).any() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise UnusableError("no spacing", "has axes that fall together, as its affine says")


def check_aligned(image: Volume, mask: Volume) -> None:
    """Raise UnusableError for a mask of another shape, or at another place, than its image."""
    here, there = (volume.voxels.shape[::-1] for volume in (image, mask))
    if here != there:
        told, expected = ("x".join(map(str, shape)) for shape in (there, here))
        raise UnusableError("sizes differ", f"must have its image's size, {expected}, got {told}")
    corners = np.array(np.meshgrid(*[(0, length - 1) for length in here])).reshape(3, -1).T
    places = (apply_affine(each.upright(), corners) for each in (image, mask))
    apart = float(np.linalg.norm(np.subtract(*places), axis=1).max())
    if apart > APART * min(image.spacing):
        raise UnusableError(
            "affine differs",
            f"must lie where its image lies, its corners are up to {apart:.3g} mm apart: one of "
            "the two affines is wrong",
        )


def to_grey(volume: Volume) -> NDArray[np.float32]:
    """The intensities (D, H, W) from black, 0, to white, 255: those from the percentiles' first to
    their second; what lies beyond is cut off. Raises UnusableError where there is one value."""
    low, high = np.percentile(volume.voxels, PERCENTILES)
    if not high > low:
        low, high = volume.voxels.min(), volume.voxels.max()
    if not high > low:
        raise UnusableError("one value", f"shows nothing: all of its voxels are {low:g}")
    grey = (volume.voxels - np.float32(low)) * np.float32(255 / (high - low))
    return np.clip(grey, 0, 255, out=grey)


def to_lesion(volume: Volume, foreground: Foreground) -> NDArray[np.bool_]:
    """Where a mask's label is one of the foreground's. Raises UnusableError for labels that are not
    whole numbers, and for a mask that is empty or full."""
    labels = volume.voxels
    if fraction := labels[labels != np.rint(labels)][:1].tolist():
        raise UnusableError(
            "mask not of labels", f"must hold whole numbers as labels, got {fraction[0]:g}"
        )
    lesion = labels != 0 if foreground == "nonzero" else np.isin(labels, list(foreground))
    there = ", ".join(f"{label:g}" for label in np.unique(labels)[:8])
    meant = "other than 0" if foreground == "nonzero" else f"of {list(foreground)}"
    if not lesion.any():
        raise UnusableError("empty mask", f"has no label {meant}; it has {there}")
    if lesion.all():
        raise UnusableError("full mask", f"has nothing but labels {meant}; it has {there}")
    return lesion


def lay_grey(grey: NDArray[np.float32], size: Shape) -> NDArray[np.uint8]:
    """Intensities of 0 to 255 at `size`, filtered linearly over what a voxel covers."""
    return np.rint(_lay(grey, size, Image.Resampling.BILINEAR)).clip(0, 255).astype(np.uint8)


def lay_lesion(lesion: NDArray[np.bool_], size: Shape) -> NDArray[np.uint8]:
    """A mask at `size`, in {0, 1}: 1 where half of a voxel is lesion, as geometry.lay_mask."""
    share = _lay(lesion.astype(np.float32), size, Image.Resampling.BOX)
    return (share >= 0.5 - 1e-6).astype(np.uint8)


def _lay(voxels: NDArray[np.float32], size: Shape, filter: Image.Resampling) -> NDArray[np.float32]:
    """Each plane as a picture is laid, then all of them along depth: the filters are separable."""
    depth, height, width = size
    planes = np.stack(
        [np.asarray(Image.fromarray(plane).resize((width, height), filter)) for plane in voxels]
    )
    lines = Image.fromarray(planes.reshape(len(planes), height * width))
    laid = np.asarray(lines.resize((height * width, depth), filter), np.float32)
    return laid.reshape(size)
