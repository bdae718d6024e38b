"""A run's model card: what the network is, what it was trained and tested on, and its limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import yaml

from models.config import images_shape
from pipeline.data.nifti import PERCENTILES
from pipeline.deployment.loading import TrainedRun
from pipeline.deployment.measurements import Exported
from pipeline.reporting.tables import DASH, number
from pipeline.statistics.definitions import METRICS
from pipeline.statistics.results import Estimate, Results
from pipeline.statistics.rounding import decimals_of
from pipeline.study.errors import UserError
from pipeline.study.values import escape_markdown, quantity

RESIZES = {
    "stretch": "stretched to that size, whatever its proportions",
    "center_crop": "cropped to the largest centred part of those proportions, then resized",
    "pad": "resized in its own proportions and centred, with black around it",
}
SOURCES = {
    "isic2018": "ISIC 2018 task 1, the official archives",
    "directory": "a folder of cases of the user's own",
    "synthetic": "**drawn lesions, of no patient: the figures say nothing about real ones**",
}
SKIN_LESION = "the skin lesion in a dermoscopic picture"
LIMITS = """\
- **Not a medical device.** It is a benchmark's network: no diagnosis, no treatment and no decision
  about a patient may rest on it. Nobody has approved it for clinical use.
- It marks where a lesion is and does not say what it is. All that it learned from show one: what it
  marks in an image without any means nothing.
- It learned from one outline a case; experts' outlines of one lesion differ.
- Its confidence tells how sure it is, not how right."""
LIMITS_OF_PICTURES = """\
- It was tested on pictures from the source that it was trained on. On other cameras, magnifications
  and skins (the public archives are mostly of light skin) it may do worse, and by how much is
  unknown.
- Hairs, rulers, ink, gel bubbles, colour patches and lesions that reach the picture's edge mislead
  it."""
LIMITS_OF_VOLUMES = """\
- It was tested on volumes from the source that it was trained on. On other scanners, sequences,
  spacings and regions of the body it may do worse, and by how much is unknown."""


def write_card(run: TrainedRun, exported: Exported, results: Results | None) -> str:
    """The card as Markdown. With `results`, of the run's study, its metrics are of a typical run,
    with intervals, and over all seeds; else this run's alone."""
    record = run.record
    params: dict[str, Any] = record["params"]
    source = params.get("data", {}).get("source", "unknown")
    synthetic, volumes = source == "synthetic", len(run.size) == 3
    lengths, pixel = ", ".join(map(str, run.size)), "voxel" if volumes else "pixel"
    lines = [
        f"# {escape_markdown(run.variant)}, seed {run.seed}, fold {run.fold}",
        "",
        f"A network that marks {'lesions in volumes' if volumes else SKIN_LESION}, of the study "
        f"{escape_markdown(str(record.get('study', 'unknown')))}. For research.",
        "",
        "**Not a medical device.**",
        "",
        "## How to use it",
        "",
        f"- Input `images`: uint8, {images_shape(run.size)}, any N. Values from 0 to "
        "255: the network's normalisation (ImageNet's mean and standard deviation) is inside.",
        f"- Output `probabilities`: float32, (N, {lengths}), of each {pixel} to be lesion"
        f"{_threshold(results)}.",
        *(_use_of_volumes() if volumes else _use_of_pictures(run)),
        "",
        f"`model.onnx` is of ONNX's opset {exported.onnx['opset']} and IR version "
        f"{exported.onnx['ir']}, the oldest that the network can be written in.",
        "",
        '`model.pt2` takes and gives the same: `torch.export.load("model.pt2").module()(images)`.',
        "",
        "## Network",
        "",
        f"{exported.parameters:,} parameters, weights sha256 `{exported.weights_sha256}`.",
        *(
            f"Its code: `{name}`, sha256 `{found}`."
            for name, found in exported.network_sources.items()
        ),
        "",
        "```yaml",
        yaml.safe_dump(_plain(asdict(run.config)), sort_keys=False).strip(),
        "```",
        "",
        "## Data and protocol",
        "",
        f"Data: {SOURCES.get(source, escape_markdown(str(source)))}; prepared data's fingerprint "
        f"`{record.get('data_fingerprint', 'unknown')}`. Trained for "
        f"{_quantity(record.get('epochs_trained'), 'epoch')}, kept the weights after "
        f"epoch {record.get('selected_epoch', 'unknown')}, at commit "
        f"`{record.get('commit', 'unknown')}`{' with changes' if record.get('dirty') else ''} on "
        f"{escape_markdown(str(record.get('device', 'an unknown device')))} in "
        f"{record.get('precision', 'unknown precision')}.",
        "",
        "```yaml",
        yaml.safe_dump(
            {key: _plain(params[key]) for key in params if key != "model"}, sort_keys=False
        ).strip(),
        "```",
        "",
        "## Metrics",
        "",
        *_metrics(run, results),
        "",
        *(
            ["**Synthetic lesions: these figures say nothing about real ones.**", ""]
            if synthetic
            else []
        ),
        "## Cost",
        "",
        *_costs(exported),
        "",
        "## Limits",
        "",
        LIMITS,
        LIMITS_OF_VOLUMES if volumes else LIMITS_OF_PICTURES,
        "",
    ]
    return "\n".join(lines)


