"""Headless rendering of simulators: set environment variables, and explain wrong ones."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import WamkitError

GL, SDL = "MUJOCO_GL", "SDL_VIDEODRIVER"
VARIABLES = (GL, SDL, "PYOPENGL_PLATFORM", "MUJOCO_EGL_DEVICE_ID")
"""Environment variables that decide how simulators render."""
_ON = ("", "enable", "enabled", "on", "true", "1", "glfw", "glx")  # all of them need a display
_OFF = ("disable", "disabled", "off", "false", "0")
_KNOWN = (*_ON, *_OFF, "egl", "osmesa")
_CURE = f"set {GL}=egl, or {GL}=osmesa, or leave it unset: wamkit then chooses egl"


def is_headless() -> bool:
    """True on Linux without a display."""
    return sys.platform == "linux" and not any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )


def use_offscreen_rendering() -> None:
    """Make MuJoCo and pygame render off-screen; call it before they are imported."""
    os.environ.setdefault(SDL, "dummy")
    if is_headless() and not os.environ.get(GL, "").strip() and "mujoco" not in sys.modules:
        os.environ[GL] = "egl"


def prepare_mujoco() -> None:
    """Make MuJoCo render off-screen; call it before it is imported.

    Raises WamkitError if it cannot render with the settings that are there, with a hint.
    """
    if is_headless() and not os.environ.get(GL) and "mujoco" in sys.modules:
        raise WamkitError(
            "mujoco was imported before off-screen rendering was configured",
            f"set {GL}=egl before Python starts, or import mujoco after this environment",
        )
    use_offscreen_rendering()
    expect_mujoco()


def expect_mujoco() -> None:
    """Raise WamkitError if MuJoCo cannot render with these settings, with a hint."""
    value = os.environ.get(GL, "")
    backend = value.lower().strip()
    if sys.platform == "linux" and backend not in _KNOWN:
        raise WamkitError(f"{GL} is {value!r}, expected egl, osmesa or glfw", _CURE)
    if backend in _OFF:
        raise WamkitError(f"{GL} is {value!r}: MuJoCo is not to draw, and nothing is seen", _CURE)
    if is_headless() and backend in _ON:
        raise WamkitError(f"{GL} is {value!r}, which draws on a display; there is none here", _CURE)


@contextmanager
def explain_rendering_errors(what: str, but: type[Exception] = WamkitError) -> Iterator[None]:
    """Explain rendering errors of `what` within the block, with the variable to set.

    Errors of the class `but` are left as they are.
    """
    try:
        yield
    except (WamkitError, but):
        raise
    except ModuleNotFoundError as error:
        raise WamkitError(
            f"{what} needs the module {error.name}, which is not installed",
            f"pip install the package of {error.name}, or check how it is written",
        ) from None
    except Exception as error:
        _drop_half_made(error)
        lines_of_error = f"{type(error).__name__}: {error}".strip().splitlines()
        hint, text = "check its name and its settings", f"{' '.join(lines_of_error)} {what}".lower()
        if any(
            word in text
            for word in ("mujoco", "egl", "gl context", "opengl", "glfw", "osmesa", "glget")
        ):
            expect_mujoco()
            hint = _cure_for(os.environ.get(GL, ""))
        elif "video driver" in text or "sdl" in text:
            hint = f"{SDL} is {os.environ.get(SDL)!r}: leave it unset, or set {SDL}=dummy"
        raise WamkitError(f"{what} does not work here: {lines_of_error[0]}", hint) from None


def _cure_for(backend: str) -> str:
    """What to do where MuJoCo fails to draw by `backend`: never to choose it once more."""
    others = {
        "egl": ("libegl1", "osmesa", "libosmesa6"),
        "osmesa": ("libosmesa6", "egl", "libegl1"),
    }
    if (found := others.get(backend.lower().strip())) is None:
        return f"it draws with {GL}={backend}; {_CURE} (libegl1 or libosmesa6 must be installed)"
    own, other, needs = found
    return f"it draws with {GL}={backend}: install {own}, or set {GL}={other} and install {needs}"


def _drop_half_made(error: BaseException) -> None:
    """Free what the code that failed had begun to make, without messages of its finalizers.

    A renderer without a graphics driver fails before it has all attributes. Its `__del__` reads
    them, and would print a traceback of its own whenever Python frees it. Errors of `__del__` of
    any other class than AttributeError are reported as ever.
    """
    report = sys.unraisablehook

    def leave_out(found: Any) -> None:
        called = getattr(found.object, "__name__", "")
        if called != "__del__" or not isinstance(found.exc_value, AttributeError):
            report(found)

    sys.unraisablehook = leave_out
    try:
        each: BaseException | None = error
        while each is not None:
            traceback.clear_frames(each.__traceback__)
            each = each.__cause__ or each.__context__
    finally:
        sys.unraisablehook = report
