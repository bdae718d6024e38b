"""One large file over HTTP: resumed after any interruption, retried, verified, then in place.

The bytes that have come lie in a hidden partial file beside the target, so that a killed process
loses none of them; the target appears only when its size and sha256 are right.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from threading import Event
from typing import NoReturn, TypeAlias

import requests
import urllib3
from tqdm import tqdm

from pipeline.study.errors import UserError
from pipeline.study.files import write_json

Bar: TypeAlias = "tqdm[NoReturn]"

CHUNK = 1 << 20  # bytes
TRANSIENT = {408, 425, 429}  # and every 5xx: the same request may succeed later


@dataclass(frozen=True)
class RetryPolicy:
    """When to try again, and when to stop. Waits double from `first_wait` and are jittered."""

    attempts: int = 7  # at one server without progress: a minute of waiting in all, with the below
    first_wait: float = 1.0  # seconds
    longest_wait: float = 60.0
    timeout: float = 60.0  # seconds: to connect, for the next byte, and for `progress` bytes
    progress: int = 1 << 20  # bytes; fewer within a timeout are a stalled connection


@dataclass(frozen=True)
class Download:
    """A file whose size and sha256 are known, and the addresses that serve it, the best first."""

    urls: Sequence[str]
    target: Path
    bytes: int
    sha256: str

    @property
    def partial(self) -> Path:
        return self.target.with_name(f".{self.target.name}.partial")

    @property
    def origin(self) -> Path:
        """The note beside the partial file: which address it came from, and in which version."""
        return self.target.with_name(f".{self.target.name}.origin.json")

    def downloaded(self) -> int:
        """Bytes that are there."""
        for path in (self.target, self.partial):
            if path.exists():
                return path.stat().st_size
        return 0

    def discard(self) -> None:
        self.partial.unlink(missing_ok=True)
        self.origin.unlink(missing_ok=True)


class _UnfitServerError(Exception):
    """This server does not have the file: asking it again is of no use."""


class _AttemptError(Exception):
    """This attempt failed; another may not."""


def fetch(download: Download, policy: RetryPolicy, bar: Bar, stop: Event) -> None:
    """Put the file in place, going on from what an earlier call left.

    A server that fails `policy.attempts` times in a row without progress, or does not have the
    file, is left for the next one. Bytes that are complete and wrong are discarded and fetched
    anew once.

    Raises UserError when no server is left, the bytes are wrong twice, the disk does not take them
    or `stop` is set.
    """
    if download.target.exists():
        if not mismatch(download.target, download.bytes, download.sha256, bar, stop):
            return
        download.target.unlink()
    try:
        download.target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _disk_error(download.target.parent, error) from None
    session = requests.Session()
    urls = list(download.urls)
    reasons: list[str] = []
    wrong = False
    while True:
        try:
            _complete(download, session, urls[0], policy, bar, stop)
        except _UnfitServerError as error:
            reasons.append(f"{urls.pop(0)}: {error}")
            if urls:
                continue
            kept = download.downloaded()
            raise UserError(
                f"{download.target.name} could not be downloaded: {'; '.join(reasons)}; "
                f"run again to go on, {kept} of {download.bytes} bytes are kept"
            ) from None
        found = mismatch(download.partial, download.bytes, download.sha256, bar, stop)
        if not found:
            _put_in_place(download)
            return
        download.discard()
        if wrong:
            raise UserError(
                f"{urls[0]} is not the file that was expected, twice: {found}; run again to fetch "
                "it anew"
            )
        wrong = True
        urls.append(urls.pop(0))  # perhaps the next server's is right


def _complete(
    download: Download,
    session: requests.Session,
    url: str,
    policy: RetryPolicy,
    bar: Bar,
    stop: Event,
) -> None:
    """Bring the partial file to its full size. Raises _UnfitServerError if this server cannot."""
    failures = 0
    farthest = download.downloaded()
    while download.downloaded() != download.bytes:
        try:
            _transfer(download, session, url, policy, bar, stop)
        except (_AttemptError, OSError, urllib3.exceptions.HTTPError) as error:
            reason = _reason(error)
        else:
            reason = f"the connection ended after {download.downloaded()} bytes"
        if download.downloaded() == download.bytes:
            break
        # Progress is what no attempt had before: a server that begins anew each time makes none.
        gained = download.downloaded() - farthest
        farthest = max(farthest, download.downloaded())
        failures = 1 if gained >= policy.progress else failures + 1
        if failures == policy.attempts:
            raise _UnfitServerError(f"{reason} (tried {failures} times)")
        wait = min(policy.first_wait * 2 ** (failures - 1), policy.longest_wait)
        wait *= random.uniform(0.5, 1)  # so that the archives do not all come back at once
        bar.set_postfix_str(f"{reason}; again in {wait:.0f} s")
        stop.wait(wait)
        _check(stop)
        bar.set_postfix_str("")


def _transfer(
    download: Download,
    session: requests.Session,
    url: str,
    policy: RetryPolicy,
    bar: Bar,
    stop: Event,
) -> None:
    """One request: append what the server sends to the partial file."""
    start = download.downloaded()
    if start > download.bytes:
        download.discard()
        start = 0
    headers = {"Accept-Encoding": "identity"}  # the file's own bytes, whose ranges add up
    if start:
        headers["Range"] = f"bytes={start}-"
        validator = _validator(download, url)
        if validator:
            headers["If-Range"] = validator  # if the file changed, all of it comes
    with session.get(url, headers=headers, stream=True, timeout=policy.timeout) as response:
        start = _start(download, response, start)
        bar.n = start
        bar.refresh()
        if start == 0:
            _begin(download, url, response)
        _append(download, response, start, policy, bar, stop)


def _start(download: Download, response: requests.Response, start: int) -> int:
    """Where in the file the response's body begins; what was asked for, or 0.

    Raises _UnfitServerError for another file or none, _AttemptError if asking again may help.
    """
    status = response.status_code
    ranges = re.fullmatch(
        r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("Content-Range", "").strip()
    )
    total = ranges[2] if ranges and status in (206, 416) else None
    if status == 200 and "Content-Encoding" not in response.headers:
        total = response.headers.get("Content-Length")
    if total not in (None, "*", str(download.bytes)):
        raise _UnfitServerError(f"has {total} bytes instead of {download.bytes}")
    if status == 200:
        return 0
    if status == 206 and ranges and ranges[1] == str(start):
        return start
    if status in (206, 416):
        download.discard()  # so that the next request is for the whole file
        asked = f"an answer for {response.headers.get('Content-Range') or 'no range'}"
        raise _AttemptError(f"{asked} to a request for bytes from {start} (status {status})")
    told = f"{status} {response.reason}"
    raise _AttemptError(told) if status >= 500 or status in TRANSIENT else _UnfitServerError(told)


def _validator(download: Download, url: str) -> str | None:
    """What names the version that the partial file is a part of, if it came from this address."""
    try:
        origin = json.loads(download.origin.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(origin, dict) or origin.get("url") != url:
        return None
    validator = origin.get("validator")
    return validator if isinstance(validator, str) else None


def _begin(download: Download, url: str, response: requests.Response) -> None:
    """Empty the partial file, then note where its bytes will come from: in this order a kill in
    between leaves no bytes under a wrong note."""
    etag = response.headers.get("ETag", "W/")
    # A weak ETag is no promise of equal bytes, RFC 9110 section 13.1.5.
    validator = response.headers.get("Last-Modified") if etag.startswith("W/") else etag
    try:
        download.partial.write_bytes(b"")
        write_json(download.origin, {"url": url, "validator": validator})
    except OSError as error:
        raise _disk_error(download.partial, error) from None


def _append(
    download: Download,
    response: requests.Response,
    start: int,
    policy: RetryPolicy,
    bar: Bar,
    stop: Event,
) -> None:
    """Write the body at the partial file's end, each piece as it comes."""
    size = start
    window_start, window_bytes = time.monotonic(), 0
    with _open(download.partial) as file:
        # read1 hands over what one read brought; read would hold back up to CHUNK bytes, lost in
        # a kill, and never end on a server that trickles.
        while piece := response.raw.read1(CHUNK):
            _check(stop)
            size += len(piece)
            if size > download.bytes:
                download.discard()
                raise _UnfitServerError(f"sends more than {download.bytes} bytes")
            try:
                left = memoryview(piece)
                while left:
                    left = left[file.write(left) :]
            except OSError as error:
                raise _disk_error(download.partial, error) from None
            bar.update(len(piece))
            window_bytes += len(piece)
            seconds = time.monotonic() - window_start
            if window_bytes >= policy.progress:
                window_start, window_bytes = time.monotonic(), 0
            elif seconds > policy.timeout and size < download.bytes:
                raise _AttemptError(f"only {window_bytes} bytes in {seconds:.0f} s")


