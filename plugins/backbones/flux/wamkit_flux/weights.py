"""The published layouts of the FLUX transformers and VAEs, and how their names become ours.

Our names are those of diffusers. The original ones are those of github.com/black-forest-labs/flux2
and github.com/black-forest-labs/flux: transformers in `flux-2-klein-*.safetensors` and
`flux1-kontext-dev.safetensors`, VAEs in `ae.safetensors`, with the names of latent-diffusion.
"""

from wamkit.checkpoints.safetensors import CheckpointLayout

_PREFIX = (r"^model\.diffusion_model\.", "")
_ENDS = (
    (r"^img_in\.", "x_embedder."),
    (r"^txt_in\.", "context_embedder."),
    (r"^final_layer\.linear\.", "proj_out."),
    (r"^final_layer\.adaLN_modulation\.1\.", "norm_out.linear."),
)
_ATTENTION = (
    (r"^double_blocks\.", "transformer_blocks."),
    (r"^single_blocks\.", "single_transformer_blocks."),
    (r"\.img_attn\.norm\.query_norm\.scale$", ".attn.norm_q.weight"),
    (r"\.img_attn\.norm\.key_norm\.scale$", ".attn.norm_k.weight"),
    (r"\.txt_attn\.norm\.query_norm\.scale$", ".attn.norm_added_q.weight"),
    (r"\.txt_attn\.norm\.key_norm\.scale$", ".attn.norm_added_k.weight"),
    (r"\.norm\.query_norm\.scale$", ".attn.norm_q.weight"),
    (r"\.norm\.key_norm\.scale$", ".attn.norm_k.weight"),
    (r"\.img_attn\.proj\.", ".attn.to_out.0."),
    (r"\.txt_attn\.proj\.", ".attn.to_add_out."),
)
_QKV = (
    (r"\.img_attn\.qkv\.", (".attn.to_q.", ".attn.to_k.", ".attn.to_v.")),
    (r"\.txt_attn\.qkv\.", (".attn.add_q_proj.", ".attn.add_k_proj.", ".attn.add_v_proj.")),
)
# The original puts the shift first, diffusers the scale.
_SWAP_HALVES = (r"^norm_out\.linear\.(weight|bias)$",)

FLUX2 = (
    CheckpointLayout("diffusers", r"double_stream_modulation_img\.linear\.weight$", (_PREFIX,)),
    CheckpointLayout(
        "original",
        r"double_stream_modulation_img\.lin\.weight$",
        (
            _PREFIX,
            *_ENDS,
            (r"^time_in\.in_layer\.", "time_guidance_embed.timestep_embedder.linear_1."),
            (r"^time_in\.out_layer\.", "time_guidance_embed.timestep_embedder.linear_2."),
            (r"^guidance_in\.in_layer\.", "time_guidance_embed.guidance_embedder.linear_1."),
            (r"^guidance_in\.out_layer\.", "time_guidance_embed.guidance_embedder.linear_2."),
            (r"^(\w+_stream_modulation\w*)\.lin\.", r"\1.linear."),
            *_ATTENTION,
            (r"\.img_mlp\.0\.", ".ff.linear_in."),
            (r"\.img_mlp\.2\.", ".ff.linear_out."),
            (r"\.txt_mlp\.0\.", ".ff_context.linear_in."),
            (r"\.txt_mlp\.2\.", ".ff_context.linear_out."),
            (r"\.linear1\.", ".attn.to_qkv_mlp_proj."),
            (r"\.linear2\.", ".attn.to_out."),
        ),
        splits=_QKV,
        swap_halves=_SWAP_HALVES,
    ),
)

FLUX1 = (
    CheckpointLayout(
        "diffusers", r"transformer_blocks\.0\.norm1_context\.linear\.weight$", (_PREFIX,)
    ),
    CheckpointLayout(
        "original",
        r"double_blocks\.0\.img_mod\.lin\.weight$",
        (
            _PREFIX,
            *_ENDS,
            (r"^time_in\.in_layer\.", "time_text_embed.timestep_embedder.linear_1."),
            (r"^time_in\.out_layer\.", "time_text_embed.timestep_embedder.linear_2."),
            (r"^guidance_in\.in_layer\.", "time_text_embed.guidance_embedder.linear_1."),
            (r"^guidance_in\.out_layer\.", "time_text_embed.guidance_embedder.linear_2."),
            (r"^vector_in\.in_layer\.", "time_text_embed.text_embedder.linear_1."),
            (r"^vector_in\.out_layer\.", "time_text_embed.text_embedder.linear_2."),
            *_ATTENTION,
            (r"\.img_mod\.lin\.", ".norm1.linear."),
            (r"\.txt_mod\.lin\.", ".norm1_context.linear."),
            (r"\.modulation\.lin\.", ".norm.linear."),
            (r"\.img_mlp\.0\.", ".ff.net.0.proj."),
            (r"\.img_mlp\.2\.", ".ff.net.2."),
            (r"\.txt_mlp\.0\.", ".ff_context.net.0.proj."),
            (r"\.txt_mlp\.2\.", ".ff_context.net.2."),
            (r"\.linear2\.", ".proj_out."),
        ),
        splits=(
            *_QKV,
            (r"\.linear1\.", (".attn.to_q.", ".attn.to_k.", ".attn.to_v.", ".proj_mlp.")),
        ),
        swap_halves=_SWAP_HALVES,
    ),
)

_VAE_PREFIX = (r"^(first_stage_model|vae)\.", "")
# The running mean and variance are all that is used of the batch norm.
_VAE_DROP = (r"(^|\.)bn\.num_batches_tracked$",)
_MID = r"\.mid_block\.attentions\.0\."

VAE = (
    CheckpointLayout(
        "diffusers",
        r"decoder\.mid_block\.resnets\.0\.norm1\.weight$",
        (_VAE_PREFIX,),
        drop=_VAE_DROP,
    ),
    CheckpointLayout(
        "original",
        r"decoder\.mid\.block_1\.norm1\.weight$",
        (
            _VAE_PREFIX,
            (r"^encoder\.quant_conv\.", "quant_conv."),
            (r"^decoder\.post_quant_conv\.", "post_quant_conv."),
            (r"coder\.norm_out\.", "coder.conv_norm_out."),
            (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
            (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
            (r"\.mid\.attn_1\.", ".mid_block.attentions.0."),
            (_MID + r"norm\.", ".mid_block.attentions.0.group_norm."),
            (_MID + r"([qkv])\.", r".mid_block.attentions.0.to_\1."),
            (_MID + r"proj_out\.", ".mid_block.attentions.0.to_out.0."),
            (r"\.down\.(\d)\.block\.", r".down_blocks.\1.resnets."),
            (r"\.down\.(\d)\.downsample\.", r".down_blocks.\1.downsamplers.0."),
            # The original counts the decoder's stages from the pixels, diffusers from the latents.
            (r"\.up\.0\.", ".up_blocks.3."),
            (r"\.up\.1\.", ".up_blocks.2."),
            (r"\.up\.2\.", ".up_blocks.1."),
            (r"\.up\.3\.", ".up_blocks.0."),
            (r"(\.up_blocks\.\d)\.block\.", r"\1.resnets."),
            (r"(\.up_blocks\.\d)\.upsample\.", r"\1.upsamplers.0."),
            (r"\.nin_shortcut\.", ".conv_shortcut."),
        ),
        drop=_VAE_DROP,
        conv_to_linear=(_MID + r"to_(q|k|v|out\.0)\.weight$",),
    ),
)
