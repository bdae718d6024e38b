"""engine/compute.py: device, precision, seeds, input."""

from __future__ import annotations

import os
import platform
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from pipeline.engine import compute

CPU = torch.device("cpu")


def test_input_equals_torchvisions_normalisation_and_is_channels_last():
    images = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (2, 8, 12, 3), dtype=np.uint8)
    )
    inputs = compute.to_input(images, CPU)
    reference = v2.Compose(
        [
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(compute.IMAGENET_MEAN, compute.IMAGENET_STD),
        ]
    )
    torch.testing.assert_close(inputs, reference(images.permute(0, 3, 1, 2)), rtol=0, atol=1e-5)
    assert inputs.is_contiguous(memory_format=torch.channels_last)


def test_volumes_in_grey_are_normalised_by_the_means_of_the_colours():
    volumes = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).view(2, 3, 4, 5, 1)
    inputs = compute.to_input(volumes, CPU)
    assert inputs.shape == (2, 1, 3, 4, 5)
    mean, std = (0.485 + 0.456 + 0.406) / 3, (0.229 + 0.224 + 0.225) / 3
    torch.testing.assert_close(inputs[:, 0], (volumes[..., 0] / 255 - mean) / std)
    assert compute.to_target(volumes[..., 0], CPU).shape == (2, 1, 3, 4, 5)


def test_target_is_one_float_channel():
    masks = torch.tensor([[[0, 1], [1, 0]]], dtype=torch.uint8)
    target = compute.to_target(masks, CPU)
    assert target.shape == (1, 1, 2, 2)
    assert target.dtype == torch.float32
    assert target.flatten().tolist() == [0, 1, 1, 0]


def test_each_purpose_of_a_seed_has_a_stream_of_its_own():
    streams = {
        compute.stream(seed, purpose)
        for seed in range(20)
        for purpose in ("initialisation", "order", "augmentation")
    }
    assert len(streams) == 60
    assert compute.stream(0, "order") == compute.stream(0, "order")
    assert all(0 <= value < 2**63 for value in streams)


def test_precision_auto_is_bfloat16_where_the_processor_computes_in_it(monkeypatch):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    for able, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(compute, "cpu_has", lambda feature, able=able: able)
        assert compute.choose_dtype(CPU, "auto") == expected
    assert compute.choose_dtype(CPU, "float32") == torch.float32
    assert compute.choose_dtype(CPU, "bfloat16") == torch.bfloat16


def test_precision_auto_is_float32_for_volumes_on_a_processor(monkeypatch):
    monkeypatch.setattr(compute, "cpu_has", lambda feature: True)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    assert compute.choose_dtype(CPU, "auto", 3) == torch.float32
    assert compute.choose_dtype(CPU, "bfloat16", 3) == torch.bfloat16


def test_precision_auto_is_float32_where_amx_is_broken(monkeypatch):
    monkeypatch.setattr(compute, "cpu_has", lambda feature: True)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
    assert compute.choose_dtype(CPU, "auto") == torch.float32


