"""training/resume.py: an interrupted training ends as one that was not, to the bit."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import killed_stage
import pandas as pd
import pytest
import torch
import yaml
from conftest import REPOSITORY
from safetensors import safe_open
from safetensors.torch import save_file

from models import build_model
from models.attenresunet import AttenResUNetConfig
from pipeline import train
from pipeline.engine.prepared import PreparedCases
from pipeline.study.blocks import SGD, Adam, Schedule
from pipeline.study.errors import UserError
from pipeline.study.files import sha256
from pipeline.study.locks import alone
from pipeline.study.reading import load_study
from pipeline.training import loop, resume
from pipeline.training.resume import ResumeFile

pytestmark = pytest.mark.slow

VARIANT = "gated_attention"
KILLS = int(os.environ.get("LESION_KILLS", "8"))  # more of them take longer and prove more
CPU = torch.device("cpu")
TIMES = ["seconds", "images_per_second"]
TINY = {"encoder": "plain", "plain_width": 2, "decoder_gates": True}


@pytest.fixture(scope="module")
def quick(drawn_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study's folder whose six epochs take a second or so; nothing trained, nothing tracked."""
    params = yaml.safe_load((drawn_study / "params.yaml").read_text())
    params["train"] |= {
        "epochs": 6,
        "select": "best_validation_dice",
        "schedule": {"method": "cosine", "warmup_epochs": 1},
    }
    params |= {"models": {VARIANT: TINY}, "variants": [VARIANT], "paper": None, "factors": {}}
    params["tracking"] |= {"live": False}
    folder = tmp_path_factory.mktemp("quick")
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / "data").symlink_to(drawn_study / "data")
    return folder


@pytest.fixture(scope="module")
def whole(quick: Path) -> Path:
    """The study after a training that nothing interrupted, and its evaluation. To be read only."""
    folder = copy_of(quick, quick.with_name("whole"))
    for stage in ("train", "evaluate"):
        run(stage, folder)
    return folder


@pytest.fixture
def folder(quick: Path, tmp_path: Path) -> Path:
    """The study, nothing trained."""
    return copy_of(quick, tmp_path / "study")


@pytest.fixture(scope="module")
def interrupted_once(quick: Path) -> Path:
    folder = copy_of(quick, quick.with_name("interrupted"))
    run("train", folder, killed_stage.kill_before_state_is_deleted, expected=-9)
    shutil.rmtree(folder / "runs")
    return folder


@pytest.fixture
def interrupted(interrupted_once: Path, tmp_path: Path) -> Path:
    """The study after the sixth and last epoch: its state is there, its results are not."""
    return Path(shutil.copytree(interrupted_once, tmp_path / "interrupted", symlinks=True))


def copy_of(study: Path, folder: Path, **changes: object) -> Path:
    """Another folder with the study's data and params, and nothing trained."""
    folder.mkdir()
    (folder / "data").symlink_to((study / "data").resolve())
    shutil.copy(study / "params.yaml", folder)
    change(folder, **changes)
    return folder


def change(folder: Path, **changes: object) -> None:
    """Replace top-level keys of the folder's params.yaml; blocks are merged."""
    path = folder / "params.yaml"
    params = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        params[key] = params[key] | value if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(params))


def run(stage: str, folder: Path, prepare=None, expected: int = 0) -> str:
    """Run the stage to its end; what it printed."""
    printed = printed_by(folder)
    printed.unlink(missing_ok=True)
    process = killed_stage.start(stage, folder, VARIANT, "0", prepare=prepare)
    process.join(120)
    assert process.exitcode == expected, printed.read_text()
    return printed.read_text()


