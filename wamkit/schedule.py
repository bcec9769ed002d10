"""Rectified flow of one modality: levels, noise, steps and weights.

x_sigma = (1 - sigma) x + sigma noise, and the network predicts the velocity noise - x, so that
d x_sigma / d sigma = velocity. Everyone speaks sigma in [0, 1]: 0 is data, 1 is noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .schedules import ScheduleConfig


def shifted(u: Tensor, shift: float) -> Tensor:
    """k u / (1 + (k - 1) u): the level at fraction u of the way (Esser et al. 2024, eq. 23)."""
    return shift * u / (1 + (shift - 1) * u)


def draw(shape: tuple[int, ...], like: Tensor, rng: torch.Generator) -> Tensor:
    """Standard normal noise, drawn in float32 on the generator's device, placed as `like`.

    The same seed gives the same noise wherever the model runs.
    """
    noise = torch.randn(shape, generator=rng, device=rng.device)
    return noise.to(device=like.device, dtype=like.dtype)


@lru_cache(maxsize=32)
def _bell(shift: float) -> tuple[float, float]:
    """Smallest value and mean of the bell over the shifted grid of 1000 levels."""
    grid = shifted(torch.linspace(1, 0, 1001, dtype=torch.float64)[:-1], shift)
    bell = torch.exp(-2 * (grid - 0.5) ** 2)
    low = float(bell.min())
    return low, float((bell - low).mean())


@dataclass(frozen=True)
class NoiseSchedule:
    """The settings of one modality, with the mathematics that follows from them."""

    config: ScheduleConfig

    def grid(self, steps: int | None = None) -> list[float]:
        """The levels of a sampling run, from 1 down to 0: `steps` + 1 numbers."""
        u = torch.linspace(1, 0, (steps or self.config.steps) + 1, dtype=torch.float64)
        return [float(s) for s in shifted(u, self.config.shift)]

    def sample(self, shape: tuple[int, ...], like: Tensor, rng: torch.Generator) -> Tensor:
        """Training levels, float32 in [0, 1]: uniform, then shifted."""
        u = torch.rand(shape, generator=rng, device=rng.device)
        return shifted(u, self.config.shift).to(like.device)

    def add(self, x: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """x at level `sigma`, which has the leading axes of x."""
        s = sigma.reshape(*sigma.shape, *(1,) * (x.ndim - sigma.ndim))
        return ((1 - s) * x.float() + s * noise.float()).to(x.dtype)

    def velocity(self, x: Tensor, noise: Tensor) -> Tensor:
        """What the network is to predict, float32."""
        return noise.float() - x.float()

    def step(self, x: Tensor, velocity: Tensor, sigma: float, lower: float) -> Tensor:
        """x moved from level `sigma` to level `lower` along the velocity (Euler)."""
        return x + (lower - sigma) * velocity

    def weight(self, sigma: Tensor) -> Tensor:
        """Loss weight of each level, mean 1 over the sampling grid.

        The bell is exp(-2 (sigma - 1/2)^2), lowered to 0 at its smallest value and divided by its
        mean (DiffSynth-Studio, FlowMatchScheduler; used by Fast-WAM and its relatives).
        """
        if self.config.weight == "none":
            return torch.ones_like(sigma)
        low, mean = _bell(self.config.shift)
        return (torch.exp(-2 * (sigma - 0.5) ** 2) - low).clamp(min=0) / mean
