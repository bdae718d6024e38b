"""study/params.py: a study loads as written, and a mistake in it costs one clear line."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY
from dvc.utils.serialize import load_yaml

from pipeline.statistics.runs import averages
from pipeline.study.blocks import SGD, Adam, Schedule
from pipeline.study.documents import read_yaml
from pipeline.study.errors import UserError
from pipeline.study.reading import load_study, parse_run
from pipeline.study.values import METRIC_NAMES as METRICS

COMMITTED = [
    *(Path(), Path("studies/demo"), Path("studies/isic-sample")),
    *(Path("studies/volumes-demo"), Path("studies/hippocampus")),
]
VARIANTS = (
    "limit_encoder_attention, encoder_attention, gated_attention, encoder_and_gated_attention, "
    "resunet, attention_unet, unet"
)
REMOVED = object()
ROOT = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
DIRECTORY = {"source": "directory", "raw": "raw", "on_problem": "stop"}


def demo_params() -> dict[str, Any]:
    params = yaml.safe_load((REPOSITORY / "studies" / "demo" / "params.yaml").read_text())
    # 1e-3 is text to the YAML 1.1 of safe_load.
    params["train"]["optimizer"]["learning_rate"] = 0.001
    return params


def put(params: dict[str, Any], key: str, value: Any) -> None:
    """Set, add or remove the dotted key."""
    *blocks, last = key.split(".")
    for block in blocks:
        params = params[block]
    if value is REMOVED:
        del params[last]
    else:
        params[last] = value


def told(folder: Path, **changes: Any) -> str:
    """What the user is told of the demo study with the changes; keys with dots."""
    params = demo_params()
    if any(key.startswith("paper.") for key in changes):  # the demo has none
        params |= {"data": DIRECTORY, "paper": copy.deepcopy(ROOT["paper"])}
    for key, value in changes.items():
        put(params, key, value)
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    with pytest.raises(UserError) as error:
        load_study(folder)
    return str(error.value)


@pytest.mark.parametrize("folder", COMMITTED, ids=str)
def test_a_committed_study_loads_with_its_runs_in_the_files_order(folder):
    study = load_study(REPOSITORY / folder)
    written = yaml.safe_load((REPOSITORY / folder / "params.yaml").read_text())
    assert study.runs() == [(v, s, 0) for v in written["variants"] for s in written["seeds"]]
    assert study.name == written["name"]


def test_the_root_study_is_the_papers_protocol():
    study = load_study(REPOSITORY)
    assert (study.prepare.height, study.prepare.width) == (256, 256)
    assert (study.train.epochs, study.train.batch_size) == (10, 16)
    assert study.train.loss == "bce"
    assert study.train.optimizer == Adam(
        method="adam", learning_rate=1e-3, encoder_learning_rate=None, weight_decay=0
    )
    assert study.train.schedule == Schedule(method="constant", warmup_epochs=0)
    assert (study.train.gradient_clip, study.train.early_stopping) == (None, None)
    assert (study.train.select, study.train.freeze_encoder) == ("last", False)
    assert study.models["limit_encoder_attention"].encoder_attention == (1, 2, 3)


def test_paths_are_relative_to_the_studys_folder(tmp_path):
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(demo_params()))
    study = load_study(tmp_path)
    assert study.raw_dir == tmp_path / "data" / "raw"
    assert study.evaluation_dir("unet", 1) == tmp_path / "runs/unet/1/0/evaluation"
    assert study.run_dir("unet", 1, 4) == tmp_path / "runs/unet/1/4"


WHOLE = "must be a whole number of at least 1"
MULTIPLE = "must be a multiple of 32 from 32 to 16384"
SEED = "must be a whole number from 0 to 4294967295"
NAME = "must be a name of letters, digits, - and _ that does not begin with -"
INSIDE = "must be a number greater than 0 and less than 1"
UNKNOWN = "is an unknown key; remove it or correct its spelling"
RANDOM = {"method": "random", "seed": 0, "training": 0.5, "validation": 0.1, "test": 0.1}
LIST = {"file": "list.txt", "sha256": "0" * 64}
GROUPS = {"file": "groups.csv", "sha256": "0" * 64, "id": "image_id", "column": "lesion_id"}
ISIC2018 = {
    "source": "isic2018",
    "raw": "data/raw",
    "on_problem": "stop",
    "archives": None,
    "keep_archives": False,
}
POSITIVE = "must be a finite number greater than 0"
ADAM = {
    "method": "adam",
    "learning_rate": 0.001,
    "encoder_learning_rate": None,
    "weight_decay": 0.0,
}
STOCHASTIC = ADAM | {"method": "sgd", "momentum": 0.9, "nesterov": False}


TRAIN = demo_params()["train"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        # a key too many, a key too few
        ("colour", "red", f"colour {UNKNOWN}"),
        ("train.momentum", 0.9, f"train.momentum {UNKNOWN}"),
        ("data.archive", "x.zip", f"data.archive {UNKNOWN}"),
        ("prepare.split.seed", 1, f"prepare.split.seed {UNKNOWN}"),
        ("models.unet.depht", 3, f"models.unet.depht {UNKNOWN}"),
        ("train.batch_size", REMOVED, "train.batch_size is missing"),
        ("train.loss", REMOVED, "train.loss is missing"),
        ("train.gradient_clip", REMOVED, "train.gradient_clip is missing"),
        (
            "train.optimizer.encoder_learning_rate",
            REMOVED,
            "train.optimizer.encoder_learning_rate is missing",
        ),
        ("train.optimizer.method", REMOVED, "train.optimizer.method is missing"),
        ("train.optimizer.momentum", 0.9, f"train.optimizer.momentum {UNKNOWN}"),
        (
            "train.optimizer",
            ADAM | {"method": "sgd", "momentum": 0.9},
            "train.optimizer.nesterov is missing",
        ),
        ("train.learning_rate", 0.001, f"train.learning_rate {UNKNOWN}"),
        ("focal", REMOVED, "focal is missing"),
        ("data.seed", REMOVED, "data.seed is missing"),
        ("data.source", REMOVED, "data.source is missing"),
        (
            "data",
            {"source": "isic2018", "raw": "x", "on_problem": "skip", "keep_archives": True},
            "data.archives is missing",
        ),
        ("prepare.split.method", REMOVED, "prepare.split.method is missing"),
        ("data.on_problem", REMOVED, "data.on_problem is missing"),
        ("data.on_problem", "ignore", "data.on_problem must be stop or skip, got 'ignore'"),
        (
            "prepare.resize",
            "crop",
            "prepare.resize must be stretch, center_crop or pad, got 'crop'",
        ),
        (
            "prepare.split",
            {"method": "folds", "k": 2, "seed": 0},
            "prepare.split.k must be a whole number of at least 3, got 2",
        ),
        (
            "prepare.split",
            {"method": "lists", "training": "a.txt", "validation": LIST, "test": LIST},
            "prepare.split.training must be a block of keys, got 'a.txt'",
        ),
        ("prepare.groups", REMOVED, "prepare.groups is missing"),
        ("prepare.groups", "a.csv", "prepare.groups must be a block of keys, got 'a.csv'"),
        ("prepare.groups", LIST | {"id": "image_id"}, "prepare.groups.column is missing"),
        ("prepare.groups", GROUPS | {"colunm": "x"}, f"prepare.groups.colunm {UNKNOWN}"),
        (
            "prepare.groups",
            GROUPS | {"id": ""},
            "prepare.groups.id must be a column's name, got ''",
        ),
        (
            "prepare.groups",
            GROUPS | {"column": 3},
            "prepare.groups.column must be a column's name, got 3",
        ),
        (
            "prepare.groups",
            GROUPS | {"column": "image_id"},
            "prepare.groups.column must be another column than prepare.groups.id, got 'image_id'",
        ),
        ("folds", [0, 1], "folds must be [0] with prepare.split.method official, got [0, 1]"),
        ("folds", [], "folds must be a list of at least one entry, got []"),
        # of the wrong type
        ("train.batch_size", "sixteen", f"train.batch_size {WHOLE}, got 'sixteen'"),
        ("train.batch_size", "16", f"train.batch_size {WHOLE}, got '16'"),
        ("train.batch_size", 1.5, f"train.batch_size {WHOLE}, got 1.5"),
        ("train.batch_size", True, f"train.batch_size {WHOLE}, got true"),
        ("train.batch_size", None, f"train.batch_size {WHOLE}, got nothing"),
        ("train.augmentation", None, "train.augmentation must be a list, got nothing"),
        ("train", None, "train must be a block of keys, got nothing"),
        ("prepare.split", "official", "prepare.split must be a block of keys, got 'official'"),
        ("data.raw", 3, "data.raw must be text, got 3"),
        ("tracking.live", "on", "tracking.live must be true or false, got 'on'"),
        ("tracking.required", 1, "tracking.required must be true or false, got 1"),
        ("train.deterministic", 0, "train.deterministic must be true or false, got 0"),
        ("seeds", 3, "seeds must be a list, got 3"),
        ("seeds", [0, "one"], f"seeds.1 {SEED}, got 'one'"),
        ("models.resunet", None, "models.resunet must be a block of keys, got nothing"),
        ("models.unet.plain_width", "x", "models.unet.plain_width must be a whole number, got 'x'"),
        *[
            (
                "models.unet.plain_width",
                width,
                f"models.unet.plain_width must be from 1 to 1024, got {width}",
            )
            for width in (0, 1025, 10**12)
        ],
        (
            "data",
            ISIC2018 | {"archives": 3},
            "data.archives must be a folder or null, got 3",
        ),
        (
            "data",
            ISIC2018 | {"keep_archives": "no"},
            "data.keep_archives must be true or false, got 'no'",
        ),
        # out of range
        ("train.batch_size", 0, f"train.batch_size {WHOLE}, got 0"),
        ("train.optimizer.learning_rate", 0, f"train.optimizer.learning_rate {POSITIVE}, got 0"),
        (
            "train.optimizer.learning_rate",
            float("nan"),
            f"train.optimizer.learning_rate {POSITIVE}, got nan",
        ),
        (
            "train.optimizer.encoder_learning_rate",
            -0.1,
            f"train.optimizer.encoder_learning_rate {POSITIVE}, or null, got -0.1",
        ),
        (
            "train.optimizer.weight_decay",
            -1,
            "train.optimizer.weight_decay must be a finite number of at least 0, got -1",
        ),
        (
            "train.optimizer",
            STOCHASTIC | {"momentum": 1},
            "train.optimizer.momentum must be a number of at least 0 and less than 1, got 1",
        ),
        (
            "train.schedule.warmup_epochs",
            0.5,
            "train.schedule.warmup_epochs must be a whole number of at least 0, got 0.5",
        ),
        ("train.gradient_clip", 0, f"train.gradient_clip {POSITIVE}, or null, got 0"),
        (
            "train.early_stopping",
            0,
            "train.early_stopping must be a whole number of at least 1, or null, got 0",
        ),
        (
            "focal.gamma",
            float("inf"),
            "focal.gamma must be a finite number of at least 0, got inf",
        ),
        ("focal.alpha", 1.5, "focal.alpha must be a number from 0 to 1, got 1.5"),
        ("evaluate.threshold", 1, f"evaluate.threshold {INSIDE}, got 1"),
        ("evaluate.threshold", float("nan"), f"evaluate.threshold {INSIDE}, got nan"),
        (
            "evaluate.resolution",
            "original",
            "evaluate.resolution must be network or native, got 'original'",
        ),
        (
            "evaluate.surface_tolerance",
            -1,
            "evaluate.surface_tolerance must be a finite number of at least 0, got -1",
        ),
        (
            "evaluate.calibration_bins",
            0,
            "evaluate.calibration_bins must be a whole number of at least 1, got 0",
        ),
        ("evaluate.external", None, "evaluate.external must be a list, got nothing"),
        (
            "evaluate.external",
            [{"name": "a", "raw": "x"}],
            "evaluate.external.0.on_problem is missing",
        ),
        (
            "evaluate.external",
            [{"name": "a", "raw": raw, "on_problem": "skip"} for raw in "xy"],
            "evaluate.external must name each once, got 'a' more than once",
        ),
        ("prepare.height", 100, f"prepare.height {MULTIPLE}, got 100"),
        ("prepare.width", 0, f"prepare.width {MULTIPLE}, got 0"),
        ("data.height", 31, "data.height must be a whole number from 32 to 16384, got 31"),
        ("seeds", [-1], f"seeds.0 {SEED}, got -1"),
        ("seeds", [2**32], f"seeds.0 {SEED}, got 4294967296"),
        ("seeds", [], "seeds must be a list of at least one entry, got []"),
        (
            "loader_workers",
            "many",
            "loader_workers must be auto or a whole number of at least 0, got 'many'",
        ),
        (
            "loader_workers",
            -1,
            "loader_workers must be auto or a whole number of at least 0, got -1",
        ),
        # not one of the names there are
        (
            "train.precision",
            "half",
            "train.precision must be auto, float32 or bfloat16, got 'half'",
        ),
        ("train.loss", "tversky", "train.loss must be bce, dice, bce_dice or focal, got 'tversky'"),
        (
            "train.optimizer.method",
            "lion",
            "train.optimizer.method must be adam, adamw or sgd, got 'lion'",
        ),
        (
            "train.schedule.method",
            "step",
            "train.schedule.method must be constant or cosine, got 'step'",
        ),
        (
            "train.select",
            "best",
            "train.select must be last or best_validation_dice, got 'best'",
        ),
        ("data.source", "web", "data.source must be isic2018, directory or synthetic, got 'web'"),
        ("data.source", None, "data.source must be isic2018, directory or synthetic, got nothing"),
        (
            "prepare.split.method",
            "stratified",
            "prepare.split.method must be official, random, folds or lists, got 'stratified'",
        ),
        (
            "models.unet.encoder",
            "vgg",
            "models.unet.encoder must be resnet18, resnet34, resnet50, resnet101 or plain, "
            "got 'vgg'",
        ),
        # variants and seeds
        ("averaging", REMOVED, "averaging is missing"),
        ("averaging", "flips", "averaging must be a list, got 'flips'"),
        (
            "averaging",
            ["turns"],
            "averaging.0 must be flips, seeds or seeds_and_flips, got 'turns'",
        ),
        (
            "averaging",
            ["flips", "flips"],
            "averaging must name each once, got 'flips' more than once",
        ),
        ("export", None, "export must be a list, got nothing"),
        ("export", ["big"], f"export must be among variants ({VARIANTS}), got 'big'"),
        ("export", ["unet"] * 2, "export must name each once, got 'unet' more than once"),
        ("seeds", [0, 1, 0], "seeds must name each once, got 0 more than once"),
        ("variants", ["unet", "unet"], "variants must name each once, got 'unet' more than once"),
        (
            "variants",
            ["unet", "big"],
            f"variants must be entries under models ({VARIANTS}), got 'big'",
        ),
        ("variants", ["a/b"], f"variants.0 {NAME}, got 'a/b'"),
        ("variants", ["a b"], f"variants.0 {NAME}, got 'a b'"),
        ("variants", ["-x"], f"variants.0 {NAME}, got '-x'"),
        ("models.--help", {}, f"models.--help {NAME}, got '--help'"),
        ("prepare.height", 10**9, f"prepare.height {MULTIPLE}, got 1000000000"),
        ("models.a/b", {}, f"models.a/b {NAME}, got 'a/b'"),
        ("name", "a study", f"name {NAME}, got 'a study'"),
        # the paper
        ("paper", REMOVED, "paper is missing"),
        (
            "paper",
            ROOT["paper"],
            "paper must be null where data.source is synthetic: drawn lesions say nothing of a "
            "paper",
        ),
        ("paper.title", REMOVED, "paper.title is missing"),
        ("paper.average", "cases", f"paper.average {UNKNOWN}"),
        ("paper.averaging", "mean", "paper.averaging must be cases or pixels, got 'mean'"),
        ("paper.runs", 0, "paper.runs must be a whole number of at least 1, got 0"),
        (
            "paper.rows.unet.figures",
            {"dice": 0.866},
            "paper.rows.unet.figures.dice must be a figure in quotes, as printed, such as "
            '"0.8660" or "86.6 %", got 0.866',
        ),
        (
            "paper.rows.unet.figures",
            {"dcie": "0.866"},
            f"paper.rows.unet.figures must be of metrics ({', '.join(METRICS)}), got 'dcie'",
        ),
        (
            "paper.rows.unet.figures",
            {"dice": "86.6"},
            "paper.rows.unet.figures.dice must be from 0 to 1, or have a % sign, got '86.6'",
        ),
        (
            "paper.rows.big",
            {"label": "Big U-Net"},
            f"paper.rows must name entries under models ({VARIANTS}), got 'big'; take it out, or "
            "set paper to null",
        ),
        (
            "paper.claims",
            ["unet > big"],
            f"paper.claims must name entries under models ({VARIANTS}), got 'big'; take it out, or "
            "set paper to null",
        ),
        (
            "paper.claims",
            ["unet > resunet > unet"],
            "paper.claims must name each variant once in an ordering, got 'unet > resunet > unet'",
        ),
        (
            "paper.claims",
            ["unet"],
            "paper.claims must be orderings of two variants or more, such as a > b, got 'unet'",
        ),
        (
            "paper.leaves_open.haed",
            "Nothing.",
            "paper.leaves_open must name choices (optimisation, select, split, resize, focal, "
            "averaging, seeds, failures, or a key that networks have under models), got 'haed'",
        ),
        ("factors", None, "factors must be a block of keys, got nothing"),
        (
            "factors",
            {"big": []},
            f"factors must name entries under models ({VARIANTS}), got 'big'",
        ),
        ("factors", {"unet": []}, "factors must name a factor, got variants that have none"),
        (
            "factors.resunet",
            ["gates"],
            "factors must be crossed, one variant for each combination of gates, encoder "
            "attention: none of them is missing",
        ),
        (
            "factors.unet",
            ["gates"],
            "factors must be crossed, one variant for each combination of gates, encoder "
            "attention: gates is there 2 times",
        ),
        (
            "factors.resunet",
            ["gates", "gates"],
            "factors.resunet must name each once, got 'gates' more than once",
        ),
        # what a block asks of its keys together
        (
            "models.resunet.encoder_attention",
            [1, 5],
            "models.resunet.encoder_attention.1 must be 1, 2, 3 or 4, got 5",
        ),
        (
            "models.resunet.encoder_attention",
            [1, 1],
            "models.resunet.encoder_attention must name each layer once, got [1, 1]",
        ),
        (
            "models.unet.weights",
            "imagenet",
            "models.unet.weights must be 'none' with encoder 'plain': no pretrained weights fit "
            "it, got 'imagenet'",
        ),
        (
            "prepare.split",
            RANDOM,
            "prepare.split must have training + validation + test = 1, got 0.7",
        ),
        (
            "train.schedule.warmup_epochs",
            6,  # the demo's epochs
            "train.schedule.warmup_epochs must be less than train.epochs, 6, got 6",
        ),
        (
            "train.early_stopping",
            6,
            "train.early_stopping must be less than train.epochs, 6, or null, got 6",
        ),
        (
            "train.optimizer",
            STOCHASTIC | {"momentum": 0, "nesterov": True},
            "train.optimizer.nesterov must be false with momentum 0, got true",
        ),
        (
            "train",
            TRAIN | {"freeze_encoder": True, "optimizer": ADAM | {"encoder_learning_rate": 0.1}},
            "train.freeze_encoder must be false with train.optimizer.encoder_learning_rate 0.1 "
            "(null it, or train the encoder), got true",
        ),
        (
            "prepare.split",
            RANDOM | {"test": 0},
            f"prepare.split.test {INSIDE}, got 0",
        ),
        # transforms
        (
            "train.augmentation",
            [{"HorizontalFlop": {}}],
            "train.augmentation must name transforms of albumentations, got 'HorizontalFlop'",
        ),
        (
            "train.augmentation",
            [{"Compose": {}}],
            "train.augmentation must name transforms of albumentations, got 'Compose'",
        ),
        (
            "train.augmentation",
            [{"Rotate": {}, "Blur": {}}],
            "train.augmentation must be a list of single entries such as HorizontalFlip: {p: 0.5}, "
            "got {'Rotate': {}, 'Blur': {}}",
        ),
        (
            "train.augmentation",
            ["HorizontalFlip"],
            "train.augmentation.0 must be a block of keys, got 'HorizontalFlip'",
        ),
        (
            "train.augmentation",
            [{"HorizontalFlip": None}],
            "train.augmentation.0.HorizontalFlip must be a block of keys, got nothing",
        ),
    ],
)
def test_a_mistake_is_told_in_one_line_of_key_expectation_and_value(tmp_path, key, value, message):
    assert told(tmp_path, **{key: value}) == f"{tmp_path}/params.yaml: {message}"


def test_pictures_have_no_depth_and_volumes_have_one(tmp_path):
    deep = {"prepare.depth": 32, "prepare.foreground": "nonzero", "prepare.near_duplicates": None}
    where = f"{tmp_path}/params.yaml: prepare must have"
    of_data = f"{where} a depth where data has one, and only there"
    assert told(tmp_path, **deep) == f"{of_data}, got prepare.depth 32 with data.depth null"
    drawn = told(tmp_path, **{"data.depth": 16})
    assert drawn == f"{of_data}, got prepare.depth null with data.depth 16"
    data = {"source": "isic2018", "raw": "data/raw", "on_problem": "stop"}
    data |= {"archives": None, "keep_archives": False}
    assert told(tmp_path, data=data, **deep) == (
        f"{where} no depth with data.source isic2018, whose cases are pictures, "
        "got prepare.depth 32"
    )


@pytest.mark.parametrize("name", ["random", "synthetic", "int", "test"])
def test_a_model_named_like_a_kind_of_block_keeps_its_name_in_the_message(tmp_path, name):
    message = told(tmp_path, **{f"models.{name}": {"encoder": "vgg"}})
    assert message.startswith(f"{tmp_path}/params.yaml: models.{name}.encoder must be ")


def test_a_long_value_is_cut(tmp_path):
    message = told(tmp_path, **{"train.epochs": list(range(1000))})
    assert message.endswith("got [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16...")


def test_all_mistakes_are_told_at_once(tmp_path):
    message = told(
        tmp_path,
        **{
            "colour": "red",
            "train.batch_size": "sixteen",
            "seeds": [0, 0],
            "variants": ["big"],
            "focal.alpha": REMOVED,
            "prepare.height": 100,
        },
    )
    keys = [line.split("params.yaml: ")[1].split()[0] for line in message.splitlines()]
    assert sorted(keys) == [
        "colour",
        "focal.alpha",
        "prepare.height",
        "seeds",
        "train.batch_size",
        "variants",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": the file must be a block of keys, got nothing"),
        ("# a comment alone\n", ": the file must be a block of keys, got nothing"),
        ("- a\n- list\n", ": the file must be a block of keys, got ['a', 'list']"),
        (
            "name: a: b\n",
            " is not valid YAML at line 1, column 8: mapping values are not allowed here",
        ),
        (
            "seeds: [0, 1\nname: x\n",
            " is not valid YAML at line 2, column 5: expected ',' or ']', but got ':'",
        ),
        (
            "train:\n\tepochs: 1\n",
            " is not valid YAML at line 2, column 1: found character '\\t' that cannot start any "
            "token",
        ),
    ],
)
def test_a_file_that_is_no_study_is_told_with_the_place(tmp_path, text, message):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        load_study(tmp_path)
    assert str(error.value) == f"{tmp_path}/params.yaml{message}"


def test_bytes_that_are_no_text_are_told(tmp_path):
    (tmp_path / "params.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"params.yaml is not valid YAML: 'utf-8' codec"):
        load_study(tmp_path)


def with_seeds(folder: Path, seeds: str, more: str = "") -> Path:
    """The demo's params.yaml with another line of seeds, and further lines."""
    text = (REPOSITORY / "studies" / "demo" / "params.yaml").read_text()
    changed = re.sub(r"(?m)^seeds: .*$", lambda _: f"seeds: {seeds}{more}", text)
    assert changed != text
    (folder / "params.yaml").write_text(changed)
    return folder / "params.yaml"


