"""What tests of the command line share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from wamkit.cli import app


@pytest.fixture
def wamkit(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Type a command line: exit code, stdout, stderr."""

    def run(*words: Any) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            app([str(word) for word in words], prog_name="wamkit")
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return int(end.value.code or 0), out, err

    return run
