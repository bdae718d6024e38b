"""What the paper reports, for the comparison to be held against."""

from __future__ import annotations

from typing import NamedTuple


class PaperRow(NamedTuple):
    """A row of the paper's Table 1 (section 10), each figure one run; None where it gives none."""

    name: str
    dice: float | None = None
    iou: float | None = None
    focal_loss: float | None = None


# By variant name in params.yaml. The paper does not say how its Dice is averaged; its IoU fits a
# mean over cases (pooled, IoU would be Dice / (2 - Dice) = 0.764 for the first row, not 0.795).
PAPER: dict[str, PaperRow] = {
    "limit_encoder_attention": PaperRow(
        "U-Net + ResNet + LimitEncoderAttention (Model 4)", 0.8660, 0.795, 0.245
    ),
    "encoder_attention": PaperRow(
        "U-Net + ResNet + EncoderAttention (Model 3)", 0.8615, 0.789, 0.257
    ),
    "gated_attention": PaperRow("U-Net + ResNet + GatedAttention (Model 1)", 0.856, 0.782, 0.263),
    "encoder_and_gated_attention": PaperRow(
        "U-Net + ResNet + EncoderAttention + GatedAttention (Model 2)", 0.8529, 0.778, 0.270
    ),
    "resunet": PaperRow("baseline: U-Net + ResNet"),
    "attention_unet": PaperRow("baseline: Attention U-Net"),
    "unet": PaperRow("baseline: U-Net"),
}

# The 2 x 2 design among the variants: name -> (gates on the skips, encoder attention in 1 to 4).
FACTORS = {
    "resunet": (False, False),
    "gated_attention": (True, False),
    "encoder_attention": (False, True),
    "encoder_and_gated_attention": (True, True),
}
