"""Where and in which numbers networks compute: device, precision, seeds, input."""

from __future__ import annotations

import hashlib
import os
import platform
import resource
import sys
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.study.cores import usable_cores
from pipeline.study.errors import UserError
from pipeline.study.values import Precision

# Of ImageNet's images in [0, 1], as torchvision's pretrained encoders expect.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
Statistics = dict[int, tuple[Tensor, Tensor]]  # number of channels -> their mean and deviation


class NotFiniteError(UserError):
    """A network's loss or logits are NaN or infinite: the message says which, and what to try."""


def cpu_has(feature: str) -> bool:
    """Whether the processor names that feature; False where torch (before 2.12) cannot tell."""
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get(feature))


def avoid_broken_amx() -> None:
    """Keep oneDNN off AMX where using it kills the process.

    Some virtual machines name AMX among the processor's features and leave its tile palette (CPUID
    leaf 0x1D) empty; a bfloat16 product then ends in SIGILL. A forked child tries one: it takes
    milliseconds. oneDNN reads the variable once, at its first use, so this runs at import.
    """
    if "ONEDNN_MAX_CPU_ISA" in os.environ or not cpu_has("amx_bf16"):
        return
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        torch.set_num_threads(1)
        ones = torch.ones(64, 64, dtype=torch.bfloat16)
        torch.nn.functional.linear(ones, ones)
        os._exit(0)
    if os.waitpid(child, 0)[1] != 0:
        os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX512_CORE_BF16"


avoid_broken_amx()
if "OMP_NUM_THREADS" not in os.environ:
    # torch goes by affinity; in a container with a quota it would start a thread a core of the host
    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))


def choose_device() -> torch.device:
    """The GPU when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_dtype(device: torch.device, precision: Precision, dimensions: int = 2) -> torch.dtype:
    """What autocast computes in, on pictures or volumes. `auto` is bfloat16 where the hardware
    multiplies in it faster.

    Not on a processor with AMX that is kept off it: there the limit variant's training step took
    1.2 times float32's processor time, at 128x128 and at 256x256. And not for volumes: on a
    processor with AMX a loss became NaN within an epoch, on one without it stayed finite, and why
    is not known.
    """
    if precision == "auto":
        if dimensions > 2:
            good = False
        elif device.type == "cuda":
            good = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            kept_off = os.environ.get("ONEDNN_MAX_CPU_ISA", "").startswith("AVX")
            good = cpu_has("avx512_bf16") and not (cpu_has("amx_bf16") and kept_off)
        precision = "bfloat16" if good else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """The context for a forward pass; with float32 it does nothing."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def stream(
    seed: int, purpose: Literal["initialisation", "order", "augmentation", "dropout"]
) -> int:
    """A seed of its own for each use of randomness, so that one use cannot shift another."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8]) >> 1  # torch takes 63 bits


def make_deterministic(deterministic: bool = True) -> None:
    """Ask torch for repeatable kernels, or for the fastest.

    An operation that has no repeatable kernel then raises: with warnings alone torch would also
    take a GPU's faster attention, whose gradients do not repeat.
    """
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    if not deterministic:
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Filling fresh memory guards against kernels that read what they never wrote; it costs time and
    # changes no result of correct ones.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory held so far: on the GPU by torch, else by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def imagenet_statistics(device: torch.device) -> Statistics:
    """Mean and standard deviation of each channel of ImageNet's images in [0, 255], (3,) each, on
    `device`; for one channel, grey, the means of those."""
    mean, std = (torch.tensor(of, device=device) * 255 for of in (IMAGENET_MEAN, IMAGENET_STD))
    return {3: (mean, std), 1: (mean.mean(), std.mean())}


def to_input(images: Tensor, device: torch.device, statistics: Statistics | None = None) -> Tensor:
    """uint8 (N, H, W, 3) RGB, or volumes (N, D, H, W, 1) -> ImageNet-normalised float32 on
    `device`, the channels after N.

    The result's memory is channels_last, as the bytes came: the layout that convolutions are
    fastest in. statistics: `imagenet_statistics` of the device, for who calls this often. Of images
    in pinned memory nothing waits for the device.
    """
    scaled = images.to(device, non_blocking=True).movedim(-1, 1).float()
    known = (statistics or imagenet_statistics(device))[scaled.shape[1]]
    mean, std = (value.view(-1, *(1,) * (scaled.ndim - 2)) for value in known)
    return (scaled - mean) / std


def to_target(masks: Tensor, device: torch.device) -> Tensor:
    """uint8 in {0, 1} (N, ...) -> float32 (N, 1, ...) on `device`."""
    return masks.to(device, non_blocking=True).unsqueeze(1).float()


def processor() -> str:
    """The CPU's name, as its maker writes it; the machine's kind where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


@torch.no_grad()
def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """images (N, C, ...) -> logits (N, 1, ...). Raises UserError for what is none."""
    found = model(images)
    wanted = (len(images), 1, *images.shape[2:])
    if not isinstance(found, Tensor) or found.shape != wanted:
        what = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise UserError(
            f"images {tuple(images.shape)} must give logits {wanted}, got {what}: return one "
            "channel of the images' size, before the sigmoid"
        )
    return found
