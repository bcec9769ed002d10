"""Files and folders that are replaced: atomically, and nothing is left for ever."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wamkit.errors import WamkitError
from wamkit.files import durable, leftovers
from wamkit.files.durable import (
    recover,
    replace_folder,
    replacing,
    replacing_folder,
    sweep,
    temporary_name,
    write_bytes,
    write_text,
)
from wamkit.files.locking import lock


def _names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def _made(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "a").write_text(text)
    return folder


@pytest.fixture
def no_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that cannot exchange two names."""
    monkeypatch.setattr(durable, "_exchange", lambda one, other: False)


def _of_the_dead(goal: Path, kind: str = "part") -> Path:
    """The hidden name that a process gave which has ended."""
    script = (
        "import sys; from pathlib import Path; from wamkit.files.leftovers import temporary_name;"
        "print(temporary_name(Path(sys.argv[1]), sys.argv[2]).name)"
    )
    args = [sys.executable, "-c", script, str(goal), kind]
    return goal.with_name(subprocess.check_output(args, text=True).strip())


def test_a_file_is_written_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "größer")
    write_text(tmp_path / "a.txt", "smaller")
    assert (tmp_path / "a.txt").read_text() == "smaller" and _names(tmp_path) == ["a.txt"]


def test_an_error_in_the_block_leaves_the_file_and_the_folder(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")
    _made(tmp_path / "f", "old")
    with pytest.raises(KeyError), replacing(tmp_path / "a") as part:
        part.write_text("half")
        raise KeyError
    with pytest.raises(KeyError), replacing_folder(tmp_path / "f") as part:
        (part / "a").write_text("half")
        raise KeyError
    assert _names(tmp_path) == ["a", "f"]
    assert (tmp_path / "a").read_text() == (tmp_path / "f" / "a").read_text() == "old"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS])
@pytest.mark.parametrize("there", [True, False])
def test_a_refusal_names_the_file_and_what_is_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, there: bool
) -> None:
    def refuse(handle: int) -> None:
        raise OSError(code, os.strerror(code))

    file = tmp_path / "a"
    if there:
        write_text(file, "old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(WamkitError) as caught:
            write_text(file, "new")
    safe = "is as it was before" if there else "nothing was left behind"
    assert str(file) in caught.value.what and os.strerror(code) in caught.value.what
    assert safe in caught.value.hint
    assert _names(tmp_path) == (["a"] if there else [])
    write_text(file, "new")
    assert file.read_text() == "new"


def test_a_missing_folder_is_refused_with_a_message(tmp_path: Path) -> None:
    with pytest.raises(WamkitError, match="cannot be written: No such file"):
        write_bytes(tmp_path / "none" / "a", b"")


def test_a_device_is_written_to_as_it_is() -> None:
    write_text("/dev/null", "new")
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_takes_the_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    if not can_exchange:
        monkeypatch.setattr(durable, "_exchange", lambda one, other: False)
    for text in ("one", "two", "three"):
        with replacing_folder(tmp_path / "above" / "f") as part:
            (part / "a").write_text(text)
        assert (tmp_path / "above" / "f" / "a").read_text() == text
        assert _names(tmp_path / "above") == ["f"]


def test_a_link_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    _made(tmp_path / "other", "theirs")
    (tmp_path / "f").symlink_to("other")
    with replacing_folder(tmp_path / "f") as part:
        (part / "a").write_text("mine")
    assert (tmp_path / "other" / "a").read_text() == "theirs"
    assert (tmp_path / "f" / "a").read_text() == "mine" and _names(tmp_path) == ["f", "other"]


def test_a_refused_second_rename_puts_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_exchange: None
) -> None:
    goal, new = _made(tmp_path / "f", "old"), _made(temporary_name(tmp_path / "f"), "new")
    rename = os.rename

    def refuse(source: Path, to: Path) -> None:
        if source == new:
            raise OSError(errno.EIO, "broken")
        rename(source, to)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OSError, match="broken"):
        replace_folder(new, goal)
    assert (goal / "a").read_text() == "old"


def test_leftovers_of_the_dead_are_swept_and_those_of_the_living_are_not(tmp_path: Path) -> None:
    dead, dead_folder = _of_the_dead(tmp_path / "a"), _of_the_dead(tmp_path / "f")
    dead.write_text("half")
    _made(dead_folder, "half")
    mine = temporary_name(tmp_path / "a")
    mine.write_text("half")
    other = tmp_path / ".cache.part"
    other.write_text("not ours")
    write_text(tmp_path / "b", "new")
    assert _names(tmp_path) == sorted([mine.name, other.name, "b"])


def test_a_leftover_of_another_host_is_swept_after_a_day(tmp_path: Path) -> None:
    file = tmp_path / ".a.00000000-1-1-0.part"
    file.write_text("half")
    sweep(tmp_path)
    assert file.exists()
    long_ago = time.time() - 2 * leftovers.DAY
    os.utime(file, (long_ago, long_ago))
    sweep(tmp_path)
    assert not file.exists()


