"""The data card: what the prepared cases are, in figures and pictures, beside the arrays.

card.json, problems.csv, near_duplicates.csv, divided_groups.csv where groups are known, and PNG
pictures.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from pipeline.data.duplicates import Pair, groups
from pipeline.data.raw import Finding
from pipeline.data.slices import PLANES
from pipeline.engine.prepared import PreparedCases
from pipeline.reporting.style import (
    COLOURS,
    STYLE,
    TRUTH_COLOUR,
    draw_contour,
    proportions,
    save_png,
    show_image,
    view,
)
from pipeline.study.files import sha256, write_json
from pipeline.study.params import Study
from pipeline.study.values import (
    SPLITS,
    Resize,
    cell,
    percent,
    printable,
    shortened,
    significant,
)

BLOCK = 2**26  # bytes of images read at a time
SHEET_ROWS, SHEET_COLUMNS = 4, 6
SIZES = ("width", "height", "depth", "width_mm", "height_mm", "depth_mm")  # of cases.csv
MOST_PAIRS = 12  # drawn; near_duplicates.csv lists all
QUANTILES = {"minimum": 0.0, "5 %": 0.05, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95}


def write(
    study: Study,
    cases: PreparedCases,
    findings: Sequence[Finding],
    pairs: Sequence[Pair],
    known: Mapping[str, str],
    source: dict[str, Any],
    folder: Path,
) -> None:
    """Write the card into the new folder `folder`, beside manifest.csv.

    known: the names of known groups, by id of the case. source: data/source.json's content.
    """
    folder.mkdir()
    problems = list_problems(findings, study.raw_dir)
    problems.to_csv(folder / "problems.csv", index=False)
    near = near_duplicates(cases, pairs)
    near.to_csv(folder / "near_duplicates.csv", index=False)
    grouped = known_groups(cases, known)
    if study.prepare.groups is not None:
        divided = grouped.loc[grouped["divided"], ["group", "id", "split"]]
        named = divided.assign(group=[cell(printable(name)) for name in divided["group"]])
        named.to_csv(folder / "divided_groups.csv", index=False)
    areas, channel_sums, channel_squares = measure(cases)
    parts = part_of_each(cases)
    write_json(
        folder / "card.json",
        {
            "source": source,
            "cases": len(cases.table),
            "parts": {
                part: {
                    "cases": int((parts == part).sum()),
                    "lesion_area": distribution(areas[parts == part]),
                    **channels(cases, channel_sums, channel_squares, parts == part),
                }
                for part in cases.counts()
            },
            "original_sizes": original_sizes(cases.table),
            "cases_left_out": count_left_out(problems),
            "problems": count_problems(problems),
            "near_duplicates": None
            if study.prepare.near_duplicates is None
            else count_near_duplicates(cases, pairs, near),
            "known_groups": None
            if study.prepare.groups is None
            else count_known_groups(cases, known, grouped),
            "checksums": {
                "prepared": cases.fingerprint,
                "manifest": sha256(folder.parent / "manifest.csv"),
            },
        },
    )
    with mpl.rc_context(STYLE):
        resize = study.prepare.resize
        sheet = draw_contact_sheet(cases, areas, parts, resize)
        save_png(sheet, folder / "contact_sheet.png", photographs=True)
        save_png(draw_lesion_areas(areas, parts), folder / "lesion_areas.png")
        if len(near):
            drawn = draw_near_duplicates(cases, near, resize)
            save_png(drawn, folder / "near_duplicates.png", photographs=True)


def write_external(on: Study, findings: Sequence[Finding], folder: Path) -> None:
    """The card of an external test set (Study.on) into `folder`, where its prepared cases are:
    card.json and problems.csv."""
    cases = PreparedCases.open(folder)
    problems = list_problems(findings, on.raw_dir)
    problems.to_csv(folder / "problems.csv", index=False)
    tested = len(cases.indices("test"))
    of_the_study = len(cases.table) - tested
    write_json(
        folder / "card.json",
        {
            "cases": tested,
            "of_the_study": of_the_study,
            "unusable": count_left_out(problems) - of_the_study,
            "original_sizes": original_sizes(cases.table),
            "problems": count_problems(problems),
            "checksums": {
                "prepared": cases.fingerprint,
                "manifest": sha256(folder / "manifest.csv"),
            },
        },
    )


def count_left_out(problems: pd.DataFrame) -> int:
    """Cases, by list_problems."""
    ids = problems.loc[problems["outcome"] == "left out", "id"]
    return len(set(ids) - {""})


def count_problems(problems: pd.DataFrame) -> dict[str, dict[str, int]]:
    """outcome -> defect -> files, by list_problems."""
    return {
        outcome: dict(Counter(problems.loc[problems["outcome"] == outcome, "defect"]))
        for outcome in ("left out", "converted")
    }


def list_problems(findings: Sequence[Finding], raw_dir: Path) -> pd.DataFrame:
    """problems.csv: a row a finding, its file as seen from the folder of raw cases."""
    return pd.DataFrame(
        [
            (
                cell(printable(f.id)),
                cell(printable(f.file.relative_to(raw_dir).as_posix())),
                f.defect,
                cell(printable(f.detail)),
                f.outcome,
            )
            for f in findings
        ],
        columns=["id", "file", "defect", "detail", "outcome"],
    )


def part_of_each(cases: PreparedCases) -> NDArray[np.str_]:
    """The split, or fold, of each case in words."""
    if "fold" in cases.table:
        return np.array([f"fold {fold}" for fold in cases.table["fold"]])
    return cases.splits()


def measure(
    cases: PreparedCases,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Of each case: the share of lesion pixels (cases,); the sums of its channels' values and of
    their squares, both (cases, channels), in grey levels 0 to 255."""
    areas, sums, squares = [], [], []
    axes = tuple(range(1, cases.masks.ndim))
    count = max(1, BLOCK // cases.images[0].nbytes)
    for start in range(0, len(cases.images), count):
        block = slice(start, start + count)
        images = cases.images[block].astype(np.float64)
        areas.append(cases.masks[block].mean(axis=axes))
        sums.append(images.sum(axis=axes))
        squares.append((images**2).sum(axis=axes))
        for array in (cases.images, cases.masks):  # pages that were read count as memory held
            array._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]
    return np.concatenate(areas), np.concatenate(sums), np.concatenate(squares)


