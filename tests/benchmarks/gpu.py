"""Every check and benchmark that wants a GPU, in one table, in under 8 minutes.

`python tests/benchmarks/gpu.py [--prepared FOLDER] [--device cpu] [--small]`

Needs torch, torchvision (with Pillow), numpy, pandas, pydantic and safetensors beside the sources;
segmentation_models_pytorch is compared with where it is installed. `--small` with `--device cpu`
runs every part at a size that shows nothing but that it works. FOLDER holds arrays that the stage
preprocess wrote: one variant is trained on it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]


def stand_in() -> None:
    """Empty progress bars and YAML where the packages are missing: nothing here needs them."""
    try:
        import tqdm
    except ImportError:

        class Bar:
            def __init__(self, items=(), *_: object, **__: object) -> None:
                self.items = items

            def __iter__(self) -> Iterator[object]:
                return iter(self.items)

            def __enter__(self) -> object:
                return self

            def __exit__(self, *_: object) -> None:
                pass

            def __getattr__(self, _: str) -> Callable[..., None]:
                return lambda *_, **__: None

        tqdm = ModuleType("tqdm")
        tqdm.__spec__ = ModuleSpec("tqdm", None)  # torch asks for it
        tqdm.tqdm = Bar
        sys.modules["tqdm"] = tqdm
    try:
        import yaml
    except ImportError:

        class Loader:
            @classmethod
            def add_implicit_resolver(cls, *_: object) -> None:
                pass

        yaml = ModuleType("yaml")
        yaml.__spec__ = ModuleSpec("yaml", None)
        yaml.SafeLoader, yaml.YAMLError, yaml.MarkedYAMLError = Loader, ValueError, ValueError
        sys.modules["yaml"] = yaml


stand_in()

import torch  # noqa: E402
from reference import (  # noqa: E402
    LIMIT,
    PROTOCOL,
    drawn_cases,
    largest_difference,
    network_steps,
    our_steps,
    plain_network,
    plain_steps,
    write_photographs,
)
from torch import Tensor, nn  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from models import NetworkConfig, build_model  # noqa: E402
from models.attenresunet import AttenResUNetConfig  # noqa: E402
from pipeline.engine.compute import autocast, choose_dtype, make_deterministic, to_input  # noqa: E402
from pipeline.engine.prepared import PreparedCases  # noqa: E402
from pipeline.study.blocks import Focal  # noqa: E402
from pipeline.training import loop  # noqa: E402

# Dense bfloat16 TFLOP/s by the makers' data sheets, of the first name that the device's contains.
PEAKS = {
    "H200": 989,
    "H100 PCIe": 756,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L4": 121,
    "A10": 125,
    "RTX 4090": 165,
    "V100": 125,
    "T4": 65,
}

VARIANTS = {
    "limit_encoder_attention": LIMIT,
    "encoder_attention": AttenResUNetConfig(encoder_attention=(1, 2, 3, 4)),
    "gated_attention": AttenResUNetConfig(decoder_gates=True),
    "encoder_and_gated_attention": AttenResUNetConfig(
        encoder_attention=(1, 2, 3, 4), decoder_gates=True
    ),
    "resunet": AttenResUNetConfig(),
    "attention_unet": AttenResUNetConfig(encoder="plain", decoder_gates=True),
    "unet": AttenResUNetConfig(encoder="plain"),
}

Rows = list[tuple[str, str]]
WIDTH = 72  # of the table's first column


class Bench:
    """What is measured on, and how long."""

    def __init__(self, device: torch.device, *, small: bool) -> None:
        self.device = device
        self.side, self.batch = (32, 2) if small else (256, 16)
        self.cases, self.seconds = (4, 0.0) if small else (256, 5.0)
        self.small = small
        self.dtype = choose_dtype(device, "auto")

    def network(self, config: NetworkConfig) -> nn.Module:
        torch.manual_seed(0)
        return build_model(self.sized(config)).to(self.device).to(memory_format=torch.channels_last)

    def sized(self, config: NetworkConfig) -> NetworkConfig:
        return replace(config, encoder="plain", plain_width=4) if self.small else config

    def random_batch(self, batch: int, side: int) -> tuple[Tensor, Tensor]:
        images = torch.randint(256, (batch, side, side, 3), dtype=torch.uint8, device=self.device)
        return images, images[..., 0] > 127

    def synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def rate(self, steps: Iterator[object], images: int) -> float:
        """Images a second over some seconds, after two steps to warm up."""
        for _ in range(2):
            next(steps)
        self.synchronise()
        start, done = time.perf_counter(), 0
        while done == 0 or time.perf_counter() - start < self.seconds:
            next(steps)
            self.synchronise()
            done += images
        return done / (time.perf_counter() - start)

    def peak_memory(self, config: NetworkConfig, batch: int, side: int) -> int:
        """Bytes that one training step holds at most; 0 on a CPU, which does not count them."""
        if self.device.type != "cuda":
            next(network_steps(self.network(config), self.random_batch(batch, side), self.dtype))
            return 0
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        steps = network_steps(self.network(config), self.random_batch(batch, side), self.dtype)
        next(steps)
        next(steps)
        return torch.cuda.max_memory_allocated(self.device)


def gflops(config: NetworkConfig, side: int) -> float:
    """Of one forward pass of one image; multiply and add counted apart."""
    with torch.device("meta"):
        model = build_model(config).eval()
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            model(torch.zeros(1, 3, side, side))
    return counter.get_total_flops() / 1e9


def check_outputs(bench: Bench) -> Rows:
    """Ours against the written-out formula, and a training repeated."""
    model = bench.network(LIMIT)
    plain = plain_network(bench.sized(LIMIT), like=model)
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    difference = largest_difference(model, plain, bench.side)
    torch.backends.cudnn.allow_tf32 = before
    if not difference < 1e-4:
        raise RuntimeError(f"our logits differ from the plain network's by {difference}")
    make_deterministic(True)
    rows = [("logits against the written-out network, largest difference", f"{difference:.1e}")]
    for name, config in VARIANTS.items():
        weights = []
        for _ in range(2):
            model = bench.network(config)
            cases = drawn_cases(4 * bench.batch, bench.side)
            next(our_steps(model, cases, bench.batch, []))
            weights.append(torch.cat([weight.flatten() for weight in model.parameters()]))
        same = "yes" if torch.equal(*weights) else "NO"
        rows.append((f"two deterministic trainings of {name}, equal to the bit", same))
    return rows


def training(bench: Bench) -> Rows:
    """Images a second of the limit variant and resunet, ours and others'."""
    rows: Rows = []
    cases = drawn_cases(bench.cases, bench.side)
    held = bench.random_batch(bench.batch, bench.side)

    def tell(what: str, images_per_second: float, base: float | None = None) -> float:
        ratio = "" if base is None else f" ({images_per_second / base:.2f} times)"
        rows.append((what, f"{images_per_second:.1f} images/s{ratio}"))
        return images_per_second

    make_deterministic(True)
    ours = tell(
        "limit variant, ours, deterministic, data loading included",
        bench.rate(our_steps(bench.network(LIMIT), cases, bench.batch, []), len(cases.table)),
    )
    make_deterministic(False)
    tell(
        "  not deterministic",
        bench.rate(our_steps(bench.network(LIMIT), cases, bench.batch, []), len(cases.table)),
        ours,
    )
    make_deterministic(True)
    tell(
        "  step alone, one batch held on the device",
        bench.rate(network_steps(bench.network(LIMIT), held, bench.dtype), bench.batch),
        ours,
    )
    if bench.side == 256 and bench.device.type == "cuda":
        start = time.perf_counter()
        compiled = network_steps(torch.compile(bench.network(LIMIT)), held, bench.dtype)
        next(compiled)
        compiling = time.perf_counter() - start
        tell(f"  step alone, compiled ({compiling:.0f} s)", bench.rate(compiled, bench.batch), ours)
    model = bench.network(LIMIT)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_photographs(Path(folder), bench.batch)
        make_deterministic(False)
        plain = bench.rate(
            plain_steps(
                plain_network(bench.sized(LIMIT), like=model), paths, bench.side, bench.batch
            ),
            bench.batch,
        )
    tell("  the plain loop (asked: ours 4 times it)", plain)
    rows.append(("  ours against the plain loop", f"{ours / plain:.2f} times"))
    resunet = tell(
        "resunet, step alone, deterministic",
        bench.rate(
            network_steps(bench.network(AttenResUNetConfig()), held, bench.dtype), bench.batch
        ),
    )
    name = torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else "CPU"
    peak = next((peak for known, peak in PEAKS.items() if known in name), None)
    if peak is not None:
        # The backward pass takes twice the forward pass's operations.
        for what, config, rate in (
            ("limit", LIMIT, ours),
            ("resunet", AttenResUNetConfig(), resunet),
        ):
            share = 3 * gflops(config, bench.side) * rate / (1000 * peak)
            rows.append((f"model FLOP utilisation, {what}", f"{share:.1%} of {peak} TFLOP/s"))
    try:
        import segmentation_models_pytorch as smp
    except ImportError:
        rows.append(("smp's Unet(resnet34)", "not installed"))
        return rows
    unet = smp.Unet("resnet34", encoder_weights=None).to(bench.device)
    unet = unet.to(memory_format=torch.channels_last)
    make_deterministic(False)
    other = bench.rate(network_steps(unet, held, bench.dtype), bench.batch)
    tell("smp's Unet(resnet34), same precision, channels_last", other)
    rows.append(("resunet against smp (asked: 1.3)", f"{resunet / other:.2f} times"))
    return rows


