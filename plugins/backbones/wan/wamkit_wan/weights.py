"""The two published layouts of Wan's transformer, and how their names become ours.

Our names are those of diffusers' `WanTransformer3DModel`; the original ones are those of
`wan/modules/model.py` in github.com/Wan-Video/Wan2.1 and Wan2.2. Original files carry diffusers'
file name, so only the names inside tell the layouts apart. Either may stand behind the prefix
`model.diffusion_model.` of single-file distributions, or `mixtures.video.` of Fast-WAM's.
"""

from wamkit.checkpoints.lora import LoraNames
from wamkit.checkpoints.safetensors import CheckpointLayout

_PREFIX = (r"^(model\.diffusion_model|(mot\.)?mixtures\.video)\.", "")
# A checkpoint of Fast-WAM holds the video transformer and an action expert, one of Light-WAM
# residual adapters and an action head that reads the layers, one of DreamZero the encoders and the
# decoder of actions and states.
_EXPERT = (
    r"^(mot\.)?mixtures\.action\.",
    r"^(mot\.)?mixtures\.video\.wam_adapters\.",
    r"^(state_fusion_action_expert|proprio_encoder|optimizer)\.",
    r"^(state_encoder|action_encoder|action_decoder)\.",
)
# LoRA of Light-WAM, next to the layers it belongs to.
_LORA = (
    LoraNames(
        r"(.+)\.lora_([qkvo])\.down_proj\.weight", r"\1.lora_\2.up_proj.weight", r"\1.\2.weight"
    ),
    *(
        LoraNames(
            rf"(.+)\.ffn_lora_{side}\.down_proj\.weight",
            rf"\1.ffn_lora_{side}.up_proj.weight",
            rf"\1.ffn.{index}.weight",
        )
        for side, index in (("in", 0), ("out", 2))
    ),
)

LAYOUTS = (
    CheckpointLayout(
        "diffusers",
        r"^(model\.diffusion_model\.)?blocks\.0\.attn1\.to_q\.weight$",
        (_PREFIX,),
        # Image-to-video files of early diffusers hold a norm that no version has ever applied.
        drop=(r"\.attn2\.norm_added_q\.weight$",),
    ),
    CheckpointLayout(
        "original",
        r"time_projection\.1\.weight$",
        (
            _PREFIX,
            (r"^time_embedding\.0\.", "condition_embedder.time_embedder.linear_1."),
            (r"^time_embedding\.2\.", "condition_embedder.time_embedder.linear_2."),
            (r"^time_projection\.1\.", "condition_embedder.time_proj."),
            (r"^text_embedding\.0\.", "condition_embedder.text_embedder.linear_1."),
            (r"^text_embedding\.2\.", "condition_embedder.text_embedder.linear_2."),
            (r"^img_emb\.proj\.0\.", "condition_embedder.image_embedder.norm1."),
            (r"^img_emb\.proj\.1\.", "condition_embedder.image_embedder.ff.net.0.proj."),
            (r"^img_emb\.proj\.3\.", "condition_embedder.image_embedder.ff.net.2."),
            (r"^img_emb\.proj\.4\.", "condition_embedder.image_embedder.norm2."),
            (r"\.self_attn\.", ".attn1."),
            (r"\.cross_attn\.", ".attn2."),
            (r"\.([qkv])\.(weight|bias)$", r".to_\1.\2"),
            (r"\.o\.(weight|bias)$", r".to_out.0.\1"),
            (r"\.([kv])_img\.", r".add_\1_proj."),
            (r"\.norm_k_img\.", ".norm_added_k."),
            (r"\.norm3\.", ".norm2."),
            (r"\.ffn\.0\.", ".ffn.net.0.proj."),
            (r"\.ffn\.2\.", ".ffn.net.2."),
            (r"\.modulation$", ".scale_shift_table"),
            (r"^head\.scale_shift_table$", "scale_shift_table"),
            (r"^head\.head\.", "proj_out."),
        ),
        drop=_EXPERT,
        lora=_LORA,
    ),
)
