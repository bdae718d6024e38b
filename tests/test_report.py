"""pipeline/report.py on made-up runs."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import yaml
from browser import visit
from fake_study import NASTY_IDS, REPOSITORY, make_study
from report_pages import write_reports

from pipeline import compare, report
from pipeline.engine.prepared import PreparedCases
from pipeline.reporting import writers
from pipeline.statistics.definitions import CASE_METRICS, METRICS, metrics_of
from pipeline.statistics.runs import read_scores
from pipeline.study.errors import UserError
from pipeline.study.reading import load_study
from pipeline.study.values import escape_markdown

pytestmark = pytest.mark.slow


def set_dice(study, values):
    """Give every case of a run (variant, seed) one Dice."""
    for run, value in values.items():
        path = study.evaluation_dir(*run) / "cases.csv"
        pd.read_csv(path, dtype={"id": str}).assign(dice=value).to_csv(path, index=False)


class Page(HTMLParser):
    """What the page refers to, what it says, and whether its tags close in order."""

    VOID = frozenset({"meta", "img", "wbr", "br", "link", "hr", "input"})

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.ids, self.words = [], [], [], []
        self.tags = set()
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "srcset", "data", "action", "poster"):
                self.addresses.append(value)
            if name == "id":
                self.ids.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def study(tmp_path):
    return make_study(tmp_path, variants=["gated_attention", "own-variant"], seeds=[0, 1])


def test_markdown_shows_mean_and_deviation_beside_the_papers_figures(study, monkeypatch):
    set_dice(study, {("gated_attention", 0): 0.8, ("gated_attention", 1): 0.9})
    set_dice(study, {("own-variant", 0): 0.7, ("own-variant", 1): 0.7})
    text = write_reports(study, monkeypatch)["table.md"]
    # Standard deviation of 0.8 and 0.9 with n - 1: 0.0707. Lowest and highest run, rank, and the
    # paper's Dice as it is printed.
    assert (
        "| gated_attention | U-Net + ResNet + GatedAttention (Model 1) | **0.8500 ± 0.0707** | "
        "0.8000 to 0.9000 | 1.00 | 0.856 | "
    ) in text
    assert "| own-variant | – | 0.7000 ± 0.0000 | 0.7000 to 0.7000 | 2.00 | – | " in text  # noqa: RUF001
    assert "**Two seeds: no conclusion can be drawn yet; at least seven are needed.**" in text
    assert "interval |" not in text
    assert "| gated_attention - own-variant | +" in text
    assert "Mean per-case Dice" in text


def test_every_markdown_row_has_as_many_cells_as_its_header(study, monkeypatch):
    text = write_reports(study, monkeypatch)["table.md"]
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_csv_has_the_means_and_deviations_over_seeds(study, monkeypatch):
    text = write_reports(study, monkeypatch)["table.csv"]
    rows = list(csv.DictReader(io.StringIO(text)))
    scores = read_scores(study, PreparedCases.open(study.prepared_dir))
    metrics = [name for name in metrics_of(study) if name in CASE_METRICS]
    runs = scores.groupby(["variant", "seed"])[metrics].mean()
    assert [row["variant"] for row in rows] == study.variants
    for row in rows:
        for metric in metrics:
            seeds = runs.loc[row["variant"], metric]
            mean, deviation = float(row[f"{metric}_mean"]), row[f"{metric}_standard_deviation"]
            assert mean == pytest.approx(seeds.mean(), abs=1e-6)
            assert float(deviation) == pytest.approx(seeds.std(ddof=1), abs=1e-6)
            typical = float(row[f"{metric}_typical"])
            assert typical == pytest.approx(mean, abs=1e-6)  # no run failed
            assert (row[f"{metric}_low"], row[f"{metric}_high"]) == ("", "")  # of two seeds none
        assert (row["seeds"], row["cases"]) == ("2", "5")
        # Of two runs none can be called failed.
        assert {row[name] for name in ("failed_runs", "failure_rate_low", "failure_rate_high")} == {
            ""
        }
    assert (rows[0]["dice_paper"], rows[1]["dice_paper"]) == ("0.856000", "")


def test_latex_is_booktabs_with_whole_rows_and_balanced_braces(study, monkeypatch):
    text = write_reports(study, monkeypatch)["table.tex"]
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 11
    assert r"gated\_attention & U-Net + ResNet + GatedAttention (Model 1) & " in text
    assert r"$\pm$" in text
    for columns, body in re.findall(
        r"begin\{tabular\}\{@\{\}(\w+)@\{\}\}(.*?)\\end\{tabular", text, flags=re.DOTALL
    ):
        for row in re.findall(r"^ +(.+) \\\\$", body, flags=re.MULTILINE):
            assert len(re.findall(r"(?<!\\)&", row)) == len(columns) - 1
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    body = re.sub(r"\\label\{[^}]*\}", "", body).replace("{!}{%", "{!}{")
    assert not re.search(r"(?<!\\)[_%#^~]", body)


def test_latex_escapes_every_special_character():
    assert writers.escape_latex(r"a_b & 5% #1 $x^2$ {~} \n") == (
        r"a\_b \& 5\% \#1 \$x\textasciicircum{}2\$ \{\textasciitilde{}\} \textbackslash{}n"
    )


def test_markdown_escapes_pipes_tags_and_emphasis_but_keeps_names():
    assert escape_markdown("a|b *c* <script> _d_ `e`") == (r"a\|b \*c\* \<script> \_d\_ \`e\`")
    assert escape_markdown("limit_encoder_attention") == "limit_encoder_attention"


def test_the_page_is_well_formed_and_loads_nothing(study, monkeypatch):
    text = write_reports(study, monkeypatch)["index.html"]
    found = Page(text)
    assert len(found.ids) == len(set(found.ids))
    assert not found.tags & {"link", "iframe", "object", "embed"}
    assert not re.search(r"<script[^>]* src=", text)
    for address in found.addresses:
        assert address.startswith(("data:image/", "#"))
        # The explorer's own addresses name no part of the page.
        assert address.startswith(("data:", "#case=", "#run=")) or address[1:] in found.ids
    assert not re.search(r"url\((?!#)", text)  # but of a part of the page itself
    assert "@import" not in text
    pictures = len(report.FIGURES) + 2  # the data card's contact sheet and lesion areas
    assert sum(address.startswith("data:") for address in found.addresses) == pictures


def test_every_number_is_of_results_json_and_the_data_card(study, monkeypatch):
    """The runs' own tables may be gone: only what explorer draws, the masks, is read from them."""
    written = write_reports(study, monkeypatch)
    for name in ("history.csv", "run.json", "cases.csv", "metrics.json"):
        for path in study.folder.glob(f"runs/**/{name}"):
            path.unlink()
    report.main()
    assert {path.name: path.read_text() for path in study.reports_dir.glob("*.*")} == written


