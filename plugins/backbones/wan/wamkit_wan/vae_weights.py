"""How the keys of the original Wan VAE files become diffusers' keys, as plain data.

Apply the pairs of a table in order, `key = re.sub(pattern, replacement, key)`, to every key of the
file; tensors are the same in both layouts. The originals are `Wan2.1_VAE.pth`
(github.com/Wan-Video/Wan2.1, `wan/modules/vae.py`) and `Wan2.2_VAE.pth`
(github.com/Wan-Video/Wan2.2, `wan/modules/vae2_2.py`).
"""

from wamkit.checkpoints.safetensors import CheckpointLayout

SENTINEL_ORIGINAL = "decoder.middle.0.residual.0.gamma"
"""A key that only the original layout has, in both versions."""

SENTINEL_DIFFUSERS = "decoder.mid_block.resnets.0.norm1.gamma"
"""A key that only the diffusers layout has, in both versions."""

_COMMON: tuple[tuple[str, str], ...] = (
    (r"^conv1\.", "quant_conv."),
    (r"^conv2\.", "post_quant_conv."),
    (r"^(encoder|decoder)\.conv1\.", r"\1.conv_in."),
    (r"^(encoder|decoder)\.head\.0\.", r"\1.norm_out."),
    (r"^(encoder|decoder)\.head\.2\.", r"\1.conv_out."),
    (r"\.middle\.0\.", ".mid_block.resnets.0."),
    (r"\.middle\.1\.", ".mid_block.attentions.0."),
    (r"\.middle\.2\.", ".mid_block.resnets.1."),
    (r"\.residual\.0\.", ".norm1."),
    (r"\.residual\.2\.", ".conv1."),
    (r"\.residual\.3\.", ".norm2."),
    (r"\.residual\.6\.", ".conv2."),
    (r"\.shortcut\.", ".conv_shortcut."),
)

# The decoder of Wan 2.1 is one flat list: three residual blocks, then an upsampling, four times
# over, the last time without the upsampling.
ORIGINAL_21: tuple[tuple[str, str], ...] = (
    *_COMMON,
    (r"^encoder\.downsamples\.", "encoder.down_blocks."),
    (r"^decoder\.upsamples\.0\.", "decoder.up_blocks.0.resnets.0."),
    (r"^decoder\.upsamples\.1\.", "decoder.up_blocks.0.resnets.1."),
    (r"^decoder\.upsamples\.2\.", "decoder.up_blocks.0.resnets.2."),
    (r"^decoder\.upsamples\.3\.", "decoder.up_blocks.0.upsamplers.0."),
    (r"^decoder\.upsamples\.4\.", "decoder.up_blocks.1.resnets.0."),
    (r"^decoder\.upsamples\.5\.", "decoder.up_blocks.1.resnets.1."),
    (r"^decoder\.upsamples\.6\.", "decoder.up_blocks.1.resnets.2."),
    (r"^decoder\.upsamples\.7\.", "decoder.up_blocks.1.upsamplers.0."),
    (r"^decoder\.upsamples\.8\.", "decoder.up_blocks.2.resnets.0."),
    (r"^decoder\.upsamples\.9\.", "decoder.up_blocks.2.resnets.1."),
    (r"^decoder\.upsamples\.10\.", "decoder.up_blocks.2.resnets.2."),
    (r"^decoder\.upsamples\.11\.", "decoder.up_blocks.2.upsamplers.0."),
    (r"^decoder\.upsamples\.12\.", "decoder.up_blocks.3.resnets.0."),
    (r"^decoder\.upsamples\.13\.", "decoder.up_blocks.3.resnets.1."),
    (r"^decoder\.upsamples\.14\.", "decoder.up_blocks.3.resnets.2."),
)

# Wan 2.2 nests one list per stage, the resampling at its end.
_RESAMPLING = r"(resample|time_conv)\."
ORIGINAL_22: tuple[tuple[str, str], ...] = (
    *_COMMON,
    (
        r"^encoder\.downsamples\.(\d+)\.downsamples\.\d+\." + _RESAMPLING,
        r"encoder.down_blocks.\1.downsampler.\2.",
    ),
    (r"^encoder\.downsamples\.(\d+)\.downsamples\.", r"encoder.down_blocks.\1.resnets."),
    (
        r"^decoder\.upsamples\.(\d+)\.upsamples\.\d+\." + _RESAMPLING,
        r"decoder.up_blocks.\1.upsampler.\2.",
    ),
    (r"^decoder\.upsamples\.(\d+)\.upsamples\.", r"decoder.up_blocks.\1.resnets."),
)

LAYOUTS = {
    name: (
        CheckpointLayout("diffusers", SENTINEL_DIFFUSERS),
        CheckpointLayout("original", SENTINEL_ORIGINAL, table),
    )
    for name, table in (("wan2.1", ORIGINAL_21), ("wan2.2", ORIGINAL_22))
}
"""Name of a VAE -> the layouts of its files."""
