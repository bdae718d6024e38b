"""params.yaml as typed, validated objects.

Every key must be there: a study hides no default (a variant's network is the exception; its
defaults are the paper's and stand in models/config.py). Stages run in the study's folder, and all
paths are relative to it.
"""

from __future__ import annotations

import argparse
import json
import re
import textwrap
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

from models import FAMILIES, AnyConfig, NetworkConfig, SmpConfig
from pipeline.study.errors import UserError


def _expect(expectation: str) -> WrapValidator:
    """Say in words what a value must be, whatever of it is found wrong."""

    def check(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        try:
            return validate(value)
        except ValidationError:
            raise ValueError(f"must be {expectation}, got {_shown(value)}") from None

    return WrapValidator(check)


def _shown(value: Any) -> str:
    """The value found, as params.yaml has it, cut to what fits a line."""
    if value is None:
        return "nothing"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _unique(values: list[Any]) -> list[Any]:
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise ValueError(f"must name each once, got {', '.join(map(repr, twice))} more than once")
    return values


Count = Annotated[int, Field(ge=1), _expect("a whole number of at least 1")]
Seed = Annotated[int, Field(ge=0, lt=2**32), _expect("a whole number from 0 to 4294967295")]
Side = Annotated[  # five halvings
    int, Field(ge=32, multiple_of=32), _expect("a multiple of 32 and at least 32")
]
Fraction = Annotated[float, Field(gt=0, lt=1), _expect("a number greater than 0 and less than 1")]
DrawnSide = Annotated[int, Field(ge=32), _expect("a whole number of at least 32")]
Share = Annotated[float, Field(ge=0, le=1), _expect("a number from 0 to 1")]
Positive = Annotated[float, Field(gt=0), _expect("a finite number greater than 0")]
NotNegative = Annotated[float, Field(ge=0), _expect("a finite number of at least 0")]
PositiveOrNull = Annotated[
    Annotated[float, Field(gt=0)] | None, _expect("a finite number greater than 0, or null")
]
Name = Annotated[  # names folders and DVC's stages
    str,
    Field(pattern=r"^[A-Za-z0-9_-]+$"),
    _expect("a name of letters, digits, - and _"),
]
Precision = Literal["auto", "float32", "bfloat16"]
OnProblem = Literal["stop", "skip"]  # a raw case that cannot be used ends the stage, or is left out
Resize = Literal["stretch", "center_crop", "pad"]
Resolution = Literal["network", "native"]
Loss = Literal["bce", "dice", "bce_dice", "focal"]
Select = Literal["last", "best_validation_dice"]
Averaging = Literal["flips", "seeds", "seeds_and_flips"]
Split = Literal["training", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


class Run(NamedTuple):
    """One variant trained with one seed and evaluated, on one fold of the cases."""

    variant: str
    seed: int
    fold: int


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
    archives: Annotated[str | None, _expect("a folder or null")]
    keep_archives: bool


class Directory(Block):
    """Cases the user has: the folder `raw` in the raw layout, or with flat images/ and masks/."""

    source: Literal["directory"]
    raw: str
    on_problem: OnProblem


class Synthetic(Block):
    """Drawn lesions, written to the folder `raw`: sizes in pixels, and cases for each split."""

    source: Literal["synthetic"]
    raw: str
    on_problem: OnProblem
    seed: Seed
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
    k: Annotated[int, Field(ge=3), _expect("a whole number of at least 3")]


class ListFile(Block):
    """A text file with an id a line, and its sha256: DVC follows params.yaml, not the file."""

    file: str
    sha256: str


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

    hash_distance: Annotated[int, Field(ge=0, le=128), _expect("a whole number from 0 to 128")]
    min_inliers: Annotated[int, Field(ge=3), _expect("a whole number of at least 3")]
    min_correlation: Share


class Prepare(Block):
    """How raw cases become arrays of height x width pixels, and how they are divided.

    `resize`: stretch the whole image, crop its centre to the proportions asked for, or pad with
    black to them. `near_duplicates`: null looks for none.
    """

    height: Side
    width: Side
    resize: Resize
    near_duplicates: NearDuplicates | None
    split: Annotated[
        OfficialSplit | RandomSplit | FoldSplit | ListSplit, Field(discriminator="method")
    ]


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
    momentum: Annotated[float, Field(ge=0, lt=1), _expect("a number of at least 0 and less than 1")]
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
    warmup_epochs: Annotated[int, Field(ge=0), _expect("a whole number of at least 0")]


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
        Annotated[int, Field(ge=1)] | None, _expect("a whole number of at least 1, or null")
    ]
    select: Select
    freeze_encoder: bool
    precision: Precision
    deterministic: bool
    augmentation: list[dict[str, dict[str, Any]]]

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
                    f"got {_shown(transform)}"
                )
        names = {name for transform in augmentation for name in transform}
        # albumentations takes a second to import: the paper's two flips are known without it.
        if names - {"HorizontalFlip", "VerticalFlip"}:
            import albumentations

            for name in sorted(names):
                found = getattr(albumentations, name, None)
                if not (
                    isinstance(found, type) and issubclass(found, albumentations.BasicTransform)
                ):
                    raise ValueError(f"must name transforms of albumentations, got {name!r}")
        return augmentation


