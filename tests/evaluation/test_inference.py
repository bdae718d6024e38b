"""evaluation/inference.py: what a network says of a split, and its scores, written out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import REPOSITORY
from torch import Tensor, nn

from pipeline.engine.compute import IMAGENET_MEAN, IMAGENET_STD
from pipeline.engine.prepared import PreparedCases
from pipeline.evaluation.inference import forward, pixels, score
from pipeline.study.blocks import Focal
from pipeline.study.errors import UserError
from pipeline.study.params import Study
from pipeline.study.reading import load_study


class Reddish(nn.Module):
    """A network whose logits are a weight times the normalised red."""

    def __init__(self, weight: float = 2.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.batches: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        return self.weight * images[:, :1]


@pytest.fixture
def study() -> Study:
    """The paper's, with other numbers than the usual ones wherever a score hangs on one."""
    study = load_study(REPOSITORY)
    changes = {"batch_size": 2, "threshold": 0.3, "jaccard_threshold": 0.55}
    return study.model_copy(
        update={
            "evaluate": study.evaluate.model_copy(update=changes),
            "focal": Focal(alpha=0.4, gamma=1.0),
        }
    )


@pytest.fixture
def cases() -> PreparedCases:
    """Eight random cases of 4x6 pixels, of which the odd ones and the last are for testing."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 4, 6, 3), dtype=np.uint8)
    masks = rng.integers(0, 2, (8, 4, 6), dtype=np.uint8)
    splits = ["training", "test", "training", "test", "validation", "test", "test", "test"]
    table = pd.DataFrame({"id": [f"c{n}" for n in range(8)], "split": splits})
    return PreparedCases(images, masks, table, "")


def test_the_network_sees_the_splits_cases_normalised_in_batches_and_in_their_order(cases, study):
    network = Reddish()
    batches = list(forward(network, cases, "test", study.evaluate))
    assert network.batches == [2, 2, 1]
    logits, targets = (torch.cat(some) for some in zip(*batches, strict=True))
    chosen = [1, 3, 5, 6, 7]
    red = (cases.images[chosen, :, :, 0] / 255 - IMAGENET_MEAN[0]) / IMAGENET_STD[0]
    np.testing.assert_allclose(logits[:, 0].numpy(), 2 * red, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(targets[:, 0].numpy(), cases.masks[chosen])
    assert (logits.dtype, targets.dtype) == (torch.float32, torch.float32)
    assert not logits.requires_grad


def test_bfloat16_is_computed_in_and_not_handed_on(cases, study):
    settings = study.evaluate.model_copy(update={"precision": "bfloat16"})
    network = nn.Conv2d(3, 1, 1)
    seen: list[torch.dtype] = []
    network.register_forward_hook(lambda *taken: seen.append(taken[2].dtype))
    found = [logits.dtype for logits, _ in forward(network, cases, "validation", settings)]
    assert (seen, found) == ([torch.bfloat16], [torch.float32])


def test_memory_that_runs_out_is_one_sentence_with_the_cases_at_once(cases, study):
    class Greedy(Reddish):
        def forward(self, images: Tensor) -> Tensor:
            raise torch.OutOfMemoryError

    told = r"^the GPU's memory ran out with 2 cases at once: set a smaller evaluate\.batch_size$"
    with pytest.raises(UserError, match=told):
        list(forward(Greedy(), cases, "test", study.evaluate))


def test_a_batch_is_scored_by_the_studys_threshold_and_focal_loss(study):
    # Of two cases: p is 0.2, 0.4, 0.6 and 0.8 of lesion at the first, third and fourth pixel, then
    # the same of no lesion at all.
    p = torch.tensor([0.2, 0.4, 0.6, 0.8])
    logits = torch.logit(p).reshape(1, 1, 2, 2).repeat(2, 1, 1, 1)
    targets = torch.tensor([[1.0, 0.0, 1.0, 1.0], [0.0] * 4]).reshape(2, 1, 2, 2)
    scored = score(logits, targets, study)

    np.testing.assert_allclose(scored.probabilities, [[[0.2, 0.4], [0.6, 0.8]]] * 2, rtol=1e-6)
    assert scored.found.tolist() == [[[False, True], [True, True]]] * 2  # above 0.3
    assert scored.truth.tolist() == [[[True, False], [True, True]], [[False] * 2] * 2]
    first, second = scored.table.to_dict("records")
    counts = ["true_positives", "false_positives", "false_negatives", "true_negatives"]
    assert [first[name] for name in counts] == [2, 1, 1, 0]
    assert [second[name] for name in counts] == [0, 3, 0, 1]
    assert (first["dice"], second["dice"]) == (pytest.approx(4 / 6), 0)
    assert (first["iou"], first["thresholded_jaccard"]) == (0.5, 0)  # below 0.55
    right = [np.array([0.2, 0.6, 0.6, 0.8]), np.array([0.8, 0.6, 0.4, 0.2])]  # p of the truth
    weights = [np.array([0.4, 0.6, 0.4, 0.4]), np.full(4, 0.6)]  # alpha where lesion is
    for row, q, alpha in zip((first, second), right, weights, strict=True):
        assert row["bce"] == pytest.approx(-np.log(q).mean(), rel=1e-5)
        assert row["focal_loss"] == pytest.approx((-alpha * (1 - q) * np.log(q)).mean(), rel=1e-5)
        assert row["brier"] == pytest.approx(np.square(1 - q).mean(), rel=1e-5)


def test_a_pixel_at_the_threshold_is_no_lesion(study):
    evaluate = study.evaluate.model_copy(update={"threshold": 0.5})
    logits = torch.tensor([[[[0.0, 1e-6]]]])
    found = score(logits, torch.zeros_like(logits), study.model_copy(update={"evaluate": evaluate}))
    assert found.found.tolist() == [[[False, True]]]


def test_pixels_lose_the_channel_and_nothing_else():
    values = torch.arange(6.0).reshape(1, 1, 2, 3)  # one case: its axis stays
    assert pixels(values).tolist() == [[[0, 1, 2], [3, 4, 5]]]
