"""A trained network with what its use needs: its run folder, or its record in MLflow.

Neither the study nor its data are needed: run.json says what the network is and which pictures it
knows. From MLflow files are downloaded, and no code of the logged model is run.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ValidationError

from models import NetworkConfig, source_hashes
from pipeline.study.documents import read_yaml
from pipeline.study.errors import UserError, first_fault
from pipeline.study.files import sha256
from pipeline.study.params import Network, needs
from pipeline.study.run_files import read_metrics, read_run
from pipeline.study.values import Depth, Name, Resize, Seed, Side, size_of

if TYPE_CHECKING:
    import torch
    from torch import nn

# Of an ensemble; None is the named run alone.
Seeds = list[int] | Literal["all"] | None
MLFLOW_SCHEMES = ("runs:/", "models:/")


@dataclass(frozen=True)
class TrainedRun:
    """What a run left behind.

    source: the run folder or MLflow URI, as it was given. weights: its safetensors file.
    size: height and width in pixels of the pictures that the network was trained on, of volumes
    depth before them; resize: how originals become such pictures. record: run.json. metrics:
    evaluation/metrics.json, None for a run that was not evaluated.
    """

    source: str
    weights: Path
    variant: str
    seed: int
    fold: int
    config: NetworkConfig
    size: tuple[int, ...]
    resize: Resize
    record: dict[str, Any]
    metrics: dict[str, float | None] | None

    @property
    def label(self) -> str:
        """The variant and seed, and the fold where it is not the first."""
        return f"{self.variant} seed {self.seed}" + (f" fold {self.fold}" if self.fold else "")

    def load(self, device: torch.device) -> nn.Module:
        """The network in evaluation mode on `device`. Raises UserError if the weights are not
        those that run.json tells of, or of another network, or a package of its family is not
        there."""
        from pipeline.engine.weights import load_model

        if needed := needs(self.config):
            raise UserError(f"{self.source}: its network's family {needed}")
        self._check_own_file()
        if not self.weights.is_file():  # a pipe would wait for ever
            raise UserError(
                f"{self.weights} is not there, or is no file: bring the weights of that run"
            )
        model = load_model(self.config, self.weights, device)
        if sha256(self.weights) != self.record["weights_sha256"]:
            raise UserError(
                f"{self.weights} does not hold the weights that run.json tells of (another sha256);"
                " bring the two files of one training together"
            )
        return model

    def _check_own_file(self) -> None:
        """Raise UserError where the network is a file of the study's own, and that is not here or
        not as it was: with the weights no code is taken, from MLflow or elsewhere."""
        trained = self.network_sources
        if not trained:
            return
        found = source_hashes(self.config) if (self.config.folder / min(trained)).is_file() else {}
        other = [name for name in trained if trained[name] != found.get(name)]
        if other:
            raise UserError(
                f"{self.source}: its network is code of its study, and {other[0]} is not here as "
                f"it was trained (sha256 {trained[other[0]]}): be in the study's folder, at commit "
                f"{self.record.get('commit')}"
            )

    @property
    def network_sources(self) -> dict[str, str]:
        """The study's own files that make the network, and the sha256 of each."""
        sources: dict[str, str] = self.record.get("sources", {})
        return {name: sources[name] for name in sources if name.startswith("networks/")}


class _Prepared(BaseModel):
    depth: Depth = None  # of an earlier version's run
    height: Side
    width: Side
    resize: Resize


class _Params(BaseModel):
    prepare: _Prepared
    model: Network


class _Record(BaseModel):
    """The keys of run.json that a network's use needs."""

    variant: Name
    seed: Seed
    fold: Seed
    weights_sha256: str
    params: _Params


def open_run(folder: Path) -> TrainedRun:
    """The run in that folder, runs/<variant>/<seed>/<fold>. Raises UserError if its run.json is
    missing, or of another version of the code."""
    if not os.path.isfile(folder / "run.json"):  # noqa: PTH113 - which no name makes fail
        within = sorted(folder.glob("**/run.json"))[:1] if os.path.isdir(folder) else []  # noqa: PTH112
        hint = f"such as {within[0].parent}" if within else "runs/<variant>/<seed>/<fold>"
        raise UserError(
            f"{folder} has no run.json: name the folder of a run that was trained, {hint}, or an "
            "MLflow URI, runs:/... or models:/..."
        )
    content = read_run(folder / "run.json")
    try:
        record = _Record.model_validate_json(json.dumps(content), strict=True)
    except ValidationError as invalid:
        raise UserError(
            f"{folder / 'run.json'}: {first_fault(invalid)}; train the run anew"
        ) from None
    known = {field.name for field in fields(record.params.model)}
    unknown = content["params"]["model"].keys() - known
    if unknown:
        raise UserError(
            f"{folder / 'run.json'}: params.model has switches that this version of the code does "
            f"not know: {', '.join(sorted(unknown))}; use the version that trained it, commit "
            f"{content.get('commit')}"
        )
    prepared = record.params.prepare
    evaluated = folder / "evaluation" / "metrics.json"
    # runs/<variant>/<seed>/<fold> of a study; of a run that lies elsewhere the one that we are in.
    study = folder.resolve().parents[3] if len(folder.resolve().parents) > 3 else Path()
    study = study if (study / "params.yaml").is_file() else Path()
    return TrainedRun(
        source=str(folder),
        weights=folder / "weights.safetensors",
        variant=record.variant,
        seed=record.seed,
        fold=record.fold,
        config=record.params.model.at(study),
        size=size_of(prepared.depth, prepared.height, prepared.width),
        resize=prepared.resize,
        record=content,
        metrics=read_metrics(evaluated) if evaluated.is_file() else None,
    )


