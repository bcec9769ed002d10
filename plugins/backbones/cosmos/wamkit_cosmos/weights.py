"""The two published layouts of Cosmos' transformer, and how their names become ours.

Our names are those of diffusers' `CosmosTransformer3DModel`; the original ones are those of
`MinimalV1LVGDiT` in github.com/nvidia-cosmos/cosmos-predict2, behind the prefix `net.`.
"""

from wamkit.checkpoints.safetensors import CheckpointLayout

_PREFIX = (r"^(net|model\.diffusion_model)\.", "")

LAYOUTS = (
    CheckpointLayout("diffusers", r"time_embed\.norm\.weight$", (_PREFIX,)),
    CheckpointLayout(
        "original",
        r"t_embedding_norm\.weight$",
        (
            _PREFIX,
            (r"^x_embedder\.proj\.1\.", "patch_embed.proj."),
            (r"^t_embedder\.1\.", "time_embed.t_embedder."),
            (r"^t_embedding_norm\.", "time_embed.norm."),
            (r"^blocks\.", "transformer_blocks."),
            (r"\.adaln_modulation_self_attn\.", ".norm1.linear_"),
            (r"\.adaln_modulation_cross_attn\.", ".norm2.linear_"),
            (r"\.adaln_modulation_mlp\.", ".norm3.linear_"),
            (r"\.self_attn\.", ".attn1."),
            (r"\.cross_attn\.", ".attn2."),
            (r"\.([qkv])_proj\.", r".to_\1."),
            (r"\.output_proj\.", ".to_out.0."),
            (r"\.([qk])_norm\.", r".norm_\1."),
            (r"\.mlp\.layer1\.", ".ff.net.0.proj."),
            (r"\.mlp\.layer2\.", ".ff.net.2."),
            (r"^final_layer\.adaln_modulation\.", "norm_out.linear_"),
            (r"^final_layer\.linear\.", "proj_out."),
        ),
        # State of Transformer Engine, counters of the training run, tables that are computed.
        drop=(r"_extra_state$", r"^(net\.)?accum_", r"(^|\.)pos_embedder\."),
    ),
)
