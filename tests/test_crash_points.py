"""A command that is killed before any of its changes on disk loses nothing, and leaves nothing."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def _script(name: str) -> ModuleType:
    """A script of `benchmarks`, as a module that others of them find by its name."""
    if name not in sys.modules:
        found = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
        assert found is not None and found.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(found)
        found.loader.exec_module(sys.modules[name])
    return sys.modules[name]


hook = _script("crash_hook")
CAN = hook.available()
LINUX = pytest.mark.skipif(not CAN, reason="this kernel lets no process watch another's changes")


@LINUX
def test_changes_of_threads_libraries_and_other_processes_are_seen_in_order(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()

    def act() -> int:
        (home / "folder").mkdir()
        (home / "folder" / "new").write_text("12")
        subprocess.run(["sh", "-c", f"echo 3 > {home}/other; mv {home}/other {home}/moved"])
        with open(home / "moved", "r+") as file:
            for _ in range(5):
                file.write("45")
                file.flush()
            os.fsync(file.fileno())
        os.replace(home / "folder", home / "goal")
        (home / "moved").read_text()
        (tmp_path / "elsewhere").write_text("6")
        return 7

    ended = hook.follow(act, home, tmp_path / "output")
    assert ended.code == 7
    calls = [(change.call.removesuffix("at"), change.path.name) for change in ended.changes]
    known = {"open": "open", "renameat2": "rename"}
    calls = [(known.get(call, call), name) for call, name in calls]
    assert calls == [
        ("mkdir", "folder"),
        ("open", "new"),
        ("write", "new"),
        ("open", "other"),
        ("write", "other"),
        ("rename", "other"),
        *[("write", "moved")] * 5,
        ("fsync", "moved"),
        ("rename", "folder"),
    ]
    assert [path.name for path in hook.unkept(ended.changes)] == ["moved", "goal", "home"]


@LINUX
def test_a_kill_comes_before_the_change(tmp_path: Path) -> None:
    home = tmp_path / "home"
    found = []
    for k in range(1, 7):
        home.mkdir()

        def act() -> int:
            (home / "file").write_text("1")
            os.replace(home / "file", home / "goal")
            (home / "goal").unlink()
            return 0

        ended = hook.follow(act, home, tmp_path / "output", kill_before=k)
        found.append((ended.code, sorted(path.name for path in home.iterdir())))
        for path in home.iterdir():
            path.unlink()
        home.rmdir()
    assert found == [
        (None, []),
        (None, ["file"]),
        (None, ["file"]),
        (None, ["goal"]),
        (0, []),
        (0, []),
    ]


@LINUX
def test_a_kill_anywhere_loses_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    table = tmp_path / "table.md"
    argv = [sys.executable, str(BENCHMARKS / "crash_points.py"), "--kills", "3"]
    done = subprocess.run(
        [*argv, "--out", str(table)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    header, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.read_text().splitlines()
    ]
    assert header[-3:] == ["lost", "leftovers", "not on disk"]
    assert [row for row in rows if row[-3:] != ["0", "0", "0"]] == [], done.stderr
    assert {row[0] for row in rows} >= {"train", "resume", "build over", "add"}
    assert all(int(row[header.index("killed")]) == 3 for row in rows)
