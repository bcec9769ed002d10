"""A name that a file holds never leads out of its folder, and a linked file stays readable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from wamkit.errors import WamkitError
from wamkit.files.locate import weight_files
from wamkit.files.paths import LONGEST, LONGEST_PART, fault_of_name, resolve_inside
from wamkit.files.shards import MOST_SHARDS

REFUSED: dict[str, Any] = {
    "..": "the part '..'",
    "../x": "the part '..'",
    "a/../../x": "the part '..'",
    "a/..": "the part '..'",
    "./x": "the part '.'",
    "/etc/passwd": "absolute",
    "//host/x": "absolute",
    "C:x": "absolute",
    "c:/x": "absolute",
    r"C:\x": "backslash",
    r"..\x": "backslash",
    r"\\host\x": "backslash",
    "a\0b": r"U\+0000",
    "a\nb": r"U\+000A",
    "\x1b[2J": r"U\+001B",
    "a\x85b": r"U\+0085",
    "a\u2028b": r"U\+2028",
    "a\ud800b": r"U\+D800",
    "": "is empty",
    "a//b": "empty part",
    "a/": "empty part",
    "x" * (LONGEST_PART + 1): "a part of 256 bytes",
    "é" * 128: "a part of 256 bytes",
    "/".join(["x" * 200] * 6): f"at most {LONGEST:,}",
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_a_name_that_leads_out_of_a_folder_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(WamkitError, match=REFUSED[name]) as problem:
        resolve_inside(tmp_path, name, "index.json")
    assert problem.value.what.startswith("index.json names the file ")
    assert "\0" not in str(problem.value) and "\x1b" not in str(problem.value)


@pytest.mark.parametrize("name", [None, 7, 1.5, True, b"x", ["x"], {"x": 1}])
def test_a_name_that_is_no_text_is_refused(name: Any) -> None:
    assert "expected text" in (fault_of_name(name) or "")


@pytest.mark.parametrize("name", ["a", "a/b.bin", "..a/b..", "a b", "日本/é", "x" * LONGEST_PART])
def test_other_names_are_below_the_folder(name: str, tmp_path: Path) -> None:
    assert resolve_inside(tmp_path, name, "index.json") == tmp_path / name


def _index(folder: Path, suffix: str, shard: Any) -> None:
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    table = {"weight_map": {"w": shard}}
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps(table))


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", r"..\secret", "a\0", "C:x", ""])
def test_an_index_of_shards_names_no_file_outside(suffix: str, name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"w": torch.zeros(1)}, tmp_path / f"secret{suffix}")
    _index(folder, suffix, name and f"{name}{suffix}")
    with pytest.raises(WamkitError, match="names the file"):
        weight_files(folder)


def test_shards_may_be_links_as_in_the_cache_of_the_hub(tmp_path: Path) -> None:
    blobs, folder = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    folder.mkdir(parents=True)
    save_file({"w": torch.zeros(1)}, blobs / "0123")
    (folder / "model-00001-of-00001.safetensors").symlink_to("../../blobs/0123")
    _index(folder, ".safetensors", "model-00001-of-00001.safetensors")
    assert weight_files(folder) == [folder / "model-00001-of-00001.safetensors"]


@pytest.mark.parametrize("count", [MOST_SHARDS + 1, 10**9, 10**30])
def test_a_set_of_more_shards_than_can_be_is_refused_at_once(count: int, tmp_path: Path) -> None:
    save_file({"w": torch.zeros(1)}, tmp_path / f"model-00001-of-{count}.safetensors")
    with pytest.raises(WamkitError, match=f"shards of {count}"):
        weight_files(tmp_path)
