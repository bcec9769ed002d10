"""Pickles read as data: tables, lists, numbers, text, numpy arrays and torch tensors.

Nothing in a pickle is run. Every class and function that it names becomes an empty record of its
name and arguments, and records of arrays and tensors are then read from their bytes; a record of
anything else is refused. `load_values` reads pickles of `pickle.dump`, and `.npy` files that hold
one. Checkpoints of `torch.save` are read by `wamkit.checkpoints.pickled`.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..errors import WamkitError
from ..files.placeholders import refuse_placeholder
from ..files.safetensors_header import MOST_AXES

MOST_BYTES = 2**33
"""The largest file that is read: 8 GiB."""
MOST_STEPS = 20_000_000
"""The most operations in it."""
MOST_VALUES = 10_000_000
"""The most values in its tables, each counted as often as it is reached."""
DEPTH = 64
"""How deep its tables may be nested."""
PLAIN = "save a table of plain values, arrays and tensors where it was made"
STORAGES = {
    "Float": torch.float32,
    "Double": torch.float64,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}
_ARRAYS = tuple(
    f"numpy.{core}.{of}" for core in ("core", "_core") for of in ("multiarray", "numeric")
)


class Record:
    """A class or function that a pickle names, with what the pickle gives it; it does nothing."""

    origin: ClassVar[str] = ""
    """Module and name, as in `torch._utils _rebuild_tensor_v2`."""

    def __new__(cls, *args: Any, **named: Any) -> Record:
        """Keep the arguments."""
        made = super().__new__(cls)
        made.args, made.state, made.items = args, None, {}
        return made

    def __init__(self, *args: Any, **named: Any) -> None:
        self.args: tuple[Any, ...]
        self.state: Any
        self.items: dict[Any, Any]

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Reader(pickle.Unpickler):
    """The machine of pickle, in which every global is a `Record`."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)
        self._known: dict[str, type[Record]] = {}

    def find_class(self, module: str, name: str) -> type[Record]:
        """A record in place of every class and function."""
        origin = f"{module} {name}"
        return self._known.setdefault(origin, type("Global", (Record,), {"origin": origin}))

    def persistent_load(self, pid: Any) -> Record:
        """A record of a reference to values outside the pickle."""
        made: Record = self.find_class("pickle", "persistent")(pid)
        return made


def read_records(content: bytes, where: str, count: int = 1) -> tuple[list[Any], int]:
    """The objects of `count` pickles in a row, with `Record`s in them, and where the last one ends.

    Raises WamkitError if they are damaged or take too many steps.
    """
    stream, steps = io.BytesIO(content), 0
    found = []
    try:
        for _ in range(count):
            start = stream.tell()
            for _operation in pickletools.genops(stream):
                steps += 1
                if steps > MOST_STEPS:
                    raise ValueError(f"it takes more than {MOST_STEPS:,} steps")
            end = stream.tell()
            found.append(_Reader(io.BytesIO(content[start:end])).load())
    except Exception as error:  # of as many kinds as there are ways to hurt a pickle
        why = " ".join(str(error).split())[:120] or type(error).__name__
        raise WamkitError(
            f"{where} is no pickle that can be read as data: {why}", "download it again"
        ) from None
    return found, stream.tell()


