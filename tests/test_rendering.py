"""Off-screen rendering of simulators, and errors of its settings."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest

from wamkit.errors import WamkitError
from wamkit.simulate import rendering
from wamkit.simulate.rendering import (
    expect_mujoco,
    explain_rendering_errors,
    prepare_mujoco,
    use_offscreen_rendering,
)


@pytest.fixture(autouse=True)
def no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", rendering.GL, rendering.SDL):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("value", ["glfw", "glx", "bogus", "on", "off", "EGLL"])
def test_what_mujoco_cannot_draw_with_is_refused(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUJOCO_GL", value)
    with pytest.raises(WamkitError, match=f"MUJOCO_GL is '{value}'") as caught:
        expect_mujoco()
    assert "MUJOCO_GL=egl" in caught.value.hint


@pytest.mark.parametrize("value", ["egl", "osmesa", " EGL "])
def test_what_draws_into_memory_is_taken(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", value)
    expect_mujoco()


def test_egl_is_chosen_where_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "mujoco", raising=False)
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.setenv("SDL_VIDEODRIVER", "kept")
    use_offscreen_rendering()
    assert rendering.os.environ["MUJOCO_GL"] == "egl"
    assert rendering.os.environ["SDL_VIDEODRIVER"] == "kept"


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (ModuleNotFoundError("No module named 'nomod'", name="nomod"), "needs the module nomod"),
        (ImportError("Cannot initialize a EGL device display"), "MUJOCO_GL=egl"),
        (AttributeError("'NoneType' object has no attribute 'eglQueryString'"), "MUJOCO_GL=egl"),
        (RuntimeError("video driver bogus not available"), "SDL_VIDEODRIVER"),
        (TypeError("unexpected argument 'colour'"), "unexpected argument 'colour'"),
    ],
)
def test_failures_of_drawing_are_reported_with_a_message(
    problem: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUJOCO_GL", "egl")
    with pytest.raises(WamkitError) as caught, explain_rendering_errors("a simulator"):
        raise problem
    assert message in str(caught.value)


def test_mujoco_that_draws_on_a_display_already_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", SimpleNamespace())
    with pytest.raises(WamkitError, match="imported before off-screen rendering was configured"):
        prepare_mujoco()
    monkeypatch.setenv("MUJOCO_GL", "egl")
    prepare_mujoco()
    monkeypatch.setenv("MUJOCO_GL", "off")
    with pytest.raises(WamkitError, match="MuJoCo is not to draw"):
        prepare_mujoco()


class HalfMade:
    """Fails before it has what its finalizer reads, as a renderer without a driver does."""

    def __init__(self, at_the_end: type[Exception]) -> None:
        self.at_the_end = at_the_end
        self.context = HalfMade.open_context()

    @staticmethod
    def open_context() -> None:
        try:
            raise OSError("no driver")
        except OSError:
            raise ImportError("nothing is seen") from None

    def __del__(self) -> None:
        if self.at_the_end is AttributeError:
            _ = self.context
        raise self.at_the_end("when it is freed")


@pytest.mark.parametrize(("problem", "reports"), [(AttributeError, 0), (ValueError, 1)])
def test_what_a_failed_renderer_left_half_made_is_freed_in_silence(
    problem: type[Exception], reports: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: reported.append(found.exc_type))
    hook = sys.unraisablehook
    with pytest.raises(WamkitError, match="nothing is seen"), explain_rendering_errors("it"):
        HalfMade(problem)
    assert reported == [problem] * reports and sys.unraisablehook is hook


@pytest.mark.parametrize(
    ("environment", "module", "more"),
    [
        ("metaworld:button-press-topdown-v3", "metaworld", ()),
        ("libero:libero_object/0", "libero", ()),
        ("libero:libero_object/0", "libero", ("--env-arg", "rendering=official")),
        ("gymnasium:HalfCheetah-v5", "mujoco", ()),
    ],
)
def test_nothing_but_the_missing_graphics_driver_is_reported(
    environment: str, module: str, more: tuple[str, ...]
) -> None:
    if find_spec(module) is None or find_spec("gymnasium") is None:
        pytest.skip(f"{module} is missing")
    command = [sys.executable, "-m", "wamkit", "eval", "random", "--env", environment, *more]
    without = {"__EGL_VENDOR_LIBRARY_FILENAMES": os.devnull, "MUJOCO_GL": "egl"}
    done = subprocess.run(
        [*command, "--episodes", "1"],
        env={**os.environ, **without},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "MUJOCO_GL=osmesa" in done.stderr
    assert done.stderr.lstrip().startswith("error: ") and "Exception ignored" not in done.stderr


@pytest.mark.parametrize(("backend", "other"), [("egl", "osmesa"), ("osmesa", "egl")])
def test_the_backend_that_fails_is_not_named_as_the_cure(
    backend: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUJOCO_GL", backend)
    with (
        pytest.raises(WamkitError) as refused,
        explain_rendering_errors("it"),
    ):
        raise RuntimeError("cannot make a GL context")
    hint = str(refused.value.hint)
    assert f"set MUJOCO_GL={other}" in hint and f"set MUJOCO_GL={backend}" not in hint
