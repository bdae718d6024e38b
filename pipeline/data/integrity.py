"""The raw files of a case, decoded and checked: what keeps it from being used, what was converted.

A file is converted where that cannot change what it shows; anything doubtful is left to its owner.
"""

from __future__ import annotations

import hashlib
import stat
import struct
import warnings
from dataclasses import dataclass
from io import BytesIO
from math import ceil
from pathlib import Path
from typing import NamedTuple

from PIL import ExifTags, Image, UnidentifiedImageError

from pipeline.data.geometry import Placement, Size, place
from pipeline.data.raw import Defect, Finding, RawCase
from pipeline.study.blocks import Prepare
from pipeline.study.limits import limit_of
from pipeline.study.values import Resize, quantity

# A JPEG is decoded to no less than MARGIN times the pixels asked for along each side, so that the
# filter that follows decides; its longer side to no less than LEAST, for near-duplicates.
MARGIN = 1.25
LEAST = 256
MOST_BYTES = 2**30  # of a file: the most pixels that are read have fewer, uncompressed as well
UPRIGHT = {  # EXIF's orientation -> what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
BROKEN = "cannot be decoded, it may be cut short"
DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
)
# Pictures of 90 to 180 megapixels are read without a warning between the progress bars.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class Checksum(NamedTuple):
    """What identifies a raw file's content."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class CheckedCase:
    """A case's pictures, and what was found on the way to them.

    image: RGB, `shrunk` times smaller than the original; mask: 0 and 255 in mode L, whole. Both
    are None where a finding says that the case is left out. size: the original's height and width.
    """

    image: Image.Image | None
    mask: Image.Image | None
    size: Size
    shrunk: float
    checksums: dict[Path, Checksum]  # of the files that could be read
    findings: list[Finding]


class UnusableError(Exception):
    """Why a file cannot be used."""

    def __init__(self, defect: Defect, detail: str) -> None:
        super().__init__(detail)
        self.defect: Defect = defect


def check_case(case: RawCase, prepare: Prepare) -> CheckedCase:
    """Decode and check a case's two files. Never raises for a bad file: the findings tell."""
    checksums: dict[Path, Checksum] = {}
    findings: list[Finding] = []
    image = mask = None
    size, shrunk = (0, 0), 1.0
    try:
        wanted = (prepare.height, prepare.width)
        image, size, shrunk = read_image(
            case.id, case.image, wanted, prepare.resize, checksums, findings
        )
    except UnusableError as problem:
        findings.append(Finding(case.id, case.image, problem.defect, str(problem)))
    try:
        mask = read_mask(case.id, case.mask, checksums, findings)
        if image is not None and (mask.height, mask.width) != size:
            raise UnusableError(
                "sizes differ",
                f"must have its image's size, {size[1]}x{size[0]}, got {mask.width}x{mask.height}",
            )
    except UnusableError as problem:
        findings.append(Finding(case.id, case.mask, problem.defect, str(problem)))
    problems = [finding for finding in findings if finding.outcome == "left out"]
    if problems:
        image, mask, findings = None, None, problems
    return CheckedCase(image, mask, size, shrunk, checksums, findings)


def read_image(
    id: str,
    path: Path,
    wanted: Size,
    resize: Resize,
    checksums: dict[Path, Checksum],
    findings: list[Finding],
    *,
    turn: bool = False,
) -> tuple[Image.Image, Size, float]:
    """The image as RGB, its original height and width, and how many times smaller it is decoded,
    for it is to be laid into a picture of the size `wanted`.

    The file's checksum and what was converted are added to `checksums` and `findings`. turn: what
    EXIF says is to be turned is turned upright, size and all; else it is unusable, for it may have
    a mask. Raises UnusableError.
    """
    picture = _open(read_content(path, checksums), turn=turn)
    orientation = _orientation(picture)
    height, width = picture.height, picture.width
    size = (width, height) if orientation > 4 else (height, width)
    shrunk = _shrink(picture, place(size, wanted, resize))
    _load(picture)
    if orientation > 1:
        detail = f"turned upright (EXIF orientation {orientation})"
        findings.append(Finding(id, path, "EXIF-rotated", detail, "converted"))
        picture = picture.transpose(UPRIGHT[orientation])
    return _to_rgb(id, path, picture, findings), size, shrunk


def read_mask(
    id: str, path: Path, checksums: dict[Path, Checksum], findings: list[Finding]
) -> Image.Image:
    """The mask as 0 and 255 in mode L; the last two get what read_image adds to them.

    Raises UnusableError.
    """
    return decode_mask(id, path, read_content(path, checksums), findings)


def decode_mask(id: str, path: Path, content: bytes, findings: list[Finding]) -> Image.Image:
    """`read_mask` of a file's bytes; `path` is its name in findings."""
    return _to_binary(id, path, _load(_open(content)), findings)


