"""Make a study's folder, or renew its copy of the pipeline.

`python -m pipeline.new_study <folder> --data <cases> | --like <study>`; `--renew [<folder>]`
"""

from __future__ import annotations

import argparse
import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from nibabel.filebasedimages import ImageFileError
from nibabel.loadsave import load
from nibabel.nifti1 import Nifti1Image
from nibabel.orientations import io_orientation
from PIL import Image
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline import ROOT
from pipeline.data.nifti import WRONG
from pipeline.data.raw import (
    IMAGE_SUFFIXES,
    VOLUME_SUFFIXES,
    Finding,
    RawCase,
    find_cases,
    mask_names,
)
from pipeline.data.slices import AXES
from pipeline.study.errors import UserError, run_command, warn
from pipeline.study.files import replacing
from pipeline.study.locks import owning
from pipeline.study.params import Study
from pipeline.study.reading import load_study
from pipeline.study.values import SPLITS, Split, extent, quantity

FEWEST = 9  # cases: three folds of three
SMALLEST = 3  # cases of a split that tell anything apart
FEW = 10  # cases of a split below which its figures say little
RUNS = 10  # of a variant, over seeds and folds: fewer settle little (docs/verdict.md)
LONGEST = 256  # pixels of a prepared side: the paper's
LONGEST_OF_VOLUME = 128  # voxels
BATCH_OF_VOLUMES = 4
BATCH_VOXELS = 2**20  # as many as pixels in a batch of the paper's pictures; one volume has to fit
CONFIG = """[core]
    analytics = false
    check_update = false
    autostage = false
[cache]
    # One for all studies: what two of them have in common is computed and kept once.
    dir = {cache}
    # Outputs share their bytes with the cache wherever the file system can.
    type = "reflink,hardlink,copy"
"""


class Counted(NamedTuple):
    """What was counted of a folder of cases: `official`, cases of each official split, none where
    the layout has no splits or one has next to no cases; `size`, the medians of height and width in
    pixels, or of depth, height and width in voxels."""

    cases: int
    official: dict[Split, int]
    size: tuple[int, ...]

    @property
    def of_volumes(self) -> bool:
        return len(self.size) == 3


