"""data/splits.py: how cases are divided, against counting."""

from __future__ import annotations

import errno
import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.data.raw import RawCase
from pipeline.data.splits import divide, known_groups, listed_cases
from pipeline.study.blocks import FoldSplit, GroupFile, ListSplit, OfficialSplit, RandomSplit
from pipeline.study.errors import UserError

RANDOM = {"method": "random", "seed": 0, "training": 0.5, "validation": 0.25, "test": 0.25}


def named(count: int) -> list[RawCase]:
    return [RawCase(f"case{n:04d}", None, Path(), Path()) for n in range(count)]


def split_alone(count: int, **changes: Any) -> list[str]:
    """The random split of so many cases, each its own group."""
    split = RandomSplit.model_validate(RANDOM | changes)
    return list(divide([None] * count, [str(n) for n in range(count)], split)["split"])


@pytest.mark.parametrize("count", [25, 33, 100, 2594])
@pytest.mark.parametrize("fractions", [(0.5, 0.25, 0.25), (0.76, 0.04, 0.2), (0.1, 0.1, 0.8)])
def test_a_random_split_has_the_fractions_to_within_one_case(count, fractions):
    expected = dict(zip(("training", "validation", "test"), fractions, strict=True))
    counts = Counter(split_alone(count, **expected))
    for split, fraction in expected.items():
        assert abs(counts[split] - fraction * count) <= 1


def test_a_random_split_depends_on_its_seed_alone():
    assert split_alone(100) == split_alone(100)
    agreement = np.mean(np.array(split_alone(100)) == np.array(split_alone(100, seed=1)))
    assert agreement < 0.6  # by chance 0.5^2 + 0.25^2 + 0.25^2 = 0.375


def test_a_random_split_shuffles():
    assert sorted(split_alone(100)[:50]).count("training") < 35


def test_groups_are_never_divided_and_the_fractions_hold_to_half_of_the_largest_group():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 9, 60)
    groups = [f"patient{number}" for number, size in enumerate(sizes) for _ in range(size)]
    shuffled = list(rng.permutation(groups))
    for seed in range(5):
        split = RandomSplit.model_validate(RANDOM | {"seed": seed})
        assigned = list(divide([None] * len(groups), shuffled, split)["split"])
        assert len(set(zip(shuffled, assigned, strict=True))) == 60
        assert abs(assigned.count("training") - 0.5 * len(groups)) <= 4
        assert abs(assigned.count("test") - 0.25 * len(groups)) <= 4


def test_a_random_split_with_a_split_that_gets_no_case_is_refused():
    with pytest.raises(UserError) as error:
        split_alone(10, training=0.9, validation=0.01, test=0.09)
    assert str(error.value) == (
        "params.yaml: prepare.split.method random needs fractions that give each split a case, "
        "got cases: 9 training, 0 validation, 1 test"
    )


def test_the_official_split_of_a_flat_layout_is_refused():
    told = (
        r"split\.method official needs usable cases in each of the Training, Validation and Test "
        "folders and none elsewhere, got cases: 0 training, 0 validation, 0 test, 3 elsewhere$"
    )
    with pytest.raises(UserError, match=told):
        divide([None] * 3, ["a", "b", "c"], OfficialSplit(method="official"))


def folds_of(groups: list[str], k: int, seed: int = 0) -> list[int]:
    split = FoldSplit(method="folds", k=k, seed=seed)
    return list(divide([None] * len(groups), groups, split)["fold"])


@pytest.mark.parametrize(("count", "k"), [(10, 5), (11, 5), (2594, 5), (100, 3), (7, 7)])
def test_folds_hold_every_case_once_and_differ_by_one_at_most(count, k):
    counts = Counter(folds_of([str(number) for number in range(count)], k))
    assert sorted(counts) == list(range(k))
    assert sum(counts.values()) == count
    assert max(counts.values()) - min(counts.values()) <= 1


