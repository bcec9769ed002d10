"""Checkpoints of torch.distributed (DCP): a folder with `.metadata` and `*.distcp`, read as data.

`.metadata` is a pickle that says of every tensor in which pieces it is stored, and each piece is a
small zip of `torch.save`. Neither is run (`wamkit.checkpoints.pickle_values`). Values that are no
tensors, such as the state of a data loader, are not read.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch
from torch import Tensor

from ..errors import WamkitError
from ..files.paths import resolve_inside
from ..files.safetensors_header import MOST_AXES, expect_few, expect_name
from .formats import DTYPES, code
from .pickle_values import (
    Record,
    integers,
    read_records,
    storage_dtype,
    tensor_of,
    values_of,
)

METADATA = ".metadata"
"""Name of the file that describes all others."""
MOST_METADATA = 2**28
AGAIN = "copy the whole folder again"
_PLACE = "torch.distributed.checkpoint.metadata"


@dataclass(frozen=True)
class Piece:
    """A block of a tensor, and where it is stored."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: Path
    start: int
    length: int


@dataclass(frozen=True)
class Stored:
    """A tensor in pieces."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    pieces: tuple[Piece, ...]


class Tensors(Mapping[str, Tensor]):
    """The tensors of a checkpoint by name, each put together when it is asked for."""

    def __init__(self, file: Path) -> None:
        """Raises WamkitError if `file`, the `.metadata`, is damaged."""
        self.file = file
        self.stored = _stored(file, file.stat().st_mtime_ns)

    def __getitem__(self, name: str) -> Tensor:
        """Raises WamkitError if a piece of the tensor is damaged."""
        stored = self.stored[name]
        whole = torch.empty(stored.shape, dtype=stored.dtype)
        for piece in stored.pieces:
            part = _read(piece, f"{name} in {piece.file}")
            if part.dtype != stored.dtype or tuple(part.shape) != piece.sizes:
                raise WamkitError(
                    f"{name} in {piece.file} is {code(part.dtype)} {list(part.shape)}, and "
                    f"{self.file} says {code(stored.dtype)} {list(piece.sizes)}",
                    AGAIN,
                )
            ranges = zip(piece.offsets, piece.sizes, strict=True)
            whole[tuple(slice(o, o + n) for o, n in ranges)] = part
        return whole

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)


def header(file: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """name -> shape and code of the dtype, from `.metadata` alone."""
    return {name: (one.shape, code(one.dtype)) for name, one in Tensors(file).stored.items()}


@lru_cache(maxsize=2)
def _stored(file: Path, _changed: int) -> dict[str, Stored]:
    if file.stat().st_size > MOST_METADATA:
        raise WamkitError(f"{file} has {file.stat().st_size:,} bytes", AGAIN)
    (found,), _ = read_records(file.read_bytes(), str(file))
    try:
        return dict(_parse(found, file))
    except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
        why = " ".join(str(error).split())[:120]
        raise WamkitError(f"{file} describes no checkpoint of DCP: {why}", AGAIN) from None


def _parse(found: Record, file: Path) -> Iterator[tuple[str, Stored]]:
    if found.origin != f"{_PLACE} Metadata":
        raise ValueError(f"it holds a {found.origin!r}")
    places: dict[tuple[str, tuple[int, ...]], Any] = {}
    for index, info in found.state["storage_data"].items():
        offset = index.state.get("offset")
        places[index.state["fqn"], integers(offset) if offset is not None else ()] = info.state
    known = found.state["state_dict_metadata"]
    expect_few(known, len(known), str(file.parent))
    for name, described in known.items():
        expect_name(name, str(file))
        if described.origin != f"{_PLACE} TensorStorageMetadata":
            continue
        shape = integers(described.state["size"])
        dtype = _dtype(described.state["properties"])
        if len(shape) > MOST_AXES or min((0, *shape)) < 0:
            raise ValueError(f"{name} has the shape {shape}")
        pieces = []
        for chunk in described.state["chunks"]:
            offsets, sizes = (integers(chunk.state[key]) for key in ("offsets", "sizes"))
            ends = [o + n for o, n in zip(offsets, sizes, strict=True)]
            if len(ends) != len(shape) or min((0, *offsets, *sizes)) < 0:
                raise ValueError(f"a piece of {name} has the shape {sizes}")
            if any(end > most for end, most in zip(ends, shape, strict=True)):
                raise ValueError(f"a piece of {name} reaches beyond it")
            info = places[name, offsets]
            place = resolve_inside(file.parent, info["relative_path"], str(file))
            pieces.append(Piece(offsets, sizes, place, int(info["offset"]), int(info["length"])))
        if sum(_count(piece.sizes) for piece in pieces) != _count(shape):
            raise ValueError(f"the pieces of {name} do not make up {list(shape)}")
        yield name, Stored(shape, dtype, tuple(pieces))


def _count(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


def _dtype(properties: Record) -> torch.dtype:
    """The dtype among the properties of a tensor, which is the class that they name first."""
    state = properties.state
    named = state["dtype"] if isinstance(state, dict) else state[0]
    module, _, name = str(named.origin).partition(" ")
    dtype = getattr(torch, name, None) if module == "torch" else None
    if dtype not in DTYPES:
        raise ValueError(f"a tensor of {named.origin!r}")
    return dtype  # type: ignore[no-any-return]


def _read(piece: Piece, where: str) -> Tensor:
    """The tensor that `torch.save` wrote to a range of a file."""
    try:
        if not 0 <= piece.start <= piece.start + piece.length <= piece.file.stat().st_size:
            raise ValueError("it reaches beyond the file")
        with piece.file.open("rb") as stream:
            stream.seek(piece.start)
            content = stream.read(piece.length)
        with ZipFile(io.BytesIO(content)) as archive:
            records = {r.filename.partition("/")[2]: r for r in archive.infolist()}
            if any(r.compress_type != ZIP_STORED for r in records.values()):
                raise ValueError("it is compressed")
            (made,), _ = read_records(archive.read(records["data.pkl"]), where)

            def storage(inner: Record) -> Tensor:
                dtype, key, count = storage_dtype(inner)
                raw = archive.read(records[f"data/{key}"])
                if len(raw) != count * dtype.itemsize:
                    raise ValueError(f"a storage of {count:,} values in {len(raw):,} bytes")
                return values_of(raw, dtype)

            return tensor_of(made, storage)
    except (BadZipFile, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = " ".join(str(error).split())[:120]
        raise WamkitError(f"{where} cannot be read: {why}", AGAIN) from None