def test_the_first_picture_is_of_every_run_and_links_to_its_cases(study, monkeypatch):
    page = write_reports(study, monkeypatch)["index.html"]
    first = page[page.index("<figure") : page.index("</figure>")]
    assert page.index('class="sentence"') < page.index(first) < page.index("<table")
    links = re.findall(r'href="#run=([^"]+)"', first)
    assert sorted(links) == [f"{run.variant},{run.seed}" for run in study.runs()]
    results = json.loads(study.results_file.read_text())
    told = re.findall(r'data-told="seed (\d): Dice ([\d.]+)"', first)
    assert len(told) == len(results["runs"])
    for (seed, text), run in zip(sorted(told), sorted(results["runs"], key=by_seed), strict=True):
        assert int(seed) == run["seed"]
        assert text == f"{run['metrics']['dice']:.{len(text.partition('.')[2])}f}"


def by_seed(run):
    return run["seed"], run["metrics"]["dice"]


def test_what_failed_means_is_told_by_its_drop(tmp_path, monkeypatch):
    study = make_study(tmp_path, seeds=list(range(7)))
    params = study.folder / "params.yaml"
    params.write_text(params.read_text().replace("failure_drop: 0.03", "failure_drop: 0.125"))
    page = write_reports(load_study(study.folder), monkeypatch)["index.html"]
    assert "by more than 0.125 and by more than four robust standard deviations" in page


