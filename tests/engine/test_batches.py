"""engine/batches.py: every case once an epoch, flipped by chance, the same for the same seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.engine import batches
from pipeline.engine.batches import (
    AugmentedCases,
    ResidentCases,
    TrainingBatches,
    compose,
    split_batches,
)
from pipeline.engine.prepared import PreparedCases
from pipeline.study.errors import UserError

FLIPS: list[dict[str, dict[str, Any]]] = [
    {"HorizontalFlip": {"p": 0.5}},
    {"VerticalFlip": {"p": 0.5}},
]
TRAINING = [0, 2, 3, 5, 6, 8, 9, 11, 12, 13]  # where the training cases stand


VOLUMES: list[dict[str, dict[str, Any]]] = [*FLIPS, {"DepthFlip": {"p": 0.5}}]


@pytest.fixture(scope="module")
def volumes() -> PreparedCases:
    """Eight training cases of 2x3x4 voxels, each voxel of a case another number; the mask is the
    upper half of them."""
    images = np.tile(np.arange(24, dtype=np.uint8).reshape(1, 2, 3, 4, 1), (8, 1, 1, 1, 1))
    table = pd.DataFrame({"id": [f"case{n}" for n in range(8)], "split": "training"})
    return PreparedCases(images, (images[..., 0] > 11).astype(np.uint8), table, "fingerprint")


@pytest.fixture(scope="module")
def cases() -> PreparedCases:
    """14 cases of 6x8 pixels: random masks, images that are a function of their mask, case by
    case; no mask is symmetric, so its flip can be read from it."""
    masks = np.random.default_rng(0).integers(0, 2, (14, 6, 8), dtype=np.uint8)
    splits = np.full(14, "test", dtype=object)
    splits[TRAINING] = "training"
    splits[[4, 10]] = "validation"
    table = pd.DataFrame({"id": [f"case{n}" for n in range(14)], "split": splits})
    return PreparedCases(image_of(masks, np.arange(14)), masks, table, "fingerprint")


def image_of(masks: NDArray[np.uint8], numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Images (N, H, W, 3) of masks (N, H, W): the case's number in red, the mask in the rest."""
    red = np.broadcast_to(numbers[:, None, None], masks.shape)
    return np.stack([red, 200 * masks, 7 + masks], axis=-1).astype(np.uint8)


def numbers_of(images: Tensor) -> list[int]:
    """Which cases a batch (N, H, W, 3) holds, by the red of a corner; flips leave it alone."""
    return images[:, 0, 0, 0].tolist()


def batches_of(cases: PreparedCases, **changes: Any) -> TrainingBatches:
    settings: dict[str, Any] = {"augmentation": FLIPS, "batch_size": 4, "seed": 0} | changes
    return TrainingBatches(cases, settings.pop("augmentation"), **settings)


def epoch_of(batches: TrainingBatches, epoch: int) -> list[tuple[bytes, bytes]]:
    """The epoch's bytes, batch by batch."""
    return [
        (images.numpy().tobytes(), masks.numpy().tobytes())
        for images, masks in batches.epoch(epoch)
    ]


def order_of(batches: Iterable[tuple[Tensor, Tensor]]) -> list[int]:
    return [number for images, _ in batches for number in numbers_of(images)]


@pytest.mark.slow
def test_the_two_flips_come_independently_each_in_half_of_the_samples(cases):
    augmented = AugmentedCases(cases, FLIPS, seed=0)
    found: Counter[str] = Counter()
    for epoch in range(1, 201):
        for index in TRAINING:
            mask = cases.masks[index]
            looks = {
                "neither": mask,
                "horizontal": mask[:, ::-1],
                "vertical": mask[::-1],
                "both": mask[::-1, ::-1],
            }
            flipped = augmented[epoch, index][1].numpy()
            (name,) = [name for name, look in looks.items() if np.array_equal(flipped, look)]
            found[name] += 1
    assert set(found) == {"neither", "horizontal", "vertical", "both"}
    # 2000 samples: a quarter is 500 with a standard deviation of 19.4; 5 of them.
    assert all(abs(count - 500) < 97 for count in found.values()), found


