"""What runs on the robot: actions at a fixed rate while the policy thinks about the next ones.

`robot` is the loop with its queue of actions, `merging` how a new chunk continues the one before,
`latency` measures and simulates delays, `pacing` keeps the rate. Nothing here imports torch: the
policy is anything with `infer` and `metadata`, such as `wamkit.serve.client.Client`, or
`wamkit.serve.local.LocalPolicy` in the same process.
"""

from __future__ import annotations

from .latency import LatencyWindow, SimulatedDelay, delay_steps
from .merging import MERGES, append, replace, weighted
from .pacing import Clock, Pacer, SimulatedClock, SystemClock
from .report import RunReport
from .robot import Robot

__all__ = [
    "MERGES",
    "Clock",
    "LatencyWindow",
    "Pacer",
    "Robot",
    "RunReport",
    "SimulatedClock",
    "SimulatedDelay",
    "SystemClock",
    "append",
    "delay_steps",
    "replace",
    "weighted",
]
