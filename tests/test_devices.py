"""Devices by name: refused with a message wherever one is named, before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

import wamkit as package
from wamkit import Policy, WamkitError
from wamkit.config.spec import parse, read
from wamkit.data import LeRobotFolder
from wamkit.data.encoding import precompute
from wamkit.policy.devices import expect_device
from wamkit.testing.dataset import record
from wamkit.train.processes import join_processes

SMALL = Path(__file__).parent / "data" / "small.toml"
COUNT = torch.cuda.device_count()
UNUSABLE = ["nonsense", "", "cuda:99", "cuda:-1", "cuda:x", "cpu:cpu", "hip", "xla"]
UNUSABLE += [name for name in ("cuda", "mps", "xpu") if not getattr(torch, name).is_available()]
Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_device_that_is_not_here_is_refused_with_those_that_are(name: str) -> None:
    with pytest.raises(WamkitError) as error:
        expect_device(name)
    assert "cpu" in error.value.hint


def test_devices_that_are_here_are_taken() -> None:
    assert expect_device("cpu") == torch.device("cpu")
    assert expect_device("meta", has_values=False).type == "meta"
    with pytest.raises(WamkitError, match="nothing is computed"):
        expect_device("meta")
    for index in range(COUNT):
        assert expect_device(f"cuda:{index}").index == index


@pytest.mark.parametrize("name", ["nonsense", "cuda:99", "mps:7", ""])
def test_a_policy_goes_to_no_such_device(name: str, tmp_path: Path) -> None:
    policy = package.build(SMALL)
    folder = policy.save(tmp_path / "out")
    recording = LeRobotFolder(record(tmp_path / "set", policy.spec))
    for way in (
        lambda: policy.to(name),
        lambda: policy.to(device=name),
        lambda: Policy.load(folder, device=name),
        lambda: package.build(SMALL, device=name),
        lambda: package.build(folder, device=name),
        lambda: precompute(recording, policy.spec, tmp_path / "latents", device=name),
        lambda: join_processes(name).__enter__(),
    ):
        with pytest.raises(WamkitError) as error:
            way()
        assert error.value.hint
    assert policy.to("cpu") is policy and policy.to(torch.float64) is policy
    assert not (tmp_path / "latents").exists()


@pytest.mark.parametrize("name", ["nonsense", "cuda:99", "meta", "mps:7"])
def test_every_verb_refuses_a_device_with_a_message(wamkit: Run, tmp_path: Path, name: str) -> None:
    record(tmp_path / "set", parse(read(SMALL, []), "small"))
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    seen = ("--image", tmp_path / "a.png", "--prompt", "go")
    for verb, *args in (
        ("act", SMALL, *seen),
        ("imagine", SMALL, *seen, "--out", tmp_path / "a.gif"),
        ("bench", SMALL),
        ("compare", SMALL, "--measure"),
        ("train", SMALL, "--data", tmp_path / "set", "--out", tmp_path / "run"),
        ("precompute", "latents", SMALL, "--data", tmp_path / "set", "--out", tmp_path / "latents"),
        ("serve", SMALL, "--port", "0"),
    ):
        code, _, err = wamkit(verb, *args, "--device", name)
        assert code == 2 and "hint: choose cpu" in err and "a bug" not in err, (verb, err)
