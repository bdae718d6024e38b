"""Near-duplicates: what the sieve finds against brute force, and which copies are confirmed."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from pipeline.data import duplicates
from pipeline.data.duplicates import (
    HASHES,
    Pair,
    candidate_pairs,
    confirm,
    find,
    fingerprint,
    groups,
    local_features,
    thumbnail,
)
from pipeline.data.synthetic import draw_case

Picture = NDArray[np.uint8]  # (height, width, 3) RGB


def found_among(images: list[Picture]) -> list[Pair]:
    thumbnails = [thumbnail(image) for image in images]
    features = [local_features(small) for small in thumbnails]
    fingerprints = np.array([fingerprint(each) for each in features])
    return find(fingerprints, thumbnails.__getitem__, features.__getitem__)


def drawn(count: int, height: int = 192, width: int = 256) -> list[Picture]:
    return [draw_case(7, index, height=height, width=width)[0] for index in range(count)]


def warped(image: Picture, degrees: float, zoom: float) -> Picture:
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, zoom)
    return np.asarray(cv2.warpAffine(image, turn, (width, height), borderMode=cv2.BORDER_REFLECT))


def jpeg(image: Picture) -> Picture:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=60)
    return np.asarray(Image.open(file))


COPIES: dict[str, Callable[[Picture], Picture]] = {
    "gamma": lambda image: np.rint(255 * (image / 255) ** 0.7).astype(np.uint8),
    "white balance": lambda image: np.rint(image * [0.8, 0.95, 1.0]).astype(np.uint8),
    "saturation": lambda image: np.asarray(ImageEnhance.Color(Image.fromarray(image)).enhance(0.4)),
    "cropped by a tenth": lambda image: image[10:182, 13:243],
    "cropped by a quarter": lambda image: image[24:168, 32:224],
    "larger": lambda image: np.asarray(Image.fromarray(image).resize((500, 375))),
    "recompressed": jpeg,
    "turned by 20 degrees": lambda image: warped(image, 20, 1.0),
    "turned by 90 degrees": lambda image: np.ascontiguousarray(np.rot90(image)),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_found_and_nothing_else(name: str):
    originals = drawn(4)
    pairs = found_among(originals + [COPIES[name](image) for image in originals])
    joined = {(pair.first, pair.second) for pair in pairs}
    wanted = {(index, index + 4) for index in range(4)}
    assert joined == wanted


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(64, 64), (72, 96), (192, 256)])
def test_drawn_cases_are_no_duplicates_of_each_other(height: int, width: int):
    assert found_among(drawn(20, height, width)) == []


def test_pictures_without_features_give_no_pairs_and_no_warnings():
    flat = [np.full((32, 32, 3), grey, np.uint8) for grey in (0, 0, 128, 255)]
    narrow = np.full((32, 900, 3), 9, np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert found_among([*flat, narrow]) == []
        assert found_among(flat[:1]) == []
        none = candidate_pairs(np.zeros((0, HASHES, duplicates.WORDS), np.uint64))
    assert none[0].shape == (0, 2)
    assert none[1].shape == (0,)


def labelled(seed: int) -> Picture:
    """A picture of its own with the label that all of them bear on a fortieth of it."""
    detail = cv2.GaussianBlur(np.random.default_rng(seed).normal(128, 150, (192, 256)), (0, 0), 1.5)
    detail[:16, :80] = (
        np.random.default_rng(99).choice([30, 230], (4, 20)).repeat(4, 0).repeat(4, 1)
    )
    return np.repeat(detail.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def test_pictures_that_share_a_label_and_nothing_else_are_no_pair():
    thumbnails = [thumbnail(labelled(seed)) for seed in (0, 1, 0)]
    features = [local_features(small) for small in thumbnails]
    pairs, distances = np.array([[0, 1], [0, 2], [1, 2]]), np.zeros(3, np.int64)
    of_case = (thumbnails.__getitem__, features.__getitem__)
    (copied,) = confirm(pairs, distances, *of_case)
    assert (copied.first, copied.second) == (0, 2)
    assert copied.correlation == pytest.approx(1)
    every = confirm(pairs, distances, *of_case, min_correlation=-1)
    assert len(every) == 3  # the label's features alone carry enough over
    assert all(abs(pair.correlation) < 0.15 for pair in every if pair != copied)


@pytest.mark.slow
def test_the_same_input_gives_the_same_pairs():
    images = drawn(3)
    images += [warped(image, 10, 1.1) for image in images]
    assert found_among(images) == found_among(images) != []


def planted(rng: np.random.Generator, cases: int, copies: int, flips: int) -> NDArray[np.uint64]:
    """Random fingerprints; the last `copies` are the first ones' with `flips` bits changed."""
    hashes = rng.integers(1, 2**64, (cases, HASHES, duplicates.WORDS), np.uint64)
    for case in range(copies):
        bits = np.unpackbits(hashes[case].view(np.uint8), axis=1)
        for row in bits:
            row[rng.choice(bits.shape[1], flips, replace=False)] ^= 1
        hashes[cases - copies + case] = np.packbits(bits, axis=1).view(np.uint64)
    return hashes


