"""Qwen-Image does what every backbone promises."""

from __future__ import annotations

from wamkit_qwen_image import QwenImage

from wamkit.testing import *  # noqa: F403

PARTS = [QwenImage()]
