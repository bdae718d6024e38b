"""pipeline/download.py: each source ends in the raw layout; no network beyond 127.0.0.1."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faulty_server as faults
import numpy as np
import pytest
import yaml
from conftest import REPOSITORY
from faulty_server import FaultyServer, serving
from PIL import Image

from pipeline import download, preprocess
from pipeline.data import archives as official_archives
from pipeline.data import sources
from pipeline.data.archives import Archive
from pipeline.data.fetch import RetryPolicy
from pipeline.data.sources import draw_cases, fetch_isic2018, raw_in_place
from pipeline.data.synthetic import draw_case
from pipeline.engine.prepared import PreparedCases
from pipeline.study.blocks import Synthetic
from pipeline.study.errors import UserError
from pipeline.study.reading import load_study

ISIC2018 = {
    "source": "isic2018",
    "raw": "raw",
    "on_problem": "stop",
    "archives": None,
    "keep_archives": False,
}
DATA = Synthetic(
    on_problem="stop",
    source="synthetic",
    raw="raw",
    seed=7,
    depth=None,
    height=32,
    width=48,
    training=3,
    validation=1,
    test=2,
)
DRAWN = DATA.model_dump(mode="json")
QUICK = RetryPolicy(attempts=3, first_wait=0.001, longest_wait=0.01, timeout=0.5, progress=1000)
FOLDERS = {  # of the official archives, as the challenge names them
    "ISIC2018_Task1-2_Training_Input": "jpg",
    "ISIC2018_Task1-2_Validation_Input": "jpg",
    "ISIC2018_Task1-2_Test_Input": "jpg",
    "ISIC2018_Task1_Training_GroundTruth": "png",
    "ISIC2018_Task1_Validation_GroundTruth": "png",
    "ISIC2018_Task1_Test_GroundTruth": "png",
}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under the folder but the marks of archives."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (official_archives.MARK, sources.MARK)
    }


def work_in_study(folder: Path, monkeypatch: pytest.MonkeyPatch, data: dict[str, Any]) -> None:
    """Make the folder a study with that data source, and the working folder."""
    params = yaml.safe_load((REPOSITORY / "studies" / "demo" / "params.yaml").read_text())
    params["data"] = data
    params["train"]["optimizer"]["learning_rate"] = 0.001
    folder.mkdir(exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.chdir(folder)


def test_drawn_cases_are_as_many_in_each_split_as_asked_for(tmp_path):
    draw_cases(DATA, tmp_path / "raw")
    folders = [path for path in (tmp_path / "raw").iterdir() if path.is_dir()]
    counts = {path.name: len(list(path.iterdir())) for path in folders}
    assert counts == {
        "ISIC2018_Task1-2_Training_Input": 3,
        "ISIC2018_Task1-2_Validation_Input": 1,
        "ISIC2018_Task1-2_Test_Input": 2,
        "ISIC2018_Task1_Training_GroundTruth": 3,
        "ISIC2018_Task1_Validation_GroundTruth": 1,
        "ISIC2018_Task1_Test_GroundTruth": 2,
    }


def test_a_drawn_mask_is_exactly_the_drawn_region_and_the_image_near_the_drawn_one(tmp_path):
    draw_cases(DATA, tmp_path)
    masks = sorted(tmp_path.glob("*_GroundTruth/*.png"), key=lambda path: path.name)
    images = sorted(tmp_path.glob("*_Input/*.jpg"), key=lambda path: path.name)
    assert len(masks) == len(images) == 6
    for index, (mask_path, image_path) in enumerate(zip(masks, images, strict=True)):
        assert mask_path.name == f"SYNTHETIC_{index:07d}_segmentation.png"
        image, mask = draw_case(7, index, height=32, width=48)
        np.testing.assert_array_equal(np.asarray(Image.open(mask_path)), 255 * mask)
        stored = np.asarray(Image.open(image_path).convert("RGB"), dtype=float)
        # JPEG at quality 95 costs about 3 grey levels; another case is 18 and more away.
        assert np.abs(stored - image).mean() < 8


def test_drawing_again_writes_the_same_bytes(tmp_path):
    draw_cases(DATA, tmp_path / "one")
    draw_cases(DATA, tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_cases_that_are_there_are_not_drawn_again_unless_they_would_be_others(
    tmp_path, monkeypatch
):
    draw_cases(DATA, tmp_path)
    drawn = min(tmp_path.glob("*_Input/*.jpg"))
    drawn.write_bytes(b"kept")
    draw_cases(DATA, tmp_path)
    assert drawn.read_bytes() == b"kept"
    source = tmp_path.parent / "synthetic.py"
    source.write_text("changed")
    monkeypatch.setattr(sources.synthetic, "__file__", str(source))
    draw_cases(DATA, tmp_path)
    assert drawn.read_bytes() != b"kept"


def test_another_seed_draws_other_cases(tmp_path):
    draw_cases(DATA, tmp_path / "one")
    draw_cases(DATA.model_copy(update={"seed": 8}), tmp_path / "two")
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert one.keys() == two.keys()
    assert all(one[name] != two[name] for name in one)


def test_drawing_fewer_leaves_no_case_of_before(tmp_path):
    draw_cases(DATA, tmp_path / "raw")
    draw_cases(DATA.model_copy(update={"training": 1}), tmp_path / "raw")
    assert len(contents(tmp_path / "raw")) == 2 * (1 + 1 + 2)


def test_a_folder_that_holds_other_files_is_not_replaced_by_drawn_cases(tmp_path):
    (tmp_path / "raw" / "images").mkdir(parents=True)
    (tmp_path / "raw" / "images" / "ISIC_0000000.jpg").write_bytes(b"precious")
    with pytest.raises(UserError, match=r"data\.raw must be .* got .*ISIC_0000000\.jpg"):
        draw_cases(DATA, tmp_path / "raw")
    assert contents(tmp_path) == {"raw/images/ISIC_0000000.jpg": b"precious"}


def test_the_stage_draws_the_studys_cases_and_says_what_the_source_was(
    tmp_path, monkeypatch, capsys
):
    work_in_study(tmp_path, monkeypatch, DATA.model_dump())
    download.main()
    draw_cases(DATA, tmp_path / "expected")
    assert contents(tmp_path / "raw") == contents(tmp_path / "expected")
    assert json.loads((tmp_path / "data" / "source.json").read_text()) == {
        "source": "synthetic",
        "licence": "drawn by this project, MIT",
        "drawn": {"seed": 7, "depth": None, "height": 32, "width": 48}
        | {"training": 3, "validation": 1, "test": 2},
        "archives": [],
    }
    assert capsys.readouterr().out == "download: synthetic cases in raw\n"


def prepared(folder: Path, monkeypatch: pytest.MonkeyPatch, data: dict[str, Any]) -> str:
    """The fingerprint of a study's prepared cases, after its first two stages."""
    work_in_study(folder, monkeypatch, data)
    download.main()
    preprocess.main()
    return PreparedCases.open(Path("data/prepared")).fingerprint


