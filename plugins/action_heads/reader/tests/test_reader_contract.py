"""The `reader` head keeps the contract of a part, on any backbone it is composed with."""

from __future__ import annotations

from wamkit_reader import Reader

from wamkit.testing import *  # noqa: F403

PARTS = [Reader(), Reader(reads="one")]
