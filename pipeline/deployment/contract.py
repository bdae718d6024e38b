"""What every network must do to be a variant: each demand is checked by itself.

The suite's own networks are held to it by its tests, a study's own by `python -m
pipeline.check_network`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from models import NetworkConfig, NetworkError, build_model, told_of_own_code
from pipeline.data.synthetic import draw_image
from pipeline.deployment.graphs import (
    TOLERANCE,
    Segmenter,
    empty_images,
    export_program,
    largest_difference,
    onnx_call,
    save_onnx,
    torch_call,
)
from pipeline.engine.compute import logits_of, to_input
from pipeline.engine.losses import bce
from pipeline.engine.weights import check_trainable, load_start, save_weights
from pipeline.study.errors import UserError
from pipeline.training.provenance import forward_gflops

CLOSE = 1e-4  # of a logit: batches of other sizes add in another order


class NotCheckedError(Exception):
    """What is missing to check this, and how to get it."""


@dataclass(frozen=True)
class Check:
    """One demand: its name and how the network did; `passed` is None where it was not checked."""

    name: str
    passed: bool | None
    told: str


@dataclass(frozen=True)
class Subject:
    """A network to be checked. size: height and width of the study's images in pixels, of volumes
    depth before them."""

    config: NetworkConfig
    size: tuple[int, ...]
    batch_size: int

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        model = build_model(self.config)
        load_start(model, self.config)
        return model

    def images(self, count: int, size: tuple[int, ...] | None = None) -> Tensor:
        """Drawn images as a network gets them: (count, channels, ...), normalised."""
        drawn = [draw_image(0, number, size or self.size)[0] for number in range(count)]
        return to_input(torch.from_numpy(np.stack(drawn)), torch.device("cpu"))

    def masks(self, count: int) -> Tensor:
        drawn = [draw_image(0, number, self.size)[1] for number in range(count)]
        return torch.from_numpy(np.stack(drawn)).unsqueeze(1).float()


def shape(subject: Subject) -> str:
    logits = logits_of(subject.build().eval(), subject.images(2))
    if not torch.isfinite(logits).all():
        raise UserError("logits must be finite, got NaN or infinity")
    return f"{tuple(logits.shape)}"


def other_size(subject: Subject) -> str:
    """Of use where images of another size are to be tried; nothing needs it."""
    *depth, height, width = subject.size
    size = (*depth, height + 32, width + 64)
    model = subject.build().eval()
    logits_of(model, subject.images(1))
    try:
        logits_of(model, subject.images(1, size))
    except Exception as error:  # whatever the network raises: it is a piece of news
        told = type(error).__name__
        return f"this size alone, not {'x'.join(map(str, size))} ({told}): no fault"
    return f"{'x'.join(map(str, size))} as well"


def one_image(subject: Subject) -> str:
    """The last batch of an epoch may have one."""
    model = subject.build().train()
    try:
        model(subject.images(1))
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            f"a batch of one image fails in training mode ({error}): normalise no layer of one "
            "value, such as BatchNorm after global pooling; or choose a batch size that leaves no "
            "rest"
        ) from None
    return "in training mode"


def gradients(subject: Subject) -> str:
    model = subject.build().train()
    bce(model(subject.images(2)), subject.masks(2)).mean().backward()
    every = dict(model.named_parameters())
    without = [name for name in every if every[name].requires_grad and every[name].grad is None]
    if without:
        raise UserError(
            f"no gradient reaches {len(without)} of {len(every)} parameters, such as "
            f"{', '.join(without[:3])}: use them, or take them out"
        )
    zero = [
        name for name in every if (grad := every[name].grad) is not None and not grad.abs().sum()
    ]
    return f"all {len(every)}" + (f"; zero in {', '.join(zero[:3])}" if zero else "")


def alone(subject: Subject) -> str:
    """In evaluation mode an image's logits are its own, whatever lies beside it in a batch."""
    model, images = subject.build().eval(), subject.images(3)
    together = logits_of(model, images)
    apart = torch.cat([logits_of(model, images[n : n + 1]) for n in range(3)])
    off = float((together - apart).abs().max())
    if not off <= CLOSE * max(1.0, float(together.abs().max())):
        raise UserError(
            f"in evaluation mode logits change by {off:.2g} with what else is in the batch: use "
            "no statistics of the batch there"
        )
    return f"at most {off:.1g} off"