@contextmanager
def opened(source: str, seeds: Seeds = None) -> Iterator[list[TrainedRun]]:
    """The run that `source` names; with `seeds` those of its variant and fold, "all" for every one.

    source: a run folder, or an MLflow URI (runs:/<id>, runs:/<id>/model, models:/...), whose files
    are there until the block ends. Raises UserError for a run that is missing or unlike the others.
    """
    if source.startswith(MLFLOW_SCHEMES):
        with tempfile.TemporaryDirectory(prefix="lesion-ablation-") as temporary:
            yield _alike(_download_runs(source, seeds, Path(temporary)))
    else:
        yield _alike([open_run(folder) for folder in _siblings(Path(source), seeds)])


def _alike(runs: list[TrainedRun]) -> list[TrainedRun]:
    for run in runs[1:]:
        if (run.config, run.size, run.resize) != (runs[0].config, runs[0].size, runs[0].resize):
            raise UserError(
                f"{run.source} has another network or image size than {runs[0].source}: an "
                "ensemble is of one variant and one protocol; name the seeds that are alike"
            )
    return runs


def _siblings(folder: Path, seeds: Seeds) -> list[Path]:
    """The run folders beside `folder` that differ in the seed alone."""
    folder = Path(os.path.realpath(folder))  # which no loop of links makes fail
    if seeds is None:
        return [folder]
    variant, fold = folder.parents[1], folder.name
    if seeds == "all":
        open_run(folder)  # told before its neighbours are looked for
        found = {
            int(path.parents[1].name): path.parent
            for path in variant.glob(f"*/{fold}/weights.safetensors")
            if path.parents[1].name.isdecimal()
        }
        return [found[seed] for seed in sorted(found)] or [folder]
    return [variant / str(seed) / fold for seed in seeds]


def _download_runs(source: str, seeds: Seeds, temporary: Path) -> list[TrainedRun]:
    import mlflow
    from mlflow.exceptions import MlflowException

    from pipeline.tracking.connection import open_store, said
    from pipeline.tracking.store import hush

    hush()
    client = open_store()
    parts = source.split("/")
    if parts[0] == "runs:" and len(parts) == 2:
        source = f"{source}/model"
    try:
        first = _download(source, temporary / "first")
        if seeds is None:
            return [first]
        own = client.get_run(_logged(temporary / "first")[1])
        chosen = " and ".join(
            f"tags.{name} = '{own.data.tags[name]}'" for name in ("role", "study", "variant")
        )
        recorded = {
            int(run.data.tags["seed"]): run.info.run_id
            for run in client.search_runs([own.info.experiment_id], chosen)
            if run.data.tags.get("fold", "0") == str(first.fold)
        }
        wanted = sorted(recorded) if seeds == "all" else seeds
        missing = [str(seed) for seed in wanted if seed not in recorded]
        if missing:
            raise UserError(
                f"MLflow has no run of {first.variant} fold {first.fold} with seed "
                f"{', '.join(missing)}; it has {', '.join(map(str, sorted(recorded)))}"
            )
        return [
            _download(f"runs:/{recorded[seed]}/model", temporary / str(seed)) for seed in wanted
        ]
    except (MlflowException, OSError) as error:
        raise UserError(
            f"{source} cannot be downloaded from MLflow's store at {mlflow.get_tracking_uri()}: "
            f"{said(error, 'correct it, or MLFLOW_TRACKING_URI')}"
        ) from None


def _download(model_uri: str, folder: Path) -> TrainedRun:
    """The model's files and its run's run.json and metrics, laid out as a run folder."""
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    folder.mkdir()
    download_artifacts(model_uri, dst_path=str(folder / "model"))
    model, run_id = _logged(folder)
    download_artifacts(f"runs:/{run_id}/run.json", dst_path=str(folder))
    with suppress(MlflowException, OSError):  # not evaluated yet
        download_artifacts(f"runs:/{run_id}/evaluation", dst_path=str(folder))
    weights = model / "artifacts" / "weights.safetensors"
    run = open_run(folder)
    return replace(run, source=model_uri, weights=weights, config=run.config.at(Path()))


def _logged(folder: Path) -> tuple[Path, str]:
    """Where in `folder` the downloaded model is, and the run that logged it.

    Raises OSError for a model of another kind.
    """
    found = sorted(folder.glob("model/**/MLmodel"))  # of a run's it is a folder deeper
    content = read_yaml(found[0]) if found else None
    run_id = content.get("run_id") if isinstance(content, dict) else None
    if run_id is None:
        raise OSError("it is no model that a run of this pipeline logged")
    return found[0].parent, str(run_id)
