"""Policies and scripted experts at work in simulators: environments, episodes, scores, recordings.

What runs beside a simulator in a process of its own (`environment`, `hosting`) imports no torch.
"""

from __future__ import annotations

from .environment import Environment, Expert, Robot, Seen, Step, choose
from .episodes import Attempt, Frame
from .hosting import Host, Workers

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
