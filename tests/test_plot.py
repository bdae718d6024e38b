"""pipeline/plot.py on made-up runs."""

from __future__ import annotations

import itertools
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from fake_study import REPOSITORY, make_study
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from PIL import Image

from pipeline import compare, plot
from pipeline.engine.prepared import PreparedCases
from pipeline.reporting.result_figures import AT_BEST, draw_settings, looks
from pipeline.reporting.style import MARKERS
from pipeline.statistics.results import load_results
from pipeline.statistics.runs import read_histories, read_scores
from pipeline.statistics.scores import ExampleCase
from pipeline.study.errors import UserError

pytestmark = pytest.mark.slow

NAMES = ("loss_curves", "validation_dice", "dice_by_case", "examples", "disputed")
OF_RESULTS = (
    "runs", "forest", "ranks", "ordering", "variance", "cost", "reliability", "thresholds",
)  # fmt: skip


def draw(study, monkeypatch):
    monkeypatch.chdir(study.folder)
    compare.main()
    plot.main()
    return study.reports_dir / "figures"


def share_of_ink(path):
    """The share of pixels that are not white."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    return (pixels != 255).any(axis=-1).mean()


def test_figures_are_png_and_svg_not_blank_and_twice_the_same_bytes(tmp_path, monkeypatch, capsys):
    study = make_study(tmp_path, seeds=list(range(7)))
    folder = draw(study, monkeypatch)
    expected = {f"{name}.{kind}" for name in NAMES + OF_RESULTS for kind in ("png", "svg")}
    assert {path.name for path in folder.iterdir()} == expected
    for name in NAMES:
        assert share_of_ink(folder / f"{name}.png") > 0.02
        assert ElementTree.parse(folder / f"{name}.svg").getroot().tag.endswith("svg")
    assert capsys.readouterr().out.splitlines()[1].startswith("plot: 13 figures in")
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    second = {path.name: path.read_bytes() for path in draw(study, monkeypatch).iterdir()}
    assert first == second


def test_one_variant_one_seed_one_epoch_one_case_is_drawn(tmp_path, monkeypatch):
    study = make_study(tmp_path, variants=["unet"], seeds=[0], epochs=1, test_ids=["only"])
    folder = draw(study, monkeypatch)
    assert share_of_ink(folder / "validation_dice.png") > 0.01


def test_a_single_epoch_is_a_visible_point(tmp_path):
    histories = read_histories(make_study(tmp_path, seeds=[0], epochs=1))
    figure = plot.draw_validation_dice(histories, list(histories["variant"].unique()))
    points = [line for line in figure.axes[0].lines if line.get_marker() in MARKERS]
    assert [len(line.get_xdata()) for line in points] == [1, 1]


def test_ten_variants_are_told_apart_by_colour_and_by_marker(tmp_path):
    variants = [f"variant_{number}" for number in range(10)]
    study = make_study(tmp_path, variants=variants, seeds=[0], epochs=2, test_ids=["a"])
    figure = plot.draw_validation_dice(read_histories(study), variants)
    handles = figure.legends[0].legend_handles
    assert [text.get_text() for text in figure.legends[0].texts] == variants
    assert len({handle.get_color() for handle in handles}) == 10
    assert len({handle.get_marker() for handle in handles}) == 10


def test_a_variant_has_its_colour_and_marker_whatever_stands_first_in_the_table(tmp_path):
    """And without runs, too: the others keep theirs."""
    variants = ["unet", "resunet", "gated_attention"]
    study = make_study(tmp_path, variants=variants, seeds=[0], epochs=2, test_ids=["a"])
    histories = read_histories(study)[::-1]
    histories = histories[histories["variant"] != "unet"]
    (axes,) = plot.draw_validation_dice(histories, variants).axes
    drawn = {
        (line.get_marker(), to_rgb(line.get_color()))
        for line in axes.lines
        if len(line.get_xdata()) == 2
    }
    own = looks(variants)
    assert drawn == {(own[name].marker, to_rgb(own[name].colour)) for name in variants[1:]}


def test_the_violins_stand_in_the_order_of_params_with_their_colours(tmp_path):
    variants = ["unet", "resunet"]
    study = make_study(tmp_path, variants=variants, seeds=[0])
    scores = read_scores(study, PreparedCases.open(study.prepared_dir))[::-1]
    (axes,) = plot.draw_dice_by_case(scores, variants).axes
    assert [text.get_text() for text in axes.get_yticklabels()] == variants
    for place, name in enumerate(variants):
        found = to_rgb(axes.collections[place].get_facecolor()[0])
        assert found == pytest.approx(to_rgb(looks(variants)[name].colour))


def test_masks_are_the_unpacked_predictions_of_the_named_cases(tmp_path):
    study = make_study(tmp_path, test_ids=["a", "b", "c"])
    cases = PreparedCases.open(study.prepared_dir)
    masks = plot.predicted_masks(study, cases, ["c", "a"])
    packed = np.load(study.evaluation_dir("resunet", 1) / "predictions.npy")
    assert set(masks) == {(run.variant, run.seed) for run in study.runs()}
    for id, row in (("c", 2), ("a", 0)):
        expected = np.unpackbits(packed[row], axis=-1)
        np.testing.assert_array_equal(masks["resunet", 1][id], expected)


def test_folds_make_one_table_of_scores_and_one_curve_a_seed(tmp_path):
    study = make_study(tmp_path, test_ids=["a", "b", "c"], seeds=[0, 1], folds=3, epochs=2)
    cases = PreparedCases.open(study.prepared_dir)
    scores = read_scores(study, cases)
    for _, of_run in scores.groupby(["variant", "seed"]):
        assert sorted(of_run["id"]) == sorted(cases.table["id"])
    histories = read_histories(study)
    assert len(histories) == 2 * 2 * 2  # variants, seeds, epochs
    of_folds = [
        pd.read_csv(study.run_dir("resunet", 1, fold) / "history.csv")["validation_bce"][0]
        for fold in range(3)
    ]
    chosen = histories.query("variant == 'resunet' and seed == 1 and epoch == 1")
    assert chosen["validation_bce"].item() == pytest.approx(np.mean(of_folds))


def test_a_study_of_folds_is_drawn(tmp_path, monkeypatch):
    study = make_study(tmp_path, test_ids=["a", "b", "c"], folds=3)
    draw(study, monkeypatch)
    assert (study.reports_dir / "figures" / "examples.png").is_file()


def test_titles_of_narrow_pictures_do_not_run_into_each_other():
    ids = [f"hippocampus_{number:03d}" for number in range(6)]
    table = pd.DataFrame({"id": ids, "split": "test", "height": 60, "width": 30})
    masks = np.zeros((6, 32, 32), np.uint8)
    cases = PreparedCases(np.zeros((6, 32, 32, 3), np.uint8), masks, table, fingerprint="")
    scores = pd.DataFrame({"variant": "unet", "id": ids, "dice": 0.8})
    examples = [ExampleCase("median", id, 0.858) for id in ids]
    predicted = {("unet", 0): dict(zip(ids, masks, strict=True))}
    figure = plot.draw_examples(examples, cases, scores, predicted, "stretch", ["unet"])
    FigureCanvasAgg(figure).draw()
    boxes = [ax.title.get_window_extent() for ax in figure.axes if ax.get_title()]
    assert len(boxes) == 6
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def test_the_contour_of_a_mask_that_fills_the_image_is_drawn_at_the_rim():
    ax = plot.Figure().subplots()
    plot.draw_contour(ax, np.ones((8, 8), np.uint8), plot.TRUTH_COLOUR)
    (path,) = ax.collections[0].get_paths()
    assert path.vertices.min() < 0
    assert path.vertices.max() > 7


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("history.csv", "train"),
        ("evaluation/cases.csv", "evaluate"),
        ("evaluation/predictions.npy", "evaluate"),
    ],
)
def test_a_missing_run_output_is_named_with_its_stage(tmp_path, monkeypatch, name, stage):
    study = make_study(tmp_path)
    (study.run_dir("resunet", 1) / name).unlink()
    with pytest.raises(UserError, match=rf"runs/resunet/1/0/{name} .*run the stage {stage}"):
        draw(study, monkeypatch)
    assert not (study.reports_dir / "figures").exists()


def test_scores_of_other_cases_than_the_prepared_are_refused(tmp_path):
    study = make_study(tmp_path, test_ids=["a", "b"])
    path = study.evaluation_dir("resunet", 0) / "cases.csv"
    path.write_text(path.read_text().replace("\nb,", "\nz,"))
    with pytest.raises(UserError, match=r"cases\.csv does not hold the 2 prepared test cases"):
        read_scores(study, PreparedCases.open(study.prepared_dir))


def test_the_stage_imports_neither_torch_nor_mlflow():
    check = (
        "import sys, pipeline.plot; "
        "sys.exit(', '.join({'torch', 'mlflow'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", check], cwd=REPOSITORY, check=True)


def test_each_setting_is_drawn_and_the_best_by_validation(tmp_path, monkeypatch):
    rates = [{"optimizer": {"learning_rate": rate}} for rate in (3e-4, 3e-3)]
    study = make_study(
        tmp_path,
        variants=["gated_attention", "resunet"],
        seeds=list(range(7)),
        settings={"resunet": rates},
    )
    monkeypatch.chdir(study.folder)
    compare.main()
    results = load_results(study.results_file)
    figure = draw_settings(results)
    told = [text.get_text() for text in figure.axes[0].texts]
    names = [name for name in told if name in (*study.variants, AT_BEST)]
    assert names == [
        "gated_attention", "gated_attention", AT_BEST,
        "resunet", "resunet", "resunet1", "resunet2", AT_BEST,
    ]  # fmt: skip
    chosen = [text.rpartition("chosen ")[2] for text in told if "chosen" in text]
    counts = [found.chosen[name] for found in results.tuning.variants for name in found.settings]
    assert chosen == [f"{count} of 7" for count in counts]
    drawn = {
        kind: [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_marker() == kind]
        for kind in ("o", "d")
    }
    settings = [name for found in results.tuning.variants for name in found.settings]
    own = [results.estimate(name, "dice") for name in settings]
    assert drawn["o"] == [found.typical for found in own]
    assert drawn["d"] == [found.typical for found in results.tuning.variants]
    ends = [tuple(line.get_xdata()) for line in figure.axes[0].lines if len(line.get_xdata()) == 2]
    intervals = [found.interval for found in own], [f.interval for f in results.tuning.variants]
    assert set(ends) == {(each.low, each.high) for kind in intervals for each in kind}
    (lost, *rest) = results.tuning.variants
    lost = lost.model_copy(update={"typical": None, "interval": None})
    tuning = results.tuning.model_copy(update={"variants": [lost, *rest]})
    figure = draw_settings(results.model_copy(update={"tuning": tuning}))
    assert "no figure" in [text.get_text() for text in figure.axes[0].texts]
    assert draw_settings(results.model_copy(update={"tuning": None})) is None