def count_cases(folder: Path) -> Counted:
    """Raises UserError for a folder with too few cases to be divided, or with pictures and volumes
    in it."""
    cases, findings, measure = _find(folder)
    if len(cases) < FEWEST:
        told = ""
        if findings:
            told = f"; {quantity(len(findings), 'file')} outside of any case, such as {findings[0]}"
        if any(finding.defect == "missing mask" for finding in findings):
            told += f"; {mask_names(findings)}"
        raise UserError(
            f"{folder} must hold at least {FEWEST} cases, in images/ and masks/ or in the folders "
            f"of the official archives, got {len(cases)}{told}"
        )
    sizes = [size for case in cases if (size := measure(case.image)) is not None]
    if not sizes:
        raise UserError(f"{folder}: none of its images can be read, such as {cases[0].image}")
    medians = (sorted(side)[len(sizes) // 2] for side in zip(*sizes, strict=True))
    counts = Counter(case.split for case in cases)
    official = {split: counts[split] for split in SPLITS if counts[split]}
    if counts[None] or len(official) < len(SPLITS) or min(official.values()) < SMALLEST:
        official = {}
    return Counted(len(cases), official, tuple(medians))


Measure = Callable[[Path], tuple[int, ...] | None]  # what is None, preprocess tells of


def _find(folder: Path) -> tuple[list[RawCase], list[Finding], Measure]:
    """The folder's cases, of pictures or of volumes, as find_cases has them, and what measures
    their images."""
    cases, findings = find_cases(folder)
    volumes = _ending_in(VOLUME_SUFFIXES, findings)
    if not volumes:
        return cases, findings, _picture_size
    pictures = [case.image for case in cases] + _ending_in(IMAGE_SUFFIXES, findings)
    if pictures:
        raise UserError(
            f"{folder} must hold pictures or volumes, got both, such as {pictures[0]} and "
            f"{volumes[0]}; put one kind into another folder"
        )
    return *find_cases(folder, volumes=True), _volume_size


def _ending_in(suffixes: tuple[str, ...], findings: Sequence[Finding]) -> list[Path]:
    files = (finding.file for finding in findings)
    return [file for file in files if file.name.lower().endswith(suffixes)]


def _picture_size(path: Path) -> tuple[int, int] | None:
    """Height and width."""
    try:
        with Image.open(path) as image:  # its header alone
            return image.height, image.width
    except (OSError, SyntaxError, ValueError):
        return None


def _volume_size(path: Path) -> tuple[int, ...] | None:
    """Depth, height and width, as pipeline/data/nifti.py turns them."""
    try:
        image = load(path)  # its header alone
        if not isinstance(image, Nifti1Image) or len(image.shape) < 3:
            return None
        axes = [int(axis) for axis in io_orientation(image.affine)[:, 0]]
    except (*WRONG, ImageFileError):
        return None
    return tuple(image.shape[axes.index(axis)] for axis in (2, 1, 0))


def suit(counted: Counted) -> dict[str, Any]:
    """The split, its folds, the seeds and the batch size that suit the cases.

    The official split where the folders have one; else a random one, or folds where a random one
    would leave few cases to test on. As many seeds as give each variant RUNS runs, two at least.
    """
    folds, sizes = [0], list[int]()
    split: dict[str, Any]
    if counted.official:
        split = {"method": "official"}
        sizes = [counted.official["training"]]
        least = min(counted.official.values())
    elif counted.cases >= 100:
        split = {"method": "random", "seed": 0, "training": 0.7, "validation": 0.1, "test": 0.2}
        nearly = int(0.7 * counted.cases)  # groups of near-duplicates move it a little
        sizes, least = list(range(nearly - 2, nearly + 3)), int(0.1 * counted.cases)
    else:
        k = 5 if counted.cases >= 15 else 3
        split = {"method": "folds", "seed": 0, "k": k}
        folds = list(range(k))
        smallest, largest = counted.cases // k, -(-counted.cases // k)
        sizes, least = list(range((k - 2) * smallest, (k - 2) * largest + 1)), smallest
    voxels = math.prod(min(side, LONGEST_OF_VOLUME) for side in counted.size)
    return {
        "split": split,
        "folds": folds,
        "seeds": list(range(max(2, RUNS // len(folds)))),
        "batch_size": (
            # A last batch of one is no harm: two slices of a volume are left at the bottom.
            max(1, min(BATCH_OF_VOLUMES, min(sizes) // 2, BATCH_VOXELS // voxels))
            if counted.of_volumes
            else batch_size(sizes)
        ),
        "least": least,
    }


def batch_size(sizes: Sequence[int]) -> int:
    """The paper's 16 or half of the training cases; less, or else more, where a last batch of one
    image would be left, which small images do not train on. sizes: what their number may be."""
    most = max(1, min(16, min(sizes) // 2))
    sizes_to_try: list[int] = [*range(most, 1, -1), *range(most + 1, max(sizes) + 1)]
    fitting = (size for size in sizes_to_try if all(number % size != 1 for number in sizes))
    return next(fitting, most)


def make_for(folder: Path, data: Path) -> str:
    """A study of the paper's variants on the cases in `data`; what was chosen, in words."""
    if not data.is_dir():
        raise UserError(f"--data must be a folder of cases, got {data}")
    counted = count_cases(data)
    chosen = suit(counted)
    params = _read(ROOT / "params.yaml")
    params["data"] = {"source": "directory", "raw": _seen(data, folder), "on_problem": "stop"}
    params["prepare"]["split"] = chosen["split"]
    params["train"]["batch_size"] = chosen["batch_size"]
    params["evaluate"] |= {"batch_size": chosen["batch_size"], "external": []}
    if counted.of_volumes:
        suit_volumes(params, counted.size)
    else:
        side = min(LONGEST, 32 * max(1, min(counted.size) // 32))
        params["prepare"] |= {"height": side, "width": side}
    params["paper"] = None  # its figures are of other cases
    params["seeds"], params["folds"] = _flow(chosen["seeds"]), _flow(chosen["folds"])
    study = _make(folder, params, f"The suite's seven variants on the cases of {data.name}.")
    if chosen["least"] < FEW:
        warn(
            f"{folder / 'params.yaml'}: {counted.cases} cases leave {chosen['least']} to a "
            f"{'fold' if len(chosen['folds']) > 1 else 'split'}: below {FEW} its figures say little"
        )
    return (
        f"{counted.cases} cases of about {extent(counted.size)}, split {study.prepare.split.method}"
    )


def suit_volumes(params: Any, medians: Sequence[int]) -> None:
    """Make `params` those of volumes whose depth, height and width are about `medians`.

    Volumes get the nearest size that the networks take. Depth is halved as often as leaves two
    slices, five times at most: so its rounding is by a quarter at most.
    """
    nearly = [min(median, LONGEST_OF_VOLUME) for median in medians]
    halvings = min(5, max(0, nearly[0].bit_length() - 2))
    prepare, steps = params["prepare"], (2**halvings, 32, 32)
    for axis, median, length, step in zip(AXES, medians, nearly, steps, strict=True):
        prepare[axis] = step * max(1, (2 * length + step) // (2 * step))
        told = f"voxels: the volumes' median is {median}, this the nearest multiple of {step}"
        _say(prepare, axis, told if length == median else f"{told} up to {LONGEST_OF_VOLUME}")
    prepare["foreground"] = "nonzero"
    _say(prepare, "foreground", "all labels but 0; or which of a mask are lesion, such as [1, 2]")
    _say(prepare, "resize", "as volumes need it")
    prepare["near_duplicates"] = None
    _say(prepare, "near_duplicates", "not looked for: scans of one region of the body are alike")
    told = f"of volumes at most {BATCH_OF_VOLUMES}, and {BATCH_VOXELS:,} voxels"
    _say(params["train"], "batch_size", told)
    told = "network | native (the original volume's size too)"
    _say(params["evaluate"], "resolution", told)
    params["evaluate"]["surface_tolerance"] = 1.0
    _say(
        params["evaluate"],
        "surface_tolerance",
        "voxels that a surface may be off; at the volumes' own size millimetres",
    )
    params["train"]["augmentation"].insert(0, _yaml().load("DepthFlip: {p: 0.5}"))
    for network in params["models"].values():
        network |= {"dimensions": 3, "depth_halvings": halvings}
    first = next(iter(params["models"].values()))
    told = (
        f"in every network: as often as leaves two of {prepare['depth']} slices, five times at most"
    )
    _say(first, "depth_halvings", told)


def _say(block: Any, key: str, comment: str) -> None:
    """Put a comment after a key's value, in place of the one that is there."""
    block.ca.items.pop(key, None)
    block.yaml_add_eol_comment(comment, key, column=0)


def make_like(folder: Path, other: Path) -> str:
    """A study as `other` is, with its own networks; paths in params.yaml lead where they led."""
    load_study(other)
    params = _read(other / "params.yaml")

    def follow(block: Any, key: str) -> None:
        path = block.get(key)
        if isinstance(path, str) and not Path(path).expanduser().is_absolute():
            block[key] = _seen(other / path, folder)

    if params["data"]["source"] != "synthetic":
        follow(params["data"], "raw")
        follow(params["data"], "archives")
    if params["prepare"]["split"]["method"] == "lists":
        for split in SPLITS:
            follow(params["prepare"]["split"][split], "file")
    if params["prepare"]["groups"] is not None:
        follow(params["prepare"]["groups"], "file")
    for external in params["evaluate"]["external"]:
        follow(external, "raw")
    for network in params["models"].values():
        weights = network.get("weights", "none")
        if weights not in ("none", "imagenet") and Path(weights).parts[0] != "networks":
            follow(network, "weights")
    _make(folder, params, f"Made from the study {params['name']}.", other / "networks")
    return f"as {other}"


def _make(folder: Path, params: Any, about: str, networks: Path = ROOT / "networks") -> Study:
    params["name"], params["code"] = folder.resolve().name, _seen(ROOT, folder)
    stream = StringIO()
    _yaml().dump(params, stream)
    # The head of the file that it was made from speaks of that study.
    text = re.sub(r"\A(#.*\n)*", f"# {about}\n", stream.getvalue())
    with _undone_on_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if networks.is_dir() and not (folder / "networks").exists():
            shutil.copytree(
                networks, folder / "networks", ignore=shutil.ignore_patterns("__pycache__")
            )
        with replacing(folder / "params.yaml") as temporary:
            temporary.write_text(text, encoding="utf-8")
        renew(folder)
        return load_study(folder)


@contextmanager
def _undone_on_error(folder: Path) -> Iterator[None]:
    before = set(folder.iterdir()) if folder.is_dir() else None
    try:
        yield
    except BaseException:
        if before is None:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            for made in set(folder.iterdir()) - before:
                shutil.rmtree(made) if made.is_dir() else made.unlink()
        raise


def renew(folder: Path) -> bool:
    """Give the study its copy of the pipeline, in place of an old one or a link, and make it a DVC
    repository where it is none; plots and ignored files of its own are kept. Returns whether
    anything changed. Raises UserError outside git."""
    whole = folder.resolve()
    if not any((above / ".git").exists() for above in (whole, *whole.parents)):
        raise UserError(
            f"{folder} cannot become a DVC repository; a study lies in a git repository, such as a "
            "clone of this project: git init makes one"
        )
    cache = _seen(ROOT / ".dvc" / "cache", folder / ".dvc")
    contents = {
        "dvc.yaml": _pipeline(folder / "dvc.yaml"),
        ".dvcignore": _with_own_lines(folder / ".dvcignore"),
        "networks/README.md": (ROOT / "networks" / "README.md").read_text(encoding="utf-8"),
    }
    repository = {
        ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
        ".dvc/config": CONFIG.format(cache=cache),
    }
    for name, content in repository.items():
        if not _text(folder / name).strip():  # not what a user has set since
            contents[name] = content
    changed = False
    for name, content in contents.items():
        own = folder / name
        if own.is_symlink() or _text(own) != content:
            with replacing(own) as temporary:
                temporary.write_text(content, encoding="utf-8")
            changed = True
    return changed


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _pipeline(own: Path) -> str:
    """The root's dvc.yaml, with the plots that the study's own has beside the root's."""
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    if own.is_symlink() or not own.is_file():
        return text
    pipeline = _read(ROOT / "dvc.yaml")
    names = {_plot_name(plot) for plot in pipeline["plots"]}
    try:
        written = _read(own)
        plots = [plot for plot in written.get("plots", []) if _plot_name(plot) not in names]
    except (YAMLError, ValueError, RecursionError, AttributeError, TypeError, StopIteration):
        return text  # no pipeline
    if not plots:
        return text
    stream = StringIO()
    _yaml().dump({"plots": plots}, stream)
    return text.rstrip("\n") + "\n" + stream.getvalue().removeprefix("plots:\n")


def _plot_name(plot: Any) -> str:
    return plot if isinstance(plot, str) else next(iter(plot))


def _with_own_lines(own: Path) -> str:
    """The root's .dvcignore, with the lines that the study's own has beside the root's."""
    text = (ROOT / ".dvcignore").read_text(encoding="utf-8")
    added = [line for line in _text(own).splitlines() if line not in text.splitlines()]
    return text + "".join(f"{line}\n" for line in added)


def studies(root: Path) -> list[Path]:
    """The folders of studies under `root`/studies, at any depth."""
    found = sorted(path.parent for path in (root / "studies").rglob("params.yaml"))
    return [folder for folder in found if ".dvc" not in folder.parts]


def _seen(path: Path, folder: Path) -> str:
    """`path` as seen from `folder` where both are in the project, else from the root of all."""
    whole = path.resolve()
    if whole.is_relative_to(ROOT):
        return os.path.relpath(whole, folder.resolve())
    return str(whole)


def _yaml() -> YAML:
    yaml = YAML()  # keeps comments
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(type(None), _null)
    return yaml


def _null(representer: Any, _: None) -> Any:
    """Null as the params say it: an empty value looks forgotten."""
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")


def _read(path: Path) -> Any:
    return _yaml().load(path.read_text(encoding="utf-8"))


def _flow(values: Sequence[int]) -> Any:
    from ruamel.yaml.comments import CommentedSeq

    written = CommentedSeq(values)
    written.fa.set_flow_style()
    return written


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.new_study",
        description="Make a study: a folder with params.yaml, a copy of the pipeline and a DVC "
        "repository of its own.",
    )
    parser.add_argument(
        "folder", type=Path, nargs="?", help="the study's folder, such as studies/mine"
    )
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--data", type=Path, metavar="CASES", help="the paper's variants on these")
    kind.add_argument("--like", type=Path, metavar="STUDY", help="what that study has")
    kind.add_argument(
        "--renew",
        action="store_true",
        help="give the study, or all of studies/, the pipeline as it is now",
    )
    given = parser.parse_args(arguments)
    if given.folder is None and not given.renew:
        parser.error("the study's folder is missing, such as studies/mine")
    return given


def main() -> None:
    given = parse()
    if given.renew:
        folders = studies(ROOT) if given.folder is None else [given.folder]
        for each in folders:
            if not (each / "params.yaml").is_file():
                raise UserError(f"{each} must be a study's folder: it has no params.yaml")
        renewed = [each for each in folders if renew(each)]
        names = ": " + ", ".join(map(str, renewed)) if renewed else ""
        print(f"new_study: {len(renewed)} of {len(folders)} studies renewed{names}")
        return
    folder: Path = given.folder
    if not folder.resolve().is_relative_to(ROOT) or folder.resolve() == ROOT:
        raise UserError(
            f"{folder} must lie in the project, such as studies/mine: a study finds the sources "
            "from its folder"
        )
    with owning(folder):
        if (folder / "params.yaml").exists():
            raise UserError(
                f"{folder} is a study already: name another folder, or change its files"
            )
        made = make_for(folder, given.data) if given.data else make_like(folder, given.like)
    study = load_study(folder)
    print(
        f"new_study: {folder}: {made}; {extent(study.prepare.size)}, "
        f"{quantity(len(study.variants), 'variant')}, {quantity(len(study.seeds), 'seed')}, "
        f"{quantity(len(study.folds), 'fold')}: {quantity(len(study.runs()), 'run')}\n"
        f"next: look at {folder / 'params.yaml'}, then: cd {folder} && dvc repro"
    )


if __name__ == "__main__":
    run_command(main)
