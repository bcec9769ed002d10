"""The published layouts of CLIP models, of which the text tower alone is read."""

from wamkit.checkpoints.safetensors import CheckpointLayout

# The projection is for the pooled embedding; openai's files hold three numbers among the weights.
_OTHERS = (
    r"^visual\.",
    r"^logit_(scale|bias)$",
    r"^(text\.)?text_projection(\.weight|\.bias)?$",
    r"^(text\.)?attn_mask$",
    r"^(input_resolution|context_length|vocab_size)$",
)
LAYOUTS = (
    CheckpointLayout("CLIP", detect_key=r"^token_embedding\.weight$", drop=_OTHERS),
    CheckpointLayout(
        "CLIP with a text module",
        detect_key=r"^text\.token_embedding\.weight$",
        rules=((r"^text\.", ""),),
        drop=_OTHERS,
    ),
    CheckpointLayout("wamkit", detect_key=r"^tower\.", rules=((r"^tower\.", ""),)),
)
