"""training/provenance.py: what a run was made of, and whether it still is."""

from __future__ import annotations

import copy
import errno
import os
import subprocess
from collections.abc import Callable

import pytest
from conftest import REPOSITORY

from pipeline.study.files import sha256
from pipeline.study.inputs import source_hashes
from pipeline.training import provenance
from pipeline.training.provenance import differences, identity

RECORD = {
    "variant": "unet",
    "seed": 0,
    "fold": 0,
    "sources": {"models/attenresunet/blocks.py": "a", "pipeline/train.py": "b"},
    "data_fingerprint": "c",
    "encoder_weights_sha256": None,
    "device": "cpu",
    "precision": "float32",
    "threads": 2,
    "versions": {"torch": "2", "torchvision": "0", "numpy": "2", "albumentations": "2"},
    "params": {"train": {"epochs": 2}, "focal": {"gamma": 2.0}, "model": {"head": "logits"}},
}


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("variant", "resunet", "variant"),
        ("seed", 1, "seed"),
        ("fold", 1, "fold"),
        ("sources.models/attenresunet/blocks.py", "x", "models/attenresunet/blocks.py"),
        ("sources.models/new.py", "x", "models/new.py"),
        ("data_fingerprint", "x", "data_fingerprint"),
        ("encoder_weights_sha256", "x", "encoder_weights_sha256"),
        ("device", "another", "device"),
        ("precision", "bfloat16", "precision"),
        ("threads", 1, "threads"),
        ("versions.torch", "3", "versions.torch"),
        ("params.train.epochs", 3, "train.epochs"),
        ("params.focal.gamma", 1.0, "focal.gamma"),
        ("params.model.head", "relu", "model.head"),
    ],
)
def test_whatever_decides_a_training_makes_it_another(path, value, told):
    changed = copy.deepcopy(RECORD)
    *blocks, key = path.split(".") if not path.startswith("sources") else path.split(".", 1)
    block = changed
    for name in blocks:
        block = block[name]
    block[key] = value
    assert differences(identity(RECORD), identity(changed)) == told
    assert differences(identity(RECORD), identity(copy.deepcopy(RECORD))) == ""


def test_the_sources_of_a_training_are_those_that_dvc_follows():
    hashes = source_hashes("train")
    assert {"pipeline/train.py", "pipeline/training/resume.py"} <= hashes.keys()
    assert not {"pipeline/report.py", "pipeline/tracking/store.py"} & hashes.keys()
    assert not [name for name in hashes if name.startswith("models/")]  # those of its variant are
    assert all(hashes[name] == sha256(REPOSITORY / name) for name in hashes)


@pytest.mark.parametrize("folder", [".", "studies/a"])
def test_a_commit_is_dirty_by_tracked_sources_and_not_by_a_studys_lock(tmp_path, folder):
    def git(*command: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True, capture_output=True)

    lock = tmp_path / folder / "dvc.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    for path in (lock, tmp_path / "source.py"):
        path.write_text("1")
    git("init", "-q")
    git("add", "-A")
    git("-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-qm", "first")
    assert provenance.describe_commit(tmp_path)["dirty"] is False
    lock.write_text("2")  # as each stage that DVC runs does
    (tmp_path / "new.py").touch()
    assert provenance.describe_commit(tmp_path)["dirty"] is False
    (tmp_path / "source.py").write_text("2")
    assert provenance.describe_commit(tmp_path)["dirty"] is True


def test_outside_git_there_is_no_commit_and_a_warning_says_so(tmp_path, capsys):
    assert provenance.describe_commit(tmp_path) == {"commit": None, "dirty": None}
    assert (
        "no commit is recorded for this run (fatal: not a git repository" in capsys.readouterr().err
    )


@pytest.mark.parametrize("why", ["missing", "refused"])
def test_without_gits_word_there_is_no_commit_and_a_warning_says_why(
    tmp_path, monkeypatch, capsys, why
):
    told = "fatal: detected dubious ownership in repository"
    if why == "refused":
        (tmp_path / "git").write_text(f"#!/bin/sh\necho '{told}' >&2\nexit 128\n")
        (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin" if why == "refused" else str(tmp_path))
    assert provenance.describe_commit(tmp_path) == {"commit": None, "dirty": None}
    expected = {"missing": "(git is missing)", "refused": f"({told})"}[why]
    assert expected in capsys.readouterr().err


def test_a_limit_on_the_way_to_git_is_no_missing_git(tmp_path, monkeypatch, capsys):
    def refused(number: int) -> Callable[..., None]:
        return lambda *_, **__: (_ for _ in ()).throw(OSError(number, os.strerror(number)))

    monkeypatch.setattr("subprocess.run", refused(errno.EMFILE))
    with pytest.raises(OSError, match="Too many open files"):
        provenance.describe_commit(tmp_path)
    monkeypatch.setattr("subprocess.run", refused(errno.EACCES))
    assert provenance.describe_commit(tmp_path)["commit"] is None
    assert "Permission denied" in capsys.readouterr().err
