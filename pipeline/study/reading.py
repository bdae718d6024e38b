"""params.yaml read from a study's folder: a mistake in it costs one clear line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.study.documents import read_yaml
from pipeline.study.errors import UserError
from pipeline.study.params import Run, Study
from pipeline.study.values import shown

MOST_TOLD = 20  # mistakes in params.yaml


def load_study(folder: Path = Path()) -> Study:
    """Read and validate `folder`/params.yaml.

    Raises UserError naming every key that is missing, unknown or out of range.
    """
    path = folder / "params.yaml"
    try:
        content = read_yaml(path)
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: run in a study's folder (the root, or studies/<name>)"
        ) from None
    if isinstance(content, dict) and "own_training" in content:
        raise UserError(
            f"{path}: own_training is an unknown key; remove it or correct its spelling"
        )
    try:
        # Through JSON, because strict validation takes a list for a tuple there and nowhere else.
        study = Study.model_validate_json(json.dumps(_apart(content)))
    except ValidationError as invalid:
        raise mistakes(path, invalid) from None
    here = folder.resolve()
    if here.parent.name == "studies" and study.name != here.name:
        raise UserError(
            f"{path}: name must be that of its folder, {here.name!r}, got {study.name!r}: MLflow "
            "knows a study by its name"
        )
    study._folder, study._content = folder, content
    study.models.update({name: network.at(folder) for name, network in study.models.items()})
    _check_pipeline(study)
    return study


def _apart(content: Any) -> Any:
    """params.yaml with each variant's own `train`, which no network has, as a block of its own."""
    models = content.get("models") if isinstance(content, dict) else None
    if not isinstance(models, dict):
        return content
    train = content.get("train")
    own = {
        name: _merged(train, network["train"])
        for name, network in models.items()
        if isinstance(network, dict) and "train" in network
    }
    networks = {
        name: {key: value for key, value in network.items() if key != "train"}
        if name in own
        else network
        for name, network in models.items()
    }
    # Of a block that is none, nothing can be said beside that.
    return content | {"models": networks, "own_training": own if isinstance(train, dict) else {}}


def _merged(block: Any, own: Any) -> Any:
    """A block with the keys that `own` has others for, blocks within it likewise; one of another
    `method` has keys of its own alone."""
    if not (isinstance(block, dict) and isinstance(own, dict)):
        return own
    if own.get("method", block.get("method")) != block.get("method"):
        return own
    return block | {key: _merged(block.get(key), value) for key, value in own.items()}


def mistakes(path: Path, invalid: ValidationError) -> UserError:
    """What is wrong with a YAML file, a line a key."""
    errors = invalid.errors()
    shared = {error["loc"][1:] for error in errors if error["loc"][:1] == ("train",)}
    errors = [  # a mistake in `train` is one in every variant's that has keys of its own
        error
        for error in errors
        if error["loc"][:1] != ("own_training",) or error["loc"][2:] not in shared
    ]
    lines = [f"{path}: {_sentence(error)}" for error in errors[:MOST_TOLD]]
    if len(errors) > MOST_TOLD:
        lines.append(f"... and {len(errors) - MOST_TOLD} more")
    return UserError("\n       ".join(lines))


def _check_pipeline(study: Study) -> None:
    """Raise UserError for a dvc.yaml that is no copy of the one that the study's sources have: DVC
    would run, and record, stages as they were once."""
    own, sources = study.folder / "dvc.yaml", study.folder / study.code / "dvc.yaml"
    renew = f"python -m pipeline.new_study --renew {study.folder.resolve()}"
    if own.is_symlink():
        raise UserError(f"{own} is a link; a study has a copy, which DVC can follow: {renew}")
    if not (own.is_file() and sources.is_file()):
        return  # a study that DVC does not run
    if own.resolve() != sources.resolve() and not (study.folder / ".dvc" / "config").is_file():
        raise UserError(
            f"{study.folder.resolve()} is no DVC repository of its own, as a study is: {renew}"
        )
    if own.read_bytes() != sources.read_bytes():
        stages = [read_yaml(path) for path in (own, sources)]
        if not all(isinstance(each, dict) for each in stages):
            raise UserError(f"{own} is no pipeline: {renew}")
        if stages[0].get("stages") != stages[1].get("stages"):
            raise UserError(f"{own} is not the pipeline of these sources any more: {renew}")


def parse_run(study: Study, arguments: Sequence[str] | None = None) -> Run:
    """The variant, seed and fold (0 if not given) on the command line, all among the study's.

    Raises UserError for one that the study does not have.
    """
    return _checked_run(study, _run_parser().parse_args(arguments))


def _run_parser() -> argparse.ArgumentParser:
    parser = _variant_parser()
    parser.add_argument("seed", type=int, help="one of seeds in params.yaml")
    parser.add_argument("fold", type=int, nargs="?", default=0, help="one of folds in params.yaml")
    return parser


