"""NIfTI files as volumes in one orientation, and what keeps a file from being one.

Volumes are (D, H, W): from the feet to the head, from the back to the front, from the left to the
right. The axes are nibabel's canonical ones (RAS), the last of them first.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from nibabel.nifti1 import Nifti1Header, Nifti1Image
from nibabel.nifti2 import Nifti2Header
from nibabel.orientations import (
    apply_orientation,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray
from PIL import Image

from pipeline.data.integrity import BROKEN, Checksum, UnusableError, read_content
from pipeline.data.raw import Finding, RawCase
from pipeline.data.slices import AXES
from pipeline.study.values import quantity

Shape = tuple[int, ...]  # depth, height, width in voxels
Foreground = Literal["nonzero"] | Sequence[int]  # which labels of a mask are lesion
MOST_VOXELS = 2**28  # a GiB of float32
MOST_AFTER = 2**20  # bytes after the voxels
GZIP = b"\x1f\x8b"
KINDS: dict[int, tuple[Any, int, bytes]] = {  # by the size of the header, where its name stands
    348: (Nifti1Header, 344, b"n+1"),
    540: (Nifti2Header, 4, b"n+2"),
}
MILLIMETRES = (0, 2)  # of the header's units of space; 0 tells none
CANONICAL = io_orientation(np.eye(4))
PERCENTILES = (0.5, 99.5)  # of a volume's intensities, black and white
# Voxels by which corners of an image and of its mask may lie apart. A spacing that was rounded to
# four decimals moves the far corner of 512 voxels by 0.03.
APART = 0.1
WHOLE = 1e-3  # from a whole number to a label that was scaled and rounded
WRONG = (  # what reading a damaged file raises
    *(OSError, EOFError, ValueError, KeyError, OverflowError),
    *(zlib.error, HeaderDataError, WrapStructError),
)


@dataclass(frozen=True)
class Volume:
    """A NIfTI file's volume.

    voxels: (D, H, W), as decode_volume gives them float32 and as the file scales them. affine:
    (4, 4) from the file's own indices to millimetres. forms: sform and qform as the file has them,
    each (4, 4) with its code, or None and 0.
    """

    voxels: NDArray[Any]
    affine: NDArray[np.float64]
    forms: Mapping[str, tuple[NDArray[np.float64] | None, int]] = field(default_factory=dict)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres from a voxel's centre to the next, of D, H and W."""
        width, height, depth = map(float, voxel_sizes(self.upright()))
        return depth, height, width

    @property
    def voxel_ml(self) -> float:
        """A voxel's size in millilitres; axes need not be at right angles."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000

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
    """The volume in a file's bytes, gzip or not. Raises UnusableError.

    The header is checked first, as it stands in the file: nibabel's own reading of a whole file
    mends what is wrong in it, or guesses.
    """
    if not content:
        raise UnusableError("empty file", "is empty (0 bytes)")
    try:
        file: BinaryIO = BytesIO(content)
        if content[: len(GZIP)] == GZIP:
            file = gzip.GzipFile(fileobj=file)  # type: ignore[assignment]
        header = _header(file)
        shape, affine = _shape(header), _affine(header)
        voxels = _voxels(file, header, shape)
    except WRONG as error:
        told = " ".join(str(error).split()) or type(error).__name__
        raise UnusableError("cannot be decoded", f"{BROKEN}: {told}") from None
    if lost := int(np.count_nonzero(~np.isfinite(voxels))):
        raise UnusableError(
            "not finite", f"must hold numbers, got NaN or infinity in {quantity(lost, 'voxel')}"
        )
    turned = apply_orientation(voxels, io_orientation(affine))
    return Volume(np.ascontiguousarray(turned.transpose(), np.float32), affine, _forms(header))


def _header(file: BinaryIO) -> Nifti1Header:
    first = file.read(max(KINDS))
    sizes = (int.from_bytes(first[:4], "little"), int.from_bytes(first[:4], "big"))
    for size in KINDS.keys() & set(sizes):
        kind, place, name = KINDS[size]
        if first[place : place + len(name)] == name:
            header: Nifti1Header = kind(first[:size], check=False)
            return header
    raise UnusableError("not a volume", "is no NIfTI file")


def _shape(header: Nifti1Header) -> tuple[int, ...]:
    """Of the file's own axes."""
    shape = tuple(int(length) for length in header.get_data_shape())
    whole = shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or min(shape) < 1:
        told = "x".join(map(str, whole))
        raise UnusableError(
            "not a volume", f"must be one volume of three axes, got {told}; save the one meant"
        )
    if math.prod(shape) > MOST_VOXELS:
        raise UnusableError("too large", f"has more than {MOST_VOXELS} voxels; save it smaller")
    if header.get_data_dtype().kind not in "iuf":
        raise UnusableError(
            "not a volume", "holds colours or complex numbers; save one intensity a voxel"
        )
    return shape


