"""The settings of a noise schedule, one for each modality; the mathematics is in `schedule`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .spaces import Section


class ScheduleConfig(Section):
    """Rectified flow of one modality: sigma in [0, 1], 0 is data and 1 is noise."""

    shift: float = Field(5.0, gt=0)
    """k in sigma = k u / (1 + (k - 1) u); above 1 spends more of the path near noise."""
    steps: int = Field(10, gt=0)
    """Network evaluations from noise to data."""
    weight: Literal["bell", "none"] = "bell"
    """Loss weight as a function of sigma; `bell` is zero at pure noise and largest in between."""
    loss_weight: float = Field(1.0, ge=0)
    """Weight of this modality in the total loss."""


class Schedules(Section):
    """One schedule for each modality."""

    video: ScheduleConfig = Field(default_factory=ScheduleConfig)
    action: ScheduleConfig = Field(default_factory=ScheduleConfig)
