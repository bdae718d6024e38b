"""A finished study made of numpy's random numbers: every file that plot and report read."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray
from papers import PAPER, keep_paper_of

from pipeline.engine.overlap import COUNTS
from pipeline.engine.prepared import PreparedCases, seal
from pipeline.evaluation.calibration import bin_pixels
from pipeline.evaluation.metrics import OVERLAP, PIXEL_METRICS
from pipeline.reporting import datacard
from pipeline.statistics.runs import averages
from pipeline.study.params import Run, Study
from pipeline.study.reading import load_study

REPOSITORY = Path(__file__).parents[2]
_MADE: dict[str, Path] = {}  # folders of prepared cases, by what they were made of
NASTY_IDS = ("a|b", "50%_&_#1", "<script>alert(1)</script>", "$x^2$ \\{y}", '"quoted" ~')

# draw(index) -> an image (height, width, 3) uint8 and its mask (height, width) uint8 in {0, 1}
Draw = Callable[[int], tuple[NDArray[np.uint8], NDArray[np.uint8]]]


def make_study(
    root: Path,
    *,
    variants: Sequence[str] = ("gated_attention", "resunet"),
    seeds: Sequence[int] = (0, 1),
    epochs: int = 3,
    test_ids: Sequence[str] = NASTY_IDS,
    side: int = 32,
    source: str = "directory",
    draw: Draw | None = None,
    folds: int = 0,
    averaging: Sequence[str] = (),
    groups: Mapping[str, str] | None = None,
    external: Mapping[str, int] | None = None,
    settings: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> Study:
    """Write `root`/studies/fake with all outputs up to the stage average, and load it.

    With `folds` all cases are divided into so many, by turns, and each is a fold's test case.
    groups: of cases by id; each that is not there is of its own. external: how many cases each
    external test set has, by its name; two more are the study's, and one cannot be used. settings:
    a variant's other ones, each the variant's name with a digit, with the keys of train.
    """
    folder = root / "studies" / "fake"
    folder.mkdir(parents=True)
    _write_params(folder, variants, seeds, epochs, side, source, folds, averaging, external or {})
    _add_settings(folder, settings or {})
    study = load_study(folder)
    others = ["training-1", "training-2", "validation-1"]
    _write_prepared(study, others, list(test_ids), draw, groups or {})
    for number, run in enumerate(study.runs()):
        _write_run(study, run, np.random.default_rng(number))
    for place, (name, count) in enumerate((external or {}).items()):
        _write_external(study.on(name), count, np.random.default_rng(1000 + place))
    if averaging:
        _write_averaged(study, np.random.default_rng(99))
    return study


def _write_params(
    folder: Path,
    variants: Sequence[str],
    seeds: Sequence[int],
    epochs: int,
    side: int,
    source: str,
    folds: int,
    averaging: Sequence[str],
    external: Collection[str],
) -> None:
    params = yaml.safe_load((REPOSITORY / "studies" / "demo" / "params.yaml").read_text())
    params |= {"name": "fake", "variants": list(variants), "seeds": list(seeds)}
    params["models"] = {name: params["models"].get(name, {}) for name in variants}
    if source != "synthetic":
        params["paper"] = PAPER.model_dump(mode="json")
    keep_paper_of(params)
    params["averaging"] = list(averaging)
    params["evaluate"]["external"] = [
        {"name": name, "raw": f"data/{name}", "on_problem": "skip"} for name in external
    ]
    params["compare"] |= {"baseline": "resunet" if "resunet" in variants else None, "draws": 1000}
    params["prepare"] |= {"height": side, "width": side}
    if folds:
        params["prepare"]["split"] = {"method": "folds", "k": folds, "seed": 0}
        params["folds"] = list(range(folds))
    schedule = {"method": "constant", "warmup_epochs": 0}
    params["train"] |= {"schedule": schedule, "gradient_clip": None}  # not the demo's
    params["train"] |= {"epochs": epochs, "batch_size": 8}
    params["train"]["optimizer"]["learning_rate"] = 0.001
    if source == "directory":
        params["data"] = {"source": "directory", "raw": "data/raw", "on_problem": "stop"}
    (folder / "params.yaml").write_text("# a comment & <a tag>\n" + yaml.safe_dump(params))


def _add_settings(folder: Path, settings: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    params = yaml.safe_load((folder / "params.yaml").read_text())
    for variant, trainings in settings.items():
        names = [f"{variant}{place}" for place, _ in enumerate(trainings, start=1)]
        for name, train in zip(names, trainings, strict=True):
            params["models"][name] = params["models"][variant] | {"train": dict(train)}
        params["variants"] += names
        params["tuning"][variant] = names
    (folder / "params.yaml").write_text("# a comment & <a tag>\n" + yaml.safe_dump(params))


def _write_prepared(
    study: Study,
    other_ids: list[str],
    test_ids: list[str],
    draw: Draw | None,
    groups: Mapping[str, str],
) -> None:
    ids = other_ids + test_ids
    folder = study.prepared_dir
    # The data card's pictures take a second: made once for each kind of study.
    key = repr((ids, groups, study.data, study.prepare)) if draw is None else ""
    if key in _MADE:
        shutil.copytree(_MADE[key], folder)
        return
    height, width = study.prepare.height, study.prepare.width
    drawn = [(draw or _disc(height, width))(index) for index in range(len(ids))]
    folder.mkdir(parents=True)
    np.save(folder / "images.npy", np.stack([image for image, _ in drawn]))
    np.save(folder / "masks.npy", np.stack([mask for _, mask in drawn]))
    table = pd.DataFrame(
        {
            "id": ids,
            "split": ["training", "training", "validation"] + ["test"] * len(test_ids),
            "height": 3 * height,
            "width": 4 * width,
            "image_sha256": "0",
            "mask_sha256": "0",
            "group": [groups.get(id, id) for id in ids],
        }
    )
    if study.prepare.split.method == "folds":
        table["split"] = np.arange(len(ids)) % study.prepare.split.k
        table = table.rename(columns={"split": "fold"})
    table.to_csv(folder / "cases.csv", index=False)
    seal(folder)
    (folder / "manifest.csv").write_text("path,bytes,sha256\n")
    source = {"source": study.data.source, "licence": "<own> & free", "archives": []}
    datacard.write(study, PreparedCases.open(folder), [], [], {}, source, folder / "card")
    if key:
        _MADE[key] = Path(tempfile.mkdtemp(prefix="fake-study-")) / "prepared"
        atexit.register(shutil.rmtree, _MADE[key].parent, ignore_errors=True)
        shutil.copytree(folder, _MADE[key])


def _disc(height: int, width: int) -> Draw:
    """A dark disc on noise; every fourth case has none."""

    def draw(index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        y, x = np.mgrid[:height, :width]
        inside = (y - height / 2) ** 2 + (x - width / 2) ** 2 < (height / 4) ** 2
        mask = (inside & (index % 4 != 0)).astype(np.uint8)
        noise = np.random.default_rng(index).integers(150, 200, (height, width, 3))
        return (noise - 80 * mask[..., None]).astype(np.uint8), mask

    return draw


def _write_run(study: Study, run: Run, rng: np.random.Generator) -> None:
    folder = study.evaluation_dir(*run)
    folder.mkdir(parents=True)
    _history(study.train.epochs, rng).to_csv(study.run_dir(*run) / "history.csv", index=False)
    prepared = PreparedCases.open(study.prepared_dir, run.fold)
    facts = _facts(run.variant, run.seed) | {"data_fingerprint": prepared.fingerprint}
    facts["selected_epoch"] = study.train.epochs
    (study.run_dir(*run) / "run.json").write_text(json.dumps(facts))
    test = prepared.indices("test")
    masks = prepared.masks[test]
    predictions = _shifted(masks, rng)
    np.save(folder / "predictions.npy", np.packbits(predictions, axis=-1))
    cases = score(prepared.table["id"].to_numpy()[test], masks, predictions, rng)
    cases.to_csv(folder / "cases.csv", index=False)
    np.save(folder / "calibration.npy", _binned(masks, study.evaluate.calibration_bins, rng))
    sweep = 0.8 - np.abs(np.linspace(0.01, 0.99, 99) - rng.uniform(0.3, 0.6)) / 4
    pd.DataFrame({"threshold": np.arange(1, 100) / 100, "dice": sweep}).to_csv(
        folder / "thresholds.csv", index=False
    )
    (folder / "evaluation.json").write_text(json.dumps({"weights_sha256": None}))
    (folder / "metrics.json").write_text(json.dumps({"dice": cases["dice"].mean()}))


def _write_external(on: Study, count: int, rng: np.random.Generator) -> None:
    """The prepared cases of an external test set, and each run's scores on it."""
    height, width = on.prepare.height, on.prepare.width
    ids = [f"{on.external_name}-{index}" for index in range(count + 2)]
    drawn = [_disc(height, width)(index) for index in range(100, 100 + len(ids))]
    folder = on.prepared_dir
    folder.mkdir(parents=True)
    np.save(folder / "images.npy", np.stack([image for image, _ in drawn]))
    np.save(folder / "masks.npy", np.stack([mask for _, mask in drawn]))
    pd.DataFrame(
        {
            "id": ids,
            "split": ["test"] * count + ["training"] * 2,
            "height": height,
            "width": width,
            "image_sha256": "0",
            "mask_sha256": "0",
            "group": ids,
        }
    ).to_csv(folder / "cases.csv", index=False)
    seal(folder)
    card = {"cases": count, "of_the_study": 2, "unusable": 1}
    (folder / "card.json").write_text(json.dumps(card))
    prepared = PreparedCases.open(folder)
    masks = prepared.masks[:count]
    for run in on.runs():
        evaluation = on.evaluation_dir(*run)
        evaluation.mkdir(parents=True)
        cases = score(ids[:count], masks, _shifted(masks, rng), rng)
        cases.to_csv(evaluation / "cases.csv", index=False)
        (evaluation / "evaluation.json").write_text(json.dumps({"weights_sha256": None}))
        figures = {name: cases[name].mean() for name in ("dice", "iou", "focal_loss")}
        (evaluation / "metrics.json").write_text(json.dumps(figures))


