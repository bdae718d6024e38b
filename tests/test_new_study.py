"""new_study.py: a study that suits its cases, one like another, and the copies of the pipeline."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from clones import copy_project
from PIL import Image

from pipeline import new_study
from pipeline.study.errors import UserError
from pipeline.study.reading import load_study


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """The project's files in a git repository."""
    root = tmp_path_factory.mktemp("project")
    copy_project(root, r"tests/|docs/|studies/(?!demo/|split/official/)")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    return root


@pytest.fixture(autouse=True)
def in_project(project, monkeypatch):
    monkeypatch.setattr(new_study, "ROOT", project)
    monkeypatch.chdir(project)
    yield
    shutil.rmtree(project / "studies" / "mine", ignore_errors=True)


def make_cases(folder: Path, count: int, *, height: int = 300, width: int = 400) -> Path:
    """`count` flat cases with one square lesion each."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    mask = np.zeros((height, width), np.uint8)
    mask[:20, :20] = 255
    for number in range(count):
        Image.new("RGB", (width, height)).save(folder / "images" / f"{number}.jpg")
        Image.fromarray(mask).save(folder / "masks" / f"{number}.png")
    return folder


def make(*arguments: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["new_study", *map(str, arguments)])
        new_study.main()


def test_a_study_that_another_process_makes_is_left_to_it(tmp_path, monkeypatch):
    def refused(*_: object) -> None:
        raise BlockingIOError

    cases = make_cases(tmp_path / "cases", 120)
    monkeypatch.setattr("fcntl.lockf", refused)
    with pytest.raises(UserError, match=r"studies/mine is being written by another process"):
        make("studies/mine", "--data", cases)
    assert not Path("studies/mine").exists()


def test_a_study_suits_its_cases(tmp_path, capsys):
    make("studies/mine", "--data", make_cases(tmp_path / "cases", 120))
    told = capsys.readouterr()
    study = load_study(Path("studies/mine"))
    assert study.name == "mine"
    assert study.data.source == "directory"
    assert study.raw_dir.resolve() == tmp_path / "cases"
    assert (study.prepare.height, study.prepare.width) == (256, 256)
    assert study.prepare.split.model_dump() == {
        "method": "random", "seed": 0, "training": 0.7, "validation": 0.1, "test": 0.2
    }  # fmt: skip
    assert study.seeds == list(range(10))
    assert study.paper is None  # its figures are of other cases
    assert study.factors == load_study(Path()).factors
    assert study.variants == load_study(Path()).variants
    assert "120 cases of about 400x300 pixels" in told.out
    assert told.out.rstrip().endswith("then: cd studies/mine && dvc repro")
    assert told.err == ""
    text = Path("studies/mine/params.yaml").read_text()
    assert "# adam | adamw | sgd" in text  # the comments stay
    assert "The paper's protocol" not in text


@pytest.mark.parametrize(
    ("count", "folds", "seeds", "warned"), [(14, 3, 3, True), (20, 5, 2, True), (60, 5, 2, False)]
)
def test_few_cases_are_all_tested_in_folds(tmp_path, capsys, count, folds, seeds, warned):
    make("studies/mine", "--data", make_cases(tmp_path / "cases", count, height=70, width=90))
    study = load_study(Path("studies/mine"))
    assert study.folds == list(range(folds))
    assert study.seeds == list(range(seeds))
    assert (study.prepare.height, study.prepare.width) == (64, 64)
    assert ("its figures say little" in capsys.readouterr().err) == warned


@pytest.mark.parametrize(("validation", "method"), [(4, "official"), (2, "folds")])
def test_folders_with_an_official_split_keep_it_where_each_part_has_cases(
    tmp_path, validation, method
):
    raw = tmp_path / "raw"
    flat = make_cases(tmp_path / "cases", 30)
    for split, numbers in (
        ("Training", range(20)),
        ("Validation", range(20, 20 + validation)),
        ("Test", range(20 + validation, 30)),
    ):
        for kind, name, ending in (
            ("images", f"ISIC2018_Task1-2_{split}_Input", "jpg"),
            ("masks", f"ISIC2018_Task1_{split}_GroundTruth", "png"),
        ):
            (raw / name).mkdir(parents=True)
            for number in numbers:
                shutil.copy(flat / kind / f"{number}.{ending}", raw / name)
    make("studies/mine", "--data", raw)
    study = load_study(Path("studies/mine"))
    assert study.prepare.split.method == method
    if method == "official":
        assert study.train.batch_size == 10  # two steps an epoch


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["studies/mine", "--data", "nowhere"], "--data must be a folder of cases, got nowhere"),
        (["studies/mine", "--data", "docs"], "--data must be a folder"),
        (["studies/mine", "--data", "pipeline"], "at least 9 cases, .* got 0"),
        (["studies/mine", "--like", "nowhere"], r"nowhere/params\.yaml is missing"),
        (["studies/demo", "--like", "."], "studies/demo is a study already"),
        (["../mine", "--like", "."], "must lie in the project, such as studies/mine"),
        (["studies/mine one", "--like", "."], "name must be a name of letters"),
        (["studies/none", "--renew"], "must be a study's folder: it has no params"),
    ],
)
def test_what_cannot_be_made_leaves_nothing(arguments, told):
    with pytest.raises(UserError, match=told):
        make(*arguments)
    assert sorted(path.name for path in Path("studies").iterdir()) == ["demo", "split"]


def test_a_study_like_another_is_the_other_under_its_own_name():
    make("studies/mine", "--like", "studies/split/official")
    mine = load_study(Path("studies/mine")).model_dump()
    other = load_study(Path("studies/split/official")).model_dump()
    changed = {key: value for key, value in mine.items() if value != other[key]}
    assert changed == {"name": "mine", "code": "../.."}


def test_null_stays_written_out():
    make("studies/mine", "--like", "studies/demo")
    written = Path("studies/mine/params.yaml").read_text()
    assert "gradient_clip: null # the largest" in written
    assert written.count(": null") == Path("studies/demo/params.yaml").read_text().count(": null")


def test_paths_lead_where_they_led(tmp_path):
    make("studies/mine", "--like", "studies/demo")
    params = yaml.safe_load(Path("studies/mine/params.yaml").read_text())
    params["data"] = {"source": "directory", "raw": "../../cases", "on_problem": "stop"}
    params["prepare"]["groups"] = {
        "file": "groups.csv", "sha256": "0", "id": "image_id", "column": "lesion_id"
    }  # fmt: skip
    params["models"]["resunet"]["weights"] = "weights.pt"
    other = {"name": "other", "raw": "../../other", "on_problem": "skip"}
    params["evaluate"]["external"] = [other]
    params["train"]["optimizer"]["learning_rate"] = 0.001
    Path("studies/mine/params.yaml").write_text(yaml.safe_dump(params))
    make("studies/split/deep", "--like", "studies/mine")
    study = load_study(Path("studies/split/deep"))
    try:
        assert study.code == "../../.."
        assert study.raw_dir.resolve() == Path("cases").resolve()
        assert study.models["resunet"].weights == "../../mine/weights.pt"
        assert study.prepare.groups.file == "../../mine/groups.csv"
        assert study.on("other").raw_dir.resolve() == Path("other").resolve()
    finally:
        shutil.rmtree("studies/split/deep")


@pytest.mark.parametrize("kind", ["an old copy", "a link", "a link's text"])
def test_what_is_no_copy_of_the_pipeline_is_told_and_renewed(kind, capsys):
    make("studies/mine", "--like", "studies/demo")
    file = Path("studies/mine/dvc.yaml")
    whole = file.read_bytes()
    file.unlink()
    if kind == "an old copy":
        file.write_bytes(whole.replace(b"stages:", b"stages:\n  older:\n    cmd: 'true'", 1))
    elif kind == "a link":
        file.symlink_to("../../dvc.yaml")
    else:  # as git writes it where there are no links
        file.write_text("../../dvc.yaml")
    with pytest.raises(UserError, match=r"python -m pipeline\.new_study --renew .*studies/mine"):
        load_study(Path("studies/mine"))
    make("studies/mine", "--renew")
    assert "1 of 1 studies renewed: studies/mine" in capsys.readouterr().out
    assert not file.is_symlink()
    assert file.read_bytes() == whole
    load_study(Path("studies/mine"))
    make("--renew")
    assert "0 of 3 studies renewed" in capsys.readouterr().out


def test_plots_of_ones_own_in_the_pipeline_are_no_old_copy():
    make("studies/mine", "--like", "studies/demo")
    file = Path("studies/mine/dvc.yaml")
    file.write_text(file.read_text() + "  - reports/curves/train_bce.csv\n")
    load_study(Path("studies/mine"))


def test_outside_of_git_it_is_told(tmp_path, monkeypatch):
    root = tmp_path / "unpacked"
    copy_project(root, r"tests/|docs/|studies/(?!demo/)")
    monkeypatch.setattr(new_study, "ROOT", root)
    monkeypatch.chdir(root)
    with pytest.raises(UserError, match="a study lies in a git repository"):
        make("studies/mine", "--like", "studies/demo")
    assert not Path("studies/mine").exists()


def test_renewing_keeps_the_plots_and_the_ignored_files_of_ones_own():
    make("studies/mine", "--like", "studies/demo")
    file, ignored = Path("studies/mine/dvc.yaml"), Path("studies/mine/.dvcignore")
    plots = "  - reports/own.csv\n  - Own curve:\n      x: epoch\n      y: reports/own.csv\n"
    older = file.read_text().replace("stages:", "stages:\n  older:\n    cmd: 'true'", 1)
    file.write_text(older + plots)
    ignored.write_text(ignored.read_text() + "notes/\n")
    make("studies/mine", "--renew")
    assert file.read_text() == Path("dvc.yaml").read_text() + plots
    assert ignored.read_text() == Path(".dvcignore").read_text() + "notes/\n"
    load_study(Path("studies/mine"))
    assert not new_study.renew(Path("studies/mine"))


@pytest.mark.parametrize("left", ["nothing", "an empty configuration"])
def test_a_study_that_is_no_repository_of_its_own_is_told_and_made_one(left):
    make("studies/mine", "--like", "studies/demo")
    config = Path("studies/mine/.dvc/config")
    whole = config.read_text()
    if left == "nothing":
        shutil.rmtree(config.parent)
        with pytest.raises(UserError, match=r"is no DVC repository of its own, .* --renew"):
            load_study(Path("studies/mine"))
    else:
        config.write_text("")  # as dvc init leaves it
    make("studies/mine", "--renew")
    assert config.read_text() == whole
    load_study(Path("studies/mine"))
    config.write_text(whole + "    site_cache_dir = /tmp\n")  # the user's own setting
    assert not new_study.renew(Path("studies/mine"))


def test_gits_index_is_the_users_own():
    make("studies/mine", "--like", "studies/demo")
    told = subprocess.run(
        ["git", "status", "--porcelain", "studies"], capture_output=True, text=True, check=True
    )
    assert {line[:2] for line in told.stdout.splitlines()} == {"??"}


def test_what_a_folder_held_before_is_kept_when_the_study_cannot_be_made(tmp_path, monkeypatch):
    mine = Path("studies/mine")
    mine.mkdir()
    (mine / "notes.txt").write_text("the user's")

    def killed(folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(new_study, "renew", killed)
        with pytest.raises(KeyboardInterrupt):
            make(mine, "--like", "studies/demo")
    assert [path.name for path in mine.iterdir()] == ["notes.txt"]
    make(mine, "--like", "studies/demo")
    assert (mine / "notes.txt").read_text() == "the user's"


@pytest.mark.parametrize("sizes", [[17], [33], range(3, 7), range(20, 25), range(689, 694), [2]])
def test_a_batch_size_leaves_no_batch_of_one(sizes):
    """Of those that are not far from the paper's 16."""
    chosen = new_study.batch_size(list(sizes))
    assert chosen <= max(16, max(sizes))
    if max(sizes) > 2:
        assert all(number % chosen != 1 for number in sizes)
    assert new_study.batch_size([1600]) == 16


@pytest.mark.parametrize("name", ["off", "on", "yes", "no"])
def test_a_study_may_have_a_name_that_older_yaml_takes_for_a_boolean(name):
    make(f"studies/{name}", "--like", "studies/demo")
    try:
        assert load_study(Path("studies") / name).name == name
    finally:
        shutil.rmtree(f"studies/{name}")
