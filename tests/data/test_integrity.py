"""data/integrity.py: every defect of a raw file is made, and found or mended."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.data.geometry import lay_image, place
from pipeline.data.integrity import CheckedCase, check_case
from pipeline.data.raw import RawCase
from pipeline.study.blocks import Prepare

HEIGHT, WIDTH = 48, 64
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
MASK = np.zeros((HEIGHT, WIDTH), np.uint8)
MASK[10:30, 20:50] = 255


def prepare(height: int = 32, width: int = 32, resize: str = "stretch") -> Prepare:
    return Prepare.model_validate(
        {
            "depth": None,
            "height": height,
            "width": width,
            "foreground": None,
            "resize": resize,
            "near_duplicates": {"hash_distance": 28, "min_inliers": 9, "min_correlation": 0.15},
            "groups": None,
            "split": {"method": "official"},
        }
    )


def encoded(pixels: Any, format: str = "PNG", **options: Any) -> bytes:
    """An array, or a Pillow image, as a file's bytes."""
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def check(
    folder: Path, image: bytes | None = None, mask: bytes | None = None, **preparation: Any
) -> CheckedCase:
    case = RawCase("a", None, folder / "a.jpg", folder / "a_segmentation.png")
    case.image.write_bytes(encoded(IMAGE) if image is None else image)
    case.mask.write_bytes(encoded(MASK) if mask is None else mask)
    return check_case(case, prepare(**preparation))


def test_a_sound_case_has_no_findings_and_its_pixels(tmp_path):
    checked = check(tmp_path)
    assert checked.findings == []
    assert checked.size == (HEIGHT, WIDTH)
    np.testing.assert_array_equal(np.asarray(checked.image), IMAGE)
    np.testing.assert_array_equal(np.asarray(checked.mask), MASK)


def test_bitmaps_as_ph2_has_them_are_sound(tmp_path):
    # 720 pixels: each row's 2160 bytes stand in what Pillow tells of it, and are no 16 bits.
    image, mask = (np.tile(array, (1, 12, 1)[: array.ndim])[:, :720] for array in (IMAGE, MASK))
    two_tones = Image.fromarray(mask).convert("1")
    checked = check(tmp_path, encoded(image, "BMP"), encoded(two_tones, "BMP"))
    assert checked.findings == []
    np.testing.assert_array_equal(np.asarray(checked.image), image)
    np.testing.assert_array_equal(np.asarray(checked.mask), mask)


