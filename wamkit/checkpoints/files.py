"""Weight files: locate them, read their headers, and map their tensors into memory.

Everything is written as safetensors. Pickled checkpoints (.pt, .pth) and those of torch.distributed
(DCP) are read as data only, never as code.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import WamkitError
from ..files.durable import replacing
from ..files.hub import WEIGHTS, is_remote, local_path
from ..files.locate import split_prefix, weight_files
from ..files.safetensors_header import DAMAGED, expect_few, header
from ..files.shards import PICKLED
from . import dcp, pickled
from .formats import DTYPES, apply_scale, code

ALIGNED = 64  # bytes; what torch gives its own tensors


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter that is added to a weight when that is read: scale * up @ down."""

    down: Entry
    """[rank, in], or [rank, in, ...] of a convolution."""
    up: Entry
    """[out, rank]."""
    alpha: Entry | None = None
    """A scalar that states scale * rank, if the file holds one."""
    scale: float | None = None
    """alpha / rank; none until it is known (`wamkit.checkpoints.lora.resolve_lora_scales`)."""


@dataclass(frozen=True)
class Entry:
    """A tensor in a file, or a range of its rows, as its header describes it."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str
    rows: tuple[int, int] | None = None
    """First row and the one after the last, if only these rows are read."""
    swap_halves: bool = False
    """True if the two halves of its rows are exchanged when it is read."""
    transpose: bool = False
    """True if its last two axes are exchanged when it is read; `shape` is the result's."""
    scale: Entry | None = None
    """Entry of the scale that a float8 weight is multiplied by."""
    stored: tuple[int, ...] = ()
    """Its shape in the file."""
    adapter: Adapter | None = None
    """The LoRA adapter that is merged into it when it is read (`wamkit.checkpoints.lora`)."""


def find(path: str | Path, folders: Sequence[str] = ()) -> list[Path]:
    """Find the files at `path`: a file, or a folder with one safetensors file or shards.

    `path` may be "hf:owner/name" (`wamkit.files.hub`), and end in "#prefix"
    (`wamkit.checkpoints.prefixes`). `folders` are subfolders to look into, such as "transformer".
    A repository that holds no safetensors is fetched with its pickled checkpoints. Raises
    WamkitError with what was looked for.
    """
    where, _ = split_prefix(path)
    place = local_path(where, files=WEIGHTS)
    if is_remote(where) and place.is_dir() and not any(place.rglob("*.safetensors")):
        place = local_path(where, files=(*WEIGHTS, *(f"*{suffix}" for suffix in PICKLED)))
    return weight_files(place, folders)


def headers(files: Iterable[Path]) -> dict[str, Entry]:
    """Return the entry of every tensor in the files by name, without reading tensor data.

    Raises WamkitError if a file is corrupted or truncated, or two files hold the same name.
    """
    found: dict[str, Entry] = {}
    for file in files:
        if file.name == dcp.METADATA:
            entries_of_file = dcp.header(file)
        else:
            entries_of_file = _pickled_header(file) if file.suffix in PICKLED else header(file)
        for name, (shape, dtype) in entries_of_file.items():
            if name in found:
                raise WamkitError(
                    f"{name} is both in {found[name].file} and in {file}",
                    "remove the file that does not belong",
                )
            found[name] = Entry(file, name, shape, dtype, stored=shape)
        expect_few(found, len(found), f"{file.parent}")
    return found


def write_tensors(
    tensors: Mapping[str, Tensor], file: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors to one safetensors file atomically. Raises NotWrittenError.

    One tensor at a time passes through memory, and each begins at a multiple of 64 bytes where its
    size allows: a mapped tensor then uses the same vector instructions and gives the same values.
    """
    known = {name: _describe(tensors, name) for name in tensors}
    order = sorted(known, key=lambda name: (_bytes(known[name]) % ALIGNED != 0, name))
    head: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    end = 0
    for name in order:
        start, end = end, end + _bytes(known[name])
        dtype, shape = DTYPES[known[name].dtype], list(known[name].shape)
        head[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNED)
    with replacing(file) as part, part.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            tensor = tensors[name].detach().cpu().contiguous()
            stream.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


def _describe(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """A tensor with the dtype and shape of one that is written; lazy mappings only state them."""
    describe = getattr(tensors, "describe", None)
    return tensors[name] if describe is None else describe(name)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


@contextmanager
def open_weights(file: Path, device: torch.device | str = "cpu") -> Iterator[Reader]:
    """Open one file for reading; each tensor is mapped on request.

    Raises WamkitError if the file is damaged.
    """
    if file.name == dcp.METADATA:
        yield Reader(dcp.Tensors(file), {}, torch.device(device))
        return
    if file.suffix in PICKLED:
        yield Reader(pickled.tensors(file), {}, torch.device(device))
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

    def tensor(
        self,
        entry: Entry,
        scale: Tensor | None = None,
        factors: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Read the tensor of an entry: its `rows`, in its `shape`, halves or axes exchanged.

        A float8 weight is first multiplied by its `scale`, in float32. `factors` are those of its
        adapter, down and up: their product is added (`merge_adapter`).
        """
        if scale is not None:
            plain = replace(entry, rows=None, swap_halves=False, transpose=False, shape=(-1,))
            whole = self.tensor(plain)
            whole = apply_scale(whole.reshape(entry.stored), scale)
            tensor = whole if entry.rows is None else whole[entry.rows[0] : entry.rows[1]]
        elif isinstance(self.source, Mapping):
            whole = self.source[entry.name].to(self.device)
            tensor = whole if entry.rows is None else whole[entry.rows[0] : entry.rows[1]]
        elif entry.rows is not None:
            tensor = self.source.get_slice(entry.name)[entry.rows[0] : entry.rows[1]]
        else:
            tensor = self.source.get_tensor(entry.name)
        if factors is not None:
            assert entry.adapter is not None and entry.adapter.scale is not None
            down, up = factors
            up = up if entry.rows is None else up[entry.rows[0] : entry.rows[1]]
            tensor = merge_adapter(tensor, down, up, entry.adapter.scale)
        if entry.transpose:
            tensor = tensor.transpose(-1, -2).contiguous()
        tensor = tensor.reshape(entry.shape)
        return torch.cat(tensor.chunk(2)[::-1]) if entry.swap_halves else tensor


def merge_adapter(weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """Return weight + scale * up @ down, computed in float32, or float64 where one of them is.

    The result has the widest dtype of the three, so that it is rounded at most once.
    """
    dtype = merged_dtype(weight.dtype, down.dtype, up.dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    change = up.to(wide).flatten(1) @ down.to(wide).flatten(1)
    return (weight.to(wide) + scale * change.reshape(weight.shape)).to(dtype)


def merged_dtype(*dtypes: torch.dtype) -> torch.dtype:
    """The widest of these dtypes of floats; float8 is none that anything is rounded to."""
    found = torch.bfloat16 if dtypes[0].itemsize == 1 else dtypes[0]
    for dtype in dtypes[1:]:
        found = torch.promote_types(found, torch.bfloat16 if dtype.itemsize == 1 else dtype)
    return found


def _pickled_header(file: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return what `header` returns, for a pickled checkpoint."""
    return {k: (tuple(v.shape), code(v.dtype)) for k, v in pickled.tensors(file).items()}
