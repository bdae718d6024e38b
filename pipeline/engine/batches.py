"""Prepared cases as batches: order, augmentation, loading."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pipeline.engine.compute import stream
from pipeline.engine.prepared import PreparedCases
from pipeline.study.cores import usable_cores
from pipeline.study.errors import UserError
from pipeline.study.values import Split

# Images (N, H, W, 3) uint8 RGB, masks (N, H, W) uint8 in {0, 1}; of volumes (N, D, H, W, 1) and
# (N, D, H, W).
Batch = tuple[Tensor, Tensor]
Key = tuple[int, int]  # epoch, place in the prepared arrays
CPU = torch.device("cpu")
TRIALS = 3  # of each transform before work starts: what it draws may differ
TARGETS = {2: ("image", "mask"), 3: ("volume", "mask3d")}  # albumentations', by a mask's axes


class AugmentedCases(Dataset[Batch]):
    """The prepared cases, augmented; a case of an epoch is a function of (seed, epoch, case) alone.

    cases[epoch, index] -> image (H, W, 3) uint8, mask (H, W) uint8; of volumes (D, H, W, 1) and
    (D, H, W). The key carries the epoch, so a loader's workers need no state and their number
    changes nothing.

    Each transform is tried on a case first. Raises UserError for one that does not take its
    arguments, needs more than an image and its mask, or changes their shape, type or range.
    """

    def __init__(
        self, cases: PreparedCases, augmentation: list[dict[str, dict[str, Any]]], seed: int
    ) -> None:
        self.cases = cases
        self.seed = stream(seed, "augmentation")
        self.augment = compose(augmentation) if augmentation else None
        for number, transform in enumerate(augmentation):
            self._try(f"train.augmentation.{number}.{next(iter(transform))}", transform)

    def _try(self, key: str, transform: dict[str, dict[str, Any]]) -> None:
        name, arguments = next(iter(transform.items()))
        alone = compose([transform])
        alone.transforms[0].p = 1.0
        index = int(self.cases.indices("training")[0])
        target = TARGETS[self.cases.masks[index].ndim][0]
        if target not in alone.transforms[0].available_keys:
            raise UserError(
                f"params.yaml: {key} must be a transform of {target}s, got {name}; take it out"
            )
        for epoch in range(TRIALS):
            try:
                self._augmented(alone, key, (epoch, index))
            except UserError:
                raise
            except Exception as error:  # whatever a transform raises of an input it cannot take
                # Some that albumentations says are for volumes fail on one.
                raise UserError(
                    f"params.yaml: {key} must work on one {target} and its mask alone, got {name} "
                    f"with {arguments}: {' '.join(str(error).split())}; take it out"
                ) from None

    def __getitem__(self, key: Key) -> Batch:
        image, mask = self.cases.images[key[1]], self.cases.masks[key[1]]
        if self.augment is not None:
            image, mask = self._augmented(self.augment, "train.augmentation", key)
        # A copy: the arrays are memory-mapped and flips are views of them.
        return torch.from_numpy(np.array(image)), torch.from_numpy(np.array(mask))

    def _augmented(
        self, augment: Any, named: str, key: Key
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        image, mask = self.cases.images[key[1]], self.cases.masks[key[1]]
        seed_transforms(augment, self.seed, key)
        augmented = apply(augment, np.asarray(image), np.asarray(mask))
        for name, before, after in zip(
            ("an image", "a mask"), (image, mask), augmented, strict=True
        ):
            if (after.shape, after.dtype) != (before.shape, before.dtype):
                raise UserError(
                    f"params.yaml: {named} must keep {name}'s shape and type, "
                    f"{before.shape} {before.dtype}, got {after.shape} {after.dtype}"
                )
        if (highest := augmented[1].max()) > 1:
            raise UserError(
                f"params.yaml: {named} must leave a mask of 0 and 1, got {highest} in one: what it "
                "fills a mask with (fill_mask) must be 0 or 1"
            )
        return augmented


def apply(
    augment: Any, image: NDArray[np.uint8], mask: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """What `compose` made, of an image and its mask, or of a volume and its."""
    names = TARGETS[mask.ndim]
    found = augment(**dict(zip(names, (image, mask), strict=True)))
    return found[names[0]], found[names[1]]


def compose(augmentation: list[dict[str, dict[str, Any]]]) -> Any:
    """The transforms of params.yaml as albumentations' Compose: the one place that knows it.

    Version 2.0.8 is its last free release; another library would take its place here. Raises
    UserError for arguments that a transform does not take.
    """
    from albumentations import Compose

    transforms = []
    for number, transform in enumerate(augmentation):
        for name, arguments in transform.items():
            try:
                with warnings.catch_warnings():
                    # It warns of an argument it does not know, and goes on without it.
                    warnings.filterwarnings("error", r"Argument\(s\) .* are not valid")
                    transforms.append(transform_class(name)(**arguments))
            except (TypeError, ValueError, UserWarning) as error:
                raise UserError(
                    f"params.yaml: train.augmentation.{number}.{name} must hold arguments of "
                    f"albumentations' {name}, got {arguments}: {' '.join(str(error).split())}"
                ) from None
    return Compose(transforms)


def transform_class(name: str) -> Any:
    """albumentations' transform of that name, or DepthFlip."""
    import albumentations

    from pipeline.engine.depth_flip import DepthFlip

    return DepthFlip if name == DepthFlip.__name__ else getattr(albumentations, name)


