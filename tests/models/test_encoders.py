"""models/attenresunet/encoders.py against torchvision's own networks."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torchvision.models.feature_extraction import create_feature_extractor

from models.attenresunet.encoders import PlainEncoder, ResNetEncoder

LAYERS = ["relu", "layer1", "layer2", "layer3", "layer4"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_resnet_features_equal_torchvisions(name):
    torch.manual_seed(0)
    reference = torchvision.models.get_model(name, weights=None).eval()
    encoder = ResNetEncoder(name).eval()
    encoder.load_resnet_state(reference.state_dict())
    images = torch.randn(2, 3, 64, 96)
    features = images
    with torch.no_grad():
        expected = create_feature_extractor(reference, LAYERS)(images)
        for layer, stage, channels in zip(LAYERS, encoder.stages, encoder.channels, strict=True):
            features = stage(features)
            torch.testing.assert_close(features, expected[layer], rtol=0, atol=0)
            assert features.shape[1] == channels


@pytest.mark.slow
def test_a_state_dict_of_another_depth_is_refused_by_naming_keys():
    state = torchvision.models.resnet34(weights=None).state_dict()
    with pytest.raises(ValueError, match=r"unknown stages\.1\.1\.2\.bn1"):
        ResNetEncoder("resnet18").load_resnet_state(state)
    with pytest.raises(ValueError, match=r"lacks stages\.1\.1\.0\.bn3"):
        ResNetEncoder("resnet50").load_resnet_state(state)


def test_a_state_dict_without_batch_counters_loads_as_in_torchvision():
    """torchvision's IMAGENET1K_V1 files are older than BatchNorm's num_batches_tracked."""
    state = torchvision.models.resnet18(weights=None).state_dict()
    old = {key: state[key] for key in state if not key.endswith("num_batches_tracked")}
    assert len(old) < len(state)
    torchvision.models.resnet18(weights=None).load_state_dict(old)  # the reference takes it
    encoder = ResNetEncoder("resnet18")
    encoder.load_resnet_state(old)
    torch.testing.assert_close(encoder.stages[2][0].bn1.weight, state["layer2.0.bn1.weight"])


def test_a_state_dict_of_other_shapes_is_refused():
    state = torchvision.models.resnet18(weights=None).state_dict()
    state["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    with pytest.raises(ValueError, match=r"other shapes in stages\.0\.0\.weight"):
        ResNetEncoder("resnet18").load_resnet_state(state)


def test_plain_encoder_halves_four_times_and_doubles_its_channels():
    features, shapes = torch.randn(1, 3, 64, 32), []
    for stage in PlainEncoder().stages:
        features = stage(features)
        shapes.append(tuple(features.shape[1:]))
    assert shapes == [(64, 64, 32), (128, 32, 16), (256, 16, 8), (512, 8, 4), (512, 4, 2)]
