"""Export a trained network for use without this project:

    python -m pipeline.export <run folder or MLflow URI> --out <folder> [--results results.json]

In the folder: model.onnx (ONNX Runtime and its kin), model.pt2 (torch.export), model-card.md and
export.json (sizes, CPU latency; see pipeline/deployment/measurements.py). Both networks take
pictures of uint8 RGB, any number at once, and give probabilities: the normalisation is inside. They
are checked against the network that was trained before they are written.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from pipeline.deployment.graphs import export
from pipeline.deployment.loading import opened
from pipeline.deployment.measurements import save_exported
from pipeline.deployment.outputs import LOCK, check_new
from pipeline.reporting.modelcard import check_results, write_card
from pipeline.statistics.results import load_results
from pipeline.study.errors import UserError, run_command
from pipeline.study.files import replacing
from pipeline.study.locks import is_held, owning


def main() -> None:
    arguments = parse()
    check_new(arguments.out)
    out: Path = arguments.out.resolve()  # a link stays, and leads to what is written
    if out.is_mount():
        raise UserError(f"{out} is a mount, which cannot be replaced: name a folder below it")
    results = None if arguments.results is None else load_results(arguments.results)
    with opened(arguments.run) as (run,), owning(out), replacing(out) as folder:
        check_unused(out)  # another process may have been faster
        check_results(run, results)  # before the minute that an export takes
        folder.mkdir()
        exported = export(run, folder)
        save_exported(folder / "export.json", exported)
        card = write_card(run, exported, results)
        (folder / "model-card.md").write_text(card, encoding="utf-8")
        check_unused(out)  # as late as can be: what is there is removed
    milliseconds = exported.latency_milliseconds
    print(
        f"export: {run.label} in {out}: model.onnx {exported.bytes['model.onnx'] / 1e6:.1f} MB, "
        f"{milliseconds.onnxruntime:.1f} ms an image (PyTorch {milliseconds.eager:.1f}), at most "
        f"{exported.largest_difference['model.onnx']:.1g} off"
    )


def check_unused(out: Path) -> None:
    """Raise UserError unless `out` is new or empty, and no predict has begun in it."""
    check_new(out)
    if is_held(out / LOCK):
        raise UserError(f"{out} is being written by another process: name another folder")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.export",
        description="Export a trained network: model.onnx, model.pt2, model-card.md, export.json.",
    )
    parser.add_argument(
        "run",
        help="a run folder, runs/<variant>/<seed>/<fold>, or runs:/... or models:/... of MLflow",
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder of the exports")
    parser.add_argument(
        "--results",
        type=Path,
        help="the study's reports/results.json: the card then has metrics over seeds, with "
        "intervals; without it those of this run",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run_command(main)