def distribution(values: NDArray[np.float64]) -> dict[str, float]:
    """Mean and quantiles; of lesion areas, as shares of the picture."""
    quantiles = {name: float(np.quantile(values, q)) for name, q in QUANTILES.items()}
    return {"mean": float(values.mean()), **quantiles, "maximum": float(values.max())}


def channels(
    cases: PreparedCases,
    sums: NDArray[np.float64],
    squares: NDArray[np.float64],
    chosen: NDArray[np.bool_],
) -> dict[str, list[float]]:
    """Mean and standard deviation of red, green and blue, or of grey, over all pixels of the chosen
    cases."""
    pixels = chosen.sum() * np.prod(cases.masks.shape[1:])
    mean = sums[chosen].sum(axis=0) / pixels
    variance = squares[chosen].sum(axis=0) / pixels - mean**2
    return {
        "channel_mean": mean.tolist(),
        "channel_standard_deviation": np.sqrt(np.maximum(variance, 0)).tolist(),
    }


def original_sizes(table: pd.DataFrame) -> list[dict[str, float]]:
    """The originals' sizes in pixels, or in voxels with their spacings in millimetres, the most
    frequent first."""
    columns = [name for name in SIZES if name in table]
    counts = Counter(table[columns].round(3).itertuples(index=False, name=None))
    return [
        {**dict(zip(columns, size, strict=True)), "cases": count}
        for size, count in counts.most_common()
    ]


def near_duplicates(cases: PreparedCases, pairs: Sequence[Pair]) -> pd.DataFrame:
    """A row a pair: ids, splits (or folds), hash distance, inliers; pairs across splits first."""
    ids, parts = cases.table["id"].to_numpy(), part_of_each(cases)
    rows = [
        (ids[p.first], ids[p.second], parts[p.first], parts[p.second], p.distance, p.inliers)
        for p in pairs
    ]
    columns = ["id", "other_id", "split", "other_split", "distance", "inliers"]
    table = pd.DataFrame(rows, columns=columns)
    table["across"] = table["split"] != table["other_split"]
    return table.sort_values(["across", "inliers"], ascending=False, kind="stable")


def count_near_duplicates(
    cases: PreparedCases, pairs: Sequence[Pair], near: pd.DataFrame
) -> dict[str, int]:
    """Pairs, groups, cases in groups; of these what lies across splits, test cases above all."""
    sizes = np.bincount(groups(len(cases.table), pairs))
    across = near[near["across"]]
    touched = {
        id
        for one, split in (("id", "split"), ("other_id", "other_split"))
        for id in across.loc[across[split] == "test", one]
    }
    return {
        "pairs": len(near),
        "groups": int((sizes > 1).sum()),
        "cases": int(sizes[sizes > 1].sum()),
        "pairs_across_splits": len(across),
        "test_cases_with_one_elsewhere": len(touched),
    }