def _open(partial: Path) -> FileIO:
    try:
        return partial.open("ab", buffering=0)
    except OSError as error:
        raise _disk_error(partial, error) from None


def mismatch(path: Path, size: int, sha256: str, bar: Bar, stop: Event) -> str:
    """How the file differs from the one that was expected; an empty text if it does not."""
    found_size = path.stat().st_size
    if found_size != size:
        return f"its size must be {size} bytes, got {found_size}"
    bar.set_postfix_str("verifying")
    bar.n = 0
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            _check(stop)
            digest.update(chunk)
            bar.update(len(chunk))
    bar.set_postfix_str("")
    found = digest.hexdigest()
    return "" if found == sha256 else f"its sha256 must be {sha256}, got {found}"


def _put_in_place(download: Download) -> None:
    try:
        with download.partial.open("rb+") as file:
            os.fsync(file.fileno())
        download.partial.replace(download.target)
    except OSError as error:
        raise _disk_error(download.partial, error) from None
    download.origin.unlink(missing_ok=True)


def _check(stop: Event) -> None:
    if stop.is_set():
        raise UserError("stopped")


def _disk_error(path: Path, error: OSError) -> UserError:
    return UserError(
        f"{path} cannot be written: {error.strerror}; what has come is kept: make room or allow "
        "writing, then run again to go on"
    )


def _reason(error: BaseException) -> str:
    """The innermost sentence: requests and urllib3 wrap the cause in several layers."""
    while True:
        inner = getattr(error, "reason", None) or (error.args[0] if error.args else None)
        if not isinstance(inner, BaseException):
            break
        error = inner
    told = error.args[0] if error.args and isinstance(error.args[0], str) else str(error)
    return told or type(error).__name__