def printed_by(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.printed")


def results(folder: Path) -> tuple[str, str]:
    """What equal trainings have in common: the weights' sha256 and the history."""
    run_dir = load_study(folder).run_dir(VARIANT, 0)
    history = pd.read_csv(run_dir / "history.csv").drop(columns=TIMES)
    return sha256(run_dir / "weights.safetensors"), history.to_csv()


def record_of(folder: Path) -> dict:
    return json.loads((load_study(folder).run_dir(VARIANT, 0) / "run.json").read_text())


def state_of(folder: Path) -> Path:
    return load_study(folder).resume_file(VARIANT, 0)


def files_in(folder: Path) -> set[str]:
    """Every file of the study but its data, what it printed and the empty lock."""
    found = (path for path in folder.rglob("*") if path.is_file())
    names = {str(path.relative_to(folder)) for path in found}
    return {name for name in names if not name.startswith(("data", "printed", "params"))} - {
        f".resume/{VARIANT}/0/0.lock"
    }


def bars_off(text: str) -> str:
    """The lines that a stage printed, without its progress bars."""
    lines = re.split(r"[\r\n]+", text.replace("\x1b[A", "").rstrip())
    return "\n".join(line for line in lines if line.strip() and "%|" not in line)


def test_kills_at_random_moments_change_no_bit(quick, whole, tmp_path, capsys):
    started = time.perf_counter()
    run("train", copy_of(quick, tmp_path / "timed"))
    seconds = time.perf_counter() - started
    moments = random.Random(int(os.environ.get("LESION_KILL_SEED", "0")))
    kills, runs, table = 0, 0, []
    while kills < KILLS:
        folder = copy_of(quick, tmp_path / f"killed-{runs}")
        in_this_run = 0
        while True:
            process = killed_stage.start("train", folder, VARIANT, "0")
            # A run has four kills at most: killed for ever it would never end.
            going = kills < KILLS and in_this_run < 4
            process.join(moments.uniform(0.1, seconds) if going else 120)
            if process.exitcode is not None:
                assert process.exitcode == 0, printed_by(folder).read_text()
                break
            process.kill()
            process.join()
            kills += 1
            in_this_run += 1
        assert results(folder) == results(whole)
        run("evaluate", folder)
        metrics = f"runs/{VARIANT}/0/0/evaluation/metrics.json"
        assert (folder / metrics).read_text() == (whole / metrics).read_text()
        assert files_in(folder) == files_in(whole)
        table.append((runs, in_this_run, record_of(folder)["resumed_epochs"]))
        runs += 1
    with capsys.disabled():
        for number, count, resumed in table if KILLS > 8 else []:
            print(f"run {number}: {count} kills, resumed after epochs {resumed}, sha256 equal")


@pytest.mark.parametrize(
    ("killer", "resumed"),
    [
        (killed_stage.kill_in_second_save, [1]),
        (killed_stage.kill_before_second_rename, [1]),
        (killed_stage.kill_before_state_is_deleted, [6]),
    ],
)
def test_a_kill_while_the_state_is_saved_or_deleted_changes_no_bit(folder, whole, killer, resumed):
    run("train", folder, killer, expected=-9)
    assert state_of(folder).exists()
    printed = run("train", folder)
    assert f"resumed after epoch {resumed[0]}\n" in printed
    assert results(folder) == results(whole)
    assert record_of(folder)["resumed_epochs"] == resumed
    assert not list(folder.rglob("*.partial"))
    assert not state_of(folder).exists()


COMMON = {"encoder_learning_rate": None, "weight_decay": 0.0}
PROTOCOLS = {
    "adam": {},
    "adamw": {
        "optimizer": Adam(
            method="adamw", learning_rate=0.004, encoder_learning_rate=0.001, weight_decay=0.01
        ),
        "schedule": Schedule(method="cosine", warmup_epochs=2),
        "gradient_clip": 1.0,
    },
    "sgd": {
        "optimizer": SGD(method="sgd", learning_rate=0.01, momentum=0.9, nesterov=True, **COMMON),
        "select": "best_validation_dice",
    },
    "sgd without momentum": {
        "optimizer": SGD(method="sgd", learning_rate=0.01, momentum=0.0, nesterov=False, **COMMON),
    },
    "frozen encoder": {"freeze_encoder": True, "loss": "focal"},
    "early stopping": {"early_stopping": 1, "select": "best_validation_dice"},
}


class InterruptionError(Exception):
    pass


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol_goes_on_to_the_bit(tiny_study, tmp_path, monkeypatch, protocol):
    """Interrupted after each epoch, against a training in one go; channels_last, as the stage."""
    changes = {"epochs": 5, "precision": "float32"} | PROTOCOLS[protocol]
    study = tiny_study.model_copy(update={"train": tiny_study.train.model_copy(update=changes)})
    cases = PreparedCases.open(study.prepared_dir)
    validated = loop.validate
    if protocol == "early stopping":  # which ends it after the third epoch
        found = iter([0.2, 0.5, 0.4] * 2)

        def scripted(*arguments: object) -> dict[str, float]:
            return validated(*arguments) | {"validation_dice": next(found)}

        monkeypatch.setattr(loop, "validate", scripted)

    def network() -> torch.nn.Module:
        torch.manual_seed(0)
        return build_model(AttenResUNetConfig(**TINY)).to(memory_format=torch.channels_last)

    expected = network()
    history = loop.fit(expected, cases, study, seed=0)

    def interrupt(epoch: int, row: dict[str, float]) -> None:
        if epoch == trained[-1] + 1:
            trained.append(epoch)
            raise InterruptionError

    path, trained = tmp_path / "state.safetensors", [0]
    while True:
        model = network()
        with torch.no_grad():  # whatever it starts from, the state decides
            model.head[-1].weight.add_(trained[-1])
        try:
            found_history = loop.fit(
                model, cases, study, 0, interrupt, ResumeFile(path, {"same": "one"}, CPU)
            )
            break
        except InterruptionError:
            pass
    assert trained == list(range(len(history) + 1))
    pd.testing.assert_frame_equal(
        found_history.drop(columns=TIMES), history.drop(columns=TIMES), check_exact=True
    )
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def spoil(path: Path, how: str) -> None:
    content = path.read_bytes()
    header = int.from_bytes(content[:8], "little")
    middle = (8 + header + len(content)) // 2
    if how == "empty":
        path.write_bytes(b"")
    elif how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "one bit of the tensors":
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif how == "one digit of the history":
        at = content.index(b"train_loss") + len(b'train_loss\\": 0.1')
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    elif how == "zeros":
        path.write_bytes(bytes(len(content)))
    elif how == "weights":
        save_file({"model/weight": torch.zeros(3)}, path)
    elif how == "two tensors swapped":
        swapped = content.replace(b"exp_avg_sq", b"exp_avg_xx")
        path.write_bytes(swapped)
    else:
        path.write_text("no state at all")


@pytest.mark.parametrize(
    "how",
    [
        "empty",
        "truncated",
        "one bit of the tensors",
        "one digit of the history",
        "two tensors swapped",
        "zeros",
        "weights",
        "text",
    ],
)
def test_a_corrupt_state_is_set_aside_and_said(interrupted, capsys, how):
    path = state_of(interrupted)
    was = json.loads(_metadata(path)["state"])["identity"]
    assert ResumeFile(path, was, CPU).found is not None
    spoil(path, how)
    spoilt = path.read_bytes()
    assert ResumeFile(path, was, CPU).found is None
    assert not path.exists()
    assert path.with_suffix(".corrupt").read_bytes() == spoilt
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(
        rf"warning: {re.escape(str(path))} is corrupt \(.+\): set aside as 0\.corrupt, training "
        "begins anew",
        line,
    )


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def test_a_state_that_cannot_be_read_is_kept_and_said(interrupted, monkeypatch):
    path = state_of(interrupted)
    content, was = path.read_bytes(), json.loads(_metadata(path)["state"])["identity"]
    own = Path.open

    def refuse(self, mode="r", *rest, **options):
        if self == path:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return own(self, mode, *rest, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuse)
        with pytest.raises(UserError, match="cannot be read: Permission denied; allow reading it"):
            ResumeFile(path, was, CPU)
    assert path.read_bytes() == content


def test_training_begins_anew_after_a_corrupt_state(interrupted, whole):
    spoil(state_of(interrupted), "one bit of the tensors")
    printed = bars_off(run("train", interrupted))
    assert printed.startswith("warning: ")
    assert len(printed.splitlines()) == 2
    assert results(interrupted) == results(whole)
    assert record_of(interrupted)["resumed_epochs"] == []


def test_a_state_of_another_training_is_not_gone_on_from(interrupted, tmp_path):
    change(interrupted, train={"epochs": 3})
    other = copy_of(interrupted, tmp_path / "other")
    run("train", other)
    printed = bars_off(run("train", interrupted))
    assert re.match(
        r"warning: \S+ is of another training \(train\.epochs\): training begins "
        r"anew\ntrain: ",
        printed,
    )
    assert results(interrupted) == results(other)
    assert record_of(interrupted)["resumed_epochs"] == []


def test_a_change_while_it_was_trained_is_told_and_nothing_written(
    folder, whole, monkeypatch, capsys
):
    """What DVC would record as the result of params that it was not trained by."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["train", VARIANT, "0"])
    fit, before = loop.fit, Path("params.yaml").read_bytes()

    def edited(*arguments, **named):
        history = fit(*arguments, **named)
        change(Path(), train={"batch_size": 4})
        return history

    monkeypatch.setattr(train, "fit", edited)
    with pytest.raises(
        UserError, match=r"^params\.yaml: train\.batch_size changed while gated_attention, seed 0"
    ):
        train.main()
    assert not [path for path in Path("runs").rglob("*") if path.is_file()]
    # Put back, it is written without an epoch trained.
    Path("params.yaml").write_bytes(before)
    monkeypatch.setattr(train, "fit", fit)
    monkeypatch.setattr(loop, "train_epoch", None)
    train.main()
    assert results(Path()) == results(whole)
    assert "resumed after epoch 6\n" in capsys.readouterr().out


def test_a_record_adds_up_the_parts_of_an_interrupted_training(tiny_study, tmp_path):
    study = tiny_study.model_copy(
        update={"train": tiny_study.train.model_copy(update={"epochs": 2})}
    )
    cases = PreparedCases.open(study.prepared_dir)
    model = build_model(AttenResUNetConfig(**TINY))
    path = tmp_path / "state.safetensors"
    first = ResumeFile(path, {}, CPU)
    first.before["peak_memory_bytes"] = 10**15
    first.start -= 1000

    def interrupt(epoch: int, row: dict[str, float]) -> None:
        if epoch == 1:
            raise InterruptionError

    with pytest.raises(InterruptionError):
        loop.fit(model, cases, study, 0, interrupt, first)
    for _ in range(2):  # interrupted twice, the second time before an epoch was finished
        again = ResumeFile(path, {}, CPU)
        with contextlib.suppress(InterruptionError):
            loop.fit(model, cases, study, 0, interrupt, again)
    last = ResumeFile(path, {}, CPU)
    last.start -= 500
    loop.fit(model, cases, study, 0, resume_file=last)
    parts = last.parts()
    assert parts["started"] == first.before["started"]
    assert 1500 < parts["wall_seconds"] < 1600
    assert parts["peak_memory_bytes"] == 10**15
    assert parts["resumed_epochs"] == [1, 1, 1]


@pytest.mark.parametrize(("large", "kept"), [(2**40, [1, 2, 3, 4]), (0, [1, 4])])
def test_a_large_state_is_kept_now_and_then(tiny_study, tmp_path, monkeypatch, large, kept):
    """Every five seconds here, each epoch taking two."""
    epochs = {"train": tiny_study.train.model_copy(update={"epochs": 4})}
    study = tiny_study.model_copy(update=epochs)
    state = ResumeFile(tmp_path / "state.safetensors", {}, CPU)
    monkeypatch.setattr(resume, "LARGE", large)
    monkeypatch.setattr(resume, "INTERVAL", 5.0)
    clock, saved = [100.0], []
    times = SimpleNamespace(
        monotonic=lambda: clock[0], perf_counter=time.perf_counter, time=time.time
    )
    monkeypatch.setattr(resume, "time", times)
    write = resume.write_tensors

    def noted(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
        saved.append(len(json.loads(metadata["state"])["history"]))
        write(path, tensors, metadata)

    monkeypatch.setattr(resume, "write_tensors", noted)

    def later(epoch: int, row: dict[str, float]) -> None:
        clock[0] += 2

    cases = PreparedCases.open(study.prepared_dir)
    loop.fit(build_model(AttenResUNetConfig(**TINY)), cases, study, 0, later, state)
    assert saved == kept


def test_a_second_process_on_one_run_says_so_and_changes_nothing(folder):
    with alone(state_of(folder).with_suffix(".lock"), "the test"):
        before = files_in(folder)
        printed = bars_off(run("train", folder, expected=1))
        assert re.fullmatch(
            r"error: gated_attention, seed 0 is being trained by another process, which holds "
            r"\S+0\.lock: wait until it is done, or stop it; nothing was changed",
            printed,
        )
        assert files_in(folder) == before
    run("train", folder)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB; skips where one may not be mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(command).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_or_read_only_disk_is_told_and_keeps_what_was_there(
    quick, interrupted, small_disk, tmp_path
):
    """Room for one state and a half: the second cannot be written beside the first."""
    copy_of(quick, small_disk / "study", train={"epochs": 2})
    folder = tmp_path / "study"  # what it prints goes beside it: not onto the disk that is full
    folder.symlink_to(small_disk / "study")
    run("train", folder)
    before, had = results(folder), files_in(folder)
    change(folder, train={"epochs": 4})
    other = copy_of(folder, tmp_path / "other")
    run("train", other)

    filler = small_disk / "filler"
    disk = os.statvfs(small_disk)
    room = disk.f_bavail * disk.f_frsize - state_of(interrupted).stat().st_size * 3 // 2
    filler.write_bytes(bytes(room))
    printed = bars_off(run("train", folder, expected=1))
    state = f".resume/{VARIANT}/0/0.safetensors"
    assert printed == (
        f"error: {state} cannot be written: No space left on device; what was there before is "
        "kept: make room or allow writing, then run again"
    )
    assert results(folder) == before
    record = str(Path(state).with_suffix(".json"))  # of how the training ended
    assert files_in(folder) == had | {state, record}

    filler.unlink()
    _remount(small_disk, "ro")
    printed = bars_off(run("train", folder, expected=1))
    assert re.fullmatch(r"error: \S+ cannot be written: Read-only file system; .*", printed)
    assert results(folder) == before
    assert files_in(folder) == had | {state, record}

    _remount(small_disk, "rw")
    assert "resumed after epoch 1\n" in run("train", folder)
    assert results(folder) == results(other)
    assert files_in(folder) == had


def _remount(folder: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(folder)], check=True)


def test_a_worker_that_dies_is_one_sentence_and_costs_no_finished_epoch(folder, whole):
    change(folder, loader_workers=2)
    printed = bars_off(run("train", folder, killed_stage.kill_a_worker_in_second_epoch, expected=1))
    assert re.fullmatch(
        r"error: DataLoader worker \((pid|pid\(s\)) \d+\) (is killed by signal: Killed|exited "
        r"unexpectedly): run again to go on where it was; if it happens again, "
        r"memory or /dev/shm may be too small: set loader_workers: 0",
        printed,
    )
    change(folder, loader_workers=0)  # which the state does not mind
    assert "resumed after epoch 1\n" in run("train", folder)
    assert results(folder) == results(whole)


def test_the_number_of_workers_changes_no_bit_of_the_weights(quick, whole, tmp_path):
    assert load_study(whole).loader_workers == "auto"  # none on a CPU
    for workers in (1, 3):
        folder = copy_of(quick, tmp_path / f"workers-{workers}", loader_workers=workers)
        run("train", folder)
        assert results(folder) == results(whole)


def test_dvc_refuses_a_second_repro_and_resumes_a_killed_one(folder, whole):
    """`dvc repro` as a user runs it, on the one stage; its outs are removed before each start."""
    shutil.copy(REPOSITORY / "dvc.yaml", folder)
    shared = (folder / "data").resolve()
    (folder / "data").unlink()
    (folder / "data").mkdir()
    (folder / "data" / "prepared").symlink_to(shared / "prepared")
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
    }

    def dvc(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    assert dvc("init", "--no-scm", "-q").wait() == 0
    run("describe_networks", folder)
    stage = ("repro", "--single-item", f"train@{VARIANT}-0-0")
    first = dvc(*stage)
    while not state_of(folder).exists():
        time.sleep(0.005)
        assert first.poll() is None, first.communicate()
    # Stopped, not killed, while the second tries: the run would be over before it has.
    os.killpg(first.pid, signal.SIGSTOP)
    second = dvc(*stage)
    told = second.communicate()[0]
    assert second.returncode != 0
    assert "is busy, it is being blocked by" in told
    assert not (folder / "runs").exists() or not list((folder / "runs").rglob("*.json"))
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    third = dvc(*stage)
    told = third.communicate()[0]
    assert third.returncode == 0, told
    assert re.search(r"resumed after epoch \d", told)
    assert results(folder) == results(whole)
