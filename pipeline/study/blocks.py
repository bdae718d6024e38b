"""The blocks of params.yaml, one class each: its keys, what they may be, what they do.

Every key must be there: a study hides no default (a variant's network is the exception; its
defaults are the paper's and stand with its family, in models/)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from models.config import CHANNELS
from pipeline.study.values import (
    Count,
    Depth,
    DrawnSide,
    Fraction,
    Loss,
    Name,
    NotNegative,
    OnProblem,
    Positive,
    PositiveOrNull,
    Precision,
    Resize,
    Resolution,
    Seed,
    Select,
    Share,
    Side,
    expect,
    shown,
    size_of,
    unique,
)


class Block(BaseModel):
    """A block of params.yaml: no unknown key, no conversion of types, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Isic2018(Block):
    """The official archives of ISIC 2018 task 1, unpacked into the folder `raw`.

    `archives`: a folder that has them, read and never changed; null downloads them into
    `raw`/archives, where they stay after unpacking if `keep_archives`.
    """

    source: Literal["isic2018"]
    raw: str
    on_problem: OnProblem
    archives: Annotated[str | None, expect("a folder or null")]
    keep_archives: bool


class Directory(Block):
    """Cases the user has: the folder `raw` in the raw layout, or with flat images/ and masks/."""

    source: Literal["directory"]
    raw: str
    on_problem: OnProblem


class Synthetic(Block):
    """Drawn lesions, or blobs in volumes of `depth` voxels, written to the folder `raw`: sizes in
    pixels, and cases for each split. `depth`: null of pictures."""

    source: Literal["synthetic"]
    raw: str
    on_problem: OnProblem
    seed: Seed
    depth: Depth
    height: DrawnSide
    width: DrawnSide
    training: Count
    validation: Count
    test: Count


class OfficialSplit(Block):
    """The challenge's: its Training, Validation and Test folders."""

    method: Literal["official"]


class RandomSplit(Block):
    """All cases shuffled by `seed` and divided by the fractions; a group is never divided."""

    method: Literal["random"]
    seed: Seed
    training: Fraction
    validation: Fraction
    test: Fraction

    @model_validator(mode="after")
    def _sums_to_one(self) -> RandomSplit:
        total = self.training + self.validation + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"must have training + validation + test = 1, got {total:g}")
        return self


class FoldSplit(Block):
    """Cross-validation: all cases shuffled by `seed` into `k` folds; a group is never divided.

    Fold f of the runs tests on part f, validates on the next and trains on the others.
    """

    method: Literal["folds"]
    seed: Seed
    k: Annotated[int, Field(ge=3), expect("a whole number of at least 3")]


class DeclaredFile(Block):
    """A text file that the user has, and its sha256: DVC follows params.yaml, not the file."""

    file: str
    sha256: str


class ListFile(DeclaredFile):
    """One with an id a line."""


class ListSplit(Block):
    """Ids listed in files; a case in none of them is not used."""

    method: Literal["lists"]
    training: ListFile
    validation: ListFile
    test: ListFile


class NearDuplicates(Block):
    """From where on two cases show one photograph (pipeline/data/duplicates.py).

    hash_distance: bits of 128 by which local features that may be the same differ at most.
    min_inliers: features that one affine map must carry from one picture to the other.
    min_correlation: of the two pictures' details under that map, at least.
    """

    hash_distance: Annotated[int, Field(ge=0, le=128), expect("a whole number from 0 to 128")]
    min_inliers: Annotated[int, Field(ge=3), expect("a whole number of at least 3")]
    min_correlation: Share


class GroupFile(DeclaredFile):
    """Known groups of cases, as a lesion's photographs or a patient's: a CSV of a row a case.

    `id`: the column that names cases. `column`: the one that names their group. A case that no row
    names, or whose cell is empty, is a group of its own.
    """

    id: Annotated[str, Field(min_length=1), expect("a column's name")]
    column: Annotated[str, Field(min_length=1), expect("a column's name")]

    @field_validator("column")
    @classmethod
    def _is_another(cls, column: str, fields: ValidationInfo) -> str:
        if column == fields.data.get("id"):
            raise ValueError(f"must be another column than prepare.groups.id, got {column!r}")
        return column


