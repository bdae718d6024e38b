"""The network as MLflow serves it: MLflow alone runs this file, to load a logged model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import NDArray

from models import families
from models.config import CHANNELS, images_shape
from pipeline.engine.compute import choose_device, to_input
from pipeline.engine.weights import load_model


class LesionSegmenter(PythonModel):
    """images (N, height, width, 3) RGB, or volumes (N, depth, height, width, 1), whole numbers from
    0 to 255 of any type -> lesion probabilities float32, without the last axis."""

    def load_context(self, context: PythonModelContext) -> None:
        folder = Path(context.artifacts["network"])
        served = json.loads((folder / "network.json").read_text())
        network = served["network"]
        self.size = tuple(served["size"])
        self.device = choose_device()
        self.model = load_model(
            families()[network["family"]](**network).at(folder),
            Path(context.artifacts["weights"]),
            self.device,
        )

    # Where there is no type hint MLflow asks for one, and for another it would check by that one.
    def predict(
        self, context: PythonModelContext, model_input: np.ndarray, params: Any = None
    ) -> NDArray[np.float32]:
        """Raises MlflowException for other input, which a server answers with 400."""
        images = torch.from_numpy(checked(model_input, self.size))
        with torch.no_grad():
            logits = self.model(to_input(images, self.device))
        probabilities: NDArray[np.float32] = logits.squeeze(1).float().sigmoid().cpu().numpy()
        return probabilities


NUMBERS = (int, float, np.integer, np.floating)


def checked(given: Any, size: tuple[int, ...]) -> NDArray[np.uint8]:
    """`given` as images (N, *size, channels) uint8. Raises MlflowException for another shape, and
    for numbers that are not whole or not from 0 to 255, such as those of a picture from 0 to 1."""
    try:
        images = np.array(given)
        kinds = (
            {type(each) for each in images.flat} if images.dtype == object else {images.dtype.type}
        )
        if not all(issubclass(kind, NUMBERS) and kind is not bool for kind in kinds):
            raise TypeError
        numbers = images if images.dtype == np.uint8 else images.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        raise _refused(size, "numbers of no common shape, or no numbers") from None
    if numbers.shape[1:] != (*size, CHANNELS[len(size)]):
        raise _refused(size, f"shape {numbers.shape}")
    if not ((numbers >= 0) & (numbers <= 255) & (numbers == np.floor(numbers))).all():
        raise _refused(size, f"numbers from {numbers.min():g} to {numbers.max():g}")
    return numbers.astype(np.uint8)


def _refused(size: tuple[int, ...], got: str) -> MlflowException:
    refused: MlflowException = MlflowException.invalid_parameter_value(
        f"images must have the shape {images_shape(size)}, and whole numbers from 0 to 255; "
        f"got {got}"
    )
    return refused


mlflow.models.set_model(LesionSegmenter())
