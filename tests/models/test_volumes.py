"""The networks for volumes: the 2D ones' every layer over depth too, and their weights inflated."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import build_model, load_weights
from models.attenresunet import AttenResUNetConfig
from models.attenresunet.volumes import MaxPool, inflated
from models.smp import SmpConfig

VARIANTS = {
    "limit_encoder_attention": {"encoder_attention": (1, 2, 3), "decoder_gates": True},
    "encoder_attention": {"encoder_attention": (1, 2, 3, 4)},
    "gated_attention": {"decoder_gates": True},
    "encoder_and_gated_attention": {"encoder_attention": (1, 2, 3, 4), "decoder_gates": True},
    "resunet": {},
    "deeper": {"encoder": "resnet50", "head": "relu"},
    "attention_unet": {"encoder": "plain", "plain_width": 8, "decoder_gates": True},
    "unet": {"encoder": "plain", "plain_width": 8},
}


def config(variant: str, **others: object) -> AttenResUNetConfig:
    return AttenResUNetConfig(**({"encoder": "resnet18"} | VARIANTS[variant] | others))


def settled(network: nn.Module) -> nn.Module:
    """With BatchNorm statistics as of a network that was trained: other than 0 and 1."""
    torch.manual_seed(1)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.2, 0.2)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return network.eval()


def pair(variant: str, **others: object) -> tuple[nn.Module, nn.Module]:
    """A 2D network and the one of three dimensions that it inflates to."""
    torch.manual_seed(0)
    flat = settled(build_model(config(variant)))
    deep = build_model(config(variant, dimensions=3, **others))
    deep.load_state_dict(inflated(flat.state_dict(), deep))
    return flat, deep.eval()


def repeat_ends(network: nn.Module) -> None:
    """Let convolutions and poolings see the first and the last slice again beyond them, in the
    place of zeros: then every slice is in the interior."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv3d) and layer.padding[0]:
            depth = layer.padding[0]
            layer.padding = (0, *layer.padding[1:])
            layer.register_forward_pre_hook(
                lambda _, given, depth=depth: F.pad(
                    given[0], (0, 0, 0, 0, depth, depth), mode="replicate"
                )
            )


@pytest.mark.parametrize("halvings", [5, 3, 0])
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_inflated_network_gives_on_equal_slices_what_the_2d_one_does(variant, halvings):
    flat, deep = pair(variant, depth_halvings=halvings)
    repeat_ends(deep)
    grey = torch.randn(2, 1, 64, 32)
    with torch.no_grad():
        expected = flat(grey.repeat(1, 3, 1, 1))
        found = deep(grey.unsqueeze(2).repeat(1, 1, 32, 1, 1))
    assert found.shape == (2, 1, 32, 64, 32)
    assert expected.std() > 1e-3  # or anything would do
    torch.testing.assert_close(
        found, expected.unsqueeze(2).expand_as(found), rtol=1e-4, atol=1e-4 * float(expected.std())
    )


def test_in_a_deep_volume_the_interior_needs_no_such_help():
    """U-Net's slices see 70 to each side: convolutions' and poolings' windows, added up."""
    flat, deep = pair("unet")
    grey = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        expected = flat(grey.repeat(1, 3, 1, 1))[0]
        found = deep(grey.unsqueeze(2).repeat(1, 1, 256, 1, 1))[0]
    away = (found - expected.unsqueeze(1)).abs().amax((0, 2, 3)) / expected.std()
    assert away[112:144].max() < 1e-4
    assert away[[0, -1]].min() > 1e-2  # zeros beyond the ends are seen there


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_layer_has_three_dimensions(variant):
    torch.manual_seed(0)
    deep = build_model(config(variant, dimensions=3))
    flat = build_model(config(variant))
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.MaxPool2d)
    assert not [layer for layer in deep.modules() if isinstance(layer, kinds)]
    shapes = {name: tensor.shape for name, tensor in deep.state_dict().items()}
    assert shapes.keys() == flat.state_dict().keys()
    for name, tensor in flat.state_dict().items():
        if tensor.ndim == 4:
            side = tensor.shape[-1]
            channels = 1 if tensor.shape[1] == 3 else tensor.shape[1]
            assert shapes[name] == (tensor.shape[0], channels, side, side, side), name


