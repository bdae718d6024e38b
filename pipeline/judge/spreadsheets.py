"""Tables that people write: a row a case and run, or a row a case and a column a method."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from pipeline.judge.arguments import MOST_SEEDS, Source
from pipeline.judge.assembly import KEYS, Scores, finish
from pipeline.judge.delimited import Columns, numbers, texts, whole_numbers
from pipeline.study.errors import UserError
from pipeline.study.values import shown

LONG, WIDE = "a table with a row a case and run", "a table with a column a method"
VALUE = "value"  # what a wide table's metric is called: it does not say
UNNAMED = f"The table does not name its metric: it is called {VALUE}."
ROLES = {
    "variant": ("variant", "algorithm", "method", "model", "network"),
    "seed": ("seed", "run"),
    "fold": ("fold",),
    "case": ("case", "case_id", "id", "image", "image_id", "subject"),
}
INDEX = ("", "unnamed:_0")  # the first column of a table that pandas wrote with its index
TRUTH = "ground_truth"
# What metrics are called: columns of these alone are one method's metrics, not methods.
METRIC = re.compile(
    r"(mean_?)?(val_?)?(dice|dsc|dice_?(score|coefficient)?|iou|jaccard|jac|f1(_score)?"
    r"|precision|recall|sensitivity|specificity|accuracy|nsd|surface_dice|hd|hd_?95|hausdorff"
    r"(_distance)?(_?95)?|assd|asd|msd|masd|value|score|loss|auc|auroc)(_?\d)?"
)
EXPECTED = (
    "a table must have a column of cases (case, case_id, id, image, image_id or subject) and "
    "either a column of variants (variant, algorithm, method, model or network) with metrics "
    "beside it, or a column a method"
)


def _plain(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.lower())


def role_of(name: str) -> str | None:
    """What a column of that name is: variant, seed, fold or case; None for any other."""
    return next((role for role, names in ROLES.items() if _plain(name) in names), None)


def is_table(header: Sequence[str]) -> bool:
    """Whether a column tells cases, or may be pandas's index of them."""
    named = {role_of(name) for name in header}
    return "case" in named or (len(header) > 1 and _plain(header[0]) in INDEX)


def has_variants(header: Sequence[str]) -> bool:
    return any(role_of(name) == "variant" for name in header)


def read_long(files: Sequence[tuple[Source, Columns]]) -> Scores:
    """Tables with a column of variants, or of one variant that was named beside its path.

    Raises UserError for a column that is there twice or not at all, other columns than the first
    table's, text where numbers are expected, and a (variant, seed, case) twice.
    """
    notes: list[str] = []
    tables = [_long(source, columns, notes) for source, columns in files]
    metrics = list(tables[0].columns[len(KEYS) :])
    for (_, columns), table in zip(files, tables, strict=True):
        found = list(table.columns[len(KEYS) :])
        if set(found) != set(metrics):
            raise UserError(
                f"{columns.file} has the metrics {', '.join(found)}, and {files[0][1].file} has "
                f"{', '.join(metrics)}; give tables with the same ones"
            )
    _check_once([columns for _, columns in files], tables)
    table = pd.concat(tables, ignore_index=True)
    return finish(table, metrics, LONG, list(dict.fromkeys(notes)))


def read_wide(files: Sequence[tuple[Source, Columns]]) -> Scores:
    """Tables without a column of variants: each other column is one. What they are scored by is not
    told, and called `value`.

    The form that https://claims-reloaded.dkfz.de asks for has case_id and alg_01, alg_02, ...
    Raises UserError likewise, and where columns have the names of metrics.
    """
    notes = [UNNAMED]
    tables = [_wide(source, columns, notes) for source, columns in files]
    _check_once([columns for _, columns in files], tables)
    table = pd.concat(tables, ignore_index=True)
    return finish(table, [VALUE], WIDE, list(dict.fromkeys(notes)))


