"""Upright images of a robosuite simulation: fast, or as LIBERO draws them."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray
from robosuite.utils.binding_utils import MjRenderContextOffscreen

LEFT_OUT = ("SHADOW", "REFLECTION", "SKYBOX", "HAZE")
COLLISION, VISUAL = 0, 1  # groups of geoms in robosuite's models


class FastRenderer:
    """Images without what costs time and shows little: shadows, reflections and smooth edges."""

    def __init__(self, simulation: Any, size: int) -> None:
        model, self._data = simulation.model._model, simulation.data._data
        model.vis.quality.offsamples = model.vis.quality.shadowsize = 0
        self._renderer: Any = mujoco.Renderer(model, size, size)
        for flag in LEFT_OUT:
            self._renderer.scene.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{flag}")] = 0
        self._options = mujoco.MjvOption()
        self._options.geomgroup[COLLISION] = 0

    def render(self, camera: str) -> NDArray[np.uint8]:
        """Return an image [height, width, 3], top row first."""
        self._renderer.update_scene(self._data, camera=camera, scene_option=self._options)
        return np.asarray(self._renderer.render())

    def close(self) -> None:
        """Free the renderer."""
        self._renderer.close()


class _Unmoved:
    """A simulation that robosuite's context does not bring forward when it is made.

    It would make the first image of a process differ from the same one later.
    """

    def __init__(self, simulation: Any) -> None:
        self.model, self.data = simulation.model, simulation.data
        self.add_render_context = simulation.add_render_context

    def forward(self) -> None:
        """Leave the simulation as it is."""


class OfficialRenderer:
    """Images as robosuite and LIBERO draw them."""

    def __init__(self, simulation: Any, size: int) -> None:
        self._simulation, self._size = simulation, size
        options = MjRenderContextOffscreen(_Unmoved(simulation), device_id=-1).vopt
        options.geomgroup[COLLISION], options.geomgroup[VISUAL] = 0, 1

    def render(self, camera: str) -> NDArray[np.uint8]:
        """Return an image [height, width, 3], top row first."""
        stored = self._simulation.render(
            camera_name=camera, width=self._size, height=self._size, depth=False
        )
        return np.asarray(stored)[::-1]

    def close(self) -> None:
        """The simulation frees the renderer."""