def load_values(file: Path) -> Any:
    """What a pickle or an `.npy` file holds: plain values, arrays, and tensors on the CPU.

    Raises WamkitError if it is damaged, too large, or holds anything else.
    """
    refuse_placeholder(file)
    if file.stat().st_size > MOST_BYTES:
        raise WamkitError(f"{file} has {file.stat().st_size:,} bytes", "split it")
    content = file.read_bytes()
    if content.startswith(b"\x93NUMPY"):
        stream = io.BytesIO(content)
        try:
            return np.load(stream, allow_pickle=False)
        except ValueError:
            stream = io.BytesIO(content)
            version = np.lib.format.read_magic(stream)
            head = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
            head.get(version[0], head[2])(stream)
            content = content[stream.tell() :]
    (found,), _ = read_records(content, str(file))
    count = 0

    def values(one: Any, depth: int) -> Any:
        nonlocal count
        count += 1
        if count > MOST_VALUES or depth > DEPTH:
            raise WamkitError(
                f"{file} holds tables nested deeper than {DEPTH}, or more than {MOST_VALUES:,} "
                "values",
                PLAIN,
            )
        if isinstance(one, dict):
            if odd := [k for k in one if not (k is None or isinstance(k, str | int | float))]:
                kind = type(odd[0]).__name__
                raise WamkitError(f"{file} holds a table by a {kind}, expected names", PLAIN)
            return {values(k, depth + 1): values(v, depth + 1) for k, v in one.items()}
        if isinstance(one, list | tuple):
            return type(one)(values(v, depth + 1) for v in one)
        if isinstance(one, Record):
            return _value(one, lambda inner: values(inner, depth + 1), str(file))
        if one is None or isinstance(one, bool | int | float | str | bytes):
            return one
        raise WamkitError(f"{file} holds a {type(one).__name__}, expected plain values", PLAIN)

    found = values(found, 0)
    if isinstance(found, np.ndarray) and found.dtype == object and found.shape == ():
        return found.item()
    return found


def _value(record: Record, values: Callable[[Any], Any], where: str) -> Any:
    """The array, tensor or table that a record stands for."""
    module, _, name = record.origin.partition(" ")
    try:
        if module in _ARRAYS and name == "_reconstruct":
            _, shape, dtype, _is_fortran, raw = record.state
            return _array(raw, dtype, shape, "F" if _is_fortran else "C", values)
        if module in _ARRAYS and name == "scalar":
            dtype, raw = record.args
            return _array(raw, dtype, (), "C", values)[()]
        if module in _ARRAYS and name == "_frombuffer":
            raw, dtype, shape, order = record.args
            return _array(raw, dtype, shape, order, values)
        if record.origin == "torch._utils _rebuild_tensor_v2":
            return tensor_of(record, lambda inner: _own_storage(inner, where))
        if record.origin == "collections OrderedDict" and not record.state:
            return values({**dict(*record.args[:1]), **record.items})
        if record.origin == "_codecs encode":
            return _bytes(record)
    except (TypeError, ValueError, IndexError, KeyError, OverflowError, RuntimeError) as error:
        why = " ".join(str(error).split())[:120]
        raise WamkitError(f"{where} holds a damaged {name}: {why}", "download it again") from None
    raise WamkitError(
        f"{where} holds more than plain values, arrays and tensors: {record.origin[:80]!r}", PLAIN
    )


def _bytes(raw: Any) -> bytes:
    """Bytes, as any protocol writes them."""
    if isinstance(raw, Record) and raw.origin == "_codecs encode":
        text, encoding = raw.args
        if encoding != "latin1":
            raise ValueError(f"bytes in {encoding!r}")
        return str(text).encode("latin1")
    if isinstance(raw, bytes | bytearray):
        return bytes(raw)
    raise ValueError(f"a {type(raw).__name__} in place of bytes")


def _array(raw: Any, dtype: Record, shape: Any, order: str, values: Any) -> np.ndarray[Any, Any]:
    code, size = str(dtype.args[0]), tuple(int(n) for n in shape)
    if dtype.origin != "numpy dtype" or len(size) > MOST_AXES or code[:1] not in "fiubOc":
        raise ValueError(f"an array of {code!r}")
    if code[0] == "O":
        objects = np.empty(prod(size), dtype=object)
        objects[:] = [values(one) for one in raw]
        return objects.reshape(size)
    mark: Any = dtype.state[1] if dtype.state else "="
    kind = np.dtype(code).newbyteorder("=" if mark == "|" else mark)
    flat: Any = np.frombuffer(_bytes(raw), kind)
    made: np.ndarray[Any, Any] = flat.reshape(size, order=order).astype(kind.newbyteorder("="))
    return made


