"""data/fetch.py: whatever a server, the network, the disk or a kill does, the right bytes in
the end or one clear error, and nothing half-written in place. No network beyond 127.0.0.1."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import faulty_server as faults
import pytest
from conftest import REPOSITORY
from faulty_server import FaultyServer, serving
from tqdm import tqdm

import pipeline.data.fetch
from pipeline.data.fetch import Download, RetryPolicy, fetch
from pipeline.study.errors import UserError

CONTENT = random.Random(0).randbytes(300_000)
QUICK = RetryPolicy(attempts=3, first_wait=0.001, longest_wait=0.01, timeout=0.3, progress=50_000)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with serving() as server:
        server.files["/a.zip"] = CONTENT
        yield server


@pytest.fixture
def second() -> Iterator[FaultyServer]:
    with serving() as server:
        server.files["/a.zip"] = CONTENT
        yield server


def download_of(folder: Path, *servers: FaultyServer, content: bytes = CONTENT) -> Download:
    urls = [f"{server.url}a.zip" for server in servers]
    digest = hashlib.sha256(content).hexdigest()
    return Download(urls, folder / "a.zip", len(content), digest)


def run(download: Download, policy: RetryPolicy = QUICK) -> None:
    with tqdm(total=download.bytes, disable=True) as bar:
        fetch(download, policy, bar, threading.Event())


def failing(download: Download, policy: RetryPolicy = QUICK) -> str:
    """What the user is told; nothing may be in place."""
    with pytest.raises(UserError) as error:
        run(download, policy)
    assert not download.target.exists()
    return str(error.value)


def assert_complete(download: Download) -> None:
    """The right bytes are in place and nothing else is left."""
    assert download.target.read_bytes() == CONTENT
    assert list(download.target.parent.iterdir()) == [download.target]


def leave_partial(download: Download, content: bytes, validator: str = '"version-1"') -> None:
    """As an interrupted call leaves it."""
    download.partial.write_bytes(content)
    download.origin.write_text(json.dumps({"url": download.urls[0], "validator": validator}))


def test_a_file_comes_in_one_request(tmp_path, server):
    download = download_of(tmp_path, server)
    run(download)
    assert_complete(download)
    assert server.asked == [("/a.zip", None)]


def test_a_file_that_is_there_is_verified_and_not_asked_for(tmp_path, server):
    download = download_of(tmp_path, server)
    download.target.write_bytes(CONTENT)
    run(download)
    assert server.asked == []
    assert_complete(download)


def test_a_wrong_file_in_the_place_is_replaced(tmp_path, server):
    download = download_of(tmp_path, server)
    download.target.write_bytes(CONTENT[:-1] + b"?")
    run(download)
    assert_complete(download)


@pytest.mark.parametrize("seed", range(20))
def test_a_connection_cut_at_a_random_offset_is_resumed_there(tmp_path, server, seed):
    offset = random.Random(seed).randrange(len(CONTENT))
    server.faults = [faults.cut_after(offset)]
    download = download_of(tmp_path, server)
    run(download)
    assert_complete(download)
    assert server.asked == [("/a.zip", None), ("/a.zip", f"bytes={offset}-" if offset else None)]


def test_any_number_of_cuts_is_borne_while_there_is_progress(tmp_path, server):
    server.always = faults.cut_after(60_000)
    download = download_of(tmp_path, server)
    run(download)
    assert_complete(download)
    assert len(server.asked) == 5


def test_cuts_without_progress_end_in_an_error_and_what_came_is_kept(tmp_path, server):
    server.always = faults.cut_after(10)
    download = download_of(tmp_path, server)
    told = failing(download)
    assert told.startswith(f"a.zip could not be downloaded: {server.url}a.zip: ")
    assert told.endswith("(tried 3 times); run again to go on, 30 of 300000 bytes are kept")
    server.always = None
    run(download)
    assert server.asked[-1] == ("/a.zip", "bytes=30-")
    assert_complete(download)


@pytest.mark.parametrize("code", [500, 502, 503, 504, 429, 408])
def test_a_server_that_recovers_is_asked_again(tmp_path, server, code):
    server.faults = [faults.status(code), faults.status(code)]
    download = download_of(tmp_path, server)
    run(download)
    assert_complete(download)
    assert len(server.asked) == 3


def test_a_server_that_does_not_recover_is_left_for_the_second(tmp_path, server, second):
    server.always = faults.status(503)
    download = download_of(tmp_path, server, second)
    run(download)
    assert_complete(download)
    assert (len(server.asked), len(second.asked)) == (3, 1)


def test_the_second_server_goes_on_where_the_first_ended(tmp_path, server, second):
    server.faults = [faults.cut_after(120_000), *[faults.status(500)] * 2]
    second.etag = '"its own"'
    download = download_of(tmp_path, server, second)
    run(download)
    assert_complete(download)
    assert second.asked == [("/a.zip", "bytes=120000-")]


@pytest.mark.parametrize("code", [404, 403, 410])
def test_a_file_that_a_server_does_not_have_is_not_asked_for_again(tmp_path, server, second, code):
    server.always = second.always = faults.status(code)
    download = download_of(tmp_path, server, second)
    told = failing(download)
    assert f"{server.url}a.zip: {code} " in told
    assert f"{second.url}a.zip: {code} " in told
    assert (len(server.asked), len(second.asked)) == (1, 1)


def test_a_missing_file_is_fetched_from_the_second_server(tmp_path, server, second):
    del server.files["/a.zip"]
    download = download_of(tmp_path, server, second)
    run(download)
    assert_complete(download)


def test_a_refused_connection_is_told(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/a.zip"
        download = Download([url], tmp_path / "a.zip", 3, "0" * 64)
        told = failing(download)
    assert told.startswith(f"a.zip could not be downloaded: {url}: ")
    assert "Connection refused (tried 3 times)" in told.replace("[Errno 111] ", "")


def test_ranges_ignored_begin_anew(tmp_path, server):
    download = download_of(tmp_path, server)
    leave_partial(download, CONTENT[:70_000])
    server.always = faults.ranges_ignored
    run(download)
    assert_complete(download)
    assert server.asked == [("/a.zip", "bytes=70000-")]


def test_ranges_ignored_and_always_cut_end_in_an_error(tmp_path, server):
    """Each attempt brings bytes, none more than the first: that is no progress."""

    def fault(handler: faults.Handler, content: bytes) -> None:
        handler.begin(200, len(content))
        handler.wfile.write(content[:100_000])

    server.always = fault
    assert "(tried 3 times)" in failing(download_of(tmp_path, server))
    assert len(server.asked) == 3


def test_a_file_that_changed_on_the_server_is_fetched_whole(tmp_path, server):
    download = download_of(tmp_path, server)
    leave_partial(download, bytes(70_000), validator='"version-0"')
    run(download)
    assert_complete(download)
    assert server.asked == [("/a.zip", "bytes=70000-")]


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_without_a_strong_etag_the_date_tells_the_version(tmp_path, server, etag):
    server.etag = etag
    server.faults = [faults.cut_after(1000)]
    download = download_of(tmp_path, server)

    def fault(handler: faults.Handler, content: bytes) -> None:
        assert handler.headers["If-Range"] == "Thu, 01 Jan 2026 00:00:00 GMT"
        faults.proper(handler, content)

    server.faults.append(fault)
    run(download)
    assert_complete(download)


@pytest.mark.parametrize("note", ["", "{", "[]", "{}", '{"url": 1, "validator": 2}'])
def test_a_damaged_note_of_the_origin_costs_nothing(tmp_path, server, note):
    download = download_of(tmp_path, server)
    leave_partial(download, CONTENT[:70_000])
    download.origin.write_text(note)
    run(download)
    assert_complete(download)
    assert server.asked == [("/a.zip", "bytes=70000-")]


@pytest.mark.parametrize(
    "answer",
    [
        (416, ""),
        (416, "bytes */300000"),
        (206, ""),
        (206, "nonsense"),
        (206, "bytes 0-299999/300000"),
        (206, "bytes 69999-299999/300000"),
        (206, "bytes 70001-299999/*"),
    ],
)
def test_a_wrong_answer_to_a_range_begins_anew(tmp_path, server, answer):
    download = download_of(tmp_path, server)
    leave_partial(download, CONTENT[:70_000])
    server.faults = [faults.range_answered_with(*answer)]
    run(download)
    assert_complete(download)
    assert [asked for _, asked in server.asked] == ["bytes=70000-", None]


def test_416_for_ever_is_an_error(tmp_path, server):
    server.always = faults.status(416)
    assert "status 416" in failing(download_of(tmp_path, server))


@pytest.mark.parametrize("size", [0, 299_999, 300_001])
def test_a_file_of_another_length_is_refused_at_its_headers(tmp_path, server, size):
    server.always = faults.other_content(bytes(size))
    download = download_of(tmp_path, server)
    assert f"has {size} bytes instead of 300000" in failing(download)
    leave_partial(download, CONTENT[:70_000])
    assert f"has {size} bytes instead of 300000" in failing(download)
    assert download.partial.read_bytes() == CONTENT[:70_000]


def test_more_bytes_than_expected_without_a_length_are_refused(tmp_path, server):
    server.always = faults.unannounced(CONTENT + b"more")
    download = download_of(tmp_path, server)
    assert "sends more than 300000 bytes" in failing(download)
    assert list(tmp_path.iterdir()) == []


def test_the_right_bytes_without_a_length_are_taken(tmp_path, server):
    server.always = faults.unannounced(CONTENT)
    download = download_of(tmp_path, server)
    run(download)
    assert_complete(download)


CORRUPT = CONTENT[:1000] + b"?" + CONTENT[1001:]


def test_corrupt_bytes_are_fetched_anew(tmp_path, server):
    server.faults = [faults.other_content(CORRUPT)]
    download = download_of(tmp_path, server)
    run(download)
    assert_complete(download)
    assert server.asked == [("/a.zip", None)] * 2


def test_corrupt_bytes_are_fetched_anew_from_the_second_server(tmp_path, server, second):
    server.always = faults.other_content(CORRUPT)
    download = download_of(tmp_path, server, second)
    run(download)
    assert_complete(download)


def test_corrupt_bytes_twice_are_an_error_and_none_is_kept(tmp_path, server):
    server.always = faults.other_content(CORRUPT)
    download = download_of(tmp_path, server)
    assert failing(download) == (
        f"{server.url}a.zip is not the file that was expected, twice: its sha256 must be "
        f"{download.sha256}, got {hashlib.sha256(CORRUPT).hexdigest()}; run again to fetch it anew"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [70_000, 300_000, 300_001])
def test_a_partial_file_that_is_corrupt_is_fetched_anew(tmp_path, server, size):
    download = download_of(tmp_path, server)
    leave_partial(download, bytes(size))
    run(download)
    assert_complete(download)


def test_a_redirect_is_followed_with_its_range(tmp_path, server, second):
    server.always = faults.redirected_to(f"{second.url}a.zip")
    second.faults = [faults.cut_after(5000)]
    download = download_of(tmp_path, server)
    run(download)
    assert_complete(download)
    assert second.asked == [("/a.zip", None), ("/a.zip", "bytes=5000-")]


def test_redirects_in_a_circle_are_an_error(tmp_path, server):
    server.always = faults.redirected_to(f"{server.url}a.zip")
    assert "redirects" in failing(download_of(tmp_path, server))


def test_a_silent_server_times_out_and_is_asked_again(tmp_path, server):
    server.faults = [faults.trickle(1, 0)]
    download = download_of(tmp_path, server)
    run(download)
    assert_complete(download)
    assert server.asked[1] == ("/a.zip", "bytes=1-")


def test_a_trickle_is_broken_off_and_what_came_is_kept(tmp_path, server):
    server.faults = [faults.trickle(40, 0.02)]
    download = download_of(tmp_path, server)
    run(download)
    assert_complete(download)
    (_, first), (_, again) = server.asked
    assert first is None
    assert 1 <= int(again.removeprefix("bytes=").removesuffix("-")) <= 40


def test_a_trickle_for_ever_is_an_error(tmp_path, server):
    server.always = faults.trickle(100, 0.02)
    started = time.monotonic()
    assert "bytes in" in failing(download_of(tmp_path, server))
    assert time.monotonic() - started < 5


def test_a_slow_but_steady_server_is_borne(tmp_path, server):
    server.always = faults.slowly(8, 0.1)  # longer in all than the time-out
    download = download_of(tmp_path, server)
    run(download)
    assert_complete(download)
    assert len(server.asked) == 1


@pytest.mark.parametrize("seed", range(30))
def test_any_sequence_of_faults_ends_with_the_right_bytes_or_an_error(
    tmp_path, server, second, seed
):
    chance = random.Random(seed)

    def fault() -> faults.Fault:
        offset = chance.randrange(len(CONTENT))
        return chance.choice(
            [
                faults.cut_after(offset),
                faults.cut_after(offset),
                faults.status(chance.choice([403, 404, 416, 429, 500, 503])),
                faults.ranges_ignored,
                faults.other_content(CORRUPT),
                faults.other_content(CONTENT[:offset]),
                faults.unannounced(CONTENT[:offset]),
                faults.unannounced(CONTENT + CONTENT[:offset]),
                faults.range_answered_with(206, f"bytes {offset}-299999/300000"),
                faults.redirected_to(f"{second.url}a.zip"),
            ]
        )

    download = download_of(tmp_path, server, second)
    for _ in range(20):  # calls, until the faults are used up
        server.faults = [fault() for _ in range(chance.randrange(4))]
        second.faults = [fault() for _ in range(chance.randrange(3))]
        try:
            run(download)
        except UserError:
            assert not download.target.exists()
        else:
            break
    assert_complete(download)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 KiB; skips where one may not be mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(command).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_at_once_and_room_lets_it_go_on(small_disk, server):
    download = download_of(small_disk, server)
    told = failing(download)
    assert told == (
        f"{download.partial} cannot be written: No space left on device; what has come is kept: "
        "make room or allow writing, then run again to go on"
    )
    assert len(server.asked) == 1
    kept = download.downloaded()
    assert kept > 60_000
    assert download.partial.read_bytes() == CONTENT[:kept]
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    run(download)
    assert_complete(download)
    assert server.asked[1] == ("/a.zip", f"bytes={kept}-")


def test_a_write_that_fails_is_told_without_a_tmpfs_too(tmp_path, server, monkeypatch):
    class Full:
        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def write(self, data: memoryview) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pipeline.data.fetch, "_open", lambda path: Full())
    assert "No space left on device" in failing(download_of(tmp_path, server))
    assert len(server.asked) == 1


def test_a_folder_that_cannot_be_made_is_told(tmp_path, server):
    (tmp_path / "file").write_text("")
    download = download_of(tmp_path / "file" / "folder", server)
    assert "cannot be written: Not a directory" in failing(download)


def test_stopping_keeps_the_partial_file(tmp_path, server):
    server.faults = [faults.slowly(100, 0.02)]
    download = download_of(tmp_path, server)
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    with pytest.raises(UserError, match="stopped"), tqdm(disable=True) as bar:
        fetch(download, QUICK, bar, stop)
    kept = download.partial.read_bytes()
    assert kept == CONTENT[: len(kept)]
    assert 0 < len(kept) < len(CONTENT)
    run(download)
    assert_complete(download)
    assert server.asked[1] == ("/a.zip", f"bytes={len(kept)}-")


SCRIPT = """
import sys, threading
from pathlib import Path
from tqdm import tqdm
from pipeline.data.fetch import Download, RetryPolicy, fetch
url, target, size, sha256 = sys.argv[1:]
print("ready", flush=True)
with tqdm(disable=True) as bar:
    fetch(Download([url], Path(target), int(size), sha256), RetryPolicy(), bar, threading.Event())
"""


@pytest.mark.slow
def test_a_process_killed_again_and_again_loses_nothing(tmp_path, server):
    """SIGKILL at 6 random moments, the last run left alone; each resumes where the last ended."""
    server.always = faults.slowly(200, 0.005)
    download = download_of(tmp_path, server)
    command = [sys.executable, "-c", SCRIPT, download.urls[0], str(download.target)]
    command += [str(download.bytes), download.sha256]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    moments = random.Random(1)
    kept = [0]
    for _ in range(6):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(moments.uniform(0.02, 0.2))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not download.target.exists()
        kept.append(download.downloaded())
        if download.partial.exists():
            assert download.partial.read_bytes() == CONTENT[: kept[-1]]
    assert kept == sorted(kept)
    assert kept[-1] > 0
    subprocess.run(command, env=environment, check=True)
    assert_complete(download)
    sizes = {f"bytes={size}-" for size in kept if size}
    assert {asked for _, asked in server.asked} - {None} <= sizes
