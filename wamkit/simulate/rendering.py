"""How simulators draw without a display: what has to be set, and what is wrong with what is set."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import WamkitError

GL, SDL = "MUJOCO_GL", "SDL_VIDEODRIVER"
_ON = ("", "enable", "enabled", "on", "true", "1", "glfw", "glx")  # all of them need a display
_OFF = ("disable", "disabled", "off", "false", "0")
_KNOWN = (*_ON, *_OFF, "egl", "osmesa")
_CURE = f"set {GL}=egl, or {GL}=osmesa, or leave it unset: wamkit then chooses egl"


def without_display() -> bool:
    """True on Linux where no display is there to draw on."""
    return sys.platform == "linux" and not any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )


def prepare() -> None:
    """See to it that MuJoCo and pygame draw into memory; call it before they are imported."""
    os.environ.setdefault(SDL, "dummy")
    if without_display() and not os.environ.get(GL, "").strip() and "mujoco" not in sys.modules:
        os.environ[GL] = "egl"


def expect_mujoco() -> None:
    """Refuse what MuJoCo could not draw with. Raises WamkitError with what to set."""
    value = os.environ.get(GL, "")
    on_rollout = value.lower().strip()
    if sys.platform == "linux" and on_rollout not in _KNOWN:
        raise WamkitError(f"{GL} is {value!r}, expected egl, osmesa or glfw", _CURE)
    if on_rollout in _OFF:
        raise WamkitError(f"{GL} is {value!r}: MuJoCo is not to draw, and nothing is seen", _CURE)
    if without_display() and on_rollout in _ON:
        raise WamkitError(f"{GL} is {value!r}, which draws on a display; there is none here", _CURE)


@contextmanager
def drawing(what: str, but: type[Exception] = WamkitError) -> Iterator[None]:
    """Within, `what` is made or drawn; an error says which variable to set.

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
        words = f"{type(error).__name__}: {error}".strip().splitlines()
        hint, text = "check its name and its settings", f"{' '.join(words)} {what}".lower()
        if any(
            word in text for word in ("mujoco", "egl", "gl context", "opengl", "glfw", "osmesa")
        ):
            expect_mujoco()
            shown = f"{GL}={os.environ.get(GL, '')}"
            hint = f"it draws with {shown}; {_CURE} (libegl1 or libosmesa6 must be installed)"
        elif "video driver" in text or "sdl" in text:
            hint = f"{SDL} is {os.environ.get(SDL)!r}: leave it unset, or set {SDL}=dummy"
        raise WamkitError(f"{what} does not work here: {words[0]}", hint) from None
