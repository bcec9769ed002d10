"""Names of the CLIP tower in a checkpoint of DreamZero: those of Wan 2.1's `open_clip` file.

Source: `wan_video_image_encoder.py` in github.com/dreamzero0/dreamzero, commit ab790c1.
"""

from wamkit.checkpoints.safetensors import CheckpointLayout

_LAYER = r"^transformer\.(\d+)"
_ATTENTION = r"encoder.layers.\1.self_attn"

CLIP = CheckpointLayout(
    "open_clip",
    r"^cls_embedding$",
    (
        (r"^cls_embedding$", "embeddings.class_embedding"),
        (r"^pos_embedding$", "embeddings.position_embedding.weight"),
        (r"^patch_embedding\.", "embeddings.patch_embedding."),
        (r"^pre_norm\.", "pre_layrnorm."),
        (rf"{_LAYER}\.norm([12])\.", r"encoder.layers.\1.layer_norm\2."),
        (rf"{_LAYER}\.attn\.proj\.", rf"{_ATTENTION}.out_proj."),
        (rf"{_LAYER}\.mlp\.0\.", r"encoder.layers.\1.mlp.fc1."),
        (rf"{_LAYER}\.mlp\.2\.", r"encoder.layers.\1.mlp.fc2."),
    ),
    splits=(
        (
            rf"{_LAYER}\.attn\.to_qkv\.",
            (rf"{_ATTENTION}.q_proj.", rf"{_ATTENTION}.k_proj.", rf"{_ATTENTION}.v_proj."),
        ),
    ),
    reshape=(r"^embeddings\.(class_embedding|position_embedding\.weight)$",),
)
