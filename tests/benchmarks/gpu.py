"""Every check and benchmark that wants a GPU, in one table, in under 8 minutes.

`python tests/benchmarks/gpu.py [--prepared FOLDER] [--device cpu] [--small]`

Needs torch, torchvision (with Pillow), numpy, pandas, pydantic, joblib and safetensors beside the
sources; segmentation_models_pytorch is compared with, and albumentations flips, where they are
installed. `--small` with `--device cpu` runs every part at a size that shows nothing but that it
works. FOLDER holds arrays that the stage preprocess wrote: one variant is trained on it.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

os.environ.setdefault("TQDM_DISABLE", "1")  # its bars would stand between the rows
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
    Augmentation,
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
from pipeline.engine.batches import ResidentCases  # noqa: E402
from pipeline.engine.compute import autocast, choose_dtype, make_deterministic, to_input  # noqa: E402
from pipeline.engine.prepared import PreparedCases  # noqa: E402
from pipeline.study.blocks import Focal  # noqa: E402
from pipeline.training import loop  # noqa: E402
from pipeline.training.resume import ResumeFile  # noqa: E402
from pipeline.training.state import Training  # noqa: E402
from pipeline.training.step import Step  # noqa: E402

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
FOCAL = Focal(alpha=0.25, gamma=2.0)
FLIPS: Augmentation = (  # the paper's, where albumentations is installed
    [{"HorizontalFlip": {"p": 0.5}}, {"VerticalFlip": {"p": 0.5}}]
    if importlib.util.find_spec("albumentations")
    else []
)
STEPS = 8  # of a training between two looks at the clock
PAPER = {"seeds": 10, "epochs": 10, "cases": 2594}  # of ISIC 2018's training split


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

    def rate(self, steps: Iterator[object], images: int, *, warm_up: int = 2) -> float:
        """Images a second over some seconds, after some steps to warm up."""
        for _ in range(warm_up):
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
        return counted(build_model(config), side)


def counted(model: nn.Module, side: int) -> float:
    with (
        torch.device("meta"),
        FlopCounterMode(display=False) as counter,
        sdpa_kernel(SDPBackend.MATH),
    ):
        model.to("meta").eval()(torch.zeros(1, 3, side, side))
    return counter.get_total_flops() / 1e9


def protocol_of(bench: Bench, epochs: int = 1) -> SimpleNamespace:
    """As much of a study as `fit` reads."""
    train = PROTOCOL.model_copy(
        update={"epochs": epochs, "batch_size": bench.batch, "augmentation": FLIPS}
    )
    pictures = SimpleNamespace(size=(bench.side, bench.side))
    return SimpleNamespace(
        train=train, train_key="train", focal=FOCAL, loader_workers=0, prepare=pictures
    )


@contextmanager
def without(*, graphs: bool = False, residence: bool = False) -> Iterator[None]:
    """Train without recorded steps, or with the loader's batches."""
    before = (loop.Step, ResidentCases.fits)

    class Plain(Step):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)
            self.captures = False

    if graphs:
        loop.Step = Plain
    if residence:
        ResidentCases.fits = staticmethod(lambda *_: False)
    try:
        yield
    finally:
        loop.Step, ResidentCases.fits = before[0], staticmethod(before[1])


def bits(model: nn.Module) -> Tensor:
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


def check_outputs(bench: Bench) -> Rows:
    """Ours against the written-out formula; trainings that must end in the same bits."""
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
    cases = drawn_cases(4 * bench.batch + 3, bench.side)  # an odd last batch
    cases.table.loc[[0, 1], "split"] = "validation"

    def trained(config: NetworkConfig, epochs: int = 1) -> Tensor:
        model = bench.network(config)
        loop.fit(model, cases, protocol_of(bench, epochs), seed=0)
        return bits(model)

    def told(what: str, one: Tensor, other: Tensor) -> None:
        rows.append((f"{what}, equal to the bit", "yes" if torch.equal(one, other) else "NO"))

    for name, config in VARIANTS.items():
        one = trained(config)
        told(f"two deterministic trainings of {name}", one, trained(config))
        with without(graphs=True):
            told("  with and without CUDA graphs", one, trained(config))
    with without(residence=True):
        told("  cases on the device and from the loader", one, trained(config))
    told("  interrupted after an epoch and in one go", trained(LIMIT, 2), resumed(bench, cases))
    return rows


def resumed(bench: Bench, cases: PreparedCases) -> Tensor:
    """The limit variant after two epochs, of which each had a process's beginning."""

    class InterruptionError(Exception):
        pass

    def interrupt(epoch: int, _: object) -> None:
        if epoch == 1 and not done:
            done.append(epoch)
            raise InterruptionError

    done: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.safetensors"
        while True:
            model = bench.network(LIMIT)
            state = ResumeFile(path, {"same": "one"}, bench.device)
            try:
                loop.fit(model, cases, protocol_of(bench, 2), 0, interrupt, state)
            except InterruptionError:
                continue
            return bits(model)


