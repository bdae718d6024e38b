"""From the prepared size back to the original's, where the ISIC 2018 challenge scores."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from typing import NamedTuple
from zipfile import BadZipFile, ZipFile

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from pipeline.data.geometry import Size, place
from pipeline.data.integrity import UnusableError, decode_mask
from pipeline.data.nifti import decode_volume, to_lesion
from pipeline.engine.prepared import NATIVE_MASKS
from pipeline.evaluation.metrics import score_cases
from pipeline.evaluation.surface import score_distances
from pipeline.study.cores import usable_cores
from pipeline.study.errors import UserError
from pipeline.study.params import Study
from pipeline.study.values import Resize

Spacing = tuple[float, float, float]  # millimetres along depth, height and width
LONGEST = 2**15 - 2  # pixels of a side that cv2 can warp to
WAITING = 4  # batches whose probabilities are kept until threads are free


class TooLongError(Exception):
    """An original that probabilities cannot be laid back to; the message follows its name."""


def lay_back(
    probabilities: NDArray[np.float32], original: Size, resize: Resize
) -> NDArray[np.float32]:
    """Probabilities (h, w) of a prepared image as (H, W) of its original: stretch, crop or padding
    undone, bilinear between the centres of pixels.

    original: (H, W). What a centre crop left out was never seen: it is 0. Padding is dropped.
    Raises TooLongError for a side above LONGEST.
    """
    if max(original) > LONGEST:
        raise TooLongError(f"is longer than {LONGEST} pixels; save it smaller")
    placement = place(original, probabilities.shape, resize)
    left, top, right, bottom = placement.box
    across, down = placement.width / (right - left), placement.height / (bottom - top)
    seen = probabilities[
        placement.top : placement.top + placement.height,
        placement.left : placement.left + placement.width,
    ]
    if (left, top, right, bottom) == (0, 0, original[1], original[0]):  # nine times as fast
        whole = cv2.resize(seen, original[::-1], interpolation=cv2.INTER_LINEAR)
        return np.asarray(whole, np.float32)
    # From the centre of an original's pixel to the prepared ones; cv2 counts from pixels' centres.
    to_seen = np.array(
        [[across, 0, (0.5 - left) * across - 0.5], [0, down, (0.5 - top) * down - 0.5]]
    )
    laid = np.asarray(
        cv2.warpAffine(
            seen,
            to_seen,
            original[::-1],
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        ),
        np.float32,
    )
    laid[: ceil(top - 0.5)] = laid[ceil(bottom - 0.5) :] = 0
    laid[:, : ceil(left - 0.5)] = laid[:, ceil(right - 0.5) :] = 0
    return laid


def lay_back_volume(
    probabilities: NDArray[np.float32], original: tuple[int, ...]
) -> NDArray[np.float32]:
    """Probabilities (d, h, w) of a prepared volume as (D, H, W) of its original, linear between the
    centres of voxels."""
    laid = F.interpolate(
        torch.from_numpy(probabilities)[None, None], original, mode="trilinear", align_corners=False
    )
    return np.asarray(laid[0, 0])


class Native(NamedTuple):
    """A case at its original's size. counts (4,): overlap.COUNTS; distances: of a volume
    surface.DISTANCES in millimetres, of a picture, whose pixels have no known size, none."""

    counts: NDArray[np.int64]
    distances: dict[str, float]


class NativeScorer:
    """Scores predictions by the masks at the originals' size, in threads beside the network.

    Each mask's sha256 is held against that of cases.csv.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.path = study.prepared_dir / NATIVE_MASKS
        try:
            self.masks = ZipFile(self.path)
        except (OSError, BadZipFile) as error:
            raise UserError(
                f"{self.path} is missing or unusable ({error}); run the stage {study.preparing}"
            ) from None
        self.pool = ThreadPoolExecutor(usable_cores())
        self.waiting: deque[Iterator[Native]] = deque()
        self.scored: list[Native] = []

    def submit(self, probabilities: NDArray[np.float32], rows: pd.DataFrame) -> None:
        """Score a batch (N, h, w), or (N, d, h, w), of the cases `rows` of cases.csv.

        Raises UserError for a mask that is not there or is not the one that was prepared.
        """
        cases = rows[["id", "mask_sha256"]].itertuples(index=False)
        self.waiting.append(self.pool.map(self._score, probabilities, cases))
        if len(self.waiting) > WAITING:
            self.scored.extend(self.waiting.popleft())

    def collect(self) -> pd.DataFrame:
        """The thresholded metrics, distances and counts of all cases that were submitted, in their
        order, a row a case."""
        for batch in self.waiting:
            self.scored.extend(batch)
        self.pool.shutdown()
        self.masks.close()
        table = score_cases(
            np.stack([case.counts for case in self.scored]),
            jaccard_threshold=self.study.evaluate.jaccard_threshold,
        )
        return table.join(pd.DataFrame([case.distances for case in self.scored]))

    def _score(self, probabilities: NDArray[np.float32], case: tuple[str, str]) -> Native:
        id, sha256 = case
        mask, spacing = self._read(id, sha256)
        settings = self.study.evaluate
        if spacing is not None:
            found = lay_back_volume(probabilities, mask.shape) > settings.threshold
            distances = score_distances(
                found[None], mask[None], tolerance=settings.surface_tolerance, spacing=spacing
            )
            measured = {name: float(value) for name, (value,) in distances.items()}
            return Native(count(found, mask), measured)
        try:
            laid = lay_back(probabilities, mask.shape, self.study.prepare.resize)
        except TooLongError as problem:
            raise UserError(f"{id} {problem}, or set evaluate.resolution to network") from None
        return Native(count(laid > settings.threshold, mask), {})

    def _read(self, id: str, sha256: str) -> tuple[NDArray[np.bool_], Spacing | None]:
        """The case's mask (H, W), or (D, H, W) with its spacing, as it was prepared from."""
        prepare = self.study.prepare
        try:
            content = self.masks.read(id)
            if hashlib.sha256(content).hexdigest() != sha256:
                raise BadZipFile("its sha256 is not that of cases.csv")
            if prepare.depth is not None:
                volume = decode_volume(content)
                return to_lesion(volume, prepare.foreground or "nonzero"), volume.spacing
            mask = decode_mask(id, self.path, content, [])
        except (KeyError, BadZipFile, UnusableError) as problem:
            raise UserError(
                f"{self.path} has no usable mask of {id} ({problem}); run the stage "
                f"{self.study.preparing} again, or set evaluate.resolution to network"
            ) from None
        return np.asarray(mask) > 0, None


def count(predicted: NDArray[np.bool_], mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """overlap.COUNTS of one case at any size: what overlap.confusion gives, faster on a CPU."""
    true_positives = np.count_nonzero(predicted & mask)
    false_positives = np.count_nonzero(predicted) - true_positives
    false_negatives = np.count_nonzero(mask) - true_positives
    true_negatives = mask.size - true_positives - false_positives - false_negatives
    return np.array([true_positives, false_positives, false_negatives, true_negatives], np.int64)