class Evaluate(Block):
    """How test cases are scored: a pixel is lesion where p > threshold; a Jaccard index below
    `jaccard_threshold` counts as 0 in the challenge's thresholded Jaccard.

    `resolution`: at the network's size, or beside that at the original image's too, against the raw
    masks, as the challenge scores. `surface_tolerance`: pixels of the network's size by which an
    outline may be off in the normalised surface Dice. `calibration_bins`: of the probability, for
    reliability and its error.
    """

    batch_size: Count
    precision: Precision
    threshold: Fraction
    jaccard_threshold: Share
    resolution: Resolution
    surface_tolerance: NotNegative
    calibration_bins: Count


class Compare(Block):
    """The statistics over seeds that the protocol leaves open.

    baseline: the variant that the others are held against; null for none, as one that the study
    does not run. equivalence_margin: Dice by which two variants may differ and be called equal.
    draws, seed: of the bootstraps.
    """

    baseline: Annotated[Name | None, _expect("an entry under models, or null")]
    equivalence_margin: Positive
    draws: Annotated[int, Field(ge=1000), _expect("a whole number of at least 1000")]
    seed: Seed


class Tracking(Block):
    """`live`: log each epoch to MLflow while training. Either way the stage `track` completes the
    record at the end; short studies save each process's seconds of opening the store.
    `required`: a live run does not start without the store; false trains on with a warning."""

    live: bool
    required: bool


def family(network: Any) -> str:
    """Which kind of network an entry under `models:` is; the paper's where it does not say."""
    if isinstance(network, dict):
        return str(network.get("family", "attenresunet"))
    return str(getattr(network, "family", "attenresunet"))


def needs(network: AnyConfig) -> str:
    """What is to be installed for the network's family, in words; empty where all is there."""
    family = FAMILIES[network.family]
    missing = [package for package in family.packages if find_spec(package) is None]
    if not missing:
        return ""
    wanted = " and ".join(missing)
    return f"{network.family!r} needs {wanted}: pip install lesion-ablation[{family.extra}]"


Network = Annotated[
    Annotated[NetworkConfig, Tag("attenresunet")] | Annotated[SmpConfig, Tag("smp")],
    Discriminator(family),
]


