"""pipeline/status: what each run is at, told by files alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import killed_stage
import pytest
import yaml
from conftest import REPOSITORY
from fake_study import make_study

from pipeline.status import overview, trial
from pipeline.status.__main__ import describe, duration, main
from pipeline.status.overview import WIDTH, RunStatus, counts, disk_use, look, table
from pipeline.status.remaining import remaining
from pipeline.status.trial import Estimate
from pipeline.study.files import sha256
from pipeline.study.heartbeat import heartbeat_file
from pipeline.study.params import Run
from pipeline.study.reading import load_study

VARIANTS = ["gated_attention", "resunet"]


def leave_record(study, run, work="train", **facts):
    path = heartbeat_file(study, Run(*run), work)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(facts))


def states(study) -> dict[Run, str]:
    return {found.run: found.state for found in look(study)}


@pytest.fixture
def study(tmp_path):
    """Two variants, seeds 0 and 1, all runs done."""
    return make_study(tmp_path, variants=VARIANTS, seeds=[0, 1])


def test_files_say_what_is_done_waiting_trained_interrupted_and_failed(study):
    assert set(states(study).values()) == {"done"}
    shutil.rmtree(study.run_dir("resunet", 0))
    assert states(study)["resunet", 0, 0] == "waiting"
    leave_record(study, ("resunet", 0, 0), epoch=3, epochs=10, images=32, of=64)
    assert states(study)["resunet", 0, 0] == "interrupted"
    leave_record(study, ("resunet", 0, 0), epoch=3, epochs=10, error="no luck")
    assert states(study)["resunet", 0, 0] == "failed"
    (study.evaluation_dir("resunet", 1) / "metrics.json").unlink()
    assert states(study)["resunet", 1, 0] == "trained"
    leave_record(study, ("resunet", 1, 0), "evaluate", error="no mask")
    found = {run.run: run for run in look(study)}
    assert found["resunet", 1, 0].state == "failed"
    assert found["resunet", 1, 0].error == "no mask"
    assert counts(look(study)) == {"done": 2, "failed": 2}


def test_runs_that_are_scored_on_external_sets_are_counted(tmp_path):
    study = make_study(tmp_path, variants=VARIANTS, seeds=[0, 1], external={"ham10000": 4})
    assert overview.scored_on_sets(study) == {"ham10000": 4}
    assert disk_use(study)["external"] > 0
    (study.on("ham10000").evaluation_dir("resunet", 1) / "metrics.json").unlink()
    assert overview.scored_on_sets(study) == {"ham10000": 3}
    runs = look(study)
    lines = describe(
        study, runs, remaining(runs, dict.fromkeys(study.variants, study.train.epochs)), None
    )
    assert "On ham10000: 3 of 4 runs scored" in lines


def test_a_state_without_a_record_is_of_an_interrupted_training(study):
    shutil.rmtree(study.run_dir("resunet", 0))
    state = study.resume_file("resunet", 0)
    state.parent.mkdir(parents=True)
    state.write_bytes(b"")
    assert states(study)["resunet", 0, 0] == "interrupted"


@pytest.fixture
def slow_training(drawn_study, tmp_path):
    """A study's folder whose training would take minutes; nothing trained."""
    params = yaml.safe_load((drawn_study / "params.yaml").read_text())
    params["train"] |= {"epochs": 5000}
    network = {"encoder": "plain", "plain_width": 2, "decoder_gates": True}
    params |= {"models": {"resunet": network}, "variants": ["resunet"]}
    params |= {"paper": None, "factors": {}}
    params["tracking"] |= {"live": False}
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / "data").symlink_to(drawn_study / "data")
    return folder


@pytest.mark.slow
def test_a_training_shows_as_running_and_once_killed_as_interrupted(slow_training):
    study = load_study(slow_training)
    process = killed_stage.start("train", slow_training, "resunet", "0")
    try:
        deadline = time.monotonic() + 60
        (found,) = look(study)
        while (found.epoch or 0) < 3 or found.seconds_per_epoch is None:
            assert time.monotonic() < deadline, found
            time.sleep(0.2)
            (found,) = look(study)
        assert (found.state, found.epochs) == ("running", 5000)
        assert found.images_per_second > 0
        assert f"epoch {found.epoch} of 5000, " in table(study, [found])
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    (after,) = look(study)
    assert after.state == "interrupted"
    assert after.epoch >= found.epoch


