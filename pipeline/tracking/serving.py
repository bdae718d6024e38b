"""The network as MLflow serves it: MLflow alone runs this file, to load a logged model."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import numpy as np
import torch
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from models import families
from pipeline.engine.compute import choose_device, to_input
from pipeline.engine.weights import load_model


class LesionSegmenter(PythonModel):
    """images (N, height, width, 3) uint8 RGB -> lesion probabilities (N, height, width) float32."""

    def load_context(self, context: PythonModelContext) -> None:
        folder = Path(context.artifacts["network"])
        network = json.loads((folder / "network.json").read_text())
        self.device = choose_device()
        self.model = load_model(
            families()[network["family"]](**network).at(folder),
            Path(context.artifacts["weights"]),
            self.device,
        )

    # Without type hints: MLflow would check inputs by them in place of the signature.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        with torch.no_grad():
            logits = self.model(to_input(torch.from_numpy(np.array(model_input)), self.device))
        return logits.squeeze(1).float().sigmoid().cpu().numpy()


mlflow.models.set_model(LesionSegmenter())