def test_the_page_escapes_ids_and_facts_and_shows_them_whole(study, monkeypatch):
    text = write_reports(study, monkeypatch)["index.html"]
    words = " ".join(Page(text).words)
    assert all(case_id in words for case_id in NASTY_IDS)
    assert "cpu <2 cores> & more" in words
    assert "<script>alert" not in text


def test_the_page_holds_protocol_definitions_readings_environment_and_commands(study, monkeypatch):
    words = " ".join(Page(write_reports(study, monkeypatch)["index.html"]).words)
    assert (study.folder / "params.yaml").read_text() in words
    for name in metrics_of(study):
        assert METRICS[name].label in words
    assert "below 0.65" in words
    assert "a run more than 0.03 Dice below its variant's upper quartile has failed" in words
    assert "head: logits" in words
    assert "decoder_gates: true (gated_attention), false (own-variant)" in words
    assert "0123456789abcdef0123456789abcdef01234567" in words
    assert "dvc --cd studies/fake repro" in words
    assert "29.16 M" in words
    assert "Two seeds: no conclusion can be drawn yet" in words
    assert PreparedCases.open(study.prepared_dir).fingerprint in words


def change_params(study, **changes):
    path = study.folder / "params.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))
    return load_study(study.folder)


def test_without_a_paper_nothing_is_said_of_one(tmp_path, monkeypatch):
    study = make_study(tmp_path, variants=["gated_attention", "resunet"], seeds=list(range(7)))
    figures = study.reports_dir / "figures"
    reports = write_reports(study, monkeypatch)
    assert "Held against: Medical Image Segmentation Using U-Net" in reports["index.html"]
    assert "gated_attention > resunet" in reports["table.md"]
    assert all("paper" in reports[name] for name in ("table.md", "table.csv", "table.tex"))
    study = change_params(study, paper=None)
    shutil.rmtree(figures)
    monkeypatch.undo()
    bare = write_reports(study, monkeypatch)
    protocol = (study.folder / "params.yaml").read_text()
    assert "paper: null" in protocol
    page = bare["index.html"].replace("paper: null", "")
    for name, text in (bare | {"index.html": page}).items():
        found = re.findall(r".{30}paper.{30}", text, re.IGNORECASE)
        assert name == "results.json" or not found
    results = json.loads(bare["results.json"])
    assert (results["paper"], results["comparison"]["claims"]) == (None, [])
    assert not any("paper" in sentence for sentence in results["verdict"])
    assert {each["paper"] for each in results["estimates"]} == {None}


def test_a_paper_that_prints_other_metrics_has_them_beside_its_figures(tmp_path, monkeypatch):
    study = make_study(tmp_path, variants=["gated_attention", "resunet"], seeds=[0, 1])
    rows = {"resunet": {"label": "Net", "figures": {"dice": "84.8 %", "sensitivity": "0.9"}}}
    paper = {"title": "T", "reference": "R", "averaging": "pixels", "rows": rows}
    reports = write_reports(change_params(study, paper=paper), monkeypatch)
    header, _, *rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in reports["table.md"].splitlines()
        if line.startswith("|")
    ]
    found = dict(zip(header, rows[1], strict=True))
    assert found["Paper's row"] == "Net"
    assert (found["Pooled Dice, paper"], found["Sensitivity, paper"]) == ("84.8 %", "0.9")
    assert not {"Dice, paper", "IoU, paper"} & set(header)
    assert "Its Dice is of all pixels together" in reports["table.md"]
    assert "we take it for one" in reports["table.md"]


