"""What a plugin does to the process while it is imported is undone and noted."""

from __future__ import annotations

import builtins
import gc
import json
import locale
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from wamkit.config.containment import TORCH, contained
from wamkit.config.guards import RefusedError
from wamkit.files import strict_json


def test_what_is_printed_by_python_or_a_child_reaches_nobody(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with contained() as notes:
        print("from python")
        print("to stderr", file=sys.stderr)
        subprocess.run(["echo", "from a child"], check=True)
    assert capfd.readouterr() == ("", "")
    (note,) = notes
    for text in ("from python", "to stderr", "from a child"):
        assert text in note


def test_the_process_is_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAMKIT_KEPT", "1")
    before = (os.getcwd(), list(sys.argv), sys.excepthook, list(logging.root.handlers))
    filters, state, handler = list(warnings.filters), random.getstate(), signal.SIGTERM
    with contained() as notes:
        os.environ["WAMKIT_NEW"] = "x"
        del os.environ["WAMKIT_KEPT"]
        os.chdir(tmp_path)
        sys.argv.append("more")
        sys.excepthook = lambda *_: None
        logging.root.addHandler(logging.NullHandler())
        warnings.simplefilter("error")
        random.seed(0)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        builtins.input = lambda *_: "y"
        builtins.extra = 1  # type: ignore[attr-defined]
    assert (os.getcwd(), sys.argv, sys.excepthook, logging.root.handlers) == before
    assert list(warnings.filters) == filters and random.getstate() == state
    assert signal.getsignal(handler) is signal.SIG_DFL and input.__module__ != __name__
    assert os.environ["WAMKIT_KEPT"] == "1" and "WAMKIT_NEW" not in os.environ
    assert not hasattr(builtins, "extra")
    joined_notes = "; ".join(notes)
    for trace in ("WAMKIT_NEW", "WAMKIT_KEPT", "directory", "sys.argv", "hook", "root logger"):
        assert trace in joined_notes
    assert "SIGTERM" in joined_notes and "extra, input" in joined_notes


def test_an_error_passes_through_and_leaves_nothing_behind() -> None:
    with pytest.raises(RuntimeError, match="half way"), contained():
        os.environ["WAMKIT_NEW"] = "x"
        raise RuntimeError("half way")
    assert "WAMKIT_NEW" not in os.environ


def test_a_package_that_imports_torch_is_found_also_where_torch_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    package = tmp_path / "eager_plugin"
    package.mkdir()
    (package / "__init__.py").write_text("from .inner import number\n")
    (package / "inner.py").write_text("import torch.nn\nnumber = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with contained("eager_plugin") as notes:
        import eager_plugin  # noqa: F401
    assert notes == [TORCH]
    with contained("another") as notes:
        import torch  # noqa: F401
    assert notes == []


def test_functions_of_other_modules_locale_and_timers_are_as_before() -> None:
    plain, names = json.dumps, locale.setlocale(locale.LC_ALL)
    with contained() as notes:
        json.dumps = lambda *_, **__: "nothing"  # type: ignore[assignment]
        strict_json.dumps = json.dumps
        locale.setlocale(locale.LC_ALL, "C.UTF-8" if names == "C" else "C")
        signal.setitimer(signal.ITIMER_REAL, 1000)
        gc.disable()
        sys.stdin = None  # type: ignore[assignment]
    assert json.dumps is plain and strict_json.dumps([1]) == "[1]"
    assert locale.setlocale(locale.LC_ALL) == names and gc.isenabled() and sys.stdin is not None
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    report = "; ".join(notes)
    for trace in ("json.dumps", "wamkit.files.strict_json.dumps", "locale", "timer", "garbage"):
        assert trace in report


@pytest.mark.parametrize(
    "act", [lambda: threading.Thread(target=print).start(), lambda: os._exit(7), lambda: os.abort()]
)
def test_a_thread_and_the_end_of_the_process_are_refused(act: Callable[[], None]) -> None:
    before = threading.active_count()
    with pytest.raises(RefusedError, match="when it is imported"), contained():
        act()
    assert threading.active_count() == before
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()


def test_an_exit_handler_runs_and_its_output_is_dropped() -> None:
    code = """
import atexit, sys
from wamkit.config.containment import contained
def unwanted(): open(sys.argv[1], "a").write("unwanted")
with contained():
    atexit.register(print, "BYE")
    atexit.register(lambda: open(sys.argv[1], "a").write("ran"))
    atexit.register(lambda: sys.exit(3))
    atexit.register(unwanted)
atexit.unregister(unwanted)
atexit.register(print, "said")
"""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "seen"
        done = subprocess.run(
            [sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True
        )
        assert (done.stdout, done.stderr) == ("said\n", "") and file.read_text() == "ran"
