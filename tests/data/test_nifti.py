"""NIfTI files read into one orientation, checked, and laid into another size."""

from __future__ import annotations

import gzip

import nibabel
import numpy as np
import pytest
import torch
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform

from pipeline.data import nifti
from pipeline.data.integrity import UnusableError
from pipeline.data.nifti import Volume, decode_volume
from pipeline.data.raw import RawCase


def numbers(*shape):
    return np.random.default_rng(0).normal(100, 20, shape).astype(np.float32)


def file_of(voxels, affine=None, kind=nibabel.Nifti1Image, *, packed=True, **header):
    """The bytes of a NIfTI file with voxels along its own axes."""
    image = kind(voxels, np.diag([1.0, 2.0, 3.0, 1.0]) if affine is None else affine)
    for key, value in header.items():
        image.header[key] = value
    content = image.to_bytes()
    return gzip.compress(content, mtime=0) if packed else content


def with_header(content, **values):
    """The file's bytes with fields of its header that nibabel would not write."""
    plain = bytearray(content if content[:2] != nifti.GZIP else gzip.decompress(content))
    kind = nibabel.Nifti2Header if plain[:4] == (540).to_bytes(4, "little") else None
    size = 540 if kind else 348
    header = (kind or nibabel.Nifti1Header)(bytes(plain[:size]), check=False)
    for key, value in values.items():
        header[key] = value
    plain[:size] = header.binaryblock
    return bytes(plain)


def with_affine(content, rows):
    return with_header(content, **dict(zip(("srow_x", "srow_y", "srow_z"), rows, strict=True)))


def by_quaternion(content, **values):
    return with_header(content, **({"sform_code": 0, "qform_code": 1} | values))


def canonical(voxels, affine=None):
    """The oracle: nibabel's own way to one orientation, (x, y, z)."""
    image = nibabel.Nifti1Image.from_bytes(file_of(voxels, affine, packed=False))
    return nibabel.as_closest_canonical(image)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("axes", ["RAS", "LPS", "SAL", "AIR", "PSR", "ILA"])
def test_every_orientation_is_read_as_one_and_stored_as_it_was(axes, packed, kind):
    upright = np.diag([0.5, 1.0, 2.5, 1.0])  # millimetres of R, A and S
    upright[:3, 3] = (-3, 7, 11)
    shape = (4, 5, 6)
    turn = ornt_transform(axcodes2ornt(tuple(axes)), axcodes2ornt(tuple("RAS")))
    affine = upright @ np.linalg.inv(inv_ornt_aff(turn, shape))
    assert "".join(nibabel.aff2axcodes(affine)) == axes
    voxels = numbers(*shape)
    found = decode_volume(file_of(voxels, affine, kind, packed=packed))
    expected = canonical(voxels, affine)
    assert np.array_equal(found.voxels.transpose(), expected.get_fdata(dtype=np.float32))
    assert found.spacing == pytest.approx(expected.header.get_zooms()[::-1])
    assert found.spacing == pytest.approx((2.5, 1.0, 0.5))
    assert np.array_equal(found.stored(found.voxels), voxels)


def test_scaled_numbers_are_read_as_the_file_scales_them():
    content = file_of(np.arange(24, dtype=np.int16).reshape(2, 3, 4), scl_slope=0.5, scl_inter=-3)
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(content))
    found = decode_volume(content)
    assert np.array_equal(found.voxels.transpose(), image.get_fdata(dtype=np.float32))


def test_one_volume_of_a_fourth_axis_of_one_is_that_volume():
    voxels = numbers(4, 5, 6, 1)
    found = decode_volume(file_of(voxels))
    assert np.array_equal(found.voxels.transpose(), voxels[..., 0])


def holes(value):
    voxels = numbers(4, 5, 6)
    voxels[1, 2, 3] = value
    return voxels


