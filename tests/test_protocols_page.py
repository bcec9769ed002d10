"""Every command of docs/protocols.md serves, and its robot file is one."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import wamkit.cli.serve as module
from wamkit.serve.robot_map import known_robots, read_robot
from wamkit.serve.signals import Signals

PAGE = (Path(__file__).parent.parent / "docs" / "protocols.md").read_text()
COMMANDS = re.findall(r"`(wamkit serve [^`]+)`", PAGE)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_page_serves(line: str, wamkit: Any, monkeypatch: Any) -> None:
    served: list[str] = []

    async def serve_shortly(server: Any, listener: Any, *_: Any) -> None:
        async with server.open(listener):
            served.append(server.protocol)

    monkeypatch.setattr(module, "_serve", serve_shortly)
    monkeypatch.setattr(module, "_log_to_stderr", lambda: None)
    monkeypatch.setattr(Signals, "finish", lambda self: None)  # which ends the process
    args = shlex.split(line)[1:]
    if "--port" in args:
        del args[args.index("--port") : args.index("--port") + 2]
    code, _, err = wamkit(*args, "--port", "0")
    assert code == 0, err
    chosen = args[args.index("--protocol") + 1] if "--protocol" in args else "openpi"
    assert served == [chosen]


def test_the_robot_file_of_the_page_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.S)
    file = tmp_path / "mine.toml"
    file.write_text(text)
    assert read_robot(str(file)).cameras["front"].rotation == 180
    for name in known_robots():
        assert f"| `{name}` |" in PAGE
