"""Passwords and tokens, which nothing that is printed may hold."""

from __future__ import annotations

import os
import re
from urllib.parse import quote, unquote

_USER = re.compile(r"(?<=://)\S*@")  # up to the last @: a password may hold one, unescaped
_VALUE = re.compile(  # of what is named a secret, in an address or anywhere; %3D is an escaped =
    r"((?:[?&;](?:[\w.-]*(?:credential|key|pass)[\w.-]*|sig|odbc_connect)|"
    r"(?<![\w.-])[\w.-]*(?:passphrase|passw|pwd|secret|signature|token)[\w.-]*)(?:=|%3D))"
    r"(?:\"[^\"]*\"|'[^']*'|[^\s&]*[^\s&.,;:)'\"])",
    re.I,
)
_SERVER = re.compile(r"(https?://)([^/?#]*)@(.*)", re.I | re.S)
_SHORTEST = 6  # characters; a shorter secret is part of many a word


def without_credentials(text: str) -> str:
    """`text` with *** for the user and password of each address, for the values of what is named a
    secret, and for the user's own secrets wherever they are."""
    for secret in _known():
        text = text.replace(secret, "***")
    return _VALUE.sub(r"\1***", _USER.sub("***@", text))


def _known() -> list[str]:
    """The user's secrets for MLflow's store, as given and with escapes made and undone; the longest
    first, which may hold others."""
    given = [os.environ.get(f"MLFLOW_TRACKING_{name}", "") for name in ("PASSWORD", "TOKEN")]
    credentials, _, _ = os.environ.get("MLFLOW_TRACKING_URI", "").rpartition("@")
    given.append(credentials.partition("://")[2].partition(":")[2])
    forms = {form for each in given for form in (each, unquote(each), quote(unquote(each), ""))}
    return sorted((form for form in forms if len(form) >= _SHORTEST), key=len, reverse=True)


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