def tensor_of(record: Record, storage: Callable[[Record], Tensor]) -> Tensor:
    """The tensor of a record of `_rebuild_tensor_v2`; `storage` gives the values [n] of its own.

    Raises ValueError if it is not inside its storage.
    """
    if record.origin != "torch._utils _rebuild_tensor_v2" or not isinstance(record.args[0], Record):
        raise ValueError(f"a {record.origin!r} in place of a tensor")
    flat, (offset, size, stride) = storage(record.args[0]), record.args[1:4]
    size, stride = integers(size), integers(stride)
    if len(size) > MOST_AXES or len(size) != len(stride) or min((0, *size, *stride)) < 0:
        raise ValueError(f"a tensor of shape {size} and strides {stride}")
    last = int(offset) + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if prod(size) and not 0 <= int(offset) <= last < len(flat):
        raise ValueError("a tensor that reaches beyond its storage")
    if prod(size) > len(flat):
        raise ValueError("a tensor that repeats the values of its storage")
    return flat.as_strided(size, stride, int(offset)).clone()


def integers(size: Any) -> tuple[int, ...]:
    """A `torch.Size`, or any sequence of integers."""
    return tuple(map(int, size.args[0] if isinstance(size, Record) else size))


def storage_dtype(persistent: Any) -> tuple[torch.dtype, str, int]:
    """dtype, key and length of a storage that a pickle refers to by a persistent id."""
    (pid,) = persistent.args
    return STORAGES[pid[1].origin.rpartition(" ")[2].removesuffix("Storage")], pid[2], int(pid[4])


def values_of(raw: bytes, dtype: torch.dtype) -> Tensor:
    """Little-endian bytes as values [n]."""
    return torch.frombuffer(bytearray(raw), dtype=dtype) if raw else torch.empty(0, dtype=dtype)


def _own_storage(record: Record, where: str) -> Tensor:
    """The values of a storage that lies inside the pickle."""
    if record.origin != "torch.storage _load_from_bytes":
        raise ValueError("a tensor whose values are not in the pickle")
    content = _bytes(record.args[0])
    parts, end = read_records(content, where, 5)  # as `torch.save` wrote it before version 1.6
    dtype, key, count = storage_dtype(parts[3])
    if list(parts[4]) != [key]:
        raise ValueError("several storages in place of one")
    written, raw = int.from_bytes(content[end : end + 8], "little"), content[end + 8 :]
    if written != count or len(raw) != count * dtype.itemsize:
        raise ValueError(f"a storage of {count:,} values in {len(raw):,} bytes")
    return values_of(raw, dtype)


def embeddings(file: Path) -> Mapping[str, Tensor]:
    """A pickled table of text to tensors [1, L, width] or [L, width], as [1, L, width] each.

    Raises WamkitError if the file holds anything else.
    """
    table = load_values(file)
    if not isinstance(table, dict) or not table:
        raise WamkitError(f"{file} holds no table of prompts and embeddings", PLAIN)
    found = {}
    for prompt, value in table.items():
        tensor = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        if not isinstance(prompt, str) or not isinstance(tensor, Tensor):
            kinds = f"{type(prompt).__name__} to {type(tensor).__name__}"
            raise WamkitError(f"{file} holds a table of {kinds}, expected text to tensors", PLAIN)
        tensor = tensor[None] if tensor.ndim == 2 else tensor
        if tensor.ndim != 3 or tensor.shape[0] != 1 or not tensor.is_floating_point():
            raise WamkitError(
                f"{file}: of {prompt!r:.80} it holds {tensor.dtype} {list(tensor.shape)}, expected "
                "embeddings [1, tokens, width]",
                PLAIN,
            )
        found[prompt] = tensor
    return found