class Prepare(Block):
    """How raw cases become arrays of height x width pixels, or volumes of depth x height x width
    voxels, and how they are divided.

    `depth`, `foreground`: of volumes; null of pictures. `foreground`: which of a mask's labels are
    lesion, all but 0 or those listed. `resize`: stretch the whole image, crop its centre to the
    proportions asked for, or pad with black to them. `near_duplicates`: null looks for none.
    `groups`: null knows of none; cases of one group are kept together as near-duplicates are.
    """

    depth: Depth
    height: Side
    width: Side
    foreground: Annotated[
        Literal["nonzero"] | Annotated[list[Count], Field(min_length=1)] | None,
        expect("nonzero or a list of labels such as [1, 2] of volumes, null of pictures"),
    ]
    resize: Resize
    near_duplicates: NearDuplicates | None
    groups: GroupFile | None
    split: Annotated[
        OfficialSplit | RandomSplit | FoldSplit | ListSplit, Field(discriminator="method")
    ]

    @property
    def size(self) -> tuple[int, ...]:
        """Of what a network sees: height and width in pixels, of volumes depth before them."""
        return size_of(self.depth, self.height, self.width)

    @property
    def channels(self) -> int:
        """Of what a network sees: pictures are in colour, volumes in grey."""
        return CHANNELS[len(self.size)]

    # Of volumes; a depth is absent from the data if it has an error of its own.
    @field_validator("foreground")
    @classmethod
    def _of_volumes(cls, foreground: Any, fields: ValidationInfo) -> Any:
        if fields.data.get("depth", 0) is None and foreground is not None:
            raise ValueError(
                f"must be null with prepare.depth null, got {shown(foreground)}: a picture's mask "
                "is black and white"
            )
        if fields.data.get("depth") is not None and foreground is None:
            raise ValueError("must be nonzero or a list of labels with a prepare.depth, got null")
        return foreground

    @field_validator("resize")
    @classmethod
    def _stretches_volumes(cls, resize: Resize, fields: ValidationInfo) -> Resize:
        if fields.data.get("depth") is not None and resize != "stretch":
            raise ValueError(f"must be stretch with a prepare.depth, got {resize!r}")
        return resize

    @field_validator("near_duplicates")
    @classmethod
    def _of_pictures(cls, near: NearDuplicates | None, fields: ValidationInfo) -> Any:
        if fields.data.get("depth") is not None and near is not None:
            raise ValueError(
                f"must be null with a prepare.depth, got {shown(near.model_dump())}: scans of one "
                "region of the body are alike in what near-duplicates are found by"
            )
        return near


class Focal(Block):
    """The focal loss's constants (Lin et al. 2017), in training curves and evaluation alike."""

    alpha: Share
    gamma: NotNegative


class Adam(Block):
    """torch's Adam or AdamW; `weight_decay` is added to Adam's gradient and taken by AdamW straight
    off the weights. `encoder_learning_rate`: the encoder's own; null is learning_rate."""

    method: Literal["adam", "adamw"]
    learning_rate: Positive
    encoder_learning_rate: PositiveOrNull
    weight_decay: NotNegative


class SGD(Block):
    """torch's stochastic gradient descent; keys as in Adam, and its momentum."""

    method: Literal["sgd"]
    learning_rate: Positive
    encoder_learning_rate: PositiveOrNull
    weight_decay: NotNegative
    momentum: Annotated[float, Field(ge=0, lt=1), expect("a number of at least 0 and less than 1")]
    nesterov: bool

    @field_validator("nesterov")
    @classmethod
    def _has_momentum(cls, nesterov: bool, fields: ValidationInfo) -> bool:
        if nesterov and fields.data.get("momentum") == 0:
            raise ValueError("must be false with momentum 0, got true")
        return nesterov


class Schedule(Block):
    """What becomes of the learning rates, step by step.

    Over `warmup_epochs` they rise linearly to the optimizer's; then they stay (`constant`) or fall
    to 0 by half a cosine (`cosine`), which they would reach one step after the last epoch.
    """

    method: Literal["constant", "cosine"]
    warmup_epochs: Annotated[int, Field(ge=0), expect("a whole number of at least 0")]


