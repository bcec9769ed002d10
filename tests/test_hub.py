"""`hf:owner/name` stands for a policy, a data set or weights; what is fetched is said before."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from wamkit import build
from wamkit.build import resolve
from wamkit.data.example import record
from wamkit.errors import Note, WamkitError
from wamkit.hub import local

EXAMPLES = Path(__file__).parent.parent / "examples"
TOY, PHOTO = EXAMPLES / "toy.toml", EXAMPLES / "images/coffee.jpg"
hub = pytest.importorskip("huggingface_hub")
errors = pytest.importorskip("huggingface_hub.errors")
constants = pytest.importorskip("huggingface_hub.constants")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose subfolders owner/name are what the hub has."""
    home = tmp_path / "remote"

    def repo_info(self: Any, name: str, **options: Any) -> Any:
        assert options["timeout"] <= 10 and options["files_metadata"]
        if not (home / name).is_dir():
            raise errors.HFValidationError(f"no repository {name}")
        files = [p for p in (home / name).rglob("*") if p.is_file()]
        return SimpleNamespace(
            sha="0" * 40,
            card_data={"license": "cc-by-4.0"},
            siblings=[
                SimpleNamespace(rfilename=str(p.relative_to(home / name)), size=p.stat().st_size)
                for p in files
            ],
        )

    def snapshot_download(name: str, local_files_only: bool = False, **options: Any) -> str:
        if local_files_only:
            raise errors.LocalEntryNotFoundError("nothing is here")
        assert options["revision"] == "0" * 40
        return str(home / name)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub.HfApi, "repo_info", repo_info)
    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *_, **__: None)
    return home


def test_a_policy_and_its_weights_are_named_on_the_hub(remote: Path, wamkit: Run) -> None:
    build(TOY).save(remote / "me/toy")
    look = ("--image", PHOTO, "--prompt", "pick up the cup")
    code, _, err = wamkit("act", "hf:me/toy@main", *look)
    assert code == 0 and "fetching hf:me/toy@main: " in err and "license: cc-by-4.0" in err
    shutil.copytree(remote / "me/toy", remote / "me/runs/best")
    assert wamkit("act", "hf:me/runs/best", *look)[0] == 0
    assert wamkit("plan", "hf:me/toy")[0] == 0
    code, out, _ = wamkit("weights", "inspect", "hf:me/runs/best/backbone.safetensors")
    assert code == 0 and out


def test_a_data_set_is_named_on_the_hub(remote: Path, wamkit: Run) -> None:
    record(remote / "me/cups", resolve(TOY), episodes=2, frames=12, pictures="image", size=(48, 64))
    code, out, err = wamkit("data", "check", "hf:me/cups")
    assert code == 0 and "fetching hf:me/cups" in err, out + err
    code, out, err = wamkit("data", "check", "hf:me/nothing")
    assert code == 2 and "cannot be fetched, and no copy is here" in err


@pytest.mark.parametrize("path", ["hf:one", "hf:", "hf:a/b c"])
def test_a_name_that_is_none_is_refused(path: str) -> None:
    with pytest.raises(WamkitError, match="names no repository of the hub"):
        local(path)


def test_offline_is_said_at_once(remote: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WamkitError, match="HF_HUB_OFFLINE is set"):
        local("hf:me/toy")


def test_without_the_client_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WamkitError, match="huggingface_hub is not installed"):
        local("hf:me/toy")


def test_what_is_missing_is_told_with_its_size(remote: Path) -> None:
    (remote / "me/big").mkdir(parents=True)
    (remote / "me/big/a.safetensors").write_bytes(b"0" * 2_500_000)
    (remote / "me/big/readme.txt").write_bytes(b"0" * 1000)
    with pytest.warns(Note, match=r"1 file, 2\.50 MB, license: cc-by-4\.0"):
        assert local("hf:me/big", files=("*.safetensors",)) == remote / "me/big"