@pytest.mark.parametrize("name", [".f.part", ".f.old.part", ".f.x1y2z3_9", ".f.old.x1y2z3_9"])
def test_leftovers_of_older_versions_are_swept_after_an_hour(tmp_path: Path, name: str) -> None:
    _made(tmp_path / "f", "whole")
    left = _made(tmp_path / name, "half")
    with replacing_folder(tmp_path / "f"):
        assert left.exists()
    for place in (left / "a", left):
        os.utime(place, (0, 0))
    with replacing_folder(tmp_path / "f"):
        assert not left.exists()


@pytest.mark.parametrize("by", [recover, lambda goal: sweep(goal.parent)])
def test_a_folder_that_lost_its_place_is_put_back(tmp_path: Path, by: object) -> None:
    _made(_of_the_dead(tmp_path / "f", "old"), "old")
    assert callable(by)
    by(tmp_path / "f")
    assert (tmp_path / "f" / "a").read_text() == "old" and _names(tmp_path) == ["f"]


@pytest.mark.parametrize("name", [".f.old.part", ".f.old.x1y2z3_9/old"])
def test_a_folder_that_an_older_version_lost_is_put_back(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    _made(tmp_path / name, "old")
    assert recover(tmp_path / "f" / "a").read_text() == "old"
    assert (tmp_path / "f").is_dir()


def test_what_cannot_be_put_back_is_read_where_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, to: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    left = _made(_of_the_dead(tmp_path / "f", "old"), "old")
    monkeypatch.setattr(os, "rename", refuse)
    assert recover(tmp_path / "f") == left
    assert recover(tmp_path / "f" / "a").read_text() == "old"
    assert recover(tmp_path / "g") == tmp_path / "g"


def test_long_and_odd_names_are_replaced_too(tmp_path: Path) -> None:
    for name in ("n" * 255, "ü" * 127, "a\nb", ".hidden", "x.part", "[a]*?"):
        goal = tmp_path / name
        for text in ("one", "two"):
            with replacing_folder(goal) as part:
                (part / "a").write_text(text)
        _made(_of_the_dead(tmp_path / name), "half")
        os.rename(goal, _of_the_dead(tmp_path / name, "old"))
        assert (recover(goal) / "a").read_text() == "two"
        sweep(tmp_path)
        assert _names(tmp_path) == [name]
        leftovers.remove(goal)
    with pytest.raises(WamkitError, match="shorter"):
        write_text(tmp_path / ("n" * 256), "new")


KILLED = """
import os, sys
from pathlib import Path
from wamkit.files import durable
if sys.argv[3] == "two":
    durable._exchange = lambda one, other: False
left = int(sys.argv[2])
def hook(event, args):
    global left
    if event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "wamkit.exchange") or (
        event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        and os.fspath(sys.argv[1]) in str(args[0])
    ):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), 9)
sys.addaudithook(hook)
with durable.replacing_folder(sys.argv[1]) as part:
    for name in "ab":
        (part / name).write_text("new")
"""


@pytest.mark.parametrize("way", ["one", "two"])
def test_killed_before_any_change_old_or_new_is_whole(tmp_path: Path, way: str) -> None:
    goal, kills = tmp_path / "f", 0
    for k in range(40):
        with replacing_folder(goal) as part:
            for name in "ab":
                (part / name).write_text("old")
        args = [sys.executable, "-c", KILLED, str(goal), str(k), way]
        code = subprocess.run(args, check=False).returncode
        found = [(recover(goal) / name).read_text() for name in "ab"]
        assert found in (["old", "old"], ["new", "new"]), k
        sweep(tmp_path)
        assert _names(tmp_path) == ["f"]
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
    assert kills >= 6 and found == ["new", "new"]


HOLDER = """
import os, sys, time
from pathlib import Path
from wamkit.files.locking import lock
with lock(Path(sys.argv[1])):
    child = os.fork()
    if child:
        print(child, flush=True)
    time.sleep(60)
"""


def test_a_locked_folder_is_refused_until_its_holder_has_ended(tmp_path: Path) -> None:
    args = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(args, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        forked = int(holder.stdout.readline())
        refused = pytest.raises(WamkitError, match=f"process {holder.pid} on")
        with refused as caught, lock(tmp_path / "run", "choose another --out"):
            pass
        assert "choose another --out" in caught.value.hint
        holder.kill()
        holder.wait()
        try:
            refused = pytest.raises(WamkitError, match=f"process {os.getpid()} on")
            with lock(tmp_path / "run"), refused, lock(tmp_path / "run"):
                pass
        finally:
            os.kill(forked, signal.SIGKILL)
    assert _names(tmp_path / "run") == []


def test_without_locks_the_text_of_the_file_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def refuse(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with lock(tmp_path):
        with pytest.raises(WamkitError, match="in use"), lock(tmp_path):
            pass
        script = (
            "import fcntl, sys; from pathlib import Path\n"
            "def refuse(*given): raise OSError(37, 'no locks')\n"
            "fcntl.lockf = refuse\n"
            "from wamkit.files.locking import lock\n"
            "with lock(Path(sys.argv[1])): pass"
        )
        args = [sys.executable, "-c", script, str(tmp_path)]
        done = subprocess.run(args, capture_output=True, text=True, check=False)
        assert f"process {os.getpid()} on" in done.stderr
    (tmp_path / ".lock").write_text("999999999 elsewhere\n")
    with lock(tmp_path):
        pass
    assert _names(tmp_path) == []
