"""export.json: an exported network's size, its latency on a CPU, how true it is to the original."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from pipeline.statistics.results import Record
from pipeline.study.errors import UserError, first_fault
from pipeline.study.files import write_json

SCHEMA_VERSION: Literal[1] = 1


class Latency(Record):
    """Milliseconds a call with one picture, the median, on one core in float32."""

    eager: float = Field(description="PyTorch, the network as it is trained")
    exported_program: float = Field(description="PyTorch, model.pt2")
    onnxruntime: float = Field(description="ONNX Runtime, model.onnx")


class Exported(Record):
    """export.json: figures of two machines do not compare."""

    schema_version: Literal[1]
    variant: str
    seed: int
    fold: int
    depth: int | None = Field(None, description="voxels; null of a network that takes pictures")
    height: int = Field(description="pixels, or voxels, that the network takes")
    width: int
    weights_sha256: str
    network_sources: dict[str, str] = Field(
        {}, description="of a network of the study's own: each file's sha256"
    )
    parameters: int
    onnx: dict[str, int] = Field(description="of model.onnx: its opset and its IR version, ir")
    bytes: dict[str, int] = Field(description="of each file, and of weights.safetensors")
    largest_difference: dict[str, float] = Field(
        description="of a probability from the eager network's, on drawn pictures: file -> that"
    )
    latency_milliseconds: Latency
    processor: str
    versions: dict[str, str]


def save_exported(path: Path, exported: Exported) -> None:
    write_json(path, exported.model_dump(mode="json"))


def load_exported(path: Path) -> Exported:
    """Raises UserError for a file that is missing or of another schema."""
    try:
        return Exported.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); run python -m pipeline.export"
        ) from None
    except ValidationError as invalid:
        raise UserError(f"{path}: {first_fault(invalid)}; export the run again") from None