def known_groups(cases: PreparedCases, known: Mapping[str, str]) -> pd.DataFrame:
    """A row a case whose known group has others among the prepared cases: group, id, split (or
    fold), and whether the group is divided between splits; by group, then in the cases' order."""
    ids = cases.table["id"]
    table = pd.DataFrame({"group": ids.map(known), "id": ids, "split": part_of_each(cases)})
    table = table[table["group"].notna() & table["group"].duplicated(keep=False)]
    table["divided"] = table.groupby("group")["split"].transform("nunique") > 1
    return table.sort_values("group", kind="stable")


def count_known_groups(
    cases: PreparedCases, known: Mapping[str, str], grouped: pd.DataFrame
) -> dict[str, int]:
    """Groups of several cases, cases in them, cases that the file puts into no group; of the groups
    those divided between splits, and their test cases."""
    divided = grouped[grouped["divided"]]
    return {
        "groups": int(grouped["group"].nunique()),
        "cases": len(grouped),
        "cases_without_group": int((~cases.table["id"].isin(list(known))).sum()),
        "groups_divided": int(divided["group"].nunique()),
        "test_cases_with_one_elsewhere": int((divided["split"] == "test").sum()),
    }


def draw_contact_sheet(
    cases: PreparedCases, areas: NDArray[np.float64], parts: NDArray[np.str_], resize: Resize
) -> Figure:
    """Cases from the smallest lesion to the largest, at even steps, with their true borders; of
    volumes three planes of each, those of the largest lesion."""
    planes = PLANES if cases.masks.ndim == 4 else ("",)
    count = min(SHEET_ROWS * SHEET_COLUMNS // len(planes), len(areas))
    chosen = np.argsort(areas, kind="stable")[np.linspace(0, len(areas) - 1, count).astype(int)]
    figure = Figure(figsize=(SHEET_COLUMNS * 1.6, SHEET_ROWS * 1.5), layout="constrained")
    axes = figure.subplots(SHEET_ROWS, SHEET_COLUMNS, squeeze=False).flatten()
    for ax in axes:
        ax.set_axis_off()
    views = [(place, axis) for place in chosen for axis in range(len(planes))]
    shown = [proportions(cases, resize, axis) for axis in range(len(planes))]
    for ax, (place, axis) in zip(axes, views, strict=False):
        image, mask = view(cases, place, axis)
        show_image(ax, image, float(shown[axis][place]))
        draw_contour(ax, mask, TRUTH_COLOUR)
        id = shortened(cases.table["id"].iloc[place], 18)
        told = f", {planes[axis]}" if planes[axis] else ""
        ax.set_title(f"{id}\n{parts[place]}, {percent(100 * areas[place])}{told}", fontsize=6.5)
    return figure


def draw_lesion_areas(areas: NDArray[np.float64], parts: NDArray[np.str_]) -> Figure:
    """Histograms of the lesions' share of the image, one for each split or fold."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    ax = figure.subplots()
    names = [str(name) for name in SPLITS if name in parts]
    if not names:  # folds: alike by their making
        names, parts = ["all folds"], np.full(len(parts), "all folds")
    most = min(1.0, float(significant(1.5 * areas.max(), 1))) or 1.0  # no less than the largest
    sns.histplot(
        pd.DataFrame({"area": areas, "part": parts}),
        x="area",
        hue="part",
        hue_order=names,
        palette=dict(zip(names, COLOURS, strict=False)),
        bins=np.linspace(0, most, 26),
        stat="percent",
        common_norm=False,
        element="step",
        fill=False,
        ax=ax,
    )
    sns.move_legend(ax, "upper right", title=None)
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.set(xlabel="Lesion's share of the image", ylabel="Cases of the split, %", xlim=(0, most))
    return figure


def draw_near_duplicates(cases: PreparedCases, near: pd.DataFrame, resize: Resize) -> Figure:
    """Pairs side by side, two a row; the table's first MOST_PAIRS."""
    place = pd.Series(range(len(cases.table)), index=cases.table["id"])
    pairs = near.head(MOST_PAIRS).to_dict("records")
    shown = proportions(cases, resize)
    rows = -(-len(pairs) // 2)
    figure = Figure(figsize=(9.6, 1.9 * rows), layout="constrained")
    axes = figure.subplots(rows, 4, squeeze=False).reshape(-1, 2)
    for ax in axes.flat:
        ax.set_axis_off()
    for (left, right), pair in zip(axes, pairs, strict=False):
        for ax, id, split in (
            (left, pair["id"], pair["split"]),
            (right, pair["other_id"], pair["other_split"]),
        ):
            show_image(ax, cases.images[place[id]], float(shown[place[id]]))
            ax.set_title(f"{shortened(id, 18)}\n{split}", fontsize=7)
    return figure
