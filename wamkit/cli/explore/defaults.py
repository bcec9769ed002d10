"""What the keys of a spec are that it leaves out, for those that the page follows."""

from __future__ import annotations

from typing import Any

from pydantic_core import to_jsonable_python

from ...config.cameras import CameraConfig
from ...config.noise_schedule import ScheduleConfig
from ...config.robot import ActionConfig, StateConfig, VideoConfig
from ...config.spec import PolicySpec

SCHEDULE = (
    *("steps", "guidance_scale", "solver", "shift", "spacing", "grid_start", "sigma_max"),
    *("sigma_min", "whole_timesteps", "bf16_sampling"),
)
"""Settings of a schedule that the page follows."""


def defaults() -> dict[str, Any]:
    """Values of the keys of a spec that are left out, by section."""
    sections: dict[str, Any] = {
        "actions": ActionConfig,
        "state": StateConfig,
        "cameras": CameraConfig,
        "video": VideoConfig,
    }
    found: dict[str, Any] = {
        name: {
            key: to_jsonable_python(field.get_default(call_default_factory=True))
            for key, field in section.model_fields.items()
            if not field.is_required()
        }
        for name, section in sections.items()
    }
    fields = ScheduleConfig.model_fields
    found["schedule"] = {key: fields[key].default for key in SCHEDULE}
    found["dtype"] = PolicySpec.model_fields["dtype"].default
    return found