def test_image_and_mask_of_a_case_get_the_same_flip(cases):
    augmented = AugmentedCases(cases, FLIPS, seed=0)
    moved = 0
    for epoch in range(1, 21):
        for index in TRAINING:
            image, mask = (tensor.numpy() for tensor in augmented[epoch, index])
            np.testing.assert_array_equal(image, image_of(mask[None], np.array([index]))[0])
            moved += not np.array_equal(mask, cases.masks[index])
    assert moved > 100  # of 200, three quarters are flipped


def test_images_and_masks_stay_unsigned_bytes_of_their_size(cases):
    for images, masks in batches_of(cases).epoch(1):
        assert (images.dtype, masks.dtype) == (torch.uint8, torch.uint8)
        assert images.shape[1:] == (6, 8, 3)
        assert masks.shape[1:] == (6, 8)
        assert set(masks.unique().tolist()) <= {0, 1}


@pytest.mark.parametrize("augmentation", [[], FLIPS])
def test_a_case_is_a_copy_of_the_prepared_one(cases, augmentation):
    prepared = PreparedCases(cases.images.copy(), cases.masks.copy(), cases.table, "")
    augmented = AugmentedCases(prepared, augmentation, seed=0)
    for index in TRAINING:
        image, mask = augmented[1, index]
        image.zero_()
        mask.zero_()
    np.testing.assert_array_equal(prepared.images, cases.images)
    np.testing.assert_array_equal(prepared.masks, cases.masks)


def test_without_augmentation_cases_come_as_they_are(cases):
    for images, masks in batches_of(cases, augmentation=[]).epoch(1):
        numbers = numbers_of(images)
        np.testing.assert_array_equal(images, cases.images[numbers])
        np.testing.assert_array_equal(masks, cases.masks[numbers])


def test_every_training_case_comes_exactly_once_an_epoch(cases):
    batches = batches_of(cases)
    for epoch in (1, 2, 3):
        assert sorted(order_of(batches.epoch(epoch))) == TRAINING


def test_the_smaller_last_batch_is_kept(cases):
    batches = batches_of(cases, batch_size=4)
    assert [len(images) for images, _ in batches.epoch(1)] == [4, 4, 2]
    assert len(batches) == 3


def test_a_batch_size_that_divides_the_cases_leaves_no_empty_batch(cases):
    batches = batches_of(cases, batch_size=5)
    assert [len(images) for images, _ in batches.epoch(1)] == [5, 5]
    assert len(batches) == 2


def test_two_epochs_have_different_orders_and_different_flips(cases):
    batches = batches_of(cases)
    assert order_of(batches.epoch(1)) != order_of(batches.epoch(2))
    augmented = AugmentedCases(cases, FLIPS, seed=0)
    first, second = (
        torch.stack([augmented[epoch, index][1] for index in TRAINING]) for epoch in (1, 2)
    )
    assert not torch.equal(first, second)


def test_two_seeds_have_different_orders_and_different_flips(cases):
    one, two = batches_of(cases, seed=0), batches_of(cases, seed=1)
    assert order_of(one.epoch(1)) != order_of(two.epoch(1))
    first, second = (
        torch.stack([batches.loader.dataset[1, index][1] for index in TRAINING])
        for batches in (one, two)
    )
    assert not torch.equal(first, second)


def test_an_epoch_is_the_same_whatever_epochs_came_before(cases):
    forward, backward = batches_of(cases), batches_of(cases)
    in_order = {epoch: epoch_of(forward, epoch) for epoch in (1, 2, 3)}
    out_of_order = {epoch: epoch_of(backward, epoch) for epoch in (3, 1, 2)}
    assert in_order == out_of_order


def test_an_epoch_left_half_way_does_not_change_the_next(cases):
    batches = batches_of(cases)
    next(batches.epoch(1))
    assert epoch_of(batches, 2) == epoch_of(batches_of(cases), 2)


def test_the_number_of_workers_changes_no_byte(cases):
    alone, helped = batches_of(cases), batches_of(cases, workers=2)
    assert helped.loader.num_workers == 2
    for epoch in (2, 1):
        assert epoch_of(alone, epoch) == epoch_of(helped, epoch)


def test_global_random_numbers_change_no_byte(cases):
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - what another library may use
        found.append(epoch_of(batches_of(cases), 1))
    assert found[0] == found[1]