class Study(Block):
    """A protocol: one params.yaml, and where its files are.

    `averaging`: whose probabilities are averaged and scored beside single networks': an image's
    four flips, the networks of all seeds, or both. `export`: variants whose network of the first
    seed and fold is written for use elsewhere.
    """

    name: Name
    code: str  # where the sources are, seen from the study's folder; read by dvc.yaml
    data: Annotated[Isic2018 | Directory | Synthetic, Field(discriminator="source")]
    prepare: Prepare
    train: Train
    focal: Focal
    evaluate: Evaluate
    compare: Compare
    tracking: Tracking
    loader_workers: Annotated[
        Annotated[int, Field(ge=0)] | Literal["auto"],
        _expect("auto or a whole number of at least 0"),
    ]
    seeds: Annotated[list[Seed], Field(min_length=1), AfterValidator(_unique)]
    folds: Annotated[list[Seed], Field(min_length=1), AfterValidator(_unique)]
    models: dict[Name, Network]
    variants: Annotated[list[Name], Field(min_length=1), AfterValidator(_unique)]
    averaging: Annotated[list[Averaging], AfterValidator(_unique)]
    export: Annotated[list[Name], AfterValidator(_unique)]

    _folder: Path = PrivateAttr(default=Path())

    @field_validator("folds")
    @classmethod
    def _of_the_split(cls, folds: list[int], fields: ValidationInfo) -> list[int]:
        prepare = fields.data.get("prepare")  # absent if it has errors of its own
        if prepare is not None:
            split = prepare.split
            most = split.k if split.method == "folds" else 1
            if max(folds) >= most:
                last = f"from 0 to {most - 1}" if most > 1 else "[0]"
                raise ValueError(
                    f"must be {last} with prepare.split.method {split.method}, got {folds}"
                )
        return folds

    @field_validator("variants")
    @classmethod
    def _have_models(cls, variants: list[str], fields: ValidationInfo) -> list[str]:
        models = fields.data.get("models", variants)  # absent if it has errors of its own
        unknown = [repr(variant) for variant in variants if variant not in models]
        if unknown:
            raise ValueError(
                f"must be entries under models ({', '.join(models)}), got {', '.join(unknown)}"
            )
        return variants

    @field_validator("averaging")
    @classmethod
    def _have_several_seeds(
        cls, averaging: list[Averaging], fields: ValidationInfo
    ) -> list[Averaging]:
        seeds = fields.data.get("seeds")  # absent if it has errors of its own
        ensembles = [name for name in averaging if name != "flips"]
        if seeds is not None and len(seeds) < 2 and ensembles:
            raise ValueError(
                f"must name {' and '.join(ensembles)} only with two seeds or more, got seeds "
                f"{seeds}"
            )
        return averaging

    @field_validator("export")
    @classmethod
    def _are_variants(cls, export: list[str], fields: ValidationInfo) -> list[str]:
        variants = fields.data.get("variants", export)  # absent if it has errors of its own
        unknown = [repr(name) for name in export if name not in variants]
        if unknown:
            raise ValueError(
                f"must be among variants ({', '.join(variants)}), got {', '.join(unknown)}"
            )
        return export

    @model_validator(mode="after")
    def _have_packages(self) -> Study:
        for variant in self.variants:
            if needed := needs(self.models[variant]):
                raise ValueError(f"models.{variant}.family {needed}")
        return self

    @model_validator(mode="after")
    def _freezes_pretrained_encoders(self) -> Study:
        random = [name for name in self.variants if self.models[name].weights == "none"]
        if self.train.freeze_encoder and random:
            keys = ", ".join(f"models.{name}.weights" for name in random)
            raise ValueError(
                f"{keys} must be imagenet or a file with train.freeze_encoder true (a plain "
                "encoder has neither: take its variant out), got 'none'"
            )
        return self

    @property
    def folder(self) -> Path:
        return self._folder

    @property
    def raw_dir(self) -> Path:
        return self._folder / self.data.raw

    @property
    def source_file(self) -> Path:
        return self._folder / "data" / "source.json"

    @property
    def manifest_file(self) -> Path:
        return self._folder / "data" / "manifest.csv"

    @property
    def results_file(self) -> Path:
        return self.reports_dir / "results.json"

    @property
    def averaged_file(self) -> Path:
        return self.reports_dir / "averaged.csv"

    @property
    def exported_dir(self) -> Path:
        return self.reports_dir / "exported"

    @property
    def prepared_dir(self) -> Path:
        return self._folder / "data" / "prepared"

    @property
    def reports_dir(self) -> Path:
        return self._folder / "reports"

    def run_dir(self, variant: str, seed: int, fold: int = 0) -> Path:
        return self._folder / "runs" / variant / str(seed) / str(fold)

    def resume_file(self, variant: str, seed: int, fold: int = 0) -> Path:
        return self._folder / ".resume" / variant / str(seed) / f"{fold}.safetensors"

    def evaluation_dir(self, variant: str, seed: int, fold: int = 0) -> Path:
        return self.run_dir(variant, seed, fold) / "evaluation"

    def runs(self) -> list[Run]:
        """Every run of the study, in the order of params.yaml."""
        return [
            Run(variant, seed, fold)
            for variant in self.variants
            for seed in self.seeds
            for fold in self.folds
        ]

    def label(self, run: Run) -> str:
        """The run in words; the fold where the study has several."""
        words = f"{run.variant}, seed {run.seed}"
        return words if self.folds == [0] else f"{words}, fold {run.fold}"

    def check_exports(self) -> None:
        """Raise UserError for exports without the packages that they need."""
        packages = ("onnx", "onnxruntime", "onnxscript")
        absent = [name for name in packages if find_spec(name) is None]
        if self.export and absent:
            raise UserError(
                f"{self._folder / 'params.yaml'}: export needs {' and '.join(absent)}: pip install "
                "lesion-ablation[export], or leave it empty"
            )

    def check_inputs(self) -> None:
        """Raise UserError for a named folder or weights file that is not there, for raw cases that
        would be lost with the outputs, and for a network that another package does not have."""
        raw, prepared = self.raw_dir.resolve(), self.prepared_dir.resolve()
        if raw == prepared or raw in prepared.parents or prepared in raw.parents:
            raise UserError(
                f"{self._folder / 'params.yaml'}: data.raw must lie beside data/prepared, which is "
                f"replaced by each preparation, got {self.data.raw!r}; move the cases to another "
                "folder"
            )
        if self.data.source == "directory" and not self.raw_dir.is_dir():
            raise UserError(
                f"{self._folder / 'params.yaml'}: data.raw must be an existing folder of cases, "
                f"got {self.data.raw!r}; fill that folder or link it to where the cases are"
            )
        for variant in self.variants:
            weights = self.models[variant].weights
            if weights not in ("none", "imagenet") and not (self._folder / weights).is_file():
                raise UserError(
                    f"{self._folder / 'params.yaml'}: models.{variant}.weights must be imagenet, "
                    f"none or an existing file, got {weights!r}"
                )
        for variant in self.variants:
            network, height, width = self.models[variant], self.prepare.height, self.prepare.width
            if isinstance(network, SmpConfig):
                from models.smp import check  # with torch: seconds

                try:
                    check(network, height, width)
                except ValueError as error:
                    raise UserError(
                        f"{self._folder / 'params.yaml'}: models.{variant} must be a network of "
                        f"segmentation_models_pytorch for {height}x{width} pixels, got "
                        f"{network.architecture!r} on {network.encoder!r}: "
                        f"{textwrap.shorten(str(error), 300)}"
                    ) from None


