"""Shards and their index: what does not belong together is refused, however much is declared."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from wamkit import WamkitError
from wamkit.checkpoints import safetensors as weights
from wamkit.checkpoints.files import find

INDEX = "model.safetensors.index.json"
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
WEIGHT, BIAS = {"weight": torch.ones(3, 4)}, {"bias": torch.ones(3)}
MAP = {"weight": ONE, "bias": TWO}


def write(
    folder: Path,
    table: Mapping[str, Any] | str = MAP,
    one: Mapping[str, Tensor] = WEIGHT,
    two: Mapping[str, Tensor] = BIAS,
) -> None:
    save_file(dict(one), folder / ONE)
    save_file(dict(two), folder / TWO)
    text = table if isinstance(table, str) else json.dumps({"metadata": {}, "weight_map": table})
    (folder / INDEX).write_text(text)


def test_an_index_and_its_shards_are_read(tmp_path: Path) -> None:
    write(tmp_path)
    for place in (tmp_path, tmp_path / INDEX, tmp_path / ONE):
        assert [file.name for file in find(place)] == [ONE, TWO]
        assert weights.load(nn.Linear(4, 3, device="meta"), place) == "wamkit"


EXTRA = {"scale": torch.ones(1)}
DAMAGED: dict[str, tuple[Callable[[Path], None], str]] = {
    "a tensor in the index only": (
        lambda f: write(f, {**MAP, "scale": ONE}),
        "names 1 tensors that their shards do not hold: scale",
    ),
    "a tensor in a shard only": (
        lambda f: write(f, one={**WEIGHT, **EXTRA}),
        f"does not name 1 tensors where its shards hold them: scale in {ONE}",
    ),
    "a tensor in two shards": (
        lambda f: write(f, one={**WEIGHT, **BIAS}),
        f"does not name 1 tensors where its shards hold them: bias in {ONE}",
    ),
    "a tensor in the other shard": (
        lambda f: write(f, {"weight": TWO, "bias": TWO}),
        "names 1 tensors that their shards do not hold: weight",
    ),
    "a shard that is missing": (
        lambda f: write(f, {**MAP, "x": "c.safetensors"}),
        "lacks 1 of 3 shards: c.safetensors",
    ),
    "thousands that are missing": (
        lambda f: write(f, {f"x.{i}": f"{i}.safetensors" for i in range(20_000)}),
        "lacks 20000 of 20000 shards: 0.safetensors, .*, ...",
    ),
    "a shard under two texts": (
        lambda f: write(f, {"weight": f"./{ONE}", "bias": TWO}),
        "which has the part '.'",
    ),
    "a shard under two names": (
        lambda f: (
            (f / "x.safetensors").symlink_to(ONE),
            write(f, {**MAP, "bias": "x.safetensors"}),
        )[1],
        f"names one file twice, as {ONE} and as x.safetensors",
    ),
    "a path that leads out": (lambda f: write(f, {**MAP, "x": "../x.safetensors"}), "names the fi"),
    "an absolute path": (lambda f: write(f, {**MAP, "x": "/x.safetensors"}), "an absolute path"),
    "an index in an index": (
        lambda f: write(f, {**MAP, "x": INDEX}),
        f"names shards that are no files of weights: {INDEX}",
    ),
    "a folder": (lambda f: write(f, {**MAP, "x": "."}), "which has the part '.'"),
    "a number": (lambda f: write(f, {**MAP, "x": 1}), "of tensor x it says a int"),
    "a list": (lambda f: write(f, {**MAP, "x": [ONE]}), "of tensor x it says a list"),
    "an empty table": (lambda f: write(f, {}), "has no table weight_map"),
    "no table": (lambda f: write(f, "[]"), "has no table weight_map"),
    "no JSON": (lambda f: write(f, "{"), "line 1, column 2"),
    "a key twice": (lambda f: write(f, '{"weight_map":{"a":"x","a":"y"}}'), "'a' stands twice"),
    "endless nesting": (lambda f: write(f, "[" * 100_000 + "]" * 100_000), "nested deeper"),
    "NaN": (lambda f: write(f, '{"total":NaN,"weight_map":{}}'), "it holds NaN"),
    "a name that colors": (lambda f: write(f, {"a\x1b": ONE}), r"cannot be printed: 'a\\x1b"),
    "a long name": (lambda f: write(f, {"a" * 10**6: ONE}), "1,000,000 characters"),
    "a long shard": (lambda f: write(f, {"a": "a" * 10**6}), "a part of 1,000,000 bytes"),
    "half a million tensors": (
        lambda f: write(f, {f"a.{i}": ONE for i in range(60_000)}),
        r"holds 60,000 tensors \(a\.0, a\.1, a\.2",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_index_is_refused_with_a_message(name: str, tmp_path: Path) -> None:
    make, message = DAMAGED[name]
    make(tmp_path)
    with pytest.raises(WamkitError, match=message) as error:
        weights.load(nn.Linear(4, 3, device="meta"), tmp_path)
    assert str(tmp_path) in error.value.what and error.value.hint and len(str(error.value)) < 900


def test_an_index_is_not_read_where_it_is_larger_than_any(tmp_path: Path) -> None:
    write(tmp_path)
    with (tmp_path / INDEX).open("r+b") as stream:
        stream.truncate(500_000_000)
    with pytest.raises(WamkitError, match="has 500,000,000 bytes, at most"):
        find(tmp_path)


NUMBERED: dict[str, tuple[tuple[str, ...], str]] = {
    "a thousand million": (("model-00001-of-999999999.safetensors",), "1 shards of 999999999"),
    "more digits than a number has": (
        (f"model-00001-of-{'9' * 200}.safetensors",),
        "at most 10,000 are read",
    ),
    "one beyond the last": ((ONE, TWO, "model-00003-of-00002.safetensors"), "beyond the last of 2"),
    "one twice": ((ONE, TWO, "model-1-of-00002.safetensors"), "holds a shard twice"),
}


@pytest.mark.parametrize("name", NUMBERED)
def test_numbers_in_file_names_are_verified(name: str, tmp_path: Path) -> None:
    names, message = NUMBERED[name]
    for file in names:
        save_file({file: torch.ones(1)}, tmp_path / file)
    with pytest.raises(WamkitError, match=message) as error:
        find(tmp_path)
    assert error.value.hint


def test_a_set_in_two_formats_is_read_in_one(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / INDEX).unlink()
    for file in (ONE, TWO):
        torch.save({}, (tmp_path / file).with_suffix(".bin"))
    assert [file.name for file in find(tmp_path)] == [ONE, TWO]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without pipes among its files")
@pytest.mark.parametrize("name", ["model.safetensors", INDEX, "a.bin"])
@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_folders_and_pipes_are_no_weights(name: str, kind: str, tmp_path: Path) -> None:
    place = tmp_path / name
    place.mkdir() if kind == "folder" else os.mkfifo(place)
    with pytest.raises(WamkitError, match="no safetensors file in"):
        find(tmp_path)
