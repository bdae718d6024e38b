"""pipeline/download.py: each source ends in the raw layout; no network beyond 127.0.0.1."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import REPOSITORY
from PIL import Image

from pipeline import download
from pipeline.download import Archive, draw_cases, fetch_isic2018
from pipeline.errors import UserError
from pipeline.params import Synthetic
from pipeline.synthetic import draw_case

DATA = Synthetic(
    source="synthetic", raw="raw", seed=7, height=32, width=48, training=3, validation=1, test=2
)
FOLDERS = {  # of the official archives, as the challenge names them
    "ISIC2018_Task1-2_Training_Input": "jpg",
    "ISIC2018_Task1-2_Validation_Input": "jpg",
    "ISIC2018_Task1-2_Test_Input": "jpg",
    "ISIC2018_Task1_Training_GroundTruth": "png",
    "ISIC2018_Task1_Validation_GroundTruth": "png",
    "ISIC2018_Task1_Test_GroundTruth": "png",
}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under the folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def work_in_study(folder: Path, monkeypatch: pytest.MonkeyPatch, data: dict[str, Any]) -> None:
    """Make the folder a study with that data source, and the working folder."""
    params = yaml.safe_load((REPOSITORY / "studies" / "demo" / "params.yaml").read_text())
    params["data"] = data
    params["train"]["learning_rate"] = 0.001
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.chdir(folder)


def test_drawn_cases_are_as_many_in_each_split_as_asked_for(tmp_path):
    draw_cases(DATA, tmp_path / "raw")
    counts = {path.name: len(list(path.iterdir())) for path in (tmp_path / "raw").iterdir()}
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
        "cases": 6,
        "archives": {},
    }
    assert capsys.readouterr().out == "download: 6 cases from synthetic in raw\n"


def test_the_users_own_folder_is_neither_copied_nor_changed(tmp_path, monkeypatch):
    cases = tmp_path / "elsewhere"
    draw_cases(DATA, cases)
    (cases / "LICENSE.txt").write_text("CC-0")
    study = tmp_path / "study"
    study.mkdir()
    work_in_study(study, monkeypatch, {"source": "directory", "raw": "../elsewhere"})

    def state() -> dict[Path, tuple[int, int, int]]:
        stats = {path: path.stat() for path in [cases, *cases.rglob("*")]}
        return {path: (s.st_ino, s.st_size, s.st_mtime_ns) for path, s in stats.items()}

    before = state()
    download.main()
    assert state() == before
    assert contents(study).keys() == {"params.yaml", "data/source.json"}
    assert json.loads((study / "data" / "source.json").read_text())["cases"] == 6


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


class Server:
    """A web server on 127.0.0.1 for the files in `folder`; `asked` holds each path asked for.

    It closes the connection `cut` bytes before the end of what it has announced.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        self.cut = 0
        server = self

        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                server.asked.append(self.path)
                super().do_GET()

            def copyfile(self, source: Any, outputfile: Any) -> None:
                content = source.read()
                outputfile.write(content[: len(content) - server.cut])

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        threading.Thread(target=self.server.serve_forever, args=[0.01]).start()

    def offer(self, name: str, content: bytes) -> Archive:
        """Serve the content as `name`.zip; return what is known of it."""
        (self.folder / f"{name}.zip").write_bytes(content)
        return Archive(name, len(content), hashlib.sha256(content).hexdigest())


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    (tmp_path / "served").mkdir()
    server = Server(tmp_path / "served")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    port = server.server.server_address[1]
    monkeypatch.setattr(download, "BASE_URL", f"http://127.0.0.1:{port}/")
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture
def archives(
    server: Server, official: dict[str, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> list[Archive]:
    """The six archives, served."""
    served = [server.offer(name, zipped(name, files)) for name, files in official.items()]
    monkeypatch.setattr(download, "ARCHIVES", served)
    return served


def test_the_six_archives_are_the_official_ones():
    assert [archive.name for archive in download.ARCHIVES] == list(FOLDERS)
    assert len({archive.sha256 for archive in download.ARCHIVES}) == 6
    assert all(len(archive.sha256) == 64 for archive in download.ARCHIVES)


def test_archives_are_unpacked_flat_with_their_licence_and_no_zip_is_left(
    tmp_path, archives, official
):
    fetch_isic2018(tmp_path / "raw")
    expected = {
        f"{name}/{file}": official[name][file] for name in official for file in official[name]
    }
    assert contents(tmp_path / "raw") == expected


def test_the_stage_finds_the_fetched_cases_and_records_the_checksums(
    tmp_path, monkeypatch, archives
):
    work_in_study(tmp_path, monkeypatch, {"source": "isic2018", "raw": "raw"})
    download.main()
    source = json.loads((tmp_path / "data" / "source.json").read_text())
    assert source["cases"] == 3
    assert source["archives"] == {archive.name: archive.sha256 for archive in archives}


def test_a_second_call_downloads_nothing(tmp_path, server, archives):
    fetch_isic2018(tmp_path / "raw")
    assert len(server.asked) == 6
    before = contents(tmp_path / "raw")
    fetch_isic2018(tmp_path / "raw")
    assert len(server.asked) == 6
    assert contents(tmp_path / "raw") == before


def test_after_an_interruption_only_what_is_missing_is_downloaded(tmp_path, server, archives):
    last = tmp_path / "served" / f"{archives[-1].name}.zip"
    content = last.read_bytes()
    last.unlink()
    with pytest.raises(UserError, match=f"{archives[-1].name}.zip could not be downloaded: .*404"):
        fetch_isic2018(tmp_path / "raw")
    last.write_bytes(content)
    server.asked.clear()
    fetch_isic2018(tmp_path / "raw")
    assert server.asked == [f"/{archives[-1].name}.zip"]
    assert {path.name for path in (tmp_path / "raw").iterdir()} == set(FOLDERS)


def test_an_archive_of_other_bytes_is_refused_and_nothing_is_in_place(tmp_path, archives):
    first = archives[0]
    served = tmp_path / "served" / f"{first.name}.zip"
    changed = zipped(first.name, {"ISIC_0000000.jpg": b"another"})
    served.write_bytes(changed)
    with pytest.raises(UserError) as error:
        fetch_isic2018(tmp_path / "raw")
    assert str(error.value) == (
        f"{download.BASE_URL}{first.name}.zip is not the official archive: its sha256 must be "
        f"{first.sha256}, got {hashlib.sha256(changed).hexdigest()} in {len(changed)} bytes of "
        f"{first.bytes}; run again to fetch it anew"
    )
    assert list((tmp_path / "raw").iterdir()) == []


def test_an_archive_cut_short_on_the_way_is_refused(tmp_path, server, archives):
    server.cut = 1
    with pytest.raises(UserError, match=r"is not the official archive|could not be downloaded"):
        fetch_isic2018(tmp_path / "raw")
    assert list((tmp_path / "raw").iterdir()) == []


def test_a_refused_connection_is_told_with_the_address_and_nothing_is_in_place(
    tmp_path, monkeypatch
):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        monkeypatch.setattr(download, "BASE_URL", url)
        with pytest.raises(UserError) as error:
            fetch_isic2018(tmp_path / "raw")
    assert str(error.value).startswith(
        f"{url}ISIC2018_Task1-2_Training_Input.zip could not be downloaded: "
    )
    assert "refused" in str(error.value)
    assert str(error.value).endswith("; run again to retry")
    assert list((tmp_path / "raw").iterdir()) == []


@pytest.mark.parametrize(
    "path", ["../../escaped.txt", "/tmp/../escaped.txt", "a/../../escaped.txt"]
)
def test_a_path_in_an_archive_cannot_leave_the_archives_folder(tmp_path, server, monkeypatch, path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as hostile:
        hostile.writestr(path, b"here")
    archive = server.offer("Hostile", buffer.getvalue())
    monkeypatch.setattr(download, "ARCHIVES", [archive])
    fetch_isic2018(tmp_path / "place" / "raw")
    assert contents(tmp_path / "place") == {"raw/Hostile/escaped.txt": b"here"}
    assert contents(tmp_path).keys() == {"served/Hostile.zip", "place/raw/Hostile/escaped.txt"}
