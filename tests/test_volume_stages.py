"""A study of volumes, stage by stage: what is scored, drawn and reported of them."""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any
from unittest.mock import patch

import mlflow
import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import REPOSITORY
from PIL import Image
from scipy.ndimage import binary_erosion, map_coordinates
from scipy.spatial.distance import cdist

from pipeline import predict
from pipeline.data.blobs import SPACING
from pipeline.data.sources import draw_cases
from pipeline.engine.compute import to_input
from pipeline.engine.prepared import PreparedCases
from pipeline.engine.weights import load_model
from pipeline.reporting.explorer import border
from pipeline.reporting.protocol import CHOICES
from pipeline.statistics import subgroups
from pipeline.study.blocks import Synthetic
from pipeline.study.params import Run, Study
from pipeline.study.reading import load_study
from pipeline.tracking.thumbnails import draw_thumbnails

NETWORK: dict[str, Any] = {"dimensions": 3, "depth_halvings": 2}
MODELS: dict[str, Any] = {
    "limit_encoder_attention": {
        "encoder": "resnet18",
        "encoder_attention": [1, 2, 3],
        "decoder_gates": True,
        **NETWORK,
    },
    "unet": {"encoder": "plain", "plain_width": 4, **NETWORK},
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Two networks, two seeds, two epochs on twelve drawn volumes; all its stages have run."""
    folder = tmp_path_factory.mktemp("volumes") / "study"
    folder.mkdir()
    params = yaml.safe_load((REPOSITORY / "studies" / "demo" / "params.yaml").read_text())
    params |= {"name": "volumes", "code": str(REPOSITORY), "factors": {}, "averaging": ["flips"]}
    params["data"] |= {"depth": 12, "height": 40, "width": 48}
    params["data"] |= {"training": 12, "validation": 4, "test": 6}
    params["prepare"] |= {"depth": 8, "height": 32, "width": 32, "foreground": "nonzero"}
    params["prepare"]["near_duplicates"] = None
    external = {"name": "elsewhere", "raw": "../elsewhere", "on_problem": "skip"}
    params["evaluate"]["external"] = [external]
    other = params["data"] | {"training": 1, "validation": 1, "test": 3, "seed": 7}
    draw_cases(Synthetic(**other), folder.parent / "elsewhere")
    draw_cases(Synthetic(**params["data"]), folder.parent / "own")
    for path in sorted((folder.parent / "own").glob("*Training*/SYNTHETIC_0000000*.nii.gz")):
        folder_of_copies = folder.parent / "elsewhere" / path.parent.name
        copy = folder_of_copies / path.name.replace("000000", "copied")
        copy.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 1, mtime=1))
    params["train"]["epochs"] = 2
    params["train"]["optimizer"]["learning_rate"] = 0.001
    params["train"]["augmentation"].append({"DepthFlip": {"p": 0.5}})
    params["compare"] |= {"baseline": None, "draws": 1000}
    params |= {"variants": list(MODELS), "models": MODELS}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    shutil.copy(REPOSITORY / "dvc.yaml", folder)
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"]):
        subprocess.run(command, cwd=folder, check=True)
    helper = REPOSITORY / "tests" / "helpers" / "finished_study.py"
    subprocess.run([sys.executable, helper, folder, "report"], check=True, capture_output=True)
    return load_study(folder)


def originals(study: Study, ids: list[str]) -> dict[str, np.ndarray]:
    """The masks (D, H, W) of the raw files, which are drawn upright."""
    found = {path.name.split("_segm")[0]: path for path in study.raw_dir.glob("*GroundTruth/*")}
    return {id: np.asarray(nibabel.load(found[id]).dataobj).transpose() > 0 for id in ids}


def linear(volume: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Between the centres of voxels, the outermost ones repeated."""
    places = [
        (np.arange(new) + 0.5) * old / new - 0.5
        for old, new in zip(volume.shape, shape, strict=True)
    ]
    return map_coordinates(volume, np.meshgrid(*places, indexing="ij"), order=1, mode="nearest")


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    total = found.sum() + truth.sum()
    return 2 * (found & truth).sum() / total if total else 1.0


def distances(found: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """In millimetres between all voxels of two surfaces: the 95th percentile, the larger of the two
    ways; and the share within 1 mm."""
    surfaces = [np.argwhere(mask & ~binary_erosion(mask)) * SPACING for mask in (found, truth)]
    apart = cdist(*surfaces)
    ways = apart.min(axis=1), apart.min(axis=0)
    return max(np.percentile(way, 95) for way in ways), (np.concatenate(ways) <= 1).mean()


@pytest.mark.slow
def test_scores_are_of_all_voxels_at_the_prepared_and_at_the_original_size(study):
    cases = PreparedCases.open(study.prepared_dir)
    run = Run("limit_encoder_attention", 1, 0)
    table = pd.read_csv(study.evaluation_dir(*run) / "cases.csv").set_index("id")
    assert len(table) == 6
    model = load_model(
        study.models[run.variant], study.run_dir(*run) / "weights.safetensors", torch.device("cpu")
    )
    whole = originals(study, list(table.index))
    packed = np.load(study.evaluation_dir(*run) / "predictions.npy")
    predictions = np.unpackbits(packed, axis=-1)
    outlined = 0
    for row, place in enumerate(cases.indices("test")):
        id = cases.table["id"].iloc[place]
        with torch.no_grad():
            images = to_input(
                torch.from_numpy(cases.images[place : place + 1]), torch.device("cpu")
            )
            probabilities = model(images)[0, 0].sigmoid().numpy()
        found = probabilities > 0.5
        assert np.array_equal(found, predictions[row] > 0)
        assert table.loc[id, "dice"] == pytest.approx(dice(found, cases.masks[place] > 0))
        laid = linear(probabilities, (12, 40, 48)) > 0.5
        assert table.loc[id, "native_dice"] == pytest.approx(dice(laid, whole[id]), abs=1e-3)
        if laid.any():
            outlined += 1
            farthest, within = distances(laid, whole[id])
            assert table.loc[id, "native_hausdorff_95"] == pytest.approx(farthest, abs=0.05)
            assert table.loc[id, "native_surface_dice"] == pytest.approx(within, abs=1e-3)
        counts = table.loc[id, ["true_positives", "false_positives"]]
        assert counts.sum() == found.sum()
    assert outlined


@pytest.mark.slow
def test_the_report_shows_slices_and_tells_sizes_and_spacings(study):
    page = (study.reports_dir / "index.html").read_text()
    assert "48 &times; 40 &times; 12 voxels of 1 &times; 1 &times; 2 mm (22)" in page
    assert "8 deep &times; 32 high &times; 32 wide, stretch, grey" in page
    assert "skin tone" not in page
    assert "32 \N{MULTIPLICATION SIGN} 32 \N{MULTIPLICATION SIGN} 8 voxels" in page
    assert '<th scope="col" class="number">Grey</th>' in page
    assert ">Red<" not in page
    used, _ = CHOICES["resize"](study)
    assert used == "resize: stretch, to 8 deep x 32 high x 32 wide"
    results = json.loads(study.results_file.read_text())
    (elsewhere,) = results["external"]
    assert elsewhere["name"] == "elsewhere"
    assert elsewhere["cases"] == 5
    assert {run["variant"] for run in results["runs"]} == set(MODELS)
    drawn = {path.name for path in (study.reports_dir / "figures").iterdir()}
    assert {"examples.png", "runs.svg"} <= drawn
    assert (study.reports_dir / "attention" / "limit_encoder_attention.png").is_file()
    sheet = study.prepared_dir / "card" / "contact_sheet.png"
    assert Image.open(sheet).size[0] > 600


@pytest.mark.slow
def test_the_reports_explorer_has_each_runs_borders_in_several_slices(study):
    page = (study.reports_dir / "index.html").read_text()
    found = re.search(r'id="explorer-data">(.*?)</script>', page, re.DOTALL)
    data = json.loads(found[1])
    cases = PreparedCases.open(study.prepared_dir)
    test = cases.indices("test")
    assert data["ids"] == cases.table["id"].iloc[test].tolist()
    assert data["depth"] == 8
    assert len(data["images"]) == len(data["slices"]) > 3 * len(test)
    drawn = 0
    for seed in study.seeds:
        borders = json.loads(zlib.decompress(base64.b64decode(data["borders"][str(seed)])))
        for variant, of_frames in zip(data["variants"], borders, strict=True):
            path = study.evaluation_dir(variant["name"], seed) / "predictions.npy"
            predictions = np.unpackbits(np.load(path), axis=-1)
            for row, (first, _, last) in enumerate(data["frames"]):
                places = np.array(data["slices"][first : last + 1]) - 1
                upright = predictions[row, places, ::-1]
                assert of_frames[first : last + 1] == [border(mask, 1 / 8) for mask in upright]
            drawn += len(set(of_frames) - {""})
    assert drawn > len(data["slices"]) / 2


@pytest.mark.slow
def test_a_volume_that_the_study_has_in_other_bytes_is_no_external_test_case(study):
    card = json.loads((study.on("elsewhere").prepared_dir / "card.json").read_text())
    assert (card["cases"], card["of_the_study"], card["unusable"]) == (5, 1, 0)
    problems = pd.read_csv(study.on("elsewhere").prepared_dir / "problems.csv")
    assert "has the voxels of the study's SYNTHETIC_0000000" in problems["detail"].item()


@pytest.mark.slow
def test_what_is_said_of_volumes_names_voxels_and_millilitres(study):
    results = json.loads(study.results_file.read_text())
    definitions = " ".join(results["study"]["definitions"].values())
    assert "in voxels of the prepared size" in definitions
    assert "the volume's diagonal" in definitions
    assert not re.search("pixel|picture|outline", definitions)
    assert list(results["groupings"]) == [subgroups.VOLUME, subgroups.BORDER, subgroups.SPACING]
    of_sizes = [row["group"] for row in results["subgroups"] if row["grouping"] == subgroups.VOLUME]
    assert all(re.search(r" [0-9.]+ ml\)$", group) for group in of_sizes)


@pytest.mark.slow
def test_no_word_of_pictures_is_said_of_volumes(study):
    """On the page, in its tables and in the model cards; an outline is a rater's there."""
    page = (study.reports_dir / "index.html").read_text()
    page = re.sub(r"<(style|script|svg).*?</\1>|<[^>]*>", " ", page, flags=re.DOTALL)
    said = [page, *((study.reports_dir / name).read_text() for name in ("table.md", "table.tex"))]
    cards = (study.reports_dir / "model-cards.md").read_text()
    said.append(cards.replace("one outline a case; experts' outlines", ""))
    for text in said:
        assert re.findall(r".{0,60}(?:pixel|picture|outline).{0,30}", text, re.IGNORECASE) == []


@pytest.mark.slow
def test_thumbnails_are_of_the_slice_with_the_largest_lesion_in_its_proportions(study, tmp_path):
    draw_thumbnails(study, Run("unet", 0, 0), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"best.jpg", "median.jpg", "worst.jpg"}
    width, height = Image.open(tmp_path / "best.jpg").size
    assert width / (height - 22) == pytest.approx(48 / 40, rel=0.02)


def predicted(study: Study, images: Path, out: Path, *options: str) -> pd.DataFrame:
    run = study.run_dir("limit_encoder_attention", 0, 0)
    command = ["predict", str(run), str(images), "--out", str(out), *options]
    with patch.object(sys, "argv", command), pytest.raises(SystemExit) as ended:
        predict.main()
    assert ended.value.code == 0
    return pd.read_csv(out / "lesions.csv").set_index("image")


@pytest.mark.slow
def test_masks_are_predicted_where_the_volume_lies_in_the_order_of_its_axes(study, tmp_path):
    """One volume as it was drawn, and turned over, with a shift and other axes first."""
    raw = study.raw_dir / "ISIC2018_Task1-2_Test_Input"
    upright = nibabel.load(sorted(raw.iterdir())[0])
    (tmp_path / "volumes").mkdir()
    nibabel.save(upright, tmp_path / "volumes" / "upright.nii")
    affine = upright.affine.copy()
    affine[:3, 3] = 5, -7, 11
    moved = nibabel.Nifti1Image(np.asarray(upright.dataobj).astype(np.int16), affine)
    turned = moved.as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
    nibabel.save(turned, tmp_path / "volumes" / "turned.nii.gz")
    out = tmp_path / "results"
    table = predicted(study, tmp_path / "volumes", out, "--probabilities", "--attention")
    masks = {name: nibabel.load(out / "masks" / f"{name}.nii.gz") for name in ("upright", "turned")}
    probabilities = nibabel.load(out / "probabilities" / "turned.nii.gz")
    for name, volume in (("upright", upright), ("turned", turned)):
        assert masks[name].shape == volume.shape
        assert masks[name].get_data_dtype() == np.uint8
        np.testing.assert_allclose(masks[name].affine, volume.affine)
    back = nibabel.as_closest_canonical(masks["turned"])
    found = np.asarray(masks["upright"].dataobj)
    assert np.array_equal(np.asarray(back.dataobj), found)
    assert set(np.unique(found)) <= {0, 1}
    assert np.array_equal(
        np.asarray(probabilities.dataobj) > 0.5, np.asarray(masks["turned"].dataobj) > 0
    )
    row = table.loc["turned.nii.gz"]
    assert row[["width", "height", "depth"]].tolist() == [48, 40, 12]
    assert row["lesion_voxels"] == found.sum()
    assert row["lesion_ml"] == pytest.approx(found.sum() * 2.0 / 1000)
    assert 0.5 <= row["confidence"] <= 1
    width, height = Image.open(out / "overlays" / "turned.jpg").size
    assert (width, height) == (512, round(512 * 40 / 48))
    assert len(list((out / "attention" / "turned").iterdir())) == 4 + 2 * 3
    cut = out / "masks" / "turned.nii.gz"
    whole = cut.read_bytes()
    cut.write_bytes(whole[:-4])  # of the end, where its checksum stands
    predicted(study, tmp_path / "volumes", out, "--probabilities", "--attention")
    assert cut.read_bytes() == whole


@pytest.mark.slow
def test_attention_is_shown_of_a_volume_that_is_smaller_than_the_network_sees(study, tmp_path):
    small = np.random.default_rng(0).integers(0, 999, (13, 21, 6)).astype(np.int16)
    (tmp_path / "volumes").mkdir()
    nibabel.Nifti1Image(small, np.eye(4)).to_filename(tmp_path / "volumes" / "small.nii.gz")
    row = predicted(study, tmp_path / "volumes", tmp_path / "out", "--attention").iloc[0]
    assert (row["depth"], row["height"], row["width"]) == (6, 21, 13)
    maps = list((tmp_path / "out" / "attention" / "small").iterdir())
    assert len(maps) == 4 + 2 * 3
    assert {Image.open(path).size for path in maps} == {(round(512 * 13 / 21), 512)}


@pytest.mark.slow
def test_what_is_no_volume_is_skipped_with_a_reason(study, tmp_path):
    folder = tmp_path / "volumes"
    folder.mkdir()
    raw = sorted((study.raw_dir / "ISIC2018_Task1-2_Test_Input").iterdir())[0]
    shutil.copy(raw, folder / "good.nii.gz")
    (folder / "cut.nii.gz").write_bytes(raw.read_bytes()[:-100])
    Image.new("RGB", (40, 40)).save(folder / "picture.png")
    command = [
        *(sys.executable, "-m", "pipeline.predict", study.run_dir("unet", 0, 0), folder),
        *("--out", tmp_path / "results"),
    ]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "cut.nii.gz: cannot be decoded, it may be cut short" in done.stderr
    assert "1 image segmented" in done.stdout
    assert "1 other file passed over" in done.stdout


@pytest.mark.slow
def test_an_exported_network_takes_volumes_and_its_card_says_so(study, tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra export is not installed")
    run = study.run_dir("limit_encoder_attention", 0, 0)
    command = [sys.executable, "-m", "pipeline.export", run, "--out", tmp_path / "exported"]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "exported" / "model.onnx")
    cases = PreparedCases.open(study.prepared_dir)
    volumes = np.array(cases.images[:3])
    (probabilities,) = session.run(None, {"images": volumes})
    model = load_model(
        study.models["limit_encoder_attention"], run / "weights.safetensors", torch.device("cpu")
    )
    with torch.no_grad():
        inputs = to_input(torch.from_numpy(volumes), torch.device("cpu"))
        expected = model(inputs)[:, 0].sigmoid().numpy()
    np.testing.assert_allclose(probabilities, expected, atol=1e-4)
    card = next((tmp_path / "exported").glob("*.md")).read_text()
    assert "uint8, (N, 8, 32, 32, 1), grey, any N" in card
    assert "of each voxel to be lesion" in card
    assert "hair" not in card.lower()


@pytest.mark.slow
def test_drawn_volumes_are_the_same_bytes_again(study, tmp_path):
    drawn = sorted(path for path in study.raw_dir.rglob("*.nii.gz"))
    assert len(drawn) == 2 * 22
    again = tmp_path / "again"
    again.mkdir()
    (again / "params.yaml").write_bytes((study.folder / "params.yaml").read_bytes())
    draw_cases(study.data, again / "raw")
    for path in drawn:
        assert (again / "raw" / path.relative_to(study.raw_dir)).read_bytes() == path.read_bytes()
    assert gzip.decompress(drawn[0].read_bytes())[344:348] == b"n+1\0"
    assert nibabel.load(drawn[0]).header.get_zooms() == (1.0, 1.0, 2.0)


@pytest.mark.slow
def test_the_logged_network_takes_volumes(study, tmp_path, monkeypatch):
    from pipeline.tracking.logged_model import log_model

    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    run = Run("unet", 0, 0)
    with mlflow.start_run() as started:
        log_model(study, run.variant, study.run_dir(*run) / "weights.safetensors")
    (logged,) = mlflow.search_logged_models(
        filter_string=f"source_run_id='{started.info.run_id}'", output_format="list"
    )
    served = mlflow.pyfunc.load_model(logged.model_uri)
    cases = PreparedCases.open(study.prepared_dir)
    probabilities = served.predict(np.array(cases.images[:2]))
    assert probabilities.shape == (2, 8, 32, 32)
    with pytest.raises(mlflow.exceptions.MlflowException, match=r"\(N, 8, 32, 32, 1\), grey"):
        served.predict(np.zeros((1, 32, 32, 3), np.uint8))