@pytest.mark.parametrize(
    ("content", "defect", "told"),
    [
        (b"", "empty file", "is empty"),
        (b"no volume at all", "not a volume", "is no NIfTI file"),
        (gzip.compress(b"x" * 400, mtime=0), "not a volume", "is no NIfTI file"),
        (file_of(numbers(4, 5, 6))[:-40], "cannot be decoded", "may be cut short"),
        (b"\x1f\x8b" + bytes(50), "cannot be decoded", "may be cut short"),
        (file_of(numbers(4, 5, 6), packed=False)[:-40], "cannot be decoded", "may be cut short"),
        (file_of(numbers(4, 5, 6, 2)), "not a volume", "three axes, got 4x5x6x2"),
        (file_of(numbers(4, 5)), "not a volume", "three axes, got 4x5;"),
        (file_of(holes(np.nan)), "not finite", "NaN or infinity in 1 voxel"),
        (file_of(holes(np.inf)), "not finite", "NaN or infinity in 1 voxel"),
        (
            with_affine(file_of(numbers(4, 5, 6)), np.diag([1.0, 0.0, 3.0, 1.0])[:3]),
            "no spacing",
            "a size in millimetres, got 1 x 0 x 3",
        ),
        (
            with_affine(file_of(numbers(4, 5, 6)), [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]]),
            "no spacing",
            "fall together",
        ),
        (
            with_affine(file_of(numbers(4, 5, 6)), [[np.nan] * 4, [0, 1, 0, 0], [0, 0, 1, 0]]),
            "no spacing",
            "a size in millimetres, got nan",
        ),
        (
            with_affine(file_of(numbers(4, 5, 6)), [[1, 0, 0, np.nan], [0, 1, 0, 0], [0, 0, 1, 0]]),
            "no spacing",
            "lies nowhere",
        ),
        (
            by_quaternion(file_of(numbers(4, 5, 6)), pixdim=[1, 1, 0, 3, 1, 1, 1, 1]),
            "no spacing",
            "a size in millimetres, got 1 x 0 x 3",
        ),
        (
            with_header(file_of(numbers(4, 5, 6)), sform_code=0, qform_code=0),
            "no orientation",
            "left and right cannot be told",
        ),
        (
            with_header(file_of(numbers(4, 5, 6)), xyzt_units=3),
            "no spacing",
            "must be in millimetres, got the unit 3",
        ),
        (
            with_header(file_of(numbers(4, 5, 6)), dim=[3, 4, 0, 6, 1, 1, 1, 1]),
            "not a volume",
            "three axes, got 4x0x6",
        ),
        (
            with_header(file_of(numbers(4, 5, 6)), datatype=32, bitpix=64),
            "not a volume",
            "colours or complex numbers",
        ),
        (
            with_header(file_of(numbers(4, 5, 6)), datatype=128, bitpix=24),
            "not a volume",
            "colours or complex numbers",
        ),
        (
            with_header(file_of(numbers(4, 5, 6)), datatype=9999),
            "cannot be decoded",
            "9999",
        ),
        *(
            (
                with_header(file_of(numbers(4, 5, 6), packed=packed), vox_offset=offset),
                "cannot be decoded",
                "it may be cut short",
            )
            for offset in (np.inf, 1e30, 0, 100, 351)
            for packed in (True, False)
        ),
        (
            with_header(
                file_of(numbers(4, 5, 6), kind=nibabel.Nifti2Image),
                dim=[3, 2**31, 2**31, 4, 1, 1, 1, 1],
            ),
            "too large",
            "more than",
        ),
        (file_of(numbers(4, 5, 6), packed=False) + bytes(2**20), "too large", "after its volume"),
    ],
    ids=lambda given: given if isinstance(given, str) else "file",
)
def test_what_is_no_volume_is_told(content, defect, told):
    with pytest.raises(UnusableError, match=told) as problem:
        decode_volume(content)
    assert problem.value.defect == defect


