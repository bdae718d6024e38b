"""The seven networks of the paper's study, as params.yaml configures them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from models import build_model
from models.attenresunet import AttenResUNetConfig
from pipeline.study.reading import load_study

ROOT = Path(__file__).resolve().parents[2]
STUDY = load_study(ROOT)

# variant: encoder attention after layers, gates in the decoder, encoder (the paper's section 9.5)
ROWS = {
    "limit_encoder_attention": ((1, 2, 3), True, "resnet34"),
    "encoder_attention": ((1, 2, 3, 4), False, "resnet34"),
    "gated_attention": ((), True, "resnet34"),
    "encoder_and_gated_attention": ((1, 2, 3, 4), True, "resnet34"),
    "resunet": ((), False, "resnet34"),
    "attention_unet": ((), True, "plain"),
    "unet": ((), False, "plain"),
}


def test_the_study_has_the_papers_rows():
    assert {
        name: (config.encoder_attention, config.decoder_gates, config.encoder)
        for name, config in STUDY.models.items()
    } == ROWS
    assert STUDY.variants == list(ROWS)


# Of an independent prototype with a one-logit head at 256x256: millions of parameters and GFLOP of
# a forward pass, multiply and add counted apart.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "million_parameters", "gflop"),
    [
        ("resunet", 29.16, 18.3),
        ("gated_attention", 29.25, 18.6),
        ("encoder_and_gated_attention", 30.65, 23.4),
    ],
)
def test_size_and_cost_are_the_prototypes(variant, million_parameters, gflop):
    model = build_model(STUDY.models[variant]).eval()
    # The counter does not know the CPU's fused attention; the plain one does the same arithmetic.
    with (
        FlopCounterMode(display=False) as counter,
        sdpa_kernel(SDPBackend.MATH),
        torch.no_grad(),
    ):
        model(torch.zeros(1, 3, 256, 256))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters / 1e6 == pytest.approx(million_parameters, rel=0.005)
    # 24.0 with every attention counted; the prototype's count missed the smaller ones.
    assert counter.get_total_flops() / 1e9 == pytest.approx(gflop, rel=0.03)


def test_unet_has_ronnebergers_size():
    # 31.03 million with a bias in each of the 18 3x3 convolutions; BatchNorm's takes their place.
    model = build_model(STUDY.models["unet"])
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(
        31.03e6, rel=0.005
    )


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["limit_encoder_attention", "unet"])
def test_logits_have_the_images_size_up_to_512_pixels(variant):
    model = build_model(STUDY.models[variant]).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 512, 512)).shape == (1, 1, 512, 512)


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["resnet18", "resnet50", "resnet101"])
def test_the_other_resnets_assemble(encoder):
    config = AttenResUNetConfig(encoder=encoder, encoder_attention=(1, 2, 3, 4), decoder_gates=True)
    with torch.no_grad():
        assert build_model(config).eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 1, 64, 64)


def test_relu_head_has_no_logit_below_zero_and_the_plain_head_has():
    torch.manual_seed(0)
    images = torch.randn(2, 3, 64, 64)
    relu = build_model(AttenResUNetConfig(encoder="resnet18", head="relu"))(images)
    plain = build_model(AttenResUNetConfig(encoder="resnet18"))(images)
    assert relu.min() == 0
    assert relu.max() > 0
    assert plain.min() < 0


@pytest.mark.slow
def test_variants_of_one_seed_start_from_one_encoder():
    states = []
    for variant in ("resunet", "limit_encoder_attention"):
        torch.manual_seed(7)
        states.append(build_model(STUDY.models[variant]).encoder.state_dict())
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, rtol=0, atol=0)


def test_a_layer_named_twice_is_refused():
    with pytest.raises(ValueError, match="must name each layer once"):
        AttenResUNetConfig(encoder_attention=(1, 1))


def test_weights_for_the_plain_encoder_are_refused():
    with pytest.raises(ValueError, match="must be 'none' with encoder 'plain'"):
        AttenResUNetConfig(encoder="plain", weights="imagenet")
