"""What a run is made of: sources, data, params, machine; what it cost. Its part of run.json."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import models
from models import NetworkConfig, build_model
from models.config import CHANNELS
from pipeline.engine.compute import choose_dtype, processor
from pipeline.engine.prepared import PreparedCases
from pipeline.engine.weights import weights_file_sha256, weights_path
from pipeline.study.errors import UserError, warn
from pipeline.study.files import read_json
from pipeline.study.inputs import source_hashes
from pipeline.study.limits import limit_of
from pipeline.study.params import Run, Study
from pipeline.training.state import Row


def describe_machine(
    device: torch.device, dtype: torch.dtype, packages: Sequence[str] = ()
) -> dict[str, Any]:
    """What the run computed with, for run.json; `packages`: those that its network needs."""
    names = ("torchvision", "numpy", "albumentations", *packages, "dvc", "mlflow")
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else processor(),
        "driver": _driver() if on_gpu else None,
        "precision": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {"torch": torch.__version__, **{name: _version(name) for name in names}},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def describe_commit(folder: Path) -> dict[str, Any]:
    """The commit of the sources and whether tracked files differ from it.

    But for dvc.lock, which changes while a study runs and decides nothing. None, with a warning
    that says why, where git does not tell them.
    """
    git = ("git", "-C", str(folder))
    tracked = ("--porcelain", "--untracked-files=no", "--", ".", ":(exclude,glob)**/dvc.lock")
    try:
        commit, status = _output(*git, "rev-parse", "HEAD"), _output(*git, "status", *tracked)
    except _FAILED as error:
        if limit_of(error):
            raise
        missing = "git is missing" if isinstance(error, FileNotFoundError) else str(error)
        told = (getattr(error, "stderr", None) or "").strip() or missing
        warn(
            f"no commit is recorded for this run ({told.splitlines()[0]}): nobody can tell later "
            "which sources made it"
        )
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": status != ""}


_FAILED = (OSError, subprocess.CalledProcessError)


def _output(*command: str) -> str:
    """What a command prints. Raises one of _FAILED where there is none such, or it fails."""
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=True)
    return done.stdout.strip()


def _driver() -> str | None:
    with suppress(*_FAILED):
        return _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return None


def forward_gflops(config: NetworkConfig, *size: int) -> float:
    """Of one image's forward pass, by torch's counter: multiply and add counted apart. size: height
    and width, of a volume depth before them."""
    try:
        return _gflops(config, size, "meta")  # nothing is computed
    except (RuntimeError, NotImplementedError):
        # A study's own network may look at what it computes, of which there is nothing on "meta".
        return _gflops(config, size, "cpu")


def _gflops(config: NetworkConfig, size: tuple[int, ...], device: str) -> float:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # The counter does not know the CPU's fused attention; the plain kernel does the same.
    with (
        torch.device(device),
        FlopCounterMode(display=False) as counter,
        sdpa_kernel(SDPBackend.MATH),
        torch.no_grad(),
    ):
        build_model(config).to(device).eval()(torch.zeros(1, CHANNELS[len(size)], *size))
    return float(counter.get_total_flops()) / 1e9


def speeds(history: pd.DataFrame, cases: PreparedCases) -> Row:
    """For run.json: seconds an epoch, and images a second in training (mean over epochs) and in
    validation, a forward pass with losses and Dice."""
    seconds, trained = history["seconds"], history["images_per_second"]
    validating = (seconds - len(cases.indices("training")) / trained).sum()
    return {
        "seconds_per_epoch": float(seconds.mean()),
        "images_per_second": float(trained.mean()),
        "validation_images_per_second": float(
            len(history) * len(cases.indices("validation")) / validating
        ),
    }


def describe_training(study: Study, run: Run, device: torch.device) -> dict[str, Any]:
    """What decides the run's result, as the files are now: its part of run.json."""
    config = study.models[run.variant]
    return {
        **run._asdict(),
        "sources": source_hashes("train") | models.source_hashes(config),
        "data_fingerprint": PreparedCases.open(study.prepared_dir).fingerprint,
        "params": {
            **study.model_dump(mode="json", include={"data", "prepare", "train", "focal"}),
            "model": asdict(config),
        },
        "encoder_weights_sha256": weights_file_sha256(config),
        **describe_machine(
            device,
            choose_dtype(device, study.train.precision, len(study.prepare.size)),
            config.packages,
        ),
    }


def start_weights(study: Study, variant: str) -> list[Path]:
    """The file that the variant's weights start from, if there is one. Raises UserError if it is
    not the one that the stage networks described: DVC goes by that."""
    config, path = study.models[variant], study.network_file(variant)
    if config.weights in ("none", "imagenet"):
        return []
    if path.is_file():
        described = read_json(path, "networks")["weights_sha256"]
        if described != weights_file_sha256(config):
            raise UserError(
                f"models.{variant}: {config.weights} is not the file of weights that {path} "
                "describes: put that one back, or train all its seeds from this one: dvc repro "
                "--force networks, then dvc repro"
            )
    return [weights_path(config)]


def identity(record: dict[str, Any]) -> dict[str, str]:
    """All that decides a training's bits, by name: of run.json's `record` what does."""
    params, versions = record["params"], record["versions"]
    names = ("variant", "seed", "fold", "sources", "data_fingerprint", "encoder_weights_sha256")
    machine = ("device", "precision", "threads")
    views = ("dvc", "mlflow")  # they decide none
    return _flat(
        {name: record[name] for name in (*names, *machine)}
        | {name: params[name] for name in ("train", "focal", "model")}
        | {"versions": {name: versions[name] for name in versions if name not in views}}
    )


def fingerprint(record: dict[str, Any]) -> str:
    """One sha256 for `identity`."""
    return hashlib.sha256(json.dumps(identity(record), sort_keys=True).encode()).hexdigest()


def differences(one: dict[str, str], other: dict[str, str]) -> str:
    """The names under which two identities differ, in words; empty where they are equal."""
    names = sorted(
        name.removeprefix("sources.")
        for name in one.keys() | other.keys()
        if one.get(name) != other.get(name)
    )
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _flat(content: Any, name: str = "") -> dict[str, str]:
    """Nested blocks as one, `train.optimizer.method`; values as JSON."""
    if not isinstance(content, dict):
        return {name: json.dumps(content)}
    flat: dict[str, str] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{name}.{key}" if name else key)
    return flat
