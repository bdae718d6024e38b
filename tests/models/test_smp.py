"""Family smp: segmentation_models_pytorch's networks as variants like any other."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch
import torchvision
import yaml
from conftest import REPOSITORY, change_params
from fake_study import make_study
from safetensors.torch import save_file

from models import build_model, families
from models.attenresunet import AttenResUNetConfig
from models.smp import SmpConfig
from pipeline import compare, evaluate, train
from pipeline.deployment import graphs
from pipeline.deployment.loading import open_run
from pipeline.engine.prepared import PreparedCases
from pipeline.engine.weights import load_model, load_start, save_weights
from pipeline.reporting.protocol import readings
from pipeline.reporting.stage_maps import attention_stages
from pipeline.study.errors import UserError
from pipeline.study.params import Study
from pipeline.study.reading import load_study
from pipeline.training import loop, optimisation, provenance

CPU = torch.device("cpu")
UNET = {"family": "smp", "architecture": "Unet", "encoder": "resnet18"}
DEEPLAB = UNET | {"architecture": "DeepLabV3Plus"}


def config(architecture: str, encoder: str = "resnet18", weights: str = "none") -> SmpConfig:
    return SmpConfig(architecture=architecture, encoder=encoder, weights=weights)


def study_with(folder: Path, **networks: object) -> Study:
    """The demo's study with these networks alone."""
    params = yaml.safe_load((REPOSITORY / "studies" / "demo" / "params.yaml").read_text())
    params["train"]["optimizer"]["learning_rate"] = 0.001
    params["models"], params["variants"] = networks, list(networks)
    params["paper"], params["factors"] = None, {}
    params["compare"]["baseline"] = None
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    return load_study(folder)


def told(folder: Path, **networks: object) -> str:
    with pytest.raises(UserError) as error:
        study_with(folder, **networks).check_inputs()
    return str(error.value).removeprefix(f"{folder}/params.yaml: ")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Unet", "UnetPlusPlus", "DeepLabV3Plus", "FPN", "Segformer"])
def test_logits_are_smps_own_with_the_same_weights(kind):
    torch.manual_seed(0)
    reference = getattr(smp, kind)("resnet18", encoder_weights=None, in_channels=3, classes=1)
    model = build_model(config(kind))
    model.load_state_dict(reference.state_dict())
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        logits = model.eval()(images)
        assert torch.equal(logits, reference.eval()(images))
    assert logits.shape == (2, 1, 64, 96)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "encoder"),
    [("DeepLabV3Plus", "resnet18"), ("Unet", "mit_b0"), ("UnetPlusPlus", "efficientnet-b0")],
)
def test_a_checkpoint_reloads_bit_for_bit(tmp_path, kind, encoder):
    """mit_b0 is one of those that torch's device "meta" cannot build."""
    network = config(kind, encoder)
    model = build_model(network).to(memory_format=torch.channels_last)
    model(torch.randn(2, 3, 64, 64))  # moves the BatchNorm statistics
    save_weights(model, tmp_path / "weights.safetensors")
    reloaded = load_model(network, tmp_path / "weights.safetensors", CPU)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(reloaded(images), model.eval()(images))
    assert provenance.forward_gflops(network, 64, 64) > 0


@pytest.mark.slow
def test_parameters_and_arithmetic_are_counted_as_for_the_papers_networks():
    """resnet18's convolutions at 64x64, by hand: 2 * k^2 * in * out * height * width each."""
    network = config("Unet")
    model = build_model(network)
    encoder = 2 * 49 * 3 * 64 * 32**2
    narrow, side = 64, 16
    for width in (64, 128, 256, 512):
        side = side if width == 64 else side // 2
        encoder += 2 * 9 * (narrow * width + 3 * width**2) * side**2
        encoder += 0 if width == 64 else 2 * narrow * width * side**2
        narrow = width
    decoder, side, deep = 0, 2, 512
    for skip, width in ((256, 256), (128, 128), (64, 64), (64, 32), (0, 16)):
        side *= 2
        decoder += 2 * 9 * ((deep + skip) * width + width**2) * side**2
        deep = width
    head = 2 * 9 * 16 * 64**2
    assert provenance.forward_gflops(network, 64, 64) == pytest.approx(
        (encoder + decoder + head) / 1e9
    )
    resnet = torchvision.models.resnet18(weights=None)
    own = sum(weight.numel() for weight in model.encoder.parameters())
    assert own == sum(w.numel() for name, w in resnet.named_parameters() if name[:3] != "fc.")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_torchvisions_resnet_weights_load_into_its_encoder(tmp_path, suffix):
    state = torchvision.models.resnet18(weights=None).state_dict()
    old = {name: value for name, value in state.items() if "num_batches" not in name}
    path = tmp_path / f"encoder.{suffix}"
    save_file(old, path) if suffix == "safetensors" else torch.save(old, path)
    network = config("UnetPlusPlus", weights=path.name)
    model = build_model(network)
    load_start(model, network.at(tmp_path))
    own = model.encoder.state_dict()
    for name, value in state.items():
        assert name.startswith("fc.") or torch.equal(own[name], value), name


