"""A page opened in headless Chromium from its file, used by a script, and what that script saw."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--v=0",
)
VIRTUAL = "--virtual-time-budget=10000"  # waiting takes no time

# The page stands in a frame: a window of Chromium is at least 500 pixels wide.
FRAME = """<!DOCTYPE html><meta charset="utf-8">
<body style="margin: 0"><iframe src="page.html{address}"
  style="border: 0; width: {width}px; height: 2000px"></iframe><pre></pre><script>
addEventListener("message", (event) => {{
  document.querySelector("pre").textContent = event.data;
}});
</script>"""
LISTEN = """<script>
const faults = [];
addEventListener("error", (event) => faults.push(event.message));
window.alert = (text) => faults.push(`alert ${text}`);
</script>"""
REPORT = """<script>
addEventListener("load", async () => {
  let seen;
  try { seen = await (async () => { %s })(); } catch (error) { faults.push(String(error)); }
  parent.postMessage(JSON.stringify({ seen, faults }), "*");
});
</script>"""


def visit(
    page: str,
    folder: Path,
    script: str,
    *,
    width: int = 1400,
    address: str = "",
    dark: bool = False,
) -> Any:
    """What `script`, the body of an async function, returns in `page` shown `width` pixels wide.

    address: what follows the page's name, `#case=1`. dark: the reader prefers dark pages.

    Skips the test where there is no Chromium; fails it for an error in the page or its console.
    """
    page = page.replace("<head>", f"<head>{LISTEN}", 1)
    (folder / "page.html").write_text(page + REPORT % script, encoding="utf-8")
    frame = FRAME.format(width=width, address=html.escape(address))
    (folder / "frame.html").write_text(frame, encoding="utf-8")
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    size = f"--window-size={max(width, 500)},2000"
    shown = _dump(folder / "frame.html", VIRTUAL, scheme, size)
    found = re.search(r"<pre>(.*?)</pre>", shown, re.DOTALL)
    assert found is not None
    assert found[1], shown[-2000:]
    told = json.loads(html.unescape(found[1]))
    assert told["faults"] == []
    return told["seen"]


def seconds_to_open(page: str, folder: Path) -> float:
    """From the first byte until all of the page's body is read, its scripts have run and it is laid
    out, by the browser's clock."""
    told = "<script>document.body.offsetHeight; document.title = performance.now()</script>"
    (folder / "page.html").write_text(page.replace("</body>", f"{told}</body>"), encoding="utf-8")
    found = re.search(r"<title>([\d.]+)</title>", _dump(folder / "page.html"))
    assert found is not None
    return float(found[1]) / 1000


def _dump(path: Path, *flags: str) -> str:
    """The document in `path` when it has loaded; skips the test where there is no Chromium."""
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    if browser is None:
        pytest.skip("no Chromium on the PATH (Debian's package chromium)")
    profile = f"--user-data-dir={path.parent / 'profile'}"
    done = subprocess.run(
        [browser, *FLAGS, *flags, profile, "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not console
    return done.stdout