def _checked_run(study: Study, given: argparse.Namespace) -> Run:
    _check_among("variant", given.variant, study.variants)
    _check_among("seed", given.seed, study.seeds)
    _check_among("fold", given.fold, study.folds)
    return Run(given.variant, given.seed, given.fold)


def parse_external(study: Study, arguments: Sequence[str]) -> Study | None:
    """The study on the external test set of the command line (Study.on); None where it names none.

    Its folder and on_problem stand there as well, for DVC goes by the command: a change in one set
    concerns no other. Raises UserError for a set that params.yaml does not have.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", help="one of evaluate.external in params.yaml")
    parser.add_argument("--raw", help="its raw, as params.yaml has it")
    parser.add_argument("--on_problem", help="likewise")
    given = parser.parse_args(arguments)
    if given.name is None:
        if given.raw is not None or given.on_problem is not None:
            parser.error("--raw and --on_problem are of the set that --name names")
        return None
    on = _on(study, given.name)
    told = {"raw": given.raw, "on_problem": given.on_problem}
    for key, value in told.items():
        if value not in (None, getattr(on.data, key)):
            raise UserError(
                f"--{key} must be what evaluate.external in params.yaml has of {given.name}, "
                f"{getattr(on.data, key)!r}, got {value!r}"
            )
    return on


def _on(study: Study, name: str) -> Study:
    _check_among(
        "external test set",
        name,
        [each.name for each in study.evaluate.external],
        "evaluate.external",
    )
    return study.on(name)


def parse_evaluation(study: Study, arguments: Sequence[str] | None = None) -> tuple[Study, Run]:
    """The run on the command line, as parse_run, and the study, on the external test set that
    --external names."""
    parser = _run_parser()
    parser.add_argument("--external", metavar="NAME", help="one of evaluate.external")
    given = parser.parse_args(arguments)
    run = _checked_run(study, given)
    return (study if given.external is None else _on(study, given.external)), run


def parse_variant(study: Study, arguments: Sequence[str] | None = None) -> str:
    """The variant on the command line. Raises UserError for one that the study does not have."""
    variant: str = _variant_parser().parse_args(arguments).variant
    _check_among("variant", variant, study.variants)
    return variant


def _variant_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("variant", help="an entry under variants in params.yaml")
    return parser


def _check_among(what: str, value: Any, allowed: Sequence[Any], key: str = "") -> None:
    if value not in allowed:
        known = ", ".join(map(str, allowed)) or "none"
        raise UserError(
            f"{what} must be one of {key or what + 's'} in params.yaml ({known}), got {value!r}"
        )


def wants_partial(what: str, arguments: Sequence[str] | None = None) -> bool:
    """Whether a stage is asked for the runs that exist so far, by --partial on its command line.
    what: that the stage does, for its help."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument(
        "--partial",
        action="store_true",
        help="of the runs that are evaluated so far, marked so, into reports/partial/",
    )
    return bool(parser.parse_args(arguments).partial)


_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a block of keys",
    "model_type": "a block of keys",
    "dataclass_type": "a block of keys",
    "model_attributes_type": "a block of keys",
    "too_short": "a list of at least one entry",
}


def _sentence(error: Any) -> str:
    """pydantic's error as key, expectation, value found."""
    kind, context, value = error["type"], error.get("ctx", {}), error["input"]
    steps = [str(step) for step in error["loc"] if step != "[key]"]
    # Into a block that has kinds, pydantic's path goes by the kind's name: no key of the file.
    for block in (["data"], ["prepare", "split"], ["train", "optimizer"]):
        if steps[: len(block)] == block:
            del steps[len(block) : len(block) + 1]
    if steps[:1] == ["models"]:  # the same, below the variant's name
        del steps[2:3]
    if steps[:1] == ["own_training"]:  # which has no key of that name
        steps = ["models", *steps[1:2], "train", *steps[2:]]
        if steps[3:4] == ["optimizer"]:
            del steps[4:5]
    if kind.startswith("union_tag"):
        named_by = context["discriminator"].strip("'()")
        steps.append(named_by)
        value = value.get(named_by)
    key = ".".join(steps) or "the file"
    if kind in ("missing", "union_tag_not_found"):
        return f"{key} is missing"
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{key} is an unknown key; remove it or correct its spelling"
    if kind == "value_error":
        told = str(context["error"])
        if not steps:
            return told  # Study's own checks name their keys
        # A network's own checks begin with the key, seen from its block.
        return f"{key}{' ' if told.startswith('must') else '.'}{told}"
    if kind == "literal_error":
        expected = context["expected"].replace("'", "")
    elif kind == "union_tag_invalid":
        expected = " or ".join(context["expected_tags"].replace("'", "").rsplit(", ", 1))
    else:
        expected = _EXPECTED.get(kind, error["msg"])
    return f"{key} must be {expected}, got {shown(value)}"