@pytest.mark.slow
def test_imagenet_weights_are_torchvisions_not_the_hubs(monkeypatch):
    state = torchvision.models.resnet34(weights=None).state_dict()
    asked = []

    def get_state_dict(self, **options):
        asked.append((str(self), options))
        return state

    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", get_state_dict)
    network = config("Unet", "resnet34", "imagenet")
    model = build_model(network)
    load_start(model, network)
    assert asked == [("ResNet34_Weights.IMAGENET1K_V1", {"progress": True, "check_hash": True})]
    assert torch.equal(model.encoder.layer4[0].conv1.weight, state["layer4.0.conv1.weight"])


def test_weights_of_another_encoder_are_refused_by_naming_the_file(tmp_path):
    save_file(torchvision.models.resnet34(weights=None).state_dict(), tmp_path / "34.safetensors")
    network = config("Unet", weights="34.safetensors")
    with pytest.raises(UserError, match=r"'34.safetensors' must be a segmentation_models_pytorch "):
        load_start(build_model(network), network.at(tmp_path))


def test_three_lines_of_params_are_a_variant(tmp_path):
    study = study_with(tmp_path, peer=UNET, resunet={"encoder": "resnet18"})
    assert study.models["peer"] == SmpConfig(architecture="Unet", encoder="resnet18")
    assert study.models["resunet"] == AttenResUNetConfig(encoder="resnet18")
    study.check_inputs()
    assert study.model_dump(mode="json")["models"]["peer"] == UNET | {"weights": "none"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"family": "smp", "encoder": "resnet18"}, "models.peer.architecture is missing"),
        ({"family": "smp", "architecture": "Unet"}, "models.peer.encoder is missing"),
        (
            UNET | {"decoder_gates": True},
            "models.peer.decoder_gates is an unknown key; remove it or correct its spelling",
        ),
        (UNET | {"encoder": 18}, "models.peer.encoder must be text, got 18"),
        (
            UNET | {"family": "timm"},
            "models.peer.family must be attenresunet, module or smp, got 'timm'",
        ),
        (
            {"architecture": "Unet"},
            "models.peer.architecture is an unknown key; remove it or correct its spelling",
        ),
        (
            UNET | {"encoder": "mit_b0", "weights": "imagenet"},
            "models.peer.weights must be none or a file with encoder 'mit_b0': torchvision's "
            "ImageNet weights fit resnet18, resnet34, resnet50, resnet101, resnet152, "
            "resnext50_32x4d, resnext101_32x8d alone, got 'imagenet'",
        ),
        (
            UNET | {"weights": "gone.pt"},
            "models.peer.weights must be imagenet, none or an existing file, got 'gone.pt'",
        ),
        (
            UNET | {"architecture": "Unet++"},
            "models.peer must be a network of segmentation_models_pytorch for 64x64 pixels, got "
            "'Unet++' on 'resnet18': architecture must be one of Unet, UnetPlusPlus, ",
        ),
        (
            UNET | {"encoder": "resnet35"},
            "models.peer must be a network of segmentation_models_pytorch for 64x64 pixels, got "
            "'Unet' on 'resnet35': Wrong encoder name `resnet35`, supported encoders: ['resnet18'",
        ),
        (
            UNET | {"architecture": "PAN"},
            "models.peer must be a network of segmentation_models_pytorch for 64x64 pixels, got "
            "'PAN' on 'resnet18': Given input size: (1x1x1). Calculated output size: (1x0x0).",
        ),
    ],
)
def test_a_mistake_is_told_in_one_line(tmp_path, network, message):
    found = told(tmp_path, peer=network)
    assert found.startswith(message)
    assert "\n" not in found


def test_the_missing_package_is_told_before_any_work(tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "pipeline.study.params.find_spec",
        lambda name: None if name == "segmentation_models_pytorch" else find_spec(name),
    )
    assert told(tmp_path, resunet={}, peer=UNET) == (
        "models.peer.family 'smp' needs segmentation_models_pytorch: "
        "pip install lesion-ablation[peers]"
    )
    study_with(tmp_path, resunet={})  # others do not need it


def test_the_encoder_can_be_frozen_or_have_its_own_rate(tiny_study):
    study = change_params(
        models={"peer": UNET | {"weights": "x.pt"}},
        variants=["peer"],
        compare={"baseline": None},
        train={"freeze_encoder": True},
    )
    model = build_model(study.models["peer"])
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    loop.fit(model, PreparedCases.open(study.prepared_dir), study, seed=0)
    assert all(torch.equal(before[name], v) for name, v in model.encoder.state_dict().items())
    own = study.train.optimizer.model_copy(update={"encoder_learning_rate": 1e-5})
    settings = study.train.model_copy(update={"freeze_encoder": False, "optimizer": own})
    rest, encoder = optimisation.build_optimizer(model, settings).param_groups
    assert len(encoder["params"]) == len(list(model.encoder.parameters()))
    assert len(rest["params"]) == len(list(model.parameters())) - len(encoder["params"])