def test_a_choice_of_networks_is_told_where_a_variant_has_it(tmp_path):
    study = make_study(tmp_path, variants=["gated_attention", "resunet"])
    params = yaml.safe_load((study.folder / "params.yaml").read_text())
    own = {"family": "module", "file": "networks/own.py"}
    (study.folder / "networks").mkdir()
    (study.folder / "networks" / "own.py").write_text("def build(): ...")
    opened = {"head": "Not said.", "split": "Random.", "encoder": "Which one is not said."}
    paper = params["paper"] | {"leaves_open": opened}
    study = change_params(study, paper=paper)
    told = {each.topic: each for each in report.readings(study)}
    assert set(told) == {"Head", "Split", "encoder"}
    assert (told["Head"].used, told["Head"].other) == ("head: logits", "logits or relu")
    assert told["encoder"].other.endswith("resnet101 or plain")
    models = {"gated_attention": own, "resunet": own}
    study = change_params(study, models=models)
    assert [each.topic for each in report.readings(study)] == ["Split"]


def test_a_switch_with_two_values_names_the_variants_of_each(tmp_path):
    study = make_study(tmp_path, variants=["gated_attention", "resunet"])
    (gates,) = [each for each in report.readings(study) if each.topic == "Gates on the skips"]
    assert gates.used == "decoder_gates: true (gated_attention), false (resunet)"


def test_the_readings_and_the_caption_follow_the_training_protocol(tmp_path, monkeypatch):
    study = make_study(tmp_path, variants=["gated_attention", "resunet"], epochs=3)
    used = {reading.topic: reading.used for reading in report.readings(study)}
    assert used["Encoder's first weights"] == "weights: none; trained"
    assert used["Optimisation"] == (
        "BCE, adam, learning rate 0.001, constant, no weight decay, no clipping"
    )
    assert used["Weights that are evaluated"] == "those after the last epoch of 3"
    assert "training minimises BCE." in write_reports(study, monkeypatch)["index.html"]

    path = study.folder / "params.yaml"
    params = yaml.safe_load(path.read_text())
    for name in study.variants:
        params["models"][name]["weights"] = "imagenet"
    params["train"] |= {
        "loss": "bce_dice",
        "optimizer": {
            "method": "sgd",
            "learning_rate": 0.1,
            "encoder_learning_rate": None,
            "weight_decay": 0.0001,
            "momentum": 0.9,
            "nesterov": True,
        },
        "schedule": {"method": "cosine", "warmup_epochs": 1},
        "gradient_clip": 1.5,
        "early_stopping": 2,
        "select": "best_validation_dice",
        "freeze_encoder": True,
    }
    path.write_text(yaml.safe_dump(params))
    study = load_study(study.folder)
    used = {reading.topic: reading.used for reading in report.readings(study)}
    assert used["Encoder's first weights"] == (
        "weights: imagenet; frozen, BatchNorm statistics too; attention modules between its layers "
        "are trained"
    )
    assert used["Optimisation"] == (
        "BCE + Dice loss, sgd, learning rate 0.1, warmed up over 1 epoch, falling by a cosine, "
        "momentum 0.9 (Nesterov's), weight decay 0.0001, gradient norm clipped at 1.5"
    )
    assert used["Weights that are evaluated"] == (
        "those after the epoch of the best validation Dice (of equals the first); training ends "
        "after 2 epochs without a better validation Dice, at the latest after 3"
    )
    page = write_reports(study, monkeypatch)["index.html"]
    assert "training minimises BCE + Dice loss." in page
    assert "up to 3 epochs" in page

    own = {"epochs": 7, "loss": "focal", "early_stopping": None}
    params["models"]["resunet"]["train"] = own
    params["train"]["early_stopping"] = None
    path.write_text(yaml.safe_dump(params))
    study = load_study(study.folder)
    used = {reading.topic: reading.used for reading in report.readings(study)}
    assert used["Weights that are evaluated"] == (
        "those after the epoch of the best validation Dice (of equals the first) of 3 "
        "(gated_attention), those after the epoch of the best validation Dice (of equals the "
        "first) of 7 (resunet)"
    )
    assert report.epochs_of(study) == "3 to 7 epochs"
    page = write_reports(study, monkeypatch)["index.html"]
    assert "training minimises BCE + Dice loss or the focal loss." in page


