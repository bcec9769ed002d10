"""Safetensors in and out: every tensor accounted for, shapes compared first, files mapped.

A model is built on the meta device, its names and shapes are compared with what the files say, and
only then is each tensor mapped from its file and handed to the model. There is never a second copy.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from .errors import WamkitError

INDEXES = ("diffusion_pytorch_model.safetensors.index.json", "model.safetensors.index.json")
SINGLES = ("diffusion_pytorch_model.safetensors", "model.safetensors")
ALIGNED = 64  # bytes; what torch gives its own tensors
WRITER = "wamkit"
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Dialect:
    """One published layout of a model's weights, and how its names become ours."""

    name: str
    sentinel: str
    """A regular expression that matches a name only files of this layout hold."""
    rules: tuple[tuple[str, str], ...] = ()
    """Regular expressions and replacements, applied in order to each name."""
    drop: tuple[str, ...] = ()
    """Names that carry no weights, as regular expressions."""
    splits: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Names, after `rules`, whose rows are several of our tensors stacked, and what replaces the
    name for each; how many rows each takes follows from our shapes."""
    swaps: tuple[str, ...] = ()
    """Names, after `rules`, whose two halves of rows stand in the other order."""

    def rename(self, name: str) -> tuple[str, ...]:
        """Our names for a tensor of this layout: none if it is dropped, several if it is split."""
        if any(re.search(pattern, name) for pattern in self.drop):
            return ()
        for pattern, replacement in self.rules:
            name = re.sub(pattern, replacement, name)
        for pattern, replacements in self.splits:
            if re.search(pattern, name):
                return tuple(re.sub(pattern, replacement, name) for replacement in replacements)
        return (name,)

    def swapped(self, name: str) -> bool:
        """True if the halves of our tensor `name` stand in the other order in this layout."""
        return any(re.search(pattern, name) for pattern in self.swaps)


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
    """The safetensors files at `path`: a file, or a folder with one file or a sharded index.

    `folders` are subfolders to look into, such as "transformer". Raises WamkitError with what was
    looked for.
    """
    place = Path(path).expanduser()
    if place.is_file():
        if place.suffix != ".safetensors":
            raise WamkitError(
                f"{place} is not a safetensors file",
                "convert it: safetensors.torch.save_file(torch.load(FILE, weights_only=True), ...)",
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


def _shards(index: Path) -> list[Path]:
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
    """Every tensor of the files by name, read from the headers alone.

    Raises WamkitError if a file is corrupted or truncated, or two files hold the same name.
    """
    found: dict[str, Entry] = {}
    for file in files:
        for name, (shape, dtype) in _header(file).items():
            if name in found:
                raise WamkitError(
                    f"{name} is both in {found[name].file} and in {file}",
                    "remove the file that does not belong",
                )
            found[name] = Entry(file, name, shape, dtype)
    return found


def _header(file: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """name -> shape, dtype; the file's size must be what its header says (format: safetensors)."""
    hint = "the file is damaged or incomplete: download or copy it again"
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > size - 8:
            raise WamkitError(
                f"{file} is no safetensors file: its header does not fit into it", hint
            )
        try:
            table = json.loads(stream.read(length))
            tensors = {k: v for k, v in table.items() if k != "__metadata__"}
            ends = [entry["data_offsets"][1] for entry in tensors.values()]
            found = {k: (tuple(v["shape"]), str(v["dtype"])) for k, v in tensors.items()}
        except (ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
            raise WamkitError(
                f"{file} is no safetensors file: its header is garbled ({error})", hint
            ) from None
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        state = "truncated" if size < expected else "too long"
        raise WamkitError(
            f"{file} is {state}: found {size} bytes, its header says {expected}", hint
        )
    return found


def dialect_of(names: Iterable[str], dialects: Sequence[Dialect], where: str) -> Dialect:
    """The layout whose sentinel is among `names`. Raises WamkitError if there is none."""
    names = list(names)
    for dialect in dialects:
        if any(re.search(dialect.sentinel, name) for name in names):
            return dialect
    known = "; ".join(f"{d.name} (has {d.sentinel})" for d in dialects)
    sample = ", ".join(sorted(names)[:3]) or "nothing"
    raise WamkitError(
        f"{where} is in no layout known here: found {sample}, ...; known are {known}",
        "check that the files belong to this model and variant",
    )


def load(
    model: nn.Module,
    path: str | Path,
    *,
    dialects: Sequence[Dialect] = (),
    folders: Sequence[str] = (),
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> str:
    """Give `model`, built on the meta device, the weights at `path`; return the layout's name.

    Names and shapes of every tensor are compared before anything is allocated. Tensors whose dtype
    is right stay mapped to their file until they are written to. Raises WamkitError listing all
    missing, unexpected and misshapen tensors.
    """
    entries = headers(find(path, folders))
    dialect = dialect_of(entries, dialects, str(path)) if dialects else Dialect("wamkit", "")
    wanted = {k: tuple(v.shape) for k, v in model.state_dict(keep_vars=True).items()}
    found = _translated(entries, dialect, wanted)
    _compare(wanted, found, path)
    _assign(model, found, dtype, device)
    return dialect.name


def _translated(
    entries: Mapping[str, Entry], dialect: Dialect, wanted: Mapping[str, tuple[int, ...]]
) -> dict[str, Entry]:
    """The tensors of a file under our names, pieces of stacked ones included."""
    found: dict[str, Entry] = {}
    for name, entry in entries.items():
        names = dialect.rename(name)
        if len(names) == 1:
            found[names[0]] = replace(entry, swapped=dialect.swapped(names[0]))
            continue
        sizes = [wanted[new][0] if wanted.get(new) else 0 for new in names]
        if names and sum(sizes) != entry.shape[0]:
            found[name] = entry  # no stack of ours: reported as unexpected, under its own name
            continue
        for new, start, size in zip(names, accumulate(sizes, initial=0), sizes, strict=False):
            shape = (size, *entry.shape[1:])
            found[new] = replace(entry, shape=shape, rows=(start, start + size))
    return found


def _compare(
    wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, Entry], path: str | Path
) -> None:
    problems = []
    if missing := sorted(set(wanted) - set(found)):
        problems.append(f"{len(missing)} missing: {_few(missing)}")
    if unexpected := sorted(set(found) - set(wanted)):
        names = [found[k].name for k in unexpected]
        problems.append(f"{len(unexpected)} unexpected: {_few(names)}")
    wrong = [
        f"{k} {list(found[k].shape)} for {list(wanted[k])}"
        for k in sorted(set(wanted) & set(found))
        if found[k].shape != wanted[k]
    ]
    if wrong:
        problems.append(f"{len(wrong)} of another shape (found for expected): {_few(wrong)}")
    if problems:
        raise WamkitError(
            f"the weights at {path} do not fit this model\n  " + "\n  ".join(problems),
            "check the variant; `wamkit show KIND NAME` prints its sizes",
        )


def _few(names: Sequence[str], most: int = 8) -> str:
    rest = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _assign(
    model: nn.Module,
    entries: Mapping[str, Entry],
    dtype: torch.dtype | None,
    device: torch.device | str,
) -> None:
    """Replace every meta tensor of `model` by the one in its file."""
    by_file: dict[Path, list[str]] = {}
    for name, entry in entries.items():
        by_file.setdefault(entry.file, []).append(name)
    for file, names in by_file.items():
        try:
            with safe_open(file, framework="pt", device=str(device)) as opened:
                ours = (opened.metadata() or {}).get("writer") == WRITER
                for name in names:
                    tensor = _piece(opened, entries[name])
                    if ours and tensor.data_ptr() % ALIGNED:
                        tensor = tensor.clone()  # the few whose neighbors have odd sizes
                    if dtype is not None and tensor.is_floating_point() and tensor.dtype != dtype:
                        tensor = tensor.to(dtype)
                    _put(model, name, tensor)
        except SafetensorError as error:
            raise WamkitError(
                f"{file} cannot be read: {error}", "the file is damaged: download or copy it again"
            ) from None


def _piece(opened: Any, entry: Entry) -> Tensor:
    """The tensor of an entry, its rows cut out and its halves swapped where it says so."""
    if entry.rows is not None:
        tensor = opened.get_slice(entry.name)[entry.rows[0] : entry.rows[1]]
    else:
        tensor = opened.get_tensor(entry.name)
    return torch.cat(tensor.chunk(2)[::-1]) if entry.swapped else tensor


def _put(model: nn.Module, name: str, tensor: Tensor) -> None:
    owner, _, last = name.rpartition(".")
    module = model.get_submodule(owner)
    old = getattr(module, last)
    if isinstance(old, nn.Parameter):
        setattr(module, last, nn.Parameter(tensor, requires_grad=old.requires_grad))
    else:
        module._buffers[last] = tensor


def save(model: nn.Module, path: str | Path) -> int:
    """Write the state of `model` to one safetensors file, whole or not at all.

    One tensor at a time passes through memory, and each begins at a multiple of 64 bytes where its
    size allows: read back mapped, it takes the same vector instructions and gives the same numbers.
    Returns the number of tensors.
    """
    state = model.state_dict()
    order = sorted(state, key=lambda name: (_bytes(state[name]) % ALIGNED != 0, name))
    header: dict[str, object] = {"__metadata__": {"format": "pt", "writer": WRITER}}
    end = 0
    for name in order:
        start, end = end, end + _bytes(state[name])
        dtype, shape = DTYPES[state[name].dtype], list(state[name].shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNED)
    file = Path(path)
    part = file.with_name(f".{file.name}.part")
    try:
        with part.open("wb") as stream:
            stream.write(struct.pack("<Q", len(text)) + text)
            for name in order:
                tensor = state[name].detach().cpu().contiguous()
                stream.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)
    return len(state)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def parameters(model: nn.Module) -> int:
    """Numbers in all parameters; works on the meta device."""
    return sum(prod(p.shape) for p in model.parameters())


def materialize(
    make: Callable[[], nn.Module],
    path: str | None,
    *,
    dialects: Sequence[Dialect] = (),
    folders: Sequence[str] = (),
) -> nn.Module:
    """A model with the weights at `path`, mapped, in their own dtype; random ones for None."""
    if path is None:
        return make()
    with torch.device("meta"):
        model = make()
    load(model, path, dialects=dialects, folders=folders)
    return model


def cast(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """`model` in `dtype`, parameter by parameter; names that match `keep_float32` stay float32.

    A model may carry `keep_float32`, regular expressions for what its reference computes in
    float32 whatever the rest runs in: time embeddings, modulation tables, norms.
    """
    kept = tuple(getattr(model, "keep_float32", ()))
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if not tensor.is_floating_point():
            continue
        wanted = torch.float32 if any(re.search(p, name) for p in kept) else dtype
        if tensor.dtype != wanted:
            tensor.data = tensor.data.to(wanted)
    return model
