"""What a variant's network must do: the suite's own do it, and networks that do not are told so."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import pytest
from conftest import change_params

from models.attenresunet import AttenResUNetConfig
from models.module import ModuleConfig
from models.smp import SmpConfig
from pipeline import check_network
from pipeline.deployment import contract
from pipeline.deployment.contract import CHECKS, Subject
from pipeline.study.errors import UserError

NETWORKS = {
    "limit": AttenResUNetConfig(
        encoder="resnet18", encoder_attention=(1, 2, 3), decoder_gates=True
    ),
    "resunet": AttenResUNetConfig(encoder="resnet18"),
    "unet": AttenResUNetConfig(encoder="plain", plain_width=8, decoder_gates=True),
    "smp": SmpConfig(architecture="Unet", encoder="resnet18"),
}
# What a network's file is like, and what is told of it.
FAULTS = {
    "nn.Conv2d(3, 2, 1)": ("shape", r"must give logits \(2, 1, 32, 32\), got \(2, 2, 32, 32\)"),
    "nn.MaxPool2d(2)": ("shape", "return one channel of the images' size, before the sigmoid"),
    "Broken('logits.log()')": ("shape", "logits must be finite"),
    "Broken('logits.detach() + self.used(images)')": ("gradients", "reaches 2 of 4 parameters"),
    "Broken('logits - logits.mean()')": ("each image alone", "what else is in the batch"),
    "Broken('logits + numpy.random.rand()')": ("repeatability", "differ in training"),
    "Pooled()": ("batch of one", "fails in training mode .* BatchNorm after global pooling"),
    "Broken('logits if images.sum() > -1e9 else images[:, :1]')": (
        "ONNX",
        "cannot be exported .*: leave the variant out of export",
    ),
    "Tied()": ("file of weights", "let no two entries share their tensor"),
}
BROKEN = """
import numpy
import torch
from torch import nn

class Broken(nn.Module):
    def __init__(self, said):
        super().__init__()
        self.said, self.head, self.used = said, nn.Conv2d(3, 1, 1), nn.Conv2d(3, 1, 1)
        if "used" not in said:
            del self.used
    def forward(self, images):
        logits = self.head(images)
        return eval(self.said, globals(), locals())

class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.head, self.norm = nn.Conv2d(3, 1, 1), nn.BatchNorm2d(1)
    def forward(self, images):
        logits = self.head(images)
        return logits + self.norm(logits.mean((2, 3), keepdim=True))

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(3, 1, 1)
        self.again = self.head
    def forward(self, images):
        return self.head(images) + self.again(images)

def build():
    return """


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("demand", CHECKS)
def test_the_suites_networks_do_what_is_asked_of_any(name, demand):
    told = CHECKS[demand](Subject(NETWORKS[name], (64, 64), 4))
    if demand == "other sizes":
        assert told == "96x128 as well"
    if demand == "gradients":  # a constant added to every key of a softmax cancels
        assert all(
            zero.endswith("key.bias")
            for zero in told.partition("; zero in ")[2].split(", ")
            if zero
        )


def own(folder, text: str) -> Subject:
    (folder / "networks").mkdir(exist_ok=True)
    (folder / "networks" / "own.py").write_text(text)
    return Subject(ModuleConfig(file="networks/own.py").at(folder), (32, 32), 4)


@pytest.mark.parametrize("returned", FAULTS)
def test_a_network_that_does_not_is_told_what_to_do(tmp_path, returned):
    demand, told = FAULTS[returned]
    with pytest.raises(UserError, match=told):
        CHECKS[demand](own(tmp_path, BROKEN + returned))


def test_cost_counts_parameters_arithmetic_and_what_a_step_keeps(tmp_path):
    subject = own(
        tmp_path, "from torch import nn\ndef build(): return nn.Conv2d(3, 1, 1, bias=False)"
    )
    told = CHECKS["cost"](subject)
    # 3 weights; at each of 32x32 pixels 3 products and 3 sums
    assert told.startswith(f"3 parameters, {6 * 32 * 32 / 1e9:.3g} GFLOP an image, about ")
    # The layer keeps its images, 3 channels of 4 bytes, and the loss no more than 4 maps of one.
    megabytes = float(told.partition("about ")[2].partition(" MB")[0])
    image, maps = 3 * 32 * 32 * 4 / 1e6, 4 * 32 * 32 * 4 / 1e6
    assert 4 * image - 0.05 < megabytes < 4 * (image + maps) + 0.05


def test_every_demand_is_told_on_a_line_and_a_fault_is_exit_status_1(
    tiny_study, monkeypatch, capsys
):
    study = tiny_study
    own(study.folder, BROKEN + "Tied()")
    variant = study.variants[0]
    change_params(models={variant: {"family": "module", "file": "networks/own.py"}})
    monkeypatch.setattr(sys, "argv", ["check_network", str(study.folder), variant])
    with pytest.raises(SystemExit) as status:
        check_network.main()
    assert status.value.code == 1
    told = capsys.readouterr()
    verdicts = {line[:18].strip(): line[19:30].strip() for line in told.out.splitlines()}
    assert verdicts == dict.fromkeys(CHECKS, "passed") | {"file of weights": "FAILED"}
    assert told.err == f"{variant}: 1 to be mended\n"


def test_without_the_extra_the_export_is_not_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(
        contract, "find_spec", lambda name: None if name == "onnx" else find_spec(name)
    )
    subject = own(tmp_path, "from torch import nn\ndef build(): return nn.Conv2d(3, 1, 1)")
    (last,) = [found for found in contract.check(subject) if found.name == "ONNX"]
    assert last.passed is None
    assert "pip install lesion-ablation[export]" in last.told


def test_what_only_its_forward_pass_imports_is_no_reason_to_pass(tmp_path):
    subject = own(tmp_path, BROKEN + "Broken('logits + __import__(\"nowhere\").x')")
    found = list(contract.check(subject))
    assert [each.name for each in found] == list(CHECKS)
    assert found[0].passed is False
    assert "No module named 'nowhere'" in found[0].told
    assert {(each.passed, each.told) for each in found[1:]} == {(None, "mend the shape first")}


def test_a_network_of_one_size_alone_is_no_fault(tmp_path):
    subject = own(tmp_path, BROKEN + "Broken('logits + torch.zeros(32, 32)')")
    assert CHECKS["other sizes"](subject) == "this size alone, not 64x96 (RuntimeError): no fault"
