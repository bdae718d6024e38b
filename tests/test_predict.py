"""pipeline/predict.py: from a run folder alone to masks, tables and pictures, end to end."""

from __future__ import annotations

import errno
import io
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from killed_stage import kill_at_step, start
from PIL import Image
from run_folders import SIZE, make_run
from scipy.ndimage import map_coordinates

from models.attenresunet import AttenResUNetConfig
from pipeline import export, predict
from pipeline.data.synthetic import draw_case
from pipeline.deployment import outputs
from pipeline.engine.compute import to_input
from pipeline.reporting.overlays import BORDER
from pipeline.reporting.style import PREDICTION_COLOUR
from pipeline.study.errors import UserError
from pipeline.study.files import sha256
from pipeline.study.locks import alone

CPU = torch.device("cpu")
STRIDE = 1 if "LESION_KILLS" in os.environ else 5  # steps from one kill to the next


@pytest.fixture
def trained(tmp_path):
    return make_run(tmp_path / "study")


@pytest.fixture
def images(tmp_path) -> Path:
    """Five drawn photographs of two sizes, in two folders."""
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    for index in range(5):
        height, width = (48, 64) if index < 3 else (80, 120)
        image, _ = draw_case(1, index, height=height, width=width)
        name = f"case-{index}.png" if index < 3 else f"more/case-{index}.jpg"
        Image.fromarray(image).save(folder / name, quality=95)
    return folder


