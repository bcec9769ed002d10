"""Rename tensors by regular expressions; two of one new name are refused."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..errors import WamkitError
from .files import Entry

Rules = Iterable[tuple[str, str]]
"""Regular expressions and replacements, applied in order."""


def rename(name: str, rules: Rules) -> str:
    """The name of a tensor after all rules."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def add_renamed(found: dict[str, Entry], name: str, entry: Entry, rules: Rules, by: str) -> None:
    """Put `entry` into `found` under the new name of `name`; `by` is the importer that states it.

    Raises WamkitError, with the names of both tensors, if another one has that name.
    """
    new = rename(name, rules)
    if (other := found.get(new)) is not None:
        raise WamkitError(
            f"the importer {by} gives two tensors the name {new}: {other.name} of "
            f"{other.file.name} and {entry.name} of {entry.file.name}",
            "keep one of them, or report this as a fault of the importer",
        )
    found[new] = entry