def test_the_order_does_not_depend_on_the_augmentation(cases):
    rotations = [{"RandomRotate90": {"p": 1.0}}]
    square = PreparedCases(cases.images[:, :, :6], cases.masks[:, :, :6], cases.table, "")
    orders = [
        order_of(batches_of(square, augmentation=augmentation).epoch(1))
        for augmentation in ([], FLIPS, FLIPS[:1], rotations)
    ]
    assert orders == [orders[0]] * 4


def test_the_flips_of_a_case_do_not_depend_on_its_batch(cases):
    def by_number(batch_size: int) -> dict[int, bytes]:
        return {
            number: mask.numpy().tobytes()
            for images, masks in batches_of(cases, batch_size=batch_size).epoch(1)
            for number, mask in zip(numbers_of(images), masks, strict=True)
        }

    assert by_number(1) == by_number(4)


def test_order_and_augmentation_draw_from_streams_of_their_own(cases):
    batches = batches_of(cases)
    assert batches.order.seed != batches.loader.dataset.seed


def test_automatic_workers_are_none_without_a_gpu(cases, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert batches_of(cases, workers="auto").loader.num_workers == 0


@pytest.mark.parametrize(("cores", "workers"), [(4, 4), (64, 8), (1, 1)])
def test_automatic_workers_are_up_to_eight_beside_a_gpu(cases, monkeypatch, cores, workers):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(batches, "usable_cores", lambda: cores)
    loader = batches_of(cases, workers="auto").loader
    assert loader.num_workers == workers
    assert loader.persistent_workers
    assert loader.pin_memory
    assert not batches_of(cases).loader.persistent_workers


@pytest.mark.parametrize(
    "augmentation",
    [
        FLIPS,
        [],
        FLIPS[:1],
        [{"VerticalFlip": {"p": 0.9}}, {"HorizontalFlip": {"p": 0.2}}, {"VerticalFlip": {}}],
        [{"HorizontalFlip": {"p": 1.0}, "VerticalFlip": {"p": 1.0}}],
    ],
    ids=["both", "none", "one", "three", "always"],
)
def test_cases_that_lie_on_the_device_come_as_the_loader_brings_them(cases, augmentation):
    loaded = batches_of(cases, augmentation=augmentation)
    resident = batches_of(cases, augmentation=augmentation)
    resident.resident = ResidentCases(cases, augmentation, 0, torch.device("cpu"))
    for epoch in range(1, 30):
        assert epoch_of(resident, epoch) == epoch_of(loaded, epoch)


def test_volumes_are_flipped_along_each_axis_on_its_own_and_their_masks_with_them(volumes):
    loaded = batches_of(volumes, augmentation=VOLUMES)
    resident = batches_of(volumes, augmentation=VOLUMES)
    resident.resident = ResidentCases(volumes, VOLUMES, 0, torch.device("cpu"))
    whole, seen = torch.from_numpy(volumes.images[0]), Counter[tuple[int, ...]]()
    axes = [chosen for count in range(4) for chosen in combinations(range(3), count)]
    turned = {whole.flip(chosen)[0, 0, 0, 0].item(): chosen for chosen in axes}
    for epoch in range(1, 41):
        for images, masks in loaded.epoch(epoch):
            assert torch.equal(masks, (images[..., 0] > 11).byte())
            for image in images:
                chosen = turned[image[0, 0, 0, 0].item()]
                assert torch.equal(image, whole.flip(chosen))
                seen[chosen] += 1
        assert epoch_of(resident, epoch) == epoch_of(loaded, epoch)
    assert set(seen) == set(axes)
    assert all(20 <= count <= 62 for count in seen.values())  # 40 of 320 each, by chance alone


def test_cases_lie_on_a_gpu_where_they_fit_and_are_only_flipped(cases, monkeypatch):
    size = 10 * 6 * 8 * 4  # bytes of the training cases and their masks
    gpu, others = torch.device("cuda"), [{"Transpose": {"p": 0.5}}]
    for free, augmentation, device, fits in (
        (8 * size, FLIPS, gpu, True),
        (8 * size - 8, FLIPS, gpu, False),
        (8 * size, [*FLIPS, *others], gpu, False),
        (8 * size, [], gpu, True),
        (8 * size, FLIPS, torch.device("cpu"), False),
    ):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 2 * free))
        assert ResidentCases.fits(cases, augmentation, device) == fits


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("split", "expected"), [("test", [1, 7]), ("validation", [4, 10]), ("training", TRAINING)]
)
def test_a_split_is_read_untouched_in_the_arrays_order(cases, split, expected):
    batches = list(split_batches(cases, split, batch_size=4))
    assert order_of(batches) == expected
    np.testing.assert_array_equal(
        torch.cat([images for images, _ in batches]), cases.images[expected]
    )
    np.testing.assert_array_equal(torch.cat([masks for _, masks in batches]), cases.masks[expected])
    assert [len(images) for images, _ in batches] == ([4, 4, 2] if len(expected) == 10 else [2])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"chance": 0.5}, "'chance'"),
        ({"p": "often"}, "Input should be a valid number"),
        ({"p": 3}, "Input should be less than or equal to 1"),
    ],
)
@pytest.mark.parametrize("name", ["HorizontalFlip", "RandomRotate90", "Affine"])
def test_arguments_that_a_transform_does_not_take_are_told(name, arguments, reason):
    with pytest.raises(UserError) as error:
        compose([{"VerticalFlip": {"p": 0.5}}, {name: arguments}])
    message = str(error.value)
    assert message.startswith(
        f"params.yaml: train.augmentation.1.{name} must hold arguments of albumentations' "
        f"{name}, got {arguments}: "
    )
    assert reason in message.partition(f"got {arguments}: ")[2]
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("Transpose", {}, "must keep an image's shape and type, (6, 8, 3) uint8, got (8, 6, 3)"),
        ("RandomCrop", {"height": 4, "width": 4}, "must keep an image's shape and type"),
        ("Normalize", {}, "must keep an image's shape and type, (6, 8, 3) uint8, got (6, 8, 3) fl"),
        (
            "Rotate",
            {"limit": [45, 45], "border_mode": 0, "fill_mask": 255},
            "must leave a mask of 0 and 1, got 255 in",
        ),
        ("FDA", {}, "must work on one image and its mask alone, got FDA with"),
        ("HistogramMatching", {}, "must work on one image and its mask alone, got HistogramM"),
        ("Mosaic", {}, "must"),
        ("RandomCrop", {"height": 64, "width": 64}, "must work on one image and its mask alone"),
    ],
)
def test_a_transform_that_cannot_be_used_is_told_before_work_starts_however_rare(
    cases, name, arguments, told
):
    """What it makes of a mask would be trained by: a loss of -27."""
    with pytest.raises(UserError) as error:
        AugmentedCases(cases, [*FLIPS, {name: arguments | {"p": 0.001}}], seed=0)
    assert str(error.value).startswith(f"params.yaml: train.augmentation.2.{name} {told}")
    assert "\n" not in str(error.value)