def test_only_synthetic_studies_carry_the_banner(tmp_path, monkeypatch):
    synthetic = write_reports(make_study(tmp_path / "a", source="synthetic"), monkeypatch)
    real = write_reports(make_study(tmp_path / "b"), monkeypatch)
    for name in ("index.html", "table.md", "table.tex"):
        assert report.SYNTHETIC in synthetic[name]
        assert report.SYNTHETIC not in real[name]


def test_one_seed_has_no_deviation(tmp_path, monkeypatch):
    written = write_reports(make_study(tmp_path, seeds=[3]), monkeypatch)
    main = written["table.md"].split("\n\n")[5]
    assert re.search(r"\| 0\.\d{2,4} \| 0\.\d{2,4} to", main.replace("*", ""))
    assert "nan" not in written["table.md"].lower()
    assert "What another seed would give is in no interval" in written["index.html"]
    first = next(csv.DictReader(io.StringIO(written["table.csv"])))
    assert first["dice_standard_deviation"] == ""


def test_a_study_of_folds_counts_them_in_place_of_test_cases(tmp_path, monkeypatch):
    study = make_study(tmp_path, test_ids=["a", "b", "c"], folds=3)
    page = write_reports(study, monkeypatch)["index.html"]
    assert "3 folds</p>" in page
    assert '<th scope="row">fold 2</th>' in page


def test_cases_left_out_and_near_duplicates_across_splits_are_told_at_the_top(study, monkeypatch):
    path = study.prepared_dir / "card" / "card.json"
    card = json.loads(path.read_text())
    assert "were left out" not in write_reports(study, monkeypatch)["index.html"]
    card["cases_left_out"] = 7
    card["near_duplicates"] |= {"pairs_across_splits": 2, "test_cases_with_one_elsewhere": 3}
    path.write_text(json.dumps(card))
    words = " ".join(" ".join(Page(write_reports(study, monkeypatch)["index.html"]).words).split())
    assert "7 raw cases could not be used" in words
    assert "With a near-duplicate in another split: 3 test cases" in words


@pytest.mark.parametrize(
    ("folds", "divided", "said"),
    [
        (
            0,
            0,
            "7 groups of several cases, 18 cases in all; in no group of the file: 1 case; 0 groups "
            "divided between splits, 0 test cases with one in another split prepared",
        ),
        (
            0,
            2,
            "2 groups divided between splits, 3 test cases with one in another split: "
            "data/prepared/card/divided_groups.csv prepared",
        ),
        (3, 0, "in no group of the file: 1 case; never divided prepared"),
    ],
)
def test_known_groups_are_told_where_they_are_given(tmp_path, monkeypatch, folds, divided, said):
    study = make_study(tmp_path, variants=["unet"], test_ids=["a", "b", "c"], folds=folds)
    words = " ".join(" ".join(Page(write_reports(study, monkeypatch)["index.html"]).words).split())
    assert "known group" not in words
    path = study.prepared_dir / "card" / "card.json"
    card = json.loads(path.read_text())
    elsewhere = 3 if divided else 0
    card["known_groups"] = {
        "groups": 7,
        "cases": 18,
        "cases_without_group": 1,
        "groups_divided": divided,
        "test_cases_with_one_elsewhere": elsewhere,
    }
    path.write_text(json.dumps(card))
    words = " ".join(" ".join(Page(write_reports(study, monkeypatch)["index.html"]).words).split())
    assert said in words
    banner = "With a case of its known group in another split: 3 test cases. See What data?"
    assert (banner in words) == bool(divided)


