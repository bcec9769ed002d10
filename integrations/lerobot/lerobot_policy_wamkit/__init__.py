"""Policies of wamkit in LeRobot: `--policy.type=wamkit`.

LeRobot imports this package by its name, which registers the configuration. Without LeRobot only
`features`, `batches` and `history` can be imported; they know its keys and none of its classes.
"""

from __future__ import annotations

from importlib.util import find_spec

if find_spec("lerobot") is not None:
    from .configuration_wamkit import WamkitConfig as WamkitConfig
