"""The published layouts of LTX's transformers, and how their names become ours.

Our names are those of diffusers' classes. The original files hold everything in one: the
transformer behind `model.diffusion_model.`, the VAE behind `vae.`, and for LTX-2 the audio VAE, the
vocoder and what connects the text encoder to the transformer. What belongs to other parts, and the
audio half of LTX-2, is dropped by name; anything else must be known. GE-base
(github.com/AgibotTech/Genie-Envisioner) has diffusers' names and embeddings of views; GE-Act keeps
the weights of its action head in the same file.
"""

from wamkit.checkpoints.safetensors import CheckpointLayout

_PREFIX = (r"^model\.diffusion_model\.", "")
_OTHER_PARTS = (r"^(vae|audio_vae|vocoder|text_encoders)\.",)

_RENAMED = (
    _PREFIX,
    (r"^patchify_proj\.", "proj_in."),
    (r"^adaln_single\.", "time_embed."),
    (r"\.([qk])_norm\.", r".norm_\1."),
)

LTX_DIALECTS = (
    CheckpointLayout("GE-base and GE-Act", r"^view_embed$", drop=(r"^action_",)),
    CheckpointLayout(
        "diffusers", r"^(model\.diffusion_model\.)?time_embed\.linear\.weight$", (_PREFIX,)
    ),
    CheckpointLayout(
        "original", r"(^|\.)adaln_single\.linear\.weight$", _RENAMED, drop=_OTHER_PARTS
    ),
)

LTX2_DIALECTS = (
    CheckpointLayout(
        "diffusers",
        r"^(model\.diffusion_model\.)?time_embed\.linear\.weight$",
        (_PREFIX,),
        drop=(
            r"^(model\.diffusion_model\.)?audio_",
            r"^(model\.diffusion_model\.)?av_cross_attn_(video|audio)_",
            r"\.\d+\.audio_",
            r"\.\d+\.video_to_audio_attn\.",
            r"\.\d+\.video_a2v_cross_attn_scale_shift_table$",
        ),
    ),
    CheckpointLayout(
        "original",
        r"(^|\.)adaln_single\.linear\.weight$",
        (*_RENAMED, (r"^prompt_adaln_single\.", "prompt_adaln.")),
        drop=(
            *_OTHER_PARTS,
            r"^text_embedding_projection\.",
            r"^(model\.diffusion_model\.)?(video|audio)_embeddings_connector\.",
            r"^(model\.diffusion_model\.)?audio_",
            r"^(model\.diffusion_model\.)?av_ca_",
            r"\.\d+\.audio_",
            r"\.\d+\.video_to_audio_attn\.",
            r"\.\d+\.scale_shift_table_a2v_ca_(video|audio)$",
        ),
    ),
)
