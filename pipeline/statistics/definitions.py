"""What each metric of the comparison means, in the order that tables show them in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipeline.study.values import HEADLINES

if TYPE_CHECKING:
    from pipeline.study.params import Study


Better = Literal["higher", "lower"]
Bounds = tuple[float, float | None]  # the least, and the largest where there is one
SHARE: Bounds = (0.0, 1.0)
AMOUNT: Bounds = (0.0, None)


@dataclass(frozen=True)
class Metric:
    """A column of the comparison.

    definition: one sentence; {jaccard_threshold} and the like stand for the study's constants
        (str.format), see state().
    bounds: of its values; None where they are not known.
    """

    label: str
    better: Better
    definition: str
    bounds: Bounds | None = SHARE


METRICS: dict[str, Metric] = {
    "dice": Metric(
        "Dice",
        "higher",
        "Mean per-case Dice: 2 TP / (2 TP + FP + FN) of each test case, then the mean over cases. "
        "Primary metric, fixed before looking.",
    ),
    "iou": Metric(
        "IoU",
        "higher",
        "Mean per-case intersection over union (Jaccard index): TP / (TP + FP + FN) of each test "
        "case, then the mean over cases.",
    ),
    "focal_loss": Metric(
        "Focal loss",
        "lower",
        "Sigmoid focal loss, alpha {alpha:g}, gamma {gamma:g} (Lin et al. 2017, torchvision's "
        "form), mean over pixels, then over cases. It needs no threshold.",
        AMOUNT,
    ),
    "sensitivity": Metric(
        "Sensitivity",
        "higher",
        "Mean per-case TP / (TP + FN): the share of the lesion's pixels that is found.",
    ),
    "specificity": Metric(
        "Specificity",
        "higher",
        "Mean per-case TN / (TN + FP): the share of the background's pixels that is left alone.",
    ),
    "thresholded_jaccard": Metric(
        "Thresholded Jaccard",
        "higher",
        "The ISIC 2018 challenge's score: a case's IoU, or 0 where it is below "
        "{jaccard_threshold:g}, then the mean over cases.",
    ),
    "pooled_dice": Metric(
        "Pooled Dice",
        "higher",
        "2 TP / (2 TP + FP + FN) with the pixels of all test cases counted together, so that "
        "large lesions weigh more. Not comparable with the mean per-case Dice.",
    ),
    "hausdorff_95": Metric(
        "Hausdorff distance 95 %",
        "lower",
        "The larger of the 95th percentiles of the distances from each outline's pixels to the "
        "other outline (MONAI), in pixels of the prepared size, mean over cases. Truth and "
        "prediction both empty: 0; one of them empty: the picture's diagonal, the worst there is.",
        AMOUNT,
    ),
    "surface_dice": Metric(
        "Normalised surface Dice",
        "higher",
        "The share of both outlines' pixels that lie within {surface_tolerance} of the "
        "other outline (MONAI), at the prepared size, mean over cases. Both empty: 1; one: 0.",
    ),
    "boundary_iou": Metric(
        "Boundary IoU",
        "higher",
        "The IoU of the lesion's pixels within 2 % of the diagonal from its outline (Cheng et al. "
        "2021), at the prepared size, mean over cases. Both empty: 1; one: 0.",
    ),
    "brier": Metric(
        "Brier score",
        "lower",
        "Mean squared distance of the probability from the truth, mean over pixels, then over "
        "cases. It needs no threshold.",
    ),
    "expected_calibration_error": Metric(
        "Expected calibration error",
        "lower",
        "The distance between mean probability and observed share of lesion in each of "
        "{calibration_bins} equal bins of the probability, weighed by their pixels, those of all "
        "test cases together.",
    ),
    "native_dice": Metric(
        "Native Dice",
        "higher",
        "Mean per-case Dice at the original's size{as_challenge}: probabilities laid "
        "back {laid_back}, what preparing did undone, then thresholded, against the raw mask.",
    ),
    "native_iou": Metric("Native IoU", "higher", "The same of IoU."),
    "native_thresholded_jaccard": Metric(
        "Native thresholded Jaccard",
        "higher",
        "The same of thresholded Jaccard: what the ISIC 2018 challenge ranked by.",
    ),
    "native_hausdorff_95": Metric(
        "Native Hausdorff distance 95 %",
        "lower",
        "Hausdorff distance 95 % at the original's size, in millimetres by the volume's spacing.",
        AMOUNT,
    ),
    "native_surface_dice": Metric(
        "Native normalised surface Dice",
        "higher",
        "Normalised surface Dice at the original's size, within {surface_tolerance_mm:g} mm.",
    ),
}
OF_VOLUMES = {"pixel": "voxel", "picture": "volume", "outline": "surface"}  # in what is said
IN_MILLIMETRES = ("native_hausdorff_95", "native_surface_dice")  # of volumes alone
POOLED = ("pooled_dice", "expected_calibration_error")  # of all cases' pixels together
CASE_METRICS = tuple(name for name in METRICS if name not in POOLED)
AVERAGED = (*HEADLINES, "thresholded_jaccard", "brier")  # of averaged probabilities
PRIMARY = "dice"  # fixed before looking; the rest is secondary
FEWEST_SEEDS = 7  # below, what is said of several runs is descriptive


# Words in the names of metrics of which less is better, as other tools write them.
LESS = {
    "hausdorff", "hd", "distance", "assd", "asd", "masd", "msd", "loss", "error", "ece", "brier",
    "fn", "fp", "fpr", "fnr", "false", "mae", "mse", "rmse", "rvd",
}  # fmt: skip


# Words in the names of metrics that are shares, if none of LESS is in them.
SHARES = {"dice", "dsc", "iou", "miou", "jaccard"}


# Words beside "dice" in the names of what is no Dice of pixels.
NOT_DICE = {"surface", "loss", "boundary", "error", "pooled"}


def metric_of(name: str) -> Metric:
    """One of METRICS; of another name, which another tool scored by, what the name says of it."""
    if name in METRICS:
        return METRICS[name]
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name.replace("IoU", " iou "))
    words = {word.lower() for word in parts}
    better: Better = "lower" if LESS & words else "higher"
    bounds = SHARE if SHARES & words and not LESS & words else None
    return Metric(name, better, f"As the table has it; {better} is taken to be better.", bounds)


def names_dice(name: str) -> bool:
    """Whether another tool's metric is the Dice of a case's pixels, by its name."""
    words = re.sub(r"[^a-z]+", " ", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()).split()
    return bool({"dice", "dsc"} & set(words)) and not NOT_DICE & set(words)


def metrics_of(study: Study) -> list[str]:
    """The names of METRICS that the study's runs are scored by."""
    left_out = () if study.prepare.depth is not None else IN_MILLIMETRES
    native = study.evaluate.resolution == "native"
    return [
        name
        for name in METRICS
        if name not in left_out and (native or not name.startswith("native_"))
    ]


