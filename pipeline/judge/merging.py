"""Several results.json of this suite as one table: two machines', or two studies', of one protocol.

What decides a score must be the same wherever results.json tells it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from pipeline.judge.arguments import Source, printed
from pipeline.judge.assembly import KEYS, Scores, check_cases, finish
from pipeline.statistics.definitions import PRIMARY, names_dice
from pipeline.statistics.results import Results, load_results
from pipeline.study.errors import UserError

KIND = "results.json of this suite"
# Blocks of params.yaml that decide a run beside its own network and training, and keys of theirs
# that do not.
DECISIVE = ("data", "prepare", "focal", "evaluate")
DECIDE_NONE = {"data": ("raw", "archives", "keep_archives"), "evaluate": ("external",)}
WHOLE = {"cases_sha256": "test cases", "folds": "folds", "definitions": "definitions of metrics"}


def is_results(content: Any) -> bool:
    return isinstance(content, dict) and {"schema_version", "study", "cases"} <= content.keys()


def read_results(files: Sequence[tuple[Source, Any]]) -> Scores:
    """files: each with its JSON. The Dice of each case: no other metric is there for each seed.

    Raises UserError for a file that is not of the present schema, and for two that may not be put
    together: other test cases, folds or definitions; a variant of one name with another network or
    training; a (variant, seed) with other numbers.
    """
    found: list[tuple[str, Results]] = []
    notes: list[str] = []
    for source, content in files:
        name = printed(source.path)
        if source.variant is not None:
            raise UserError(f"{name} names its variants itself: name none beside its path")
        results = load_results(source.path, partial=content.get("partial") is not None)
        if not names_dice(results.comparison.metric):
            raise UserError(
                f"{name} is of {results.comparison.metric!r}, not of the Dice of each case; judge "
                "the table that it was made from"
            )
        if not any(results.cases.dice.values()):
            raise UserError(f"{name} has no run; train and compare first")
        if settings := [name for name in results.study.variants if name in results.setting_of]:
            notes.append(f"{name}: left out, as settings of other variants: {', '.join(settings)}.")
        if results.partial is not None:
            notes.append(f"{name} is of a part of its study: {results.partial.sentences()[0]}")
        for before in found:
            notes += _check_pair(before, (name, results))
        found.append((name, results))
    tables: list[pd.DataFrame] = []
    held: dict[tuple[str, int], tuple[str, pd.DataFrame]] = {}
    for name, results in found:
        for (variant, seed), run in _runs(name, results).items():
            if (variant, seed) in held:
                before_name, before_run = held[variant, seed]
                _check_same(variant, seed, (before_name, before_run), (name, run))
                notes.append(
                    f"{variant}, seed {seed}, is in {before_name} and {name} with the same "
                    "numbers: it counts once."
                )
            else:
                held[variant, seed] = name, run
                tables.append(run)
    table = pd.concat(tables, ignore_index=True)[[*KEYS, PRIMARY]]
    return finish(table, [PRIMARY], KIND, list(dict.fromkeys(notes)))


def _runs(name: str, results: Results) -> dict[tuple[str, int], pd.DataFrame]:
    """Each run's rows, without those of settings of other variants. Raises UserError where the
    cases' part does not fit together."""
    check_cases(name, results.cases.ids)
    try:
        scores = results.scores().rename(columns={"id": "case"})
    except ValueError as error:  # a seed that is no number, a list of another length
        raise UserError(f"{name}: cases.dice: {error}; run the stage compare again") from None
    grouped = scores.groupby(["variant", "seed"], sort=False)
    return {
        (str(key[0]), int(str(key[1]))): run
        for key, run in grouped
        if str(key[0]) not in results.setting_of
    }


def _check_pair(first: tuple[str, Results], second: tuple[str, Results]) -> list[str]:
    """Notes on what differs and may; raises UserError for what may not."""
    (name, one), (other_name, other) = first, second
    for key, what in WHOLE.items():
        here, there = getattr(one.study, key), getattr(other.study, key)
        if here != there:
            raise _apart(name, other_name, f"they have other {what}{_between(here, there)}")
    if one.cases.ids != other.cases.ids:
        raise _apart(name, other_name, "they have other test cases")
    shared = [name for name in _compared(one) if name in other.cases.dice]
    for variant in shared:
        networks = [_network(each, variant) for each in (one, other)]
        if networks[0] != networks[1]:
            raise _apart(
                name,
                other_name,
                f"{variant} is another network in each (models.{variant} of params.yaml)",
            )
    differing = [block for block in DECISIVE if _decisive(one, block) != _decisive(other, block)]
    trained = [_trainings(each, _compared(each)) for each in (one, other)]
    for variant in shared:
        here, there = (_trainings(each, [variant]) for each in (one, other))
        changed = [*differing, *(["train"] if here != there else [])]
        if changed:
            raise _apart(
                name,
                other_name,
                f"{variant} was made with another {changed[0]} of params.yaml in each",
            )
    if len(set(trained[0]) | set(trained[1])) > 1:
        differing.append("train")
    if differing:
        return [
            f"{name} and {other_name} differ in {', '.join(differing)} of params.yaml, not in "
            "their networks alone."
        ]
    return []


def _compared(results: Results) -> list[str]:
    """The variants that are no settings of others."""
    return [name for name in results.cases.dice if name not in results.setting_of]


def _network(results: Results, variant: str) -> Any:
    told = results.params.get("models", {}).get(variant)
    return {key: told[key] for key in told if key != "train"} if isinstance(told, dict) else told


def _trainings(results: Results, variants: Sequence[str]) -> list[str]:
    """How each was trained: by the study's block, or by what it has of its own."""
    models = results.params.get("models", {})
    found = [models.get(name, {}).get("train", results.params.get("train")) for name in variants]
    return [json.dumps(train, sort_keys=True) for train in found]


def _between(here: Any, there: Any) -> str:
    """Of definitions the first metric that differs; of folds both lists."""
    if isinstance(here, dict):
        names = [name for name in {**here, **there} if here.get(name) != there.get(name)]
        return f", such as of {names[0]}"
    return f", {here} and {there}" if isinstance(here, list) else ""


def _decisive(results: Results, block: str) -> Any:
    told = results.params.get(block)
    if not isinstance(told, dict):
        return told
    return {key: told[key] for key in told if key not in DECIDE_NONE.get(block, ())}


def _check_same(
    variant: str, seed: int, first: tuple[str, pd.DataFrame], second: tuple[str, pd.DataFrame]
) -> None:
    (name, before), (other_name, run) = first, second
    if not before[PRIMARY].reset_index(drop=True).equals(run[PRIMARY].reset_index(drop=True)):
        raise _apart(name, other_name, f"{variant}, seed {seed}, has other numbers in each")


def _apart(name: str, other_name: str, reason: str) -> UserError:
    return UserError(f"{name} and {other_name} cannot be put together: {reason}; give one of them")
