"""Gated attention and encoder self-attention (paper sections 6.2 and 7.1), and their maps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class AttentionGate(nn.Module):
    """Scale features by an attention map computed from them and a gating signal.

    forward(x, g): x (N, channels, H, W), g (N, gate_channels, H, W)
    -> (N, channels, H, W) = alpha * x, alpha in (0, 1) of shape (N, 1, H, W):
    alpha = sigmoid(W_f ReLU(W_x x + W_g g)), all three 1x1 convolutions with bias.
    Source: Schlemper et al. 2019, eq. 1-2, in the additive form of the paper's section 6.2.
    """

    def __init__(self, channels: int, gate_channels: int) -> None:
        super().__init__()
        # Half the channels inside, as in Attention U-Net (Oktay et al. 2018).
        inner_channels = max(channels // 2, 1)
        self.from_features = nn.Conv2d(channels, inner_channels, kernel_size=1)
        self.from_gate = nn.Conv2d(gate_channels, inner_channels, kernel_size=1)
        self.alpha = nn.Sequential(
            nn.ReLU(inplace=True), nn.Conv2d(inner_channels, 1, kernel_size=1), nn.Sigmoid()
        )

    def forward(self, x: Tensor, g: Tensor) -> Tensor:
        alpha: Tensor = self.alpha(self.from_features(x) + self.from_gate(g))  # (N, 1, H, W)
        return alpha * x


class EncoderAttention(nn.Module):
    """Self-attention over the positions of a feature map, gated.

    forward(x): (N, channels, H, W) -> the same shape:
    x_att = softmax(q k^T * scale) v over the H*W positions, q, k, v 1x1 convolutions of x;
    result AttentionGate(x_att, g), g = x by default.

    The fused attention of torch never holds the (H*W, H*W) matrix: at 256x256 the first layer has
    4,096 positions.

    Args:
        channels: of x, and of q, k and v.
        scale: of q k^T: `none` is 1 (the paper has no 1/sqrt(d)), `sqrt` 1/sqrt(channels).
        residual: add x to x_att.
        gate: the gating signal, `input` x, `attended` x_att, or `none` for no gate.
    Source: paper section 7.1.
    """

    def __init__(
        self,
        channels: int,
        *,
        scale: Literal["none", "sqrt"] = "none",
        residual: bool = False,
        gate: Literal["input", "attended", "none"] = "input",
    ) -> None:
        super().__init__()
        self.scale = 1.0 if scale == "none" else channels**-0.5
        self.residual = residual
        self.gate_signal = gate
        self.query = nn.Conv2d(channels, channels, kernel_size=1)
        self.key = nn.Conv2d(channels, channels, kernel_size=1)
        self.value = nn.Conv2d(channels, channels, kernel_size=1)
        self.gate = None if gate == "none" else AttentionGate(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (_tokens(conv(x)) for conv in (self.query, self.key, self.value))
        # One head: (N, 1, H*W, channels)
        attended = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        attended = attended[:, 0].transpose(1, 2).reshape(x.shape)  # (N, channels, H, W)
        if self.residual:
            attended = attended + x
        if self.gate is None:
            return attended
        gated: Tensor = self.gate(attended, x if self.gate_signal == "input" else attended)
        return gated

    @torch.no_grad()
    def received(self, x: Tensor, *, rows: int = 1024) -> Tensor:
        """How much attention each position receives, averaged over the positions that give it.

        x (N, channels, H, W) -> (N, 1, H, W), values >= 0, each case summing to 1. The attention
        matrix is formed `rows` queries at a time.
        """
        q, k = (_tokens(conv(x))[:, 0].float() for conv in (self.query, self.key))
        total = torch.zeros_like(k[:, :, 0])  # (N, H*W)
        for some in q.split(rows, dim=1):
            total += (some @ k.transpose(1, 2) * self.scale).softmax(dim=-1).sum(dim=1)
        return (total / q.shape[1]).reshape(len(x), 1, *x.shape[2:])


def _tokens(features: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, 1, H*W, C): the positions as a sequence, one attention head.

    Contiguous, or torch would fall back to the kernel that holds the matrix; channels_last features
    already are.
    """
    return features.flatten(2).transpose(1, 2).contiguous().unsqueeze(1)


def attention_modules(model: nn.Module) -> Iterator[tuple[str, AttentionGate | EncoderAttention]]:
    """Every attention module of `model` with its dotted name, in the order of registration."""
    for name, module in model.named_modules():
        if isinstance(module, AttentionGate | EncoderAttention):
            yield name, module


@torch.no_grad()
def attention_maps(model: nn.Module, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The logits for `images` and every attention map on the way to them.

    images (N, 3, H, W) -> logits (N, 1, H, W) and {module name: map (N, 1, h, w)}, h and w those of
    the features attended to. A gate's map is alpha, in (0, 1); a self-attention's is the attention
    each position receives (sums to 1 over a case). Maps are read by hooks that exist only during
    this call: an ordinary forward pass pays nothing for them. Gradients are not recorded.
    """
    maps: dict[str, Tensor] = {}
    hooks = []
    for name, module in attention_modules(model):
        if isinstance(module, AttentionGate):

            def keep_alpha(_: nn.Module, __: object, alpha: Tensor, name: str = name) -> None:
                maps[name] = alpha.float()

            hooks.append(module.alpha.register_forward_hook(keep_alpha))
        else:

            def keep_received(
                module: nn.Module, inputs: tuple[Tensor], _: Tensor, name: str = name
            ) -> None:
                assert isinstance(module, EncoderAttention)
                maps[name] = module.received(inputs[0])

            hooks.append(module.register_forward_hook(keep_received))
    try:
        logits: Tensor = model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return logits, maps
