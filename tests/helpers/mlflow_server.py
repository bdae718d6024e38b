"""A real MLflow server, for tests that start, kill and restart it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest


class Server:
    """A real `mlflow server` on a free port of this machine, with its store in `folder`."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        store = f"sqlite:///{folder}/server.db"
        tracking_store = ["--backend-store-uri", store, "--artifacts-destination", str(folder)]
        self.command = [sys.executable, "-m", "mlflow", "server", *tracking_store]
        self.command += ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(self.command, start_new_session=True, **quiet)
        for _ in range(1200):
            try:
                urllib.request.urlopen(f"{self.address}/health", timeout=5).close()
                return
            except OSError:
                assert self.process.poll() is None, "the server ended by itself"
                time.sleep(0.1)
        pytest.fail("the server did not start in two minutes")

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
