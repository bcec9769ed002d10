"""Sharded weights: by an index file, or by the numbers in file names; without torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import WamkitError
from . import strict_json
from .paths import resolve_inside
from .placeholders import refuse_placeholder
from .safetensors_header import MOST_BYTES, expect_few, expect_name, header

INDEX = ".index.json"
SUFFIX = ".safetensors"
PICKLED = (".pt", ".pth", ".bin", ".ckpt")
SHARD = re.compile(
    r"(?P<stem>.+)-(?P<number>[0-9]+)-of-(?P<count>[0-9]+)(?P<suffix>\.[a-z]+)", re.DOTALL
)
MOST_SHARDS = 10_000
AGAIN = "index and shards are of different checkpoints: download them again, together"


def find_numbered_shards(folder: Path, stem: str, suffix: str) -> list[Path]:
    """Return every shard of a set without an index file.

    Raises WamkitError naming those that are missing, or do not belong to the set.
    """
    found: dict[int, Path] = {}
    twice: list[str] = []
    counts = set()
    for file in sorted(folder.iterdir()):
        parts = SHARD.fullmatch(file.name)
        if parts is None or parts["stem"] != stem or parts["suffix"] != suffix:
            continue
        number, count = int(parts["number"]), int(parts["count"])
        twice += [f"{found[number].name} and {file.name}"] if number in found else []
        found[number] = file
        counts.add(count)
    if len(counts) > 1:
        raise WamkitError(
            f"{folder} holds shards {stem}-* of {' and of '.join(map(str, sorted(counts)))} files, "
            "which do not belong together",
            "remove those that do not belong, or copy the folder again",
        )
    if twice:
        raise WamkitError(
            f"{folder} holds a shard twice: {few(twice)}", "remove the file that does not belong"
        )
    (count,) = counts
    if count > MOST_SHARDS:
        raise WamkitError(
            f"{folder} holds {len(found)} shards of {count}, and at most {MOST_SHARDS:,} are read",
            "download the whole set again, or rename the file if it is no shard",
        )
    first = 0 if 0 in found else 1
    if beyond := [file.name for number, file in found.items() if number >= first + count]:
        raise WamkitError(
            f"{folder} holds shards beyond the last of {count}: {few(beyond)}",
            "remove those that do not belong, or copy the folder again",
        )
    missing = [i for i in range(first, first + count) if i not in found]
    if missing:
        width = max(len(t["count"]) for f in found.values() if (t := SHARD.fullmatch(f.name)))
        names = [f"{stem}-{i:0{width}d}-of-{count:0{width}d}{suffix}" for i in missing]
        raise WamkitError(
            f"{folder} lacks {len(missing)} of {count} shards: {few(names)}, and has no index "
            f"({stem}{suffix}{INDEX})",
            "download the missing files",
        )
    return [found[i] for i in sorted(found)]


def shards_of_index(index: Path) -> list[Path]:
    """Return the shards that an index file names.

    Raises WamkitError if the index is damaged, a shard is missing, or index and headers of the
    shards disagree on which file holds which tensor.
    """
    refuse_placeholder(index)
    table = _weight_map(index)
    names = sorted(set(table.values()))
    files = {name: resolve_inside(index.parent, name, str(index)) for name in names}
    if others := [name for name in names if files[name].suffix not in (SUFFIX, *PICKLED)]:
        raise WamkitError(
            f"{index} names shards that are no files of weights: {few(others)}",
            f"weights are {SUFFIX} files, or checkpoints ({', '.join(PICKLED)})",
        )
    if missing := [name for name, file in files.items() if not file.is_file()]:
        raise WamkitError(
            f"{index.parent} lacks {len(missing)} of {len(names)} shards: {few(missing)}",
            "download the missing files",
        )
    places: dict[Path, str] = {}
    for name, file in files.items():
        if (other := places.setdefault(file.resolve(), name)) != name:
            raise WamkitError(f"{index} names one file twice, as {other} and as {name}", AGAIN)
    if all(file.suffix == SUFFIX for file in files.values()):
        _expect_agreement(index, table, files)
    return list(files.values())


def _weight_map(index: Path) -> dict[str, str]:
    """Return tensor -> shard from the index."""
    found: Any = strict_json.read(index, "download it again", most=MOST_BYTES)
    table = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(table, dict) or not table:
        raise WamkitError(
            f"{index} is no index of shards: it has no table weight_map of tensors and files",
            "download it again",
        )
    expect_few(table, len(table), str(index))
    for name, shard in table.items():
        expect_name(name, str(index))
        if not isinstance(shard, str):
            raise WamkitError(
                f"{index} is no index of shards: of tensor {name} it says a "
                f"{type(shard).__name__}, expected the name of a file",
                "download it again",
            )
    return table


def _expect_agreement(index: Path, table: dict[str, str], files: dict[str, Path]) -> None:
    """Raise WamkitError unless each shard holds the tensors that the index lists, and no others."""
    held = {name: header(file).keys() for name, file in files.items()}
    if lost := [name for name, shard in table.items() if name not in held[shard]]:
        raise WamkitError(
            f"{index} names {len(lost)} tensors that their shards do not hold: {few(lost)}", AGAIN
        )
    extra = [
        f"{name} in {shard}"
        for shard, names in held.items()
        for name in names
        if table.get(name) != shard
    ]
    if extra:
        raise WamkitError(
            f"{index} does not name {len(extra)} tensors where its shards hold them: {few(extra)}",
            AGAIN,
        )


def few(names: Sequence[str], most: int = 8) -> str:
    """The first names, and a sign that there are more."""
    return ", ".join(names[:most]) + ", ..." * (len(names) > most)