def run(monkeypatch, *arguments: object) -> int:
    """The exit status of `python -m pipeline.predict`."""
    monkeypatch.setattr(sys, "argv", ["predict", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        predict.main()
    return ended.value.code


def network_probabilities(model, path: Path) -> np.ndarray:
    """p (32, 64) of the picture stretched by Pillow."""
    image = Image.open(path).convert("RGB").resize(SIZE[::-1], Image.Resampling.BILINEAR)
    with torch.no_grad():
        return model(to_input(torch.from_numpy(np.array(image))[None], CPU))[0, 0].sigmoid().numpy()


def stretched_back(p: np.ndarray, height: int, width: int) -> np.ndarray:
    """scipy's bilinear, between the centres of pixels."""
    y = (np.arange(height) + 0.5) * p.shape[0] / height - 0.5
    x = (np.arange(width) + 0.5) * p.shape[1] / width - 0.5
    return map_coordinates(p, np.meshgrid(y, x, indexing="ij"), order=1, mode="nearest")


def test_masks_are_the_networks_at_the_images_size(trained, images, tmp_path, monkeypatch):
    folder, model = trained
    out = tmp_path / "out"
    assert run(monkeypatch, folder, images, "--out", out, "--probabilities") == 0
    table = pd.read_csv(out / "lesions.csv")
    assert table["image"].tolist() == [
        "case-0.png", "case-1.png", "case-2.png", "more/case-3.jpg", "more/case-4.jpg",
    ]  # fmt: skip
    kinds = set()
    for row in table.itertuples():
        p = network_probabilities(model, images / row.image)
        expected = stretched_back(p, row.height, row.width)
        name = row.image.rpartition(".")[0]
        mask = np.asarray(Image.open(out / "masks" / f"{name}.png"))
        assert mask.shape == Image.open(images / row.image).size[::-1] == (row.height, row.width)
        kinds |= set(np.unique(mask))
        sure = np.abs(expected - 0.5) > 1e-3
        np.testing.assert_array_equal((mask == 255)[sure], (expected > 0.5)[sure])
        sixteen = np.asarray(Image.open(out / "probabilities" / f"{name}.png"))
        np.testing.assert_allclose(sixteen / 65535, expected, atol=1e-3)
        assert row.lesion_pixels == (mask == 255).sum()
        assert row.lesion_area == pytest.approx(row.lesion_pixels / mask.size, abs=1e-6)
        assert row.confidence == pytest.approx(np.maximum(p, 1 - p).mean(), abs=1e-4)
        drawn = Image.open(out / "overlays" / f"{name}.jpg")
        assert drawn.size == (row.width, row.height)
    assert kinds == {0, 255}
    assert pd.read_csv(out / "skipped.csv").empty
    assert not (out / "attention").exists()


@pytest.mark.parametrize("resize", ["center_crop", "pad"])
def test_crops_and_padding_are_undone(resize, images, tmp_path, monkeypatch):
    folder, _ = make_run(tmp_path / "study", resize=resize)
    out = tmp_path / "out"
    assert run(monkeypatch, folder, images, "--out", out, "--probabilities") == 0
    p = np.asarray(Image.open(out / "probabilities" / "case-0.png"))
    assert p.shape == (48, 64)
    outside = np.r_[p[:8].ravel(), p[-8:].ravel()]  # of 64x32, the largest part of twice the width
    assert (outside == 0).all() == (resize == "center_crop")
    assert (p[8:-8] > 0).all()
    row = pd.read_csv(out / "lesions.csv").iloc[0]
    assert 0.5 <= row["confidence"] <= 1


def test_bad_images_are_reported_and_the_rest_is_done(
    trained, images, tmp_path, monkeypatch, capsys
):
    (images / "cut.jpg").write_bytes((images / "more" / "case-3.jpg").read_bytes()[:700])
    (images / "empty.png").write_bytes(b"")
    (images / "notes.png").write_text("no picture")
    (images / "notes.txt").write_text("no picture")
    Image.new("CMYK", (40, 40)).save(images / "cmyk.jpg")
    os.mkfifo(images / "pipe.png")
    (images / "endless.jpg").symlink_to("/dev/zero")
    out = tmp_path / "out"
    status = run(monkeypatch, trained[0], images, tmp_path / "gone", "--out", out, "--batch-size=2")
    assert status == 1
    skipped = pd.read_csv(out / "skipped.csv").set_index("image")["reason"]
    assert skipped.index.tolist() == [
        str(tmp_path / "gone"), "cmyk.jpg", "cut.jpg", "empty.png", "endless.jpg", "notes.png",
        "pipe.png",
    ]  # fmt: skip
    assert "CMYK" in skipped["cmyk.jpg"]
    assert "cut short" in skipped["cut.jpg"]
    for special in ("endless.jpg", "pipe.png"):
        assert skipped[special] == "cannot be read: it is a folder, a pipe or a device"
    assert len(pd.read_csv(out / "lesions.csv")) == len(list(out.glob("masks/**/*.png"))) == 5
    told = capsys.readouterr()
    assert "5 images segmented" in told.out
    assert "7 skipped" in told.out
    assert "1 other file passed over" in told.out
    assert "warning: skipped cut.jpg: cannot be decoded" in told.err


def test_flips_and_ensembles_average_probabilities(images, tmp_path, monkeypatch):
    folders, models = zip(*(make_run(tmp_path / "study", seed) for seed in (0, 1, 5)), strict=True)
    picture = images / "case-0.png"

    def predicted(*options: str) -> np.ndarray:
        out = tmp_path / "-".join(["out", *options])
        assert run(monkeypatch, folders[0], picture, "--out", out, "--probabilities", *options) == 0
        return np.asarray(Image.open(out / "probabilities" / "case-0.png")) / 65535

    each = [stretched_back(network_probabilities(model, picture), 48, 64) for model in models]
    np.testing.assert_allclose(predicted("--ensemble=0,5"), (each[0] + each[2]) / 2, atol=1e-3)
    np.testing.assert_allclose(predicted("--ensemble=all"), np.mean(each, axis=0), atol=1e-3)
    flipped = tmp_path / "flipped.png"
    total = np.zeros((48, 64))
    for axes in ((), (0,), (1,), (0, 1)):
        Image.fromarray(np.flip(np.asarray(Image.open(picture)), axes)).save(flipped)
        p = stretched_back(network_probabilities(models[0], flipped), 48, 64)
        total += np.flip(p, axes) / 4
    np.testing.assert_allclose(predicted("--tta"), total, atol=1e-3)


def test_attention_is_a_heat_map_a_stage(trained, images, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert run(monkeypatch, trained[0], images, "--out", out, "--attention") == 0
    for name, size in (("case-0", (64, 48)), ("more/case-4", (120, 80))):
        files = sorted((out / "attention" / name).iterdir())
        assert [file.name for file in files] == [
            "1-encoder-layer-3-attention-received.png",
            "2-encoder-layer-3-gate.png",
            "3-decoder-gate-1.png",
            "4-decoder-gate-2.png",
            "5-decoder-gate-3.png",
            "6-decoder-gate-4.png",
        ]
        assert {Image.open(file).size for file in files} == {size}
    assert Image.open(out / "attention" / "scales.png").size[0] > 300


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("to_input", r"memory ran out with 5 images at once: set a smaller --batch-size$"),
        ("attention_stages", r"memory ran out with 1 image at once: set CUDA_VISIBLE_DEVICES= "),
    ],
)
def test_too_little_memory_says_what_to_set(trained, images, tmp_path, monkeypatch, where, told):
    def too_large(*_) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(predict, where, too_large)
    with pytest.raises(UserError, match=told):
        run(monkeypatch, trained[0], images, "--out", tmp_path / "out", "--attention")


def test_a_network_without_attention_says_so_and_goes_on(images, tmp_path, monkeypatch, capsys):
    folder, _ = make_run(
        tmp_path / "study",
        config=AttenResUNetConfig(encoder="plain", plain_width=2),
        variant="unet",
    )
    assert run(monkeypatch, folder, images, "--out", tmp_path / "out", "--attention") == 0
    assert "unet has no attention" in capsys.readouterr().err
    assert not (tmp_path / "out" / "attention").exists()


def test_an_interrupted_prediction_goes_on_where_it_was(
    trained, images, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "out"
    arguments = (trained[0], images, "--out", out, "--batch-size=1")
    assert run(monkeypatch, *arguments) == 0
    whole = (out / "lesions.csv").read_bytes()
    lines = whole.splitlines(keepends=True)
    (out / "lesions.csv").write_bytes(b"".join(lines[:3]) + lines[3][:9])  # killed in a row
    before = (out / "masks" / "case-0.png").stat().st_mtime_ns
    (out / "masks" / "case-2.png").unlink()
    assert run(monkeypatch, *arguments) == 0
    assert "3 images segmented" in (told := capsys.readouterr().out.splitlines()[-1])
    assert "2 done before" in told
    assert (out / "lesions.csv").read_bytes() == whole
    assert (out / "masks" / "case-2.png").is_file()
    assert (out / "masks" / "case-0.png").stat().st_mtime_ns == before


def content(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.slow
def test_killed_at_any_step_it_is_completed_as_if_it_had_not_been(
    trained, images, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    (images / "more" / "broken.jpg").write_bytes(b"no picture")
    arguments = tuple(map(str, (trained[0], images, "--out", out, "--batch-size=2")))
    assert run(monkeypatch, *arguments) == 1
    whole = content(out)
    for step in itertools.count(0, STRIDE):
        shutil.rmtree(out)
        process = start("predict", tmp_path, *arguments, prepare=partial(kill_at_step, step))
        process.join()
        if process.exitcode == 1:
            break
        assert process.exitcode == -signal.SIGKILL, step
        assert content(out) != whole, step
        assert run(monkeypatch, *arguments) == 1
        assert content(out) == whole, step
    assert step > 25  # files and names


def test_a_picture_is_segmented_anew_if_it_or_a_result_is_not_what_it_was(
    trained, images, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "out"
    arguments = (trained[0], images, "--out", out, "--probabilities", "--attention")
    assert run(monkeypatch, *arguments) == 0  # all in one batch

    def again() -> str:
        capsys.readouterr()
        run(monkeypatch, *arguments)
        return capsys.readouterr().out

    whole = content(out)
    for lost in (
        "masks/case-0.png",
        "overlays/more/case-3.jpg",
        "probabilities/case-1.png",
        "attention/case-2/4-decoder-gate-2.png",
    ):
        (out / lost).unlink()
    assert "4 images segmented" in again()
    assert content(out) == whole
    (out / "overlays" / "case-0.jpg").write_bytes(b"")  # as a power cut may leave it
    assert "1 image segmented" in again()
    assert content(out) == whole
    for cut, size in (
        ("masks/case-0.png", 20),
        ("overlays/case-1.jpg", 300),
        ("masks/case-2.png", 3),
    ):
        os.truncate(out / cut, size)
    assert "3 images segmented" in again()
    assert content(out) == whole

    picture = images / "case-1.png"
    before = picture.stat()
    os.utime(picture, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    assert "0 images segmented" in again()  # what it holds counts
    own = picture.read_bytes()
    shutil.copy(images / "case-2.png", picture)
    os.utime(picture, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "1 image segmented" in again()
    assert content(out)["masks/case-1.png"] == whole["masks/case-2.png"]
    rows = pd.read_csv(out / "lesions.csv")
    assert rows["image"].tolist() == pd.read_csv(io.BytesIO(whole["lesions.csv"]))["image"].tolist()
    assert rows["sha256"][1] == rows["sha256"][2] == sha256(picture)
    picture.write_bytes(own[:100])
    assert "0 images segmented" in (told := again())
    assert "1 skipped" in told
    assert len(pd.read_csv(out / "lesions.csv")) == 4
    assert not [name for name in content(out) if "case-1" in name]


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_a_picture_of_the_same_time_is_not_taken_for_the_one_before(
    trained, images, tmp_path, monkeypatch, capsys, kind
):
    old, new, named = tmp_path / "old", tmp_path / "new", tmp_path / "named"
    for folder, source in ((old, "case-0.png"), (new, "case-1.png")):
        folder.mkdir()
        shutil.copy(images / source, folder / "a.png")
        os.utime(folder / "a.png", ns=(10**18, 10**18))
    arguments = (trained[0], named, "--out", tmp_path / "out")

    def place(folder: Path) -> None:
        if kind == "link":
            named.mkdir(exist_ok=True)
            (named / "a.png").unlink(missing_ok=True)
            (named / "a.png").symlink_to(folder / "a.png")
        else:
            folder.rename(named)

    place(old)
    assert run(monkeypatch, *arguments) == 0
    before = content(tmp_path / "out")
    if kind == "folder":
        named.rename(old)
    place(new)
    capsys.readouterr()
    assert run(monkeypatch, *arguments) == 0
    assert "1 image segmented" in capsys.readouterr().out
    assert content(tmp_path / "out")["masks/a.png"] != before["masks/a.png"]


def results_of_one_run(
    monkeypatch, tmp_path: Path, network: Path, images: Path
) -> dict[str, bytes]:
    out = tmp_path / "at-once"
    assert run(monkeypatch, network, images, "--out", out, "--attention", "--batch-size=1") == 0
    found = content(out)
    shutil.rmtree(out)
    return found


def test_other_pictures_in_the_folder_give_the_results_of_one_run(
    trained, images, tmp_path, monkeypatch, capsys
):
    out, kept = tmp_path / "out", tmp_path / "kept.png"
    arguments = (trained[0], images, "--out", out, "--attention", "--batch-size=1")

    def again() -> str:
        capsys.readouterr()
        assert run(monkeypatch, *arguments) == 0
        told = capsys.readouterr().out
        assert content(out) == results_of_one_run(monkeypatch, tmp_path, trained[0], images)
        assert not [path for path in out.rglob("*") if path.is_dir() and not any(path.iterdir())]
        return told

    assert "5 images segmented" in again()
    (images / "case-0.png").rename(kept)
    Image.open(images / "case-1.png").save(images / "case-0.jpg")  # its results have that name
    assert "1 image segmented" in (told := again())
    assert "4 done before" in told
    shutil.copy(kept, images / "case-0.png")  # beside the other: all keep their endings
    assert "6 images segmented" in again()
    (images / "case-0.jpg").unlink()
    assert "5 images segmented" in again()
    shutil.rmtree(images / "more")
    assert "3 done before" in again()
    (images / "case-1.png").unlink()
    (images / "=case.png").mkdir()
    kept.rename(images / "=case.png" / "1.png")
    assert "2 done before" in again()
    shutil.rmtree(images / "=case.png")
    shutil.copy(images / "case-2.png", images / "=case.png")
    assert "2 done before" in again()


def test_a_table_of_another_program_removes_nothing_outside(trained, images, tmp_path, monkeypatch):
    out = tmp_path / "out"
    arguments = (trained[0], images, "--out", out)
    assert run(monkeypatch, *arguments) == 0
    whole = content(out)
    mine = [tmp_path / "mine.png", images / "mine.png.txt"]
    for path in mine:
        path.write_text("mine")
    lesions = out / "lesions.csv"
    header, row = lesions.read_text().splitlines()[:2]
    image, _, *rest = row.split(",")
    for name in ("../../mine", str(tmp_path / "mine"), "a\0b", ""):
        lesions.write_text("\n".join([header, ",".join([image, name, *rest]), ""]))
        assert run(monkeypatch, *arguments) == 0
        assert content(out) == whole
    assert [path.read_text() for path in mine] == ["mine"] * 2


def test_files_of_another_program_are_no_results_and_cost_no_traceback(
    trained, images, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    (images / "predict.json").write_text("[" * 200_000)
    assert run(monkeypatch, trained[0], images, "--out", out) == 0
    whole = content(out)
    (out / "lesions.csv").write_text('"' + "x" * 200_000 + "\n")
    assert run(monkeypatch, trained[0], images, "--out", out) == 0
    assert content(out) == whole


@pytest.mark.parametrize("where", ["read", "results", "walk", "record"])
def test_file_handles_that_run_out_end_it_and_cost_no_result(
    trained, images, tmp_path, monkeypatch, where
):
    out = tmp_path / "out"
    arguments = (trained[0], images, "--out", out)
    assert run(monkeypatch, *arguments) == 0
    before = content(out)

    (images / "case-0.png").write_bytes((images / "case-1.png").read_bytes())
    (images / "more" / "predict.json").write_text("{}")
    owner, name = {
        "read": (Path, "read_bytes"),
        "results": (outputs, "sha256"),
        "walk": (os, "scandir"),
        "record": (outputs, "from_json"),
    }[where]
    original = getattr(owner, name)
    at = images if where == "read" else images / "more"

    def refuse(path: Path | str | bytes, *rest: object) -> object:
        if where == "record" or str(path).startswith(str(at)):
            raise OSError(errno.EMFILE, "Too many open files", str(path))
        return original(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, refuse)
        with pytest.raises(OSError, match="Too many open files"):
            predict_with(patch, *arguments)
    after = content(out)
    assert before.keys() == after.keys()
    assert all(before[file] == after[file] for file in before if file != "lesions.csv")


def hold(lock: Path, held) -> None:
    with alone(lock, "the test"):
        held.set()
        signal.pause()


@pytest.mark.parametrize("begun", [False, True])
def test_two_do_not_write_into_one_folder(trained, images, tmp_path, monkeypatch, begun):
    out = tmp_path / "out"
    if begun:
        assert run(monkeypatch, trained[0], images, "--out", out) == 0
    context = multiprocessing.get_context("fork")
    held = context.Event()
    process = context.Process(target=hold, args=(out / ".lock", held))
    process.start()
    assert held.wait(30)
    before = content(out)
    with pytest.raises(UserError, match="out is being written by another process"):
        predict_with(monkeypatch, trained[0], images, "--out", out)
    assert content(out) == before
    process.kill()
    process.join()
    assert run(monkeypatch, trained[0], images, "--out", out) == 0
    assert len(pd.read_csv(out / "lesions.csv")) == 5
    assert not (out / ".lock").exists()


def test_odd_names_cost_their_own_images_at_most(trained, images, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    source = images / "case-0.png"
    odd = {
        b"latin-\xe9.png": r"latin-\xe9.png",
        b"two\rrows.png": r"two\rrows.png",
        b"two\nrows.png": r"two\nrows.png",
    }
    for name in odd:
        shutil.copy(source, os.fsencode(images) + b"/" + name)
    formula = '=HYPERLINK("x").png'
    fine = ["é, \u202f日本.png", formula, f"'{formula}", "x" * 251 + ".png"]
    for name in fine:
        shutil.copy(source, images / name)
    assert run(monkeypatch, trained[0], images, "--out", out) == 1
    skipped = pd.read_csv(out / "skipped.csv").set_index("image")["reason"]
    assert sorted(skipped.index) == sorted(odd.values())
    assert skipped[r"latin-\xe9.png"] == "has a name that is not in utf-8: rename it"
    assert skipped[r"two\rrows.png"] == "has a name with control characters: rename it"
    table = pd.read_csv(out / "lesions.csv")
    assert {f"'{formula}", f"''{formula}", fine[0], fine[3]} < set(table["image"])
    assert len(table) == len(list(out.glob("masks/**/*.png"))) == 9
    whole = content(out)
    capsys.readouterr()
    assert run(monkeypatch, trained[0], images, "--out", out) == 1
    assert "0 images segmented" in (told := capsys.readouterr().out)
    assert "9 done before" in told
    assert content(out) == whole


def test_a_name_too_long_for_its_results_is_skipped(trained, images, tmp_path, monkeypatch):
    shutil.copy(images / "case-0.png", images / "case-0.PNG")  # all keep their endings
    long = "x" * 251 + ".png"
    shutil.copy(images / "case-0.png", images / long)
    out = tmp_path / "out"
    assert run(monkeypatch, trained[0], images, "--out", out) == 1
    assert pd.read_csv(out / "skipped.csv").to_numpy().tolist() == [
        [long, "has a name that no result can have (File name too long)"]
    ]
    assert len(pd.read_csv(out / "lesions.csv")) == 6


def test_an_image_whose_result_would_stand_in_anothers_place_is_skipped(
    trained, images, tmp_path, monkeypatch
):
    (images / "case-0.png.png").mkdir()
    shutil.copy(images / "case-1.png", images / "case-0.png.png")
    shutil.copy(images / "case-0.png", images / "case-0.PNG")  # all keep their endings
    out = tmp_path / "out"
    assert run(monkeypatch, trained[0], images, "--out", out, "--batch-size=1") == 1
    ((image, reason),) = pd.read_csv(out / "skipped.csv").to_numpy().tolist()
    assert image in ("case-0.png", "case-0.png.png/case-1.png")
    assert reason.startswith("has a name that no result can have (")
    assert len(pd.read_csv(out / "lesions.csv")) == 6


def test_a_file_of_another_program_is_no_leftover(trained, images, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    (out / ".download.partial").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        predict_with(monkeypatch, trained[0], images, "--out", out)
    assert content(out) == {".download.partial": b"mine"}


def test_earlier_results_among_the_images_are_no_images(
    trained, images, tmp_path, monkeypatch, capsys
):
    assert run(monkeypatch, trained[0], images, "--out", tmp_path / "earlier") == 0
    (tmp_path / "earlier").rename(images / "earlier")
    capsys.readouterr()
    assert run(monkeypatch, trained[0], images, "--out", tmp_path / "out") == 0
    assert "5 images segmented" in (told := capsys.readouterr().out)
    assert "1 folder of earlier results passed over" in told


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_photograph_that_lies_on_its_side_is_turned_upright(
    trained, tmp_path, monkeypatch, capsys, orientation
):
    upright, _ = draw_case(1, 0, height=300, width=400)
    stored = {  # what a camera that is held so stores, by EXIF 2.3's table
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    folder = tmp_path / "photographs"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(upright).save(folder / "upright.png")
    Image.fromarray(stored).save(folder / "turned.png", exif=exif)
    large = Image.fromarray(stored).resize(tuple(6 * side for side in stored.shape[1::-1]))
    large.save(folder / "large.jpg", exif=exif, quality=95)
    out = tmp_path / "out"
    assert run(monkeypatch, trained[0], folder, "--out", out) == 0
    assert "3 images segmented" in (told := capsys.readouterr().out)
    assert "2 of them turned upright" in told
    files = content(out)
    assert files["masks/turned.png"] == files["masks/upright.png"]
    assert files["overlays/turned.jpg"] == files["overlays/upright.jpg"]
    table = pd.read_csv(out / "lesions.csv").set_index("image")
    assert table.loc["large.jpg", ["width", "height", "turned"]].tolist() == [2400, 1800, 1]
    assert table.loc["upright.png", ["width", "height", "turned"]].tolist() == [400, 300, 0]
    mask = Image.open(out / "masks" / "large.png")
    assert mask.size == (2400, 1800)
    small = np.asarray(mask.resize((400, 300))) > 127
    expected = np.asarray(Image.open(out / "masks" / "upright.png")) > 127
    assert (small == expected).mean() > 0.97


def test_an_image_without_finite_probabilities_is_skipped(trained, images, tmp_path, monkeypatch):
    compute = predict._probabilities

    def overflowing(model, pictures, device):
        p = compute(model, pictures, device)
        p[0, 3, 3] = np.nan
        return p

    monkeypatch.setattr(predict, "_probabilities", overflowing)
    out = tmp_path / "out"
    assert run(monkeypatch, trained[0], images, "--out", out, "--batch-size=2") == 1
    skipped = pd.read_csv(out / "skipped.csv")
    assert skipped["image"].tolist() == ["case-0.png", "case-2.png", "more/case-4.jpg"]
    assert set(skipped["reason"]) == {"gets no finite probabilities from the network"}
    assert len(pd.read_csv(out / "lesions.csv")) == 2


@pytest.mark.parametrize(
    ("odd", "told"),
    [
        ("file/out", r"Not a directory; .*name another path"),
        ("x" * 300, r"File name too long; .*name another path"),
        ("loop", "is a link that leads nowhere"),
        ("loop/out", "Too many levels of symbolic links"),
        ("dangling", "is a link that leads nowhere"),
        ("pipe", "is a file"),
        ("/proc/none/out", r"No such file or directory; .*name another path"),
    ],
)
def test_an_output_that_cannot_be_is_told(trained, images, tmp_path, monkeypatch, odd, told):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    for command in ([predict, trained[0], images], [export, trained[0]]):
        monkeypatch.setattr(sys, "argv", ["x", *map(str, command[1:]), "--out", odd])
        with pytest.raises(UserError, match=told):
            command[0].main()
    assert sorted(tmp_path.iterdir()) == before


def test_nothing_is_overwritten(trained, images, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        predict_with(monkeypatch, trained[0], images, "--out", out)
    assert [path.name for path in out.iterdir()] == ["precious.txt"]
    with pytest.raises(UserError, match="is a file"):
        predict_with(monkeypatch, trained[0], images, "--out", out / "precious.txt")
    other = tmp_path / "other"
    assert run(monkeypatch, trained[0], images, "--out", other) == 0
    with pytest.raises(UserError, match=r"other settings \(threshold;"):
        predict_with(monkeypatch, trained[0], images, "--out", other, "--threshold=0.4")
    with pytest.raises(UserError, match=r"lies in .*images"):
        predict_with(monkeypatch, trained[0], images, "--out", images / "out")


def predict_with(monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["predict", *map(str, arguments)])
    predict.main()


def test_two_images_of_one_name_both_keep_their_results(trained, images, tmp_path, monkeypatch):
    Image.open(images / "case-1.png").save(images / "case-0.jpg")
    shutil.copy(images / "case-2.png", images / "more" / "case-0.png")
    out = tmp_path / "out"
    assert run(monkeypatch, trained[0], images, "--out", out) == 0
    masks = {path.relative_to(out / "masks").as_posix() for path in out.glob("masks/**/*.png")}
    assert {"case-0.jpg.png", "case-0.png.png", "more/case-0.png.png"} <= masks
    assert len(masks) == len(pd.read_csv(out / "lesions.csv")) == 7


def test_an_empty_folder_ends_with_what_was_looked_for(trained, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no image to segment: .*empty holds no picture"):
        predict_with(monkeypatch, trained[0], tmp_path / "empty", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_no_run_is_told(trained, images, tmp_path, monkeypatch):
    folder, _ = trained

    def told(run_folder: Path, *options: str) -> str:
        out = tmp_path / "out"
        with pytest.raises(UserError) as error:
            predict_with(monkeypatch, run_folder, images, "--out", out, *options)
        assert not out.exists()
        return str(error.value)

    assert "such as" in told(tmp_path / "study")
    (tmp_path / "loop").symlink_to("loop")
    for odd in ("nowhere", "x" * 300, "loop"):
        assert "has no run.json" in told(tmp_path / odd)
    assert "/7/0 has no run.json" in told(folder, "--ensemble=0,7")
    make_run(tmp_path / "study", 1, size=(64, 64))
    assert "of one variant and one protocol" in told(folder, "--ensemble=0,1")
    record = json.loads((folder / "run.json").read_text())
    for change, expected in (
        ({"weights_sha256": "0"}, "another sha256"),
        ({"params": record["params"] | {"prepare": {}}}, "params.prepare.height: field required"),
        (
            {"params": record["params"] | {"model": record["params"]["model"] | {"new": 1}}},
            "does not know: new; use the version that trained it, commit 0123",
        ),
    ):
        (folder / "run.json").write_text(json.dumps(record | change))
        assert expected in told(folder)
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "weights.safetensors").unlink()
    assert "weights.safetensors is not there, or is no file" in told(folder)
    os.mkfifo(folder / "weights.safetensors")
    assert "weights.safetensors is not there, or is no file" in told(folder)


@pytest.mark.parametrize(
    "wrong",
    [["--threshold=1"], ["--batch-size=0"], ["--ensemble=1,1"], ["--ensemble=some"], ["--out"]],
)
def test_a_wrong_argument_ends_with_status_2(wrong, monkeypatch, tmp_path):
    assert run(monkeypatch, tmp_path, tmp_path, f"--out={tmp_path / 'out'}", *wrong) == 2


def test_a_disk_that_refuses_ends_in_a_sentence(trained, images, tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(UserError, match=r"masks/case-0.png cannot be written: No space left"):
        predict_with(monkeypatch, trained[0], images, "--out", tmp_path / "out")


def test_large_photographs_are_shown_small_and_segmented_large(trained, tmp_path, monkeypatch):
    image, _ = draw_case(1, 0, height=300, width=400)
    Image.fromarray(image).resize((2400, 1800)).save(tmp_path / "large.png")
    out = tmp_path / "out"
    assert run(monkeypatch, trained[0], tmp_path / "large.png", "--out", out) == 0
    assert Image.open(out / "masks" / "large.png").size == (2400, 1800)
    drawn = np.asarray(Image.open(out / "overlays" / "large.jpg")).astype(int)
    assert drawn.shape == (768, 1024, 3)
    photograph = np.asarray(Image.fromarray(image).resize((1024, 768))).astype(int)
    assert np.quantile(np.abs(drawn - photograph), 0.2) < 4  # the rest is borders
    assert (np.abs(drawn - BORDER).sum(axis=-1) < 60).any()


def test_a_mask_is_an_8_bit_png_of_0_and_255():
    mask = np.random.default_rng(0).random((37, 53)) > 0.5
    image = Image.open(io.BytesIO(predict.encode_mask(mask)))
    assert image.mode == "L"
    np.testing.assert_array_equal(np.asarray(image), np.where(mask, 255, 0))


def test_overlays_have_the_reports_colour():
    assert "#{:02x}{:02x}{:02x}".format(*BORDER) == PREDICTION_COLOUR
