"""YAML that a user writes, read as DVC reads it and refused in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from pipeline.study.errors import UserError
from pipeline.study.values import shown

DEEPEST, MOST = 50, 100_000  # blocks within blocks, and values; no file needs a tenth of it


def read_yaml(path: Path) -> Any:
    """The document in `path`: blocks whose keys are text, lists, text, numbers, booleans, null.

    DVC reads YAML 1.2 by the same library: 010 is ten, `off` is text, a key may not come twice.
    Raises FileNotFoundError, and UserError for all else that is wrong with the file.
    """
    try:
        content = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{path} is not valid YAML{place}: {error.problem}") from None
    except (YAMLError, ValueError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"{path} has too many blocks within blocks") from None
    _check_plain(path, content)
    return content


def _check_plain(path: Path, content: Any) -> None:
    """Raise UserError for what is no value of a params.yaml, and for what aliases (`*name`) make
    endless or huge."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), content)]
    seen = 0
    while waiting:
        keys, value = waiting.pop()
        key = ".".join(keys) or "the file"
        seen += 1
        if len(keys) > DEEPEST:
            raise UserError(f"{path}: {keys[0]} has more than {DEEPEST} blocks within blocks")
        if seen > MOST:
            raise UserError(f"{path} has more than {MOST} values: let its aliases repeat less")
        if isinstance(value, dict):
            for name, entry in value.items():
                if not isinstance(name, str):
                    raise UserError(
                        f"{path}: {key} has a key that is no text, {shown(name)}; write it in "
                        "quotes"
                    )
                waiting.append(((*keys, name), entry))
        elif isinstance(value, list):
            waiting += (((*keys, str(place)), entry) for place, entry in enumerate(value))
        elif isinstance(value, int):
            if not -(2**63) <= value < 2**63:
                raise UserError(f"{path}: {key} is a number of more than 19 digits")
        elif isinstance(value, str):
            if any("\ud800" <= sign <= "\udfff" for sign in value):
                raise UserError(f"{path}: {key} holds half of a character, {value!a}")
        elif not isinstance(value, float | None):
            raise UserError(
                f"{path}: {key} must be text, a number, true, false, null, a list or a block of "
                f"keys, got a {type(value).__name__}, {value}; for text write it in quotes"
            )
