"""What the suite's speed is held against: the loop that a student writes, and how both are timed.

The plain loop: float32, NCHW, attention written out with its matrix in memory, torch's default
Adam, photographs decoded by Pillow every epoch, `.item()` every step. Its networks compute what
ours do, from the same weights.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from models import NetworkConfig, build_model
from models.attenresunet import AttenResUNetConfig
from models.attenresunet.attention import EncoderAttention
from pipeline.data.synthetic import draw_case
from pipeline.engine.batches import TrainingBatches
from pipeline.engine.compute import IMAGENET_MEAN, IMAGENET_STD, autocast, choose_dtype, to_input
from pipeline.engine.prepared import PreparedCases
from pipeline.study.blocks import Adam, Focal, Schedule, Train
from pipeline.study.heartbeat import Heartbeat
from pipeline.training import loop
from pipeline.training.state import Training

Augmentation = list[dict[str, dict[str, Any]]]
# The paper's, as in params.yaml, which takes YAML to read: a GPU machine may lack it.
PROTOCOL = Train.model_construct(
    epochs=10,
    batch_size=16,
    loss="bce",
    optimizer=Adam(method="adam", learning_rate=1e-3, encoder_learning_rate=None, weight_decay=0.0),
    schedule=Schedule(method="constant", warmup_epochs=0),
    gradient_clip=None,
    early_stopping=None,
    select="last",
    freeze_encoder=False,
    precision="auto",
    augmentation=[],
    deterministic=True,
)

LIMIT = AttenResUNetConfig(encoder_attention=(1, 2, 3), decoder_gates=True)
ORIGINAL = (3008, 2000)  # pixels, the median of a sample of ISIC 2018's originals


class WrittenOutAttention(EncoderAttention):
    """The paper's formula as it stands: the (H*W, H*W) matrix in memory."""

    def forward(self, x: Tensor) -> Tensor:
        q = self.query(x).flatten(2).transpose(1, 2)  # (N, H*W, C)
        k = self.key(x).flatten(2)  # (N, C, H*W)
        v = self.value(x).flatten(2).transpose(1, 2)
        attended = torch.bmm(torch.softmax(torch.bmm(q, k), dim=-1), v)
        attended = attended.transpose(1, 2).reshape(x.shape)
        return self.gate(attended, x)


def plain_network(config: NetworkConfig, like: nn.Module) -> nn.Module:
    """The network with written-out attention, NCHW, with the weights of `like`."""
    model = build_model(config)
    for name, module in model.encoder_attention.items():
        assert (module.scale, module.residual, module.gate_signal) == (1.0, False, "input")
        model.encoder_attention[name] = WrittenOutAttention(module.query.in_channels)
    model.load_state_dict(like.state_dict())
    device = next(like.parameters()).device
    return model.to(device).to(memory_format=torch.contiguous_format)


