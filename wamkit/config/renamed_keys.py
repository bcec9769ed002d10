"""Keys that had another name in version 0.1.0, for the hint about a key that is unknown."""

from __future__ import annotations

from collections.abc import Collection

RENAMED = (
    ("accumulate", "gradient_accumulation_steps"),
    ("batch", "batch_size"),
    ("chunk", "chunk_size"),
    ("clip", "max_grad_norm"),
    ("coarser", "target_downscale"),
    ("context", "num_observed"),
    ("copy_noise", "context_noise_prob"),
    ("density", "timestep_sampling"),
    ("embeddings", "embeddings_file"),
    ("every", "frame_stride"),
    ("every", "layer_stride"),
    ("feed_forward", "mlp_dim"),
    ("final", "min_lr_ratio"),
    ("first_frame", "drop_future_prob"),
    ("frames", "num_frames"),
    ("full", "on_full_memory"),
    ("guidance", "guidance_scale"),
    ("head_size", "head_dim"),
    ("heads", "num_heads"),
    ("hertz", "control_hz"),
    ("high", "sigma_max"),
    ("keep", "max_checkpoints"),
    ("key_heads", "num_kv_heads"),
    ("length", "max_length"),
    ("low", "sigma_min"),
    ("negative", "negative_prompt"),
    ("patch", "patch_size"),
    ("peak", "peak_flops"),
    ("quantize", "bf16_timesteps"),
    ("recompute", "gradient_checkpointing"),
    ("sharding", "parallelism"),
    ("template", "prompt_template"),
    ("tied", "shared_sigma"),
    ("times", "target_times"),
    ("until", "stop_sigma"),
    ("validation", "val_fraction"),
    ("warmup", "warmup_ratio"),
    ("weight", "loss_weighting"),
)
"""Pairs of a name in version 0.1.0 and the name now."""


def rename_keys(key: str, known: Collection[str]) -> str | None:
    """The present name of `key`, if the table with the keys `known` has it."""
    return next((new for old, new in RENAMED if old == key and new in known), None)
