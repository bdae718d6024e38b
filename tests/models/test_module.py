"""Family module: a network that is a file of the study's own."""

from __future__ import annotations

import hashlib
import json
import os
import py_compile
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from conftest import REPOSITORY, change_params
from safetensors.torch import save_file

from models import NetworkError, build_model, source_hashes
from models.module import ModuleConfig
from pipeline import describe_networks, evaluate, predict, train
from pipeline.deployment.loading import open_run
from pipeline.engine.weights import load_start
from pipeline.reporting.stage_maps import attention_stages
from pipeline.study.errors import UserError
from pipeline.tracking.sync import sync
from pipeline.training.loop import trains_on_one
from pipeline.training.provenance import forward_gflops, start_weights

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

PLAIN = "from torch import nn\ndef build():\n    return nn.Conv2d(3, 1, 1)\n"
LAYER = """import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, width=0):
        super().__init__()
        self.layer = nn.Conv2d(3, 1, 1)
        {parts}
    def forward(self, images):
        return {returned}
build = Net
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
        ("import torn\n", r"networks/torn\.py, line 2: SyntaxError"),
    ],
)
def test_what_goes_wrong_in_it_is_told_with_its_line(tmp_path, text, told):
    failing = "raise ValueError('no such luck')"
    config = write(tmp_path, own=text, blocks=failing, torn="x = 1\ny = = 2\n")
    with pytest.raises(NetworkError, match=told):
        build_model(config)


def test_a_neighbour_may_have_the_name_of_a_module_that_is_known(tmp_path):
    config = write(tmp_path, own="from json import build\n", json=PLAIN)
    known = sys.modules["json"]
    assert build_model(config)(torch.zeros(1, 3, 32, 32)).shape == (1, 1, 32, 32)
    assert sys.modules["json"] is known
    assert "networks/json.py" in source_hashes(config)


def test_bytecode_that_is_older_than_its_source_is_not_read(tmp_path):
    """Python knows a source by its size and the second of its change: here both stay."""
    config = write(tmp_path, own="from blocks import build\n", blocks=PLAIN)
    file = tmp_path / "networks/blocks.py"
    py_compile.compile(str(file))
    times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    file.write_text(PLAIN.replace("(3, 1, 1)", "(3, 7, 1)"))
    os.utime(file, ns=times)
    assert build_model(config)(torch.zeros(1, 3, 32, 32)).shape == (1, 7, 32, 32)


def test_arguments_stay_as_params_yaml_has_them(tmp_path):
    text = PLAIN.replace("build():", "build(widths):\n    widths.pop()")
    config = ModuleConfig(file="networks/own.py", arguments={"widths": [1, 2]}).at(tmp_path)
    write(tmp_path, own=text)
    build_model(config)
    assert config.arguments == {"widths": [1, 2]}


@pytest.mark.parametrize(
    "line",
    [
        "from models.attenresunet.blocks import DoubleConv",
        "from models.attenresunet import blocks; DoubleConv = blocks.DoubleConv",
        "from models import attenresunet; from models.attenresunet.blocks import DoubleConv",
        "import torch, models.attenresunet.blocks as blocks; DoubleConv = blocks.DoubleConv",
        "import pipeline.engine.losses; from models.attenresunet.blocks import DoubleConv",
    ],
)
def test_parts_of_the_suite_that_it_imports_are_what_it_is_made_of_too(tmp_path, line):
    found = source_hashes(write(tmp_path, own=f"{line}\ndef build(): return DoubleConv(3, 1)"))
    assert "models/attenresunet/blocks.py" in found
    assert "models/smp/network.py" not in found
    assert ("pipeline/engine/losses.py" in found) == ("losses" in line)


def test_another_file_of_weights_than_the_stage_described_is_refused(own_study):
    (variant,) = own_study.variants
    file = Path("networks/start.safetensors")
    state = build_model(own_study.models[variant]).state_dict()
    save_file(state, file)
    network = {"family": "module", "file": "networks/own.py", "arguments": {"width": 3}}
    study = change_params(models={variant: network | {"weights": str(file)}})
    describe_networks.main()
    assert start_weights(study, variant) == [file]
    save_file({name: tensor + 1 for name, tensor in state.items()}, file)
    with pytest.raises(UserError, match=r"start\.safetensors is not the file of weights that"):
        start_weights(study, variant)


def test_to_try_a_batch_of_one_leaves_the_network_as_it_was(tmp_path):
    """Copied it cannot be: not every network can, such as one with torch's weight_norm."""
    text = """
from torch import nn
def build():
    return nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 1, 1)), nn.BatchNorm2d(1))
"""
    model = build_model(write(tmp_path, own=text))
    model(torch.rand(2, 3, 32, 32)).sum().backward()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert trains_on_one(model, 32, 32)
    assert not trains_on_one(model, 1, 1)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


# What a network's file is like beside its layer, what its forward pass returns, what is told of it.
UNFIT = {
    "two channels": ("", "torch.cat([self.layer(images)] * 2, 1)", r"got \(2, 2, 32, 64\)"),
    "a tuple": ("", "(self.layer(images),)", "got tuple"),
    "shared weights": ("self.two = self.layer", "self.two(images)", "share their tensor"),
    "nothing to train": ("del self.layer", "images[:, :1]", "must have parameters to train"),
    "an error": ("", "self.layer(images) / no_such_name", r"networks/own\.py, line 9: NameError"),
    "one layout": ("", "self.layer(images.view(-1).view(images.shape))", "line 9: .*reshape"),
}


@pytest.mark.parametrize("fault", UNFIT)
def test_what_would_end_a_training_is_told_by_the_stage_before(own_study, fault):
    parts, returned, told = UNFIT[fault]
    write(Path(), own=LAYER.format(parts=parts, returned=returned))
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.describe_networks"],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert re.search(told, done.stderr), done.stderr
    assert "Traceback" not in done.stderr


def test_arithmetic_is_counted_of_a_network_that_looks_at_its_values(tmp_path):
    """It does not run on torch's device "meta", where there are none. By hand: 2 * 3 a pixel."""
    returned = "self.layer(images) if images.sum() < 1e9 else images[:, :1]"
    config = write(tmp_path, own=LAYER.format(parts="", returned=returned))
    assert forward_gflops(config, 32, 64) == pytest.approx(2 * 3 * 32 * 64 / 1e9)
    assert trains_on_one(build_model(config), 32, 64)


def test_attention_modules_of_the_suite_have_the_names_that_it_gives_them(tmp_path):
    parts = (
        "from models.attenresunet.attention import AttentionGate; self.mine = AttentionGate(3, 3)"
    )
    returned = "self.layer(self.mine(images, images))"
    config = write(tmp_path, own=LAYER.format(parts=parts, returned=returned))
    images = np.zeros((1, 32, 32, 3), np.uint8)
    (stage,) = attention_stages(build_model(config).eval(), images)
    assert (stage.name, stage.maps.shape) == ("mine", (1, 32, 32))


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
