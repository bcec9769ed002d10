"""The one published layout of OmniGen2's transformer, that of its own repository."""

from wamkit.checkpoints.safetensors import CheckpointLayout

LAYOUTS = (CheckpointLayout("omnigen2", r"^image_index_embedding$"),)
