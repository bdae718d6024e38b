"""The network for volumes: every layer of the 2D one in three dimensions, and what a 2D network has
learnt inflated into it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor, nn
from torch.nn import functional as F


class MaxPool(nn.Module):
    """The maximum over a window of depth, then over one of the plane: the maximum over both.

    forward(x): (N, C, D, H, W) -> (N, C, D', H', W'), sizes as of nn.MaxPool3d.

    On a GPU torch has no repeatable backward pass of nn.MaxPool3d, and of nn.MaxPool2d it has one.

    Args:
        depth: window, stride and padding over depth.
        plane: the same over height and over width.
    """

    def __init__(self, depth: tuple[int, int, int], plane: tuple[int, int, int]) -> None:
        super().__init__()
        self.depth, self.plane = depth, plane

    def forward(self, x: Tensor) -> Tensor:
        if self.depth != (1, 1, 0):
            window, stride, padding = self.depth
            lines = x.flatten(3)  # (N, C, D, H * W)
            lines = F.max_pool2d(lines, (window, 1), (stride, 1), (padding, 0))
            x = lines.unflatten(3, x.shape[3:])
        planes = x.movedim(2, 1)  # (N, D, C, H, W)
        pooled: Tensor = F.max_pool2d(planes.flatten(0, 1), *self.plane)
        return pooled.view(*planes.shape[:2], *pooled.shape[1:]).movedim(1, 2)

    def extra_repr(self) -> str:
        return f"depth={self.depth}, plane={self.plane}"


def to_volumes(network: nn.Module, kept: Collection[nn.Module] = ()) -> None:
    """Put a layer of three dimensions, randomly initialised, into the place of each of two.

    Kernels become cubes, their strides and paddings those of depth too; the first convolution takes
    one channel.

    kept: modules whose layers leave the depth as it is, whatever stride they have in the plane.
    """
    keeping = {layer for part in kept for layer in part.modules()}
    first = next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
    for parent in list(network.modules()):
        for name, layer in parent.named_children():
            lifted = _lifted(layer, keeps_depth=layer in keeping, one_channel=layer is first)
            if lifted is not None:
                setattr(parent, name, lifted)


def _lifted(layer: nn.Module, *, keeps_depth: bool, one_channel: bool) -> nn.Module | None:
    """The layer of three dimensions for one of two; None for what has no dimensions."""
    if isinstance(layer, nn.BatchNorm2d):
        return nn.BatchNorm3d(layer.num_features)
    if isinstance(layer, nn.MaxPool2d):
        window, stride, padding = layer.kernel_size, layer.stride, layer.padding
        assert isinstance(window, int)
        assert isinstance(stride, int)
        assert isinstance(padding, int)
        plane = (window, stride, padding)
        return MaxPool((1, 1, 0) if keeps_depth else plane, plane)
    if isinstance(layer, nn.ConvTranspose2d | nn.Conv2d):  # all of them have squares for kernels
        size, stride = layer.kernel_size[0], layer.stride[0]
        strides = (1 if keeps_depth else stride, stride, stride)
        if isinstance(layer, nn.ConvTranspose2d):  # its windows do not overlap: kernel is stride
            return nn.ConvTranspose3d(layer.in_channels, layer.out_channels, strides, strides)
        channels = 1 if one_channel else layer.in_channels
        padding, bias = int(layer.padding[0]), layer.bias is not None
        return nn.Conv3d(channels, layer.out_channels, size, strides, padding, bias=bias)
    return None


def inflated(state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """A 2D network's state dict for `network`, the same one in three dimensions.

    A convolution's kernel is repeated along depth and divided by the number of repeats, a
    transposed one's, whose windows do not overlap, only repeated; the kernel for three colours is
    summed to one for grey. So on a volume of equal slices it gives what the 2D network gives on the
    slice, repeated to three colours, but for where a kernel's window ends in the padding of depth.
    Source: Carreira and Zisserman 2017, section 2.4.
    """
    found = dict(state)
    for name, layer in network.named_modules():
        key = f"{name}.weight"
        flat = found.get(key)
        if not isinstance(layer, nn.Conv3d | nn.ConvTranspose3d) or flat is None or flat.ndim != 4:
            continue
        if layer.in_channels == 1 and flat.shape[1] == 3:
            flat = flat.sum(dim=1, keepdim=True)
        depth = layer.kernel_size[0]
        cube = flat.unsqueeze(2).repeat(1, 1, depth, 1, 1)
        found[key] = cube / depth if isinstance(layer, nn.Conv3d) else cube
    return found
