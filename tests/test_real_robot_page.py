"""docs/real_robot.md: its Python runs as it stands, its command is one, and its names are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from serving import policy

from wamkit.runtime import MERGES, RunReport
from wamkit.serve.keys import read_keys
from wamkit.serve.server import Server, address_of, bind, run_in_thread

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "real_robot.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.S)
BASH = "".join(re.findall(r"```bash\n(.*?)```", PAGE, re.S)).splitlines()
MAKE_KEY = BASH[0]


def test_the_robot_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    functions, connected, dry = PYTHON
    served = policy()
    keys = tmp_path / "keys.txt"
    monkeypatch.chdir(tmp_path)
    (made,) = re.findall(r'python -c "(.*)" > keys.txt', MAKE_KEY)
    exec(made, {})
    keys.write_text(capsys.readouterr().out)
    listener = bind("127.0.0.1", 0)
    port = address_of(listener)[1]
    names: dict[str, Any] = {}
    exec(functions, names)
    with run_in_thread(Server(served, "toy", keys=read_keys(keys)), listener):
        exec(connected.replace("8000", str(port)).replace("seconds=2", "seconds=0.5"), names)
    printed = capsys.readouterr().out
    number = r"[\d.]+(e[+-]\d+)?"
    shape = re.sub(number, "N", PAGE.partition("```text\n")[2].partition("\n```")[0])
    assert re.sub(number, "N", printed.strip()) == shape
    monkeypatch.chdir(ROOT)
    exec(dry, names)
    assert capsys.readouterr().out.startswith("100 actions, ")


@pytest.mark.parametrize("line", BASH[1:])
def test_commands_of_the_page_have_options_that_there_are(wamkit: Any, line: str) -> None:
    first, command, *args = shlex.split(line)
    code, out, _ = wamkit(command, "--help")
    assert first == "wamkit" and code == 0
    for option in (arg for arg in args if arg.startswith("--")):
        assert option in out


def test_ways_to_merge_and_the_text_of_a_report_are_those_of_the_code() -> None:
    assert set(re.findall(r'^\| `"(\w+)"` \|', PAGE, re.M)) == set(MERGES)
    assert len(str(RunReport()).splitlines()) == 5