def test_cases_of_other_params_are_not_taken_for_those_of_these(tmp_path, monkeypatch):
    """When params are put back, DVC puts source.json back, and not the raw cases."""
    folder = tmp_path / "study"
    first = prepared(folder, monkeypatch, DRAWN)
    described = Path("data/source.json").read_bytes()
    assert prepared(folder, monkeypatch, DRAWN | {"seed": 8, "test": 3}) != first
    work_in_study(folder, monkeypatch, DRAWN)
    Path("data/source.json").write_bytes(described)
    preprocess.main()
    assert PreparedCases.open(Path("data/prepared")).fingerprint == first


def test_two_studies_that_draw_into_one_folder_have_each_its_own_cases(tmp_path, monkeypatch):
    shared = DRAWN | {"raw": str(tmp_path / "raw")}
    first = prepared(tmp_path / "one", monkeypatch, shared)
    assert prepared(tmp_path / "two", monkeypatch, shared | {"seed": 8}) != first
    monkeypatch.chdir(tmp_path / "one")
    preprocess.main()
    assert PreparedCases.open(Path("data/prepared")).fingerprint == first


def test_a_study_waits_with_its_drawing_while_another_reads_the_folder(tmp_path, monkeypatch):
    shared = DRAWN | {"raw": str(tmp_path / "raw")}
    work_in_study(tmp_path / "one", monkeypatch, shared)
    one = load_study()
    work_in_study(tmp_path / "two", monkeypatch, shared | {"seed": 8})
    with ThreadPoolExecutor(1) as pool, raw_in_place(one):
        before = contents(tmp_path / "raw")
        other = pool.submit(download.main)
        with pytest.raises(TimeoutError):
            other.result(1)
        assert contents(tmp_path / "raw") == before
    assert contents(tmp_path / "raw") != before


