"""The convolutional blocks of U-Net (Ronneberger et al. 2015; paper sections 5.1 and 8.4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.attenresunet.attention import AttentionGate


class DoubleConv(nn.Sequential):
    """(3x3 convolution, BatchNorm, ReLU) twice, size kept.

    forward(x): (N, in_channels, H, W) -> (N, out_channels, H, W), values >= 0.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            *conv_norm_relu(in_channels, out_channels), *conv_norm_relu(out_channels, out_channels)
        )


def conv_norm_relu(in_channels: int, out_channels: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    """One 3x3 convolution with BatchNorm and ReLU; no bias, BatchNorm has its own."""
    return (
        nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class UpBlock(nn.Module):
    """One decoder block: upsample, gate the skip or take it as it is, concatenate, DoubleConv.

    forward(x, skip): x (N, in_channels, H/2, W/2), skip (N, skip_channels, H, W)
    -> (N, out_channels, H, W). The gating signal is the upsampled x, of the skip's own size.
    Source: paper section 8.4.
    """

    def __init__(
        self, in_channels: int, skip_channels: int, out_channels: int, *, gated: bool
    ) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2)
        self.gate = AttentionGate(skip_channels, out_channels) if gated else None
        self.conv = DoubleConv(out_channels + skip_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.up(x)  # (N, out_channels, H, W)
        if self.gate is not None:
            skip = self.gate(skip, x)
        x = self.conv(torch.cat([skip, x], dim=1))
        return x
