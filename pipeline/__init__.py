"""The benchmark's stages, one module each; in packages what they share. See CONTRIBUTING.md."""

import os
import time
from pathlib import Path

from pipeline.study.cores import bound_spinning
from pipeline.study.limits import tell_limits

ROOT = Path(__file__).resolve().parents[1]  # of the sources
STARTED = time.time()  # before any of them is imported

tell_limits()
bound_spinning()

# Nothing phones home: albumentations asks for its newest version, MLflow sends usage statistics.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