@pytest.mark.parametrize(
    "written",
    ["[010, 08]", "[0o10, 0x1F]", "[0b11, +1, -0]", "[1_000, 1]", "&all [3, 4]", "[!!int '7', 1]"],
)
def test_numbers_are_those_that_dvc_reads(tmp_path, written):
    path = with_seeds(tmp_path, written)
    assert load_study(tmp_path).seeds == load_yaml(str(path))["seeds"]


@pytest.mark.parametrize(
    "value",
    ["1:30", "01:30:00", "yes", "off", "n", "2020-01-01 x", "._5", "0.1_0", "1e3", ".inf", "0o8"],
)
def test_a_document_is_what_dvc_reads(tmp_path, value):
    (tmp_path / "any.yaml").write_text(f"base: &base {{a: 1}}\nown: {{<<: *base, b: {value}}}\n")
    assert read_yaml(tmp_path / "any.yaml") == load_yaml(str(tmp_path / "any.yaml"))


HALVES = "\n".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40))
MERGED = "\n".join(f"a{n}: &a{n} {{<<: [{', '.join(9 * [f'*a{n - 1}'])}]}}" for n in range(1, 12))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (f"\na0: &a0 [x, x]\n{HALVES}", "has more than 100000 values: let its aliases repeat"),
        (f"\na0: &a0 {{x: 1, y: 2}}\n{MERGED}", "has more than 100000 values: let its aliases"),
        (f"\nb: !!pairs [x: &a0 [x, x]]\n{HALVES}", r"line \d+: values must be text, .*:pairs"),
        ("\nb: &b [*b]", r"line \d+: a block holds itself: take the alias out"),
        ("\nb: &b {c: *b}", r"line \d+: a block holds itself: take the alias out"),
        ("\nb: &b {<<: *b}", r"line \d+: a block holds itself: take the alias out"),
        ("\nb: " + 60 * "[" + 60 * "]", r"line \d+: more than 50 blocks within blocks"),
        ("\nb: " + 100_000 * "[", "too many blocks within blocks"),
        ("\nb: " + 5000 * "9", "is not valid YAML: Exceeds the limit"),
        ("\nb: 0x" + 3000 * "f", "b is a number of more than 19 digits"),
        ("\nseeds: [1]", r"is not valid YAML at line \d+, column 1: found duplicate key \"seeds\""),
        (
            "\nb: 2020-01-01",
            r"b must be text, .* got a date, 2020-01-01; for text write it",
        ),
        ("\nb: !!binary aGk=", r"line \d+: values must be text, .* got the tag .*:binary'"),
        ("\nb: !!set {c}", r"line \d+: values must be text, .* got the tag .*:set'; for text"),
        ("\nb: !!bool foo", "is not valid YAML: 'foo'"),
        ("\nb: !!int ''", "is not valid YAML: "),
        ("\nb: !!float ''", "is not valid YAML: "),
        ("\n? [[b]]\n: c", "is not valid YAML"),
        (
            "\nb:\n  ? 0x" + 5000 * "f" + "\n  : c",
            "a key that is no text, a number of thousan",
        ),
        ('\nb: {"\\ud800": c}', "b holds half of a character"),
        ("\nb: {1: c}", "b has a key that is no text, 1; write it in quotes"),
        ("\nb: {true: c}", "b has a key that is no text, true; write it in quotes"),
        ("\nb: {2020-01-01: c}", "b has a key that is no text"),
        ("\nb: !python/object:os.system c", "values must be text, .* '!python/object:os.system'"),
        ("\nb: =", "values must be text, .*; for text write it in quotes"),
        ('\nb: "\\ud800"', "b holds half of a character"),
    ],
)
def test_what_no_study_needs_is_refused_in_a_sentence(tmp_path, more, told):
    with_seeds(tmp_path, "[0]", more)
    with pytest.raises(UserError, match=told) as caught:
        load_study(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/params.yaml")
    assert len(str(caught.value)) < 300


def test_a_folder_in_the_files_place_is_told(tmp_path):
    (tmp_path / "params.yaml").mkdir()
    with pytest.raises(UserError, match=r"params.yaml cannot be read: Is a directory"):
        load_study(tmp_path)


def test_a_missing_file_is_told_with_where_to_run(tmp_path):
    with pytest.raises(UserError) as error:
        load_study(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}/params.yaml is missing: run in a study's folder (the root, or studies/<name>)"
    )