def averaged_study(root, **changes):
    """A study of one variant whose averages have one value a case, Dice 0.8 and so on."""
    averages = {"averaging": ["seeds", "flips"], "seeds": list(range(7))}
    study = make_study(root, variants=["resunet"], **averages | changes)
    table = pd.read_csv(study.averaged_file("resunet"), dtype={"id": str, "seed": "Int64"})
    flips = table["averaging"] == "flips"
    values = {
        "dice": (0.8, 0.9),
        "iou": (0.7, 0.75),
        "focal_loss": (0.02, 0.01),
        "thresholded_jaccard": (0.6, 0.65),
        "brier": (0.05, 0.04),
    }
    for metric, (of_flips, of_seeds) in values.items():
        table[metric] = np.where(flips, of_flips, of_seeds)
    table.loc[flips & (table["seed"] == 1), "dice"] = 0.82
    table.to_csv(study.averaged_file("resunet"), index=False)
    set_dice(study, {("resunet", seed): 0.7 for seed in study.seeds})
    return study


@pytest.mark.filterwarnings("ignore:Precision loss")  # the runs are made alike
def test_averages_stand_below_their_variant_with_the_difference(tmp_path, monkeypatch):
    written = write_reports(averaged_study(tmp_path), monkeypatch)
    text = written["table.md"]
    header = (
        "| Variant | Dice | Difference | 95 % interval | IoU | Focal loss | Thresholded Jaccard | "
        "Brier score |"
    )
    block = text.partition(header)[2].split("\n")[2:5]
    # Four decimals where nothing varies.
    assert block[0].startswith("| resunet | 0.7000 ± 0.0000 | – | – | ")  # noqa: RUF001
    # Of seven seeds' gains, six 0.10 and one 0.12, one is left out at either end; and no case
    # differs. Mean 5.62 / 7, deviation 0.02 / sqrt(7).
    assert block[1] == (
        "| resunet, four flips | 0.8029 ± 0.0076 | +0.1000 | +0.1000 to +0.1000 | 0.70 ± 0.00 | "
        "0.020 ± 0.000 | 0.60 ± 0.00 | 0.050 ± 0.000 |"
    )
    assert block[2] == (
        "| resunet, all seeds | 0.9000 | +0.2000 | +0.2000 to +0.2000 | 0.75 | 0.010 | 0.65 | "
        "0.040 |"
    )
    assert "does not hold what other seeds would have given" in text
    assert "resunet, four flips & 0.8029" in written["table.tex"]
    assert "resunet, all seeds" in " ".join(Page(written["index.html"]).words)
    row = next(csv.DictReader(io.StringIO(written["table.csv"])))
    assert row["flips_dice_difference"] == "0.100000"
    assert row["seeds_dice_standard_deviation"] == ""
    assert float(row["flips_dice_difference_low"]) == pytest.approx(0.1, abs=1e-6)


def test_without_averaging_there_is_no_such_table(study, monkeypatch):
    assert "Averaged probabilities" not in write_reports(study, monkeypatch)["table.md"]


def test_one_variant_is_not_called_best(tmp_path, monkeypatch):
    written = write_reports(make_study(tmp_path, variants=["unet"]), monkeypatch)
    table = [line for line in written["table.md"].splitlines() if line.startswith("| unet")]
    # comparison, secondary metrics, boundary and calibration, native, thresholds, cost
    assert len(table) == 6
    assert "**" not in "".join(table)


def test_variants_that_read_the_same_are_both_bold(study, monkeypatch):
    set_dice(study, dict.fromkeys(study.runs(), 0.8) | {("own-variant", 1): 0.80000001})
    text = write_reports(study, monkeypatch)["table.md"]
    assert text.count("**0.8000 ± 0.0000**") == 2 * 2  # beside native Dice once more


