"""The layouts of an action expert's weights: our own, and that of Fast-WAM's checkpoints.

Fast-WAM (github.com/yuantianyuan01/FastWAM) keeps the expert as `mixtures.action.*` next to the
video as `mixtures.video.*`, and the encoder of the state as `proprio_encoder.*`.
"""

from wamkit.checkpoints.safetensors import CheckpointLayout

LAYOUTS = (
    CheckpointLayout("wamkit", r"^expert\."),
    CheckpointLayout(
        "Fast-WAM",
        r"^(mot\.)?mixtures\.action\.",
        (
            (r"^(mot\.)?mixtures\.action\.", ""),
            (r"^proprio_encoder\.", "state_encoder."),
            (r"^head\.", "action_decoder."),
            (r"^time_embedding\.0\.", "condition_embedder.time_embedder.linear_1."),
            (r"^time_embedding\.2\.", "condition_embedder.time_embedder.linear_2."),
            (r"^time_projection\.1\.", "condition_embedder.time_proj."),
            (r"^text_embedding\.0\.", "condition_embedder.text_embedder.linear_1."),
            (r"^text_embedding\.2\.", "condition_embedder.text_embedder.linear_2."),
            (r"^blocks\.", "expert."),
            (r"\.self_attn\.", ".attn1."),
            (r"\.cross_attn\.", ".attn2."),
            (r"\.([qkv])\.(weight|bias)$", r".to_\1.\2"),
            (r"\.o\.(weight|bias)$", r".to_out.0.\1"),
            (r"\.norm3\.", ".norm2."),
            (r"\.ffn\.0\.", ".ffn.net.0.proj."),
            (r"\.ffn\.2\.", ".ffn.net.2."),
            (r"\.modulation$", ".scale_shift_table"),
        ),
        drop=(r"^(mot\.)?mixtures\.video\.", r"^optimizer\."),
    ),
)
