"""What lies in place of a file is called what it is, wherever files are read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wamkit import WamkitError
from wamkit.checkpoints.files import find, headers
from wamkit.config.spec import parse, read
from wamkit.data import LeRobotFolder
from wamkit.data.latents import INDEX, StoredLatents
from wamkit.data.validation import check
from wamkit.files.placeholders import placeholder_error
from wamkit.policy import precomputed_text as stored
from wamkit.policy.actions import read_statistics
from wamkit.policy.observation import read_image
from wamkit.testing.dataset import record
from wamkit.train.config import read_settings_file as read_settings

SIZE = 9_876_543_210
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{64 * 'a'}\nsize {SIZE}\n"
TOY = Path(__file__).parent.parent / "examples" / "toy.toml"


def _headers(file: Path) -> Any:
    return headers(find(file))


READERS: dict[str, Callable[[Path], Any]] = {
    "model.safetensors": _headers,
    "checkpoint.pt": _headers,
    "checkpoint.pth": _headers,
    "image.png": read_image,
    "photo.jpeg": read_image,
    "spec.toml": read,
    "spec.yaml": read,
    "statistics.json": read_statistics,
    "settings.yaml": read_settings,
    "embeddings.safetensors": lambda file: stored.read(file, 8),
    "model.safetensors.index.json": lambda file: find(file.parent),
    INDEX: lambda file: StoredLatents(file.parent),
}


@pytest.mark.parametrize("name", READERS)
def test_a_pointer_of_git_lfs_is_recognized_by_every_reader(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(WamkitError, match="is a pointer of git-lfs") as error:
        READERS[name](tmp_path / name)
    assert name in error.value.what and f"{SIZE:,} bytes" in error.value.what
    assert "`git lfs pull`" in error.value.what


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html>\n<html><body>Log in</body></html>", "is a web page"),
        (b"\n <html lang='en'>", "is a web page"),
        (b'{"error":"Access to model x/y is restricted."}', "refused download: {.error"),
        (b"Entry not found", "refused download: Entry not found"),
        (b"Invalid username or password.", "refused download"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "refused download"),
        (b"# xet version 0\nfilesize = 1234567\nhash = 'ab'\n", "git-xet.* 1,234,567 bytes"),
        (b"version https://hawser.github.com/spec/v1\nsize 5\n", "pointer of git-lfs"),
    ],
)
@pytest.mark.parametrize("name", ["model.safetensors", "image.png"])
def test_what_a_failed_download_left_is_called_what_it_is(
    content: bytes, message: str, name: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WamkitError, match=message):
        READERS[name](tmp_path / name)


def test_an_unfinished_download_is_known_by_its_ending(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors.incomplete"
    file.write_bytes(b"1234")
    found = placeholder_error(file)
    assert found is not None and "did not finish (4 bytes so far)" in found.what


def test_files_that_are_themselves_are_let_through(tmp_path: Path) -> None:
    assert placeholder_error(TOY) is None
    assert placeholder_error(tmp_path / "none") is None
    (tmp_path / "a.json").write_text('{"d_model": 32, "error": 0}')
    assert placeholder_error(tmp_path / "a.json") is None


@pytest.mark.parametrize(
    "pattern", ["data/*/*.parquet", "meta/episodes/*/*.parquet", "meta/tasks.parquet"]
)
def test_a_data_set_without_its_parquet_files_reports_it(pattern: str, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    record(tmp_path / "data", parse(read(TOY)), episodes=1, frames=12, size=(16, 16))
    for file in (tmp_path / "data").glob(pattern):
        file.write_text(POINTER)
    found = [str(finding) for finding in check(tmp_path / "data")]
    assert any("pointer of git-lfs" in line and "git lfs pull" in line for line in found)


def test_a_data_set_without_its_metadata_or_films_reports_it(tmp_path: Path) -> None:
    pytest.importorskip("av")
    folder = tmp_path / "data"
    record(folder, parse(read(TOY)), episodes=1, frames=12, size=(32, 32), image_format="video")
    shutil.copytree(folder, tmp_path / "other")
    next(folder.rglob("*.mp4")).write_text(POINTER)
    assert any("pointer of git-lfs" in str(finding) for finding in check(folder))
    (tmp_path / "other" / "meta" / "info.json").write_text(POINTER)
    with pytest.raises(WamkitError, match="pointer of git-lfs"):
        LeRobotFolder(tmp_path / "other")
