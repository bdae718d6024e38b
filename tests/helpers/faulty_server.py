"""A web server on 127.0.0.1 whose next answers can be made to fail in chosen ways."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Fault = Callable[["Handler", bytes], None]


class Handler(BaseHTTPRequestHandler):
    """Answers with the next fault, else as a proper server with ranges and validators does."""

    server: FaultyServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.close_connection = True
        self.server.asked.append((self.path, self.headers.get("Range")))
        content = self.server.files.get(self.path)
        try:
            if content is None:
                status(404)(self, b"")
            elif self.server.faults:
                self.server.faults.pop(0)(self, content)
            else:
                (self.server.always or proper)(self, content)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client has gone, as some tests ask it to

    def begin(self, code: int, length: int | None, **headers: str) -> None:
        self.send_response(code)
        self.send_header("Connection", "close")
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def requested(self, content: bytes) -> bytes:
        """Send the headers that a proper server sends; return the body to send."""
        headers = {"Last_Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        if self.server.etag:
            headers["ETag"] = self.server.etag
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        current = condition in (None, self.server.etag, headers["Last_Modified"])
        if asked and current:
            start = int(asked[1])
            if start >= len(content):
                self.begin(416, 0, Content_Range=f"bytes */{len(content)}")
                return b""
            body = content[start:]
            given = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.begin(206, len(body), Content_Range=given, **headers)
            return body
        self.begin(200, len(content), **headers)
        return content


class FaultyServer(ThreadingHTTPServer):
    """`files`: path -> bytes. `asked`: (path, Range) of each request. `faults` are used up one a
    request; `always` takes their place when none is left."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.faults: list[Fault] = []
        self.always: Fault | None = None
        self.etag = '"version-1"'

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def handle_error(self, *_: Any) -> None:
        pass


@contextmanager
def serving() -> Iterator[FaultyServer]:
    server = FaultyServer()
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def proper(handler: Handler, content: bytes) -> None:
    handler.wfile.write(handler.requested(content))


def status(code: int) -> Fault:
    def fault(handler: Handler, content: bytes) -> None:
        handler.begin(code, 0)

    return fault


def cut_after(count: int) -> Fault:
    """Close the connection after that many bytes of what the headers announce."""

    def fault(handler: Handler, content: bytes) -> None:
        handler.wfile.write(handler.requested(content)[:count])

    return fault


def ranges_ignored(handler: Handler, content: bytes) -> None:
    handler.begin(200, len(content))
    handler.wfile.write(content)


def other_content(content: bytes) -> Fault:
    """A proper server of something else."""

    def fault(handler: Handler, _: bytes) -> None:
        proper(handler, content)

    return fault


def unannounced(content: bytes) -> Fault:
    """These bytes, without a word on how many they will be."""

    def fault(handler: Handler, _: bytes) -> None:
        handler.begin(200, None)
        handler.wfile.write(content)

    return fault


def range_answered_with(code: int, content_range: str) -> Fault:
    def fault(handler: Handler, content: bytes) -> None:
        handler.begin(code, len(content), Content_Range=content_range)
        handler.wfile.write(content)

    return fault


def redirected_to(url: str) -> Fault:
    def fault(handler: Handler, content: bytes) -> None:
        handler.begin(302, 0, Location=url)

    return fault


def trickle(pieces: int, pause: float) -> Fault:
    """One byte at a time; after `pieces` of them, nothing and no end."""

    def fault(handler: Handler, content: bytes) -> None:
        body = handler.requested(content)
        for index in range(pieces):
            handler.wfile.write(body[index : index + 1])
            time.sleep(pause)
        time.sleep(1)

    return fault


def slowly(pieces: int, pause: float) -> Fault:
    """All of it, in so many pieces."""

    def fault(handler: Handler, content: bytes) -> None:
        body = handler.requested(content)
        size = max(len(content) // pieces, 1)
        for start in range(0, len(body), size):
            handler.wfile.write(body[start : start + size])
            time.sleep(pause)

    return fault