def seed_transforms(augment: Any, seed: int, key: Key) -> None:
    """Let the transforms draw what they draw for that epoch and case.

    One generator for all: set_random_seed() would give each its own, equally seeded, and two flips
    would always come together.
    """
    numbers = np.random.default_rng([seed, *key])
    augment.set_random_state(numbers, random.Random(int(numbers.integers(2**63))))


class EpochOrder(Sampler[list[Key]]):
    """The batches of one epoch: all cases in an order that depends on (seed, epoch) alone."""

    def __init__(self, indices: NDArray[np.int64], batch_size: int, seed: int) -> None:
        self.indices = indices
        self.batch_size = batch_size
        self.seed = stream(seed, "order")
        self.epoch = 0

    def __iter__(self) -> Iterator[list[Key]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.indices)
        for start in range(0, len(order), self.batch_size):
            yield [(self.epoch, int(index)) for index in order[start : start + self.batch_size]]

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)


FLIPS = frozenset({"HorizontalFlip", "VerticalFlip", "DepthFlip"})
SHARE = 0.125  # of a GPU's free memory that the training cases may take: runs may share it


class ResidentCases:
    """The training cases as they are, on a GPU, and turned over there: the batches that
    AugmentedCases and a loader make, bit for bit, without a copy from one memory to the other.

    For flips alone: which of them a case gets is read from what the transforms do to a picture of
    four pixels, or a volume of eight, so that they draw the numbers that they always draw.
    """

    def __init__(
        self,
        cases: PreparedCases,
        augmentation: list[dict[str, dict[str, Any]]],
        seed: int,
        device: torch.device,
    ) -> None:
        indices = cases.indices("training")
        self.rows = {int(index): row for row, index in enumerate(indices)}
        self.images = torch.from_numpy(cases.images[indices]).to(device)
        self.masks = torch.from_numpy(cases.masks[indices]).to(device)
        self.seed = stream(seed, "augmentation")
        self.augment = compose(augmentation) if augmentation else None

    @staticmethod
    def fits(
        cases: PreparedCases, augmentation: list[dict[str, dict[str, Any]]], device: torch.device
    ) -> bool:
        """Whether the device is a GPU with room for them, and the transforms are all flips."""
        if device.type != "cuda" or not all(set(each) <= FLIPS for each in augmentation):
            return False
        indices = cases.indices("training")
        size = len(indices) * (cases.images[:1].nbytes + cases.masks[:1].nbytes)
        return size <= SHARE * torch.cuda.mem_get_info(device)[0]

    def batch(self, keys: list[Key]) -> Batch:
        """On the device: images (N, H, W, 3) and masks (N, H, W), or volumes and theirs."""
        rows = self._sent(np.array([self.rows[index] for _, index in keys]))
        images, masks = self.images[rows], self.masks[rows]
        if self.augment is None:
            return images, masks
        turned = np.array([self._turned(self.augment, key) for key in keys])  # (N, axes)
        axes = (1,) * (masks.ndim - 1)
        for dimension, chosen in enumerate(self._sent(turned).unbind(1), start=1):
            images = torch.where(chosen.view(-1, *axes, 1), images.flip(dimension), images)
            masks = torch.where(chosen.view(-1, *axes), masks.flip(dimension), masks)
        return images, masks

    def _sent(self, values: NDArray[Any]) -> Tensor:
        """On the device, without waiting for it."""
        host = torch.from_numpy(values)
        if self.images.is_cuda:
            host = host.pin_memory()
        return host.to(self.images.device, non_blocking=True)

    def _turned(self, augment: Any, key: Key) -> list[bool]:
        """Of each axis, whether the case is turned over along it."""
        axes = self.masks.ndim - 1
        corners = np.arange(2**axes, dtype=np.uint8).reshape((2,) * axes)
        seed_transforms(augment, self.seed, key)
        image = np.repeat(corners[..., None], self.images.shape[-1], axis=-1)
        first = apply(augment, image, corners)[1].flat[0]
        return [bool(place) for place in np.unravel_index(first, corners.shape)]


class TrainingBatches:
    """The training split as augmented batches, an epoch at a time: `for images, masks in
    batches.epoch(3)`.

    Where ResidentCases.fits they are made on the device. Else `workers` processes load ahead of the
    training; with 0 the training loads for itself. `auto` is 0 on a CPU, where workers would take
    the cores from the network.
    """

    def __init__(
        self,
        cases: PreparedCases,
        augmentation: list[dict[str, dict[str, Any]]],
        *,
        batch_size: int,
        seed: int,
        workers: int | Literal["auto"] = 0,
        device: torch.device = CPU,
    ) -> None:
        automatic = min(8, usable_cores()) if torch.cuda.is_available() else 0
        processes = automatic if workers == "auto" else workers
        self.order = EpochOrder(cases.indices("training"), batch_size, seed)
        augmented = AugmentedCases(cases, augmentation, seed)
        self.resident: ResidentCases | None = None
        if ResidentCases.fits(cases, augmentation, device):
            self.resident = ResidentCases(cases, augmentation, seed, device)
            return
        self.loader = DataLoader(
            augmented,
            batch_sampler=self.order,
            num_workers=processes,
            persistent_workers=processes > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.order)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of that epoch, counted from 1."""
        self.order.epoch = epoch
        if self.resident is None:
            yield from self.loader
        else:
            yield from map(self.resident.batch, self.order)


def split_batches(cases: PreparedCases, split: Split, batch_size: int) -> Iterator[Batch]:
    """The split's cases as they are, in the order of the arrays."""
    indices = cases.indices(split)
    for start in range(0, len(indices), batch_size):
        some = indices[start : start + batch_size]
        yield torch.from_numpy(cases.images[some]), torch.from_numpy(cases.masks[some])