@pytest.mark.slow
def test_the_sieve_finds_what_brute_force_finds():
    hashes = planted(np.random.default_rng(3), cases=60, copies=20, flips=9)
    bits = np.unpackbits(hashes.reshape(-1, duplicates.WORDS).view(np.uint8), axis=1)
    signs = 2 * bits.astype(np.float32) - 1
    distance = ((bits.shape[1] - signs @ signs.T) / 2).reshape(60, HASHES, 60, HASHES)
    closest = distance.min(axis=(1, 3))
    near = {(a, b) for a, b in zip(*np.nonzero(closest <= 28), strict=True) if a < b}
    pairs, distances = candidate_pairs(hashes)
    assert {(a, b) for a, b in pairs.tolist()} == near == {(a, a + 40) for a in range(20)}
    assert distances.tolist() == [closest[a, b] for a, b in pairs] == [9] * 20


def test_candidates_are_bounded_where_all_cases_are_alike():
    hashes = np.repeat(planted(np.random.default_rng(4), 1, 0, 0), 300, axis=0)
    pairs, _ = candidate_pairs(hashes, candidates=5)
    assert 0 < len(pairs) <= 5 * 300


def test_groups_are_joined_through_others_and_named_by_the_smallest():
    pairs = [Pair(4, 6, 0, 9, 1.0), Pair(1, 6, 0, 9, 1.0), Pair(2, 3, 0, 9, 1.0)]
    assert groups(8, pairs).tolist() == [0, 1, 2, 2, 1, 5, 1, 7]
    assert groups(3, []).tolist() == [0, 1, 2]


# Seen side by side: one photograph in two colour balances, cropped and scaled, and turned.
REAL_PAIRS = [
    ("ISIC_0000215", "ISIC_0015313"),
    ("ISIC_0000229", "ISIC_0014771"),
    ("ISIC_0000196", "ISIC_0014957"),
    ("ISIC_0000420", "ISIC_0009910"),
    ("ISIC_0000439", "ISIC_0010853"),
    ("ISIC_0000443", "ISIC_0010173"),
    ("ISIC_0015960", "ISIC_0015961"),
]


@pytest.mark.slow
def test_real_pairs_are_found_and_no_others(real_cases: Path):
    paths = {path.stem: path for path in sorted(real_cases.glob("*Training_Input/*.jpg"))}
    ids = [id for id in list(paths)[::100] if id not in sum(REAL_PAIRS, ())]
    ids += [id for pair in REAL_PAIRS for id in pair]
    pairs = found_among([np.asarray(Image.open(paths[id])) for id in ids])
    assert {(ids[pair.first], ids[pair.second]) for pair in pairs} == set(REAL_PAIRS)