def _roles(columns: Columns, notes: list[str]) -> tuple[dict[str, str], list[str]]:
    """Role -> column, and the columns without one."""
    roles: dict[str, str] = {}
    others = []
    for name in columns.names:
        role = role_of(name)
        if role is None:
            others.append(name)
        elif role in roles:
            raise UserError(
                f"{columns.file} has the columns {shown(roles[role])} and {shown(name)}: both may "
                f"be the {role}; rename or remove one"
            )
        else:
            roles[role] = name
    first = columns.names[0]
    if _plain(first) in INDEX:
        others.remove(first)
        if "case" in roles:
            notes.append("The first column, without a name, was left out.")
        else:
            roles["case"] = first
            notes.append("The first column, without a name, was taken for the cases.")
    if "fold" in roles:
        notes.append(
            "The column fold tells no seeds apart: the folds of a seed are put together."
            if "seed" in roles
            else "The column fold is no seed: all folds of a variant are one run's, put together."
        )
    if "case" not in roles:
        raise UserError(f"{columns.file}: no column of cases among {_listed(columns)}; {EXPECTED}")
    if not others:
        raise UserError(f"{columns.file}: no metric among {_listed(columns)}; {EXPECTED}")
    return roles, others


def _listed(columns: Columns) -> str:
    return shown(", ".join(columns.names))


def _seeds(source: Source, columns: Columns, roles: dict[str, str], notes: list[str]) -> list[int]:
    if "seed" not in roles:
        if source.seed is None:
            notes.append("No column tells the seed: each variant has one run, seed 0.")
        return [source.seed or 0] * len(columns.lines)
    if source.seed is not None:
        raise UserError(
            f"{columns.file} has the column {shown(roles['seed'])}: name no seed beside its path"
        )
    return whole_numbers(columns, roles["seed"], MOST_SEEDS)


def _long(source: Source, columns: Columns, notes: list[str]) -> pd.DataFrame:
    roles, metrics = _roles(columns, notes)
    if "variant" in roles:
        if source.variant is not None:
            raise UserError(
                f"{columns.file} names its variants in the column {shown(roles['variant'])}: name "
                "none beside its path"
            )
        variants = texts(columns, roles["variant"])
    else:
        assert source.variant is not None
        notes.append(f"The columns of {columns.file} are metrics of {source.variant}.")
        variants = [source.variant] * len(columns.lines)
    table = pd.DataFrame(
        {
            "variant": variants,
            "seed": _seeds(source, columns, roles, notes),
            "case": texts(columns, roles["case"]),
        }
    )
    for metric in metrics:
        table[metric] = numbers(columns, metric)
    return table


def _wide(source: Source, columns: Columns, notes: list[str]) -> pd.DataFrame:
    roles, variants = _roles(columns, notes)
    if TRUTH in map(_plain, variants):
        raise UserError(
            f"{columns.file} has the column {TRUTH}: it is a table of classes, not of scores; give "
            "a table with a score a case"
        )
    if all(METRIC.fullmatch(_plain(name)) for name in variants):
        raise UserError(
            f"{columns.file}: {shown(', '.join(variants))} seem to be metrics, and no column tells "
            "whose; add a column variant, or name the method: NAME=path"
        )
    keys = {
        "seed": _seeds(source, columns, roles, notes),
        "case": texts(columns, roles["case"]),
    }
    tables = [
        pd.DataFrame({"variant": name, **keys, VALUE: numbers(columns, name)}) for name in variants
    ]
    return pd.concat(tables, ignore_index=True)


def _check_once(files: Sequence[Columns], tables: Sequence[pd.DataFrame]) -> None:
    """Raise UserError where a (variant, seed, case) stands twice."""
    keys = pd.concat([table[KEYS] for table in tables], ignore_index=True)
    again = keys.duplicated().to_numpy()
    if not again.any():
        return
    second = int(again.argmax())
    key = keys.iloc[second]
    first = int((keys == key).all(axis=1).to_numpy().argmax())
    places = [
        columns.place(row % len(columns.lines))
        for columns, table in zip(files, tables, strict=True)
        for row in range(len(table))
    ]
    raise UserError(
        f"{places[second]}: variant {shown(key['variant'])}, seed {key['seed']}, case "
        f"{shown(key['case'])} stood already in {places[first]}; remove one, or tell runs apart "
        "by a column seed"
    )