def step_of(bench: Bench, model: nn.Module, *, graphs: bool = True) -> Step:
    """The suite's training step."""
    model.train()
    protocol = protocol_of(bench).train
    step = Step(Training.start(model, protocol, 10**6), protocol, FOCAL, bench.dtype)
    step.captures &= graphs
    return step


def own_steps(bench: Bench, step: Step) -> Iterator[None]:
    """Training steps on one batch that lies on the device, STEPS at a time."""
    images, masks = bench.random_batch(bench.batch, bench.side)
    batch = images, masks.to(torch.uint8)
    while True:
        for _ in range(STEPS):
            step(batch)
        yield


def waits_for_nothing(bench: Bench) -> str:
    """Whether the steps after the first are queued without a wait, as CUDA tells."""
    if bench.device.type != "cuda":
        return "not asked on a CPU"
    step = step_of(bench, bench.network(LIMIT))
    steps = own_steps(bench, step)
    next(steps)
    if step.captured is None:
        return "NO, not recorded"
    torch.cuda.set_sync_debug_mode("error")
    try:
        next(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "yes"


def training(bench: Bench) -> Rows:
    """Images a second of the limit variant and resunet, ours and others'."""
    rows: Rows = []
    cases = drawn_cases(bench.cases, bench.side)
    held = bench.random_batch(bench.batch, bench.side)

    def tell(what: str, images_per_second: float, base: float | None = None) -> float:
        ratio = "" if base is None else f" ({images_per_second / base:.2f} times)"
        rows.append((what, f"{images_per_second:.1f} images/s{ratio}"))
        return images_per_second

    def epochs(config: NetworkConfig = LIMIT, augmentation: Augmentation = FLIPS) -> float:
        steps = our_steps(bench.network(config), cases, bench.batch, augmentation)
        return bench.rate(steps, len(cases.table))

    def alone(config: NetworkConfig = LIMIT, *, graphs: bool = True) -> float:
        steps = own_steps(bench, step_of(bench, bench.network(config), graphs=graphs))
        return bench.rate(steps, STEPS * bench.batch)

    make_deterministic(True)
    rows.append(("a training step is recorded, and waits for nothing", waits_for_nothing(bench)))
    ours = tell("limit variant, ours, deterministic, with data", epochs())
    with without(graphs=True):
        tell("  without CUDA graphs", epochs(), ours)
    with without(residence=True):
        tell("  cases from the loader", epochs(), ours)
    make_deterministic(False)
    tell("  not deterministic", epochs(), ours)
    make_deterministic(True)
    step = tell("  step alone, one batch held on the device", alone(), ours)
    tell("  step alone, without CUDA graphs", alone(graphs=False), ours)
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
    make_deterministic(True)
    resunet = tell("resunet, step alone, deterministic", alone(AttenResUNetConfig()))
    name = torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else "CPU"
    peak = next((peak for known, peak in PEAKS.items() if known in name), None)
    if peak is not None:
        # The backward pass takes twice the forward pass's operations.
        for what, config, rate in (
            ("limit", LIMIT, step),
            ("resunet", AttenResUNetConfig(), resunet),
        ):
            share = 3 * gflops(config, bench.side) * rate / (1000 * peak)
            rows.append((f"model FLOP utilisation, {what}", f"{share:.1%} of {peak} TFLOP/s"))
    try:
        import segmentation_models_pytorch as smp
    except ImportError:
        rows.append(("smp's Unet(resnet34)", "not installed"))
        return rows
    make_deterministic(False)
    best = 0.0
    for how in ("", ", compiled") if bench.device.type == "cuda" and not bench.small else ("",):
        unet = smp.Unet("resnet34", encoder_weights=None).to(bench.device)
        unet = unet.to(memory_format=torch.channels_last)
        steps = network_steps(torch.compile(unet) if how else unet, held, bench.dtype)
        what = f"smp's Unet(resnet34), same precision, channels_last{how}"
        best = max(best, tell(what, bench.rate(steps, bench.batch)))
    arithmetic = gflops(AttenResUNetConfig(), 256) / unet_gflops(smp)
    make_deterministic(True)
    unet = smp.Unet("resnet34", encoder_weights=None).to(bench.device)
    unet = unet.to(memory_format=torch.channels_last)
    unet.capturable = True
    same = tell(
        "  by the suite's own step",
        bench.rate(own_steps(bench, step_of(bench, unet)), STEPS * bench.batch),
    )
    for what, other in (("smp's best (asked: 1.3)", best), ("smp by the suite's step", same)):
        rows.append((f"resunet against {what}", f"{resunet / other:.2f} times"))
        rows.append(("  for the same arithmetic", f"{resunet / other * arithmetic:.2f} times"))
    return rows


def unet_gflops(smp: ModuleType) -> float:
    return counted(smp.Unet("resnet34", encoder_weights=None), 256)


def variants(bench: Bench) -> Rows:
    """Parameters, GFLOPs, speed and memory of each; how long the paper's study takes."""
    rows: Rows = []
    peaks, seconds = {}, 0.0
    cases = drawn_cases(bench.cases, bench.side)
    for name, config in VARIANTS.items():
        steps = our_steps(bench.network(config), cases, bench.batch, FLIPS)
        trained = bench.rate(steps, len(cases.table))
        steps.close()
        seconds += PAPER["seeds"] * PAPER["epochs"] * PAPER["cases"] / trained
        model = bench.network(config)
        size = sum(weight.numel() for weight in model.parameters()) / 1e6
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
    if not bench.small:
        rows.append(
            (
                f"the paper's {len(VARIANTS) * PAPER['seeds']} runs, one at a time, training alone",
                f"{seconds / 60:.0f} minutes",
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


def several(bench: Bench) -> Rows:
    """Runs that share the device: processes with and without NVIDIA's MPS, and one process whose
    runs have a stream each."""
    counts = (1, 2) if bench.small else (1, 2, 3)
    rows: Rows = []
    base = 0.0

    def tell(what: str, rates: list[float]) -> None:
        nonlocal base
        base = base or sum(rates)
        rows.append((what, f"{sum(rates):.1f} images/s in sum ({sum(rates) / base:.2f} times)"))

    for count in counts:
        tell(f"limit, {count} processes at once", at_once(bench, count, {}))
    with mps(bench) as variables:
        for count in counts if variables else ():
            tell(f"limit, {count} processes at once, MPS", at_once(bench, count, variables))
    if not variables:
        rows.append(("limit, processes with MPS", "no nvidia-cuda-mps-control that starts here"))
    if bench.device.type == "cuda":
        for count in counts:
            tell(f"limit, one process, {count} streams", [streams(bench, count)])
    return rows


def at_once(bench: Bench, count: int, variables: dict[str, str]) -> list[float]:
    """Images a second of each of so many processes, which begin together."""
    command = [sys.executable, __file__, "--device", bench.device.type, "--alone"]
    processes = [
        subprocess.Popen(
            command + ["--small"] * bench.small,
            env=os.environ | variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    for process in processes:  # until it has warmed up
        while process.stdout.readline() not in ("ready\n", ""):
            pass
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    rates = [float(process.communicate()[0].split()[-1]) for process in processes]
    return rates


def train_alone(bench: Bench) -> None:
    """One of the processes of `at_once`: an epoch to warm up, then as many as go into the time."""
    make_deterministic(True)
    cases = drawn_cases(bench.cases, bench.side)
    steps = our_steps(bench.network(LIMIT), cases, bench.batch, FLIPS)
    next(steps)
    bench.synchronise()
    print("ready", flush=True)
    sys.stdin.readline()
    print(bench.rate(steps, len(cases.table), warm_up=0))


@contextmanager
def mps(bench: Bench) -> Iterator[dict[str, str]]:
    """NVIDIA's Multi-Process Service while it lasts: the variables of its users; none where it is
    not there."""
    control = shutil.which("nvidia-cuda-mps-control")
    if control is None or bench.device.type != "cuda":
        yield {}
        return
    with tempfile.TemporaryDirectory() as folder:
        variables = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        own = os.environ | variables
        started = subprocess.run([control, "-d"], env=own, timeout=30)
        try:
            yield variables if started.returncode == 0 else {}
        finally:
            subprocess.run([control], input="quit\n", text=True, env=own, timeout=60)


def streams(bench: Bench, count: int) -> float:
    """Images a second of one process that steps so many networks in turn, each on its stream."""
    trainings = [own_steps(bench, step_of(bench, bench.network(LIMIT))) for _ in range(count)]
    own = [torch.cuda.Stream(bench.device) for _ in trainings]

    def steps() -> Iterator[None]:
        while True:
            for stream, training in zip(own, trainings, strict=True):
                with torch.cuda.stream(stream):
                    next(training)
            yield

    return bench.rate(steps(), count * STEPS * bench.batch)


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
    make_deterministic(True)
    history = loop.fit(bench.network(LIMIT), cases, protocol_of(bench, epochs), seed=0)
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
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)  # see at_once
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device: give --device cpu --small to try the script")
    start = time.perf_counter()
    bench = Bench(torch.device(given.device), small=given.small)
    if given.alone:
        train_alone(bench)
        return []
    rows: Rows = [
        ("torch", torch.__version__),
        ("device", torch.cuda.get_device_name() if given.device == "cuda" else "CPU"),
        ("precision", str(bench.dtype)),
        ("images", f"{bench.side}x{bench.side}, batch {bench.batch}"),
    ]
    show(rows)
    parts: list[Callable[[], Rows]] = [
        partial(part, bench) for part in (check_outputs, training, variants, several)
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
