"""The protocol in words: what the study does where its paper leaves a choice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pipeline.study.blocks import Train
from pipeline.study.params import Study
from pipeline.study.values import Loss, quantity

LOSSES: dict[Loss, str] = {  # train.loss in params.yaml -> what a reader calls it
    "bce": "BCE",
    "dice": "the Dice loss",
    "bce_dice": "BCE + Dice loss",
    "focal": "the focal loss",
}
TITLES = {  # what a reader calls a choice, where the key alone does not say it
    "head": "Head",
    "encoder_gate": "Gate inside the encoder",
    "decoder_gates": "Gates on the skips",
    "attention_residual": "Residual around the encoder attention",
    "attention_scale": "Scale of the attention's logits",
    "weights": "Encoder's first weights",
    "optimisation": "Optimisation",
    "select": "Weights that are evaluated",
    "split": "Split",
    "resize": "Resize",
    "focal": "Focal loss's constants",
    "averaging": "How Dice is averaged",
    "seeds": "Seeds",
    "failures": "Runs that fail",
}


@dataclass(frozen=True)
class Reading:
    """A place where the paper leaves a choice, and the choice that this study makes."""

    topic: str
    paper: str
    used: str
    other: str


def readings(study: Study) -> list[Reading]:
    """Of the choices that the study's paper leaves open, as `paper.leaves_open` names them, those
    that the study makes: of a network's switch, where a variant has it."""
    if study.paper is None:
        return []
    found = []
    for choice, told in study.paper.leaves_open.items():
        made = CHOICES[choice](study) if choice in CHOICES else _switch(study, choice)
        if made is not None:
            found.append(Reading(TITLES.get(choice, choice), told, *made))
    return found


Made = tuple[str, str]  # what the study does, and what else can be had


def _switch(study: Study, name: str) -> Made | None:
    """A key of the networks; None where no variant has it."""
    networks = {variant: study.models[variant] for variant in study.variants}
    having = {
        variant: getattr(network, name)
        for variant, network in networks.items()
        if name in network.__dataclass_fields__
    }
    if not having:
        return None
    kinds = {type(networks[variant]) for variant in having}
    possible = dict.fromkeys(
        value for kind in kinds for value in _possible(get_type_hints(kind)[name])
    )
    *first, last = possible or [""]
    return f"{name}: {_by_value(having)}", ", ".join(first) + (" or " if first else "") + last


def _possible(kind: Any) -> list[str]:
    if kind is bool:
        return ["false", "true"]
    return [str(value) for value in get_args(kind)] if get_origin(kind) is Literal else []


def _weights(study: Study) -> Made:
    networks = {variant: study.models[variant].weights for variant in study.variants}
    return (
        f"weights: {_by_value(networks)}; {_of_each(study, encoder_training)}",
        "imagenet, none, or a file; freeze_encoder: true or false",
    )


def _size(study: Study) -> str:
    prepare = study.prepare
    deep = "" if prepare.depth is None else f"{prepare.depth} deep x "
    return f"{deep}{prepare.height} high x {prepare.width} wide"


CHOICES: dict[str, Callable[[Study], Made]] = {
    "weights": _weights,
    "optimisation": lambda study: (
        _of_each(study, optimisation),
        "train.loss, optimizer, schedule and gradient_clip in params.yaml",
    ),
    "select": lambda study: (
        _of_each(study, evaluated_weights),
        "select: last or best_validation_dice; early_stopping: null or epochs",
    ),
    "split": lambda study: (
        f"split.method: {study.prepare.split.method}",
        "official (the challenge's folders), random, folds or lists",
    ),
    "resize": lambda study: (
        f"resize: {study.prepare.resize}, to {_size(study)}",
        "stretch, center_crop or pad; many ISIC papers use 192 high x 256 wide"
        if study.prepare.depth is None
        else "stretch, to any depth, height and width",
    ),
    "focal": lambda study: (
        f"alpha {study.focal.alpha:g}, gamma {study.focal.gamma:g}",
        "Lin et al. 2017 and torchvision use 0.25 and 2",
    ),
    "averaging": lambda study: ("mean over cases; pooled Dice in its own column", ""),
    "seeds": lambda study: (f"{len(study.seeds)}: {', '.join(map(str, study.seeds))}", ""),
    "failures": lambda study: (
        f"a run more than {study.compare.failure_drop:g} Dice below its variant's upper quartile "
        "has failed; differences are of typical runs, failed ones are counted",
        "compare.failure_drop: Dice above 0",
    ),
}


def _of_each(study: Study, describe: Callable[[Train], str]) -> str:
    """What the training of all variants is, or of each where they differ."""
    return _by_value({variant: describe(study.of(variant).train) for variant in study.variants})


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
        return next(iter(names))
    between = "; " if any(", " in value for value in names) else ", "
    return between.join(f"{value} ({', '.join(having)})" for value, having in names.items())
