"""A run's network in MLflow's store: from code and safetensors, nothing is pickled."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

from models import NetworkConfig, source_hashes
from models.config import images_shape
from pipeline import ROOT
from pipeline.study.params import Study


def log_model(study: Study, variant: str, weights: Path) -> None:
    """Log the network so that mlflow.pyfunc.load_model(...).predict(images) gives probabilities.

    From code and safetensors: nothing is pickled.
    """
    import mlflow
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    size = study.prepare.size
    signature = ModelSignature(
        # By MLflow's words any array. To a type of its own it casts what a server gets: 0.8 to 0.
        inputs=Schema([TensorSpec(np.dtype(object), (-1,))]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, *size))]),
    )
    with tempfile.TemporaryDirectory() as folder:
        config = study.models[variant]
        hashes = source_hashes(config)
        network = Path(folder) / "network"  # with the study's own files, if it has some
        for name in hashes:
            if (own := study.folder / name).is_file() and name.startswith("networks/"):
                (network / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(own, network / name)
        network.mkdir(exist_ok=True)
        (network / "network.json").write_text(json.dumps({"network": asdict(config), "size": size}))
        mlflow.pyfunc.log_model(
            name="model",
            python_model=str(ROOT / "pipeline" / "tracking" / "serving.py"),
            artifacts={"weights": weights.resolve().as_uri(), "network": network.as_uri()},
            code_paths=[str(ROOT / "models"), str(ROOT / "pipeline")],
            signature=signature,
            metadata={
                "sources": hashes,
                "images": f"{images_shape(size)}, whole numbers from 0 to 255",
            },
            pip_requirements=_requirements(config),
        )


def _requirements(network: NetworkConfig) -> list[str]:
    """What that logged network needs, at the versions it was made with."""
    from importlib.metadata import version

    own = ("torch", "torchvision", "numpy", "pandas", "pydantic", "pyyaml", "safetensors")
    names = (*own, *network.packages)
    return [f"{name}=={version(name).partition('+')[0]}" for name in names]
