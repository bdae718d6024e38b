"""The whole pipeline as a user runs it: DVC in a git repository, real stages, a real store."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import yaml
from clones import copy_project
from PIL import Image

from pipeline.data.synthetic import draw_case

pytestmark = pytest.mark.slow

STUDY = "studies/tiny"
VARIANTS = ["gated_attention", "resunet"]
SEEDS = [0, 1]
RUNS = [f"{variant}-{seed}" for variant in VARIANTS for seed in SEEDS]
ALL_TRAIN = {f"train@{run}-0" for run in RUNS}
ALL_EVALUATE = {f"evaluate@{run}-0" for run in RUNS}
ALL_AVERAGE = {f"average@{variant}" for variant in VARIANTS}
# What follows evaluations and averages.
EVALUATED = {"compare", "attention", "plot", "report"}
FOLLOWS = EVALUATED | {"track"}


class Repository:
    """A clone's working tree with one tiny study."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.params = root / STUDY / "params.yaml"
        # As `make` does: this environment's python first, and the store where the project is.
        self.environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
        }
        self.environment.pop("MLFLOW_TRACKING_URI", None)

    def run(self, *command: str, folder: str = ".") -> str:
        done = subprocess.run(
            command,
            cwd=self.root / folder,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def repro(self) -> list[str]:
        """Reproduce the study; the stages that ran."""
        printed = self.run("dvc", "repro", folder=STUDY)
        return re.findall(r"Running stage '(?:[^':]+:)?([^':]+)':", printed)

    def repro_of(self, stage: str) -> str:
        return self.run("dvc", "repro", stage, folder=STUDY)

    def stale(self) -> set[str]:
        """The study's stages that `dvc status` calls changed."""
        printed = self.run("dvc", "status", "--json", folder=STUDY)
        return {name.rpartition(":")[2] for name in json.loads(printed or "{}")}

    def change_params(self, change: Callable[[dict], None]) -> None:
        params = yaml.safe_load(self.params.read_text())
        change(params)
        self.params.write_text(yaml.safe_dump(params, sort_keys=False))


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Repository:
    """The project's files in a git repository of their own, the tiny study reproduced once."""
    root = tmp_path_factory.mktemp("clone")
    # DVC reads every study of a repository, each time: those that are not run stay away.
    copy_project(root, r"tests/|studies/(?!demo/)")
    folder = root / STUDY
    folder.mkdir()
    params = yaml.safe_load((root / "studies/demo/params.yaml").read_text())
    params |= {"name": "tiny", "variants": VARIANTS, "seeds": SEEDS}
    params["data"] |= {"height": 40, "width": 48, "training": 8, "validation": 3, "test": 5}
    params["prepare"] |= {"height": 32, "width": 32}
    params["train"] |= {"epochs": 2}
    params["train"]["optimizer"]["learning_rate"] = 0.001
    for variant in VARIANTS:  # 57 MB less a run to write, hash, cache and log
        params["models"][variant] |= {"encoder": "plain", "plain_width": 2}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    clone = Repository(root)
    clone.run("git", "init", "-q")
    clone.run("python", "-m", "pipeline.new_study", "--renew", STUDY)
    clone.run("git", "add", "-A")
    clone.run(
        "git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-qm", "clone"
    )
    ran = clone.repro()
    expected = {"download", "preprocess", "networks", "folders"} | FOLLOWS
    expected |= ALL_TRAIN | ALL_EVALUATE | ALL_AVERAGE
    assert set(ran) == expected
    assert len(ran) == len(expected)
    return clone


@pytest.fixture
def restored(repository):
    """The repository, its files as they were afterwards."""
    study, sources = repository.params.read_bytes(), {}
    for path in [*repository.root.glob("pipeline/**/*"), *repository.root.glob("models/**/*.py")]:
        if path.is_file():
            sources[path] = path.read_bytes()
    yield repository
    repository.params.write_bytes(study)
    for path in (repository.root / STUDY / "networks").glob("*.py"):
        path.unlink()
    for path, content in sources.items():
        if path.read_bytes() != content:
            path.write_bytes(content)


def test_a_second_repro_does_nothing(repository):
    assert repository.repro() == []
    assert repository.stale() == set()


def test_the_report_tells_the_figures_of_the_run_folders(repository):
    folder = repository.root / STUDY
    table = pd.read_csv(folder / "reports/table.csv").set_index("variant")
    for variant in VARIANTS:
        means = [
            json.loads((folder / f"runs/{variant}/{seed}/0/evaluation/metrics.json").read_text())
            for seed in SEEDS
        ]
        for metric in ("dice", "iou", "focal_loss", "pooled_dice"):
            values = pd.Series([run[metric] for run in means])
            assert table.loc[variant, f"{metric}_mean"] == pytest.approx(values.mean(), abs=1e-6)
            assert table.loc[variant, f"{metric}_standard_deviation"] == pytest.approx(
                values.std(), abs=1e-6
            )
    page = (folder / "reports/index.html").read_text()
    assert all(variant in page for variant in VARIANTS)
    assert "Synthetic lesions" in page


def test_the_store_at_the_root_holds_every_run_with_its_figures(repository):
    mlflow.set_tracking_uri(f"sqlite:///{repository.root}/mlflow.db")
    runs = mlflow.search_runs(experiment_names=["tiny"])
    children = runs[runs["tags.role"] == "run"]
    assert sorted(children["tags.mlflow.runName"]) == [
        name.replace("-", " ") for name in sorted(RUNS)
    ]
    for run in children.to_dict("records"):
        path = f"runs/{run['tags.variant']}/{run['tags.seed']}/0/evaluation/metrics.json"
        metrics = json.loads((repository.root / STUDY / path).read_text())
        assert run["metrics.test/dice"] == pytest.approx(metrics["dice"])


def test_outputs_share_their_bytes_with_the_cache(repository):
    """By reflink or hard link: a copy has a link count of 1 and its own blocks."""
    weights = repository.root / STUDY / "runs/resunet/0/0/weights.safetensors"
    types = repository.run("dvc", "config", "cache.type").strip()
    assert types == "reflink,hardlink,copy"
    if "reflink" not in repository.run("dvc", "doctor").partition("Cache types:")[2].split("\n")[0]:
        assert weights.stat().st_nlink > 1


def test_dvc_draws_the_curves(repository):
    printed = repository.run("dvc", "plots", "show", "-o", "drawn", folder=STUDY)
    page = Path(printed.strip().removeprefix("file://")).read_text()
    assert "Validation BCE" in page
    assert "resunet" in page


def set_in(params: dict, path: str, value: object) -> None:
    *blocks, key = path.split(".")
    for block in blocks:
        params = params[block]
    params[key] = value


# What a change of params.yaml makes stale. The report shows params.yaml, so it is rewritten always.
@pytest.mark.parametrize(
    ("key", "value", "stale"),
    [
        ("data.seed", 7, {"download"}),
        ("prepare.height", 64, {"preprocess", "networks"}),
        ("train.optimizer.learning_rate", 0.002, ALL_TRAIN),
        ("train.augmentation", [], ALL_TRAIN),
        ("train.deterministic", False, ALL_TRAIN),
        ("evaluate.jaccard_threshold", 0.5, ALL_EVALUATE | ALL_AVERAGE),
        ("focal.gamma", 1.0, ALL_TRAIN | ALL_EVALUATE | ALL_AVERAGE),
        (
            "models.resunet.attention_residual",
            True,
            {f"{stage}@resunet-{seed}-0" for stage in ("train", "evaluate") for seed in SEEDS}
            | {"average@resunet"},
        ),
        ("seeds", [0, 1, 2], {f"{s}@{v}-2-0" for s in ("train", "evaluate") for v in VARIANTS}),
        ("seeds", [1], set()),
        ("variants", ["resunet"], set()),
        (
            "variants",
            ["gated_attention", "resunet", "encoder_attention"],
            {f"{s}@encoder_attention-{n}-0" for s in ("train", "evaluate") for n in SEEDS}
            | {"average@encoder_attention"},
        ),
        ("tracking.live", True, set()),
        ("tracking.required", False, set()),
        ("loader_workers", 2, set()),
        ("averaging", [], ALL_AVERAGE),
        ("export", ["resunet"], {"export@resunet-0-0"}),
    ],
)
def test_a_changed_parameter_makes_stale_what_depends_on_it_and_nothing_else(
    restored, key, value, stale
):
    restored.change_params(lambda params: set_in(params, key, value))
    comparing = {"compare", "report"}
    if key in ("seeds", "variants"):
        comparing |= {"attention", "plot"}
    if key == "variants" or key.startswith("models"):
        comparing.add("networks")
    if key == "seeds":
        comparing |= ALL_AVERAGE
    if key.startswith("models"):
        comparing.add("attention")
    assert restored.stale() == stale | comparing


@pytest.mark.parametrize(
    ("source", "stale"),
    [
        ("pipeline/data/synthetic.py", {"download", "preprocess"}),
        ("pipeline/preprocess.py", {"preprocess"}),
        ("pipeline/train.py", ALL_TRAIN),
        ("pipeline/training/loop.py", ALL_TRAIN),
        ("pipeline/evaluate.py", ALL_EVALUATE),
        ("pipeline/evaluation/metrics.py", ALL_EVALUATE | ALL_AVERAGE),
        ("pipeline/average.py", ALL_AVERAGE),
        ("pipeline/engine/losses.py", ALL_TRAIN | ALL_EVALUATE | ALL_AVERAGE),
        ("models/attenresunet/attention.py", {"networks"}),
        ("pipeline/deployment/measurements.py", {"compare", "report"}),
        ("pipeline/plot.py", {"plot"}),
        ("pipeline/reporting/page.html", {"report"}),
        ("pipeline/statistics/power.py", {"compare"}),
        ("pipeline/reporting/explorer.js", {"report"}),
        ("pipeline/study/params.py", set()),
        ("pipeline/tracking/store.py", set()),
    ],
)
def test_a_changed_source_makes_stale_what_depends_on_it_and_nothing_else(restored, source, stale):
    path = restored.root / source
    path.write_text(path.read_text() + "\n")
    assert restored.stale() == stale


OWN = "from torch import nn\n\ndef build():\n    return nn.Conv2d(3, 1, 1)\n"


def test_a_network_added_to_a_finished_study_trains_itself_alone(restored):
    """And a change of one trains and averages no other."""
    folder = restored.root / STUDY / "networks"
    (folder / "parts.py").write_text(OWN)
    (folder / "own.py").write_text("from parts import build\n")

    def add(params: dict) -> None:
        params["variants"].append("stranger")
        params["models"]["stranger"] = {"family": "module", "file": "networks/own.py"}

    restored.change_params(add)
    new = {f"{stage}@stranger-{seed}-0" for stage in ("train", "evaluate") for seed in SEEDS}
    new.add("average@stranger")
    assert restored.stale() == new | EVALUATED | {"networks"}
    assert set(restored.repro()) == new | FOLLOWS | {"networks"}
    assert restored.stale() == set()
    table = pd.read_csv(restored.root / STUDY / "reports/table.csv")
    assert list(table["variant"]) == [*VARIANTS, "stranger"]

    (folder / "parts.py").write_text(OWN + "# changed\n")
    assert "networks" in restored.repro_of("networks")
    assert {name for name in restored.stale() if "@" in name} == new
    (folder / "parts.py").write_text(OWN)
    source = restored.root / "models/smp/network.py"
    source.write_text(source.read_text() + "\n")
    restored.repro_of("networks")
    assert restored.stale() == set()  # none of its family is among the variants

    # Taken out again it is in no table and not in MLflow; put back, it comes from the cache.
    shutil.rmtree(restored.root / STUDY / "runs/stranger")
    with_it = restored.params.read_bytes()
    restored.change_params(lambda params: params["variants"].remove("stranger"))
    assert {name for name in restored.repro() if "@" in name} == set()
    assert "stranger" not in (restored.root / STUDY / "reports/table.md").read_text()
    mlflow.set_tracking_uri(f"sqlite:///{restored.root}/mlflow.db")
    runs = mlflow.search_runs(experiment_names=["tiny"])
    assert len(runs) == len(RUNS) + 1
    restored.params.write_bytes(with_it)
    assert {name for name in restored.repro() if "@" in name} == set()
    assert (restored.root / STUDY / "runs/stranger/0/0/weights.safetensors").is_file()


def test_a_seed_taken_out_is_shown_nowhere_and_put_back_it_trains_nothing(restored):
    folder = restored.root / STUDY
    whole = restored.params.read_bytes()
    restored.change_params(lambda params: params.update(seeds=SEEDS[:1], averaging=[]))
    assert {name for name in restored.repro() if "@" in name} == ALL_AVERAGE
    assert restored.stale() == set()
    table = pd.read_csv(folder / "reports/table.csv")
    assert set(table["seeds"]) == {1}
    mlflow.set_tracking_uri(f"sqlite:///{restored.root}/mlflow.db")
    runs = mlflow.search_runs(experiment_names=["tiny"])
    assert len(runs) == len(VARIANTS) + 1
    shutil.rmtree(folder / "runs" / VARIANTS[0] / str(SEEDS[1]))
    restored.params.write_bytes(whole)
    assert {name for name in restored.repro() if "@" in name} == set()
    assert (folder / "runs" / VARIANTS[0] / str(SEEDS[1]) / "0/weights.safetensors").is_file()


def test_a_fold_added_to_a_finished_study_trains_itself_alone(restored):
    split = {"method": "folds", "seed": 0, "k": 3}
    restored.change_params(lambda params: params["prepare"].update(split=split))
    restored.change_params(
        lambda params: params.update(variants=["resunet"], seeds=[0], averaging=[])
    )
    restored.repro()
    restored.change_params(lambda params: params.update(folds=[0, 1]))
    new = {"train@resunet-0-1", "evaluate@resunet-0-1", "average@resunet"}
    assert {name for name in restored.stale() if "@" in name} == new
    assert {name for name in restored.repro() if "@" in name} == new
    # `average` reads the folder: a fold that is left there would count in the tests that follow.
    shutil.rmtree(restored.root / STUDY / "runs/resunet/0/1")


def draw_set(folder: Path, seed: int) -> None:
    for index in range(4):
        image, mask = draw_case(seed, index, height=40, width=48)
        for name, pixels in (("images", image), ("masks", 255 * mask)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")


def test_an_external_set_added_to_a_finished_study_trains_and_scores_nothing_else_again(restored):
    """And a second one, after it, leaves the first as it is. Then by the fan-out."""
    folder, before = restored.root / STUDY, restored.params.read_bytes()
    restored.repro()  # what earlier tests left is another study's
    sets = [{"name": name, "raw": f"../{name}", "on_problem": "stop"} for name in ("one", "two")]
    for seed, each in enumerate(sets, start=100):
        draw_set(folder.parent / each["name"], seed)
    restored.change_params(lambda params: set_in(params, "evaluate.external", sets[:1]))
    new = {f"evaluate_external@set0-{run}-0" for run in RUNS} | {"prepare_external@set0"}
    assert restored.stale() == new | {"compare", "report"}
    assert set(restored.repro()) == new | FOLLOWS
    assert restored.stale() == set()
    results = json.loads((folder / "reports/results.json").read_text())
    (found,) = results["external"]
    scored = [
        json.loads((folder / f"external/one/runs/resunet/{seed}/0/metrics.json").read_text())[
            "dice"
        ]
        for seed in SEEDS
    ]
    (mean,) = (
        each["mean"]
        for each in found["estimates"]
        if (each["variant"], each["metric"]) == ("resunet", "dice")
    )
    assert mean == pytest.approx(sum(scored) / len(scored))
    assert "Does it hold on other cases?" in (folder / "reports/index.html").read_text()
    mlflow.set_tracking_uri(f"sqlite:///{restored.root}/mlflow.db")
    runs = mlflow.search_runs(experiment_names=["tiny"])
    of_seed = runs[(runs["tags.variant"] == "resunet") & (runs["tags.seed"] == str(SEEDS[0]))]
    assert of_seed["metrics.test_one/dice"].tolist() == [pytest.approx(scored[0])]

    pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")
    restored.change_params(lambda params: set_in(params, "evaluate.external", sets))
    printed = restored.run("python", "-m", "pipeline.fanout", STUDY, "--workers", "1")
    assert "prepare_external: two: 4 cases to test" in printed, printed
    assert "4 of 18 stages of the matrix to run" in printed, printed
    assert restored.stale() == set()
    results = json.loads((folder / "reports/results.json").read_text())
    assert [each["name"] for each in results["external"]] == ["one", "two"]

    restored.params.write_bytes(before)
    shutil.rmtree(folder / "external/one")  # `compare` reads the folder
    shutil.rmtree(folder / "external/two")
    assert {name for name in restored.repro() if "@" in name} == set()
    runs = mlflow.search_runs(experiment_names=["tiny"])
    assert not [name for name in runs if name.startswith(("metrics.test_one", "metrics.test_two"))]


def test_a_fan_out_makes_the_export_that_is_asked_for_and_nothing_else(restored):
    pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")
    folder = restored.root / STUDY
    before = restored.params.read_bytes()
    restored.change_params(lambda params: params.update(export=["gated_attention"]))
    printed = restored.run("python", "-m", "pipeline.fanout", STUDY, "--workers", "1")
    assert "1 of 11 stages of the matrix to run" in printed, printed
    assert "[1/1] export: gated_attention, seed 0 in reports/exported/gated_attention" in printed
    assert restored.stale() == set()
    assert (folder / "reports/model-cards.md").read_text().startswith("# gated_attention, seed 0")
    restored.params.write_bytes(before)
    assert set(restored.repro()) == {"compare", "report", "track"}
    assert "No variant is named" in (folder / "reports/model-cards.md").read_text()


def test_a_changed_metric_rescoring_does_not_retrain(restored):
    restored.change_params(lambda params: set_in(params, "evaluate.threshold", 0.99))
    ran = restored.repro()
    assert set(ran) == ALL_EVALUATE | ALL_AVERAGE | FOLLOWS
    mlflow.set_tracking_uri(f"sqlite:///{restored.root}/mlflow.db")
    runs = mlflow.search_runs(experiment_names=["tiny"])
    assert len(runs) == len(RUNS) + 1  # replaced, not added to


def test_a_bad_params_file_is_one_line_and_changes_nothing(restored):
    restored.change_params(lambda params: set_in(params, "train.batch_size", "sixteen"))
    done = subprocess.run(
        ["dvc", "repro"],
        cwd=restored.root / STUDY,
        env=restored.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "train.batch_size must be a whole number" in done.stderr
    assert "Traceback" not in done.stderr
