"""Every registered part keeps the contract of its kind."""

from __future__ import annotations

from wamkit.testing import *  # noqa: F403