def write_photographs(folder: Path, cases: int) -> list[tuple[Path, Path]]:
    """Drawn cases as an archive has them: large JPEGs and PNG masks."""
    paths = []
    for index in range(cases):
        image, mask = draw_case(0, index, height=ORIGINAL[1] // 4, width=ORIGINAL[0] // 4)
        paths.append((folder / f"{index}.jpg", folder / f"{index}.png"))
        Image.fromarray(image).resize(ORIGINAL, Image.Resampling.BICUBIC).save(
            paths[-1][0], quality=90
        )
        Image.fromarray(255 * mask).resize(ORIGINAL, Image.Resampling.NEAREST).save(paths[-1][1])
    return paths


class PlainCases(torch.utils.data.Dataset):
    """Files decoded when they are asked for: image (3, side, side) and mask (1, side, side)."""

    def __init__(self, paths: Sequence[tuple[Path, Path]], side: int) -> None:
        self.paths, self.side = paths, side

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = (Image.open(path) for path in self.paths[index])
        size = (self.side, self.side)
        pixels = np.asarray(image.convert("RGB").resize(size), np.float32) / 255
        pixels = (pixels - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)
        lesion = np.asarray(mask.convert("L").resize(size, Image.Resampling.NEAREST)) > 127
        return torch.from_numpy(pixels).permute(2, 0, 1), torch.from_numpy(lesion)[None].float()


def plain_steps(
    model: nn.Module, paths: Sequence[tuple[Path, Path]], side: int, batch: int, workers: int = 0
) -> Iterator[float]:
    """Training steps, for ever, epoch after epoch; each yields its loss."""
    device = next(model.parameters()).device
    loader = torch.utils.data.DataLoader(
        PlainCases(paths, side), batch_size=batch, shuffle=True, num_workers=workers, drop_last=True
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    while True:
        for images, masks in loader:
            loss = F.binary_cross_entropy_with_logits(model(images.to(device)), masks.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield loss.item()


def our_steps(
    model: nn.Module, cases: PreparedCases, batch: int, augmentation: Augmentation
) -> Iterator[None]:
    """The suite's own training, an epoch of `cases` at a time, with all its bookkeeping."""
    device = next(model.parameters()).device
    dtype = choose_dtype(device, PROTOCOL.precision)
    protocol = PROTOCOL.model_copy(update={"batch_size": batch})
    batches = TrainingBatches(
        cases, augmentation, batch_size=batch, seed=0, workers="auto", device=device
    )
    training = Training.start(model, protocol, len(batches))
    step = loop.Step(training, protocol, Focal(alpha=0.25, gamma=2.0), dtype)
    with tempfile.TemporaryDirectory() as folder:
        beat = Heartbeat(Path(folder) / "heartbeat.json").beat
        for epoch in count(1):
            means = loop.LossMeans()
            loop.train_epoch(step, batches, epoch, means, beat)
            means.means("train")
            yield


def drawn_cases(cases: int, side: int, split: str = "training") -> PreparedCases:
    """Drawn cases of side x side pixels as the stage preprocess leaves them, in memory."""
    drawn = [draw_case(0, index, height=side, width=side) for index in range(min(cases, 16))]
    images, masks = (
        np.stack([drawn[n % len(drawn)][part] for n in range(cases)]) for part in (0, 1)
    )
    table = pd.DataFrame({"id": [str(n) for n in range(cases)], "split": split})
    return PreparedCases(images, masks, table, fingerprint="0")


def network_steps(
    model: nn.Module, batch: tuple[Tensor, Tensor], dtype: torch.dtype
) -> Iterator[float]:
    """Training steps on one batch of uint8 images (N, H, W, 3) and masks (N, H, W), each yielding
    its loss: what a network costs in a given precision, to compare networks with."""
    device = next(model.parameters()).device
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    model.train()
    while True:
        inputs = to_input(batch[0], device)
        targets = batch[1].to(device).unsqueeze(1).float()
        with autocast(device, dtype):
            logits = model(inputs)
        loss = F.binary_cross_entropy_with_logits(logits.float(), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


def largest_difference(ours: nn.Module, plain: nn.Module, side: int) -> float:
    """How far two networks' float32 logits differ at most, of two images, in evaluation mode."""
    device = next(ours.parameters()).device
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad():
        difference = ours.eval()(images) - plain.eval()(images)
    ours.train()
    plain.train()
    return difference.abs().max().item()


def interleaved(*works: Callable[[], object], repeats: int) -> tuple[list[float], list[float]]:
    """The least seconds, and the least processor seconds, of each work.

    One try of each, once to warm up and then `repeats` times in turn: what other programs do to
    the machine hits all alike. Processor seconds leave out the time in which others had the cores.
    """
    wall: list[list[float]] = [[] for _ in works]
    processor: list[list[float]] = [[] for _ in works]
    for repeat in range(1 + repeats):
        for number, work in enumerate(works):
            start, used = time.perf_counter(), time.process_time()
            work()
            if repeat:
                wall[number].append(time.perf_counter() - start)
                processor[number].append(time.process_time() - used)
    return [min(times) for times in wall], [min(times) for times in processor]