@pytest.mark.parametrize("variant", ["limit_encoder_attention", "unet"])
def test_a_network_for_volumes_learns_in_both_layouts(variant):
    volumes, target = torch.randn(2, 1, 32, 32, 32), torch.zeros(2, 1, 32, 32, 32)
    target[:, :, 8:24, 8:24, 8:24] = 1
    losses = []
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        torch.manual_seed(0)
        network = build_model(config(variant, dimensions=3)).to(memory_format=layout)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        losses.append([])
        for _ in range(3):
            loss = F.binary_cross_entropy_with_logits(
                network(volumes.to(memory_format=layout)), target
            )
            optimizer.zero_grad()
            loss.backward()
            assert all(torch.isfinite(weight.grad).all() for weight in network.parameters())
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0][2] < losses[0][0]
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def test_random_weights_are_drawn_as_torchvision_draws_them():
    """He's normal distribution by the fan of a cube: of 64 channels of 27 voxels each."""
    torch.manual_seed(0)
    deep = build_model(config("resunet", dimensions=3))
    weight = deep.encoder.stages[1][1][0].conv1.weight
    assert weight.std().item() == pytest.approx((2 / (64 * 27)) ** 0.5, rel=0.02)
    assert not torch.allclose(weight[:, :, 0], weight[:, :, 1])  # no repeated slice


def test_thin_volumes_keep_their_depth_where_the_image_is_halved_first():
    """Sixteen slices, halved three times of five: the stem and layer 1 keep them."""
    deep = build_model(config("resunet", dimensions=3, depth_halvings=3)).eval()
    depths = []
    for stage in deep.encoder.stages:
        stage.register_forward_hook(lambda *given: depths.append(given[2].shape[2:]))
    with torch.no_grad():
        assert deep(torch.randn(1, 1, 16, 32, 32)).shape == (1, 1, 16, 32, 32)
    assert [tuple(size) for size in depths] == [
        (16, 16, 16), (16, 8, 8), (8, 4, 4), (4, 2, 2), (2, 1, 1),
    ]  # fmt: skip


def test_a_resnets_file_is_inflated_into_the_encoder():
    torch.manual_seed(0)
    from torchvision.models import resnet18

    state = resnet18(weights=None).state_dict()
    flat, deep = (build_model(config("resunet", dimensions=number)) for number in (2, 3))
    for number, network in ((2, flat), (3, deep)):
        load_weights(network, config("resunet", dimensions=number), state)
    stem = deep.encoder.stages[0][0].weight
    assert stem.shape == (64, 1, 7, 7, 7)
    torch.testing.assert_close(stem.sum(dim=2), state["conv1.weight"].sum(1, keepdim=True))
    expected = inflated(flat.state_dict(), deep)
    assert all(
        torch.equal(expected[f"encoder.{name}"], tensor)
        for name, tensor in deep.encoder.state_dict().items()
    )


@pytest.mark.parametrize("settings", [(3, 2, 1), (2, 2, 0), (3, 1, 1)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_the_maximum_over_depth_then_plane_is_that_over_both(settings, layout):
    volume = torch.randn(2, 3, 9, 8, 10).to(memory_format=layout).requires_grad_()
    expected = F.max_pool3d(volume, *settings)
    found = MaxPool(settings, settings)(volume)
    assert torch.equal(found, expected)
    (by_both,) = torch.autograd.grad((expected**2).sum(), volume)
    (one_by_one,) = torch.autograd.grad((found**2).sum(), volume)
    torch.testing.assert_close(one_by_one, by_both)  # windows overlap: sums in another order


def test_the_maximum_over_the_plane_alone_leaves_the_depth():
    volume = torch.randn(1, 2, 5, 8, 8)
    found = MaxPool((1, 1, 0), (3, 2, 1))(volume)
    expected: Tensor = F.max_pool3d(volume, (1, 3, 3), (1, 2, 2), (0, 1, 1))
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("variant", "others", "size", "told"),
    [
        ("unet", {}, (64, 64), "dimensions must be 2 for pictures, got 3"),
        ("unet", {"dimensions": 2}, (32, 64, 64), "dimensions must be 3 for volumes, got 2"),
        ("resunet", {}, (24, 64, 64), "depth_halvings must be at most 3 for a depth of 24, got 5"),
        ("resunet", {"depth_halvings": 3}, (24, 64, 64), None),
        ("unet", {}, (16, 64, 64), None),  # plain halves four times
        ("resunet", {"depth_halvings": 0}, (5, 64, 64), None),
    ],
)
def test_sizes_that_do_not_suit_the_network_are_refused(variant, others, size, told):
    network = config(variant, **({"dimensions": 3} | others))
    if told is None:
        network.check(*size)
    else:
        with pytest.raises(ValueError, match=f"^{told}"):
            network.check(*size)


def test_the_depth_is_halved_five_times_at_most():
    with pytest.raises(ValueError, match="depth_halvings must be from 0 to 5, got 6"):
        config("resunet", depth_halvings=6)


def test_smp_has_no_networks_for_volumes():
    network = SmpConfig(architecture="Unet", encoder="resnet18")
    with pytest.raises(ValueError, match=r"^family must be .* for volumes, got 'smp'"):
        network.check(32, 64, 64)
