"""Stage 3: train one variant with one seed: `python -m pipeline.train <variant> <seed> [fold]`"""

from __future__ import annotations

import math
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from models import build_model
from pipeline import losses, overlap
from pipeline.compute import (
    autocast,
    choose_device,
    choose_dtype,
    make_deterministic,
    stream,
    to_input,
    to_target,
)
from pipeline.dataset import TrainingBatches, compose, split_batches
from pipeline.errors import UserError, run_command
from pipeline.files import replacing, sha256, write_json
from pipeline.params import Focal, Study, load_study, parse_run
from pipeline.prepared import PreparedCases
from pipeline.weights import load_encoder, save_weights, weights_file_sha256

Row = dict[str, float]  # one epoch of history.csv


class LossMeans:
    """The three losses of section 9.5, averaged over the cases seen."""

    def __init__(self, focal: Focal) -> None:
        self.focal = focal
        self.seen: dict[str, list[Tensor]] = {"bce": [], "dice_loss": [], "focal_loss": []}

    def add(self, bce: Tensor, logits: Tensor, targets: Tensor) -> None:
        """bce (N,), as trained by; logits and targets (N, 1, H, W)."""
        with torch.no_grad():
            self.seen["bce"].append(bce.detach())
            self.seen["dice_loss"].append(losses.dice_loss(logits, targets))
            self.seen["focal_loss"].append(losses.focal_loss(logits, targets, self.focal))

    def means(self, split: str) -> Row:
        return {
            f"{split}_{name}": torch.cat(values).mean().item() for name, values in self.seen.items()
        }


def train_epoch(
    model: nn.Module,
    batches: TrainingBatches,
    epoch: int,
    optimizer: torch.optim.Optimizer,
    means: LossMeans,
    dtype: torch.dtype,
) -> int:
    """One pass over the training cases; returns how many there were."""
    device = next(model.parameters()).device
    model.train()
    cases = 0
    bar = tqdm(batches.epoch(epoch), f"epoch {epoch}", len(batches), unit="batch", leave=False)
    for images, masks in bar:
        inputs, targets = to_input(images, device), to_target(masks, device)
        with autocast(device, dtype):
            logits = model(inputs)
        bce = losses.bce(logits, targets)
        loss = bce.mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        means.add(bce, logits, targets)
        cases += len(images)
        bar.set_postfix(loss=f"{loss.item():.3f}")
    return cases


@torch.no_grad()
def validate(
    model: nn.Module, cases: PreparedCases, batch_size: int, means: LossMeans, dtype: torch.dtype
) -> Row:
    """The validation split's losses, and its mean per-case Dice and IoU at p > 0.5."""
    device = next(model.parameters()).device
    model.eval()
    counts = []
    for images, masks in split_batches(cases, "validation", batch_size):
        targets = to_target(masks, device)
        with autocast(device, dtype):
            logits = model(to_input(images, device))
        means.add(losses.bce(logits, targets), logits, targets)
        counts.append(overlap.confusion(logits > 0, targets > 0))
    every = np.concatenate(counts)
    return {
        **means.means("validation"),
        "validation_dice": float(overlap.dice(every).mean()),
        "validation_iou": float(overlap.iou(every).mean()),
    }