@pytest.mark.parametrize("written", ["1e-3", "1.0e-3", "0.001", "1E-3", ".001", "+1e-3"])
def test_a_number_is_the_same_however_it_is_written(tmp_path, written):
    text = (REPOSITORY / "studies" / "demo" / "params.yaml").read_text()
    assert "learning_rate: 1e-3\n" in text
    (tmp_path / "params.yaml").write_text(
        text.replace("learning_rate: 1e-3\n", f"learning_rate: {written}\n")
    )
    assert load_study(tmp_path).train.optimizer.learning_rate == 0.001


def test_a_transform_other_than_the_flips_is_found_in_albumentations(tmp_path):
    params = demo_params()
    params["train"]["augmentation"] = [{"RandomRotate90": {"p": 0.5}}]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    assert load_study(tmp_path).train.augmentation == [{"RandomRotate90": {"p": 0.5}}]


def test_a_frozen_encoder_needs_weights_to_keep(tmp_path):
    """Of the study's variants; a model that is none of them may have what it likes."""
    weights = {"models.resunet.weights": "imagenet", "variants": ["gated_attention", "resunet"]}
    assert told(tmp_path, **{"train.freeze_encoder": True} | weights) == (
        f"{tmp_path}/params.yaml: models.gated_attention.weights must be imagenet or a file with "
        "train.freeze_encoder true (a plain encoder has neither: take its variant out), got 'none'"
    )
    params = demo_params() | {"variants": ["resunet"]}
    params["train"]["freeze_encoder"] = True
    params["models"]["resunet"]["weights"] = "imagenet"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    assert load_study(tmp_path).train.freeze_encoder