def variants(bench: Bench) -> Rows:
    """Parameters, GFLOPs, speed and memory of each."""
    rows: Rows = []
    peaks = {}
    for name, config in VARIANTS.items():
        model = bench.network(config)
        size = sum(weight.numel() for weight in model.parameters()) / 1e6
        steps = network_steps(model, bench.random_batch(bench.batch, bench.side), bench.dtype)
        trained = bench.rate(steps, bench.batch)
        inferred = bench.rate(forward_passes(bench, model), bench.batch)
        del model, steps
        peaks[name] = bench.peak_memory(config, bench.batch, bench.side)
        rows.append(
            (
                name,
                f"{size:.2f} M parameters, {gflops(bench.sized(config), bench.side):.1f} GFLOPs, "
                f"training {trained:.1f} and inference {inferred:.1f} images/s, peak "
                f"{peaks[name] / 2**30:.2f} GiB",
            )
        )
    if peaks["resunet"]:
        for name in VARIANTS:
            rows.append(
                (f"memory of {name} against resunet", f"{peaks[name] / peaks['resunet']:.3f}")
            )
        small, large = (bench.peak_memory(LIMIT, 4, side) for side in (256, 512))
        rows.append(
            ("memory of limit at 512x512 against 256x256", f"{large / small:.2f} (area: 4)")
        )
    return rows


