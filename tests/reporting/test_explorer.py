"""reporting/explorer.py: what the fragment holds, and in a browser what its users can do."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from browser import visit
from fake_study import NASTY_IDS, make_study
from made_results import SEVEN, make_results
from PIL import Image

from pipeline.data.synthetic import draw_case
from pipeline.engine.prepared import PreparedCases
from pipeline.reporting import explorer as explorer_module
from pipeline.reporting.explorer import border, collect, explorer, webp
from pipeline.statistics.runs import read_predictions
from pipeline.study.errors import UserError

HOSTILE = "</script><script>alert(1)</script>"
IDS = ("ISIC_0000003", "ISIC_0000001", "ISIC_0000002", "other-1", HOSTILE, NASTY_IDS[4])
TWO = ("resunet", "unet")
PARTS = """
const part = (name) => document.getElementById(`explorer-${name}`);
const set = (name, value) => {
  part(name).value = value;
  part(name).dispatchEvent(new Event("input", { bubbles: true }));
};
const listed = () => [...document.querySelectorAll("#explorer-cases strong")].map(
  (name) => name.textContent);
const press = (key) => document.activeElement.dispatchEvent(
  new KeyboardEvent("keydown", { key, bubbles: true }));
const click = (id) => [...document.querySelectorAll("#explorer-cases button")].find(
  (button) => button.querySelector("strong").textContent === id).click();
const panels = () => [...document.querySelectorAll("#explorer-panels figure")];
const pause = () => new Promise((done) => setTimeout(done, 50));
"""


def disc(side, radius, across=0):
    y, x = np.mgrid[:side, :side]
    middle = side // 2
    return ((x - middle - across) ** 2 + (y - middle) ** 2 <= radius**2).astype(np.uint8)


def make(ids=IDS, variants=TWO, *, seeds=2, side=32, failed=None):
    """Arguments of `explorer`: discs of growing area; the last case has no lesion."""
    results = make_results(variants, seeds=seeds, ids=ids, failed=failed)
    masks = np.stack([disc(side, 3 + index) for index in range(len(ids))])
    masks[-1] = 0
    share = [round(float(mask.mean()), 6) for mask in masks]
    results = results.model_copy(
        update={"cases": results.cases.model_copy(update={"lesion_share": share})}
    )
    images = np.random.default_rng(0).integers(100, 200, (*masks.shape, 3), np.uint8)
    # Other cases come first: the test cases are found by id, not by place.
    table = pd.DataFrame({"id": ["training-1", *ids], "width": 4 * side, "height": 3 * side})
    cases = PreparedCases(
        np.concatenate([images[:1], images]), np.concatenate([masks[:1], masks]), table, ""
    )
    predictions = {name: np.packbits(np.roll(masks, 2, axis=2), axis=-1) for name in variants}
    return results, cases, predictions, 0, "stretch"


def page(fragment):
    """A page around the fragment with the report's own style."""
    report = Path(explorer_module.__file__).with_name("page.html").read_text(encoding="utf-8")
    style = re.search(r"<style>.*?</style>", report, re.DOTALL)[0]
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width, initial-scale=1"><title>Explorer</title>{style}</head>'
        f"<body><main>{fragment}</main></body></html>"
    )


def use(tmp_path, script, *, width=1400, **arguments):
    return visit(page(explorer(*make(**arguments))), tmp_path, PARTS + script, width=width)


# ---- the data


def drawn(path, side):
    """The mask that an SVG path of whole relative steps encloses, holes left out."""
    mask = np.zeros((side, side), np.uint8)
    for line in filter(None, path.split("z")):
        numbers = [int(number) for number in re.findall(r"-?\d+", line)]
        points = np.cumsum(np.reshape(numbers, (-1, 2)), axis=0)
        cv2.fillPoly(mask, [points], 1)
    return mask


def test_a_border_goes_through_the_outermost_pixels():
    mask = np.zeros((64, 64), np.uint8)
    mask[10:20, 5:30] = 1
    assert border(mask) == "M5 10l0 9 24 0 0-9z"


