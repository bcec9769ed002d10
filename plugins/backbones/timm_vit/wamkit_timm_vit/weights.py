"""timm's layout of vision transformers: its names are ours, but for DINOv3's layer scales.

What stands behind the last block (final norm, pooling, classifier) is left out: a policy reads the
blocks.
"""

from wamkit.checkpoints.safetensors import CheckpointLayout

LAYOUTS = (
    CheckpointLayout(
        "timm",
        r"^blocks\.0\.attn\.qkv\.weight$",
        # timm's class Eva, which holds DINOv3, names the scales after BEiT.
        ((r"\.gamma_([12])$", r".ls\1.gamma"),),
        drop=(r"^norm\.", r"^fc_norm\.", r"^attn_pool\.", r"^head\."),
    ),
)
