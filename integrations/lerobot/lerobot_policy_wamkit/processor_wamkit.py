"""Processors: batches and devices. Images and values stay as they are, wamkit normalizes itself."""

from __future__ import annotations

from typing import Any

from lerobot.processor import PolicyProcessorPipeline, make_default_pre_post_processors

from .configuration_wamkit import WamkitConfig

Pipelines = tuple[PolicyProcessorPipeline[Any, Any], PolicyProcessorPipeline[Any, Any]]


def make_wamkit_pre_post_processors(
    config: WamkitConfig, dataset_stats: dict[str, Any] | None = None
) -> Pipelines:
    """LeRobot's own steps: rename, add a batch axis, move to the device, and back to the CPU.

    Its steps of normalization are there, because its programs set them by name, and do nothing
    (`WamkitConfig.normalization_mapping`). `dataset_stats` are not used.
    """
    return make_default_pre_post_processors(config, None)
