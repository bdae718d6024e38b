"""The training loop: epochs, validation, the epoch whose weights are kept (paper section 9)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from models.config import CHANNELS
from pipeline.engine import losses, overlap
from pipeline.engine.batches import TrainingBatches, split_batches
from pipeline.engine.compute import (
    NotFiniteError,
    autocast,
    choose_dtype,
    stream,
    to_input,
    to_target,
)
from pipeline.engine.prepared import PreparedCases
from pipeline.study.blocks import Focal, Train
from pipeline.study.errors import UserError
from pipeline.study.params import Study
from pipeline.study.values import extent
from pipeline.training.optimisation import start_training_mode
from pipeline.training.resume import ResumeFile
from pipeline.training.state import Row, Training
from pipeline.training.step import Losses, Step


class LossMeans:
    """The loss trained by and the three of section 9.5, averaged over the cases seen."""

    def __init__(self) -> None:
        self.seen: dict[str, list[Tensor]] = {}

    def add(self, values: Losses) -> None:
        """The losses of a batch."""
        for name, value in values.items():
            self.seen.setdefault(name, []).append(value)

    def means(self, split: str) -> Row:
        """Waits for the device."""
        return {
            f"{split}_{name}": torch.cat(values).mean().item() for name, values in self.seen.items()
        }


class Watch:
    """Looks at the losses of the steps done, which stay on the device: once a second, since each
    look waits for it."""

    INTERVAL = 1.0  # seconds

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.steps: list[tuple[Tensor, Row]] = []  # not looked at: losses, learning rates
        self.looked_at = 0
        self.next = time.monotonic() + self.INTERVAL

    def is_due(self) -> bool:
        return time.monotonic() >= self.next

    def add(self, losses: Tensor, rates: Row) -> None:
        self.steps.append((losses, rates))

    def look(self) -> float:
        """The last step's mean loss. Raises UserError that names the first step of a loss that is
        not finite; the steps after it were for nothing."""
        means: list[float] = torch.stack([values.mean() for values, _ in self.steps]).tolist()
        for number, (mean, (_, rates)) in enumerate(zip(means, self.steps, strict=True), start=1):
            if not math.isfinite(mean):
                step = self.looked_at + number
                raise NotFiniteError(
                    f"the training loss is {mean} in epoch {self.epoch}, step {step}, at learning "
                    f"rate {rates['learning_rate']:g}"
                )
        self.looked_at += len(self.steps)
        self.steps.clear()
        self.next = time.monotonic() + self.INTERVAL
        return means[-1]


def train_epoch(
    step: Step,
    batches: TrainingBatches,
    epoch: int,
    means: LossMeans,
    beat: Callable[..., None],
) -> Row:
    """One pass over the training cases; returns the learning rates of its last step.

    About once a second, and at the end, it waits for the device: `beat` is then told the images
    trained and how many a second, and a loss that is not finite raises UserError.
    """
    training = step.training
    start_training_mode(training.model, freeze_encoder=step.train.freeze_encoder)
    watch = Watch(epoch)
    rates: Row = {}
    trained, start = 0, time.perf_counter()
    # As a block: a bar that an error leaves open would stand before its message.
    with tqdm(
        batches.epoch(epoch), f"epoch {epoch}", len(batches), unit="batch", leave=False
    ) as bar:
        for number, batch in enumerate(bar, start=1):
            rates = training.learning_rates()
            values = step(batch)
            means.add(values)
            watch.add(values["loss"], rates)
            trained += len(batch[0])
            if number == len(batches) or watch.is_due():
                bar.set_postfix(loss=f"{watch.look():.3f}")
                beat(images=trained, images_per_second=trained / (time.perf_counter() - start))
    return rates


@contextmanager
def advising(key: str) -> Iterator[None]:
    """Say of a loss that is not finite what to do about it; key: of the settings in params.yaml."""
    try:
        yield
    except NotFiniteError as error:
        raise NotFiniteError(
            f"{error}: lower {key}.optimizer.learning_rate, warm it up "
            f"({key}.schedule.warmup_epochs) or clip the gradient ({key}.gradient_clip)"
        ) from None


@torch.no_grad()
def validate(
    model: nn.Module, cases: PreparedCases, train: Train, focal: Focal, dtype: torch.dtype
) -> Row:
    """The validation split's losses, and its mean per-case Dice and IoU at p > 0.5."""
    device = next(model.parameters()).device
    model.eval()
    counts, means = [], LossMeans()
    for images, masks in split_batches(cases, "validation", train.batch_size):
        targets = to_target(masks, device)
        with autocast(device, dtype):
            logits = model(to_input(images, device))
        means.add(losses.every_loss(logits, targets, train.loss, focal))
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
    beat: Callable[..., None] = lambda **facts: None,
) -> pd.DataFrame:
    """Train `model` in place by the study's protocol; return history.csv, a row an epoch.

    The weights it ends with are those of the epoch that `selected_epoch` names. With `resume_file`
    it goes on from there and keeps its state there after each epoch; `log_epoch` is given the
    epochs of before as well. `beat` is told how far it is, see study/heartbeat.py.
    """
    train = study.train
    device = next(model.parameters()).device
    dtype = choose_dtype(device, train.precision, len(study.prepare.size))
    batches = TrainingBatches(
        cases,
        train.augmentation,
        batch_size=train.batch_size,
        seed=seed,
        workers=study.loader_workers,
        device=device,
    )
    training_cases = len(cases.indices("training"))
    single = (training_cases - 1) % train.batch_size == 0
    size = cases.masks.shape[1:]
    if single and not trains_on_one(model, *size):
        raise UserError(
            f"params.yaml: {study.train_key}.batch_size {train.batch_size} leaves a batch of one "
            f"case, in which a BatchNorm of this network would have a single value at "
            f"{extent(size)}: choose another"
        )
    training = Training.start(model, train, len(batches))
    if resume_file is not None:
        resume_file.load(training)
    for row in training.history:
        log_epoch(int(row["epoch"]), row)
    step = Step(training, train, study.focal, dtype)
    done = len(training.history)
    with (
        advising(study.train_key),
        tqdm(total=train.epochs, desc="train", unit="epoch", initial=done) as bar,
    ):
        while not is_done(training.history, train):
            epoch = len(training.history) + 1
            means = LossMeans()
            seconds = [row["seconds"] for row in training.history]
            beat(
                epoch=epoch,
                epochs=train.epochs,
                images=0,
                of=training_cases,
                **({"seconds_per_epoch": sum(seconds) / len(seconds)} if seconds else {}),
            )
            start = time.perf_counter()
            torch.manual_seed(stream(seed, "dropout") + epoch)  # resumed or not
            rates = train_epoch(step, batches, epoch, means, beat)
            images_per_second = training_cases / (time.perf_counter() - start)
            row = {
                "epoch": epoch,
                **rates,
                **means.means("train"),
                **validate(model, cases, train, study.focal, dtype),
                "seconds": time.perf_counter() - start,
                "images_per_second": images_per_second,
            }
            if not math.isfinite(row["validation_loss"]):
                raise NotFiniteError(
                    f"the validation loss is {row['validation_loss']} after epoch {epoch}, at "
                    f"learning rate {rates['learning_rate']:g}"
                )
            training.history.append(row)
            if train.select == "best_validation_dice" and best_epoch(training.history) == epoch:
                training.best_weights = {
                    name: tensor.to("cpu", copy=True) for name, tensor in model.state_dict().items()
                }
            if resume_file is not None:
                resume_file.keep(training)
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


def trains_on_one(model: nn.Module, *size: int) -> bool:
    """Whether a batch of one image, or volume, of that size gives each BatchNorm more than one
    value a channel: not where the features, or a pooled branch of them (DeepLabV3+'s), are a single
    pixel."""
    channels, device = CHANNELS[len(size)], next(model.parameters()).device
    image = torch.zeros(1, channels, *size, device=device)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        with torch.no_grad():
            model.train()(image)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        return False
    finally:
        model.load_state_dict(before)  # its BatchNorms have seen the image
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