def test_nothing_is_unpacked_of_more_voxels_than_are_read(monkeypatch):
    monkeypatch.setattr(nifti, "MOST_VOXELS", 100)
    read = gzip.GzipFile.read

    def header_alone(file, size=-1):
        assert 0 <= size <= 540
        return read(file, size)

    monkeypatch.setattr(gzip.GzipFile, "read", header_alone)
    with pytest.raises(UnusableError, match="more than 100 voxels"):
        decode_volume(file_of(numbers(40, 50, 60)))


def test_the_machines_lack_of_memory_is_no_fault_of_the_file(monkeypatch):
    def none_left(*_):
        raise MemoryError

    monkeypatch.setattr(nifti, "apply_read_scaling", none_left)
    with pytest.raises(MemoryError):
        decode_volume(file_of(numbers(4, 5, 6)))


def test_a_quaternion_is_read_where_there_are_no_rows():
    voxels = numbers(4, 5, 6)
    found = decode_volume(by_quaternion(file_of(voxels), pixdim=[1, 1, 2, 3, 1, 1, 1, 1]))
    assert found.spacing == (3, 2, 1)
    assert np.array_equal(found.voxels.transpose(), voxels)


def test_axes_that_fall_together_are_told_at_any_size():
    together = np.array([[1.0, 1, 0, 0], [1, 1, 1e-9, 0], [0, 0, 1, 0]])
    with pytest.raises(UnusableError, match="fall together"):
        decode_volume(with_affine(file_of(numbers(4, 5, 6)), together))
    small = np.diag([5e-4, 5e-4, 5e-4, 1])[:3]  # half a micron
    assert decode_volume(with_affine(file_of(numbers(4, 5, 6)), small)).spacing == pytest.approx(
        (5e-4, 5e-4, 5e-4)
    )


def test_no_word_is_said_beside_the_fault(capfd):
    wrong = with_header(file_of(numbers(4, 5, 6)), datatype=9999, vox_offset=353)
    with pytest.raises(UnusableError):
        decode_volume(wrong)
    assert capfd.readouterr() == ("", "")


def volume(voxels, affine=None):
    return decode_volume(file_of(np.asarray(voxels, np.float32), affine))


def test_a_voxels_size_is_that_of_its_parallelepiped():
    """A tilted gantry's slices are moved against each other: no voxel grows by that."""
    tilted = np.array([[0.5, 0, 0, 0], [0, 0.5, 1.0, 0], [0, 0, 3.0, 0], [0, 0, 0, 1]])
    volume = Volume(np.zeros((2, 2, 2), np.float32), tilted)
    assert volume.voxel_ml == pytest.approx(0.5 * 0.5 * 3.0 / 1000)
    assert np.prod(volume.spacing) > 1.05 * 1000 * volume.voxel_ml


def test_a_mask_lies_where_its_image_lies():
    image = volume(numbers(4, 5, 6))
    turned = np.diag([1.0, 2.0, -3.0, 1.0])  # the same place, stored upside down
    turned[2, 3] = 3.0 * 5
    nifti.check_aligned(image, volume(numbers(4, 5, 6), turned))
    moved = np.diag([1.0, 2.0, 3.0, 1.0])
    moved[0, 3] = 0.5
    with pytest.raises(UnusableError, match=r"corners are up to 0\.5 mm apart") as problem:
        nifti.check_aligned(image, volume(numbers(4, 5, 6), moved))
    assert problem.value.defect == "affine differs"
    with pytest.raises(UnusableError, match="must have its image's size, 4x5x6, got 4x5x7"):
        nifti.check_aligned(image, volume(numbers(4, 5, 7)))
    rounded = np.diag([1.0005, 2.0, 3.0, 1.0])  # a quaternion's last digits
    nifti.check_aligned(image, volume(numbers(4, 5, 6), rounded))