@pytest.mark.slow
def test_a_training_that_ends_with_an_error_shows_as_failed_with_its_words(slow_training):
    (slow_training / "data").unlink()
    process = killed_stage.start("train", slow_training, "resunet", "0")
    process.join()
    (found,) = look(load_study(slow_training))
    assert found.state == "failed"
    assert "is missing or unusable" in found.error
    printed = Path(f"{slow_training}.printed").read_text()
    assert found.error in printed


def done(variant, seed, training=100.0, evaluation=20.0):
    return RunStatus(
        Run(variant, seed, 0), "done", training_seconds=training, evaluation_seconds=evaluation
    )


def test_hours_left_are_the_means_of_the_variant_and_the_epochs_of_those_on_their_way():
    runs = [
        done("a", 0, 100, 20),
        done("a", 1, 140, 40),
        RunStatus(Run("a", 2, 0), "trained", training_seconds=90),
        RunStatus(Run("a", 3, 0), "waiting"),
        # in the middle of its fourth epoch of ten, which took 11 s each
        RunStatus(Run("a", 4, 0), "running", 4, 10, 0.5, 50.0, 11.0),
        # begins its third epoch anew
        RunStatus(Run("a", 5, 0), "interrupted", 3, 10, 0.0, 50.0, 12.0),
        RunStatus(Run("b", 0, 0), "waiting"),  # nothing is known of b: as a
    ]
    left = remaining(runs, {"a": 10, "b": 10})
    training, evaluation = (100 + 140 + 90) / 3, (20 + 40) / 2
    assert left.seconds == pytest.approx(2 * training + 6.5 * 11 + 8 * 12 + 5 * evaluation)
    assert (left.at_once, left.unknown, left.evaluated) == (1, ("b",), True)


def test_before_any_run_is_finished_those_on_their_way_stand_for_the_others():
    runs = [
        RunStatus(Run("a", 0, 0), "running", 2, 4, 0.0, 50.0, 10.0),
        RunStatus(Run("a", 1, 0), "waiting"),
        RunStatus(Run("b", 0, 0), "waiting"),
    ]
    left = remaining(runs, {"a": 4, "b": 4})
    assert left.seconds == pytest.approx(3 * 10 + 40 + 40)
    assert (left.unknown, left.evaluated) == (("b",), False)


def test_a_run_takes_the_epochs_of_its_own_variant():
    runs = [
        RunStatus(Run("a", 0, 0), "running", 2, 4, 0.0, 50.0, 10.0),
        RunStatus(Run("b", 0, 0), "running", 2, 9, 0.0, 50.0, 10.0),
        RunStatus(Run("b", 1, 0), "waiting"),
    ]
    left = remaining(runs, {"a": 4, "b": 9})
    assert left.seconds == pytest.approx(3 * 10 + 8 * 10 + 90)


def test_two_at_once_share_what_is_left():
    running = [RunStatus(Run("a", seed, 0), "running", 1, 2, 0.0, 1.0, 30.0) for seed in (0, 1)]
    left = remaining(running, {"a": 2})
    assert (left.seconds, left.at_once, left.evaluated) == (120.0, 2, False)


def test_before_anything_ran_no_time_is_told():
    assert remaining([RunStatus(Run("a", 0, 0), "waiting")], {"a": 2}).seconds is None
    assert remaining([done("a", 0)], {"a": 2}).seconds == 0.0


