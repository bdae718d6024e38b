"""The project's files in a folder of their own, as a clone of them would have them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def copy_project(root: Path, left_out: str) -> None:
    """Copy what git follows, and what it would, into the new folder `root`, as it is now; but for
    paths that begin with the pattern `left_out`, and for dvc.lock, which says what ran here."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in listed:
        source, target = REPOSITORY / name, root / name
        kept = source.name != "dvc.lock" and not re.match(left_out, name)
        if source.is_file() and kept:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
