"""How the tensors of ImageWAM's checkpoints become those of the parts.

FLUX.2's names of the image network are read by the backbone's own layouts, behind their prefix.
The action expert has FLUX.2's names too, with the projections of q, k and v stacked; here they are
those of diffusers, as in the backbone's narrower copy that the action head `mot` holds.
"""

from __future__ import annotations

from wamkit.checkpoints.safetensors import CheckpointLayout

VIDEO = r"^(mot\.)?mixtures\.video\.transformer\."
TWICE = r"^(mot\.)?mixtures\.video\.(double|single)_blocks\."
ACTION = r"^(mot\.)?mixtures\.action\."
STATE = r"^proprio_encoder\."

HEAD = CheckpointLayout(
    "ImageWAM",
    ACTION,
    (
        (ACTION, ""),
        (STATE, "state_encoder."),
        (r"^head\.adaLN_modulation\.1\.", "action_decoder.level_proj."),
        (r"^head\.linear\.", "action_decoder.proj_out."),
        (r"^time_in\.in_layer\.", "expert.time_guidance_embed.timestep_embedder.linear_1."),
        (r"^time_in\.out_layer\.", "expert.time_guidance_embed.timestep_embedder.linear_2."),
        (r"^(\w+_modulation\w*)\.lin\.", r"expert.\1.linear."),
        (r"^double_blocks\.", "expert.transformer_blocks."),
        (r"^single_blocks\.", "expert.single_transformer_blocks."),
        (r"\.(img_attn\.)?norm\.query_norm\.scale$", ".attn.norm_q.weight"),
        (r"\.(img_attn\.)?norm\.key_norm\.scale$", ".attn.norm_k.weight"),
        (r"\.img_attn\.proj\.", ".attn.to_out.0."),
        (r"\.img_mlp\.0\.", ".ff.linear_in."),
        (r"\.img_mlp\.2\.", ".ff.linear_out."),
        (r"\.linear1\.", ".attn.to_qkv_mlp_proj."),
        (r"\.linear2\.", ".attn.to_out."),
    ),
    splits=((r"\.img_attn\.qkv\.", (".attn.to_q.", ".attn.to_k.", ".attn.to_v.")),),
)
"""Layout of the action expert and the encoder of the state, for the action head."""
