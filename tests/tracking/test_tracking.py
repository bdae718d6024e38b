"""tracking/store.py against a real MLflow store."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import REPOSITORY, change_params
from fake_study import make_study
from recorded_runs import make_recorded

from pipeline import evaluate, train
from pipeline.engine.compute import to_input
from pipeline.engine.prepared import PreparedCases
from pipeline.engine.weights import load_model
from pipeline.study.errors import UserError
from pipeline.study.params import Study
from pipeline.study.reading import load_study
from pipeline.tracking import __main__ as command
from pipeline.tracking import connection, store
from pipeline.tracking.connection import open_store
from pipeline.tracking.live import LiveRun
from pipeline.tracking.store import StudyRecord
from pipeline.tracking.sync import sync
from pipeline.training import loop

pytestmark = pytest.mark.slow

VARIANT = "gated_attention"
# 57 MB less a run to write, hash and log; what is recorded is the same.
SMALL = {
    "gated_attention": {"encoder": "plain", "plain_width": 2, "decoder_gates": True},
    "limit_encoder_attention": {
        "encoder": "plain",
        "plain_width": 2,
        "encoder_attention": [1, 2, 3],
        "decoder_gates": True,
    },
}


@pytest.fixture
def tiny_study(tiny_study: Study) -> Study:
    return change_params(models=SMALL)


def run_stages(monkeypatch: pytest.MonkeyPatch, *variants: str) -> None:
    for variant in variants:
        monkeypatch.setattr(sys, "argv", ["stage", variant, "0"])
        train.main()
        evaluate.main()


def recorded(study: Study) -> pd.DataFrame:
    """The live runs of the study's experiment, as a user's notebook sees them."""
    return mlflow.search_runs(experiment_names=[study.name])


def only_run(study: Study, variant: str = VARIANT) -> pd.Series:
    runs = recorded(study)
    (row,) = runs[runs["tags.variant"] == variant].to_dict("records")
    return row


@pytest.fixture(scope="module")
def trained(drawn_study, tmp_path_factory):
    """A study's folder with the runs of both variants, not recorded anywhere."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(drawn_study, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        study = change_params(tracking={"live": False}, train={"epochs": 2}, models=SMALL)
        run_stages(patch, *study.variants)
    return folder


@pytest.fixture
def both_trained(trained, tmp_path, monkeypatch, empty_store):
    """A copy of `trained` as the working folder, with an empty store of its own."""
    shutil.copytree(trained, tmp_path / "study")
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path / "study")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return load_study()


@pytest.fixture
def tracked(both_trained):
    """A study with one run trained, evaluated and recorded by sync."""
    study = change_params(variants=[VARIANT])
    assert sync(study) == (1, 0)
    return study


def test_a_run_stands_under_its_study_with_params_metrics_tags_and_files(tracked):
    check_record(tracked)


def test_two_machines_that_begin_at_once_share_one_record(tiny_study, monkeypatch):
    """Neither sees what the other has just made."""
    first = StudyRecord.open(tiny_study)
    for name, nothing in (("get_experiment_by_name", None), ("search_runs", [])):
        real, answers = getattr(mlflow.MlflowClient, name), [nothing]

        def late(*given, real=real, answers=answers, **named):
            return answers.pop() if answers else real(*given, **named)

        monkeypatch.setattr(mlflow.MlflowClient, name, late)
    second = StudyRecord.open(tiny_study)
    experiment_id = first.experiment.experiment_id
    assert second.experiment.experiment_id == experiment_id
    assert second.parent_id == first.parent_id
    runs = first.client.search_runs([experiment_id])
    assert [run.info.run_id for run in runs] == [first.parent_id]


def test_a_run_logged_live_ends_up_with_the_same_record(tiny_study, monkeypatch):
    study = change_params(variants=[VARIANT], tracking={"live": True}, train={"epochs": 2})
    run_stages(monkeypatch, VARIANT)
    live = only_run(study)
    assert live["status"] == "FINISHED"
    assert "metrics.validation/dice" in live
    assert "metrics.test/dice" not in live  # known to the run folder, not yet to the store
    assert sync(study) == (1, 0)
    assert only_run(study)["run_id"] == live["run_id"]
    check_record(study)


