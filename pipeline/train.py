"""Stage 3: train one variant with one seed: `python -m pipeline.train <variant> <seed> [fold]`"""

from __future__ import annotations

import math
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from models import FAMILIES, AnyConfig, build_model
from pipeline.engine import losses, overlap
from pipeline.engine.batches import TrainingBatches, compose, split_batches
from pipeline.engine.compute import (
    autocast,
    choose_device,
    choose_dtype,
    make_deterministic,
    processor,
    stream,
    to_input,
    to_target,
)
from pipeline.engine.prepared import PreparedCases
from pipeline.engine.weights import load_encoder, save_weights, weights_file_sha256
from pipeline.study.errors import UserError, run_command
from pipeline.study.files import replacing, sha256, write_json
from pipeline.study.params import Focal, Loss, Run, Study, Train, load_study, parse_run
from pipeline.training.optimisation import start_training_mode
from pipeline.training.resume import (
    ResumeFile,
    Row,
    Training,
    alone,
    differences,
    fingerprint,
    identity,
    source_hashes,
)


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
    # As a block: a bar that an error leaves open would stand before its message.
    with tqdm(
        batches.epoch(epoch), f"epoch {epoch}", len(batches), unit="batch", leave=False
    ) as bar:
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
    resume_file: ResumeFile | None = None,
) -> pd.DataFrame:
    """Train `model` in place by the study's protocol; return history.csv, a row an epoch.

    The weights it ends with are those of the epoch that `selected_epoch` names. With `resume_file`
    it goes on from there and keeps its state there after each epoch; `log_epoch` is given the
    epochs of before as well.
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
    single = (training_cases - 1) % train.batch_size == 0
    if single and not trains_on_one(model, height, width):
        raise UserError(
            f"params.yaml: train.batch_size {train.batch_size} leaves a batch of one case, in "
            f"which a BatchNorm of this network would have a single value at {height}x{width} "
            "pixels: choose another"
        )
    training = Training.start(model, train, len(batches))
    if resume_file is not None:
        resume_file.load(training)
    for row in training.history:
        log_epoch(int(row["epoch"]), row)
    done = len(training.history)
    with tqdm(total=train.epochs, desc="train", unit="epoch", initial=done) as bar:
        while not is_done(training.history, train):
            epoch = len(training.history) + 1
            means = LossMeans(train.loss, study.focal)
            start = time.perf_counter()
            torch.manual_seed(stream(seed, "dropout") + epoch)  # resumed or not
            rates = train_epoch(training, batches, epoch, train, means, dtype)
            images_per_second = training_cases / (time.perf_counter() - start)
            validation = LossMeans(train.loss, study.focal)
            row = {
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
            if train.select == "best_validation_dice" and best_epoch(training.history) == epoch:
                training.best_weights = {
                    name: tensor.to("cpu", copy=True) for name, tensor in model.state_dict().items()
                }
            if resume_file is not None:
                resume_file.save(training)
            log_epoch(epoch, row)
            bar.update()
            bar.set_postfix(
                loss=f"{row['train_loss']:.3f}",
                dice=f"{row['validation_dice']:.3f}",
                images_s=f"{images_per_second:.1f}",
            )
    if training.best_weights:
        model.load_state_dict(training.best_weights)
    return pd.DataFrame(training.history).astype({"epoch": int})


def trains_on_one(model: nn.Module, height: int, width: int) -> bool:
    """Whether a batch of one image gives each BatchNorm more than one value a channel: not where
    the features, or a pooled branch of them (DeepLabV3+'s), are a single pixel."""
    twin = deepcopy(model).to("meta").train()
    try:
        with torch.no_grad():
            twin(torch.empty(1, 3, height, width, device="meta"))
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        return False
    return True


def best_epoch(history: Sequence[Row]) -> int:
    """The epoch, from 1, of the highest validation Dice; of equals the earliest."""
    return 1 + int(np.argmax([row["validation_dice"] for row in history]))


def is_done(history: Sequence[Row], train: Train) -> bool:
    """Whether a training with that history has its last epoch behind it."""
    if not history or train.early_stopping is None:
        return len(history) >= train.epochs
    waited = len(history) - best_epoch(history)
    return len(history) >= train.epochs or waited >= train.early_stopping


def selected_epoch(history: pd.DataFrame, train: Train) -> int:
    """The epoch, from 1, whose weights a training with that history kept."""
    if train.select == "last":
        return len(history)
    return 1 + int(history["validation_dice"].argmax())


def describe_machine(
    device: torch.device, dtype: torch.dtype, packages: Sequence[str] = ()
) -> dict[str, Any]:
    """What the run computed with, for run.json; `packages`: those that its network needs."""
    names = ("torchvision", "numpy", "albumentations", *packages, "dvc", "mlflow")
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else processor(),
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        if on_gpu
        else None,
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
    """The commit of the sources and whether tracked files differ from it; None outside git."""
    status = _output("git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no")
    return {
        "commit": _output("git", "-C", str(folder), "rev-parse", "HEAD"),
        "dirty": None if status is None else status != "",
    }


def _output(*command: str) -> str | None:
    """What a command prints; None where there is none such, or it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def forward_gflops(config: AnyConfig, height: int, width: int) -> float:
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
        build_model(config).to("meta").eval()(torch.empty(1, 3, height, width))
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
        "sources": source_hashes(),
        "data_fingerprint": PreparedCases.open(study.prepared_dir).fingerprint,
        "params": {
            **study.model_dump(mode="json", include={"data", "prepare", "train", "focal"}),
            "model": asdict(config),
        },
        "encoder_weights_sha256": weights_file_sha256(config, study.folder),
        **describe_machine(
            device,
            choose_dtype(device, study.train.precision),
            FAMILIES[config.family].packages,
        ),
    }


def check_unchanged(study: Study, run: Run, record: dict[str, Any], device: torch.device) -> None:
    """Raise UserError if what decides the run's result is no longer as it was at its start.

    DVC takes the hashes of a stage's dependencies after its command (treeverse/dvc#11058): it would
    record this result as that of the files as they are now.
    """
    try:
        now = describe_training(load_study(study.folder), run, device)
    except (KeyError, OSError) as error:
        raise UserError(
            f"{error} is gone since the training of {study.label(run)} was started: put it back "
            "and run again, to write what was trained"
        ) from None
    changed = differences(identity(record), identity(now))
    if changed:
        raise UserError(
            f"{changed} changed while {study.label(run)} was trained: run again to train it anew, "
            "or put back what was there and run again to write what was trained"
        )


@contextmanager
def machine_faults_told(study: Study) -> Iterator[None]:
    """Raise UserError, in one sentence, for memory that ran out and a loader's worker that died."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        told = str(error)
        if re.search(_SHARED_MEMORY, told):
            raise UserError(
                "/dev/shm is too small for the loader's workers: make it larger (Docker: "
                "--shm-size), or set fewer loader_workers, 0 for none"
            ) from None
        if "deterministic implementation" in told:
            raise UserError(
                f"{told.splitlines()[0]} set train.deterministic: false to train without the "
                "promise that a run repeats to the bit"
            ) from None
        died = re.match(r"DataLoader worker \(pid.*?\) [^.]*", told)
        if died:
            raise UserError(
                f"{died[0]}: run again to go on after the last finished epoch; if it happens "
                "again, memory or /dev/shm may be too small: set loader_workers: 0"
            ) from None
        if isinstance(error, MemoryError) or re.search(_OUT_OF_MEMORY, told):
            size = f"{study.prepare.height}x{study.prepare.width}"
            raise UserError(
                f"memory ran out with train.batch_size {study.train.batch_size} at {size} pixels: "
                "set a smaller train.batch_size, or free memory and run again"
            ) from None
        raise
    except UserError as error:
        # What a worker raises comes with the worker's traceback before it.
        told = str(error).rpartition("pipeline.study.errors.UserError: ")[2]
        raise UserError(told.strip()) from None


# CUDA's, oneDNN's and the CPU allocator's words for it.
_OUT_OF_MEMORY = (
    r"out of memory|can't allocate memory|could not allocate|CU(DNN|BLAS)_STATUS_ALLOC_FAILED|"
    r"Cannot allocate memory"
)
_SHARED_MEMORY = r"allocate shared memory|</torch_"


def main() -> None:
    study = load_study()
    run = parse_run(study)
    study.check_inputs()
    lock = study.resume_file(*run).with_suffix(".lock")
    with alone(lock, study.label(run)), machine_faults_told(study):
        train_run(study, run)


def train_run(study: Study, run: Run) -> None:
    """Train one run, or go on with it where it was interrupted, and write its folder."""
    cases = PreparedCases.open(study.prepared_dir, run.fold)
    run_dir = study.run_dir(*run)
    config = study.models[run.variant]
    device = choose_device()
    make_deterministic(study.train.deterministic)
    decisive = describe_training(study, run, device)
    resume_file = ResumeFile(study.resume_file(*run), identity(decisive), device)

    torch.manual_seed(stream(run.seed, "initialisation"))
    model = build_model(config)
    load_encoder(model, config, study.folder)
    model.to(device).to(memory_format=torch.channels_last)
    record = {
        "study": study.name,
        **resume_file.parts(),
        **describe_commit(Path(study.code)),
        **decisive,
        "fingerprint": fingerprint(decisive),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    if study.train.augmentation:
        compose(study.train.augmentation)  # bad arguments are told before a record is replaced
    if study.tracking.live:
        from pipeline.tracking.store import live_run

        with live_run(study, run, record, cases) as live:
            history = fit(model, cases, study, run.seed, live.log_epoch, resume_file)
        record["mlflow_run_id"] = live.id
    else:
        history = fit(model, cases, study, run.seed, resume_file=resume_file)
    check_unchanged(study, run, record, device)

    weights = run_dir / "weights.safetensors"
    save_weights(model, weights)
    with replacing(run_dir / "history.csv") as temporary:
        history.to_csv(temporary, index=False)
    selected = selected_epoch(history, study.train)
    record |= {
        "epochs_trained": len(history),
        "selected_epoch": selected,
        "weights_sha256": sha256(weights),
        **speeds(history, cases),
        "gflops": forward_gflops(config, *cases.masks.shape[1:]),
        **resume_file.parts(),
    }
    write_json(run_dir / "run.json", record)
    resume_file.delete()
    dice = history["validation_dice"].iloc[selected - 1]
    resumed = ", ".join(map(str, record["resumed_epochs"]))
    print(
        f"train: {study.label(run)}: validation Dice {dice:.4f} after epoch {selected} of "
        f"{len(history)}, {record['images_per_second']:.1f} images/s"
        + (f", resumed after epoch {resumed}" if resumed else "")
    )


if __name__ == "__main__":
    run_command(main)
