"""The `regression` head keeps the contract of a part, on any backbone it is composed with."""

from __future__ import annotations

from wamkit_regression import Regression

from wamkit.testing import *  # noqa: F403

PARTS = [Regression(), Regression(pool="attention")]
