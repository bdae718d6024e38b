"""The benchmark's stages, one module each, and the nouns they share. See README.md, folder map."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # of the sources

# Nothing phones home: albumentations asks for its newest version, MLflow sends usage statistics.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