def test_a_simplified_border_strays_by_no_more_than_the_tolerance():
    mask = disc(256, 80)
    path = border(mask)
    assert len(path) < 300
    strayed = cv2.distanceTransform(1 - cv2.Canny(255 * mask, 1, 2) // 255, cv2.DIST_L2, 5)
    assert strayed[drawn(path, 256) != mask].max(initial=0) <= 2


def test_an_empty_mask_has_no_border_and_a_pixel_a_dot():
    mask = np.zeros((32, 32), np.uint8)
    assert border(mask) == ""
    mask[7, 5] = 1
    assert border(mask) == "M5 7z"


def test_a_hole_has_a_border_of_its_own():
    assert border(disc(64, 20) - disc(64, 8)).count("M") == 2


def test_of_a_thousand_specks_the_largest_are_drawn():
    specks = np.zeros((256, 256), np.uint8)
    specks[::4, ::4] = 1
    specks[100:150, 100:150] = 1
    path = border(specks)
    assert path.count("M") == explorer_module.LARGEST
    assert "M100 100" in path


@pytest.mark.parametrize(
    ("proportion", "size"), [(4 / 3, (64, 48)), (0.5, (32, 64)), (1.0, (64, 64))]
)
def test_an_image_has_the_originals_proportions(proportion, size):
    content = base64.b64decode(webp(np.zeros((256, 256, 3), np.uint8), proportion, 64))
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "WEBP"
        assert image.size == size


def test_the_data_is_that_of_the_test_cases_in_their_order():
    results, cases, predictions, seed, resize = make()
    data = collect(results, cases, predictions, seed, resize)
    assert data["ids"] == list(IDS)
    assert data["variants"] == list(TWO)
    assert data["failed"] == [False, False]
    assert data["proportions"] == [1.3333] * len(IDS)
    for place, name in enumerate(TWO):
        dice = results.cases.dice[name]
        np.testing.assert_allclose(
            data["dice"][place], np.mean([dice["0"], dice["1"]], axis=0), atol=1e-4
        )
        np.testing.assert_allclose(data["diceOfSeed"][place], dice["0"], atol=1e-4)
    assert data["truth"][0] == border(disc(32, 3))
    assert data["predicted"][1][0] == border(disc(32, 3, across=2))
    assert data["truth"][-1] == data["predicted"][0][-1] == ""


def test_the_run_that_is_shown_is_told_of_where_it_failed():
    data = collect(*make(seeds=7, failed={TWO[0]: [3], TWO[1]: [0, 5]}))
    assert (data["seed"], data["failed"]) == (0, [False, True])


def test_a_case_without_a_value_with_some_seed_has_no_mean():
    results, *others = make()
    dice = {"0": [None] * len(IDS), "1": [0.5] * len(IDS)}
    changed = results.cases.model_copy(update={"dice": results.cases.dice | {"unet": dice}})
    data = collect(results.model_copy(update={"cases": changed}), *others)
    assert data["dice"][1] == [None] * len(IDS)
    assert "NaN" not in explorer(results.model_copy(update={"cases": changed}), *others)


def test_of_too_many_cases_those_that_variants_disagree_on_are_kept(monkeypatch):
    monkeypatch.setattr(explorer_module, "MOST_CASES", 2)
    results, *others = make()
    disagreement = [0.1, 0.3, None, 0.0, 0.2, 0.0]
    changed = results.cases.model_copy(update={"disagreement": disagreement})
    results = results.model_copy(update={"cases": changed})
    assert collect(results, *others)["ids"] == [IDS[1], IDS[4]]
    assert "Of 6 cases these are the 2" in explorer(results, *others)


@pytest.mark.slow
def test_predictions_are_those_of_one_seed_in_the_order_of_the_ids(tmp_path):
    study = make_study(tmp_path, test_ids=["a", "b", "c"])
    packed = read_predictions(study, PreparedCases.open(study.prepared_dir), ["c", "a"], 1)
    assert list(packed) == study.variants
    for name in study.variants:
        whole = np.load(study.evaluation_dir(name, 1) / "predictions.npy")
        np.testing.assert_array_equal(packed[name], whole[[2, 0]])


@pytest.mark.slow
def test_each_case_has_the_prediction_of_the_fold_that_tested_it(tmp_path):
    study = make_study(tmp_path, test_ids=["a", "b", "c"], folds=3)
    cases = PreparedCases.open(study.prepared_dir)
    packed = read_predictions(study, cases, cases.table["id"].tolist(), 0)
    for fold in range(3):
        of_fold = np.load(study.evaluation_dir("resunet", 0, fold) / "predictions.npy")
        np.testing.assert_array_equal(packed["resunet"][fold::3], of_fold)


@pytest.mark.slow
@pytest.mark.parametrize("content", [None, np.zeros((2, 8, 1), np.uint8)])
def test_predictions_that_are_missing_or_of_another_size_are_refused(tmp_path, content):
    study = make_study(tmp_path, test_ids=["a", "b"])
    path = study.evaluation_dir("resunet", 0) / "predictions.npy"
    path.unlink()
    if content is not None:
        np.save(path, content)
    with pytest.raises(UserError, match=r"predictions\.npy (is missing|must be) .*evaluate"):
        read_predictions(study, PreparedCases.open(study.prepared_dir), ["a"], 0)


def test_an_id_cannot_end_the_script_that_holds_it():
    arguments = make()
    fragment = explorer(*arguments)
    assert "<script>alert" not in fragment
    found = re.search(
        r'<script type="application/json" id="explorer-data">(.*?)</script>', fragment, re.DOTALL
    )
    assert json.loads(found[1]) == collect(*arguments)


@pytest.mark.slow
def test_a_thousand_cases_of_seven_variants_leave_room_on_a_page_of_8_mb(capsys):
    drawn = [draw_case(0, index, height=256, width=256) for index in range(10)]
    rng = np.random.default_rng(0)
    ids = [f"ISIC_{number:07}" for number in range(1000)]
    images = np.stack([image for image, _ in drawn])[np.arange(1000) % 10]
    masks = np.stack([mask for _, mask in drawn])[np.arange(1000) % 10]
    predictions = {
        name: np.packbits(np.stack([_ragged(mask, rng) for mask in masks[:40]]), axis=-1)[
            np.arange(1000) % 40
        ]
        for name in SEVEN
    }
    table = pd.DataFrame({"id": ids, "width": 1024, "height": 768})
    results = make_results(seeds=10, ids=ids)
    fragment = explorer(results, PreparedCases(images, masks, table, ""), predictions, 0, "stretch")
    size = len(fragment.encode()) / 1e6
    with capsys.disabled():
        print(f" explorer of 1,000 cases and 7 variants: {size:.1f} MB ", end="")
    assert size < 6


def _ragged(mask, rng):
    """A prediction: the mask with its border moved by smooth noise, finer and coarser."""
    inside, outside = (cv2.distanceTransform(part, cv2.DIST_L2, 3) for part in (mask, 1 - mask))
    noise = rng.normal(0, 1, mask.shape).astype(np.float32)
    coarse, fine = (cv2.GaussianBlur(noise, (0, 0), width) * 4 * width for width in (8, 1.2))
    return (inside - outside + coarse + fine > 0).astype(np.uint8)


# ---- in a browser


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_opens_without_errors_and_without_scrolling_sideways(tmp_path, width):
    script = """
    click("ISIC_0000001");
    return [innerWidth, document.documentElement.scrollWidth, listed().length, panels().length];
    """
    inner, scrolled, cases, panels = use(tmp_path, script, width=width, variants=SEVEN)
    assert inner == width
    assert scrolled <= width
    assert cases == len(IDS)
    assert panels == 2 + 7


def test_cases_are_sorted_by_each_key_both_ways(tmp_path):
    script = """
    const seen = {};
    for (const key of ["dice", "lesion", "disagreement", "id"]) {
      for (const order of ["1", "-1"]) {
        set("sort", key);
        set("order", order);
        seen[key + order] = listed();
      }
    }
    return seen;
    """
    seen = use(tmp_path, script)
    data = collect(*make())
    values = {
        "dice": dict(zip(IDS, np.mean(data["dice"], axis=0), strict=True)),
        "lesion": dict(zip(IDS, data["lesion"], strict=True)),
        "disagreement": dict(zip(IDS, data["disagreement"], strict=True)),
        "id": dict(zip(IDS, IDS, strict=True)),
    }
    for key, of_id in values.items():
        assert seen[f"{key}1"] == sorted(IDS, key=of_id.get)
        assert seen[f"{key}-1"] == sorted(IDS, key=of_id.get, reverse=True)


@pytest.mark.slow
def test_cases_are_sorted_by_the_dice_of_the_variant_that_is_chosen(tmp_path):
    seen = use(tmp_path, 'set("variant", "1"); return listed();')
    dice = dict(zip(IDS, collect(*make())["dice"][1], strict=True))
    assert seen == sorted(IDS, key=dice.get)


def test_cases_are_filtered_by_id_and_by_ranges_and_the_filters_are_reset(tmp_path):
    data = collect(*make())
    dice = np.mean(data["dice"], axis=0)
    middle = float(np.median(dice))
    script = f"""
    set("text", "isic_"); const text = listed();
    set("lesion-low", "4"); const both = [listed(), part("count").textContent];
    document.querySelector("#explorer-form [type=reset]").click();
    await pause();
    const all = part("count").textContent;
    set("dice-high", "{middle}"); const low = listed();
    set("dice-low", "2"); const none = [listed(), part("count").textContent];
    return {{ text, both, all, low, none }};
    """
    seen = use(tmp_path, script)
    assert sorted(seen["text"]) == sorted(IDS[:3])
    large = [id for id, share in zip(IDS[:3], data["lesion"], strict=False) if share >= 0.04]
    assert 0 < len(large) < 3
    assert sorted(seen["both"][0]) == sorted(large)
    assert seen["both"][1] == f"{len(large)} of 6 cases"
    assert seen["all"] == "6 of 6 cases"
    assert sorted(seen["low"]) == sorted(
        id for id, value in zip(IDS, dice, strict=True) if value <= middle
    )
    assert seen["none"] == [[], "0 of 6 cases"]


@pytest.mark.slow
def test_a_case_is_shown_with_truth_and_every_variants_prediction(tmp_path):
    script = """
    click("ISIC_0000003");
    return {
      title: part("title").textContent,
      focused: document.activeElement.id,
      panels: panels().map((panel) => [
        panel.querySelector("strong").textContent,
        [...panel.querySelectorAll("path")].map((path) => path.getAttribute("class")),
        panel.querySelector("svg").getBoundingClientRect().toJSON(),
      ]),
      path: document.querySelector(".predicted").getAttribute("d"),
      images: await Promise.all([...document.querySelectorAll("#explorer image")].map(
        (image) => new Promise((done) => {
          const copy = new Image();
          copy.onload = () => done(copy.naturalWidth);
          copy.onerror = () => done(0);
          copy.src = image.getAttribute("href");
        }))),
    };
    """
    seen = use(tmp_path, script)
    assert seen["title"] == "ISIC_0000003"
    assert seen["focused"] == "explorer-title"
    truth = ["rim", "truth"]
    assert [each[:2] for each in seen["panels"]] == [
        ["Image", []],
        ["Truth", truth],
        *([name, ["predicted", *truth]] for name in TWO),
    ]
    assert seen["path"] == collect(*make())["predicted"][0][0]
    for *_, box in seen["panels"]:
        assert box["width"] / box["height"] == pytest.approx(4 / 3, rel=0.02)
    assert min(seen["images"]) == 32


@pytest.mark.slow
def test_a_prediction_of_a_run_that_failed_says_so(tmp_path):
    script = """
    click("ISIC_0000003");
    return panels().map((panel) => panel.querySelector("figcaption").textContent);
    """
    *_, first, second = use(tmp_path, script, seeds=7, failed={TWO[1]: [0]})
    assert "failed" not in first
    assert re.search(r"Dice \d\.\d+ of a run that failed, mean over seeds", second)


@pytest.mark.slow
def test_a_case_is_opened_left_and_closed_by_the_keyboard(tmp_path):
    script = """
    set("sort", "id");
    const first = document.querySelector("#explorer-cases button");
    const reached = first.tabIndex === 0 && first.tagName === "BUTTON";
    first.focus(); first.click();  // what Enter does on a button
    const titles = [part("title").textContent];
    press("ArrowRight"); titles.push(part("title").textContent);
    press("ArrowLeft"); titles.push(part("title").textContent);
    press("ArrowLeft"); titles.push(part("title").textContent);
    press("Escape");
    return { reached, titles, hidden: part("case").hidden, focused: document.activeElement
      .querySelector("strong").textContent };
    """
    seen = use(tmp_path, script)
    first, second = sorted(IDS)[:2]
    assert seen["reached"]
    assert seen["titles"] == [first, second, first, first]
    assert seen["hidden"]
    assert seen["focused"] == first


def test_an_id_of_markup_is_shown_as_text(tmp_path):
    script = f"click({json.dumps(HOSTILE).replace('</', '<' + chr(92) + '/')});"
    seen = use(tmp_path, script + 'return [part("title").textContent, panels().length];')
    assert seen == [HOSTILE, 2 + 2]


@pytest.mark.slow
def test_a_long_list_grows_on_demand_and_by_leafing_through(tmp_path):
    ids = [f"case-{number:02}" for number in range(30)]
    script = """
    set("sort", "id");
    const before = [listed().length, part("more").hidden, part("count").textContent];
    click("case-23");
    press("ArrowRight");
    const leafed = [listed().length, part("title").textContent];
    set("order", "1");
    part("more").click();
    return { before, leafed, grown: listed().length, hidden: part("more").hidden };
    """
    seen = use(tmp_path, script, ids=ids, side=64)
    assert seen["before"] == [24, False, "30 of 30 cases, the first 24 listed"]
    assert seen["leafed"] == [30, "case-24"]
    assert seen["grown"] == 30
    assert seen["hidden"]