def test_intensities_run_from_black_to_white_between_their_percentiles():
    voxels = np.arange(10_000, dtype=np.float32).reshape(10, 20, 50) * 1000
    voxels[0, 0, 0] = -1e9  # one of a few that lie far away
    grey = nifti.to_grey(Volume(voxels, np.eye(4)))
    low, high = np.percentile(voxels, (0.5, 99.5))
    assert grey == pytest.approx(np.clip((voxels - low) / (high - low), 0, 1) * 255, abs=1e-2)
    few = np.zeros((10, 20, 50), np.float32)
    few[5, 5, 5] = 7  # both percentiles are 0
    assert np.unique(nifti.to_grey(Volume(few, np.eye(4)))) == pytest.approx([0, 255])
    with pytest.raises(UnusableError, match="all of its voxels are 0"):
        nifti.to_grey(Volume(np.zeros((2, 2, 2), np.float32), np.eye(4)))


@pytest.mark.parametrize(
    ("foreground", "expected"), [("nonzero", [1, 2, 3]), ([1], [1]), ([2, 3, 9], [2, 3])]
)
def test_the_lesion_is_where_a_label_is_of_the_foreground(foreground, expected):
    labels = np.arange(24).reshape(2, 3, 4) % 4
    lesion = nifti.to_lesion(Volume(labels.astype(np.float32), np.eye(4)), foreground)
    assert np.array_equal(lesion, np.isin(labels, expected))


def test_labels_that_were_scaled_and_rounded_are_labels():
    """A mask of 0 and 1 that was saved in its image's int16, as often happens."""
    labels = np.array([[[-32768, 32767, 32767]]], np.int16)
    mask = decode_volume(with_header(file_of(labels), scl_slope=1.5259e-5, scl_inter=0.5))
    assert not set(np.unique(mask.voxels)) & {0, 1}
    assert np.array_equal(nifti.to_lesion(mask, "nonzero").ravel(), [False, True, True])


@pytest.mark.parametrize(
    ("labels", "foreground", "defect", "told"),
    [
        ([0, 1, 1.5], "nonzero", "mask not of labels", "whole numbers as labels, got 1.5"),
        ([0, 0, 0], "nonzero", "empty mask", "has no label other than 0; it has 0"),
        ([0, 1, 2], [3, 4], "empty mask", r"has no label of \[3, 4\]; it has 0, 1, 2"),
        ([1, 1, 2], "nonzero", "full mask", "has nothing but labels other than 0; it has 1, 2"),
        ([1, 1, 2], [1, 2], "full mask", r"has nothing but labels of \[1, 2\]"),
    ],
)
def test_a_mask_that_is_none_is_told(labels, foreground, defect, told):
    with pytest.raises(UnusableError, match=told) as problem:
        nifti.to_lesion(Volume(np.array([[labels]], np.float32), np.eye(4)), foreground)
    assert problem.value.defect == defect


def test_smaller_masks_have_what_is_half_lesion():
    lesion = np.random.default_rng(1).random((8, 12, 6)) > 0.5
    blocks = lesion.reshape(4, 2, 4, 3, 3, 2).mean(axis=(1, 3, 5))
    assert np.array_equal(nifti.lay_lesion(lesion, (4, 4, 3)), blocks >= 0.5)
    assert (blocks == 0.5).any()  # the edge that decides


def test_larger_volumes_are_linear_between_voxels():
    grey = np.random.default_rng(2).uniform(0, 255, (5, 6, 7)).astype(np.float32)
    size = (10, 9, 21)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(grey)[None, None], size, mode="trilinear", align_corners=False
    )
    found = nifti.lay_grey(grey, size)
    assert found.dtype == np.uint8
    assert np.abs(found - expected[0, 0].numpy()).max() <= 0.5 + 1e-2


def test_a_volume_of_that_size_already_stays_as_it_is():
    grey = np.random.default_rng(3).integers(0, 256, (5, 6, 7)).astype(np.float32)
    assert np.array_equal(nifti.lay_grey(grey, grey.shape), grey)
    lesion = grey > 100
    assert np.array_equal(nifti.lay_lesion(lesion, grey.shape), lesion)


