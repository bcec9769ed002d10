"""What tests of the command line share, and no contract is tried twice in one session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from schemas import expect_valid

from wamkit.cli import app
from wamkit.config.compositions import tiny


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What a plugin's own tests check of a part, test_contracts.py leaves out where both run."""

    def check(item: pytest.Item) -> tuple[Any, ...] | None:
        params = getattr(getattr(item, "callspec", None), "params", {})
        if "contract_check" not in params:
            return None
        part = tiny(params["contract_part"])
        return params["contract_check"], part.kind, part.model_dump_json()

    again = Path(__file__).parent / "test_contracts.py"
    own = {check(item) for item in items if item.path != again} - {None}
    left = {item for item in items if item.path == again and check(item) in own}
    if left:
        config.hook.pytest_deselected(items=list(left))
        items[:] = [item for item in items if item not in left]


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is computed once is kept for the session, and not in the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WAMKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes which paths the user of this machine trusts."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))


@pytest.fixture
def wamkit(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Type a command line: exit code, stdout, stderr."""

    def run(*args: Any) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            app([str(word) for word in args], prog_name="wamkit")
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        if "--json" in args and end.value.code in (0, 1, None):
            expect_valid(str(args[0]), out)
        return int(end.value.code or 0), out, err

    return run
