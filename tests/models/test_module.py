"""Family module: a network that is a file of the study's own."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from conftest import change_params
from safetensors.torch import save_file

from models import NetworkError, build_model, source_hashes
from models.module import ModuleConfig
from pipeline import describe_networks, evaluate, predict, train
from pipeline.deployment.loading import open_run
from pipeline.engine.weights import load_start
from pipeline.study.errors import UserError
from pipeline.tracking.sync import sync

OWN = """
from dataclasses import dataclass
from blocks import Head

@dataclass
class Widths:
    first: int

def build(width=4):
    return Head(Widths(width).first)
"""
BLOCKS = """
from torch import nn

class Head(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.encoder, self.last = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 1, 1)
    def encoder_parameters(self):
        return self.encoder.parameters()
    def forward(self, images):
        return self.last(self.encoder(images))
"""


def write(folder: Path, **files: str) -> ModuleConfig:
    """The study's folder networks, and the network that own.py builds."""
    (folder / "networks").mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / "networks" / f"{name}.py").write_text(text)
    return ModuleConfig(file="networks/own.py").at(folder)


@pytest.fixture
def own_study(tiny_study):
    """tiny_study whose first variant is a network of its own."""
    data = tiny_study.folder / "data"  # its own: the other tests' has no data/networks
    shared = data.resolve()
    data.unlink()
    shutil.copytree(shared, data)
    write(Path(), own=OWN, blocks=BLOCKS, other="raise SystemExit")
    variant = tiny_study.variants[0]
    network = {"family": "module", "file": "networks/own.py", "arguments": {"width": 3}}
    return change_params(models={variant: network}, variants=[variant], compare={"baseline": None})


def test_a_file_builds_a_network_with_what_lies_beside_it(tmp_path):
    config = write(tmp_path, own=OWN, blocks=BLOCKS)
    before = dict(sys.modules), sys.path[:]
    assert build_model(config)(torch.zeros(2, 3, 32, 64)).shape == (2, 1, 32, 64)
    assert sys.path == before[1]
    assert "blocks" not in sys.modules
    assert sorted(path.name for path in (tmp_path / "networks").iterdir()) == [
        "blocks.py",
        "own.py",
    ]


def test_files_of_one_name_in_two_studies_do_not_meet(tmp_path):
    shapes = []
    for width in (2, 5):
        folder = tmp_path / str(width)
        folder.mkdir()
        config = write(
            folder,
            own=OWN,
            blocks=BLOCKS.replace("(3, width,", f"(3, {width},").replace(
                "(width, 1", f"({width}, 1"
            ),
        )
        shapes.append(build_model(config).encoder.weight.shape[0])
    assert shapes == [2, 5]


def test_it_is_made_of_its_file_and_of_what_that_imports_alone(tmp_path):
    config = write(tmp_path, own=OWN, blocks=BLOCKS, other="")
    found = source_hashes(config)
    assert {name for name in found if name.startswith("networks/")} == {
        "networks/own.py", "networks/blocks.py"
    }  # fmt: skip
    assert found["networks/blocks.py"] == hashlib.sha256(BLOCKS.encode()).hexdigest()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def build(:\n", r"networks/own\.py, line 1: SyntaxError"),
        ("import nothing_such\n", r"networks/own\.py, line 1: ModuleNotFoundError: .*nothing_such"),
        ("width = 3\n", r"networks/own\.py must have a function build\(\*\*arguments\)"),
        ("def build():\n    return 3\n", r"build must return a torch\.nn\.Module, got int"),
        ("def build(depth):\n    return 3\n", r"networks/own\.py: build\(\): TypeError: .*depth"),
        ("def build():\n    return 1 / 0\n", r"networks/own\.py, line 2: ZeroDivisionError"),
        (OWN, r"networks/blocks\.py, line 1: ValueError: no such luck"),
    ],
)
def test_what_goes_wrong_in_it_is_told_with_its_line(tmp_path, text, told):
    config = write(tmp_path, own=text, blocks="raise ValueError('no such luck')")
    with pytest.raises(NetworkError, match=told):
        build_model(config)


@pytest.mark.parametrize(
    ("network", "told"),
    [
        ({"file": "own.py"}, r"must be a Python file in networks, .* got 'own\.py'"),
        ({"file": "networks/../../own.py"}, "must be a Python file in networks"),
        ({"file": "networks/own.py", "weights": "imagenet"}, "weights must be none or a file"),
        ({"file": "networks/gone.py"}, "file must be an existing file of the study, got"),
        ({}, "file is missing"),
        ({"file": "networks/own.py", "width": 3}, "width is an unknown key"),
    ],
)
def test_a_wrong_entry_is_told_before_anything_is_built(tiny_study, network, told):
    write(Path(), own="raise SystemExit")
    variant = tiny_study.variants[0]
    with pytest.raises(UserError, match=told):
        change_params(models={variant: {"family": "module"} | network}).check_inputs()