def forward_passes(bench: Bench, model: nn.Module) -> Iterator[None]:
    images, _ = bench.random_batch(bench.batch, bench.side)
    model.eval()
    while True:
        with torch.no_grad(), autocast(bench.device, bench.dtype):
            model(to_input(images, bench.device))
        yield


def trained_on(bench: Bench, folder: Path, epochs: int) -> Rows:
    """The limit variant trained on prepared arrays by the suite's own fit."""
    cases = PreparedCases.open(folder)
    protocol = PROTOCOL.model_copy(update={"epochs": epochs, "batch_size": bench.batch})
    study = SimpleNamespace(
        train=protocol, focal=Focal(alpha=0.25, gamma=2.0), loader_workers="auto"
    )
    make_deterministic(True)
    history = loop.fit(bench.network(LIMIT), cases, study, seed=0)
    last = history.iloc[-1]
    return [
        (
            f"limit variant trained on {folder}, {len(history)} epochs",
            f"validation Dice {last['validation_dice']:.4f}, "
            f"{last['images_per_second']:.1f} images/s, {last['seconds']:.1f} s an epoch",
        )
    ]


def main(arguments: list[str] | None = None) -> Rows:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--small", action="store_true", help="every part, at a tiny size")
    parser.add_argument("--prepared", type=Path, help="a folder that the stage preprocess wrote")
    parser.add_argument("--epochs", type=int, default=2)
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device: give --device cpu --small to try the script")
    start = time.perf_counter()
    bench = Bench(torch.device(given.device), small=given.small)
    rows: Rows = [
        ("torch", torch.__version__),
        ("device", torch.cuda.get_device_name() if given.device == "cuda" else "CPU"),
        ("precision", str(bench.dtype)),
        ("images", f"{bench.side}x{bench.side}, batch {bench.batch}"),
    ]
    show(rows)
    parts: list[Callable[[], Rows]] = [
        partial(part, bench) for part in (check_outputs, training, variants)
    ]
    if given.prepared:
        parts.append(partial(trained_on, bench, given.prepared, given.epochs))
    failed = False
    for part in parts:  # each is told when it is done: the next may fail, or be stopped
        try:
            told = part()
        except Exception:
            traceback.print_exc()
            failed = True
            continue
        show(told)
        rows += told
    show([("all of this took", f"{time.perf_counter() - start:.0f} s")])
    if failed:
        raise SystemExit(1)
    return rows


def show(rows: Rows) -> None:
    for what, figure in rows:
        print(f"{what:<{WIDTH}}  {figure}", flush=True)


if __name__ == "__main__":
    main()