@pytest.mark.parametrize(("seeds", "folds"), [(10, 0), (30, 0), (2, 3), (1, 0)])
def test_the_table_fits_a_terminal_and_has_every_run(tmp_path, seeds, folds):
    variants = ["limit_encoder_attention", "encoder_and_gated_attention", "unet"]
    folder = tmp_path / "studies" / "wide"
    folder.mkdir(parents=True)
    params = yaml.safe_load((REPOSITORY / "studies" / "demo" / "params.yaml").read_text())
    params |= {"name": "wide", "variants": variants, "seeds": list(range(seeds)), "averaging": []}
    params["export"], params["compare"]["baseline"] = [], None
    if folds:
        params["prepare"]["split"] = {"method": "folds", "k": folds, "seed": 0}
        params["folds"] = list(range(folds))
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    study = load_study(folder)
    runs = [RunStatus(run, "running", 10, 10, 0.5, 1234.5, 1.0) for run in study.runs()]
    text = table(study, runs)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert text.count("10/10") + text.count("epoch 10 of 10, 1234.5 images/s") == len(runs)


def test_sources_data_and_params_that_changed_make_a_training_out_of_date(study):
    path = study.run_dir("resunet", 1) / "run.json"
    record = json.loads(path.read_text())
    prepared = json.loads((study.prepared_dir / "prepared.json").read_text())["fingerprint"]
    params = study.model_dump(mode="json", include={"train", "focal"})

    def changed(**facts):
        told = {"data_fingerprint": prepared, "params": params, "sources": {}} | facts
        path.write_text(json.dumps(record | told))
        (found,) = [found for found in look(study) if found.run == ("resunet", 1, 0)]
        return found.changed

    assert changed() == ()
    assert changed(sources={"pipeline/train.py": "0" * 64}) == ("pipeline/train.py",)
    own = study.folder / "networks" / "own.py"  # not one of the suite's sources
    own.parent.mkdir(exist_ok=True)
    own.write_text("# a network\n")
    assert changed(sources={"networks/own.py": sha256(own)}) == ()
    assert changed(sources={"networks/own.py": "0" * 64}) == ("networks/own.py",)
    assert changed(data_fingerprint="0" * 64) == ("data/prepared",)
    assert changed(params=params | {"focal": {"alpha": 1}}) == ("params.yaml: focal",)


def test_disk_use_is_the_bytes_of_the_files_each_once(study):
    (study.folder / "runs" / "more").write_bytes(bytes(1000))
    before = disk_use(study)["runs"]
    os.link(study.folder / "runs" / "more", study.folder / "runs" / "again")
    assert disk_use(study)["runs"] == before
    files = [path for path in study.prepared_dir.rglob("*") if path.is_file()]
    assert disk_use(study)["data"] == sum(path.stat().st_size for path in files)


def test_what_is_not_done_is_told_below_the_table(study):
    shutil.rmtree(study.run_dir("resunet", 0))
    leave_record(study, ("resunet", 0, 0), epoch=3, epochs=10, error="no luck")
    runs = look(study)
    text = "\n".join(
        describe(study, runs, remaining(runs, dict.fromkeys(study.variants, 10)), None)
    )
    assert "failed: resunet, seed 0 in epoch 3 of 10: no luck" in text
    # Of resunet's other run 76.5 s; eight epochs are left.
    assert f"Time left: about {duration(76.5 * 0.8)}" in text
    assert "evaluations come on top" in text


def ask(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "pipeline.status", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )


def test_for_scripts_it_is_json(study):
    found = json.loads(ask(study.folder, "--json").stdout)
    assert found["counts"] == {"done": 4}
    assert {(run["variant"], run["seed"], run["state"]) for run in found["runs"]} == {
        (variant, seed, "done") for variant in VARIANTS for seed in (0, 1)
    }
    assert (found["seconds_left"], found["estimate"]) == (0.0, None)


def test_a_broken_study_costs_one_line(study):
    path = study.folder / "params.yaml"
    path.write_text(path.read_text().replace("seeds:", "seedz:"))
    told = ask(study.folder)
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr.startswith("error: params.yaml: seeds is missing")
    assert "Traceback" not in told.stderr
    told = ask(study.folder.parent)
    assert told.returncode == 1
    assert told.stderr.startswith("error: params.yaml is missing")


