"""Pickled checkpoints are data: none runs, none grows, and what is no tensor is called by name."""

from __future__ import annotations

import argparse
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wamkit import WamkitError
from wamkit.checkpoints import safetensors as weights
from wamkit.checkpoints.pickled import tensors
from wamkit.files.pickle_scan import MOST_BYTES, MOST_STEPS

pytestmark = pytest.mark.filterwarnings("ignore")  # torch warns of most of what is made here
STATE = {"weight": torch.arange(12.0).reshape(3, 4), "bias": torch.zeros(3)}


class Runs:
    """An object that runs a command where a pickle is not read as data alone."""

    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


def changed(weight: Any) -> dict[str, Any]:
    return {**STATE, "weight": weight}


CONTENTS: dict[str, tuple[Callable[[], Any], str]] = {
    "a command": (lambda: {"a": Runs()}, "more than tensors in tables: posix.system at a"),
    "a module": (lambda: nn.Linear(4, 3), "tables: torch.nn.modules.linear.Linear"),
    "settings": (lambda: {**STATE, "args": argparse.Namespace()}, "argparse.Namespace at args"),
    "arrays": (lambda: changed(np.ones((3, 4))), r"numpy\..*_reconstruct at weight"),
    "bytes that grow": (lambda: {"a": bytearray(3)}, "bytearray at a"),
    "sparse": (lambda: changed(STATE["weight"].to_sparse()), "a sparse tensor at weight"),
    "sparse by rows": (lambda: changed(STATE["weight"].to_sparse_csr()), "a sparse tensor at wei"),
    "no values": (lambda: changed(STATE["weight"].to("meta")), "without values .meta. at weight"),
    "nested": (
        lambda: changed(torch.nested.nested_tensor([torch.ones(1), torch.ones(2)])),
        "a nested tensor at weight",
    ),
    "integers": (lambda: changed(STATE["weight"].int()), "weight I32 for F32"),
    "booleans": (lambda: changed(STATE["weight"].bool()), "weight BOOL for F32"),
    "complex": (lambda: changed(STATE["weight"].to(torch.complex64)), "weight C64 for F32"),
    "conjugated": (
        lambda: changed(STATE["weight"].to(torch.complex64).conj()),
        "yet to be conjugated or negated in place of a tensor: weight",
    ),
    "expanded": (
        lambda: changed(torch.zeros(1).expand(3, 4)),
        "a view of 48 bytes of a storage of 4 in place of a tensor: weight",
    ),
    "lists": (lambda: {k: v.tolist() for k, v in STATE.items()}, "a dict without tensors by name"),
    "a list": (lambda: list(STATE.values()), "a list without tensors by name"),
    "nothing": (lambda: None, "a NoneType without tensors by name"),
    "one tensor": (lambda: STATE["weight"], "holds a tensor without a name"),
    "an empty name": (lambda: {"": STATE["weight"]}, "holds a tensor without a name"),
    "a name that colors": (lambda: {"a\x1b": STATE["weight"]}, r"cannot be printed: 'a\\x1b'"),
    "a long name": (lambda: {"a" * 10**6: STATE["weight"]}, "1,000,000 characters"),
    "a pair as name": (lambda: {("a", "b"): STATE["weight"]}, "holds a tensor by a tuple"),
    "a name in two tables": (
        lambda: {"a.b": STATE["weight"], "a": {"b": STATE["weight"]}},
        r"holds a tensor a\.b twice",
    ),
    "a number and its text": (
        lambda: {1: STATE["bias"], "1": STATE["bias"]},
        "holds a tensor 1 twice",
    ),
    "many tensors": (
        lambda: {str(i): STATE["bias"] for i in range(50_001)},
        "holds 50,001 tensors",
    ),
}


def refused(file: Path, message: str) -> None:
    with pytest.raises(WamkitError, match=message) as error:
        weights.load(nn.Linear(4, 3, device="meta"), file)
    assert str(file) in error.value.what and error.value.hint and len(str(error.value)) < 700
    assert "weights_only" not in str(error.value)


@pytest.mark.parametrize("name", CONTENTS)
def test_what_is_no_table_of_tensors_is_refused_by_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make, message = CONTENTS[name]
    torch.save(make(), tmp_path / "a.pt")
    refused(tmp_path / "a.pt", message)
    assert not (tmp_path / "ran").exists()


def test_one_storage_is_not_a_hundred_tensors(tmp_path: Path) -> None:
    shared = torch.ones(10_000)
    torch.save({"a": shared, "b": shared}, tmp_path / "a.pt")
    assert tensors(tmp_path / "a.pt").keys() == {"a", "b"}
    torch.save({str(i): shared for i in range(100)}, tmp_path / "b.pt")
    refused(tmp_path / "b.pt", "its tensors stand for 4,000,000: they share storages")