def test_an_optimizer_has_the_keys_of_its_kind(tmp_path):
    params = demo_params()
    params["train"]["optimizer"] = STOCHASTIC | {"nesterov": True}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    optimizer = load_study(tmp_path).train.optimizer
    assert isinstance(optimizer, SGD)
    assert (optimizer.momentum, optimizer.nesterov) == (0.9, True)
    params["train"]["optimizer"] = ADAM | {"method": "adamw", "weight_decay": 0.01}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    assert load_study(tmp_path).train.optimizer.weight_decay == 0.01


def with_own_training(folder: Path, own: Any) -> Path:
    """The demo study, its variant resunet with `own` as its block train."""
    params = demo_params()
    params["models"]["resunet"]["train"] = own
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    return folder


def test_a_variant_trains_with_the_keys_that_it_has_of_its_own(tmp_path):
    own = {"epochs": 7, "optimizer": {"learning_rate": 0.0003}}
    study = load_study(with_own_training(tmp_path, own))
    train = study.of("resunet").train
    assert train.optimizer == study.train.optimizer.model_copy(update={"learning_rate": 0.0003})
    changed = {"epochs": 7, "optimizer": train.optimizer}
    assert train == study.train.model_copy(update=changed)
    others = [name for name in study.variants if name != "resunet"]
    assert others
    assert all(study.of(name).train == study.train != train for name in others)