def _write_averaged(study: Study, rng: np.random.Generator) -> None:
    study.averaged_dir.mkdir(parents=True)
    for variant in study.variants:
        tables = []
        for average in averages(study):
            prepared = PreparedCases.open(study.prepared_dir, average.fold)
            test = prepared.indices("test")
            masks, ids = prepared.masks[test], prepared.table["id"].to_numpy()[test]
            table = score(ids, masks, _shifted(masks, rng), rng)[["id", *PIXEL_METRICS]]
            named = {"variant": variant, "averaging": average.averaging}
            tables.append(table.assign(**named, seed=average.seed, fold=average.fold))
        pd.concat(tables).to_csv(study.averaged_file(variant), index=False)


def _history(epochs: int, rng: np.random.Generator) -> pd.DataFrame:
    epoch = np.arange(1, epochs + 1)
    names = [
        f"{split}_{loss}"
        for split in ("train", "validation")
        for loss in ("loss", "bce", "dice_loss", "focal_loss")
    ]
    losses = {name: (0.6 / epoch + 0.1) * rng.uniform(0.9, 1.2, epochs) for name in names}
    return pd.DataFrame(
        {"epoch": epoch, "learning_rate": 1e-3}
        | losses
        | {"validation_dice": 1 - losses["validation_dice_loss"], "validation_iou": 0.5}
        | {"seconds": 1.0, "images_per_second": 64.0}
    )


