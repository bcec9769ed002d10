"""Off-screen rendering of simulators, and errors of its settings."""

from __future__ import annotations

import sys

import pytest

from wamkit.errors import WamkitError
from wamkit.simulate import rendering
from wamkit.simulate.rendering import (
    expect_mujoco,
    explain_rendering_errors,
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