@pytest.mark.parametrize("zipped", [True, False])
def test_tables_of_tensors_are_read_whatever_else_they_hold(zipped: bool, tmp_path: Path) -> None:
    content = {
        "state": {k: nn.Parameter(v) for k, v in STATE.items()},
        "tied": STATE["weight"][:2],
        "turned": STATE["weight"].t(),
        "epoch": 3,
        "groups": [{"lr": 0.1, "params": [0, 1]}],
        "notes": {("a", 1): "x"},
        7: torch.ones((), dtype=torch.bfloat16),
    }
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    found = tensors(tmp_path / "a.pt")
    assert found.keys() == {"state.weight", "state.bias", "tied", "turned", "7"}
    assert torch.equal(found["state.weight"], STATE["weight"])
    assert torch.equal(found["turned"], STATE["weight"].t())


def test_globals_that_the_user_has_called_safe_are_read(tmp_path: Path) -> None:
    torch.save({**STATE, "args": argparse.Namespace(a=1)}, tmp_path / "a.pt")
    with torch.serialization.safe_globals([argparse.Namespace]):
        assert tensors(tmp_path / "a.pt").keys() == STATE.keys()


# Pickles step by step, as no program writes them; protocol 2, as torch's.


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    digits = value.to_bytes(value.bit_length() // 8 + 1, "little")
    return b"\x8a" + bytes([len(digits)]) + digits


def several(*values: bytes) -> bytes:
    return b"(" + b"".join(values) + b"t"


def tensor(
    shape: list[int], stride: list[int], offset: int = 0, numel: int = 12, key: str = "0"
) -> bytes:
    """A tensor of a storage of float32, as torch writes it."""
    storage = several(text("storage"), b"ctorch\nFloatStorage\n", text(key), text("cpu"))
    storage = storage[:-1] + number(numel) + b"tQ"
    sizes = (several(*map(number, shape)), several(*map(number, stride)))
    rest = several(storage, number(offset), *sizes, b"\x89", b"ccollections\nOrderedDict\n)R")
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + rest + b"R"


def archive(file: Path, pickled: bytes, kind: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(file, "w", kind) as made:
        made.writestr("a/data.pkl", pickled)
        made.writestr("a/byteorder", "little")
        made.writestr("a/version", "3\n")
        made.writestr("a/data/0", bytes(48))
    return file


def weight(made: bytes) -> bytes:
    return b"\x80\x02}(" + text("weight") + made + b"u."


def aliases(depth: int) -> bytes:
    """Tables each of which holds the next one twice."""
    made = b"\x80\x02}" + text("x") + tensor([4], [1]) + b"sq\x00"
    for i in range(1, depth):
        below = b"h" + bytes([i - 1])
        made += b"}(" + text("a") + below + text("b") + below + b"uq" + bytes([i])
    return made + b"."


STEPS: dict[str, tuple[bytes, str]] = {
    "an offset beyond": (weight(tensor([3, 4], [4, 1], 10**6)), "reaches beyond its storage"),
    "an offset before": (weight(tensor([3, 4], [4, 1], -1)), "invalid storage offset"),
    "strides beyond": (weight(tensor([3, 4], [400, 1])), "reaches beyond its storage"),
    "negative strides": (weight(tensor([3, 4], [-4, 1])), "read as data alone"),
    "a negative shape": (weight(tensor([-3, 4], [4, 1])), "read as data alone"),
    "a shape without end": (weight(tensor([10**9] * 2, [0, 0])), "a view of 4,000,000,000,000,"),
    "a shape of 40 GB": (weight(tensor([10**10], [0])), "a view of 40,000,000,000 bytes"),
    "many axes": (weight(tensor([1] * 300, [1] * 300)), "a tensor of 300 axes"),
    "a storage of 4 TB": (weight(tensor([3, 4], [4, 1], numel=10**12)), "a storage is to have"),
    "a storage with others": (weight(tensor([3, 4], [4, 1], numel=20)), "to have 80 bytes, and no"),
    "a negative storage": (weight(tensor([3, 4], [4, 1], numel=-4)), "a storage is to have"),
    "a storage that is missing": (weight(tensor([3, 4], [4, 1], key="7")), "read as data alone"),
    "a path for a storage": (weight(tensor([3, 4], [4, 1], key="../x")), "read as data alone"),
    "values from nowhere": (
        weight(b"ctorch\nTensor\n" + several(number(3), number(4)) + b"R"),
        "a tensor whose values are not in the file",
    ),
    "3 GB of zeros": (
        weight(b"c__builtin__\nbytearray\n" + several(number(3 * 10**9)) + b"R"),
        "__builtin__.bytearray at weight",
    ),
    "tables in tables": (
        b"\x80\x02" + b"}X\x01\x00\x00\x00a" * 100_000 + b"N" + b"s" * 100_000 + b".",
        "nested deeper than 32",
    ),
    "tables that hold each other": (aliases(60), "nested deeper than 32"),
    "a million aliases": (aliases(25), "holds 50,001 tensors"),
    "a table in itself": (b"\x80\x02}q\x00" + text("a") + b"h\x00s.", "nested deeper than 32"),
    "many steps": (b"\x80\x02(" + b"N" * MOST_STEPS + b"l.", "takes more than 2,000,000 steps"),
    "many bytes": (b"\x80\x02" + b"N" * MOST_BYTES, "at most 16,777,216 are read"),
    "4 GB of text": (b"\x80\x02X" + struct.pack("<I", 2**32 - 1) + b"a.", "cannot be followed"),
    "a later protocol": (b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"}.", "read as data alone"),
    "a global of the stack": (b"\x80\x04\x8c\x01a\x8c\x01b\x93.", "protocol that torch does not"),
    "half a pickle": (weight(tensor([3, 4], [4, 1]))[:-9], "cannot be followed"),
    "no pickle": (b"hello", "cannot be followed"),
}


@pytest.mark.parametrize("name", STEPS)
def test_steps_that_no_program_writes_are_refused(name: str, tmp_path: Path) -> None:
    pickled, message = STEPS[name]
    refused(archive(tmp_path / "a.pt", pickled), message)


def test_steps_that_torch_writes_are_read(tmp_path: Path) -> None:
    file = archive(tmp_path / "a.pt", weight(tensor([3, 4], [4, 1])))
    assert tensors(file)["weight"].tolist() == torch.zeros(3, 4).tolist()


def test_zips_are_read_as_torch_writes_them_and_not_otherwise(tmp_path: Path) -> None:
    file, good = tmp_path / "a.pt", weight(tensor([3, 4], [4, 1]))
    refused(archive(file, good, zipfile.ZIP_DEFLATED), "is compressed.*a/data.pkl")
    refused(archive(file, b"\x80\x02(" + b"N" * 10**8, zipfile.ZIP_DEFLATED), "is compressed")
    whole = archive(file, good).read_bytes()
    declared = struct.pack("<II", 48, 48), struct.pack("<II", 10**9, 10**9)
    file.write_bytes(declared[1].join(whole.rsplit(declared[0], 1)))
    refused(file, "its records have more bytes than the file")
    file.write_bytes(whole[:-30])
    refused(file, "no directory, as where a download was cut off")
    file.write_bytes(whole + bytes(5) + whole[-22:])
    refused(file, "the directory of its zip is not at its stated offset")
    file.write_bytes(b"PK\x03\x04" + bytes(1000))
    refused(file, "its zip has no directory")
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("a/b", "c")
    refused(file, "0 records data.pkl")
    with zipfile.ZipFile(file, "a") as made:
        made.writestr("a/b", "d")
    refused(file, "holds a record twice")
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("a/constants.pkl", "")
    refused(file, "a program in TorchScript")


def before_1_6(pickled: bytes, numel: int) -> bytes:
    """A checkpoint in the format before torch 1.6, with one storage."""
    marks = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True})
    made = b"".join(pickle.dumps(mark, 2) for mark in marks) + pickled
    return made + pickle.dumps(["0"], 2) + struct.pack("<q", numel) + bytes(48)


def test_storages_of_the_old_format_are_not_believed(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    for numel in (10**14, 5 * 10**9):
        made = tensor([3, 4], [4, 1], numel=numel).replace(b"tQ", b"NtQ")
        file.write_bytes(before_1_6(weight(made), numel))
        refused(file, "read as data alone")
    file.write_bytes(b"\x80\x02c__builtin__\nbytearray\n" + several(number(3 * 10**9)) + b"R.")
    refused(file, "__builtin__.bytearray")
    file.write_bytes(pickle.dumps(Runs(), 2))
    refused(file, "posix.system")
    file.write_bytes(bytes(range(256)))
    refused(file, "cannot be followed")


def test_pickles_and_safetensors_give_the_same(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "a.pt")
    model = nn.Linear(4, 3, device="meta")
    assert weights.load(model, tmp_path / "a.pt") == "wamkit"
    state: Mapping[str, Tensor] = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in STATE.items())