def test_a_study_with_own_training_is_written_as_it_is_read(tmp_path):
    """run.json, results.json and the gate's baseline hold a study's params."""
    study = load_study(with_own_training(tmp_path, {"epochs": 7}))
    dumped = study.model_dump(mode="json")
    assert "own_training" not in dumped
    assert dumped["models"]["resunet"]["train"] == dumped["train"] | {"epochs": 7}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(dumped))
    assert load_study(tmp_path).model_dump(mode="json") == dumped


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"epochs": 0}, "train.epochs must be a whole number of at least 1, got 0"),
        ({"epoch": 3}, "train.epoch is an unknown key; remove it or correct its spelling"),
        (
            {"optimizer": {"rate": 1}},
            "train.optimizer.rate is an unknown key; remove it or correct",
        ),
        ({"optimizer": {"method": "rprop"}}, "train.optimizer.method must be adam, adamw or sgd,"),
        ({"augmentation": 3}, "train.augmentation must be a list, got 3"),
        (None, "train must be a block of keys, got nothing"),
        ("fast", "train must be a block of keys, got 'fast'"),
    ],
)
def test_a_mistake_in_own_training_is_told_by_its_key(tmp_path, own, message):
    with pytest.raises(UserError) as error:
        load_study(with_own_training(tmp_path, own))
    (line,) = str(error.value).splitlines()
    expected = f"{tmp_path}/params.yaml: models.resunet.{message}"
    assert line.casefold().startswith(expected.casefold())