def state(study: Study) -> list[tuple[str, str]]:
    """(label, definition) of every metric, with the study's constants."""
    tolerance = study.evaluate.surface_tolerance
    constants = {
        "jaccard_threshold": study.evaluate.jaccard_threshold,
        "alpha": study.focal.alpha,
        "gamma": study.focal.gamma,
        "surface_tolerance": f"{tolerance:g} pixel{'' if tolerance == 1 else 's'}",
        "surface_tolerance_mm": tolerance,
        "as_challenge": ", as the challenge scores" if study.prepare.depth is None else "",
        "laid_back": "bilinearly" if study.prepare.depth is None else "trilinearly",
        "calibration_bins": study.evaluate.calibration_bins,
    }
    metrics = [METRICS[name] for name in metrics_of(study)]
    stated = [(metric.label, metric.definition.format(**constants)) for metric in metrics]
    shared = (
        f"A pixel is lesion where p > {study.evaluate.threshold:g}; TP, FP, FN and TN count a "
        "case's pixels at the prepared size, unless a metric says otherwise. A ratio of 0 to 0 is "
        "1: truth and prediction both empty give Dice = IoU = 1."
    )
    stated = [("Pixels and empty masks", shared), *stated]
    depth = study.prepare.depth
    return [(say(label, depth), say(definition, depth)) for label, definition in stated]


def say(text: str, depth: int | None) -> str:
    """What is said of pictures, said of volumes where prepare.depth is one's."""
    if depth is not None:
        for flat, deep in OF_VOLUMES.items():
            text = text.replace(flat, deep).replace(flat.capitalize(), deep.capitalize())
    return text
