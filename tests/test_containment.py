"""What a plugin does to the process while it is imported is undone and noted."""

from __future__ import annotations

import builtins
import logging
import os
import random
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from wamkit.containment import TORCH, contained


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
    told = "; ".join(notes)
    for trace in ("WAMKIT_NEW", "WAMKIT_KEPT", "directory", "sys.argv", "hook", "root logger"):
        assert trace in told
    assert "SIGTERM" in told and "extra, input" in told


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