def _affine(header: Nifti1Header) -> NDArray[np.float64]:
    """From the file's own indices to millimetres."""
    by_rows, by_quaternion = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    if not (by_rows or by_quaternion):
        raise UnusableError(
            "no orientation",
            "does not say how its axes lie in the body (sform_code and qform_code are 0): left "
            "and right cannot be told; save it with an orientation",
        )
    if int(header["xyzt_units"]) % 8 not in MILLIMETRES:
        raise UnusableError(
            "no spacing",
            f"must be in millimetres, got the unit {int(header['xyzt_units']) % 8}; save it so",
        )
    steps = np.asarray(header["pixdim"][1:4], np.float64)
    affine = np.asarray(header.get_sform() if by_rows else header.get_qform(), np.float64)
    sizes = voxel_sizes(affine) if by_rows else steps
    if not (np.isfinite(sizes).all() and (sizes > 0).all()):
        told = " x ".join(f"{size:g}" for size in sizes)
        raise UnusableError(
            "no spacing", f"must have voxels of a size in millimetres, got {told}; save it anew"
        )
    if not np.isfinite(affine).all():
        raise UnusableError("no spacing", "lies nowhere: its affine has NaN or infinity")
    if abs(np.linalg.det(affine[:3, :3])) < 1e-6 * sizes.prod():
        raise UnusableError("no spacing", "has axes that fall together, as its affine says")
    return affine


def _forms(header: Nifti1Header) -> dict[str, tuple[NDArray[np.float64] | None, int]]:
    """Volume.forms; one that is broken beside a sound one is none."""
    found = {}
    for name in ("sform", "qform"):
        try:
            form, code = getattr(header, f"get_{name}")(coded=True)
        except (ValueError, HeaderDataError):
            form, code = None, 0
        whole = form is not None and np.isfinite(form).all()
        found[name] = (form, int(code)) if whole else (None, 0)
    return found


def _voxels(file: BinaryIO, header: Nifti1Header, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Along the file's own axes, as the file scales them."""
    dtype = header.get_data_dtype()
    size = math.prod(shape) * dtype.itemsize
    begin = header["vox_offset"]
    if begin < header.single_vox_offset:
        raise EOFError(f"its voxels begin at byte {begin:g}, within its header")
    file.seek(int(begin))
    content = file.read(size)
    if len(content) < size:
        raise EOFError(f"{len(content)} bytes of {size}")
    if len(file.read(MOST_AFTER)) == MOST_AFTER:  # to the end, where gzip checks its sum
        raise UnusableError("too large", "has more after its volume; save the volume alone")
    stored = np.frombuffer(content, dtype).reshape(shape, order="F")
    return np.asarray(apply_read_scaling(stored, *header.get_slope_inter()), np.float32)


@dataclass(frozen=True)
class CheckedVolumes:
    """A case's volumes (D, H, W), as the file has them in size, and what keeps it from being used.

    grey: intensities from 0 to 255; lesion: the mask. Both are None where there is a finding.
    original: depth, height and width in voxels; depth_mm, height_mm and width_mm, each's spacing;
    lesion_ml, the lesion's millilitres.
    """

    grey: NDArray[np.float32] | None
    lesion: NDArray[np.bool_] | None
    original: dict[str, float]
    checksums: dict[Path, Checksum]  # of the files that could be read
    findings: list[Finding]


def check_case(case: RawCase, foreground: Foreground | None) -> CheckedVolumes:
    """Decode and check a case's two files. Never raises for a bad file: the findings tell."""
    checksums: dict[Path, Checksum] = {}
    findings: list[Finding] = []
    image = grey = lesion = None
    original: dict[str, float] = {}
    try:
        image = decode_volume(read_content(case.image, checksums))
        original |= zip(AXES, image.voxels.shape, strict=True)
        original |= zip((f"{axis}_mm" for axis in AXES), image.spacing, strict=True)
        grey = to_grey(image)
    except UnusableError as problem:
        findings.append(Finding(case.id, case.image, problem.defect, str(problem)))
    try:
        mask = decode_volume(read_content(case.mask, checksums))
        lesion = to_lesion(mask, foreground or "nonzero")
        original["lesion_ml"] = to_millilitres(lesion, mask)
        if image is not None:
            check_aligned(image, mask)
    except UnusableError as problem:
        findings.append(Finding(case.id, case.mask, problem.defect, str(problem)))
    if findings:
        grey = lesion = None
    return CheckedVolumes(grey, lesion, original, checksums, findings)


def to_millilitres(lesion: NDArray[np.bool_], volume: Volume) -> float:
    """Of a lesion (D, H, W) in voxels of `volume`, to a thousandth of a cubic millimetre."""
    return round(int(np.count_nonzero(lesion)) * volume.voxel_ml, 6)


def encode(volume: Volume, voxels: NDArray[Any]) -> bytes:
    """Voxels (D, H, W) as a compressed NIfTI file that lies where `volume` lies, in the order of
    its own axes, by both of its forms and their codes. Equal voxels make equal bytes."""
    image = Nifti1Image(volume.stored(voxels), volume.affine)
    for name, (form, code) in volume.forms.items():
        getattr(image, f"set_{name}")(form, code)
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)


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
    whole numbers, and for a mask that is empty or full.

    A mask that was saved with its image's scaling has labels near whole numbers: they are rounded.
    """
    labels = np.rint(volume.voxels)
    if fraction := volume.voxels[np.abs(volume.voxels - labels) > WHOLE][:1].tolist():
        raise UnusableError(
            "mask not of labels", f"must hold whole numbers as labels, got {fraction[0]:.6g}"
        )
    lesion = labels != 0 if foreground == "nonzero" else np.isin(labels, list(foreground))
    if not lesion.any() or lesion.all():
        there = ", ".join(f"{label:g}" for label in np.unique(labels)[:8])
        meant = "other than 0" if foreground == "nonzero" else f"of {list(foreground)}"
        if lesion.any():
            raise UnusableError("full mask", f"has nothing but labels {meant}; it has {there}")
        raise UnusableError("empty mask", f"has no label {meant}; it has {there}")
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
