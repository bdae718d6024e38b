"""What runs are made of, as it is now, held against what finished ones were made of.

DVC knows by dvc.lock which stages are out of date. Here the runs' own records tell it, of one run
at a time and without DVC.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic_core import from_json

from pipeline import ROOT
from pipeline.study.files import sha256
from pipeline.study.params import Run, Study
from pipeline.study.run_files import read_evaluation, read_run
from pipeline.study.stages import CODE, read_stage


def source_hashes(stage: Literal["train", "evaluate", "evaluate_external"]) -> dict[str, str]:
    """The sha256 of each source file that dvc.yaml makes the stage depend on, by its path in the
    sources."""
    deps = read_stage(stage)["deps"]
    paths = [ROOT / dep[len(CODE) :] for dep in deps if dep.startswith(CODE)]
    return {str(path.relative_to(ROOT)): sha256(path) for path in paths}


def read(path: Path) -> dict[str, Any] | None:
    """The JSON object in `path`; None where there is none, or it is being replaced."""
    try:
        content = from_json(path.read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


class Inputs:
    """Of a study, read once for all its runs."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.fingerprint = (read(study.prepared_dir / "prepared.json") or {}).get("fingerprint")
        self.params: dict[str, Any] = json.loads(
            json.dumps(
                study.deciding("train", "focal", "evaluate")
                | {"models": {name: asdict(study.models[name]) for name in study.variants}}
                | {"trains": {n: study.of(n).deciding("train")["train"] for n in study.variants}}
            )
        )
        self.sums: dict[Path, str | None] = {}

    def trained(self, run: Run) -> dict[str, Any] | None:
        """run.json; None where the run is not trained. Raises UserError for an unusable one."""
        path = self.study.run_dir(*run) / "run.json"
        return read_run(path) if path.is_file() else None

    def evaluated(self, run: Run) -> dict[str, Any] | None:
        """evaluation.json of a run whose evaluation is whole and of the weights that it has now;
        None where there is none. Raises UserError for an unusable one."""
        training, folder = self.trained(run), self.study.evaluation_dir(*run)
        path = folder / "evaluation.json"
        if training is None or not path.is_file() or not (folder / "metrics.json").is_file():
            return None
        external = self.study.external_name is not None
        record = read_evaluation(path, "evaluate_external" if external else "evaluate")
        same = record.get("weights_sha256") == training.get("weights_sha256")
        return record if same else None

    def _records(self, run: Run) -> list[dict[str, Any]]:
        """On an external test set the evaluation's alone: its training was on other cases."""
        training = None if self.study.external_name is not None else self.trained(run)
        return [found for found in (training, self.evaluated(run)) if found is not None]

    def otherwise(self, run: Run) -> list[str]:
        """The keys of params.yaml, and the data, with which the run's training or evaluation was
        not made as it would be now."""
        found: dict[str, None] = {}
        for record in self._records(run):
            told = record.get("params", {})
            now = self.params | {
                "model": self.params["models"][run.variant],
                "train": self.params["trains"][run.variant],
            }
            keys = {"train": self.study.of(run.variant).train_key}
            found |= {
                f"params.yaml: {keys.get(key, key)}": None
                for key in ("train", "focal", "evaluate", "model")
                if told.get(key, now[key]) != now[key]
            }
            if self.fingerprint and (record.get("data_fingerprint") or self.fingerprint) != (
                self.fingerprint
            ):
                folder = self.study.prepared_dir.relative_to(self.study.folder)
                found[folder.as_posix()] = None
        return list(found)

    def changed(self, run: Run) -> tuple[str, ...]:
        """Of what the run's training and evaluation, as far as they are there, were made with, what
        is another now: keys of params.yaml and files."""
        found = dict.fromkeys(self.otherwise(run))
        for record in self._records(run):
            for name, checksum in record.get("sources", {}).items():
                # A study's own networks are named as seen from it.
                root = self.study.folder if name.startswith("networks/") else ROOT
                if self._sha256(root / name) != checksum:
                    found[name] = None
            file = self.study.models[run.variant].weights
            weights = record.get("encoder_weights_sha256")
            if weights and self._sha256(self.study.input(file)) != weights:
                found[file] = None
        return tuple(found)

    def is_current(self, run: Run) -> bool:
        """Whether it is trained and evaluated, as it would be now."""
        return self.evaluated(run) is not None and not self.changed(run)

    def _sha256(self, path: Path) -> str | None:
        if path not in self.sums:
            self.sums[path] = sha256(path) if path.is_file() else None
        return self.sums[path]