def read_content(path: Path, checksums: dict[Path, Checksum]) -> bytes:
    """A file's bytes; `checksums` gets their checksum. Raises UnusableError."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would wait, a device might never end
            raise UnusableError("unreadable", "cannot be read: it is a folder, a pipe or a device")
        if status.st_size > MOST_BYTES:
            raise UnusableError("too large", f"has more than {MOST_BYTES} bytes; save it smaller")
        content = path.read_bytes()
    except OSError as error:
        if limit_of(error):  # the machine's, not the file's
            raise
        raise UnusableError("unreadable", f"cannot be read: {error.strerror}") from None
    checksums[path] = Checksum(len(content), hashlib.sha256(content).hexdigest())
    return content


def _open(content: bytes, *, turn: bool = False) -> Image.Image:
    """The picture in a file's bytes, not yet decoded, of a kind whose numbers leave no doubt; with
    `turn` it may be one that is to be turned."""
    if not content:
        raise UnusableError("empty file", "is empty (0 bytes)")
    try:
        picture = Image.open(BytesIO(content), formats=("JPEG", "PNG", "BMP"))
        # Pillow halves 16-bit colours without a word: only how they are stored tells.
        stored = f"{picture.mode} {picture.tile[0].args if picture.tile else None}"
        orientation = _orientation(picture)
    except UnidentifiedImageError:
        raise UnusableError("not an image", "is no JPEG, PNG or BMP image") from None
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        detail = f"has more pixels than are read, {most}; save it smaller"
        raise UnusableError("too large", detail) from None
    except DECODING_ERRORS as error:
        raise UnusableError("cannot be decoded", f"{BROKEN}: {error}") from None
    if "16" in stored and picture.format != "BMP":  # whose colours have 8 bits or fewer
        raise UnusableError(
            "16 bit", "has 16 bits a channel: which of them hold the picture cannot be told; save 8"
        )
    if picture.mode == "CMYK":
        raise UnusableError("CMYK", "is CMYK: its colours depend on a profile; save it as RGB")
    if orientation not in range(9):
        detail = f"has an EXIF orientation that does not exist, {orientation}; remove it"
        raise UnusableError("EXIF-rotated", detail)
    if orientation > 1 and not turn:
        raise UnusableError(
            "EXIF-rotated",
            f"is to be turned before it is shown (EXIF orientation {orientation}): whether its "
            "other file is, cannot be told; save both upright",
        )
    if picture.format == "PNG" and getattr(picture, "n_frames", 1) > 1:
        raise UnusableError("several frames", "is animated: save the picture that is meant")
    return picture


def _orientation(picture: Image.Image) -> int:
    orientation: int = picture.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation


def _shrink(picture: Image.Image, placement: Placement) -> float:
    """Let the decoder of JPEGs scale by 1/2, 1/4 or 1/8 where enough is left; returns by how much.
    placement: of the picture, upright.

    3 times faster than a whole decode on ISIC's originals at 256x256, 0.3 grey levels off.
    """
    width, height = picture.size
    scale = max(MARGIN * placement.scale(), LEAST / max(width, height))
    taken = picture.draft(picture.mode, (ceil(scale * width), ceil(scale * height)))
    return width / taken[1][2] if taken else 1.0


def _load(picture: Image.Image) -> Image.Image:
    try:
        picture.load()
    except DECODING_ERRORS as error:
        raise UnusableError("cannot be decoded", f"{BROKEN}: {error}") from None
    return picture


def _drop_alpha(id: str, path: Path, picture: Image.Image, findings: list[Finding]) -> Image.Image:
    """The picture without a palette and without an alpha channel: modes 1, L and RGB remain."""
    if picture.mode in ("P", "PA"):
        findings.append(Finding(id, path, "palette", "palette resolved", "converted"))
        has_alpha = picture.mode == "PA" or "transparency" in picture.info
        picture = picture.convert("RGBA" if has_alpha else "RGB")
    elif picture.mode in ("L", "RGB") and "transparency" in picture.info:  # one colour for none
        picture = picture.convert("LA" if picture.mode == "L" else "RGBA")
    if picture.mode in ("LA", "RGBA"):
        seen = picture.getchannel("A").histogram()[255]
        unseen = quantity(picture.width * picture.height - seen, "pixel")
        detail = f"alpha channel dropped, {unseen} not opaque"
        findings.append(Finding(id, path, "alpha channel", detail, "converted"))
        picture = picture.convert(picture.mode.removesuffix("A"))
    if picture.mode not in ("1", "L", "RGB"):
        raise UnusableError("cannot be decoded", f"has pixels of an unknown kind, {picture.mode}")
    return picture


def _to_rgb(id: str, path: Path, picture: Image.Image, findings: list[Finding]) -> Image.Image:
    picture = _drop_alpha(id, path, picture, findings)
    if picture.mode != "RGB":
        detail = "grayscale put into all three channels"
        findings.append(Finding(id, path, "grayscale", detail, "converted"))
        picture = picture.convert("RGB")
    return picture


def _to_binary(id: str, path: Path, picture: Image.Image, findings: list[Finding]) -> Image.Image:
    """The mask as 0 and 255 in mode L; at least one pixel is lesion and one is not."""
    if "A" in picture.mode and picture.getchannel("A").getextrema() != (255, 255):
        raise UnusableError(
            "alpha channel",
            "has transparent pixels: whether they or the colours are the lesion cannot be told; "
            "save it in black and white",
        )
    picture = _drop_alpha(id, path, picture, findings)
    if picture.mode == "RGB":
        red, green, blue = picture.split()
        if not red.tobytes() == green.tobytes() == blue.tobytes():
            raise UnusableError("colour mask", "must be black and white, got colours")
        findings.append(Finding(id, path, "colour mask", "one of 3 equal channels", "converted"))
        picture = red
    picture = picture.convert("L")
    counts = picture.histogram()
    values = [value for value, count in enumerate(counts) if count]
    if values == [0]:
        raise UnusableError("empty mask", "holds no lesion: all of its pixels are 0")
    if values in ([1], [255]):
        raise UnusableError(
            "full mask", f"holds nothing but lesion: all of its pixels are {values[0]}"
        )
    if values == [0, 1]:
        findings.append(Finding(id, path, "mask of 0 and 1", "1 taken for 255", "converted"))
        picture = picture.point(lambda value: 255 * value)
    elif values != [0, 255]:
        shown = ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
        raise UnusableError(
            "mask not binary",
            f"must hold 0 and 255 alone, got {quantity(len(values), 'value')}: {shown}",
        )
    return picture
