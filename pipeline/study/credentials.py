"""Passwords and tokens, which nothing that is printed may hold."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote

_USER = re.compile(r"(?<=://)\S*@")  # up to the last @: a password may hold one, unescaped
_QUERY = re.compile(
    r"([?&][\w.-]*(?:credential|key|passwd|password|secret|signature|token)[\w.-]*=)[^\s&'\")]+",
    re.I,
)
_SERVER = re.compile(r"(https?://)([^/?#]*)@(.*)", re.I | re.S)


def without_credentials(text: str) -> str:
    """`text` with *** for the user and password of each address, and for the secrets in its
    query."""
    return _QUERY.sub(r"\1***", _USER.sub("***@", text))


def part_credentials() -> None:
    """Move a user and password in MLFLOW_TRACKING_URI to the variables that MLflow has for them.

    The address is said in many places: by MLflow, its HTTP client and Dask. It then holds no
    secret.
    """
    parted = _SERVER.fullmatch(os.environ.get("MLFLOW_TRACKING_URI", ""))
    if parted is None:
        return
    scheme, credentials, host = parted.groups()
    user, _, password = credentials.partition(":")
    os.environ["MLFLOW_TRACKING_URI"] = scheme + host
    for name, value in (("USERNAME", user), ("PASSWORD", password)):
        if value:
            os.environ[f"MLFLOW_TRACKING_{name}"] = unquote(value)
