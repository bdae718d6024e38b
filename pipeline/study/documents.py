"""YAML that a user writes, read as DVC reads it and refused in one sentence."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from textwrap import shorten
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from pipeline.study.errors import UserError
from pipeline.study.values import shown

DEEPEST, MOST = 50, 100_000  # blocks within blocks, and values; no file needs a tenth of it
YAML_TAG = "tag:yaml.org,2002:"
PLAIN = {"map", "seq", "str", "int", "float", "bool", "null", "timestamp", "merge"}


def read_yaml(path: Path) -> Any:
    """The document in `path`: blocks whose keys are text, lists, text, numbers, booleans, null.

    DVC reads YAML 1.2 by the same library: 010 is ten, `off` is text, a key may not come twice.
    Raises FileNotFoundError, and UserError for all else that is wrong with the file.
    """
    try:
        text = path.read_text(encoding="utf-8")
        document = YAML(typ="safe").compose(text)
        if document is not None:
            _count(path, document)
        content = YAML(typ="safe").load(text)
    except (FileNotFoundError, UserError):
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{path} is not valid YAML{place}: {error.problem}") from None
    except RecursionError:
        raise UserError(f"{path} has too many blocks within blocks") from None
    except Exception as error:  # a tag that its value does not fit ends in errors of any kind
        told = shorten(" ".join(str(error).split()) or type(error).__name__, 200)
        raise UserError(f"{path} is not valid YAML: {told}") from None
    _check_plain(path, (), content)
    return content


def _count(path: Path, document: Node) -> None:
    """Raise UserError for tags of other than plain values, and for what aliases (`*name`) and
    merged blocks (`<<`) make endless or huge: before anything is made of them."""
    counted: dict[int, int] = {}  # values of each node, those within it too

    def count(node: Node, above: tuple[int, ...]) -> int:
        place = f"line {node.start_mark.line + 1}"
        if id(node) in above:
            raise UserError(f"{path}, {place}: a block holds itself: take the alias out")
        if len(above) > DEEPEST:
            raise UserError(f"{path}, {place}: more than {DEEPEST} blocks within blocks")
        if str(node.tag).removeprefix(YAML_TAG) not in PLAIN:
            raise UserError(
                f"{path}, {place}: values must be text, numbers, true, false, null, lists and "
                f"blocks of keys, got the tag {shown(node.tag)}; for text write it in quotes"
            )
        if id(node) not in counted:
            within = [] if isinstance(node, ScalarNode) else node.value
            nodes = chain.from_iterable(within) if isinstance(node, MappingNode) else within
            counted[id(node)] = 1 + sum(count(each, (*above, id(node))) for each in nodes)
        if counted[id(node)] > MOST:
            raise UserError(f"{path} has more than {MOST} values: let its aliases repeat less")
        return counted[id(node)]

    count(document, ())


def _check_plain(path: Path, keys: tuple[str, ...], value: Any) -> None:
    """Raise UserError for what is no value of a params.yaml."""
    key = ".".join(keys) or "the file"
    if isinstance(value, dict):
        for name, entry in value.items():
            if not isinstance(name, str):
                raise UserError(
                    f"{path}: {key} has a key that is no text, {shown(name)}; write it in quotes"
                )
            _check_plain(path, keys, name)
            _check_plain(path, (*keys, name), entry)
    elif isinstance(value, list):
        for place, entry in enumerate(value):
            _check_plain(path, (*keys, str(place)), entry)
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise UserError(f"{path}: {key} is a number of more than 19 digits")
    elif isinstance(value, str):
        if any("\ud800" <= sign <= "\udfff" for sign in value):
            raise UserError(f"{path}: {key} holds half of a character, {value[:60]!a}")
    elif not isinstance(value, float | None):
        raise UserError(
            f"{path}: {key} must be text, a number, true, false, null, a list or a block of keys, "
            f"got a {type(value).__name__}, {str(value)[:60]}; for text write it in quotes"
        )