@pytest.mark.parametrize("shared", [{"batch_size": 0}, [1]])
def test_a_mistake_in_the_shared_training_is_told_once(tmp_path, shared):
    params = demo_params()
    params["models"]["resunet"]["train"] = {"epochs": 3}
    params["train"] = params["train"] | shared if isinstance(shared, dict) else shared
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(UserError) as error:
        load_study(tmp_path)
    (line,) = str(error.value).splitlines()
    key = "train.batch_size" if isinstance(shared, dict) else "train"
    assert line.startswith(f"{tmp_path}/params.yaml: {key} must be")


def test_another_optimizer_has_its_own_keys_alone(tmp_path):
    params = demo_params()
    params["train"]["optimizer"] = STOCHASTIC | {"nesterov": True}
    own = ADAM | {"method": "adamw", "weight_decay": 0.01}
    params["models"]["resunet"]["train"] = {"optimizer": own}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    study = load_study(tmp_path)
    assert isinstance(study.of("resunet").train.optimizer, Adam)
    assert study.of("resunet").train.optimizer.method == "adamw"
    assert isinstance(study.train.optimizer, SGD)


def test_what_decides_networks_holds_their_own_training(tmp_path):
    study = load_study(with_own_training(tmp_path, {"epochs": 7}))
    assert study.deciding("models")["models"]["resunet"]["train"]["epochs"] == 7
    assert "train" not in study.deciding("focal")