def load_study(folder: Path = Path()) -> Study:
    """Read and validate `folder`/params.yaml.

    Raises UserError naming every key that is missing, unknown or out of range.
    """
    path = folder / "params.yaml"
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: run in a study's folder (the root, or studies/<name>)"
        ) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{path} is not valid YAML{place}: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    try:
        # Through JSON, because strict validation takes a list for a tuple there and nowhere else.
        study = Study.model_validate_json(json.dumps(content, default=str))
    except ValidationError as invalid:
        lines = [f"{path}: {_sentence(error)}" for error in invalid.errors()]
        raise UserError("\n       ".join(lines)) from None
    here = folder.resolve()
    if here.parent.name == "studies" and study.name != here.name:
        raise UserError(
            f"{path}: name must be that of its folder, {here.name!r}, got {study.name!r}: MLflow "
            "knows a study by its name"
        )
    study._folder = folder
    return study


def parse_run(study: Study, arguments: Sequence[str] | None = None) -> Run:
    """The variant, seed and fold (0 if not given) on the command line, all among the study's.

    Raises UserError for one that the study does not have.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("variant", help="an entry under variants in params.yaml")
    parser.add_argument("seed", type=int, help="one of seeds in params.yaml")
    parser.add_argument("fold", type=int, nargs="?", default=0, help="one of folds in params.yaml")
    given = parser.parse_args(arguments)
    for what, value, allowed in (
        ("variant", given.variant, study.variants),
        ("seed", given.seed, study.seeds),
        ("fold", given.fold, study.folds),
    ):
        if value not in allowed:
            raise UserError(
                f"{what} must be one of {what}s in params.yaml ({', '.join(map(str, allowed))}), "
                f"got {value!r}"
            )
    return Run(given.variant, given.seed, given.fold)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's floats, as DVC reads them: 1e-3 is a number, in YAML 1.1 it is a string."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a block of keys",
    "model_type": "a block of keys",
    "dataclass_type": "a block of keys",
    "model_attributes_type": "a block of keys",
    "too_short": "a list of at least one entry",
}


def _sentence(error: Any) -> str:
    """pydantic's error as key, expectation, value found."""
    kind, context, value = error["type"], error.get("ctx", {}), error["input"]
    steps = [str(step) for step in error["loc"] if step != "[key]"]
    # Into a block that has kinds, pydantic's path goes by the kind's name: no key of the file.
    for block in (["data"], ["prepare", "split"], ["train", "optimizer"]):
        if steps[: len(block)] == block:
            del steps[len(block) : len(block) + 1]
    if steps[:1] == ["models"]:  # the same, below the variant's name
        del steps[2:3]
    if kind.startswith("union_tag"):
        named_by = context["discriminator"].strip("'()")
        steps.append(named_by)
        value = value.get(named_by)
    key = ".".join(steps) or "the file"
    if kind in ("missing", "union_tag_not_found"):
        return f"{key} is missing"
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{key} is an unknown key; remove it or correct its spelling"
    if kind == "value_error":
        told = str(context["error"])
        if not steps:
            return told  # Study's own checks name their keys
        # NetworkConfig's own checks begin with the key, seen from its block.
        return f"{key}{' ' if told.startswith('must') else '.'}{told}"
    if kind == "literal_error":
        expected = context["expected"].replace("'", "")
    elif kind == "union_tag_invalid":
        expected = " or ".join(context["expected_tags"].replace("'", "").rsplit(", ", 1))
    else:
        expected = _EXPECTED.get(kind, error["msg"])
    return f"{key} must be {expected}, got {_shown(value)}"
