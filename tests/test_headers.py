"""Damaged or malicious headers of safetensors files are refused with a message."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from wamkit import WamkitError
from wamkit.checkpoints import safetensors as weights
from wamkit.files.safetensors_header import LONGEST_NAME, MOST_BYTES, MOST_TENSORS, header

Table = dict[str, Any]


def entry(shape: Any, begin: Any, end: Any, dtype: Any = "F32") -> Table:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def model() -> nn.Linear:
    return nn.Linear(4, 3, device="meta")


GOOD = {"weight": entry([3, 4], 0, 48), "bias": entry([3], 48, 60)}


def write(file: Path, table: Any, data: int = 60) -> Path:
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(data))
    return file


def changed(key: str, value: Any, name: str = "weight") -> Table:
    return {**GOOD, name: {**GOOD[name], key: value}}


def test_the_header_that_all_others_are_made_of_is_read(tmp_path: Path) -> None:
    file = write(tmp_path / "a.safetensors", {"__metadata__": {"format": "pt"}, **GOOD})
    assert header(file) == {"weight": ((3, 4), "F32"), "bias": ((3,), "F32")}
    assert weights.load(model(), file) == "wamkit"


OF_WEIGHT = "of tensor weight its header says"
DAMAGED: dict[str, tuple[Any, str]] = {
    "nested lists": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested deeper"),
    "nested tables": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested deeper"),
    "no JSON": (b"{", "its header is garbled"),
    "no UTF-8": (b'{"\xff":1}', "its header is garbled"),
    "NaN": (b'{"a":NaN}', "garbled .it holds NaN"),
    "a list": ([1], "its header is a list"),
    "a name twice": (b'{"a":1,"a":2}', "'a' stands twice"),
    "a key twice": (b'{"a":{"dtype":"F32","dtype":"F32"}}', "'dtype' stands twice"),
    "metadata in a list": ({"__metadata__": ["pt"], **GOOD}, "__metadata__ in its header is no"),
    "metadata of numbers": ({"__metadata__": {"a": 1}, **GOOD}, "__metadata__ in its header is no"),
    "metadata of tables": ({"__metadata__": {"a": {}}, **GOOD}, "__metadata__ in its header is no"),
    "an entry of text": ({"weight": "x"}, f"{OF_WEIGHT} 'x', expected dtype, shape and data_off"),
    "an entry without dtype": ({"weight": {"shape": []}}, rf"{OF_WEIGHT} the keys \['shape'\]"),
    "a key that is not known": (changed("scale", 1), f"{OF_WEIGHT} the keys"),
    "offsets of text": (changed("data_offsets", ["0", "48"]), f"{OF_WEIGHT} data_offsets"),
    "offsets of fractions": (changed("data_offsets", [0.0, 48.0]), f"{OF_WEIGHT} data_offsets"),
    "offsets of booleans": (changed("data_offsets", [False, 48]), f"{OF_WEIGHT} data_offsets"),
    "negative offsets": (changed("data_offsets", [-48, 0]), f"{OF_WEIGHT} data_offsets"),
    "three offsets": (changed("data_offsets", [0, 1, 48]), f"{OF_WEIGHT} data_offsets"),
    "no offsets": (changed("data_offsets", None), f"{OF_WEIGHT} data_offsets = None"),
    "endless offsets": (changed("data_offsets", [0, 10**30]), f"{OF_WEIGHT} data_offsets"),
    "turned offsets": (changed("data_offsets", [48, 0]), "an end before the beginning"),
    "offsets beyond the file": (changed("data_offsets", [10**9, 10**9 + 48]), "is truncated"),
    "overlapping tensors": (
        {**changed("data_offsets", [40, 52], "bias"), "rest": entry([2], 52, 60)},
        "bias overlaps weight",
    ),
    "a gap": ({"bias": entry([3], 48, 60)}, "bias leaves a gap behind the header"),
    "a shape of text": (changed("shape", "34"), f"{OF_WEIGHT} shape = '34'"),
    "a shape of texts": (changed("shape", ["3", "4"]), f"{OF_WEIGHT} shape"),
    "a shape of fractions": (changed("shape", [3.0, 4.0]), f"{OF_WEIGHT} shape"),
    "a shape of booleans": (changed("shape", [True, 12]), f"{OF_WEIGHT} shape"),
    "a negative shape": (changed("shape", [-3, -4]), f"{OF_WEIGHT} shape"),
    "a shape in a shape": (changed("shape", [[3, 4]]), f"{OF_WEIGHT} shape"),
    "a shape that overflows": (changed("shape", [2**32] * 3), "more than any tensor has"),
    "one that overflows and is 0": (changed("shape", [2**62, 2**62, 0]), "more than any tensor"),
    "many axes": (changed("shape", [1] * 300_000), "a list of 300,000, more than any tensor"),
    "a large shape": (changed("shape", [10**9]), r"48 bytes .* for 4,000,000,000, which F32"),
    "another dtype": (changed("dtype", "F64"), r"48 bytes .* for 96, which F64 \[3, 4\] takes"),
    "a dtype of numbers": (changed("dtype", 7), f"{OF_WEIGHT} dtype = 7"),
    "a dtype that colors": (changed("dtype", "\x1b[31m"), rf"{OF_WEIGHT} dtype = '\\x1b"),
    "no name": ({"": entry([3, 4], 0, 48)}, "holds a tensor without a name"),
    "a name that colors": ({"a\x1b[31m": entry([15], 0, 60)}, r"cannot be printed: 'a\\x1b"),
    "a name of two lines": ({"a\nb": entry([15], 0, 60)}, r"cannot be printed: 'a\\nb"),
    "half a character": (b'{"a\\ud800":{}}', r"cannot be printed: 'a\\ud800"),
    "text that turns around": ({"a\u202e": entry([15], 0, 60)}, r"cannot be printed: 'a\\u202e"),
    "a long name": ({"a" * 10**6: entry([15], 0, 60)}, f"1,000,000 characters .* {LONGEST_NAME}"),
    "many lists": (b'{"a":[' + b"[]," * 1_100_000 + b"1]}", "1,100,00. lists and tables"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_header_is_refused_with_a_message(name: str, tmp_path: Path) -> None:
    table, message = DAMAGED[name]
    file = write(tmp_path / "a.safetensors", table)
    with pytest.raises(WamkitError, match=message) as error:
        weights.load(model(), file)
    assert str(file) in error.value.what and error.value.hint and len(str(error.value)) < 600


def test_the_length_of_a_header_is_compared_before_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    for length in (61, 10**15, 2**64 - 1):
        file.write_bytes(struct.pack("<Q", length) + bytes(60))
        with pytest.raises(WamkitError, match="its header does not fit into it"):
            header(file)
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", MOST_BYTES + 1))
        stream.truncate(MOST_BYTES + 100)
    with pytest.raises(WamkitError, match="a header of 16,777,217 bytes"):
        header(file)


@pytest.mark.parametrize(
    ("size", "message"), [(59, "truncated.*1 bytes missing"), (61, "too long")]
)
def test_a_file_of_another_size_is_refused(size: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(WamkitError, match=message):
        header(write(tmp_path / "a.safetensors", GOOD, size))


def test_more_tensors_than_any_model_has_are_refused(tmp_path: Path) -> None:
    table = {f"blocks.{i}": entry([0], 0, 0) for i in range(MOST_TENSORS + 1)}
    with pytest.raises(WamkitError, match=r"holds 50,001 tensors \(blocks\.0, blocks\.1"):
        header(write(tmp_path / "a.safetensors", table, 0))
    del table["blocks.0"]
    with pytest.raises(WamkitError, match="holds 50,000 tensors, and this model has 2"):
        weights.load(model(), write(tmp_path / "a.safetensors", table, 0))


@pytest.mark.parametrize("dtype", ["I32", "U32"])
def test_integers_in_place_of_floats_are_refused(dtype: str, tmp_path: Path) -> None:
    file = write(tmp_path / "a.safetensors", changed("dtype", dtype))
    with pytest.raises(WamkitError, match=f"1 of another kind of dtype.*: weight {dtype} for F32"):
        weights.load(model(), file)
