"""A trained network as ONNX and torch.export's graph, checked against it and timed."""

from __future__ import annotations

import contextlib
import io
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.config import CHANNELS, images_shape
from pipeline.data.synthetic import draw_image
from pipeline.deployment.loading import TrainedRun
from pipeline.deployment.measurements import SCHEMA_VERSION, Exported, Latency
from pipeline.engine.compute import processor, to_input
from pipeline.engine.weights import channels_last
from pipeline.study.errors import UserError

TOLERANCE = 1e-4  # of a probability; float32 in another order of additions gives 1e-6
ADVICE = "; a study goes on without it: take the variant out of export in its params.yaml"
OPSET = 18  # the oldest that torch's exporter writes; ONNX Runtime 1.14 of February 2023 reads it
# Where a graph's nodes come from: lines of code and their files' paths on this machine.
TRACES = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node")
WARMING, CALLS = 2, 20  # calls with one image: before the clock, and timed
Shape = tuple[int, ...]  # height and width of an image, of a volume depth before them
Call = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # pictures -> probabilities


class Segmenter(nn.Module):
    """The network between what a user has and what a user wants.

    forward(images): (N, H, W, 3) uint8 RGB -> probabilities (N, H, W) float32, or grey volumes
    (N, D, H, W, 1) -> (N, D, H, W).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(to_input(images, images.device))
        return logits.squeeze(1).sigmoid()


@contextlib.contextmanager
def _quiet() -> Any:
    """Pass over what the exporters tell their own authors: progress, deprecations, opset talk."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def empty_images(count: int, size: Shape) -> Tensor:
    """What a Segmenter takes, all black."""
    return torch.zeros(count, *size, CHANNELS[len(size)], dtype=torch.uint8)


def export_program(segmenter: Segmenter, size: Shape) -> torch.export.ExportedProgram:
    """The network as torch.export's graph, for any number of images of that size."""
    # In plain memory: which layout is the fastest is for those to say that run the graph.
    segmenter.to(memory_format=torch.contiguous_format).eval()
    example = empty_images(2, size)  # one would be taken for always one
    batch = {"images": {0: torch.export.Dim("batch")}}
    with _quiet():
        program = torch.export.export(segmenter, (example,), dynamic_shapes=batch)
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                for name in TRACES:
                    node.meta.pop(name, None)
    return program


def save_program(program: torch.export.ExportedProgram, path: Path) -> None:
    with _quiet(), path.open("wb") as file:
        torch.export.save(program, file)


def save_onnx(
    program: torch.export.ExportedProgram, path: Path, metadata: dict[str, str]
) -> dict[str, int]:
    """Write the graph as ONNX, one file; returns its opset and IR version, the oldest that can be.
    Raises UserError without the packages of [export]."""
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError:
        raise missing() from None
    with _quiet():
        written = torch.onnx.export(
            program,
            input_names=["images"],
            output_names=["probabilities"],
            dynamo=True,
            opset_version=OPSET,
            verbose=False,
        )
        assert written is not None
        model = written.model
        for node in model.graph.all_nodes():
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()
        model.graph.metadata_props.clear()
        opsets = [onnx.helper.make_opsetid(*opset) for opset in model.opset_imports.items()]
        model.ir_version = onnx.helper.find_min_ir_version_for(opsets)
        model.metadata_props.update(metadata)
        written.save(path, external_data=False)
    return {"opset": model.opset_imports[""], "ir": model.ir_version}


def missing() -> UserError:
    return UserError("the packages of ONNX are missing: pip install lesion-ablation[export]")


