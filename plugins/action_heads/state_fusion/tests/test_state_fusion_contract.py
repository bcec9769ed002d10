"""The `state_fusion` head keeps the contract of a part, on any backbone it is composed with."""

from __future__ import annotations

from wamkit_state_fusion import StateFusion

from wamkit.testing import *  # noqa: F403

PARTS = [StateFusion()]
