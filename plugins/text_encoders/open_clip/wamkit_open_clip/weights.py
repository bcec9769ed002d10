"""The published layouts of CLIP models, of which the text tower alone is read."""

from wamkit.checkpoints.safetensors import Dialect

# The projection is for the pooled embedding; openai's files hold three numbers among the weights.
_OTHERS = (
    r"^visual\.",
    r"^logit_(scale|bias)$",
    r"^(text\.)?text_projection(\.weight|\.bias)?$",
    r"^(text\.)?attn_mask$",
    r"^(input_resolution|context_length|vocab_size)$",
)
DIALECTS = (
    Dialect("CLIP", sentinel=r"^token_embedding\.weight$", drop=_OTHERS),
    Dialect(
        "CLIP with a text module",
        sentinel=r"^text\.token_embedding\.weight$",
        rules=((r"^text\.", ""),),
        drop=_OTHERS,
    ),
    Dialect("wamkit", sentinel=r"^tower\.", rules=((r"^tower\.", ""),)),
)
