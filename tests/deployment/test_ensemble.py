"""deployment/ensemble.py: mean probabilities over flips and networks, as a network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from run_folders import GATED

from models import build_model
from pipeline.deployment.ensemble import FLIPS, Averaged, mean_logit


def networks(count: int) -> list[torch.nn.Module]:
    torch.manual_seed(1)
    return [build_model(GATED).eval() for _ in range(count)]


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 64, generator=torch.Generator().manual_seed(0))


def probabilities(model, images):
    with torch.no_grad():
        return model(images).sigmoid().double().numpy()


def test_the_average_of_one_network_without_flips_is_the_network_itself(images):
    (one,) = networks(1)
    with torch.no_grad():
        assert torch.equal(Averaged([one])(images), one(images))


def test_an_ensembles_probability_is_the_mean_of_its_networks(images):
    three = networks(3)
    expected = np.mean([probabilities(one, images) for one in three], axis=0)
    np.testing.assert_allclose(probabilities(Averaged(three), images), expected, atol=1e-6)


def test_with_flips_it_is_the_mean_of_four_predictions_turned_back_by_hand(images):
    (one,) = networks(1)
    flipped = {"none": images, "h": images[..., ::1].flip(3), "v": images.flip(2)}
    expected = (
        probabilities(one, flipped["none"])
        + probabilities(one, flipped["h"])[:, :, :, ::-1]
        + probabilities(one, flipped["v"])[:, :, ::-1, :]
        + probabilities(one, images.flip(2).flip(3))[:, :, ::-1, ::-1]
    ) / 4
    np.testing.assert_allclose(
        probabilities(Averaged([one], flips=True), images), expected, atol=1e-6
    )
    assert len(set(FLIPS)) == 4


def test_a_flipped_image_has_the_flipped_average(images):
    model = Averaged(networks(2), flips=True)
    for axis in (2, 3):
        turned = probabilities(model, images.flip(axis))
        np.testing.assert_allclose(turned, np.flip(probabilities(model, images), axis), atol=1e-6)


def test_sure_networks_do_not_saturate():
    logits = torch.tensor([[300.0, -300.0, 20.0], [300.0, -300.0, -20.0]])
    mean = mean_logit(logits)
    torch.testing.assert_close(mean, torch.tensor([300.0, -300.0, 0.0]), atol=1e-4, rtol=0)
    tiny = mean_logit(torch.tensor([[-40.0], [-60.0]]))  # p = (e^-40 + e^-60) / 2
    assert tiny.item() == pytest.approx(-40 - np.log(2), abs=1e-4)


@pytest.mark.slow
def test_an_average_is_evaluated_like_any_network(tiny_study):
    from pipeline.engine.prepared import PreparedCases
    from pipeline.evaluate import evaluate

    cases = PreparedCases.open(tiny_study.prepared_dir)
    (one,) = networks(1)
    table = evaluate(Averaged([one, one]), cases, tiny_study).table
    plain = evaluate(one, cases, tiny_study).table
    np.testing.assert_allclose(table["bce"], plain["bce"], rtol=1e-5)
    flips = evaluate(Averaged([one], flips=True), cases, tiny_study).table
    assert not np.allclose(flips["bce"], plain["bce"])
