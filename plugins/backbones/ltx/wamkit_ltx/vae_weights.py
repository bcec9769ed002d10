"""The published layouts of LTX's VAEs, and how their names become diffusers'.

An original file is that of the whole model, with the VAE behind `vae.`; its encoder and decoder are
flat lists of blocks, which diffusers groups into stages. The layout of a version is detected by
blocks that only its lists have. Source: `scripts/convert_ltx_to_diffusers.py` and
`convert_ltx2_to_diffusers.py` in github.com/huggingface/diffusers.
"""

import re
from collections.abc import Sequence

from wamkit.checkpoints.safetensors import CheckpointLayout

_DIFFUSERS = CheckpointLayout("diffusers", r"^(vae\.)?decoder\.mid_block\.", ((r"^vae\.", ""),))
_STATISTICS = (r"per_channel_statistics\.(channel|mean-of-stds(_over_std-of-means)?)$",)
_OTHER_PARTS = (
    r"^(model\.diffusion_model|audio_vae|vocoder|text_encoders|text_embedding_projection)\.",
)
_COMMON = (
    (r"\.res_blocks\.", ".resnets."),
    (r"^per_channel_statistics\.mean-of-means$", "latents_mean"),
    (r"^per_channel_statistics\.std-of-means$", "latents_std"),
    (r"\.last_time_embedder\.", ".time_embedder."),
    (r"\.last_scale_shift_table$", ".scale_shift_table"),
    (r"\.conv_shortcut\.(weight|bias)$", r".conv_shortcut.conv.\1"),
    (r"\.norm3\.norm\.", ".norm3."),
)

FIRST_DOWN = (
    "down_blocks.0", "down_blocks.0.downsamplers.0", "down_blocks.0.conv_out",
    "down_blocks.1", "down_blocks.1.downsamplers.0", "down_blocks.1.conv_out",
    "down_blocks.2", "down_blocks.2.downsamplers.0", "down_blocks.3", "mid_block",
)  # fmt: skip
DOWN = (
    "down_blocks.0", "down_blocks.0.downsamplers.0", "down_blocks.1",
    "down_blocks.1.downsamplers.0", "down_blocks.2", "down_blocks.2.downsamplers.0",
    "down_blocks.3", "down_blocks.3.downsamplers.0", "mid_block",
)  # fmt: skip
FIRST_UP = (
    "mid_block", "up_blocks.0", "up_blocks.1.upsamplers.0", "up_blocks.1",
    "up_blocks.2.conv_in", "up_blocks.2.upsamplers.0", "up_blocks.2",
    "up_blocks.3.conv_in", "up_blocks.3.upsamplers.0", "up_blocks.3",
)  # fmt: skip
UP = (
    "mid_block", "up_blocks.0.upsamplers.0", "up_blocks.0", "up_blocks.1.upsamplers.0",
    "up_blocks.1", "up_blocks.2.upsamplers.0", "up_blocks.2", "up_blocks.3.upsamplers.0",
    "up_blocks.3",
)  # fmt: skip


def _original(
    name: str, detect_key: str, down: Sequence[str], up: Sequence[str]
) -> CheckpointLayout:
    """The layout whose flat lists have stages `down` and `up`, block by block.

    A new name keeps a mark until all are given, so that none is renamed twice.
    """
    lists = {"encoder.down_blocks": down, "decoder.up_blocks": up}
    stages = tuple(
        (rf"^{re.escape(old)}\.{i}\.", f"{old.split('.')[0]}.@{stage}.")
        for old, names in lists.items()
        for i, stage in enumerate(names)
    )
    rules = ((r"^vae\.", ""), *stages, (r"@", ""), *_COMMON)
    return CheckpointLayout(
        name, rf"^(vae\.)?{detect_key}\.", rules, drop=_STATISTICS + _OTHER_PARTS
    )


LAYOUTS = (
    _DIFFUSERS,
    _original("0.9.0", r"decoder\.up_blocks\.9", FIRST_DOWN, FIRST_UP),
    _original("0.9.1", r"encoder\.down_blocks\.9", FIRST_DOWN, UP),
    _original("0.9.5", r"decoder\.up_blocks\.6", DOWN, UP),
)
DIALECTS_2 = (_DIFFUSERS, _original("original", r"decoder\.up_blocks\.6", DOWN, UP))
