"""A study: one params.yaml as an object, and where its files are.

Stages run in the study's folder, and all paths are relative to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Union

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    Tag,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from models import NetworkConfig, families
from pipeline.study.blocks import (
    AllTest,
    Block,
    Compare,
    Directory,
    Evaluate,
    Focal,
    Isic2018,
    Prepare,
    Synthetic,
    Tracking,
    Train,
)
from pipeline.study.errors import UserError
from pipeline.study.paper import TOPICS, Factors, Paper, check_crossed, value_of
from pipeline.study.run_files import range_of
from pipeline.study.values import METRIC_NAMES, Averaging, Name, Seed, expect, unique


class Run(NamedTuple):
    """One variant trained with one seed and evaluated, on one fold of the cases."""

    variant: str
    seed: int
    fold: int


def original(folder: Path) -> Path:
    """`folder`, or, within a copy that DVC made of a repository, that repository's root."""
    resolved = folder.resolve()
    for parent in resolved.parents:
        if parent.parts[-3:] == (".dvc", "tmp", "exps"):
            return parent.parents[2]
    return folder


def family(network: Any) -> str:
    """Which kind of network an entry under `models:` is; the paper's where it does not say."""
    if isinstance(network, dict):
        return str(network.get("family", "attenresunet"))
    return str(getattr(network, "family", "attenresunet"))


def needs(network: NetworkConfig) -> str:
    """What is to be installed for the network's family, in words; empty where all is there."""
    missing = [package for package in network.packages if find_spec(package) is None]
    if not missing:
        return ""
    wanted = " and ".join(missing)
    return f"{network.family!r} needs {wanted}: pip install lesion-ablation[{network.extra}]"


if TYPE_CHECKING:
    Network = NetworkConfig
else:
    Network = Annotated[
        Union[tuple(Annotated[config, Tag(name)] for name, config in families().items())],  # noqa: UP007
        Discriminator(family),
    ]


