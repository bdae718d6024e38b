"""Stage 3: train one variant with one seed: `python -m pipeline.train <variant> <seed> [fold]`"""

from __future__ import annotations

import math
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from models import NetworkConfig, build_model
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
from pipeline.optimisation import build_optimizer, build_schedule, start_training_mode
from pipeline.params import Focal, Loss, Study, Train, load_study, parse_run
from pipeline.prepared import PreparedCases
from pipeline.weights import load_encoder, save_weights, weights_file_sha256

Row = dict[str, float]  # one epoch of history.csv


@dataclass
class Training:
    """All that changes while a network is trained.

    schedule: of the optimizer's learning rates, stepped after each step of it.
    history: a row an epoch trained.
    best_weights: the model's state, on the CPU, after the epoch of the best validation Dice so far;
    empty where the last epoch's are kept.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: LambdaLR
    history: list[Row] = field(default_factory=list)
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def start(cls, model: nn.Module, train: Train, steps_per_epoch: int) -> Training:
        optimizer = build_optimizer(model, train)
        schedule = build_schedule(
            optimizer, train.schedule, epochs=train.epochs, steps_per_epoch=steps_per_epoch
        )
        return cls(model, optimizer, schedule)

    def learning_rates(self) -> Row:
        """Of the next step; the encoder's where it has its own."""
        names = ("learning_rate", "encoder_learning_rate")
        groups = self.optimizer.param_groups
        return {name: group["lr"] for name, group in zip(names, groups, strict=False)}


class LossMeans:
    """The loss trained by and the three of section 9.5, averaged over the cases seen."""

    def __init__(self, loss: Loss, focal: Focal) -> None:
        self.loss = loss
        self.focal = focal
        self.seen: dict[str, list[Tensor]] = {}

    def add(self, logits: Tensor, targets: Tensor) -> Tensor:
        """logits, targets (N, 1, H, W) -> (N,), the loss to train by."""
        values = losses.every_loss(logits, targets, self.loss, self.focal)
        for name, value in values.items():
            self.seen.setdefault(name, []).append(value.detach())
        return values["loss"]

    def means(self, split: str) -> Row:
        return {
            f"{split}_{name}": torch.cat(values).mean().item() for name, values in self.seen.items()
        }


def train_epoch(
    training: Training,
    batches: TrainingBatches,
    epoch: int,
    train: Train,
    means: LossMeans,
    dtype: torch.dtype,
) -> Row:
    """One pass over the training cases; returns the learning rates of its last step.

    Raises UserError at the first step whose loss is not finite; its gradient is not taken.
    """
    model, optimizer = training.model, training.optimizer
    device = next(model.parameters()).device
    start_training_mode(model, freeze_encoder=train.freeze_encoder)
    rates: Row = {}
    bar = tqdm(batches.epoch(epoch), f"epoch {epoch}", len(batches), unit="batch", leave=False)
    for step, (images, masks) in enumerate(bar, start=1):
        rates = training.learning_rates()
        inputs, targets = to_input(images, device), to_target(masks, device)
        with autocast(device, dtype):
            logits = model(inputs)
        loss = means.add(logits, targets).mean()
        value = loss.item()
        if not math.isfinite(value):
            raise diverged(f"the training loss is {value} in epoch {epoch}, step {step}", rates)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if train.gradient_clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), train.gradient_clip)
        optimizer.step()
        training.schedule.step()
        bar.set_postfix(loss=f"{value:.3f}")
    return rates


def diverged(what: str, rates: Row) -> UserError:
    """What to tell of a loss that is not finite, and what to do about it."""
    return UserError(
        f"{what}, at learning rate {rates['learning_rate']:g}: lower "
        "train.optimizer.learning_rate, warm it up (train.schedule.warmup_epochs) or clip the "
        "gradient (train.gradient_clip)"
    )


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
        means.add(logits, targets)
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
    """Train `model` in place by the study's protocol; return history.csv, a row an epoch.

    The weights it ends with are those of the epoch that `selected_epoch` names.
    """
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
    training_cases = len(cases.indices("training"))
    if training_cases % train.batch_size == 1 and height * width == 32 * 32:
        raise UserError(
            f"params.yaml: train.batch_size {train.batch_size} leaves a last batch of one case, "
            "whose BatchNorm at 32x32 pixels would have a single value: choose another"
        )
    training = Training.start(model, train, len(batches))
    epochs = tqdm(range(1, train.epochs + 1), "train", unit="epoch")
    for epoch in epochs:
        means = LossMeans(train.loss, study.focal)
        start = time.perf_counter()
        rates = train_epoch(training, batches, epoch, train, means, dtype)
        images_per_second = training_cases / (time.perf_counter() - start)
        validation = LossMeans(train.loss, study.focal)
        row: Row = {
            "epoch": epoch,
            **rates,
            **means.means("train"),
            **validate(model, cases, train.batch_size, validation, dtype),
            "seconds": time.perf_counter() - start,
            "images_per_second": images_per_second,
        }
        if not math.isfinite(row["validation_loss"]):
            raise diverged(
                f"the validation loss is {row['validation_loss']} after epoch {epoch}", rates
            )
        training.history.append(row)
        log_epoch(epoch, row)
        epochs.set_postfix(
            loss=f"{row['train_loss']:.3f}",
            dice=f"{row['validation_dice']:.3f}",
            images_s=f"{images_per_second:.1f}",
        )
        best = best_epoch([each["validation_dice"] for each in training.history])
        if train.select == "best_validation_dice" and best == epoch:
            training.best_weights = {
                name: tensor.to("cpu", copy=True) for name, tensor in model.state_dict().items()
            }
        if train.early_stopping is not None and epoch - best >= train.early_stopping:
            break
    if training.best_weights:
        model.load_state_dict(training.best_weights)
    return pd.DataFrame(training.history).astype({"epoch": int})


def best_epoch(validation_dices: Sequence[float]) -> int:
    """The epoch, from 1, of the highest mean Dice; of equals the earliest."""
    return 1 + int(np.argmax(validation_dices))


def selected_epoch(history: pd.DataFrame, train: Train) -> int:
    """The epoch, from 1, whose weights a training with that history kept."""
    if train.select == "last":
        return len(history)
    return best_epoch(history["validation_dice"].tolist())


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


def forward_gflops(config: NetworkConfig, height: int, width: int) -> float:
    """Of one image's forward pass, by torch's counter: multiply and add counted apart."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # On "meta" nothing is computed. The counter does not know the CPU's fused attention; the plain
    # kernel does the same arithmetic.
    with (
        torch.device("meta"),
        FlopCounterMode(display=False) as counter,
        sdpa_kernel(SDPBackend.MATH),
        torch.no_grad(),
    ):
        build_model(config).eval()(torch.empty(1, 3, height, width))
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
    selected = selected_epoch(history, study.train)
    record |= {
        "epochs_trained": len(history),
        "selected_epoch": selected,
        "weights_sha256": sha256(weights),
        "wall_seconds": time.perf_counter() - start,
        **speeds(history, cases),
        "gflops": forward_gflops(config, *cases.masks.shape[1:]),
        "peak_memory_bytes": peak_memory_bytes(device),
    }
    write_json(run_dir / "run.json", record)
    dice = history["validation_dice"].iloc[selected - 1]
    print(
        f"train: {study.label(run)}: validation Dice {dice:.4f} after epoch {selected} of "
        f"{len(history)}, {record['images_per_second']:.1f} images/s"
    )


if __name__ == "__main__":
    run_command(main)
