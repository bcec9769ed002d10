"""OmniGen2 does what every backbone promises."""

from __future__ import annotations

from wamkit_omnigen2 import OmniGen2

from wamkit.testing import *  # noqa: F403

PARTS = [OmniGen2()]
