"""Run policies and scripted experts in simulators: environments, episodes, metrics, recordings.

Worker processes with a simulator use only `environment` and `env_pool`, which import no torch.
"""

from __future__ import annotations

from .env_pool import Host, Workers
from .environment import Environment, Expert, Robot, Seen, Step, choose
from .episodes import Attempt, Frame

__all__ = [
    "Attempt",
    "Environment",
    "Expert",
    "Frame",
    "Host",
    "Robot",
    "Seen",
    "Step",
    "Workers",
    "choose",
]