def test_a_transform_for_volumes_is_refused_for_pictures_and_one_that_turns_them_for_volumes(
    cases, volumes
):
    for name in ("DepthFlip", "CoarseDropout3D"):
        with pytest.raises(UserError, match=f"{name} must be a transform of images, got {name}"):
            AugmentedCases(cases, [{name: {}}], seed=0)
    with pytest.raises(UserError, match=r"must keep an image's shape and type, \(2, 3, 4, 1\)"):
        AugmentedCases(volumes, [{"Transpose": {}}], seed=0)
    AugmentedCases(volumes, [{"Affine": {"rotate": [-10, 10]}}, {"RandomGamma": {}}], seed=0)


def test_a_mask_beyond_0_and_1_is_told_when_it_comes(cases, monkeypatch):
    monkeypatch.setattr(batches, "TRIALS", 0)
    hole = {"num_holes_range": [1, 1], "hole_height_range": [2, 2], "hole_width_range": [2, 2]}
    rare = [{"CoarseDropout": hole | {"fill_mask": 2, "p": 1.0}}]
    told = (
        r"train\.augmentation must leave a mask of 0 and 1, got 2 in one: what it fills a mask "
        r"with \(fill_mask\) must be 0 or 1$"
    )
    with pytest.raises(UserError, match=told):
        AugmentedCases(cases, rare, seed=0)[1, 0]


def test_a_transform_that_fills_masks_with_lesion_is_no_fault(cases):
    filled = [{"Rotate": {"limit": [45, 45], "border_mode": 0, "fill_mask": 1, "p": 1.0}}]
    assert AugmentedCases(cases, filled, seed=0)[1, 0][1].max() == 1