@pytest.mark.slow
def test_a_batch_of_one_case_is_refused_where_a_pooled_branch_cannot_take_it(tiny_study):
    study = change_params(
        models={"deeplab": DEEPLAB, "unet": UNET}, variants=["deeplab"], train={"batch_size": 19}
    )
    cases = PreparedCases.open(study.prepared_dir)  # 20 to train with
    with pytest.raises(UserError, match=r"batch_size 19 leaves a batch of one .* at 64x32 pixels"):
        loop.fit(build_model(study.models["deeplab"]), cases, study, seed=0)
    assert not loop.trains_on_one(build_model(config("UPerNet")), 64, 64)
    assert loop.trains_on_one(build_model(study.models["unet"]), 32, 64)
    assert not loop.trains_on_one(build_model(study.models["unet"]), 32, 32)


@pytest.mark.slow
def test_a_run_trains_resumes_with_dropout_to_the_same_bits_and_is_evaluated(
    tiny_study, monkeypatch
):
    """DeepLabV3+ draws its dropout from torch's generator: each epoch's is the epoch's own."""
    change_params(models={"peer": DEEPLAB}, variants=["peer"], compare={"baseline": None})
    study = change_params(train={"epochs": 2, "batch_size": 10})
    (run,) = study.runs()
    monkeypatch.setattr("sys.argv", ["train", *map(str, run)])
    train.main()
    record = json.loads((study.run_dir(*run) / "run.json").read_text())
    assert record["params"]["model"] == asdict(study.models["peer"])
    assert record["parameters"] == sum(
        p.numel() for p in build_model(config(**{"architecture": "DeepLabV3Plus"})).parameters()
    )
    assert record["gflops"] == provenance.forward_gflops(study.models["peer"], 32, 64)
    assert record["versions"]["segmentation_models_pytorch"] == smp.__version__
    whole = (study.run_dir(*run) / "weights.safetensors").read_bytes()
    shutil.rmtree(study.run_dir(*run))

    train_epoch = loop.train_epoch

    def killed_in_the_second(training, batches, epoch, *others):
        if epoch == 2:
            raise KeyboardInterrupt
        return train_epoch(training, batches, epoch, *others)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_epoch", killed_in_the_second)
        with pytest.raises(KeyboardInterrupt):
            train.main()
    train.main()
    record = json.loads((study.run_dir(*run) / "run.json").read_text())
    assert record["resumed_epochs"] == [1]
    assert (study.run_dir(*run) / "weights.safetensors").read_bytes() == whole

    monkeypatch.setattr("sys.argv", ["evaluate", *map(str, run)])
    evaluate.main()
    compare.main()
    results = json.loads(study.results_file.read_text())
    assert results["params"]["models"]["peer"] == DEEPLAB | {"weights": "none"}

    out = study.folder / "exported"
    out.mkdir()
    trained = open_run(study.run_dir(*run))
    assert trained.config == study.models["peer"]
    exported = graphs.export(trained, out)
    assert max(exported.largest_difference.values()) < 1e-4
    assert exported.parameters == record["parameters"]
    monkeypatch.setattr("pipeline.study.params.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"family 'smp' needs .*lesion-ablation\[peers\]"):
        trained.load(CPU)


def test_the_version_of_the_package_is_part_of_a_runs_identity(tiny_study):
    study = change_params(models={"peer": UNET}, variants=["peer", "resunet"])
    peer, resunet = (
        provenance.identity(provenance.describe_training(study, run, CPU)) for run in study.runs()
    )
    assert peer["versions.segmentation_models_pytorch"] == f'"{smp.__version__}"'
    assert "versions.timm" in peer
    assert resunet.keys() & {f"versions.{name}" for name in families()["smp"].packages} == set()


@pytest.mark.slow
def test_the_report_tells_the_papers_switches_of_the_networks_that_have_them(tmp_path):
    study = make_study(tmp_path)
    params = yaml.safe_load((study.folder / "params.yaml").read_text())
    params["models"]["gated_attention"] = UNET
    (study.folder / "params.yaml").write_text(yaml.safe_dump(params))
    used = {reading.topic: reading.used for reading in readings(load_study(study.folder))}
    assert used["Head"] == "head: logits"
    params["variants"], params["compare"]["baseline"] = ["gated_attention"], None
    (study.folder / "params.yaml").write_text(yaml.safe_dump(params))
    used = {reading.topic: reading.used for reading in readings(load_study(study.folder))}
    assert "Head" not in used
    assert "Split" in used


def test_a_network_without_attention_modules_has_no_attention_maps():
    images = torch.randint(0, 255, (1, 64, 64, 3), dtype=torch.uint8).numpy()
    assert attention_stages(build_model(config("Unet")).eval(), images) == []
