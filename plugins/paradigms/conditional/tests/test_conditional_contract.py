"""The conditional paradigm keeps the contract of its kind."""

from __future__ import annotations

from wamkit_conditional import Conditional

from wamkit.testing import *  # noqa: F403

PARTS = [
    Conditional(),
    Conditional(context="open", levels="independent"),
    Conditional(act="action_only"),
]
