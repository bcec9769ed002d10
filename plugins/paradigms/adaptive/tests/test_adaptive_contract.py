"""The adaptive paradigm keeps the contract of its kind."""

from __future__ import annotations

from wamkit_adaptive import Adaptive

from wamkit.testing import *  # noqa: F403

PLAN = {"name": "planning", "inner": "conditional", "proposals": 2, "futures": 1, "values": 1}

PARTS = [
    Adaptive(),
    Adaptive(inner=PLAN, fast={"proposals": 1}, threshold=0.0),
    Adaptive(inner={"name": "joint", "refresh": [0]}, slow={"refresh": "every"}),
]
