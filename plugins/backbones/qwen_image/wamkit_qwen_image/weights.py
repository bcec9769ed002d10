"""The one published layout of Qwen-Image-Edit's transformer, that of diffusers."""

from wamkit.checkpoints.safetensors import CheckpointLayout

LAYOUTS = (CheckpointLayout("diffusers", r"^transformer_blocks\.0\.img_mod\.1\.weight$"),)
