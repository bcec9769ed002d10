"""Files of weights: where they are, what their headers say, and their tensors, mapped.

Safetensors is what everything is written in. Pickled checkpoints (.pt, .pth) are read as data only,
never as code.
"""

from __future__ import annotations

import json
import struct
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .errors import WamkitError
from .install import install_hint
from .parts import HUB
from .placeholders import refuse_placeholder

INDEXES = ("diffusion_pytorch_model.safetensors.index.json", "model.safetensors.index.json")
SINGLES = ("diffusion_pytorch_model.safetensors", "model.safetensors")
PICKLED = (".pt", ".pth")
DAMAGED = "the file is damaged or incomplete: download or copy it again"


@dataclass(frozen=True)
class Entry:
    """A tensor in a file, known by its header alone, or a piece of its rows."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str
    rows: tuple[int, int] | None = None
    """First row and the one after the last, if it is a piece."""
    swapped: bool = False
    """True if its two halves are to change places."""


def find(path: str | Path, folders: Sequence[str] = ()) -> list[Path]:
    """The files at `path`: a file, or a folder with one safetensors file or a sharded index.

    `path` may be "hf:owner/name", a repository of the Hugging Face hub that is downloaded or was
    before. `folders` are subfolders to look into, such as "transformer". Raises WamkitError with
    what was looked for.
    """
    place = _downloaded(str(path)) if is_remote(path) else Path(path).expanduser()
    if place.is_file():
        if place.suffix not in (".safetensors", *PICKLED):
            raise WamkitError(
                f"{place} is no file of weights: its name ends in {place.suffix!r}",
                "weights are a .safetensors file, or a .pt or .pth checkpoint",
            )
        return [place]
    if not place.is_dir():
        raise WamkitError(f"no weights at {place}", "name a folder or a safetensors file")
    for folder in [place, *(place / name for name in folders)]:
        for name in INDEXES:
            if (folder / name).is_file():
                return _shards(folder / name)
        for name in SINGLES:
            if (folder / name).is_file():
                return [folder / name]
        files = sorted(folder.glob("*.safetensors"))
        if len(files) == 1:
            return files
        if files:
            names = ", ".join(f.name for f in files)
            raise WamkitError(
                f"{folder} holds several safetensors files and no index: {names}",
                "name one of them",
            )
    looked = ", ".join([str(place), *(str(place / name) for name in folders)])
    raise WamkitError(
        f"no safetensors file in {looked}",
        "name the folder that holds *.safetensors, or the file itself",
    )


def is_remote(path: str | Path | None) -> bool:
    """True for "hf:owner/name"."""
    return str(path or "").startswith(HUB)


def _downloaded(path: str) -> Path:
    """The local copy of "hf:owner/name", fetched if need be."""
    name = path.removeprefix(HUB)
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )
    except ImportError:
        raise WamkitError(
            f"{path} is on the Hugging Face hub, and huggingface_hub is not installed",
            f"{install_hint(modules=['huggingface_hub'])}, or name a local folder",
        ) from None
    try:
        return Path(snapshot_download(name, allow_patterns=["*.safetensors", "*.json", "*.model"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise WamkitError(
            f"{path} cannot be fetched, and no copy is here: {reason}",
            f"copy the repository {name} by other means and name its local folder",
        ) from None


def _shards(index: Path) -> list[Path]:
    refuse_placeholder(index)
    try:
        table = json.loads(index.read_text())["weight_map"]
        names = sorted(set(table.values()))
    except (json.JSONDecodeError, KeyError, AttributeError, TypeError, UnicodeDecodeError) as error:
        raise WamkitError(f"{index} is no index of shards: {error}", "download it again") from None
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise WamkitError(
            f"{index.parent} lacks {len(missing)} of {len(names)} shards: {', '.join(missing)}",
            "download the missing files",
        )
    return [index.parent / name for name in names]


def headers(files: Iterable[Path]) -> dict[str, Entry]:
    """Every tensor of the files by name, without reading any of them.

    Raises WamkitError if a file is corrupted or truncated, or two files hold the same name.
    """
    found: dict[str, Entry] = {}
    for file in files:
        told = _pickled_header(file) if file.suffix in PICKLED else _header(file)
        for name, (shape, dtype) in told.items():
            if name in found:
                raise WamkitError(
                    f"{name} is both in {found[name].file} and in {file}",
                    "remove the file that does not belong",
                )
            found[name] = Entry(file, name, shape, dtype)
    return found


@contextmanager
def opened(file: Path, device: torch.device | str = "cpu") -> Iterator[Reader]:
    """The tensors of one file, each mapped when it is asked for.

    Raises WamkitError if the file turns out to be damaged.
    """
    if file.suffix in PICKLED:
        yield Reader(_unpickled(file), {}, torch.device(device))
        return
    try:
        with safe_open(file, framework="pt", device=str(device)) as source:
            yield Reader(source, source.metadata() or {}, torch.device(device))
    except SafetensorError as error:
        raise WamkitError(f"{file} cannot be read: {error}", DAMAGED) from None


@dataclass(frozen=True)
class Reader:
    """An open file of weights."""

    source: Any
    metadata: Mapping[str, str]
    device: torch.device

    def tensor(self, entry: Entry) -> Tensor:
        """The tensor of an entry in its shape; rows cut out, halves swapped where it says so."""
        if isinstance(self.source, Mapping):
            whole = self.source[entry.name].to(self.device)
            tensor = whole if entry.rows is None else whole[entry.rows[0] : entry.rows[1]]
        elif entry.rows is not None:
            tensor = self.source.get_slice(entry.name)[entry.rows[0] : entry.rows[1]]
        else:
            tensor = self.source.get_tensor(entry.name)
        tensor = tensor.reshape(entry.shape)
        return torch.cat(tensor.chunk(2)[::-1]) if entry.swapped else tensor


def _header(file: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """name -> shape, dtype; the file's size must be what its header says (format: safetensors)."""
    refuse_placeholder(file)
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > size - 8:
            raise WamkitError(
                f"{file} is no safetensors file: its header does not fit into it", DAMAGED
            )
        try:
            table = json.loads(stream.read(length))
            tensors = {k: v for k, v in table.items() if k != "__metadata__"}
            ends = [entry["data_offsets"][1] for entry in tensors.values()]
            found = {k: (tuple(v["shape"]), str(v["dtype"])) for k, v in tensors.items()}
        except (ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
            raise WamkitError(
                f"{file} is no safetensors file: its header is garbled ({error})", DAMAGED
            ) from None
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        state = "truncated" if size < expected else "too long"
        off = f"{abs(expected - size):,} bytes {'missing' if size < expected else 'too many'}"
        raise WamkitError(
            f"{file} is {state}: found {size} bytes, its header says {expected} ({off})", DAMAGED
        )
    return found


def _pickled_header(file: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """As `_header`, for a pickled checkpoint."""
    return {k: (tuple(v.shape), str(v.dtype)) for k, v in _unpickled(file).items()}


def _unpickled(file: Path) -> dict[str, Tensor]:
    """The tensors of a pickled checkpoint, mapped; names of nested tables are joined by dots."""
    return _unpickled_at(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _unpickled_at(file: Path, _changed: int) -> dict[str, Tensor]:
    refuse_placeholder(file)
    try:
        content = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except (RuntimeError, UnpicklingError, EOFError, BadZipFile, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise WamkitError(
            f"{file} is no checkpoint that can be read as data alone: {reason}",
            "convert it to safetensors where it was made, or download it again",
        ) from None
    warnings.warn(f"{file} is pickled; `wamkit weights convert` makes it safetensors", stacklevel=2)
    return dict(_flat(content, ""))


def _flat(content: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        yield prefix.removesuffix("."), content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _flat(value, f"{prefix}{key}.")
