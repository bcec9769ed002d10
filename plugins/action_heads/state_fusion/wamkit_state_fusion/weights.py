"""The layouts of a fusion head's weights: our own, and that of Light-WAM's checkpoints.

Light-WAM (github.com/L1ziang/Light-WAM) keeps the head as `state_fusion_action_expert.*`, the
adapters inside the video as `mot.mixtures.video.wam_adapters.*`, and the encoder of the state as
`proprio_encoder.*`. The video itself, with its LoRA, is the backbone's.
"""

from wamkit.checkpoints.safetensors import CheckpointLayout

LAYOUTS = (
    CheckpointLayout("wamkit", r"^poolers\.0\."),
    CheckpointLayout(
        "Light-WAM",
        r"^state_fusion_action_expert\.",
        (
            (r"^(mot\.)?mixtures\.video\.wam_adapters\.", "adapters."),
            (r"^proprio_encoder\.", "state_to_text."),
            (r"^state_fusion_action_expert\.", ""),
            (r"^layer_poolers\.(\d+)\.adapted\.", r"poolers.\1."),
            (r"^layer_compressors\.", "compressors."),
            (r"\.attn\.out_proj\.", ".to_out."),
            (r"^step_pos_proj\.", "step."),
            (r"^output_norm\.", "decoders.action.0."),
            (r"^output\.0\.", "decoders.action.1."),
            (r"^output\.2\.", "decoders.action.3."),
            (r"^(compressors\.\d+|trunk\.\d+)\.norm\.", r"\1.0."),
            (r"^(compressors\.\d+|trunk\.\d+)\.fc1\.", r"\1.1."),
            (r"^(compressors\.\d+|trunk\.\d+)\.fc2\.", r"\1.3."),
            (r"^(adapters\.\d+)\.norm\.", r"\1.0."),
            (r"^(adapters\.\d+)\.down_proj\.", r"\1.1."),
            (r"^(adapters\.\d+)\.up_proj\.", r"\1.3."),
        ),
        drop=(r"^(mot\.)?mixtures\.(?!video\.wam_adapters\.)", r"^optimizer\."),
        splits=(
            (
                r"\.attn\.in_proj_(weight|bias)$",
                (r".to_q.\1", r".to_k.\1", r".to_v.\1"),
            ),
        ),
    ),
)