def _facts(variant: str, seed: int) -> dict[str, Any]:
    return {
        "variant": variant,
        "seed": seed,
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "dirty": False,
        "device": "cpu <2 cores> & more",
        "precision": "bfloat16",
        "versions": {"python": "3.11.7", "torch": "2.14.1"},
        "parameters": 29_163_457,
        "gflops": 18.3,
        "images_per_second": 64.0,
        "validation_images_per_second": 192.0,
        "seconds_per_epoch": 1.5,
        "wall_seconds": 75.5 + seed,
        "peak_memory_bytes": 3 * 2**30,
    }


def _shifted(masks: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Predictions: the truth (cases, height, width), each moved by some pixels."""
    furthest = max(2, masks.shape[1] // 10)
    moves = rng.integers(-furthest, furthest + 1, (len(masks), 2))
    moved = [np.roll(mask, move, axis=(0, 1)) for mask, move in zip(masks, moves, strict=True)]
    return np.stack(moved)


def _binned(masks: NDArray[np.uint8], bins: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """calibration.npy of masks (cases, height, width): p is the truth, blurred by chance."""
    probabilities = np.clip(0.8 * masks + rng.uniform(0, 0.3, masks.shape), 0, 1)
    return bin_pixels(probabilities.astype(np.float32), masks > 0, bins)


def score(
    ids: Sequence[str] | NDArray[Any],
    truth: NDArray[np.uint8],
    predicted: NDArray[np.uint8],
    rng: np.random.Generator,
) -> pd.DataFrame:
    """A run's cases.csv for masks (cases, height, width) in {0, 1}; what is no overlap is made up,
    and at the originals' size there are as many pixels."""
    axes = (1, 2)
    tp = (truth & predicted).sum(axes)
    fp = ((1 - truth) & predicted).sum(axes)
    fn = (truth & (1 - predicted)).sum(axes)
    tn = ((1 - truth) & (1 - predicted)).sum(axes)
    empty = tp + fp + fn == 0
    iou = np.where(empty, 1.0, tp / np.maximum(tp + fp + fn, 1))
    table = pd.DataFrame(
        {
            "id": ids,
            "dice": 2 * iou / (1 + iou),
            "iou": iou,
            "sensitivity": np.where(tp + fn == 0, 1.0, tp / np.maximum(tp + fn, 1)),
            "specificity": tn / (tn + fp),
            "thresholded_jaccard": np.where(iou < 0.65, 0.0, iou),
            "focal_loss": rng.uniform(0.02, 0.3, len(iou)),
            "bce": rng.uniform(0.1, 0.5, len(iou)),
            "brier": rng.uniform(0.01, 0.2, len(iou)),
            "hausdorff_95": rng.uniform(0, 20, len(iou)),
            "surface_dice": rng.uniform(0.2, 1, len(iou)),
            "boundary_iou": rng.uniform(0.2, 1, len(iou)),
            "true_positives": tp,
            "false_positives": fp,
            "false_negatives": fn,
            "true_negatives": tn,
        }
    )
    native = table[[*OVERLAP, *COUNTS]].add_prefix("native_")
    return pd.concat([table, native], axis="columns")