class Train(Block):
    """The training protocol (paper section 9).

    `loss`: what training minimises; bce_dice is the sum of both, focal has the constants of the
    block of that name. `gradient_clip`: the largest norm of the whole gradient; null does not clip.
    `early_stopping`: training ends after so many epochs without a better validation Dice; null
    trains every epoch. `select`: the epoch whose weights are kept and evaluated.
    `freeze_encoder`: the encoder's weights and BatchNorm statistics stay as they were loaded; the
    attention modules that stand between its layers are new and are trained. `deterministic`: only
    kernels that repeat to the bit; false takes the fastest that a GPU has.
    """

    epochs: Count
    batch_size: Count
    loss: Loss
    optimizer: Annotated[Adam | SGD, Field(discriminator="method")]
    schedule: Schedule
    gradient_clip: PositiveOrNull
    early_stopping: Annotated[
        Annotated[int, Field(ge=1)] | None, expect("a whole number of at least 1, or null")
    ]
    select: Select
    freeze_encoder: bool
    precision: Precision
    deterministic: bool
    augmentation: list[dict[str, dict[str, Any]]]

    def encoder_key(self) -> str:
        """The key that treats the encoder apart from the rest; empty where none does."""
        if self.freeze_encoder:
            return "train.freeze_encoder"
        apart = self.optimizer.encoder_learning_rate is not None
        return "train.optimizer.encoder_learning_rate" if apart else ""

    @field_validator("schedule")
    @classmethod
    def _warms_up_in_time(cls, schedule: Schedule, fields: ValidationInfo) -> Schedule:
        epochs = fields.data.get("epochs")  # absent if it has an error of its own
        if epochs is not None and schedule.warmup_epochs >= epochs:
            raise ValueError(
                f"warmup_epochs must be less than train.epochs, {epochs}, "
                f"got {schedule.warmup_epochs}"
            )
        return schedule

    @field_validator("early_stopping")
    @classmethod
    def _stops_early(cls, early_stopping: int | None, fields: ValidationInfo) -> int | None:
        epochs = fields.data.get("epochs")
        if early_stopping is not None and epochs is not None and early_stopping >= epochs:
            raise ValueError(
                f"must be less than train.epochs, {epochs}, or null, got {early_stopping}"
            )
        return early_stopping

    @field_validator("freeze_encoder")
    @classmethod
    def _needs_no_rate(cls, freeze_encoder: bool, fields: ValidationInfo) -> bool:
        optimizer = fields.data.get("optimizer")
        rate = None if optimizer is None else optimizer.encoder_learning_rate
        if freeze_encoder and rate is not None:
            raise ValueError(
                f"must be false with train.optimizer.encoder_learning_rate {rate:g} (null it, or "
                "train the encoder), got true"
            )
        return freeze_encoder

    @field_validator("augmentation")
    @classmethod
    def _known_transforms(
        cls, augmentation: list[dict[str, dict[str, Any]]]
    ) -> list[dict[str, dict[str, Any]]]:
        for transform in augmentation:
            if len(transform) != 1:
                raise ValueError(
                    "must be a list of single entries such as HorizontalFlip: {p: 0.5}, "
                    f"got {shown(transform)}"
                )
        names = {name for transform in augmentation for name in transform}
        # albumentations takes a second to import: the flips are known without it.
        if others := names - {"HorizontalFlip", "VerticalFlip", "DepthFlip"}:
            import albumentations

            for name in sorted(others):
                found = getattr(albumentations, name, None)
                if not (
                    isinstance(found, type) and issubclass(found, albumentations.BasicTransform)
                ):
                    raise ValueError(f"must name transforms of albumentations, got {name!r}")
        return augmentation


class AllTest(Block):
    """Every case is a test case: of external test sets."""

    method: Literal["all_test"] = "all_test"


class External(Block):
    """A test set beside the study's own: the folder `raw` in the raw layout, or with flat images/
    and masks/. No network trains on it, and all of its cases are tested."""

    name: Name
    raw: str
    on_problem: OnProblem


class Evaluate(Block):
    """How test cases are scored: a pixel is lesion where p > threshold; a Jaccard index below
    `jaccard_threshold` counts as 0 in the challenge's thresholded Jaccard.

    `resolution`: at the network's size, or beside that at the original image's too, against the raw
    masks, as the challenge scores. `surface_tolerance`: pixels of the network's size by which an
    outline may be off in the normalised surface Dice, and millimetres at a volume's original size.
    `calibration_bins`: of the probability, for reliability and its error. `external`: other test
    sets that each trained network is scored on.
    """

    batch_size: Count
    precision: Precision
    threshold: Fraction
    jaccard_threshold: Share
    resolution: Resolution
    surface_tolerance: NotNegative
    calibration_bins: Count
    external: list[External]

    @field_validator("external")
    @classmethod
    def _have_names_of_their_own(cls, external: list[External]) -> list[External]:
        unique([each.name for each in external])
        return external


class Compare(Block):
    """The statistics over seeds that the protocol leaves open.

    baseline: the variant that the others are held against; null for none, as one that the study
    does not run. failure_drop: Dice by which a failed run lies below the upper quartile of its
    variant's runs, at least (statistics/failures.py). equivalence_margin: Dice by which two
    variants may differ and be called equal. draws, seed: of the bootstrap.
    """

    baseline: Annotated[Name | None, expect("an entry under models, or null")]
    failure_drop: Positive
    equivalence_margin: Positive
    draws: Annotated[int, Field(ge=1000), expect("a whole number of at least 1000")]
    seed: Seed


class Tracking(Block):
    """`live`: log each epoch to MLflow while training. Either way the stage `track` completes the
    record at the end; short studies save each process's seconds of opening the store.
    `required`: a live run does not start without the store; false trains on with a warning."""

    live: bool
    required: bool