def test_messages_name_the_key_that_decides(tmp_path):
    study = load_study(with_own_training(tmp_path, {"epochs": 7}))
    assert study.of("resunet").train_key == "models.resunet.train"
    other = next(name for name in study.variants if name != "resunet")
    assert study.of(other).train_key == study.train_key == "train"


def test_own_training_stands_in_its_variants_entry(tmp_path):
    params = demo_params() | {"own_training": {}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(UserError, match=r"own_training is an unknown key"):
        load_study(tmp_path)


def test_a_variant_that_freezes_its_own_encoder_needs_weights_to_keep(tmp_path):
    with pytest.raises(UserError, match=r"models\.resunet\.weights must be imagenet or a file"):
        load_study(with_own_training(tmp_path, {"freeze_encoder": True}))


def with_tuning(folder: Path, tuning: Any, **changes: Any) -> Path:
    """The demo study with resunet_slow, which is resunet with a lower learning rate."""
    params = demo_params()
    slow = {"train": {"optimizer": {"learning_rate": 0.0003}}}
    params["models"]["resunet_slow"] = params["models"]["resunet"] | slow
    params |= {"variants": ["resunet", "unet", "resunet_slow"], "tuning": tuning} | changes
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    return folder


def test_a_variants_settings_are_itself_and_those_of_its_tuning(tmp_path):
    study = load_study(with_tuning(tmp_path, {"resunet": ["resunet_slow"]}))
    assert study.settings == {"resunet": ["resunet", "resunet_slow"], "unet": ["unet"]}
    few = {"variants": ["unet", "resunet"]}
    assert load_study(with_tuning(tmp_path, {"resunet": ["resunet_slow"]}, **few)).settings == {
        "unet": ["unet"], "resunet": ["resunet"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("tuning", "message"),
    [
        ({"resunet": []}, "tuning.resunet must be a list of at least one entry, got []"),
        ({"resunet": ["slow"]}, "tuning must name entries under models ("),
        ({"other": ["resunet_slow"]}, "tuning must name entries under models ("),
        ({"resunet": ["resunet"]}, "tuning must name each variant once, got resunet again"),
        (
            {"unet": ["resunet_slow"]},
            "tuning.unet must be of the same network with other keys under train, got "
            "resunet_slow, which models.resunet_slow makes another network",
        ),
        (None, "tuning must be a block of keys, got nothing"),
    ],
)
def test_a_mistake_in_tuning_is_told(tmp_path, tuning, message):
    with pytest.raises(UserError) as error:
        load_study(with_tuning(tmp_path, tuning))
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{tmp_path}/params.yaml: {message}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"variants": ["unet", "resunet_slow"]},
            "tuning.resunet must be among variants, as its setting resunet_slow is",
        ),
        (
            {"factors": {"unet": [], "resunet_slow": ["encoder"]}},
            "factors.resunet_slow must name variants that are compared, got resunet_slow, which "
            "tuning makes a setting of resunet: name that",
        ),
        (
            {"data": DIRECTORY, "paper": {"title": "t", "reference": "r", "claims": [
                "resunet_slow > unet"]}},
            "paper.claims must name variants that are compared, got resunet_slow, which tuning",
        ),
        (
            {"prepare": demo_params()["prepare"] | {
                "split": {"method": "folds", "k": 3, "seed": 0}}, "folds": [0, 1, 2]},
            "tuning must be {} with several folds, whose validation cases are other folds' test "
            "cases: these would choose the settings; got folds [0, 1, 2]",
        ),
    ],
)  # fmt: skip
def test_what_does_not_go_with_a_setting_is_told(tmp_path, changes, message):
    changes = {"factors": {}} | changes
    with pytest.raises(UserError) as error:
        load_study(with_tuning(tmp_path, {"resunet": ["resunet_slow"]}, **changes))
    assert f"{tmp_path}/params.yaml: {message}" in str(error.value)


