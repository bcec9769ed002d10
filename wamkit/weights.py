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
from itertools import accumulate, pairwise
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn

from .errors import WamkitError
from .files import Entry, find, headers, opened
from .finite import ORIGINS, SMALL, WHOLE, fault, is_finite, unusable

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
    squeezes: tuple[str, ...] = ()
    """Names, after `rules`, of 1 x 1 convolutions that are linear layers here."""

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

    def shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that our tensor `name` has, if it is `shape` in this layout."""
        squeezed = any(re.search(pattern, name) for pattern in self.squeezes)
        return shape[:2] if squeezed and set(shape[2:]) == {1} else shape


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
            (new,) = names
            shape, swapped = dialect.shape(new, entry.shape), dialect.swapped(new)
            found[new] = replace(entry, shape=shape, swapped=swapped)
            continue
        sizes = [wanted[new][0] if wanted.get(new) else 0 for new in names]
        if names and sum(sizes) != entry.shape[0]:
            found[name] = entry  # no stack of ours: reported as unexpected, under its own name
            continue
        ends = accumulate(sizes, initial=0)
        for new, (start, end) in zip(names, pairwise(ends), strict=True):
            shape = (end - start, *entry.shape[1:])
            found[new] = replace(entry, shape=shape, rows=(start, end))
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
    """Replace every meta tensor of `model` by the one in its file.

    Raises WamkitError with every parameter that is found not to be finite (`wamkit.finite` says
    which are looked at).
    """
    by_file: dict[Path, list[str]] = {}
    for name, entry in entries.items():
        by_file.setdefault(entry.file, []).append(name)
    parameters = {name for name, _ in model.named_parameters()}
    whole = sum(file.stat().st_size for file in by_file) <= WHOLE
    origins, bad = {}, []
    for file, names in by_file.items():
        with opened(file, device) as source:
            ours = source.metadata.get("writer") == WRITER
            for name in names:
                tensor = source.tensor(entries[name])
                if ours and tensor.data_ptr() % ALIGNED:
                    tensor = tensor.clone()  # the few whose neighbors have odd sizes
                converted = dtype not in (None, tensor.dtype) and tensor.is_floating_point()
                if converted:
                    tensor = tensor.to(dtype)
                origins[name] = f"{entries[name].name} of {file}"
                looked = whole or converted or tensor.numel() * tensor.itemsize <= SMALL
                if looked and name in parameters and (wrong := fault(tensor)) is not None:
                    bad.append(f"{origins[name]}: {wrong}")
                _put(model, name, tensor)
    if bad:
        raise unusable(bad)
    setattr(model, ORIGINS, origins)


def _put(model: nn.Module, name: str, tensor: Tensor) -> None:
    owner, _, last = name.rpartition(".")
    module = model.get_submodule(owner)
    old = getattr(module, last)
    if isinstance(old, nn.Parameter):
        setattr(module, last, nn.Parameter(tensor, requires_grad=old.requires_grad))
    else:
        module._buffers[last] = tensor


def save(model: nn.Module, path: str | Path) -> int:
    """Write the state of `model` to one safetensors file; return the number of its tensors."""
    return write(model.state_dict(), path)


def save_like(
    model: nn.Module, path: str | Path, like: str | Path, dialects: Sequence[Dialect]
) -> int:
    """Write the state of `model` in the layout of the file `like`, under that file's names.

    What `load` split, swapped or squeezed is put together again; tensors of `like` that carry no
    weights are left out. Raises WamkitError if a tensor of the model has no place there.
    """
    entries, ours = headers(find(like)), model.state_dict()
    dialect = dialect_of(entries, dialects, str(like))
    state: dict[str, Tensor] = {}
    used: set[str] = set()
    for name, entry in entries.items():
        names = [new for new in dialect.rename(name) if new in ours]
        if not names:
            continue
        parts = [ours[new] for new in names]
        tensor = parts[0] if len(parts) == 1 else torch.cat(parts)
        if dialect.swapped(names[0]):
            tensor = torch.cat(tensor.chunk(2)[::-1])
        if tensor.numel() != prod(entry.shape):
            raise WamkitError(
                f"{name} has shape {list(entry.shape)} in {like}, {list(tensor.shape)} here",
                "name a file of the same variant",
            )
        state[name] = tensor.reshape(entry.shape)
        used.update(names)
    if homeless := sorted(set(ours) - used):
        raise WamkitError(
            f"{like} has no place for {len(homeless)} tensors: {_few(homeless)}",
            "name a file of the same variant",
        )
    return write(state, path)


def write(state: Mapping[str, Tensor], path: str | Path) -> int:
    """Write tensors to one safetensors file, whole or not at all.

    One tensor at a time passes through memory, and each begins at a multiple of 64 bytes where its
    size allows: read back mapped, it takes the same vector instructions and gives the same numbers.
    Returns the number of tensors.
    """
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
            before, tensor.data = tensor.dtype, tensor.data.to(wanted)
            if isinstance(tensor, nn.Parameter) and not is_finite(tensor):
                origin = getattr(model, ORIGINS, {}).get(name, name)
                raise unusable([f"{origin}, from {before} to {wanted}: {fault(tensor)}"])
    return model
