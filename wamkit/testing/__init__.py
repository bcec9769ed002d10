"""Tests for authors of parts: `from wamkit.testing import *`, and its pieces."""

from .contract import CHECKS as CHECKS
from .contract import pytest_generate_tests, test_contract

__all__ = ["pytest_generate_tests", "test_contract"]