def test_folds_depend_on_their_seed_alone_and_never_divide_a_group():
    groups = [f"patient{number // 3}" for number in range(90)]
    assert folds_of(groups, 5) == folds_of(groups, 5)
    assert folds_of(groups, 5) != folds_of(groups, 5, seed=1)
    assert len(set(zip(groups, folds_of(groups, 5), strict=True))) == 30


def test_more_folds_than_groups_are_refused():
    with pytest.raises(UserError, match=r"prepare\.split\.k must leave each fold a case, got 5"):
        folds_of(["a"] * 50 + ["b"] * 50, 5)


def lists_in(folder: Path, **ids: list[str]) -> ListSplit:
    """A split of lists, with files of those ids."""
    entries = {}
    for name in ("training", "validation", "test"):
        path = folder / f"{name}.txt"
        path.write_text("".join(f"{id}\n" for id in ids.get(name, [])))
        entries[name] = {
            "file": path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
    return ListSplit.model_validate({"method": "lists", **entries})


def choose(split: ListSplit, folder: Path, known: tuple[str, ...] = ()) -> list[RawCase]:
    cases = named(5)
    ids = {case.id for case in cases} | set(known)
    return listed_cases(cases, ids, split, folder.joinpath)[1]


def test_lists_choose_their_cases_and_leave_the_others(tmp_path):
    split = lists_in(
        tmp_path, training=["case0003", "case0000"], validation=["case0004"], test=["case0001"]
    )
    cases = choose(split, tmp_path)
    assert [(case.id, case.split) for case in cases] == [
        ("case0000", "training"),
        ("case0001", "test"),
        ("case0003", "training"),
        ("case0004", "validation"),
    ]
    table = divide([case.split for case in cases], [case.id for case in cases], split)
    assert list(table["split"]) == ["training", "test", "training", "validation"]


def test_a_listed_case_that_cannot_be_used_is_no_unknown_id(tmp_path):
    split = lists_in(tmp_path, training=["case0000", "broken"])
    assert len(choose(split, tmp_path, known=("broken",))) == 1


def test_a_list_changed_after_it_was_declared_is_refused(tmp_path):
    split = lists_in(tmp_path, training=["case0000"])
    (tmp_path / "training.txt").write_text("case0001\n")
    found = hashlib.sha256(b"case0001\n").hexdigest()
    told = (
        rf"training\.sha256 must be that of training.txt, {found}, got '{split.training.sha256}': "
        "put it there if the file is what you mean$"
    )
    with pytest.raises(UserError, match=told):
        choose(split, tmp_path)


def relist(folder: Path, content: bytes) -> ListSplit:
    """A split whose training list has those bytes."""
    split = lists_in(folder)
    (folder / "training.txt").write_bytes(content)
    changed = split.training.model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})
    return split.model_copy(update={"training": changed})


def test_a_list_of_windows_is_read(tmp_path):
    content = b"\xef\xbb\xbfcase0000\r\n\r\n  case0001 \r\n"
    assert [case.id for case in choose(relist(tmp_path, content), tmp_path)] == [
        "case0000",
        "case0001",
    ]


def test_a_list_that_is_no_utf8_is_told(tmp_path):
    with pytest.raises(UserError, match=r"training\.txt: must be UTF-8 text"):
        choose(relist(tmp_path, "case0000\n".encode("utf-16")), tmp_path)


def test_a_group_larger_than_a_fold_leaves_the_others_to_the_other_folds():
    for seed in range(3):
        folds = folds_of(["a"] * 10 + ["b", "c"], 3, seed)
        assert len(set(folds[:10])) == 1
        assert sorted(set(folds)) == [0, 1, 2]


def test_the_largest_groups_are_dealt_first_so_that_folds_are_alike():
    sizes = {"a": 1, "b": 1, "c": 2, "d": 2, "e": 3, "f": 3, "g": 6}
    groups = [name for name, size in sizes.items() for _ in range(size)]
    for seed in range(5):
        counts = Counter(folds_of(groups, 3, seed))
        assert sorted(counts.values()) == [6, 6, 6]


