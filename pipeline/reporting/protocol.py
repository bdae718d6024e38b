"""The protocol in words: how each thing that the paper leaves open was read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.study.blocks import Train
from pipeline.study.params import Study
from pipeline.study.values import Loss, quantity

LOSSES: dict[Loss, str] = {  # train.loss in params.yaml -> what a reader calls it
    "bce": "BCE",
    "dice": "the Dice loss",
    "bce_dice": "BCE + Dice loss",
    "focal": "the focal loss",
}


@dataclass(frozen=True)
class Reading:
    """A place where the paper leaves a choice, and the choice that this study makes."""

    topic: str
    paper: str
    used: str
    other: str


def readings(study: Study) -> list[Reading]:
    """The paper's ambiguities; those with a switch in models/ show the switch's values."""
    prepare, train = study.prepare, study.train

    def switch(name: str) -> str:
        having = [variant for variant in study.variants if hasattr(study.models[variant], name)]
        return _by_value({variant: getattr(study.models[variant], name) for variant in having})

    return [
        Reading(
            "Head",
            "Section 8.5 ends in BatchNorm and ReLU. A logit that cannot be negative cannot say "
            "p < 0.5: a perfect background pixel still costs ln 2 of BCE and 0.13 of focal loss, "
            "which may explain part of the paper's focal losses.",
            f"head: {switch('head')}",
            "logits (a plain 1x1 convolution) or relu (the paper to the letter)",
        ),
        Reading(
            "Gate inside the encoder",
            "Section 7.1 gates the self-attention's result by a signal g that it does not name.",
            f"encoder_gate: {switch('encoder_gate')}",
            "input (the layer's own output), attended (the result itself) or none",
        ),
        Reading(
            "Decoder gates in Model 4",
            "Section 9.5: encoder attention up to layer 3 “alongside gated attention”.",
            f"decoder_gates: {switch('decoder_gates')}",
            "true or false",
        ),
        Reading(
            "Residual around the encoder attention",
            "None is written.",
            f"attention_residual: {switch('attention_residual')}",
            "false (none) or true",
        ),
        Reading(
            "Scale of the attention's logits",
            "softmax(q kᵀ), without the usual division by the square root of the channels.",
            f"attention_scale: {switch('attention_scale')}",
            "none (as written) or sqrt",
        ),
        Reading(
            "Encoder's first weights",
            "Pretrained ResNet-34; whether it is frozen is not said.",
            f"weights: {switch('weights')}; {encoder_training(train)}",
            "imagenet, none, or a file; freeze_encoder: true or false",
        ),
        Reading(
            "Optimisation",
            "BCE with logits, Adam, an initial learning rate of 1e-3; a schedule, weight decay or "
            "clipping are not said.",
            optimisation(train),
            "train.loss, optimizer, schedule and gradient_clip in params.yaml",
        ),
        Reading(
            "Weights that are evaluated",
            "Which epoch's is not said.",
            evaluated_weights(train),
            "select: last or best_validation_dice; early_stopping: null or epochs",
        ),
        Reading(
            "Split",
            "Not given.",
            f"split.method: {prepare.split.method}",
            "official (the challenge's folders), random, folds or lists",
        ),
        Reading(
            "Resize",
            "“Resized”; the size is not given.",
            f"resize: {prepare.resize}, to {prepare.height} high x {prepare.width} wide",
            "stretch, center_crop or pad; many ISIC papers use 192 high x 256 wide",
        ),
        Reading(
            "Focal loss's constants",
            "Defined, but neither alpha nor gamma is given.",
            f"alpha {study.focal.alpha:g}, gamma {study.focal.gamma:g}",
            "Lin et al. 2017 and torchvision use 0.25 and 2",
        ),
        Reading(
            "How Dice is averaged",
            "Not said. Its IoU of 0.795 at Dice 0.866 fits a mean over cases; pooled it would be "
            "0.764.",
            "mean over cases; pooled Dice in its own column",
            "",
        ),
        Reading(
            "Seeds",
            "The table's figures are one run each.",
            f"{len(study.seeds)}: {', '.join(map(str, study.seeds))}",
            "",
        ),
        Reading(
            "Runs that fail",
            "Not mentioned. A figure that is one run is most likely of one that did not fail.",
            f"a run more than {study.compare.failure_drop:g} Dice below its variant's upper "
            "quartile has failed; differences are of typical runs, failed ones are counted",
            "compare.failure_drop: Dice above 0",
        ),
    ]


def encoder_training(train: Train) -> str:
    """How the encoder's first weights are changed."""
    if train.freeze_encoder:
        return "frozen, BatchNorm statistics too; attention modules between its layers are trained"
    rate = train.optimizer.encoder_learning_rate
    return "trained" if rate is None else f"trained, at a learning rate of its own, {rate:g}"


def optimisation(train: Train) -> str:
    """Loss, optimizer and schedule in a line."""
    settings, warmup = train.optimizer, train.schedule.warmup_epochs
    parts = [f"{LOSSES[train.loss]}, {settings.method}, learning rate {settings.learning_rate:g}"]
    if warmup:
        parts.append(f"warmed up over {quantity(warmup, 'epoch')}")
    parts.append({"constant": "constant", "cosine": "falling by a cosine"}[train.schedule.method])
    if settings.method == "sgd":
        nesterov = " (Nesterov's)" if settings.nesterov else ""
        parts.append(f"momentum {settings.momentum:g}{nesterov}")
    parts.append(
        f"weight decay {settings.weight_decay:g}" if settings.weight_decay else "no weight decay"
    )
    clip = train.gradient_clip
    parts.append("no clipping" if clip is None else f"gradient norm clipped at {clip:g}")
    return ", ".join(parts)


def evaluated_weights(train: Train) -> str:
    """Whose epoch's weights are evaluated, and when training ends."""
    if train.select == "last":
        which = "those after the last epoch"
    else:
        which = "those after the epoch of the best validation Dice (of equals the first)"
    if train.early_stopping is None:
        return f"{which} of {train.epochs}"
    return (
        f"{which}; training ends after {quantity(train.early_stopping, 'epoch')} without a better "
        f"validation Dice, at the latest after {train.epochs}"
    )


def _by_value(values: dict[str, Any]) -> str:
    """`x` where all names have the value x, else `x (names), y (names)`."""
    names: dict[str, list[str]] = {}
    for name, value in values.items():
        names.setdefault(str(value).lower() if isinstance(value, bool) else str(value), []).append(
            name
        )
    if len(names) < 2:
        return next(iter(names), "no such variant")
    return ", ".join(f"{value} ({', '.join(having)})" for value, having in names.items())
