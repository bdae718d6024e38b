"""The paper's network and its parts: ResNet or plain encoder, attention in it, gates on the skips.

Each ambiguity of the paper is a switch here; its default is the reading that the suite takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.config import NetworkConfig

EncoderName = Literal["resnet18", "resnet34", "resnet50", "resnet101", "plain"]


@dataclass(frozen=True, kw_only=True)
class AttenResUNetConfig(NetworkConfig):
    """One variant's network: the paper's, or a part of it.

    Args:
        family: attenresunet.
        encoder: torchvision's ResNet of that name, or `plain`: U-Net's own double convolutions.
        plain_width: channels of the plain encoder's first stage, 1 to 1024; 64 is Ronneberger's.
        weights: what the encoder starts from: `imagenet` (torchvision's, downloaded), `none`
            (random), or the path of a state dict (.safetensors, or a .pt of tensors only).
        encoder_attention: the encoder layers, 1 to 4, that self-attention stands after.
        attention_scale: `none` is the paper's softmax(q k^T), `sqrt` divides by sqrt(channels).
        attention_residual: add the layer's own output to the self-attention's result.
        encoder_gate: what gates the self-attention's result (paper section 7.1, g unspecified):
            `input` the layer's own output, `attended` the result itself, `none` no gate.
        decoder_gates: attention gates on the skips.
        dimensions: 2 for pictures in colour, 3 for volumes in grey.
        depth_halvings: how often a network for volumes halves their depth, 0 to 5, of the five
            times (`plain` four) that it halves height and width: a thin volume's first ones leave
            the depth as it is.
        head: `logits` ends in a 1x1 convolution; `relu` adds the BatchNorm and ReLU of section 8.5,
            read to the letter, so that no logit is below 0.
    """

    family: Literal["attenresunet"] = "attenresunet"
    encoder: EncoderName = "resnet34"
    plain_width: int = 64
    weights: str = "none"
    encoder_attention: tuple[Literal[1, 2, 3, 4], ...] = ()
    attention_scale: Literal["none", "sqrt"] = "none"
    attention_residual: bool = False
    encoder_gate: Literal["input", "attended", "none"] = "input"
    decoder_gates: bool = False
    dimensions: Literal[2, 3] = 2
    depth_halvings: int = 5
    head: Literal["logits", "relu"] = "logits"

    def __post_init__(self) -> None:
        if len(set(self.encoder_attention)) < len(self.encoder_attention):
            raise ValueError(
                f"encoder_attention must name each layer once, got {list(self.encoder_attention)}"
            )
        if not 1 <= self.plain_width <= 1024:  # 2.4 billion parameters in a layer at the bottom
            raise ValueError(f"plain_width must be from 1 to 1024, got {self.plain_width}")
        if not 0 <= self.depth_halvings <= 5:
            raise ValueError(f"depth_halvings must be from 0 to 5, got {self.depth_halvings}")
        if self.encoder == "plain" and self.weights != "none":
            raise ValueError(
                "weights must be 'none' with encoder 'plain': no pretrained weights fit it, "
                f"got {self.weights!r}"
            )

    def check(self, *size: int) -> None:
        if len(size) != self.dimensions:
            kind = "pictures" if len(size) == 2 else "volumes"
            raise ValueError(f"dimensions must be {len(size)} for {kind}, got {self.dimensions}")
        halvings = min(self.depth_halvings, 4 if self.encoder == "plain" else 5)
        if self.dimensions == 3 and size[0] % 2**halvings:
            most = (size[0] & -size[0]).bit_length() - 1
            raise ValueError(
                f"depth_halvings must be at most {most} for a depth of {size[0]}, got "
                f"{self.depth_halvings}: a depth is halved without remainder"
            )

    @property
    def starts_from(self) -> str:
        return f"a torchvision {self.encoder} state dict"


Config = AttenResUNetConfig  # as models.families finds it