def fit(
    model: nn.Module,
    cases: PreparedCases,
    study: Study,
    seed: int,
    log_epoch: Callable[[int, Row], None] = lambda epoch, row: None,
) -> pd.DataFrame:
    """Train `model` in place by the study's protocol; return history.csv, a row an epoch."""
    train = study.train
    device = next(model.parameters()).device
    dtype = choose_dtype(device, train.precision)
    batches = TrainingBatches(
        cases,
        train.augmentation,
        batch_size=train.batch_size,
        seed=seed,
        workers=study.loader_workers,
    )
    height, width = cases.masks.shape[1:]
    if len(cases.indices("training")) % train.batch_size == 1 and height * width == 32 * 32:
        raise UserError(
            f"params.yaml: train.batch_size {train.batch_size} leaves a last batch of one case, "
            "whose BatchNorm at 32x32 pixels would have a single value: choose another"
        )
    optimizer = torch.optim.Adam(model.parameters(), lr=train.learning_rate, fused=True)
    rows = []
    epochs = tqdm(range(1, train.epochs + 1), "train", unit="epoch")
    for epoch in epochs:
        means = LossMeans(study.focal)
        start = time.perf_counter()
        seen = train_epoch(model, batches, epoch, optimizer, means, dtype)
        images_per_second = seen / (time.perf_counter() - start)
        row: Row = {
            "epoch": epoch,
            "learning_rate": optimizer.param_groups[0]["lr"],
            **means.means("train"),
            **validate(model, cases, train.batch_size, LossMeans(study.focal), dtype),
            "seconds": time.perf_counter() - start,
            "images_per_second": images_per_second,
        }
        if not math.isfinite(row["train_bce"]):
            raise UserError(
                f"the training loss is {row['train_bce']} in epoch {epoch}, at learning rate "
                f"{row['learning_rate']:g}: lower train.learning_rate"
            )
        rows.append(row)
        log_epoch(epoch, row)
        epochs.set_postfix(
            loss=f"{row['train_bce']:.3f}",
            dice=f"{row['validation_dice']:.3f}",
            images_s=f"{images_per_second:.1f}",
        )
    return pd.DataFrame(rows).astype({"epoch": int})


def describe_machine(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """What the run computed with, for run.json."""
    names = ("torchvision", "numpy", "albumentations", "dvc", "mlflow")
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "precision": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {"torch": torch.__version__, **{name: _version(name) for name in names}},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def describe_commit(folder: Path) -> dict[str, Any]:
    """The commit of the sources and whether tracked files differ from it; None outside git."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    status = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else status != ""}


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory held so far: on the GPU by torch, else by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def main() -> None:
    started, start = time.time(), time.perf_counter()
    study = load_study()
    run = parse_run(study)
    variant, seed, fold = run
    study.check_inputs()
    cases = PreparedCases.open(study.prepared_dir, fold)
    run_dir = study.run_dir(*run)
    config = study.models[variant]

    device = choose_device()
    make_deterministic()
    torch.manual_seed(stream(seed, "initialisation"))
    model = build_model(config)
    load_encoder(model, config, study.folder)
    model.to(device).to(memory_format=torch.channels_last)
    record = {
        "study": study.name,
        "variant": variant,
        "seed": seed,
        "fold": fold,
        "started": started,
        **describe_commit(Path(study.code)),
        "data_fingerprint": cases.fingerprint,
        "params": {
            **study.model_dump(mode="json", include={"data", "prepare", "train", "focal"}),
            "model": asdict(config),
        },
        "encoder_weights_sha256": weights_file_sha256(config, study.folder),
        **describe_machine(device, choose_dtype(device, study.train.precision)),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    if study.train.augmentation:
        compose(study.train.augmentation)  # bad arguments are told before a record is replaced
    if study.tracking.live:
        from pipeline.tracking import live_run

        with live_run(study, run, record, cases) as live:
            record["mlflow_run_id"] = live.id
            history = fit(model, cases, study, seed, live.log_epoch)
    else:
        history = fit(model, cases, study, seed)

    weights = run_dir / "weights.safetensors"
    save_weights(model, weights)
    with replacing(run_dir / "history.csv") as temporary:
        history.to_csv(temporary, index=False)
    record |= {
        "weights_sha256": sha256(weights),
        "wall_seconds": time.perf_counter() - start,
        "images_per_second": float(history["images_per_second"].mean()),
        "peak_memory_bytes": peak_memory_bytes(device),
    }
    write_json(run_dir / "run.json", record)
    last = history.iloc[-1]
    print(
        f"train: {study.label(run)}: validation Dice {last['validation_dice']:.4f} after "
        f"{study.train.epochs} epochs, {record['images_per_second']:.1f} images/s"
    )


if __name__ == "__main__":
    run_command(main)