class Study(Block):
    """A protocol: one params.yaml, and where its files are.

    `own_training`: the block `train` of variants that have keys of it for themselves, as `train` in
    their entries under `models` (study/reading.py). `averaging`: whose probabilities are averaged
    and scored beside single networks': an image's four flips, the networks of all seeds, or both.
    `export`: variants whose network of the first seed and fold is written for use elsewhere.
    `paper`: what the study is held against; null for none. `factors`: a crossed design whose
    effects are told, variant -> the factors that it has; empty for none. `tuning`: variant ->
    further variants, the same network trained by other settings, of which validation chooses the
    best; the variant alone is compared with others as it is. Empty for none.
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
        expect("auto or a whole number of at least 0"),
    ]
    seeds: Annotated[list[Seed], Field(min_length=1), AfterValidator(unique)]
    folds: Annotated[list[Seed], Field(min_length=1), AfterValidator(unique)]
    models: dict[Name, Network]
    own_training: dict[Name, Train] = Field(default_factory=dict)
    variants: Annotated[list[Name], Field(min_length=1), AfterValidator(unique)]
    averaging: Annotated[list[Averaging], AfterValidator(unique)]
    export: Annotated[list[Name], AfterValidator(unique)]
    paper: Paper | None
    factors: Factors
    tuning: dict[Name, Annotated[list[Name], Field(min_length=1), AfterValidator(unique)]]

    _folder: Path = PrivateAttr(default=Path())
    _content: Any = PrivateAttr(default=None)  # of params.yaml, as it was read
    _missing: frozenset[Run] | None = PrivateAttr(default=None)  # None: of a whole study
    _external: str | None = PrivateAttr(default=None)  # the name of the test set that it is on
    _train_key: str = PrivateAttr(default="train")

    @model_serializer(mode="wrap")
    def _put_own_training_back(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        for name, train in content.pop("own_training", {}).items():
            if "models" in content:
                content["models"][name]["train"] = train
        return content

    @field_validator("prepare")
    @classmethod
    def _of_the_datas_kind(cls, prepare: Prepare, fields: ValidationInfo) -> Prepare:
        data = fields.data.get("data")  # absent if it has errors of its own
        if isinstance(data, Synthetic) and (data.depth is None) != (prepare.depth is None):
            raise ValueError(
                "must have a depth where data has one, and only there, got prepare.depth "
                f"{prepare.depth or 'null'} with data.depth {data.depth or 'null'}"
            )
        if isinstance(data, Isic2018) and prepare.depth is not None:
            raise ValueError(
                "must have no depth with data.source isic2018, whose cases are pictures, got "
                f"prepare.depth {prepare.depth}"
            )
        return prepare

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

    @field_validator("paper")
    @classmethod
    def _is_of_the_study(cls, paper: Paper | None, fields: ValidationInfo) -> Paper | None:
        models = fields.data.get("models")  # absent if it has errors of its own
        if paper is None or models is None:
            return paper
        if getattr(fields.data.get("data"), "source", None) == "synthetic":
            raise ValueError(
                "must be null where data.source is synthetic: drawn lesions say nothing of a paper"
            )
        for key, name in paper.names():
            if name not in models:
                raise ValueError(
                    f"{key} must name entries under models ({', '.join(models)}), got {name!r}; "
                    "take it out, or set paper to null"
                )
        for name, row in paper.rows.items():
            if unknown := [repr(metric) for metric in row.figures if metric not in METRIC_NAMES]:
                raise ValueError(
                    f"rows.{name}.figures must be of metrics ({', '.join(METRIC_NAMES)}), got "
                    f"{', '.join(unknown)}"
                )
            for metric, figure in row.figures.items():
                low, high = range_of(metric)
                if not low <= value_of(figure) <= high:
                    raise ValueError(
                        f"rows.{name}.figures.{metric} must be from {low:g} to {high:g}, or have a "
                        f"% sign, got {figure!r}"
                    )
        kinds = {*families().values(), *(type(network) for network in models.values())}
        keys = {*TOPICS, *chain.from_iterable(kind.__dataclass_fields__ for kind in kinds)}
        if unknown := [repr(choice) for choice in paper.leaves_open if choice not in keys]:
            raise ValueError(
                f"leaves_open must name choices ({', '.join(TOPICS)}, or a key that networks have "
                f"under models), got {', '.join(unknown)}"
            )
        return paper

    @field_validator("factors")
    @classmethod
    def _are_crossed(
        cls, factors: dict[str, list[str]], fields: ValidationInfo
    ) -> dict[str, list[str]]:
        models = fields.data.get("models", factors)  # absent if it has errors of its own
        if unknown := [repr(name) for name in factors if name not in models]:
            raise ValueError(
                f"must name entries under models ({', '.join(models)}), got {', '.join(unknown)}"
            )
        check_crossed(factors)
        return factors

    @model_validator(mode="after")
    def _tunes_networks_by_their_training(self) -> Study:
        names = [name for row in self.tuning.items() for name in (row[0], *row[1])]
        if unknown := [repr(name) for name in names if name not in self.models]:
            raise ValueError(
                f"tuning must name entries under models ({', '.join(self.models)}), got "
                f"{', '.join(unknown)}"
            )
        if twice := [name for name, number in Counter(names).items() if number > 1]:
            raise ValueError(f"tuning must name each variant once, got {', '.join(twice)} again")
        if self.tuning and len(self.folds) > 1:
            raise ValueError(
                "tuning must be {} with several folds, whose validation cases are other folds' "
                f"test cases: these would choose the settings; got folds {self.folds}"
            )
        self._names_no_settings()
        for variant, others in self.tuning.items():
            for other in others:
                if other in self.variants and variant not in self.variants:
                    raise ValueError(
                        f"tuning.{variant} must be among variants, as its setting {other} is"
                    )
                if self.models[other] != self.models[variant]:
                    raise ValueError(
                        f"tuning.{variant} must be of the same network with other keys under "
                        f"train, got {other}, which models.{other} makes another network"
                    )
                if self.of(other).train == self.of(variant).train:
                    raise ValueError(
                        f"tuning.{variant} must be of other keys under train, got {other}, which "
                        f"is trained as {variant} is: give it models.{other}.train"
                    )
        return self

    def _names_no_settings(self) -> None:
        """Raise ValueError where a paper or a design speaks of a setting: none is compared."""
        settings = {other: name for name, others in self.tuning.items() for other in others}
        named = [(f"factors.{name}", name) for name in self.factors]
        if self.paper is not None:
            named += [(f"paper.{key}", name) for key, name in self.paper.names()]
        for key, name in named:
            if name in settings:
                raise ValueError(
                    f"{key} must name variants that are compared, got {name}, which tuning makes a "
                    f"setting of {settings[name]}: name that"
                )

    @model_validator(mode="after")
    def _have_packages(self) -> Study:
        for variant in self.variants:
            if needed := needs(self.models[variant]):
                raise ValueError(f"models.{variant}.family {needed}")
        return self

    @model_validator(mode="after")
    def _freezes_pretrained_encoders(self) -> Study:
        random = [
            name
            for name in self.variants
            if self.models[name].weights == "none" and self.of(name).train.freeze_encoder
        ]
        if random:
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
    def content(self) -> Any:
        """What params.yaml held when the study was read from it."""
        return self._content

    def input(self, path: str) -> Path:
        """Where a file or folder is that the user has and params.yaml names.

        DVC runs experiments in copies of what git knows (`exp run --temp`, `--queue`): what is not
        in such a copy is where it was copied from.
        """
        here = self._folder / Path(path).expanduser()
        return here if here.exists() else original(self._folder) / Path(path).expanduser()

    @property
    def raw_key(self) -> str:
        """The key of params.yaml that names the folder of raw cases."""
        if self._external is None:
            return "data.raw"
        return f"evaluate.external, raw of {self._external},"

    @property
    def raw_dir(self) -> Path:
        """The raw cases. Drawn ones are the copy's own: experiments may draw others."""
        if self.data.source == "synthetic":
            return self._folder / self.data.raw
        return self.input(self.data.raw)

    def deciding(self, *blocks: str) -> dict[str, Any]:
        """What decides a run's training or scores, of these blocks of params.yaml: which other test
        sets there are, does not."""
        wanted = {*blocks, "own_training"} if "models" in blocks else set(blocks)
        return self.model_dump(mode="json", include=wanted, exclude={"evaluate": {"external"}})

    @property
    def data_dir(self) -> Path:
        return (
            self._folder / "data" if self._external is None else self.external_dir(self._external)
        )

    def external_dir(self, name: str) -> Path:
        """That of an external test set: its prepared cases, and the runs' scores on it."""
        return self._folder / "external" / name

    @property
    def source_file(self) -> Path:
        return self.data_dir / "source.json"

    @property
    def manifest_file(self) -> Path:
        return self.data_dir / "manifest.csv"

    @property
    def results_file(self) -> Path:
        return self.reports_dir / "results.json"

    @property
    def summary_file(self) -> Path:
        return self.reports_dir / "summary.json"

    @property
    def averaged_dir(self) -> Path:
        return self.reports_dir / "averaged"

    def averaged_file(self, variant: str) -> Path:
        return self.averaged_dir / f"{variant}.csv"

    @property
    def exported_dir(self) -> Path:
        return self.reports_dir / "exported"

    @property
    def prepared_dir(self) -> Path:
        return self.data_dir / "prepared"

    @property
    def preparing(self) -> str:
        """The stage that prepares these cases."""
        return "preprocess" if self._external is None else "prepare_external"

    @property
    def reports_dir(self) -> Path:
        """That of the stages' outputs; of a part of the study one that DVC does not know."""
        return self._folder / "reports" if self._missing is None else self.partial_dir

    @property
    def partial_dir(self) -> Path:
        return self._folder / "reports" / "partial"

    def run_dir(self, variant: str, seed: int, fold: int = 0) -> Path:
        return self._folder / "runs" / variant / str(seed) / str(fold)

    def resume_file(self, variant: str, seed: int, fold: int = 0) -> Path:
        folder = self._folder / ".resume"
        if self._external is not None:
            folder = folder / "external" / self._external
        return folder / variant / str(seed) / f"{fold}.safetensors"

    @property
    def networks_dir(self) -> Path:
        return self._folder / "data" / "networks"

    def network_file(self, variant: str) -> Path:
        return self.networks_dir / f"{variant}.json"

    def evaluation_dir(self, variant: str, seed: int, fold: int = 0) -> Path:
        if self._external is None:
            return self.run_dir(variant, seed, fold) / "evaluation"
        return self.data_dir / "runs" / variant / str(seed) / str(fold)

    def runs(self) -> list[Run]:
        """Every run of the study, in the order of params.yaml."""
        every = [
            Run(variant, seed, fold)
            for variant in self.variants
            for seed in self.seeds
            for fold in self.folds
        ]
        return [run for run in every if run not in (self._missing or ())]

    def seeds_of(self, variant: str) -> list[int]:
        """The seeds that a variant has runs of: all, but in a part of a study."""
        return list(dict.fromkeys(run.seed for run in self.runs() if run.variant == variant))

    def without(self, missing: Collection[Run]) -> Study:
        """The part of the study that can be compared without these runs: a seed of a variant that
        lacks a fold is left out whole, and what is made of all runs (averages, exports) is too.

        Raises UserError where nothing is left.
        """
        lacking = {run[:2] for run in missing}
        left_out = frozenset(run for run in self.runs() if run[:2] in lacking)
        kept = [run for run in self.runs() if run not in left_out]
        if not kept:
            folds = " with all its folds" if len(self.folds) > 1 else ""
            raise UserError(
                f"{self._folder / 'runs'}: no run{folds} is trained and evaluated as it would "
                "be now; python -m pipeline.status tells what each is at"
            )
        part = self.model_copy(
            update={
                "variants": list(dict.fromkeys(run.variant for run in kept)),
                "seeds": [seed for seed in self.seeds if any(run.seed == seed for run in kept)],
                "averaging": [],
                "export": [],
                "evaluate": self.evaluate.model_copy(update={"external": []}),
            }
        )
        part._missing = left_out
        return part

    @property
    def is_part(self) -> bool:
        """Whether `without` left runs out."""
        return bool(self._missing)

    def of(self, variant: str) -> Study:
        """The study as it is for one variant: `train` with what the variant has of its own."""
        if variant not in self.own_training:
            return self
        own = self.model_copy(update={"train": self.own_training[variant]})
        own._train_key = f"models.{variant}.train"
        return own

    @property
    def train_key(self) -> str:
        """Where `train` stands in params.yaml."""
        return self._train_key

    @property
    def settings(self) -> dict[str, list[str]]:
        """Of each variant that is compared with others the variants that are its settings, itself
        first; those of `tuning`, which another variant has for its settings, are not compared."""
        of_another = set(chain.from_iterable(self.tuning.values()))
        return {
            variant: [
                variant,
                *(other for other in self.tuning.get(variant, []) if other in self.variants),
            ]
            for variant in self.variants
            if variant not in of_another
        }

    @property
    def external_name(self) -> str | None:
        """Of the external test set whose cases `on` put in the place of the study's own."""
        return self._external

    def on(self, name: str) -> Study:
        """The study with an external test set's cases in the place of its own: the same runs, their
        scores on it. Raises KeyError where it has no such set."""
        raw = {each.name: each for each in self.evaluate.external}[name]
        data = Directory(source="directory", raw=raw.raw, on_problem=raw.on_problem)
        prepare = self.prepare.model_copy(update={"groups": None, "split": AllTest()})
        other = self.model_copy(update={"data": data, "prepare": prepare})
        other._external = name
        return other

    def label(self, run: Run) -> str:
        """The run in words; the fold where the study has several."""
        words = f"{run.variant}, seed {run.seed}"
        words = words if self.folds == [0] else f"{words}, fold {run.fold}"
        return words if self._external is None else f"{words}, on {self._external}"

    def check_exports(self) -> None:
        """Raise UserError for exports without the packages that they need."""
        packages = ("onnx", "onnxruntime", "onnxscript")
        absent = [name for name in packages if find_spec(name) is None]
        if self.export and absent:
            raise UserError(
                f"{self._folder / 'params.yaml'}: export needs {' and '.join(absent)}: pip install "
                "lesion-ablation[export], or leave it empty"
            )

    def check_own_cases(self) -> None:
        """Raise UserError for a folder of one's own cases that is not there."""
        if self.data.source == "directory" and not self.raw_dir.is_dir():
            raise UserError(
                f"{self._folder / 'params.yaml'}: {self.raw_key} must be an existing folder of "
                f"cases, got {self.data.raw!r}; fill that folder or link it to where the cases are"
            )

    def check_inputs(self) -> None:
        """Raise UserError for a named folder or weights file that is not there, for raw cases that
        would be lost with the outputs, and for a network that another package does not have."""
        raw, prepared = self.raw_dir.resolve(), self.prepared_dir.resolve()
        if raw == prepared or raw in prepared.parents or prepared in raw.parents:
            where = self.prepared_dir.relative_to(self._folder).as_posix()
            raise UserError(
                f"{self._folder / 'params.yaml'}: {self.raw_key} must lie beside {where}, which is "
                f"replaced by each preparation, got {self.data.raw!r}; move the cases to another "
                "folder"
            )
        for variant in self.variants:
            weights = self.models[variant].weights
            if weights not in ("none", "imagenet") and not self.input(weights).is_file():
                raise UserError(
                    f"{self._folder / 'params.yaml'}: models.{variant}.weights must be imagenet, "
                    f"none or an existing file, got {weights!r}"
                )
        for variant in self.variants:
            try:
                self.models[variant].check(*self.prepare.size)
            except ValueError as error:
                raise UserError(
                    f"{self._folder / 'params.yaml'}: models.{variant} {error}"
                ) from None
