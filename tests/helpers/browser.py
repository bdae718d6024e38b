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
    "--virtual-time-budget=10000",
)

# The page stands in a frame: a window of Chromium is at least 500 pixels wide.
FRAME = """<!DOCTYPE html><meta charset="utf-8">
<body style="margin: 0"><iframe src="page.html" style="border: 0; width: {width}px; height: 2000px">
</iframe><pre></pre><script>
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


def visit(page: str, folder: Path, script: str, *, width: int = 1400) -> Any:
    """What `script`, the body of an async function, returns in `page` shown `width` pixels wide.

    Skips the test where there is no Chromium; fails it for an error in the page or its console.
    """
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    if browser is None:
        pytest.skip("no Chromium on the PATH (Debian's package chromium)")
    page = page.replace("<head>", f"<head>{LISTEN}", 1)
    (folder / "page.html").write_text(page + REPORT % script, encoding="utf-8")
    (folder / "frame.html").write_text(FRAME.format(width=width), encoding="utf-8")
    done = subprocess.run(
        [
            browser,
            *FLAGS,
            f"--user-data-dir={folder / 'profile'}",
            f"--window-size={max(width, 500)},2000",
            "--dump-dom",
            (folder / "frame.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not console
    found = re.search(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)
    assert found is not None
    assert found[1], done.stdout[-2000:]
    told = json.loads(html.unescape(found[1]))
    assert told["faults"] == []
    return told["seen"]
