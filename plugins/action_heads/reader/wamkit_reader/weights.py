"""The layouts of a reader's weights: our own, and the action expert inside GE-Act's checkpoints.

GE-Act (github.com/AgibotTech/Genie-Envisioner, models/action_patches/patches.py) keeps the expert
next to the video transformer, every name of it beginning with `action_`.
"""

from wamkit.checkpoints.safetensors import CheckpointLayout

LAYOUTS = (
    CheckpointLayout("wamkit", r"^encoders\.action\."),
    CheckpointLayout(
        "GE-Act",
        r"^action_blocks\.",
        (
            (r"^action_proj_in\.", "encoders.action."),
            (r"^action_proj_out\.", "decoders.action."),
            (r"^action_time_embed\.emb\.timestep_embedder\.", "levels.action."),
            (r"^action_time_embed\.linear\.", "modulation."),
            (r"^action_scale_shift_table$", "scale_shift_table"),
            (r"^action_blocks\.", "blocks."),
            (r"\.ff\.", ".ffn."),
        ),
        drop=(r"^(?!action_)",),
    ),
)