def test_a_group_goes_where_its_middle_falls():
    # Of ten cases the one group has nine. Its middle is at 4.5 or 5.5 of ten: training to 5.
    groups = ["large"] * 9 + ["small"]
    parts = set()
    for seed in range(20):
        split = RandomSplit.model_validate(
            {"method": "random", "seed": seed, "training": 0.5, "validation": 0.25, "test": 0.25}
        )
        with pytest.raises(UserError, match="give each split a case") as caught:
            divide([None] * 10, groups, split)
        parts.add(str(caught.value).partition("got cases: ")[2])
    # First, it trains and the small one is tested; second, at 5.5, it validates.
    assert parts == {"9 training, 0 validation, 1 test", "1 training, 9 validation, 0 test"}


def test_a_list_that_is_missing_is_named(tmp_path):
    split = lists_in(tmp_path)
    (tmp_path / "test.txt").unlink()
    with pytest.raises(UserError, match=r"test\.file must be an existing file, got 'test\.txt'"):
        choose(split, tmp_path)


def test_unknown_ids_are_counted_and_named(tmp_path):
    for unknown, told in ((["x", "y"], "2 others such as x, y$"), (list("zyxw"), "4 .* w, x, y$")):
        split = lists_in(tmp_path, validation=["case0001", *unknown])
        with pytest.raises(UserError, match=rf"validation\.txt: must list ids .* got {told}"):
            choose(split, tmp_path)


@pytest.mark.parametrize(
    "ids", [{"test": ["case0001"] * 2}, {"test": ["case0001"], "training": ["case0001"]}]
)
def test_an_id_listed_twice_is_refused(tmp_path, ids):
    with pytest.raises(UserError, match=r"got 1 id more than once such as case0001"):
        choose(lists_in(tmp_path, **ids), tmp_path)


def test_three_of_the_ids_listed_twice_are_named(tmp_path):
    twice = [f"case000{number}" for number in range(4)]
    with pytest.raises(UserError, match=r"got 4 ids .* such as case0000, case0001, case0002$"):
        choose(lists_in(tmp_path, training=twice, test=twice), tmp_path)


def test_a_list_that_leaves_a_split_empty_is_refused(tmp_path):
    split = lists_in(tmp_path, training=["case0000"], validation=["case0001"])
    cases = choose(split, tmp_path)
    with pytest.raises(UserError, match=r"lists needs a usable case in each list, got cases: 1 tr"):
        divide([case.split for case in cases], [case.id for case in cases], split)


def test_an_id_is_the_same_whichever_form_its_letters_have(tmp_path):
    """macOS writes e and its accent as two."""
    ids = {"caf\u00e9", "b", "c"}
    split = lists_in(tmp_path, training=["cafe\u0301"], validation=["b"], test=["c"])
    assert listed_cases([], ids, split, tmp_path.joinpath)[0] == ids


RAW = {"a", "b", "c", "d"}


def group_file(folder: Path, content: str | bytes, **changes: str) -> GroupFile:
    """The block prepare.groups of a file with that content."""
    content = content.encode() if isinstance(content, str) else content
    (folder / "groups.csv").write_bytes(content)
    checksum = hashlib.sha256(content).hexdigest()
    block = {"file": "groups.csv", "sha256": checksum, "id": "image_id", "column": "lesion_id"}
    return GroupFile.model_validate(block | changes)


def groups_in(folder: Path, content: str | bytes, **changes: str) -> dict[str, str]:
    return known_groups(RAW, group_file(folder, content, **changes), folder.joinpath)


def test_known_groups_are_read_from_the_columns_that_are_named(tmp_path):
    content = "lesion_id,image_id,dx\nL1,a,nv\nL1,b,nv\nL2,c,mel\nL1,elsewhere,nv\n"
    assert groups_in(tmp_path, content) == {"a": "L1", "b": "L1", "c": "L2"}
    assert groups_in(tmp_path, content, column="dx") == {"a": "nv", "b": "nv", "c": "mel"}