def test_checksums_are_those_of_the_two_files(tmp_path):
    checked = check(tmp_path)
    expected = {
        path: (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in (tmp_path / "a.jpg", tmp_path / "a_segmentation.png")
    }
    assert checked.checksums == expected


def with_palette(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels).convert("P", palette=Image.Palette.ADAPTIVE)


def with_orientation(number: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = number
    return encoded(IMAGE, "JPEG", exif=exif)


def animated() -> bytes:
    frames = [Image.fromarray(IMAGE), Image.fromarray(255 - IMAGE)]
    return encoded(frames[0], save_all=True, append_images=frames[1:])


def sixteen_bit_colours() -> bytes:
    """A PNG of 16 bits a channel, which Pillow cannot write: made with OpenCV."""
    cv2 = pytest.importorskip("cv2", reason="comes with albumentations")
    return bytes(cv2.imencode(".png", IMAGE.astype(np.uint16) * 257)[1])


JPEG = encoded(IMAGE, "JPEG")
IMAGE_DEFECTS: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "empty": (lambda: b"", "empty file", "is empty (0 bytes)"),
    "text": (lambda: b"<html>not found</html>", "not an image", "no JPEG, PNG or BMP image"),
    "tiff": (lambda: encoded(IMAGE, "TIFF"), "not an image", "no JPEG, PNG or BMP image"),
    "cut JPEG": (lambda: JPEG[: len(JPEG) // 2], "cannot be decoded", "may be cut short"),
    "cut JPEG's end": (lambda: JPEG[:-200], "cannot be decoded", "may be cut short"),
    "cut JPEG's head": (lambda: JPEG[:100], "cannot be decoded", "cannot be decoded"),
    "cut BMP": (lambda: encoded(IMAGE, "BMP")[:3000], "cannot be decoded", "cut short"),
    "cut PNG": (lambda: encoded(IMAGE)[:3000], "cannot be decoded", "cut short"),
    "16 bit grey": (lambda: encoded(IMAGE[..., 0].astype(np.uint16) * 257), "16 bit", "16 bits"),
    "16 bit colours": (sixteen_bit_colours, "16 bit", "16 bits a channel"),
    "CMYK": (lambda: encoded(Image.fromarray(IMAGE).convert("CMYK"), "JPEG"), "CMYK", "as RGB"),
    "orientation 99": (lambda: with_orientation(99), "EXIF-rotated", "does not exist, 99"),
    "too large": (lambda: encoded(Image.new("1", (20000, 10000))), "too large", "more pixels than"),
    "turned": (lambda: with_orientation(6), "EXIF-rotated", "EXIF orientation 6"),
    "mirrored": (lambda: with_orientation(2), "EXIF-rotated", "EXIF orientation 2"),
    "animated": (animated, "several frames", "animated"),
}


@pytest.mark.parametrize("name", IMAGE_DEFECTS)
def test_an_image_with_a_defect_leaves_the_case_out(tmp_path, name):
    make, defect, detail = IMAGE_DEFECTS[name]
    checked = check(tmp_path, image=make())
    (finding,) = checked.findings
    assert (finding.id, finding.file) == ("a", tmp_path / "a.jpg")
    assert (finding.defect, finding.outcome) == (defect, "left out")
    assert detail in finding.detail
    assert checked.image is None
    assert checked.mask is None


def test_handles_that_ran_out_are_no_defect_of_a_file(tmp_path, monkeypatch):
    def refuse(_: Path) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    case = RawCase("a", None, tmp_path / "a.jpg", tmp_path / "a.png")
    case.image.write_bytes(encoded(IMAGE))
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        check_case(case, prepare())


def test_a_file_larger_than_any_picture_is_not_read(tmp_path):
    case = RawCase("a", None, tmp_path / "a.jpg", tmp_path / "a.png")
    case.mask.write_bytes(encoded(MASK))
    with case.image.open("wb") as file:
        file.truncate(2**40)  # sparse
    (finding,) = check_case(case, prepare()).findings
    assert finding.defect == "too large"
    assert finding.detail == "has more than 1073741824 bytes; save it smaller"


MASK_DEFECTS: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "empty": (lambda: encoded(0 * MASK), "empty mask", "all of its pixels are 0"),
    "full": (lambda: encoded(0 * MASK + 255), "full mask", "all of its pixels are 255"),
    "full of 1": (lambda: encoded(0 * MASK + 1), "full mask", "all of its pixels are 1"),
    "grey": (
        lambda: encoded(np.where(MASK, RNG.integers(3, 6, MASK.shape), 0).astype(np.uint8)),
        "mask not binary",
        "must hold 0 and 255 alone, got 4 values: 0, 3, 4, 5",
    ),
    "0 and 128": (lambda: encoded(MASK // 255 * 128), "mask not binary", "got 2 values: 0, 128"),
    "JPEG": (lambda: encoded(MASK, "JPEG", quality=50), "mask not binary", "must hold 0 and 255"),
    "many greys": (lambda: encoded(IMAGE[..., 0]), "mask not binary", "5, 6, 7, ..."),
    "16 bit": (lambda: encoded(MASK.astype(np.uint16) * 257), "16 bit", "16 bits"),
    "colours": (lambda: encoded(IMAGE), "colour mask", "black and white"),
    "of another size": (
        lambda: encoded(MASK[:-1]), "sizes differ", "must have its image's size, 64x48, got 64x47"
    ),
    "turned": (lambda: encoded(MASK.T.copy()), "sizes differ", "got 48x64"),
    "in its alpha": (
        lambda: encoded(np.dstack([0 * MASK, 0 * MASK, 0 * MASK, MASK])),
        "alpha channel",
        "has transparent pixels",
    ),
    "no bytes": (lambda: b"", "empty file", "is empty (0 bytes)"),
    "cut": (lambda: encoded(MASK)[:80], "cannot be decoded", "cut short"),
}  # fmt: skip


@pytest.mark.parametrize("name", MASK_DEFECTS)
def test_a_mask_with_a_defect_leaves_the_case_out(tmp_path, name):
    make, defect, detail = MASK_DEFECTS[name]
    checked = check(tmp_path, mask=make())
    (finding,) = checked.findings
    assert (finding.id, finding.file) == ("a", tmp_path / "a_segmentation.png")
    assert (finding.defect, finding.outcome) == (defect, "left out")
    assert detail in finding.detail
    assert checked.image is None
    assert checked.mask is None


def test_defects_of_both_files_are_told(tmp_path):
    checked = check(tmp_path, image=b"", mask=b"")
    assert [finding.file.name for finding in checked.findings] == ["a.jpg", "a_segmentation.png"]


@pytest.mark.parametrize("broken", ["missing", "dangling link", "folder", "pipe", "device"])
def test_a_file_that_cannot_be_read_leaves_the_case_out(tmp_path, broken):
    case = RawCase("a", None, tmp_path / "a.jpg", tmp_path / "a.png")
    case.mask.write_bytes(encoded(MASK))
    if broken == "dangling link":
        case.image.symlink_to("nowhere.jpg")
    elif broken == "folder":
        case.image.mkdir()
    elif broken == "pipe":
        os.mkfifo(case.image)
    elif broken == "device":
        case.image.symlink_to("/dev/zero")
    (finding,) = check_case(case, prepare()).findings
    assert finding.defect == "unreadable"
    assert finding.detail.startswith("cannot be read: ")


ALPHA = RNG.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
CONVERTED: dict[str, tuple[Any, str, Any]] = {
    "RGBA": (np.dstack([IMAGE, ALPHA]), "alpha channel", IMAGE),
    "grayscale": (IMAGE[..., 0], "grayscale", np.stack([IMAGE[..., 0]] * 3, axis=-1)),
    "palette": (with_palette(IMAGE), "palette", np.asarray(with_palette(IMAGE).convert("RGB"))),
    "one bit": (
        Image.fromarray(MASK > 0), "grayscale", np.stack([MASK] * 3, axis=-1)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVERTED)
def test_an_image_that_shows_the_same_is_converted_and_noted(tmp_path, name):
    picture, defect, expected = CONVERTED[name]
    checked = check(tmp_path, image=encoded(picture))
    (finding,) = checked.findings
    assert (finding.defect, finding.outcome) == (defect, "converted")
    np.testing.assert_array_equal(np.asarray(checked.image), expected)


def test_dropped_alpha_says_how_many_pixels_were_not_opaque(tmp_path):
    checked = check(tmp_path, image=encoded(np.dstack([IMAGE, ALPHA])))
    assert f"{(ALPHA < 255).sum():,} pixels not opaque" in checked.findings[0].detail


def test_what_was_converted_of_a_case_left_out_is_not_told(tmp_path):
    checked = check(tmp_path, image=encoded(IMAGE[..., 0]), mask=encoded(0 * MASK))
    assert [finding.defect for finding in checked.findings] == ["empty mask"]


def test_a_colour_declared_transparent_is_noted(tmp_path):
    colour = tuple(int(value) for value in IMAGE[0, 0])
    checked = check(tmp_path, image=encoded(IMAGE, transparency=colour))
    assert [finding.defect for finding in checked.findings] == ["alpha channel"]
    np.testing.assert_array_equal(np.asarray(checked.image), IMAGE)


def test_a_grey_image_with_alpha_is_noted_for_both(tmp_path):
    checked = check(tmp_path, image=encoded(Image.fromarray(IMAGE).convert("LA")))
    assert [finding.defect for finding in checked.findings] == ["alpha channel", "grayscale"]


CONVERTED_MASKS: dict[str, tuple[Any, str | None]] = {
    "0 and 1": (MASK // 255, "mask of 0 and 1"),
    "one bit": (Image.fromarray(MASK > 0), None),
    "RGB": (np.stack([MASK] * 3, axis=-1), "colour mask"),
    "RGBA": (np.dstack([MASK, MASK, MASK, 0 * MASK + 255]), "alpha channel"),
    "palette": (with_palette(MASK), "palette"),
}


@pytest.mark.parametrize("name", CONVERTED_MASKS)
def test_a_mask_that_shows_the_same_is_converted_and_noted(tmp_path, name):
    picture, defect = CONVERTED_MASKS[name]
    checked = check(tmp_path, mask=encoded(picture))
    assert (defect is None) == (checked.findings == [])
    assert {finding.outcome for finding in checked.findings} <= {"converted"}
    assert defect is None or checked.findings[0].defect == defect
    np.testing.assert_array_equal(np.asarray(checked.mask), MASK)


def test_no_damage_to_a_file_goes_beyond_a_finding(tmp_path):
    """200 files cut or with bytes changed: a finding or a picture, never another error."""
    rng = np.random.default_rng(1)
    whole = [encoded(IMAGE, "JPEG"), encoded(IMAGE), encoded(MASK)]
    left_out = 0
    for _ in range(200):
        content = bytearray(whole[rng.integers(3)])
        for _ in range(rng.integers(1, 30)):
            content[rng.integers(len(content))] = rng.integers(256)
        cut = bytes(content[: rng.integers(1, len(content) + 1)])
        left_out += check(tmp_path, image=cut).image is None
        left_out += check(tmp_path, mask=cut).mask is None
    assert left_out > 200


@pytest.fixture(scope="module")
def large_jpeg(tmp_path_factory: pytest.TempPathFactory) -> RawCase:
    """A JPEG of 3 megapixels with structure from broad to fine, as a camera's."""
    rng = np.random.default_rng(0)
    layers = [
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)).resize(
                (2047, 1535), Image.Resampling.BICUBIC
            ),
            dtype=float,
        )
        for cells in (4, 30, 250)
    ]
    image = (0.5 * layers[0] + 0.3 * layers[1] + 0.2 * layers[2]).astype(np.uint8)
    folder = tmp_path_factory.mktemp("large")
    case = RawCase("large", None, folder / "large.jpg", folder / "large.png")
    Image.fromarray(image).save(case.image, quality=92)
    mask = np.zeros((1535, 2047), np.uint8)
    mask[500:900, 700:1500] = 255
    Image.fromarray(mask).save(case.mask)
    return case


@pytest.mark.slow
@pytest.mark.parametrize("resize", ["stretch", "center_crop", "pad"])
@pytest.mark.parametrize(("height", "width"), [(256, 256), (192, 256), (96, 128), (512, 512)])
def test_a_large_jpeg_is_within_a_grey_level_of_the_full_decode(large_jpeg, height, width, resize):
    checked = check_case(large_jpeg, prepare(height, width, resize))
    assert checked.findings == []
    assert checked.size == (1535, 2047)
    assert checked.shrunk > 1
    placement = place((1535, 2047), (height, width), resize)
    fast = lay_image(checked.image, placement, checked.shrunk)
    with Image.open(large_jpeg.image) as whole:
        full = lay_image(whole.convert("RGB"), placement)
    assert np.abs(fast.astype(float) - full).mean() < 1