def test_it_starts_from_a_state_dict_of_all_of_it(tmp_path):
    write(tmp_path, own=OWN, blocks=BLOCKS)
    config = ModuleConfig(file="networks/own.py", weights="networks/start.safetensors").at(tmp_path)
    start = {name: torch.ones_like(each) for name, each in build_model(config).state_dict().items()}
    save_file(start, tmp_path / "networks" / "start.safetensors")
    model = build_model(config)
    load_start(model, config)
    assert all((each == 1).all() for each in model.state_dict().values())
    del start["last.bias"]
    save_file(start, tmp_path / "networks" / "start.safetensors")
    with pytest.raises(UserError, match=r"must be a state dict of the whole network: .*last\.bias"):
        load_start(model, config)


@pytest.mark.parametrize("train", [{"freeze_encoder": True}, {"optimizer": "own rate"}])
def test_an_encoder_that_is_not_told_ends_before_the_first_training(own_study, train):
    variant = own_study.variants[0]
    if "optimizer" in train:
        optimizer = own_study.train.optimizer.model_dump() | {"encoder_learning_rate": 1e-4}
        train = {"optimizer": optimizer}
    else:  # frozen weights must come from somewhere
        state = build_model(own_study.models[variant]).state_dict()
        save_file(state, Path("networks/start.safetensors"))
        network = {"family": "module", "file": "networks/own.py", "arguments": {"width": 3}}
        change_params(models={variant: network | {"weights": "networks/start.safetensors"}})
    change_params(train=train)
    describe_networks.main()
    write(Path(), blocks=BLOCKS.replace("encoder_parameters", "parts"))
    with pytest.raises(UserError, match=r"needs networks with a method encoder_parameters\(\)"):
        describe_networks.main()


def test_the_stage_says_what_each_network_is_made_of(own_study):
    describe_networks.main()
    (variant,) = own_study.variants
    assert json.loads(Path(f"data/networks/{variant}.json").read_text()) == {
        "sources": source_hashes(own_study.models[variant]), "weights_sha256": None
    }  # fmt: skip


@pytest.mark.slow
def test_a_run_of_it_is_trained_recorded_served_and_used(own_study, monkeypatch, capsys):
    study = change_params(tracking={"live": False})
    (variant,), seed = study.variants, study.seeds[0]
    describe_networks.main()
    run = study.runs()[0]
    monkeypatch.setattr("sys.argv", ["train", *map(str, run)])
    train.main()
    record = json.loads((study.run_dir(*run) / "run.json").read_text())
    hashes = {name: sha for name, sha in record["sources"].items() if name.startswith("networks/")}
    assert set(hashes) == {"networks/own.py", "networks/blocks.py"}
    monkeypatch.setattr("sys.argv", ["evaluate", *map(str, run)])
    evaluate.main()

    sync(study)
    (recorded,) = mlflow.search_runs(
        experiment_names=[study.name], filter_string="tags.role = 'run'", output_format="list"
    )
    uri = f"runs:/{recorded.info.run_id}/model"
    assert mlflow.models.get_model_info(uri).metadata["sources"] == {
        **hashes, **source_hashes(study.models[variant])
    }  # fmt: skip
    served = mlflow.pyfunc.load_model(uri)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 64, 3), np.uint8)
    assert served.predict(images).shape == (2, 32, 64)

    picture = min(study.raw_dir.glob("*_Input/*.jpg"))
    for number, source in enumerate((str(study.run_dir(*run)), uri)):
        arguments = ["predict", source, str(picture), "--out", f"out{number}"]
        monkeypatch.setattr("sys.argv", arguments)
        with pytest.raises(SystemExit) as status:
            predict.main()
        assert status.value.code == 0
    assert Path("out0/lesions.csv").read_text() == Path("out1/lesions.csv").read_text()

    write(Path(), blocks=BLOCKS + "\n# changed\n")
    with pytest.raises(UserError, match=r"networks/blocks\.py is not here as it was trained"):
        open_run(study.run_dir(*run)).load(torch.device("cpu"))
    monkeypatch.setattr("sys.argv", ["train", *map(str, run)])
    with pytest.raises(UserError, match="run the stage networks"):
        train.main()
    assert seed == run.seed
    shutil.rmtree("networks")
    with pytest.raises(UserError, match="is code of its study"):
        open_run(study.run_dir(*run)).load(torch.device("cpu"))