def onnx_call(path: Path) -> Call:
    """model.onnx in ONNX Runtime on one core."""
    try:
        import onnxruntime
    except ImportError:
        raise missing() from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def call(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        probabilities: NDArray[np.float32] = session.run(None, {"images": images})[0]
        return probabilities

    return call


def torch_call(module: nn.Module) -> Call:
    @torch.no_grad()
    def call(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        probabilities: NDArray[np.float32] = module(torch.from_numpy(images)).numpy()
        return probabilities

    return call


def largest_difference(
    call: Call,
    eager: Call,
    size: Shape,
) -> float:
    """Of a probability, on one drawn image and on three at once."""
    pictures = np.stack([draw_image(0, number, size)[0] for number in range(3)])
    differences = [
        float(np.abs(call(some) - eager(some)).max()) for some in (pictures[:1], pictures)
    ]
    return max(differences)


def latencies(calls: Sequence[Call], size: Shape) -> list[float]:
    """Milliseconds that one image takes each of `calls`, the median of CALLS in turn, on one
    thread: what else the machine does then hits all alike, and the cores' number does not count."""
    picture = draw_image(0, 0, size)[0][None]
    seconds: list[list[float]] = [[] for _ in calls]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for number in range(WARMING + CALLS):
            for call, times in zip(calls, seconds, strict=True):
                start = time.perf_counter()
                call(picture)
                if number >= WARMING:
                    times.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return [1000 * statistics.median(times) for times in seconds]


def export(run: TrainedRun, out: Path) -> Exported:
    """Write model.onnx and model.pt2 of `run` into `out`, a folder. Raises UserError where one
    cannot be made, or does not compute what the network does."""
    network = run.load(torch.device("cpu"))
    segmenter = Segmenter(network)
    files = {"model.onnx": out / "model.onnx", "model.pt2": out / "model.pt2"}
    try:
        program = export_program(segmenter, run.size)
        onnx = save_onnx(program, files["model.onnx"], describe(run))
        save_program(program, files["model.pt2"])
    except UserError:
        raise
    except Exception as error:  # torch's, of any kind: not every network has a graph
        told = shorten(str(error), 300) or type(error).__name__
        raise UserError(f"{run.label} cannot be exported ({told}){ADVICE}") from None
    with _quiet():
        loaded = torch.export.load(files["model.pt2"]).module()
    eager = torch_call(channels_last(segmenter))
    calls = {
        "model.onnx": onnx_call(files["model.onnx"]),
        "model.pt2": torch_call(loaded),
    }
    differences = {name: largest_difference(call, eager, run.size) for name, call in calls.items()}
    for name, difference in differences.items():
        if not difference <= TOLERANCE:
            raise UserError(
                f"{name} of {run.label} differs from the network by {difference:.2g}, more than "
                f"{TOLERANCE:g}: nothing is written; try other versions of torch and "
                f"onnxscript{ADVICE}"
            )
    milliseconds = latencies([eager, *calls.values()], run.size)
    return Exported(
        schema_version=SCHEMA_VERSION,
        variant=run.variant,
        seed=run.seed,
        fold=run.fold,
        depth=run.size[0] if len(run.size) == 3 else None,
        height=run.size[-2],
        width=run.size[-1],
        weights_sha256=run.record["weights_sha256"],
        network_sources=run.network_sources,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        onnx=onnx,
        bytes={
            "weights.safetensors": run.weights.stat().st_size,
            **{name: path.stat().st_size for name, path in files.items()},
        },
        largest_difference=differences,
        latency_milliseconds=Latency(
            eager=milliseconds[0], onnxruntime=milliseconds[1], exported_program=milliseconds[2]
        ),
        processor=processor(),
        versions={name: version(name) for name in ("torch", "onnx", "onnxruntime")},
    )


def describe(run: TrainedRun) -> dict[str, str]:
    """What stands in model.onnx beside the graph."""
    lengths, sides = ", ".join(map(str, run.size)), "x".join(map(str, run.size))
    kind, axes = "skin lesion in a dermoscopic picture", "height x width"
    if len(run.size) == 3:
        kind, axes = "lesion in a volume", "depth x height x width"
    return {
        "description": f"Marks the {kind}. Not a medical device.",
        "images": f"uint8 {images_shape(run.size)}, 0 to 255; normalised inside",
        "probabilities": f"float32 (N, {lengths}), of lesion",
        "resize": f"{run.resize} to {sides} ({axes}), Pillow's BILINEAR",
        "variant": run.variant,
        "seed": str(run.seed),
        "fold": str(run.fold),
        "study": str(run.record.get("study")),
        "commit": str(run.record.get("commit")),
        "weights_sha256": run.record["weights_sha256"],
        **{f"sha256 of {name}": found for name, found in run.network_sources.items()},
    }