def test_a_spacing_that_one_tool_rounded_is_the_same_place():
    whole, rounded = (
        Volume(np.zeros((2, 512, 512), np.float32), np.diag([spacing, spacing, 3.0, 1.0]))
        for spacing in (0.703125, 0.7031)
    )
    nifti.check_aligned(whole, rounded)
    moved = Volume(whole.voxels, whole.affine.copy())
    moved.affine[0, 3] = 0.1  # a seventh of a voxel
    with pytest.raises(UnusableError, match=r"0\.1 mm apart"):
        nifti.check_aligned(whole, moved)


@pytest.mark.parametrize(("of_rows", "of_quaternion"), [(4, 1), (1, 1), (2, 0), (0, 3)])
def test_a_prediction_has_its_images_forms_and_codes(of_rows, of_quaternion):
    """Some viewers go by the quaternion where a file has both, and they need not agree."""
    atlas, scanner = np.diag([1.0, 2.0, 3.0, 1.0]), np.diag([1.0, 2.0, 3.0, 1.0])
    atlas[:3, 3] = -4, 5, 6
    scanner[:2, :2] = (0, -2), (1, 0)
    header = nibabel.Nifti1Header()
    header.set_data_shape((4, 5, 6))
    header.set_qform(scanner, of_quaternion)
    header.set_sform(atlas, of_rows)
    keys = ["sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "pixdim"]
    keys += [
        f"{name}_{axis}" for name, axes in (("quatern", "bcd"), ("qoffset", "xyz")) for axis in axes
    ]
    content = with_header(file_of(numbers(4, 5, 6)), **{key: header[key] for key in keys})
    image = decode_volume(content)
    mask = nifti.encode(image, np.ones(image.voxels.shape, np.uint8))
    written = nibabel.Nifti1Image.from_bytes(gzip.decompress(mask)).header
    for name, form, code in (("sform", atlas, of_rows), ("qform", scanner, of_quaternion)):
        found, kept = getattr(written, f"get_{name}")(coded=True)
        assert kept == code
        assert (found is None) if code == 0 else np.allclose(found, form, atol=1e-6)


def test_a_broken_form_beside_a_sound_one_is_left_out_of_the_prediction():
    broken = with_header(file_of(numbers(4, 5, 6)), qform_code=1, quatern_b=3, quatern_c=3)
    image = decode_volume(broken)
    assert image.forms["qform"] == (None, 0)
    written = decode_volume(nifti.encode(image, np.ones(image.voxels.shape, np.uint8)))
    assert np.array_equal(written.affine, image.affine)


def test_a_case_is_decoded_and_checked_in_one_and_its_prediction_lies_where_it_lies(tmp_path):
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    labels = (np.arange(120).reshape(4, 5, 6) % 3).astype(np.float32)
    for folder, voxels in (("images", numbers(4, 5, 6)), ("masks", labels)):
        (tmp_path / folder).mkdir()
        content = file_of(voxels.astype(np.float32), affine)
        (tmp_path / folder / "a.nii.gz").write_bytes(content)
    case = RawCase("a", None, tmp_path / "images" / "a.nii.gz", tmp_path / "masks" / "a.nii.gz")
    found = nifti.check_case(case, [2])
    assert found.findings == []
    assert [found.original[f"{axis}_mm"] for axis in ("depth", "height", "width")] == [3, 2, 1]
    assert np.array_equal(found.lesion.transpose(), labels == 2)
    assert found.original["lesion_ml"] == pytest.approx(40 * 6 / 1000)
    assert (found.grey.min(), found.grey.max()) == (0, 255)
    image = decode_volume(case.image.read_bytes())
    again = decode_volume(nifti.encode(image, found.lesion.astype(np.uint8)))
    assert np.array_equal(again.voxels > 0, found.lesion)
    assert np.allclose(again.affine, affine)
    empty = nifti.check_case(case, [7])
    assert empty.lesion is None
    assert [finding.defect for finding in empty.findings] == ["empty mask"]