def check_results(run: TrainedRun, results: Results | None) -> None:
    """Raise UserError for the results of another study, or of one without the run's variant."""
    if results is None:
        return
    study = results.study
    if study.name != run.record.get("study") or run.variant not in study.variants:
        raise UserError(
            f"the results are of the study {study.name!r} and its variants "
            f"{', '.join(study.variants)}; the run is of {run.record.get('study')!r}, "
            f"{run.variant!r}: name the results.json of its own study"
        )


def _plain(value: Any) -> Any:
    """Tuples as lists, which YAML has."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def _threshold(results: Results | None) -> str:
    if results is None:
        return ""
    return f"; above {results.params['evaluate']['threshold']:g} its study calls it lesion"


def _use_of_pictures(run: TrainedRun) -> list[str]:
    return [
        "- Before: a photograph that EXIF says is to be turned is turned upright. Then it is "
        f"{RESIZES[run.resize]}, by Pillow's `resize` with the filter `BILINEAR`. After: undo that "
        "on the probabilities, then threshold. `python -m pipeline.predict` does all of it.",
        "",
        "```python",
        "import numpy as np, onnxruntime",
        "from PIL import Image, ImageOps",
        "",
        'image = ImageOps.exif_transpose(Image.open("photograph.jpg")).convert("RGB")',
        *_resize_lines(run),
        'session = onnxruntime.InferenceSession("model.onnx")',
        'probabilities = session.run(None, {"images": np.asarray(picture)[None]})[0][0]',
        "```",
    ]


def _use_of_volumes() -> list[str]:
    low, high = PERCENTILES
    return [
        "- Before: the axes are put in the order depth (feet to head), height (back to front), "
        f"width (left to right). Intensities from the {low} to the {high} percentile become 0 to "
        "255. Then the volume is stretched to that size, linearly. After: undo that on the "
        "probabilities, then threshold. `python -m pipeline.predict` does all of it.",
        "",
        "```python",
        "import onnxruntime",
        "",
        'session = onnxruntime.InferenceSession("model.onnx")',
        'probabilities = session.run(None, {"images": volumes})[0]',
        "```",
    ]


def _resize_lines(run: TrainedRun) -> list[str]:
    height, width = run.size[-2:]
    resample = "Image.Resampling.BILINEAR"
    if run.resize == "stretch":
        return [f"picture = image.resize(({width}, {height}), {resample})"]
    if run.resize == "center_crop":
        return [f"picture = ImageOps.fit(image, ({width}, {height}), {resample})"]
    return [  # ImageOps.pad would round the margin's half up
        f"scale = min({width} / image.width, {height} / image.height)",
        "size = [max(1, round(scale * side)) for side in image.size]",
        f'picture = Image.new("RGB", ({width}, {height}))',
        f"corner = (({width} - size[0]) // 2, ({height} - size[1]) // 2)",
        f"picture.paste(image.resize(size, {resample}), corner)",
    ]


def _metrics(run: TrainedRun, results: Results | None) -> list[str]:
    if results is None:
        return _metrics_of_run(run)
    estimates = [one for one in results.estimates if one.variant == run.variant]
    seeds, cases = max(one.seeds for one in estimates), max(one.cases for one in estimates)
    own = next(
        (one.metrics for one in results.runs if (one.variant, one.seed) == (run.variant, run.seed)),
        {},
    )
    rows = [_figures(one, own.get(one.metric)) for one in estimates]
    titles = [title for title in rows[0] if any(row[title] != DASH for row in rows)]
    bounded = any(one.interval is not None for one in estimates)
    is_over = "It and its 95 % interval are over" if bounded else "It is over"
    return [
        f"On {quantity(cases, 'test case')}. A typical run is one that does not fail. {is_over} "
        f"{quantity(seeds, 'seed')} and the cases: what this variant, trained again, may be "
        "expected to reach. Mean and standard deviation are over all runs, failed ones with them. "
        "The last column is this file's network.",
        *_failures(run, results),
        "",
        _line(["Metric", *titles]),
        _line(["---", *["---:"] * len(titles)]),
        *(
            _line([_label(one), *(row[title] for title in titles)])
            for one, row in zip(estimates, rows, strict=True)
        ),
        "",
        *(
            f"- {escape_markdown(label)}: {escape_markdown(meaning)}"
            for label, meaning in results.study.definitions.items()
        ),
    ]


def _failures(run: TrainedRun, results: Results) -> list[str]:
    """How many of the variant's runs failed, and whether this one did; nothing of fewer than
    five."""
    found = next((one for one in results.failures if one.variant == run.variant), None)
    if found is None or found.interval is None:
        return []
    label = METRICS[results.comparison.metric].label
    lines = [
        "",
        f"Failed, more than {found.drop:.4g} {label} below the variant's upper quartile: "
        f"{len(found.failed)} of {quantity(found.runs, 'run')}.",
    ]
    if run.seed in found.failed:
        lines += ["", "**This network is of a run that failed.**"]
    return lines


def _label(estimate: Estimate) -> str:
    return METRICS[estimate.metric].label if estimate.metric in METRICS else estimate.metric


def _figures(estimate: Estimate, own: float | None) -> dict[str, str]:
    """Title -> figure, with as many decimals as the metric's interval or deviation allows."""
    interval, digits = estimate.interval, decimals_of([estimate], spread=True)
    bounds = DASH
    if interval is not None:
        bounds = f"{number(interval.low, digits)} to {number(interval.high, digits)}"
    return {
        "Typical run": number(estimate.typical, digits),
        "95 % interval": bounds,
        "Mean over seeds": number(estimate.mean, digits),
        "Standard deviation": number(estimate.standard_deviation, digits),
        "This network": number(own, digits),
    }


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _metrics_of_run(run: TrainedRun) -> list[str]:
    if run.metrics is None:
        return ["This network was not evaluated: nothing is known of how well it does."]
    return [
        f"On {_quantity(run.metrics.get('cases'), 'test case')}, this network alone: "
        "one run, no interval. Another seed gives other figures: an export with `--results` has "
        "them.",
        "",
        "| Metric | This network |",
        "| --- | ---: |",
        *(
            f"| {metric.label} | {number(run.metrics[name])} |"
            for name, metric in METRICS.items()
            if name in run.metrics
        ),
    ]


def _costs(exported: Exported) -> list[str]:
    latency = exported.latency_milliseconds
    return [
        f"One image on one core of {escape_markdown(exported.processor)}, float32, median:",
        "",
        "| File | Megabytes | Milliseconds | Largest difference from PyTorch |",
        "| --- | ---: | ---: | ---: |",
        f"| PyTorch, weights.safetensors | {exported.bytes['weights.safetensors'] / 1e6:.1f} | "
        f"{latency.eager:.1f} | {DASH} |",
        *(
            f"| {file} | {exported.bytes[file] / 1e6:.1f} | {milliseconds:.1f} | "
            f"{exported.largest_difference[file]:.1g} |"
            for file, milliseconds in (
                ("model.onnx", latency.onnxruntime),
                ("model.pt2", latency.exported_program),
            )
        ),
        "",
        "Versions: "
        + ", ".join(f"{name} {version}" for name, version in exported.versions.items())
        + ".",
    ]


def _quantity(number: float | None, noun: str) -> str:
    return f"an unknown number of {noun}s" if number is None else quantity(int(number), noun)