@pytest.mark.parametrize("name", ["r" * 252, "\u0436" * 127])  # 252 and 254 bytes, of 255
def test_raw_cases_lie_in_a_folder_of_any_name(tmp_path, monkeypatch, name):
    work_in_study(tmp_path / "study", monkeypatch, DRAWN | {"raw": str(tmp_path / name)})
    with raw_in_place(load_study()):
        assert (tmp_path / name / "drawn.json").is_file()


def test_drawn_cases_are_not_taken_for_the_official_ones(tmp_path, monkeypatch):
    work_in_study(tmp_path / "study", monkeypatch, DRAWN)
    download.main()
    work_in_study(tmp_path / "study", monkeypatch, ISIC2018)
    for stage in (download, preprocess):
        with pytest.raises(UserError, match=r"it holds drawn cases, as raw/drawn\.json tells"):
            stage.main()


def test_a_folder_that_is_not_there_is_told(tmp_path, monkeypatch):
    work_in_study(
        tmp_path, monkeypatch, {"source": "directory", "raw": "cases", "on_problem": "stop"}
    )
    with pytest.raises(UserError) as error:
        download.main()
    assert str(error.value) == (
        "params.yaml: data.raw must be an existing folder of cases, got 'cases'; fill that folder "
        "or link it to where the cases are"
    )


def test_the_users_own_folder_is_neither_copied_nor_changed(tmp_path, monkeypatch):
    cases = tmp_path / "elsewhere"
    draw_cases(DATA, cases)
    (cases / "ISIC2018_Task1-2_Test_Input" / "LICENSE.txt").write_text("CC-0")
    (cases / "unrelated.txt").write_text("no part of the layout")
    study = tmp_path / "study"
    study.mkdir()
    work_in_study(
        study, monkeypatch, {"source": "directory", "raw": "../elsewhere", "on_problem": "stop"}
    )

    def state() -> dict[Path, tuple[int, int, int]]:
        stats = {path: path.stat() for path in [cases, *cases.rglob("*")]}
        return {path: (s.st_ino, s.st_size, s.st_mtime_ns) for path, s in stats.items()}

    before = state()
    download.main()
    assert state() == before
    files = sorted(cases.glob("*_*/*.jpg")) + sorted(cases.glob("*_*/*.png"))
    lines = sorted((path.relative_to(cases).as_posix(), path.read_bytes()) for path in files)
    listed = "\n".join(f"{hashlib.sha256(content).hexdigest()} {name}" for name, content in lines)
    assert json.loads((study / "data" / "source.json").read_text())["files"] == {
        "number": 12,
        "bytes": sum(len(content) for _, content in lines),
        "sha256": hashlib.sha256(listed.encode()).hexdigest(),
    }
    assert contents(study).keys() == {"params.yaml", "data/source.json"}


@pytest.fixture
def official(tmp_path: Path) -> dict[str, dict[str, bytes]]:
    """What six small official archives hold: archive -> file -> bytes, one case a split."""
    drawn = tmp_path / "drawn"
    draw_cases(DATA.model_copy(update={"training": 1, "test": 1}), drawn)
    return {
        name: {path.name: path.read_bytes() for path in (drawn / name).iterdir()}
        | {"LICENSE.txt": b"CC-0", "ATTRIBUTION.txt": b"the ISIC archive"}
        for name in FOLDERS
    }


