"""Stored latents are of the clips and of the shapes that the spec needs, or they are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from wamkit.config.spec import parse, read
from wamkit.data import LeRobotFolder, Samples, StoredLatents, precompute
from wamkit.data.latent_files import shape_of
from wamkit.errors import WamkitError
from wamkit.testing.dataset import record

SMALL = Path(__file__).parent / "data" / "small.toml"
SPEC = parse(read(SMALL, ["state.size=2", "cameras.views.0.size=[16, 32]"]))
INDEX = "latents.json"
FILE = "latents-00001-of-00002.safetensors"
HUGE = 10**9
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("data") / "set", SPEC, frames=6)


@pytest.fixture(scope="module")
def made(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("latents") / "store"
    precompute(LeRobotFolder(folder), SPEC, store, shard=6)
    return store


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "store"))


def refused(folder: Path, store: Path, message: str) -> None:
    """Reading refuses the store with a message, and so does going on with it."""
    before = {p: p.read_bytes() for p in store.iterdir()}
    with pytest.raises(WamkitError, match=message) as problem:
        Samples(folder, SPEC, latents=store)
    assert problem.value.hint and len(str(problem.value)) < 1000
    with pytest.raises(WamkitError):
        precompute(LeRobotFolder(folder), SPEC, store, shard=6)
    assert before == {p: p.read_bytes() for p in store.iterdir()}


def test_latents_have_the_shape_that_follows_from_the_spec(folder: Path, made: Path) -> None:
    samples = Samples(folder, SPEC, latents=made)
    assert tuple(samples[0]["latents"].shape) == shape_of(SPEC)


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "shards of 1e9": ({"shards": HUGE}, "shards"),
    "no shards": ({"shards": 0}, "shards"),
    "shards below 0": ({"shards": -1}, "shards"),
    "shards as text": ({"shards": "2"}, "shards"),
    "shards as float": ({"shards": 2.0}, "shards"),
    "more shards than clips": ({"shards": 13}, "13 files of 12 clips"),
    "another number of shards": ({"shards": 3}, "lacks 3 of 3 files"),
    "clips of 1e9": ({"clips": HUGE}, "clips"),
    "another number of clips": ({"clips": 11}, "names 11 clips"),
    "a stride of 0": ({"stride": 0}, "stride"),
    "a stride of 1e30": ({"stride": 10**30}, "stride"),
    "another stride": ({"stride": 2}, "names 12 clips"),
    "other moments": ({"moments": [[0, 1], [1, 5]]}, "names 12 clips"),
    "moments below 0": ({"moments": [[-1, 0], [1, 5]]}, "moments"),
    "one moment": ({"moments": [[0, 0]]}, "moments"),
    "another dtype": ({"dtype": "bfloat16"}, "expected I64 .* and BF16"),
    "a dtype that is none": ({"dtype": "float8"}, "dtype"),
    "weights that are no hash": ({"weights": "x"}, "weights"),
    "settings that are no table": ({"settings": 3}, "settings"),
    "settings that are empty": ({"settings": {}}, "settings.vae"),
    "no episodes": ({"episodes": []}, "episodes"),
    "episodes of another set": ({"episodes": [0, 7]}, "names episode 7"),
    "an episode twice": ({"episodes": [0, 0, 1]}, "ascending order"),
    "an unknown key": ({"extra": 1}, "extra"),
}


@pytest.mark.parametrize("kind", list(CHANGES))
def test_the_index_is_of_its_schema_and_of_the_data(folder: Path, store: Path, kind: str) -> None:
    changes, message = CHANGES[kind]
    about = json.loads((store / INDEX).read_text()) | changes
    (store / INDEX).write_text(json.dumps(about))
    refused(folder, store, message)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "{}", "[" * 10**5, '{"shards": NaN}'])
def test_an_index_that_is_no_table_is_refused(folder: Path, store: Path, text: str) -> None:
    (store / INDEX).write_text(text)
    refused(folder, store, "latents.json")


def test_a_key_that_the_index_lacks_is_named(folder: Path, store: Path) -> None:
    about = json.loads((store / INDEX).read_text())
    for key in about:
        (store / INDEX).write_text(json.dumps({k: v for k, v in about.items() if k != key}))
        refused(folder, store, f"latents.json is damaged: {key}: it is missing")


def latents(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], Tensors]:
    return lambda t: t | {"latents": change(t["latents"]).contiguous()}


def starts(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], Tensors]:
    return lambda t: t | {"starts": change(t["starts"]).contiguous()}


FILES: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "other channels": (latents(lambda z: z[:, :1]), "holds starts .* expected I64"),
    "more channels": (latents(lambda z: torch.cat([z, z], 1)), "expected I64"),
    "fewer frames": (latents(lambda z: z[:, :, :1]), "expected I64"),
    "another height": (latents(lambda z: z[..., :1, :]), "expected I64"),
    "another width": (latents(lambda z: torch.cat([z, z], -1)), "expected I64"),
    "fewer axes": (latents(lambda z: z[..., 0]), "expected I64"),
    "more axes": (latents(lambda z: z[None]), "expected I64"),
    "half precision": (latents(torch.Tensor.half), "latents F16"),
    "bfloat16": (latents(torch.Tensor.bfloat16), "latents BF16"),
    "whole numbers": (latents(lambda z: z.long()), "latents I64"),
    "fewer clips": (latents(lambda z: z[:-1]), "expected I64"),
    "no clip": (lambda t: {k: v[:0].contiguous() for k, v in t.items()}, "expected I64"),
    "fewer clips and starts": (lambda t: {k: v[:-1].contiguous() for k, v in t.items()}, "of 12"),
    "starts of three": (starts(lambda s: torch.cat([s, s[:, :1]], 1)), "expected I64"),
    "starts in floats": (starts(torch.Tensor.double), "starts F64"),
    "other starts": (starts(lambda s: s.flip(0)), "of other moments"),
    "starts beyond the episode": (starts(lambda s: s + HUGE), "of other moments"),
    "starts twice": (starts(lambda s: s * 0), "of other moments"),
    "another tensor": (lambda t: t | {"x": torch.zeros(1)}, "holds latents, starts, x"),
    "no starts": (lambda t: {"latents": t["latents"]}, "holds latents, expected"),
    "no tensor": (lambda t: {}, "holds nothing"),
}


@pytest.mark.parametrize("kind", list(FILES))
def test_a_file_holds_the_clips_and_the_shape_of_the_spec(
    folder: Path, store: Path, kind: str
) -> None:
    change, message = FILES[kind]
    tensors = {name: value.clone() for name, value in load_file(store / FILE).items()}
    save_file(change(tensors), store / FILE)
    refused(folder, store, message)


def test_a_file_of_another_place_or_that_is_damaged_is_refused(folder: Path, store: Path) -> None:
    other = FILE.replace("00001-of", "00000-of")
    whole = (store / FILE).read_bytes()
    shutil.copy(store / other, store / FILE)
    refused(folder, store, "of other moments")
    for data in (b"", whole[:100], b"x" * 1000):
        (store / FILE).write_bytes(data)
        refused(folder, store, FILE)


def test_a_store_without_its_settings_is_named(folder: Path, tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "none"):
        with pytest.raises(WamkitError, match="holds no stored latents"):
            StoredLatents(place)
