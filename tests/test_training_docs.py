"""Every command of docs/training.md runs, in their order, and every setting it names exists."""

from __future__ import annotations

import re
import shlex
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from wamkit.config.spec import parse, read
from wamkit.testing.dataset import record
from wamkit.train.config import TrainConfig

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "training.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.S)
Run = Callable[..., tuple[int, str, str]]


def test_the_commands_run(wamkit: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft")
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    record(tmp_path / "recordings" / "cups", parse(read(ROOT / "examples" / "toy.toml")))
    lines = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
    assert len(lines) == 6
    for line in lines:
        code, _, err = wamkit(*shlex.split(line, comments=True)[1:])
        assert code == 0, f"{line}\n{err}"


def test_the_settings_exist() -> None:
    for kind, text in BLOCKS:
        if kind == "toml":
            assert TrainConfig.model_validate(tomllib.loads(text)).lora is not None
    for text in re.findall(r"^\| `(\w+ = [^`]+)`", PAGE, re.M):
        TrainConfig.model_validate(tomllib.loads(text))