def test_a_study_of_a_folder_that_is_not_there_is_told(tmp_path):
    study = make_study(tmp_path, source="directory")
    assert ask(study.folder).returncode == 0  # prepared cases are enough
    shutil.rmtree(study.prepared_dir)
    told = ask(study.folder)
    assert told.returncode == 1
    assert "data.raw must be an existing folder" in told.stderr


def test_it_opens_no_network_and_imports_nothing_that_takes_seconds(study):
    code = (
        "import sys; sys.argv = ['status']; from pipeline.status.__main__ import main; main();"
        "print(sorted({'torch', 'mlflow', 'dvc', 'pandas', 'scipy'} & sys.modules.keys()))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        cwd=study.folder,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.splitlines()[-1] == "[]"


def test_networks_of_other_packages_are_not_imported_either(study):
    path = study.folder / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params["models"]["resunet"] = {"family": "smp", "architecture": "Unet", "encoder": "resnet18"}
    path.write_text(yaml.safe_dump(params))
    code = (
        "import sys; sys.argv = ['status']; from pipeline.status.__main__ import main; main();"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=study.folder,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        check=True,
    )


def test_a_reader_that_has_read_enough_costs_no_traceback(study):
    reader, writer = os.pipe()
    os.close(reader)
    told = subprocess.run(
        [sys.executable, "-m", "pipeline.status", str(study.folder)],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert (told.returncode, told.stderr) == (141, "")


def test_the_command_tells_all_states_and_what_is_out_of_date(study, monkeypatch, capsys):
    leave_record(study, ("resunet", 0, 0), "evaluate", seconds=12.0)
    path = study.run_dir("resunet", 1) / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data_fingerprint": "0" * 64}))
    shutil.rmtree(study.run_dir("gated_attention", 1))
    monkeypatch.setattr(sys, "argv", ["status", str(study.folder)])
    main()
    told = capsys.readouterr().out
    assert told.startswith("Study fake, 4 runs: 3 done, 1 waiting\n\nseed ")
    assert "Out of date: 1 run, of which DVC will repeat the training or the evaluation" in told
    assert "because of data/prepared" in told
    assert "Time left: about" in told
    monkeypatch.setattr(sys, "argv", ["status", "--json", str(study.folder)])
    main()
    assert json.loads(capsys.readouterr().out)["counts"] == {"done": 3, "waiting": 1}
    estimate = Estimate(
        {"gated_attention": 60.0, "resunet": 7200.0}, 14520.0, "random", 0.004, 0.01
    )
    monkeypatch.setattr(trial, "estimate_study", lambda study: estimate)
    monkeypatch.setattr(sys, "argv", ["status", "--estimate", str(study.folder)])
    main()
    told = capsys.readouterr().out
    assert "4 runs, about 4.0 hours here, one at a time" in told
    assert "tried on random ones" in told


def test_each_state_has_its_word_in_the_table_or_its_sign_and_a_line_below(study):
    run = Run("resunet", 0, 0)
    states = [
        RunStatus(run, "running"),
        RunStatus(run, "running", 2, 9),
        RunStatus(run, "evaluating"),
        RunStatus(run, "interrupted"),
        RunStatus(run, "interrupted", 4, 9),
        RunStatus(run, "trained"),
    ]
    words = ["starting", "epoch 2 of 9", "evaluating", "interrupted", "interrupted in epoch 4"]
    assert [overview._word(found) for found in states] == [*words, "trained"]
    signs = ["start", "2/9", "eval", "!", "4/9!", "+eval"]
    assert [overview._sign(found) for found in states] == signs
    for found, told in (
        (states[1], "running: resunet, seed 0: epoch 2 of 9"),
        (states[2], "evaluating: resunet, seed 0"),
        (states[4], "interrupted: resunet, seed 0 in epoch 4 of 9; run again, and it goes on"),
    ):
        other = [RunStatus(each, "waiting") for each in study.runs() if each != run]
        text = "\n".join(describe(study, [found, *other], remaining([], {}), None))
        assert told in text
