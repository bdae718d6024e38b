"""A network run over the cases of a split, and its predictions scored pixel by pixel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.engine import losses
from pipeline.engine.batches import split_batches
from pipeline.engine.compute import NotFiniteError, autocast, choose_dtype, to_input, to_target
from pipeline.engine.overlap import confusion
from pipeline.engine.prepared import PreparedCases
from pipeline.evaluation.calibration import brier
from pipeline.evaluation.metrics import score_cases
from pipeline.study.blocks import Evaluate
from pipeline.study.errors import UserError
from pipeline.study.params import Study
from pipeline.study.values import Split, quantity


@torch.no_grad()
def forward(
    model: nn.Module, cases: PreparedCases, split: Split, settings: Evaluate
) -> Iterator[tuple[Tensor, Tensor]]:
    """The split's cases in their order: logits and targets, float32 (N, 1, ...). Raises UserError
    where a GPU's memory is too small, and for logits that are NaN or infinite."""
    device = next(model.parameters()).device
    dtype = choose_dtype(device, settings.precision, cases.masks.ndim - 1)
    for images, masks in split_batches(cases, split, settings.batch_size):
        try:
            with autocast(device, dtype):
                logits = model(to_input(images, device)).float()
        except torch.OutOfMemoryError:
            raise UserError(
                f"the GPU's memory ran out with {quantity(len(images), 'case')} at once: set "
                "a smaller evaluate.batch_size"
            ) from None
        if not torch.isfinite(logits).all():
            raise NotFiniteError(
                f"the network's logits of a {split} case must be finite, got NaN or infinity: its "
                "numbers overflow; try evaluate.precision: float32, or train it anew"
            )
        yield logits, to_target(masks, device)


class Scored(NamedTuple):
    """A batch of N cases.

    probabilities (N, ...) float32; found, truth (N, ...) bool: the predicted and the true mask;
    table: a row a case, metrics.PIXEL_METRICS and the counts.
    """

    probabilities: NDArray[np.float32]
    found: NDArray[np.bool_]
    truth: NDArray[np.bool_]
    table: pd.DataFrame


def score(logits: Tensor, targets: Tensor, study: Study) -> Scored:
    """Score a batch of `forward`, by the study's threshold and focal loss."""
    settings = study.evaluate
    predicted = logits.sigmoid() > settings.threshold
    probabilities, found, truth = map(pixels, (logits.sigmoid(), predicted, targets > 0))
    counts = confusion(predicted, targets > 0)
    table = score_cases(counts, jaccard_threshold=settings.jaccard_threshold).assign(
        focal_loss=losses.focal_loss(logits, targets, study.focal).cpu().numpy(),
        bce=losses.bce(logits, targets).cpu().numpy(),
        brier=brier(probabilities, truth),
    )
    return Scored(probabilities, found, truth, table)


def pixels(values: Tensor) -> NDArray[Any]:
    """(N, 1, ...) -> (N, ...), the numbers that they are."""
    array: NDArray[Any] = values.squeeze(1).cpu().numpy()
    return array
