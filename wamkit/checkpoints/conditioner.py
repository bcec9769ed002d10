"""A frozen conditioner with its published weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from ..config.conditioner import Published, place
from .safetensors import CheckpointLayout, materialize


def build(
    make: Callable[[], nn.Module],
    config: Published,
    folder: str,
    layouts: Sequence[CheckpointLayout],
) -> Any:
    """The frozen conditioner with its published weights, or random ones."""
    path = place(config, folder)
    return materialize(make, path, layouts=layouts, folders=(folder,)).requires_grad_(False).eval()
