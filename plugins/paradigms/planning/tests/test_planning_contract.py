"""The planning paradigm keeps the contract of its kind, around inner paradigms of every sort."""

from __future__ import annotations

from wamkit_planning import Planning

from wamkit.testing import *  # noqa: F403

PARTS = [Planning(inner=inner) for inner in ("conditional", "single_pass", "idm")] + [
    Planning(inner={"name": "joint", "attends": "mutual"}, rule="mean")
]