def test_reports_are_kept_with_the_study_but_for_exports_and_what_is_no_variants(tracked):
    (tracked.reports_dir / "figures").mkdir(parents=True)
    exported = tracked.exported_dir / VARIANT
    exported.mkdir(parents=True)
    tracked.averaged_dir.mkdir()
    for path in (
        tracked.reports_dir / "table.md", tracked.reports_dir / "figures" / "a.svg",
        tracked.averaged_file(VARIANT), tracked.averaged_file("taken_out"), exported / "model.onnx",
    ):  # fmt: skip
        path.write_text("made")
    assert sync(tracked) == (0, 1)
    runs = recorded(tracked)
    (parent,) = runs[runs["tags.role"] == "study"]["run_id"]
    client = mlflow.MlflowClient()
    paths = [file.path for file in client.list_artifacts(parent, "reports")]
    assert paths == ["reports/averaged", "reports/figures", "reports/table.md"]
    (averaged,) = client.list_artifacts(parent, "reports/averaged")
    assert averaged.path == f"reports/averaged/{VARIANT}.csv"
    (figure,) = client.list_artifacts(parent, "reports/figures")
    assert figure.path == "reports/figures/a.svg"


def test_files_that_are_gone_leave_the_stores_view(tracked):
    """Of the study and of its runs. A variant's maps, for one, that the study does not have now."""
    maps = tracked.reports_dir / "attention" / "maps"
    maps.mkdir(parents=True)
    for name in ("kept.png", "gone.png"):
        (maps / name).write_text("made")
    kept, gone = (f"reports/attention/maps/{name}" for name in ("kept.png", "gone.png"))
    assert sync(tracked) == (0, 1)
    record = StudyRecord.open(tracked)
    assert record.files(record.parent_id) == {"params.yaml", kept, gone}
    assert sync(tracked) == (0, 1)
    assert StudyRecord.open(tracked).parent_id == record.parent_id  # nothing is gone

    (maps / "gone.png").unlink()
    extra = tracked.evaluation_dir(VARIANT, 0) / "metrics.json"
    extra.rename(extra.with_name("other.json"))
    assert sync(tracked) == (1, 0)
    record = StudyRecord.open(tracked)
    assert record.files(record.parent_id) == {"params.yaml", kept}
    run = only_run(tracked)
    assert len(recorded(tracked)) == 2
    assert run["tags.mlflow.parentRunId"] == record.parent_id
    files = record.files(run["run_id"])
    assert "evaluation/other.json" in files
    assert "evaluation/metrics.json" not in files
    assert "metrics.test/dice" not in run or pd.isna(run["metrics.test/dice"])


@pytest.fixture
def namesakes(tiny_study, tmp_path, monkeypatch):
    """`studies/a/t` and `studies/b/t` of one project, each with two runs and the name `tiny`."""
    root = tmp_path / "project"
    (root / "pipeline").mkdir(parents=True)
    monkeypatch.setattr(connection, "ROOT", root)
    folders = [root / "studies" / name / "t" for name in "ab"]
    for folder in folders:
        folder.mkdir(parents=True)
        for name in ("params.yaml", "data"):
            (folder / name).symlink_to(tiny_study.folder.resolve() / name)
    change_params(code="../../..")
    return folders


def synced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    monkeypatch.chdir(folder)
    return sync(load_study())


def test_two_folders_of_one_name_stay_apart(namesakes, monkeypatch, capsys):
    for folder in namesakes:
        monkeypatch.chdir(folder)
        make_recorded()
    told = capsys.readouterr().err
    assert (
        "the study in studies/a/t by the name tiny: this one, in studies/b/t, is 'tiny: st" in told
    )
    for folder in namesakes:
        assert synced(folder, monkeypatch) == (0, 2)
    for name in ("tiny", "tiny: studies/b/t"):
        runs = mlflow.search_runs(experiment_names=[name])
        assert sorted(runs["tags.role"]) == ["run", "run", "study"]


@pytest.fixture
def own_store(empty_store, monkeypatch):
    """The project's own mlflow.db."""
    shutil.copy(empty_store, connection.home() / "mlflow.db")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")


