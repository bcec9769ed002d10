"""Run policies and scripted experts in simulators: environments, episodes, metrics, recordings.

Worker processes with a simulator use only `environment` and `env_pool`, which import no torch.
"""

from __future__ import annotations

from .env_pool import EnvPool, EnvWorker
from .environment import Environment, EnvObservation, Expert, Robot, Step, choose
from .episodes import Frame, Rollout

__all__ = [
    "EnvObservation",
    "EnvPool",
    "EnvWorker",
    "Environment",
    "Expert",
    "Frame",
    "Robot",
    "Rollout",
    "Step",
    "choose",
]