def test_precision_auto_asks_the_processor_for_bfloat16_by_its_name(monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")  # kept off AMX, where it has one
    for features, expected in (
        ({"avx512_bf16"}, torch.bfloat16),
        ({"avx512_bf16", "amx_bf16"}, torch.float32),
        ({"avx512_f", "amx_bf16"}, torch.float32),
    ):
        monkeypatch.setattr(compute, "cpu_has", features.__contains__)
        assert compute.choose_dtype(CPU, "auto") == expected, features


@pytest.mark.parametrize(("able", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_precision_auto_is_bfloat16_where_the_gpu_computes_in_it_itself(monkeypatch, able, dtype):
    def is_supported(including_emulation: bool = True) -> bool:
        return including_emulation or able

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    monkeypatch.setattr(compute, "cpu_has", lambda feature: not able)
    assert compute.choose_dtype(torch.device("cuda"), "auto") == dtype


@pytest.mark.parametrize(("there", "device"), [(True, "cuda"), (False, "cpu")])
def test_the_gpu_is_taken_where_there_is_one(monkeypatch, there, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert compute.choose_device() == torch.device(device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_forward_pass_computes_in_the_dtype_that_was_chosen(dtype):
    ones = torch.ones(2, 2)
    with compute.autocast(CPU, dtype):
        assert (ones @ ones).dtype == dtype


@pytest.mark.skipif(sys.platform != "linux", reason="the independent figure is Linux's")
def test_the_peak_of_memory_is_the_processs_in_bytes():
    status = Path("/proc/self/status").read_text()
    (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    assert compute.peak_memory_bytes(CPU) == pytest.approx(int(kib) * 1024, rel=0.02)


def test_the_peak_of_memory_on_a_gpu_is_torchs(monkeypatch):
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", {gpu: 7}.get)
    assert compute.peak_memory_bytes(gpu) == 7


def test_a_processor_has_the_features_that_torch_names(monkeypatch):
    named = {"amx_bf16": True, "avx512_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: named, raising=False)
    assert compute.cpu_has("amx_bf16")
    assert not compute.cpu_has("avx512_bf16")
    assert not compute.cpu_has("sve")
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # torch before 2.12
    assert not compute.cpu_has("amx_bf16")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize(
    ("features", "dies", "kept_to"),
    [
        ({"amx_bf16"}, True, "AVX512_CORE_BF16"),
        ({"amx_bf16"}, False, None),
        ({"avx512_bf16"}, True, None),
    ],
)
def test_onednn_is_kept_off_an_amx_that_kills_the_process(monkeypatch, features, dies, kept_to):
    def product(*given: torch.Tensor) -> None:
        other = [(one.shape, one.dtype) != ((64, 64), torch.bfloat16) for one in given]
        if dies or other != [False, False]:
            os.kill(os.getpid(), signal.SIGKILL)  # in the child

    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "to be put back")
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    monkeypatch.setattr(compute, "cpu_has", features.__contains__)
    monkeypatch.setattr(torch.nn.functional, "linear", product)
    compute.avoid_broken_amx()
    assert os.environ.get("ONEDNN_MAX_CPU_ISA") == kept_to


@pytest.mark.slow
def test_a_bfloat16_product_does_not_kill_the_process_on_this_machine():
    # On a machine that names AMX and lacks it this dies of SIGILL without avoid_broken_amx().
    code = (
        "import torch, pipeline.engine.compute as c\n"
        "ones = torch.ones(64, 64)\n"
        "with c.autocast(torch.device('cpu'), torch.bfloat16):\n"
        "    print(float(torch.nn.functional.linear(ones, ones).sum()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "262144.0"), done.stderr


def test_a_users_own_limit_of_onednn_is_left_alone(monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")

    def no_fork() -> int:
        raise AssertionError("a child was forked")

    monkeypatch.setattr(compute.os, "fork", no_fork)
    compute.avoid_broken_amx()
    assert compute.os.environ["ONEDNN_MAX_CPU_ISA"] == "AVX2"


def test_repeatable_kernels_are_asked_for_unless_told_otherwise(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    torch.utils.deterministic.fill_uninitialized_memory = True
    compute.make_deterministic()
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"  # as cuBLAS wants it
    assert not torch.utils.deterministic.fill_uninitialized_memory
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    compute.make_deterministic()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


CPUINFO = "processor\t: 0\nmodel name\t: A: 3 GHz\n\nprocessor\t: 1\nmodel name\t: B\n"


@pytest.mark.parametrize(
    ("cpuinfo", "system", "name"),
    [
        (CPUINFO, "x86", "A: 3 GHz"),
        ("processor\t: 0\nBogoMIPS\t: 50\n", "x86", "aarch64"),
        (None, "arm", "arm"),
        (None, "", "aarch64"),
    ],
)
def test_the_processor_is_told_by_its_makers_name(monkeypatch, cpuinfo, system, name):
    def read_text(path: Path) -> str:
        if cpuinfo is None or path != Path("/proc/cpuinfo"):
            raise FileNotFoundError
        return cpuinfo

    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr(platform, "processor", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert compute.processor() == name


@pytest.mark.parametrize("deterministic", [True, False])
def test_fastest_kernels_are_taken_only_when_asked_for(monkeypatch, deterministic):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        compute.make_deterministic(deterministic)
        assert torch.are_deterministic_algorithms_enabled() == deterministic
        assert torch.backends.cudnn.benchmark != deterministic
    finally:
        compute.make_deterministic()