def test_a_setting_that_trains_as_its_variant_does_is_told(tmp_path):
    params = yaml.safe_load(
        (with_tuning(tmp_path, {"resunet": ["resunet_slow"]}) / "params.yaml").read_text()
    )
    params["models"]["resunet_slow"]["train"] = {"optimizer": {"learning_rate": 0.001}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(
        UserError, match=r"is trained as resunet is: give it models\.resunet_slow\."
    ):
        load_study(tmp_path)


def test_what_git_does_not_know_is_found_from_a_copy_that_dvc_made_of_the_study(tmp_path):
    study = tmp_path / "studies" / "mine"
    copy = study / ".dvc" / "tmp" / "exps" / "standalone" / "tmp1" / "studies" / "mine"
    for source, raw in (("directory", study / "cases"), ("synthetic", copy / "cases")):
        params = demo_params() | {"name": "mine"}
        params["data"] = params["data"] | {"raw": "cases"}
        if source == "directory":
            params["data"] = {"source": source, "raw": "cases", "on_problem": "stop"}
        copy.mkdir(parents=True, exist_ok=True)
        (copy / "params.yaml").write_text(yaml.safe_dump(params))
        assert load_study(copy).raw_dir == raw
    (copy / "cases").mkdir()
    assert load_study(copy).input("cases") == copy / "cases"
    assert load_study(copy).input("/cases") == Path("/cases")


def test_a_weights_file_that_is_not_there_is_told(tmp_path):
    params = demo_params()
    params["models"]["resunet"]["weights"] = "pretrained.safetensors"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    study = load_study(tmp_path)
    with pytest.raises(UserError) as error:
        study.check_inputs()
    assert str(error.value) == (
        f"{tmp_path}/params.yaml: models.resunet.weights must be imagenet, none or an existing "
        "file, got 'pretrained.safetensors'"
    )
    (tmp_path / "pretrained.safetensors").touch()
    study.check_inputs()


def test_weights_of_a_model_that_is_no_variant_need_not_be_there(tmp_path):
    params = demo_params() | {"variants": ["unet"]}
    params["models"]["resunet"]["weights"] = "pretrained.safetensors"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    load_study(tmp_path).check_inputs()


def test_folds_are_an_axis_of_the_runs(tmp_path):
    params = demo_params() | {"folds": [0, 2], "variants": ["unet"], "seeds": [4]}
    params["averaging"] = ["flips"]
    params["prepare"]["split"] = {"method": "folds", "k": 3, "seed": 0}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    study = load_study(tmp_path)
    assert study.runs() == [("unet", 4, 0), ("unet", 4, 2)]
    assert parse_run(study, ["unet", "4", "2"]) == ("unet", 4, 2)
    assert study.label(study.runs()[1]) == "unet, seed 4, fold 2"
    assert averages(study) == [("flips", (4,), 0), ("flips", (4,), 2)]
    params["folds"] = [3]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(UserError, match=r"folds must be from 0 to 2 with .* folds, got \[3\]"):
        load_study(tmp_path)


def test_averages_are_of_each_seeds_flips_and_of_all_seeds_together(tmp_path):
    params = demo_params() | {"variants": ["unet", "resunet"], "seeds": [3, 5]}
    params["averaging"] = ["seeds_and_flips", "flips"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    found = averages(load_study(tmp_path))
    assert found == [("seeds_and_flips", (3, 5), 0), ("flips", (3,), 0), ("flips", (5,), 0)]
    assert [average.seed for average in found] == [None, 3, 5]


def test_one_seed_makes_no_ensemble(tmp_path):
    asked = {"seeds": [0], "averaging": ["flips", "seeds", "seeds_and_flips"]}
    assert told(tmp_path, **asked) == (
        f"{tmp_path}/params.yaml: averaging must name seeds and seeds_and_flips only with two "
        "seeds or more, got seeds [0]"
    )


def test_exports_without_their_packages_are_told_before_work_starts(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(demo_params() | {"export": ["unet"]}))
    study = load_study(tmp_path)
    study.check_exports()
    monkeypatch.setattr("pipeline.study.params.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"export needs onnx and .*lesion-ablation\[export\]"):
        study.check_exports()
    study.model_copy(update={"export": []}).check_exports()


def test_a_run_is_a_variant_and_a_seed_of_the_study():
    assert parse_run(load_study(REPOSITORY / "studies/demo"), ["unet", "1"]) == ("unet", 1, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["unet", "1", "1"], "fold must be one of folds in params.yaml (0), got 1"),
        (["unet", "2"], "seed must be one of seeds in params.yaml (0, 1), got 2"),
        (["big", "0"], f"variant must be one of variants in params.yaml ({VARIANTS}), got 'big'"),
    ],
)
def test_a_run_that_the_study_does_not_have_is_refused(arguments, message):
    with pytest.raises(UserError) as error:
        parse_run(load_study(REPOSITORY / "studies/demo"), arguments)
    assert str(error.value) == message


def run_python(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )


def test_reading_the_committed_studies_imports_no_heavy_library():
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from pipeline.study.reading import load_study\n"
        f"for folder in {[str(folder) for folder in COMMITTED]}:\n"
        "    load_study(Path(folder))\n"
        "print(sorted({'torch', 'mlflow', 'albumentations', 'numpy'} & set(sys.modules)))\n"
    )
    assert run_python("-c", code, folder=REPOSITORY).stdout == "[]\n"


@pytest.mark.slow
def test_a_stage_tells_a_user_the_mistake_without_a_traceback_and_writes_nothing(tmp_path):
    params = demo_params()
    params["train"] |= {"batch_size": "sixteen", "epochs": 0}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    done = run_python("-m", "pipeline.preprocess", folder=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"error: params.yaml: train.epochs {WHOLE}, got 0\n"
        f"       params.yaml: train.batch_size {WHOLE}, got 'sixteen'\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]
