"""API keys: who may connect, by the header `Authorization: Api-Key KEY`, as openpi's clients."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from pathlib import Path

from ..errors import WamkitError
from ..files.paths import expand_home, read_text

SCHEME = "Api-Key"
SHORTEST = 16
"""Characters of a key at least."""


class ApiKeys:
    """Keys that a server accepts; without any, everybody is let in."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._keys = [key.encode() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._keys)

    def accept(self, header: str | None) -> bool:
        """True if a value of `Authorization` has one of the keys, or none is needed.

        Every key is compared in full, whatever of it is right.
        """
        if not self._keys:
            return True
        scheme, _, given = (header or "").strip().partition(" ")
        found = [hmac.compare_digest(key, given.strip().encode()) for key in self._keys]
        return scheme.lower() == SCHEME.lower() and any(found)


def read_keys(file: str | Path) -> ApiKeys:
    """The keys in a file, one a line; empty lines and those that begin with # are left out.

    Raises WamkitError if the file cannot be read, holds no key, or one that is short or no plain
    text.
    """
    return ApiKeys(_keys_in(file))


def read_key(file: str | Path) -> str:
    """The first key in such a file, for a client. Raises WamkitError as `read_keys` does."""
    return _keys_in(file)[0]


def _keys_in(file: str | Path) -> list[str]:
    path = expand_home(file)
    hint = "write one key a line: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
    if not path.is_file():
        raise WamkitError(f"no file of API keys at {path}", hint)
    lines = [line.strip() for line in read_text(path).splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise WamkitError(f"{path} holds no API key", hint)
    for number, key in enumerate(keys, 1):
        if len(key) < SHORTEST or not key.isascii() or not key.isprintable() or " " in key:
            raise WamkitError(
                f"key {number} of {path} has {len(key)} characters; expected at least {SHORTEST} "
                "letters, digits and signs of ASCII",
                hint,
            )
    return keys