def test_an_empty_cell_is_no_group_and_an_id_twice_in_one_group_is_in_it(tmp_path):
    content = "image_id,lesion_id\na,\nb,  \nc,L1\nc,L1\nd,\nd,L2\n"
    assert groups_in(tmp_path, content) == {"c": "L1", "d": "L2"}


def test_what_spreadsheets_write_is_read(tmp_path):
    """A byte order mark, Windows' line ends, an empty last line, quotes, letters of two forms."""
    content = (
        '\ufeffimage_id,"l\u00e9sion"\r\n a ,"L, 1"\r\n"b","L, 1"\r\n,\r\n\r\n'
        "c,e\u0301\r\nd,\u00e9\r\n"
    )
    groups = {"a": "L, 1", "b": "L, 1", "c": "\u00e9", "d": "\u00e9"}
    assert groups_in(tmp_path, content, column="le\u0301sion") == groups


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            "image_id,lesion_id\na,L1\nx,L1\na,L2\nx,L2\n",
            r"groups\.csv: must put each id into one group, got 2 ids in two such as a, in 'L1' "
            "and 'L2': leave one of them$",
        ),
        (
            "image_id,lesion_id\na.jpg,L1\nb.jpg,L1\n",
            r"groups\.csv: must name raw cases such as a in the column 'image_id', got 2 other "
            r"ids such as a\.jpg: name the column that has them as prepare\.groups\.id$",
        ),
        ("image_id,lesion_id\n", r"must name raw cases such as a .*, got 0 other ids: name"),
        (
            "image_id;lesion_id\na;L1\n",
            r"^params\.yaml: prepare\.groups\.id must be one column of groups\.csv "
            r"\(image_id;lesion_id\), got 'image_id'$",
        ),
        (
            "image_id,patient\na,P1\n",
            r"prepare\.groups\.column must be one column of groups\.csv \(image_id, patient\), "
            "got 'lesion_id'$",
        ),
        ("image_id,lesion_id,image_id\na,L1,b\n", r"groups\.id must be one column of"),
        ("", r"prepare\.groups\.id must be one column of groups\.csv \(an empty file\), got"),
        (
            "image_id,lesion_id\na,L1\nb,L1,nv\n",
            r"groups\.csv, line 3: must have 2 cells as the header has, got 3; save it as a CSV",
        ),
        (
            'image_id,lesion_id\na,"L1\n',
            r"groups\.csv, line 2: must be CSV, got unexpected end of data; save it as a CSV",
        ),
        ("image_id,lesion_id\na,L1\n".encode("utf-16"), r"groups\.csv: must be UTF-8 text, sav"),
    ],
)
def test_a_mistake_in_the_file_of_groups_costs_one_line(tmp_path, content, told):
    with pytest.raises(UserError, match=told) as caught:
        groups_in(tmp_path, content)
    assert "\n" not in str(caught.value)


def test_a_file_of_groups_that_is_missing_changed_or_closed_is_told_as_a_list_is(tmp_path):
    entry = group_file(tmp_path, "image_id,lesion_id\na,L1\n")
    path = tmp_path / "groups.csv"
    path.write_text("image_id,lesion_id\na,L2\n")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    told = rf"^params\.yaml: prepare\.groups\.sha256 must be that of groups\.csv, {found}, got"
    with pytest.raises(UserError, match=told):
        known_groups(RAW, entry, tmp_path.joinpath)
    path.unlink()
    told = r"^params\.yaml: prepare\.groups\.file must be an existing file, got 'groups\.csv'$"
    with pytest.raises(UserError, match=told):
        known_groups(RAW, entry, tmp_path.joinpath)


def test_a_declared_file_that_may_not_be_read_is_told(tmp_path, monkeypatch):
    def refused(_: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied")

    entry = group_file(tmp_path, "image_id,lesion_id\na,L1\n")
    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(UserError, match=r"groups\.csv cannot be read: Permission denied"):
        known_groups(RAW, entry, tmp_path.joinpath)