def test_the_lowest_focal_loss_is_the_best(study, monkeypatch):
    for variant, loss in (("gated_attention", 0.3), ("own-variant", 0.1)):
        for seed in study.seeds:
            path = study.evaluation_dir(variant, seed) / "cases.csv"
            pd.read_csv(path, dtype={"id": str}).assign(focal_loss=loss).to_csv(path, index=False)
    text = write_reports(study, monkeypatch)["table.md"]
    assert "**0.1000 ± 0.0000**" in text
    assert "| 0.3000 ± 0.0000" in text


@pytest.mark.parametrize(
    ("commit", "told"),
    [
        ({"commit": "fedc", "dirty": True}, "fedc with uncommitted changes"),
        ({"commit": None, "dirty": None}, "not recorded, so that its sources cannot be told"),
    ],
)
def test_runs_of_two_commits_are_both_named_and_none_is_checked_out(
    study, monkeypatch, commit, told
):
    path = study.run_dir("own-variant", 1) / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | commit))
    words = " ".join(Page(write_reports(study, monkeypatch)["index.html"]).words)
    assert f"0123456789abcdef0123456789abcdef01234567; {told}" in words
    assert "git checkout" not in words


def test_a_run_json_without_facts_still_makes_a_page(study, monkeypatch):
    for run in study.runs():
        (study.run_dir(*run) / "run.json").write_text("{}")
    assert "index.html" in write_reports(study, monkeypatch)


@pytest.mark.parametrize(
    ("path", "stage"),
    [
        ("runs/own-variant/1/0/run.json", "train"),
        ("runs/own-variant/1/0/evaluation/cases.csv", "evaluate"),
        ("data/prepared/card/card.json", "preprocess"),
        ("data/prepared/card/contact_sheet.png", "preprocess"),
    ],
)
def test_a_missing_file_is_named_with_its_stage(study, monkeypatch, path, stage):
    (study.folder / path).unlink()
    with pytest.raises(UserError, match=rf"{path} .*run the stage {stage}"):
        write_reports(study, monkeypatch)


@pytest.mark.parametrize("width", [400, 1400])
def test_the_whole_page_opens_in_a_browser_and_shows_a_case(study, monkeypatch, tmp_path, width):
    text = write_reports(study, monkeypatch)["index.html"]
    script = """
    document.querySelector("#explorer-cases button").click();
    return {
      panels: document.querySelectorAll("#explorer-panels figure").length,
      broken: [...document.images].filter((image) => image.naturalWidth === 0).length,
      overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    };"""
    seen = visit(text, tmp_path, script, width=width)
    assert seen == {"panels": 4, "broken": 0, "overflow": 0}


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex (texlive-latex-base)")
def test_the_latex_tables_compile_with_booktabs(study, monkeypatch, tmp_path):
    table = write_reports(study, monkeypatch)["table.tex"]
    document = (
        r"\documentclass{article}\usepackage{booktabs}\usepackage{graphicx}\begin{document}"
        f"\n{table}\n" + r"\end{document}"
    )
    (tmp_path / "a.tex").write_text(document)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "a.pdf").stat().st_size > 10_000


def test_a_missing_figure_is_named_with_its_stage(study, monkeypatch):
    monkeypatch.chdir(study.folder)
    compare.main()
    with pytest.raises(UserError, match=r"figures/dice_by_case\.svg .*run the stage plot"):
        report.main()


def test_the_same_runs_give_the_same_reports(study, monkeypatch):
    assert write_reports(study, monkeypatch) == write_reports(study, monkeypatch)


def test_the_stage_imports_neither_torch_nor_mlflow():
    check = (
        "import sys, pipeline.report; "
        "sys.exit(', '.join({'torch', 'mlflow'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", check], cwd=REPOSITORY, check=True)
