"""Near-duplicates: cases that show one lesion twice, recoloured, cropped, scaled or turned.

Two steps. A sieve compares hashes of the strongest local features of all cases and names a few
candidates for each case, in nearly linear time. Then local features (SIFT: Lowe 2004,
doi:10.1023/B:VISI.0000029664.99615.94, as RootSIFT: Arandjelovic and Zisserman 2012,
doi:10.1109/CVPR.2012.6248018) are matched between the two pictures of every candidate pair, and the
pair stands if one affine map carries enough of them over and the pictures agree under it.

A hash of the whole picture would not do: photographs of one lesion differ in framing and turn.
Hashed views of several crops find 30 of the 53 pairs looked at in ISIC 2018 (docs are in the
tests), hashes of local features find nearly all.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

LONG_SIDE = 256  # of a thumbnail, in pixels
HASHES = 64  # features of a case that the sieve knows
FEATURES = 500  # features of a case that are matched to confirm a pair
TABLES = 16  # orders of the hashes in which the sieve looks for neighbours
NEIGHBOURS = 4  # places up the order that it looks
CASES_IN_MEMORY = 1024  # whose features a process keeps, about 70 kB each

Thumbnail = NDArray[np.uint8]  # (height, width)


class Features(NamedTuple):
    """The keypoints of one thumbnail, strongest first."""

    places: NDArray[np.float32]  # (n, 2): x, y in the thumbnail's pixels
    descriptors: NDArray[np.uint8]  # (n, 128)


class Pair(NamedTuple):
    """Two cases found to show the same lesion; first < second."""

    first: int
    second: int
    matches: int  # hashes in common, from the sieve
    inliers: int  # features that one affine map carries over
    correlation: float  # of the two pictures' details under that map, -1 to 1


def thumbnail(image: NDArray[np.uint8]) -> Thumbnail:
    """The grey image (h, w), uint8, with LONG_SIDE pixels on its long side, of RGB (H, W, 3).

    Contrast is equalised locally (CLAHE), which undoes most of a colour balance and the lamp.
    """
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    scale = LONG_SIDE / max(height, width)
    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    small = cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return np.asarray(cv2.createCLAHE(3.0, (4, 4)).apply(small), np.uint8)


def local_features(picture: Thumbnail, count: int = FEATURES) -> Features:
    """The `count` strongest SIFT features of a thumbnail; fewer, or none, where it is flat."""
    # A lower contrast than Lowe's 0.04 counts: skin has little.
    keypoints, descriptors = cv2.SIFT_create(count, contrastThreshold=0.01).detectAndCompute(
        picture, None
    )
    if descriptors is None:
        return Features(np.zeros((0, 2), np.float32), np.zeros((0, 128), np.uint8))
    order = np.argsort([-keypoint.response for keypoint in keypoints], kind="stable")[:count]
    places = np.array([keypoint.pt for keypoint in keypoints], np.float32)
    return Features(places[order], descriptors[order].astype(np.uint8))


def root_sift(descriptors: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Descriptors (n, 128) of unit length whose dot product is Hellinger's kernel, 0 to 1."""
    values = descriptors.astype(np.float32)
    return np.sqrt(values / np.maximum(values.sum(axis=1, keepdims=True), 1))


@lru_cache(1)
def _projections() -> NDArray[np.float32]:
    """(128, 64) orthonormal directions, drawn once and for all."""
    drawn = np.random.default_rng(0).standard_normal((128, 64))
    return np.linalg.qr(drawn)[0].astype(np.float32)


def fingerprint(image: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Hashes (HASHES,), uint64, of the strongest local features of an RGB image (H, W, 3).

    Each bit tells on which side of the image's mean descriptor a feature lies in one random
    direction (Charikar 2002, doi:10.1145/509907.509965): features that differ by a small angle
    differ in few bits. 0 stands where the image has fewer features.
    """
    descriptors = root_sift(local_features(thumbnail(image)).descriptors)
    hashes = np.zeros(HASHES, np.uint64)
    if len(descriptors):
        centred = descriptors[:HASHES] - descriptors.mean(axis=0)
        bits = centred @ _projections() > 0
        hashes[: len(bits)] = np.packbits(bits, axis=1).view(np.uint64)[:, 0]
    return hashes


def candidate_pairs(
    fingerprints: NDArray[np.uint64],
    *,
    hash_distance: int = 14,
    min_matches: int = 2,
    candidates: int = 10,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs (n, 2) of cases that share features, first < second, in order; and their matches (n,).

    fingerprints is (cases, HASHES). A match is a hash whose nearest one in another case differs by
    at most `hash_distance` of 64 bits; a pair needs `min_matches` of them and to be among the
    `candidates` pairs with most matches of one of its two cases. Neighbours are looked for in
    sorted orders of the rotated hashes (Manku et al. 2007, doi:10.1145/1242572.1242592), so a near
    one is missed at times, and time grows as n log n however alike the cases are.
    """
    count = len(fingerprints)
    hashes = fingerprints.ravel()
    features = np.flatnonzero(hashes)
    hashes = hashes[features]
    owners = (features // max(1, fingerprints.shape[1])).astype(np.int32)
    nearest = np.full(len(hashes), hash_distance + 1, np.uint8)
    partner = np.full(len(hashes), -1, np.int32)
    for turn in range(0, 64, 64 // TABLES):
        rotated = (hashes << np.uint64(turn)) | (hashes >> np.uint64((64 - turn) % 64))
        order = np.argsort(rotated, kind="stable").astype(np.int32)
        rotated = rotated[order]
        for step in range(1, NEIGHBOURS + 1):
            low, high = order[:-step], order[step:]
            distance = np.bitwise_count(rotated[:-step] ^ rotated[step:])
            close = (distance <= hash_distance) & (owners[low] != owners[high])
            low, high, distance = low[close], high[close], distance[close]
            for one, other in ((low, high), (high, low)):
                better = distance < nearest[one]
                nearest[one[better]] = distance[better]
                partner[one[better]] = owners[other[better]]
    found = partner >= 0
    ends = np.sort(np.stack([owners[found], partner[found]], axis=1), axis=1).astype(np.int64)
    codes, matches = np.unique(ends[:, 0] * count + ends[:, 1], return_counts=True)
    codes, matches = codes[matches >= min_matches], matches[matches >= min_matches]
    pairs = np.stack([codes // max(1, count), codes % max(1, count)], axis=1)
    kept = _among_best(pairs, matches, candidates)
    return pairs[kept], matches[kept]


def _among_best(
    pairs: NDArray[np.int64], matches: NDArray[np.int64], best: int
) -> NDArray[np.bool_]:
    """Whether a pair (n, 2) is among the `best` of either case's by matches; ties by order."""
    cases = pairs.T.ravel()
    order = np.lexsort((np.tile(-matches, 2), cases))
    cases = cases[order]
    rank = np.arange(len(cases)) - np.searchsorted(cases, cases)
    kept = np.zeros(len(pairs), np.bool_)
    kept[order[rank < best] % max(1, len(pairs))] = True
    return kept