def repeats(subject: Subject) -> str:
    """Equal seeds must give equal weights, and equal weights equal logits."""
    one, two = subject.build().eval(), subject.build().eval()
    for (name, first), second in zip(
        one.state_dict().items(), two.state_dict().values(), strict=True
    ):
        if not torch.equal(first, second):
            raise UserError(
                f"{name} differs between two networks of one seed: draw with torch's own generator"
            )
    images = subject.images(2)
    for mode in ("training", "evaluation"):
        found = []
        for model in (one, two):
            torch.manual_seed(1)  # dropout's
            found.append(logits_of(model.train(mode == "training"), images))
        if not torch.equal(*found):
            raise UserError(
                f"two networks with the same weights and seed differ in {mode}: draw with torch's "
                "own generator, and in evaluation nothing"
            )
    return "weights and logits, to the bit"


def file_of_weights(subject: Subject) -> str:
    """Runs end as safetensors, which holds each tensor once and nothing else."""
    model = subject.build().eval()
    check_trainable(model)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_weights(model, path)
        other = subject.build().eval()
        other.load_state_dict(load_file(path))
    images = subject.images(1)
    if not torch.equal(logits_of(model, images), logits_of(other, images)):
        raise UserError("weights that were saved and loaded give other logits")
    return "saved and loaded"


def cost(subject: Subject) -> str:
    """Parameters, arithmetic, and what a training step keeps for its backward pass."""
    model = subject.build().train()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = bce(model(subject.images(2)), subject.masks(2)).mean()
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    activations = sum(size for place, size in kept.items() if place not in own) / 2
    del loss
    # A weight, its gradient and Adam's two moments, four bytes each.
    step = 16 * parameters + activations * subject.batch_size
    gflops = forward_gflops(subject.config, *subject.size)
    return (
        f"{parameters:,} parameters, {gflops:.3g} GFLOP an image, about "
        f"{step / 1e6:,.1f} MB for a training step of {subject.batch_size} in float32"
    )


def onnx(subject: Subject) -> str:
    if missing := [name for name in ("onnx", "onnxruntime", "onnxscript") if not find_spec(name)]:
        raise NotCheckedError(f"without {', '.join(missing)}: pip install lesion-ablation[export]")
    segmenter = Segmenter(subject.build().eval())
    with torch.no_grad():  # its own faults are none of the export's
        segmenter(empty_images(1, subject.size))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            save_onnx(export_program(segmenter, subject.size), path, {})
        except Exception as error:  # torch's, of any kind
            told = " ".join(str(error).split())[:200]
            raise UserError(
                f"cannot be exported ({type(error).__name__}: {told}): leave the variant out of "
                "export in params.yaml; everything else works"
            ) from None
        off = largest_difference(onnx_call(path), torch_call(segmenter), subject.size)
    if not off <= TOLERANCE:
        raise UserError(f"a probability is {off:.2g} off: leave the variant out of export")
    return f"at most {off:.1g} off"


CHECKS: dict[str, Callable[[Subject], str]] = {
    "shape": shape,
    "other sizes": other_size,
    "batch of one": one_image,
    "gradients": gradients,
    "each image alone": alone,
    "repeatability": repeats,
    "file of weights": file_of_weights,
    "cost": cost,
    "ONNX": onnx,
}


def check(subject: Subject) -> Iterator[Check]:
    """Every demand in turn; what one raises is told, and the others go on. Where the first fails,
    that of the shape, no other is checked: each would fail of the same."""
    for name, demand in CHECKS.items():
        found = _check(name, demand, subject)
        yield found
        if name == "shape" and not found.passed:
            for other in list(CHECKS)[1:]:
                yield Check(other, None, "mend the shape first")
            return


def _check(name: str, demand: Callable[[Subject], str], subject: Subject) -> Check:
    try:
        return Check(name, True, demand(subject))
    except NotCheckedError as absent:
        return Check(name, None, str(absent))
    except (NetworkError, UserError) as fault:
        return Check(name, False, str(fault))
    except Exception as error:  # the network's own
        told = told_of_own_code(error) or f"{type(error).__name__}: {error}"
        return Check(name, False, f"its forward pass fails: {' '.join(told.split())[:300]}")