def zipped(folder: str, files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.mkdir(folder)
        for name, content in files.items():
            archive.writestr(f"{folder}/{name}", content)
    return buffer.getvalue()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as server:
        monkeypatch.setattr(sources, "BASE_URLS", [server.url, f"{server.url}second/"])
        yield server


@pytest.fixture
def archives(
    server: FaultyServer, official: dict[str, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> list[Archive]:
    """The six archives, served at the first address."""
    served = []
    for name, files in official.items():
        content = server.files[f"/{name}.zip"] = zipped(name, files)
        served.append(Archive(name, len(content), hashlib.sha256(content).hexdigest()))
    monkeypatch.setattr(sources, "ARCHIVES", served)
    return served


def unpacked(official: dict[str, dict[str, bytes]]) -> dict[str, bytes]:
    """What is in place in the end."""
    return {f"{name}/{file}": official[name][file] for name in official for file in official[name]}


def get(raw_dir: Path, **options: Any) -> None:
    fetch_isic2018(raw_dir, policy=QUICK, **options)


def test_the_six_archives_are_the_official_ones():
    assert [archive.name for archive in official_archives.ARCHIVES] == list(FOLDERS)
    assert len({archive.sha256 for archive in official_archives.ARCHIVES}) == 6
    assert all(len(archive.sha256) == 64 for archive in official_archives.ARCHIVES)


def test_archives_are_unpacked_flat_with_their_licence_and_no_zip_is_left(
    tmp_path, archives, official
):
    get(tmp_path / "raw")
    assert contents(tmp_path / "raw") == unpacked(official)
    assert {path.name for path in (tmp_path / "raw").iterdir()} == set(FOLDERS)


def test_archives_are_kept_if_asked_for(tmp_path, server, archives, official):
    get(tmp_path / "raw", keep=True)
    kept = {f"archives{path}": content for path, content in server.files.items()}
    assert contents(tmp_path / "raw") == unpacked(official) | kept


def test_kept_archives_are_used_again_and_removed_when_no_longer_wanted(
    tmp_path, server, archives, official
):
    get(tmp_path / "raw", keep=True)
    asked = len(server.asked)
    folder = tmp_path / "raw" / archives[0].name
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    get(tmp_path / "raw")
    assert len(server.asked) == asked
    assert contents(tmp_path / "raw") == unpacked(official)
    assert not (tmp_path / "raw" / "archives").exists()


def test_the_stage_finds_the_fetched_cases_and_records_the_checksums(
    tmp_path, monkeypatch, archives
):
    work_in_study(tmp_path, monkeypatch, ISIC2018)

    def recorded() -> list[dict[str, object]]:
        download.main()
        return list(json.loads((tmp_path / "data" / "source.json").read_text())["archives"])

    verified = [
        {"name": archive.file, "sha256": archive.sha256, "verified": True} for archive in archives
    ]
    assert recorded() == verified
    assert recorded() == verified  # also by a later call, which finds all of them unpacked


def test_a_folder_that_the_user_unpacked_is_used_and_not_called_verified(
    tmp_path, monkeypatch, archives
):
    work_in_study(tmp_path, monkeypatch, ISIC2018)
    own = tmp_path / "raw" / archives[0].name
    own.mkdir(parents=True)
    (own / "ISIC_0000000.jpg").touch()
    download.main()
    found = json.loads((tmp_path / "data" / "source.json").read_text())["archives"]
    assert [archive["verified"] for archive in found] == [False] + [True] * 5


def test_a_second_call_downloads_nothing(tmp_path, server, archives):
    get(tmp_path / "raw")
    assert len(server.asked) == 6
    before = contents(tmp_path / "raw")
    get(tmp_path / "raw")
    assert len(server.asked) == 6
    assert contents(tmp_path / "raw") == before


def test_one_archive_that_is_missing_holds_up_no_other(tmp_path, server, archives, official):
    last = archives[-1]
    content = server.files.pop(f"/{last.file}")
    with pytest.raises(UserError) as error:
        get(tmp_path / "raw")
    assert str(error.value) == (
        f"{last.file} could not be downloaded: {server.url}{last.file}: 404 Not Found; "
        f"{server.url}second/{last.file}: 404 Not Found; run again to go on, 0 of {last.bytes} "
        "bytes are kept"
    )
    done = {path.name for path in (tmp_path / "raw").iterdir()} - {"archives"}
    assert done == set(FOLDERS) - {last.name}
    server.asked.clear()
    server.files[f"/second/{last.file}"] = content
    get(tmp_path / "raw")
    assert [path for path, _ in server.asked] == [f"/{last.file}", f"/second/{last.file}"]
    assert contents(tmp_path / "raw") == unpacked(official)


def test_all_failures_are_told_at_once(tmp_path, server, archives):
    server.always = faults.status(404)
    with pytest.raises(UserError) as error:
        get(tmp_path / "raw")
    lines = str(error.value).split("\n       ")
    assert {line.split()[0] for line in lines} == {archive.file for archive in archives}


def test_an_archive_of_other_bytes_is_refused_and_nothing_is_in_place(tmp_path, server, archives):
    first = archives[0]
    content = bytearray(server.files[f"/{first.file}"])
    content[100] ^= 1
    for path in (f"/{first.file}", f"/second/{first.file}"):
        server.files[path] = bytes(content)
    with pytest.raises(UserError, match=f"{first.file} is not the file that was expected, twice"):
        get(tmp_path / "raw")
    assert not (tmp_path / "raw" / first.name).exists()
    assert contents(tmp_path / "raw" / "archives") == {}


def own_archives(server: FaultyServer, folder: Path) -> Path:
    folder.mkdir()
    for path, content in server.files.items():
        (folder / path.removeprefix("/")).write_bytes(content)
    return folder


def test_the_users_own_archives_are_used_without_download_and_never_changed(
    tmp_path, server, archives, official, monkeypatch
):
    own = own_archives(server, tmp_path / "own")
    before = contents(own)
    study = tmp_path / "study"
    study.mkdir()
    work_in_study(study, monkeypatch, ISIC2018 | {"archives": "../own"})
    download.main()
    assert contents(study / "raw") == unpacked(official)
    assert contents(own) == before
    assert server.asked == []


def test_own_archives_in_the_folder_for_downloads_stay_there(tmp_path, server, archives):
    (tmp_path / "raw").mkdir()
    own = own_archives(server, tmp_path / "raw" / "archives")
    before = contents(own)
    get(tmp_path / "raw", own=own)
    assert contents(own) == before


def test_own_archives_that_are_missing_or_cut_are_all_told_before_any_work(
    tmp_path, server, archives
):
    own = own_archives(server, tmp_path / "own")
    (own / archives[0].file).unlink()
    (own / archives[1].file).write_bytes(b"cut")
    with pytest.raises(UserError) as error:
        get(tmp_path / "raw", own=own)
    assert str(error.value) == (
        f"params.yaml: data.archives must be a folder with the official archives, got {own}; "
        "complete it, or set null to download them:\n"
        f"       {archives[0].file} is missing\n"
        f"       {archives[1].file} must have {archives[1].bytes} bytes, got 3"
    )
    assert not (tmp_path / "raw").exists()


def test_an_own_archive_of_other_bytes_is_refused_and_left_alone(tmp_path, server, archives):
    own = own_archives(server, tmp_path / "own")
    first = archives[0]
    (own / first.file).write_bytes(bytes(first.bytes))
    with pytest.raises(UserError) as error:
        get(tmp_path / "raw", own=own)
    assert str(error.value) == (
        f"{own / first.file} is not the official archive: its sha256 must be {first.sha256}, "
        f"got {hashlib.sha256(bytes(first.bytes)).hexdigest()}"
    )
    assert (own / first.file).read_bytes() == bytes(first.bytes)
    assert not (tmp_path / "raw" / first.name).exists()


def test_a_disk_too_small_is_told_with_what_is_missing_before_any_download(
    tmp_path, server, archives, monkeypatch
):
    packed = sum(archive.bytes for archive in archives)
    unpacked = sum(int(1.05 * archive.bytes) for archive in archives)
    free = packed + unpacked - 1500
    usage = type("Usage", (), {"free": free})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(UserError) as error:
        get(tmp_path / "raw")
    assert str(error.value) == (
        f"{tmp_path / 'raw'} needs {(packed + unpacked) / 1000:.1f} kB of free disk "
        f"({packed / 1000:.1f} kB of archives and {unpacked / 1000:.1f} kB unpacked), "
        f"got {free / 1000:.1f} kB: 1.5 kB are missing; make room, or name a folder on another "
        "disk as data.raw in params.yaml"
    )
    assert server.asked == []
    usage.free = packed + unpacked  # exactly enough
    get(tmp_path / "raw")


def test_bytes_that_are_there_need_no_room_again(tmp_path, server, archives, monkeypatch):
    del server.files[f"/{archives[-1].file}"]
    with pytest.raises(UserError, match="404"):
        get(tmp_path / "raw", keep=True)
    needed = archives[-1].bytes + int(1.05 * archives[-1].bytes)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": needed - 1}))
    with pytest.raises(UserError, match="1 bytes are missing"):
        get(tmp_path / "raw", keep=True)


SCRIPT = """
import json, sys
from pathlib import Path
from pipeline.data import sources
from pipeline.data.archives import Archive
from pipeline.study.errors import run_command
served = json.loads(sys.argv[1])
sources.ARCHIVES = [Archive(*archive) for archive in served["archives"]]
sources.BASE_URLS = [served["url"]]
print("ready", flush=True)
run_command(lambda: sources.fetch_isic2018(Path(sys.argv[2])))
"""


@pytest.fixture
def stage(server: FaultyServer, archives: list[Archive], tmp_path: Path) -> Iterator[list[str]]:
    """The command that fetches the archives from the server, which takes its time."""
    server.always = faults.slowly(40, 0.02)
    served = {"url": server.url, "archives": [[a.name, a.bytes, a.sha256] for a in archives]}
    return [sys.executable, "-c", SCRIPT, json.dumps(served), str(tmp_path / "raw")]


def start(command: list[str]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell's background job ignores Ctrl-C, and so would this child of it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    process.stdout.readline()
    return process


@pytest.mark.slow
def test_a_process_killed_again_and_again_ends_with_the_right_files(
    tmp_path, server, stage, official
):
    """SIGKILL at 4 random moments of six downloads and unpackings, the last run left alone."""
    moments = random.Random(3)
    expected = unpacked(official)
    for _ in range(4):
        process = start(stage)
        time.sleep(moments.uniform(0.05, 0.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if (tmp_path / "raw").exists():
            found = contents(tmp_path / "raw")
            in_place = {name: found[name] for name in found if name.split("/")[0] in FOLDERS}
            assert in_place.items() <= expected.items()
            complete = {name.split("/")[0] for name in in_place}
            assert in_place == {n: c for n, c in expected.items() if n.split("/")[0] in complete}
    process = start(stage)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert contents(tmp_path / "raw") == expected
    assert {path.name for path in (tmp_path / "raw").iterdir()} == set(FOLDERS)


@pytest.mark.slow
def test_ctrl_c_stops_at_once_without_a_traceback_and_keeps_what_came(
    tmp_path, server, stage, official
):
    server.always = faults.trickle(100, 0.02)
    process = start(stage)
    while len(server.asked) < 6:
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    _, errors = process.communicate()
    assert process.returncode == 130
    assert time.monotonic() - started < 5
    assert b"stopped; run again to complete it" in errors
    assert b"Traceback" not in errors
    partial = contents(tmp_path / "raw" / "archives")
    kept = [len(content) for name, content in partial.items() if name.endswith(".partial")]
    assert len(kept) == 6
    assert min(kept) > 0
    server.always = None
    process = start(stage)
    process.communicate()
    assert process.returncode == 0
    assert contents(tmp_path / "raw") == unpacked(official)


@pytest.mark.slow
def test_two_studies_that_begin_together_fetch_each_archive_once(
    tmp_path, server, stage, archives, official
):
    server.always = faults.slowly(40, 0.1)  # as long as one may come later than the other
    with ThreadPoolExecutor(2) as pool:
        processes = list(pool.map(start, [stage, stage]))
    told = [process.communicate()[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    assert sum("another process is at" in each for each in told) == 1
    assert contents(tmp_path / "raw") == unpacked(official)
    assert Counter(path for path, *_ in server.asked).most_common(1)[0][1] == 1
