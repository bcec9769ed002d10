"""What was lost between two renames is found; what is more than a policy is not replaced by one."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from wamkit import WamkitError
from wamkit.cli import app
from wamkit.config import runs
from wamkit.config.spec import parse, read
from wamkit.data import Feature, LeRobotFolder, Writer
from wamkit.data.encoding import precompute
from wamkit.data.latents import StoredLatents
from wamkit.policy.policy import Policy
from wamkit.testing.training import recordings, short_run

SPEC = Path(__file__).parent / "data" / "small.toml"
OLDER = (".{}.old.part", ".{}.old.x1y2z3_9/old", ".{}.00000000-1-1-0.old")
"""Where versions of wamkit put a folder while they replaced it; the last one on another host."""


def small(seed: int = 0) -> Policy:
    return Policy.from_spec(parse(read(SPEC, [f"seed={seed}"])))


def wamkit(*args: object) -> None:
    with pytest.raises(SystemExit) as end:
        app([str(word) for word in args], prog_name="wamkit")
    assert not end.value.code


def lose(folder: Path, form: str) -> None:
    """Leave `folder` where a kill between two renames leaves it."""
    aside = folder.parent / form.format(folder.name)
    aside.parent.mkdir(exist_ok=True)
    os.rename(folder, aside)
    for path in (aside, *aside.rglob("*")):
        os.utime(path, (0, 0))


@pytest.mark.parametrize("form", OLDER)
def test_a_policy_that_lost_its_place_is_loaded(tmp_path: Path, form: str) -> None:
    saved = small().save(tmp_path / "policy")
    lose(saved, form)
    found = Policy.load(tmp_path / "policy")
    assert torch.equal(next(found.parameters()), next(small().parameters()))
    assert saved.is_dir()


def test_where_nothing_can_be_renamed_it_is_read_where_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, to: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    small().save(tmp_path / "policy")
    recordings(tmp_path / "data", small().spec)
    for name in ("policy", "data"):
        lose(tmp_path / name, OLDER[1])
    monkeypatch.setattr(os, "rename", refuse)
    Policy.load(tmp_path / "policy")
    assert len(LeRobotFolder(tmp_path / "data").episodes) == 3
    assert not (tmp_path / "policy").exists()


@pytest.mark.parametrize("form", OLDER)
def test_a_checkpoint_that_lost_its_place_is_the_newest_again(tmp_path: Path, form: str) -> None:
    data = recordings(tmp_path / "data", small().spec)
    short_run(small(), data, tmp_path / "run", val_fraction=0)
    newest = tmp_path / "run" / "checkpoints" / "step-000004"
    lose(newest, form)
    assert runs.find(tmp_path / "run").policy == newest / "policy"


@pytest.mark.parametrize("more", ["thesis.tex", "train.yaml", "checkpoints/step-000001/run.json"])
def test_a_folder_that_holds_more_than_a_policy_is_not_replaced(tmp_path: Path, more: str) -> None:
    saved = small().save(tmp_path / "policy")
    (saved / more).parent.mkdir(parents=True, exist_ok=True)
    (saved / more).write_text("years of work")
    with pytest.raises(WamkitError, match=more.split("/")[0]):
        small(1).save(saved)
    assert (saved / more).read_text() == "years of work"


def test_a_slice_is_written_over_a_slice_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = small().save(tmp_path / "policy")
    before = sorted(p.name for p in saved.iterdir())
    with pytest.raises(SystemExit) as end:
        app(["prune", str(SPEC), "--layers", "1", "--out", str(saved)], prog_name="wamkit")
    assert end.value.code == 2 and "holds other things" in capsys.readouterr().err
    assert sorted(p.name for p in saved.iterdir()) == before


def test_a_project_is_gone_on_with_where_it_was_killed(tmp_path: Path) -> None:
    wamkit("new", "backbone", "mine", "--out", tmp_path / "whole")
    (tmp_path / "mine").mkdir()
    wamkit("new", "backbone", "mine", "--out", tmp_path / "mine")
    whole = {p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*")}
    assert {p.relative_to(tmp_path / "mine") for p in (tmp_path / "mine").rglob("*")} == whole
    (tmp_path / "mine" / "pyproject.toml").unlink()
    wamkit("new", "backbone", "mine", "--out", tmp_path / "mine")
    (tmp_path / "mine" / "pyproject.toml").unlink()
    (tmp_path / "mine" / "README.md").write_text("mine")
    with pytest.raises(SystemExit) as end:
        app(["new", "backbone", "mine", "--out", str(tmp_path / "mine")], prog_name="wamkit")
    assert end.value.code == 2 and (tmp_path / "mine" / "README.md").read_text() == "mine"


def test_latents_of_other_moments_are_not_mixed_with_those_that_are_asked_for(
    tmp_path: Path,
) -> None:
    spec = small().spec
    recording = LeRobotFolder(recordings(tmp_path / "data", spec))
    encode: Callable[..., int] = precompute
    assert encode(recording, spec, tmp_path / "z", shard=16) == 30
    (tmp_path / "z" / "latents-00001-of-00002.safetensors").unlink()
    with pytest.raises(WamkitError, match="latents of other moments"):
        encode(recording, spec, tmp_path / "z", shard=20)
    assert encode(recording, spec, tmp_path / "z", shard=16) == 14
    assert len(StoredLatents(tmp_path / "z")) == 30


def test_two_writers_of_a_data_set_do_not_take_away_what_the_other_adds(tmp_path: Path) -> None:
    import numpy as np

    def add(writer: Writer, number: float) -> None:
        writer.add_episode("wave", [{"action": np.full(2, number, np.float32)}] * 3)

    features = {"action": Feature("float32", (2,))}
    with Writer(tmp_path / "demos", 10, features) as writer:
        with pytest.raises(WamkitError, match=f"in use: process {os.getpid()} on"):
            Writer(tmp_path / "demos", 10, features)
        add(writer, 0)
        writer.keep()
        with pytest.raises(WamkitError, match="in use"):
            Writer(tmp_path / "demos", 10, features)
        add(writer, 1)
    with Writer(tmp_path / "demos", 10, features) as writer:
        add(writer, 2)
    assert len(LeRobotFolder(tmp_path / "demos").episodes) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["demos"]
