"""new_study.py: a study that suits its cases, one like another, and the copies of the pipeline."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml
from clones import copy_project
from PIL import Image
from test_preprocess import add_volumes, draw_volumes

from pipeline import new_study
from pipeline.engine.prepared import PreparedCases
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


def make_volumes(folder: Path, shapes: Sequence[tuple[int, int, int]]) -> Path:
    """A flat case of each depth, height and width, black, in files whose axes are height, depth and
    width."""
    affine = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
        for number, (depth, height, width) in enumerate(shapes):
            voxels = np.zeros((height, depth, width), np.uint8)
            nibabel.save(nibabel.Nifti1Image(voxels, affine), folder / kind / f"{number}.nii.gz")
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


@pytest.mark.parametrize(
    ("median", "prepared", "halvings"),
    [
        ((36, 50, 35), (32, 64, 32), 4),
        ((12, 40, 48), (12, 32, 64), 2),
        ((20, 200, 100), (24, 128, 96), 3),
        ((150, 64, 20), (128, 64, 32), 5),
        ((1, 32, 33), (1, 32, 32), 0),
    ],
)
def test_a_study_of_volumes_has_the_nearest_size_that_networks_take(
    tmp_path, capsys, median, prepared, halvings
):
    shapes = [(5, 10, 9)] * 4 + [median] * 10 + [(180, 220, 210)] * 3
    make("studies/mine", "--data", make_volumes(tmp_path / "cases", shapes))
    study = load_study(Path("studies/mine"))
    study.check_inputs()
    assert study.prepare.size == prepared
    assert {model.dimensions for model in study.models.values()} == {3}
    assert {model.depth_halvings for model in study.models.values()} == {halvings}
    sizes = ["x".join(map(str, size[::-1])) for size in (median, prepared)]
    told = capsys.readouterr().out
    assert f"17 cases of about {sizes[0]} voxels, split folds; {sizes[1]} voxels, 7 var" in told


def test_a_study_of_volumes_says_what_was_chosen_from_what(tmp_path):
    cases = make_volumes(tmp_path / "cases", [(36, 50, 140)] * 9)
    (cases / "images" / "3.nii.gz").write_bytes(b"no volume")  # preprocess tells of it
    make("studies/mine", "--data", cases)
    study = load_study(Path("studies/mine"))
    assert (study.prepare.foreground, study.prepare.resize) == ("nonzero", "stretch")
    assert study.prepare.near_duplicates is None
    assert {"DepthFlip": {"p": 0.5}} in study.train.augmentation
    assert len(study.train.augmentation) == 3
    text = Path("studies/mine/params.yaml").read_text()
    assert (
        "  depth: 32 # voxels: the volumes' median is 36, this the nearest multiple of 16\n" in text
    )
    assert (
        "  width: 128 # voxels: the volumes' median is 140, this the nearest multiple of 32 up"
        in text
    )
    assert "    depth_halvings: 4 # in every network: as often as leaves two of 32 slices" in text


@pytest.mark.parametrize(("count", "size"), [(9, 1), (40, 4), (101, 4)])
def test_a_batch_of_volumes_is_small(tmp_path, count, size):
    make("studies/mine", "--data", make_volumes(tmp_path / "cases", [(8, 32, 32)] * count))
    study = load_study(Path("studies/mine"))
    assert (study.train.batch_size, study.evaluate.batch_size) == (size, size)


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_pictures_and_volumes_in_one_folder_are_told(tmp_path, kind):
    cases = make_volumes(tmp_path / "cases", [(8, 32, 32)] * 9)
    Image.new("RGB", (40, 40)).save(cases / kind / "photograph.JPG")
    told = (
        r"cases must hold pictures or volumes, got both, such as .*photograph\.JPG and .*\.nii\.gz"
    )
    with pytest.raises(UserError, match=told):
        make("studies/mine", "--data", cases)
    cases = make_cases(tmp_path / "pictures", 9)
    (cases / kind / "scan.NII").touch()
    with pytest.raises(UserError, match=r"got both, such as .*0\.jpg and .*scan\.NII; put one"):
        make("studies/mine", "--data", cases)


def test_volumes_of_which_none_can_be_read_are_told(tmp_path):
    cases = make_volumes(tmp_path / "cases", [(8, 32, 32)] * 9)
    plane = nibabel.Nifti1Image(np.zeros((32, 32), np.uint8), np.eye(4))
    nowhere = plane.header.copy()
    for number, path in enumerate(sorted((cases / "images").iterdir())):
        if number < 3:
            path.write_bytes(path.read_bytes()[:60])
        elif number < 6:
            nibabel.save(plane, path)
        else:
            nowhere["vox_offset"] = np.inf
            path.write_bytes(nowhere.binaryblock)
    with pytest.raises(UserError, match=r"none of its images can be read, such as .*0\.nii\.gz"):
        make("studies/mine", "--data", cases)


@pytest.mark.slow
def test_a_study_of_volumes_runs_as_it_is_made(project, tmp_path):
    for number in range(15):
        add_volumes(tmp_path / "cases", f"case{number}", *draw_volumes(number, (13, 40, 50)))
    make("studies/mine", "--data", tmp_path / "cases")
    tools = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": tools, "DVC_NO_ANALYTICS": "1"}
    command = ["dvc", "repro", "preprocess"]
    subprocess.run(command, cwd="studies/mine", env=environment, check=True)
    cases = PreparedCases.open(project / "studies" / "mine" / "data" / "prepared")
    assert cases.images.shape == (15, 12, 32, 64, 1)
    assert cases.masks.any(axis=(1, 2, 3)).all()


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
    assert "early_stopping: null # epochs without" in written
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