def test_a_study_that_was_moved_keeps_its_experiment(namesakes, own_store, monkeypatch, capsys):
    before, _ = namesakes
    monkeypatch.chdir(before)
    study = make_recorded()
    runs = recorded(study)
    monkeypatch.chdir(before.parents[1])
    moved = before.parents[1] / "c" / "t"
    moved.parent.mkdir()
    before.rename(moved)
    assert synced(moved, monkeypatch) == (0, 2)
    pd.testing.assert_frame_equal(recorded(study), runs)
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("shared", ["server", "file"])
def test_another_clones_study_of_one_name_stays_apart(namesakes, monkeypatch, shared):
    """It may lie in a folder that this clone does not have. A file that MLFLOW_TRACKING_URI names
    may be shared, too."""
    first, second = namesakes
    client = open_store()
    if shared == "server":
        monkeypatch.setattr(store, "database", lambda: None)
    monkeypatch.chdir(first)
    assert store._experiment(client, load_study()).name == "tiny"
    shutil.rmtree(first)
    monkeypatch.chdir(second)
    assert store._experiment(client, load_study()).name == "tiny: studies/b/t"


def tracking_folder() -> Path:
    return Path(os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///")).parent


def check_record(study: Study) -> None:
    """What a user finds in the store for the study's one run."""
    runs = recorded(study)
    assert len(runs) == 2
    parent = runs[runs["tags.role"] == "study"].iloc[0]
    run = only_run(study)
    assert run["tags.mlflow.parentRunId"] == parent["run_id"]
    assert run["status"] == "FINISHED"
    record = json.loads((study.run_dir(VARIANT, 0) / "run.json").read_text())
    assert run["tags.git_commit"] == str(record["commit"])
    assert run["tags.data_fingerprint"] == record["data_fingerprint"]
    assert run["params.train.optimizer.learning_rate"] == "0.001"
    assert run["params.model.decoder_gates"] == "True"
    metrics = json.loads((study.evaluation_dir(VARIANT, 0) / "metrics.json").read_text())
    assert run["metrics.test/dice"] == pytest.approx(metrics["dice"])
    assert run["metrics.training_cost/peak_memory_megabytes"] > 10
    assert (run["metrics.train/epochs_trained"], run["metrics.train/selected_epoch"]) == (2, 2)

    client = mlflow.MlflowClient()
    history = pd.read_csv(study.run_dir(VARIANT, 0) / "history.csv")
    logged = client.get_metric_history(run["run_id"], "validation/focal_loss")
    assert [metric.step for metric in logged] == [1, 2]
    assert [metric.value for metric in logged] == pytest.approx(
        history["validation_focal_loss"].tolist()
    )
    paths = {file.path for file in client.list_artifacts(run["run_id"])}
    assert {"run.json", "history.csv", "evaluation"} <= paths
    artifacts = Path(run["artifact_uri"].removeprefix("file://"))
    assert artifacts.is_relative_to(tracking_folder())  # beside the store, not in the project
    started = run["start_time"].timestamp()
    assert started == pytest.approx(record["started"], abs=1)
    assert run["end_time"].timestamp() == pytest.approx(started + record["wall_seconds"], abs=1)
    (dataset,) = client.get_run(run["run_id"]).inputs.dataset_inputs
    assert dataset.dataset.name == "tiny-prepared"
    assert dataset.dataset.digest == record["data_fingerprint"][:8]


def test_the_logged_model_predicts_the_networks_probabilities(tracked):
    study = tracked
    model = mlflow.pyfunc.load_model(f"runs:/{only_run(study)['run_id']}/model")
    images = np.asarray(PreparedCases.open(study.prepared_dir).images[:3])
    probabilities = model.predict(images)
    cpu = torch.device("cpu")
    network = load_model(
        study.models[VARIANT], study.run_dir(VARIANT, 0) / "weights.safetensors", cpu
    )
    with torch.no_grad():
        expected = network(to_input(torch.from_numpy(images), cpu)).squeeze(1).sigmoid()
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    assert model.metadata.signature.outputs.inputs[0].shape == (-1, 32, 64)
    assert model.metadata.metadata["images"] == "(N, 32, 64, 3), RGB, whole numbers from 0 to 255"


def test_sync_again_changes_nothing(tracked):
    before = recorded(tracked)
    assert sync(tracked) == (0, 1)
    pd.testing.assert_frame_equal(recorded(tracked), before)


def test_a_record_of_an_earlier_layout_is_made_anew_once(tracked):
    """Its metrics had other names, and MLflow takes no metric out of a run."""
    client, before = mlflow.MlflowClient(), recorded(tracked)
    for run_id in before["run_id"]:
        client.log_metric(run_id, "test_dice", 0.5)
        client.set_tag(run_id, "layout", "1")
    assert sync(tracked) == (1, 0)
    after = recorded(tracked)
    assert not set(after["run_id"]) & set(before["run_id"])
    assert len(after) == len(before)
    assert "metrics.test_dice" not in after
    assert sync(tracked) == (0, 1)


def test_a_run_has_a_short_name_tags_and_pictures_of_cases(tracked):
    run = only_run(tracked)
    assert run["tags.mlflow.runName"] == f"{VARIANT} 0"
    assert (run["tags.seed"], run["tags.fold"]) == ("0", "0")
    names = {name.removeprefix("metrics.") for name in run if name.startswith("metrics.")}
    sections = {name.rpartition("/")[0] for name in names if pd.notna(run[f"metrics.{name}"])}
    assert sections == {"test", "test_more", "train", "training_cost", "validation"}
    files = StudyRecord.open(tracked).files(run["run_id"])
    shown = {f"cases/{name}.jpg" for name in ("best", "median", "worst")}
    assert {path for path in files if path.startswith("cases")} == shown
    (tracked.evaluation_dir(VARIANT, 0) / "predictions.npy").unlink()
    assert sync(tracked) == (1, 0)
    files = StudyRecord.open(tracked).files(only_run(tracked)["run_id"])
    assert not [path for path in files if path.startswith("cases")]


@pytest.mark.parametrize("kind", ["file", "server"])
def test_the_command_prints_its_line_and_nothing_else(trained, request, monkeypatch, kind):
    """A server's records have their runs' addresses printed, else."""
    if kind == "server":
        monkeypatch.chdir(trained)
        request.getfixturevalue("server").start()
    else:
        request.getfixturevalue("both_trained")
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.tracking", "sync"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    assert done.stdout == "tracking: 2 runs recorded, 0 already there, study tiny\n"
    assert done.stderr == ""


def test_a_repeated_stage_replaces_its_run(tracked, monkeypatch):
    first = only_run(tracked)["run_id"]
    study = change_params(train={"epochs": 1})
    run_stages(monkeypatch, VARIANT)
    sync(study)
    again = only_run(study)  # fails if there are two
    assert again["run_id"] != first
    assert again["params.train.epochs"] == "1"


def test_a_new_evaluation_updates_its_run_and_keeps_the_training(tracked, monkeypatch):
    first = only_run(tracked)
    study = change_params(evaluate={"threshold": 0.99})
    monkeypatch.setattr(sys, "argv", ["evaluate", VARIANT, "0"])
    evaluate.main()
    assert sync(study) == (1, 0)
    again = only_run(study)
    assert again["run_id"] == first["run_id"]
    assert again["metrics.test_more/sensitivity"] == 0 < first["metrics.test_more/sensitivity"]
    assert len(mlflow.MlflowClient().get_run(again["run_id"]).outputs.model_outputs) == 1


def test_a_training_that_changed_its_curves_alone_replaces_its_run(tracked, monkeypatch):
    first = only_run(tracked)
    study = change_params(focal={"gamma": 1.0})
    run_stages(monkeypatch, VARIANT)
    assert sync(study) == (1, 0)
    again = only_run(study)
    assert again["run_id"] != first["run_id"]
    assert again["params.focal.gamma"] == "1.0"
    assert again["metrics.train/bce"] == first["metrics.train/bce"]  # the same training
    assert again["metrics.train/focal_loss"] > first["metrics.train/focal_loss"]


def test_an_empty_store_is_filled_from_the_run_folders(tracked, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    assert sync(tracked) == (1, 0)
    assert only_run(tracked)["status"] == "FINISHED"


def test_a_variant_that_left_the_study_leaves_the_store(both_trained):
    assert sync(both_trained) == (2, 0)
    study = change_params(variants=[VARIANT])
    shutil.rmtree(study.folder / "runs" / "limit_encoder_attention")
    assert sync(study) == (0, 1)
    assert set(recorded(study)["tags.variant"].dropna()) == {VARIANT}


def test_a_resumed_training_has_one_record_with_each_epoch_once(tiny_study, monkeypatch):
    study = change_params(variants=[VARIANT], tracking={"live": True}, train={"epochs": 2})
    validate, validated = loop.validate, []

    def fail(*arguments: object) -> dict[str, float]:
        validated.append(len(validated))
        if len(validated) == 2:
            raise RuntimeError("in mid-epoch")
        return validate(*arguments)

    monkeypatch.setattr(loop, "validate", fail)
    with pytest.raises(RuntimeError, match="in mid-epoch"):
        run_stages(monkeypatch, VARIANT)
    run_stages(monkeypatch, VARIANT)
    record = json.loads((study.run_dir(VARIANT, 0) / "run.json").read_text())
    assert record["resumed_epochs"] == [1]
    assert sync(study) == (1, 0)
    check_record(study)  # fails if there are two, or an epoch is there twice
    assert only_run(study)["run_id"] == record["mlflow_run_id"]


def test_a_training_that_fails_is_recorded_as_failed(tiny_study, monkeypatch):
    study = change_params(tracking={"live": True})

    def fail(*_: object) -> None:
        raise RuntimeError("in mid-epoch")

    monkeypatch.setattr(loop, "validate", fail)
    monkeypatch.setattr(sys, "argv", ["train", VARIANT, "0"])
    with pytest.raises(RuntimeError, match="in mid-epoch"):
        train.main()
    assert only_run(study)["status"] == "FAILED"
    assert not (study.run_dir(VARIANT, 0) / "weights.safetensors").exists()


def metric_steps(study: Study) -> list[int]:
    run_id = only_run(study)["run_id"]
    history = mlflow.MlflowClient().get_metric_history(run_id, "train/bce")
    return [metric.step for metric in history]


def test_a_server_that_is_away_or_lost_costs_no_training(tiny_study, monkeypatch, capfd, server):
    """Absent at the start, lost in mid-run, back: the record is complete, and each is said once."""
    # Retries wait for seconds, which the next test holds; here they would be waited for in vain.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(sys, "argv", ["train", VARIANT, "0"])
    study = change_params(
        variants=[VARIANT],
        train={"epochs": 3},
        tracking={"live": True, "required": True},
    )
    with pytest.raises(UserError, match=r"cannot be used: .*; or set tracking\.required: false to"):
        train.main()
    assert not study.run_dir(VARIANT, 0).exists()
    assert not study.resume_file(VARIANT, 0).exists()

    study = change_params(tracking={"required": False})
    capfd.readouterr()
    train.main()
    record = json.loads((study.run_dir(VARIANT, 0) / "run.json").read_text())
    assert record["mlflow_run_id"] is None
    assert warnings_in(capfd.readouterr().err) == 1
    server.start()
    assert sync(study) == (1, 0)
    assert metric_steps(study) == [1, 2, 3]
    assert sync(study) == (0, 1)

    # Lost after the first epoch of another training, with the record begun.
    study = change_params(focal={"gamma": 1.0}, tracking={"required": True})
    validate = loop.validate
    asked: list[int] = []

    def losing(*arguments: object) -> dict[str, float]:
        asked.append(0)
        if len(asked) == 2:
            server.kill()
        return validate(*arguments)

    monkeypatch.setattr(loop, "validate", losing)
    train.main()
    printed = capfd.readouterr()
    assert warnings_in(printed.err) == 1
    assert "train: gated_attention, seed 0: validation Dice" in printed.out
    record = json.loads((study.run_dir(VARIANT, 0) / "run.json").read_text())
    assert (record["epochs_trained"], record["mlflow_run_id"]) == (3, None)
    server.start()
    assert metric_steps(study) == [1]
    assert sync(study) == (1, 0)
    assert metric_steps(study) == [1, 2, 3]  # fails if there are two records
    assert only_run(study)["status"] == "FINISHED"
    assert only_run(study)["params.focal.gamma"] == "1.0"


def warnings_in(printed: str) -> int:
    """How many lines the training wrote beside its progress bars, each a warning of ours."""
    lines = [line for line in printed.replace("\x1b[A", "").splitlines() if line.strip()]
    told = [line for line in lines if "%|" not in line]
    for line in told:
        assert line.strip().startswith("warning: MLflow's record of this run is incomplete ("), line
    return len(told)


def test_a_lost_server_is_waited_for_in_seconds_and_once(tiny_study, server, capsys):
    """Nothing listens on the port. The library alone would try for four minutes, each epoch."""
    live = LiveRun(required=False)
    start = time.perf_counter()
    live.open(tiny_study, tiny_study.runs()[0], {}, None)
    for epoch in (1, 2, 3):
        live.log_epoch(epoch, {"train_bce": 0.5})
    live.close("FINISHED")
    assert time.perf_counter() - start < 30
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert live.id is None


def test_a_server_that_is_not_there_is_one_clear_error(tiny_study, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match=r"MLflow's store at http://127\.0\.0\.1:9 cannot be used"):
        sync(tiny_study)


def test_a_store_that_is_no_database_is_one_clear_error(tmp_path, monkeypatch):
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 500)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(UserError, match=r"store at /.*mlflow\.db cannot be used: .*database"):
        open_store()


@pytest.mark.parametrize("within", ["standalone/tmp1", "tmp1"])  # --temp, --queue
@pytest.mark.parametrize("above", ["", "exps/lab"])
def test_an_experiment_in_a_copy_has_a_name_of_its_own_and_its_projects_store(
    tmp_path, monkeypatch, above, within
):
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    project = tmp_path / above / "project"
    (project / "pipeline").mkdir(parents=True)
    study = make_study(project, variants=[VARIANT], seeds=[0])
    copied = study.folder / ".dvc" / "tmp" / "exps" / within / "studies"
    shutil.copytree(study.folder, copied / "fake", ignore=shutil.ignore_patterns(".dvc"))
    copy = load_study(copied / "fake")
    assert store._name(study) == "fake"
    assert store._name(copy) == "fake: tmp1"
    assert store._folder(copy) == store._folder(study)
    monkeypatch.setenv("DVC_EXP_NAME", "wide")
    assert store._name(copy) == "fake: wide"
    monkeypatch.setattr(connection, "ROOT", copied.parent)
    assert connection.home() == project


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("run.json", "{}", "run.json: started, wall_seconds, .* is missing; run the stage train"),
        ("run.json", '{"started": "noon"}', "run.json: started: input should be a valid number"),
        ("run.json", '{"started": 1e300}', "run.json: started: input should be less than"),
        (
            "history.csv",
            "epoch,train_loss\n1,low\n",
            "history.csv, line 2: train_loss must be",
        ),
        (
            "evaluation/metrics.json",
            '{"dice": "good"}',
            "metrics.json: dice: input should be",
        ),
    ],
)
def test_what_a_run_cannot_have_is_told_and_not_recorded(
    tmp_path, monkeypatch, empty_store, file, content, told
):
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    study = make_study(tmp_path, variants=[VARIANT], seeds=[0])
    folder = study.run_dir(VARIANT, 0)
    record = json.loads((folder / "run.json").read_text())
    numbers = {"started": 1.0, "epochs_trained": 1, "selected_epoch": 1}
    record |= numbers | {"params": {}, "weights_sha256": "0" * 64}
    (folder / "run.json").write_text(json.dumps(record))
    (folder / file).write_text(content)
    with pytest.raises(UserError, match=told):
        sync(study)


def test_the_command_records_runs_and_tells_of_a_store_that_is_lost(tracked, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tracking", "sync"])
    command.main()
    assert "0 runs recorded, 1 already there" in capsys.readouterr().out

    def lost(study):
        raise mlflow.exceptions.MlflowException("no answer\nmore")

    monkeypatch.setattr(command, "sync", lost)
    with pytest.raises(UserError, match=r"cannot be used: no answer; .* again when it is back"):
        command.main()
