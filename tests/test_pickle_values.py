"""Pickles are read as data: tables, arrays and tensors come back, and nothing is ever run."""

from __future__ import annotations

import collections
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wamkit.checkpoints.pickle_values import embeddings, load_values
from wamkit.errors import WamkitError


def pickled(folder: Path, value: Any, protocol: int = 4) -> Path:
    file = folder / "values.pkl"
    file.write_bytes(pickle.dumps(value, protocol=protocol))
    return file


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_and_plain_values_come_back(tmp_path: Path, protocol: int) -> None:
    given = {
        "rows": np.arange(6.0).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
        "big_endian": np.arange(3, dtype=">f4"),
        "number": np.float32(0.5),
        "list": [1, "text", None, True, (2.5, b"raw")],
        "ordered": collections.OrderedDict(a=np.ones(2)),
    }
    found = load_values(pickled(tmp_path, given, protocol))
    for name in ("rows", "columns", "big_endian"):
        assert np.array_equal(found[name], given[name]), name
    assert found["number"] == 0.5 and found["list"] == given["list"]
    assert found["ordered"]["a"].tolist() == [1, 1]


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_tensors_come_back_with_their_dtype_and_strides(tmp_path: Path, protocol: int) -> None:
    given = {
        "put it down": torch.randn(1, 5, 4).bfloat16(),
        "transposed": torch.randn(3, 4).T[None],
        "a part of a storage": torch.arange(20.0).reshape(5, 4)[1:3][None],
    }
    found = embeddings(pickled(tmp_path, given, protocol))
    assert list(found) == list(given)
    for name, tensor in given.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)


def test_a_pickled_numpy_file_gives_its_object(tmp_path: Path) -> None:
    file = tmp_path / "statistics.npy"
    np.save(file, {"min": np.ones(2)}, allow_pickle=True)  # type: ignore[arg-type]
    assert load_values(file)["min"].tolist() == [1, 1]
    np.save(file, np.arange(3))
    assert load_values(file).tolist() == [0, 1, 2]


class Harmful:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_what_a_pickle_asks_for_is_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    file = pickled(tmp_path, {"a": np.ones(1), "b": Harmful(mark)})
    with pytest.raises(WamkitError, match=r"more than plain values.*mkdir"):
        load_values(file)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["eval", "exec", "getattr", "__import__"])
def test_functions_of_python_are_records_too(tmp_path: Path, name: str) -> None:
    content = f"cbuiltins\n{name}\n(S'1'\ntR.".encode()
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(WamkitError, match=f"builtins {name}"):
        load_values(tmp_path / "a.pkl")


def test_damaged_pickles_are_refused(tmp_path: Path) -> None:
    whole = pickle.dumps({"a": torch.arange(50.0)[None, None]})
    file = tmp_path / "values.pkl"
    for content in (whole[:-30], whole.replace(b"FloatStorage", b"FloatStorag2"), b"", b"text"):
        file.write_bytes(content)
        with pytest.raises(WamkitError):
            load_values(file)


def test_a_tensor_stays_inside_its_storage(tmp_path: Path) -> None:
    tensor = torch.arange(4.0).as_strided((3, 4), (0, 1))
    with pytest.raises(WamkitError, match="repeats the values"):
        load_values(pickled(tmp_path, {"a": tensor}))


def test_embeddings_are_a_table_of_text(tmp_path: Path) -> None:
    for wrong in ([1], {}, {"a": 1}, {3: torch.ones(1, 2, 2)}, {"a": torch.ones(2, 2, 2)}):
        with pytest.raises(WamkitError):
            embeddings(pickled(tmp_path, wrong))


def test_references_that_grow_without_end_are_counted(tmp_path: Path) -> None:
    grown: Any = ["x"]
    for _ in range(30):
        grown = [grown, grown]
    with pytest.raises(WamkitError, match=r"nested deeper|more than"):
        load_values(pickled(tmp_path, grown))
