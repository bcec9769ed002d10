"""Write a policy as a folder that LeRobot's Fast-WAM class loads: the inverse of `lerobot.read`.

Written from `FastWAMConfig`, `FastWAMPolicy` and the processors of github.com/huggingface/lerobot,
commit 7427f31.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wamkit.checkpoints.lerobot_policy import POSTPROCESSOR, PREPROCESSOR
from wamkit.config.importing import Exported, Normalized
from wamkit.config.spec import PolicySpec

from .lerobot import ACTION, FIXED, IMAGES, SIZES, STATE
from .lerobot_rules import Rule, rule_of
from .specs import WAN

PUBLISHED = WAN.removeprefix("hf:")
NORMALIZER = "policy_preprocessor_step_3_normalizer_processor.safetensors"
UNNORMALIZER = "policy_postprocessor_step_0_unnormalizer_processor.safetensors"
_SHARED = (
    (r"^condition_embedder\.time_embedder\.linear_1\.", "time_embedding.0."),
    (r"^condition_embedder\.time_embedder\.linear_2\.", "time_embedding.2."),
    (r"^condition_embedder\.time_proj\.", "time_projection.1."),
    (r"^condition_embedder\.text_embedder\.linear_1\.", "text_embedding.0."),
    (r"^condition_embedder\.text_embedder\.linear_2\.", "text_embedding.2."),
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\.to_out\.0\.", ".o."),
    (r"\.norm2\.", ".norm3."),
    (r"\.ffn\.net\.0\.proj\.", ".ffn.0."),
    (r"\.ffn\.net\.2\.", ".ffn.2."),
    (r"^scale_shift_table$", "head.modulation"),
    (r"\.scale_shift_table$", ".modulation"),
)


def _places(kind: str) -> tuple[tuple[str, str], ...]:
    """The last rules: where an expert's tensors stand in the class."""
    return (
        (r"^blocks\.(\d+)\.", rf"model.mot.layers.\1.blocks.{kind}."),
        (r"^(?!model\.)", f"model.mot.mixtures.{kind}."),
    )


RULES = {
    "backbone": (*_SHARED, (r"^proj_out\.", "head.head."), *_places("video")),
    "action_head": (
        (r"^state_encoder\.", "model.proprio_encoder."),
        (r"^action_decoder\.", "head."),
        (r"^expert\.", "blocks."),
        *_SHARED,
        *_places("action"),
    ),
}
"""Kind of part -> from our names to theirs."""


def export(spec: PolicySpec, normalized: Mapping[str, Normalized]) -> Exported:
    """How a policy becomes LeRobot's folder; `lerobot_conflicts` found nothing."""
    action, state = _rules(spec, normalized)
    tensors = {f"{ACTION}.{row}": values for row, values in action.rows.items()}
    both = tensors | {f"{STATE}.{row}": values for row, values in state.rows.items()}
    config = configuration(spec, {"STATE": state.mode, "ACTION": action.mode})
    notes = [
        f"LeRobot states no rate of control: this policy acts at {spec.actions.control_hz:g} Hz.",
        *(f"Of {name}: {line}" for name, own in (("action", action), ("state", state))
          for line in own.notes),
    ]  # fmt: skip
    if spec.dtype == "bfloat16" and not spec.schedules.action.bf16_sampling:
        notes.append(
            "LeRobot rounds noise levels to bfloat16 while sampling; this policy does not."
        )
    if not both:
        notes.append("There are no statistics: values stay normalized.")
    used = {NORMALIZER: both, UNNORMALIZER: tensors}
    return Exported(
        rules=RULES,
        documents={
            "config.json": config,
            PREPROCESSOR: _preprocessor(config, state, bool(both)),
            POSTPROCESSOR: _postprocessor(config, action, bool(tensors)),
        },
        tensors={file: rows for file, rows in used.items() if rows},
        left_out={
            "vae": f"LeRobot loads that of {PUBLISHED}",
            "text_encoder": f"LeRobot loads that of {config['text_encoder_model_id']}",
        },
        notes=notes,
    )


def _rules(spec: PolicySpec, normalized: Mapping[str, Normalized]) -> tuple[Rule, Rule]:
    by_dimension = [g.normalization for g in spec.actions.groups for _ in range(g.size)]
    action = rule_of(by_dimension, spec.actions.scaling, normalized.get("action"))
    rules = [spec.state.normalization] * spec.state.size
    return action, rule_of(rules, spec.state.scaling, normalized.get("state"))


def configuration(spec: PolicySpec, modes: Mapping[str, str]) -> dict[str, Any]:
    """`config.json` of the class."""
    backbone, views = spec.backbone, spec.cameras.views
    head: Any = spec.action_head
    text: Any = spec.text_encoder
    video = {theirs: getattr(backbone, ours) for theirs, ours in SIZES.items()}
    shared = {"freq_dim": 256, "eps": 1e-6, "use_gradient_checkpointing": False}
    shared |= {"fp32_attention": True, "action_dim": spec.actions.size}
    experts = ("num_layers", "num_heads", "attn_head_dim", "text_dim")
    height, width = views[0].size
    model, tokenizer = _text_encoder(spec)
    co_training = getattr(spec.paradigm, "co_training", True)
    levels = {
        kind: {"train_shift": own.shift, "infer_shift": own.shift, "num_train_timesteps": 1000}
        for kind, own in (("video", spec.schedules.video), ("action", spec.schedules.action))
    }
    return {
        "type": "fastwam",
        "n_obs_steps": 1,
        "input_features": _inputs(spec),
        "output_features": {ACTION: {"type": "ACTION", "shape": [spec.actions.size]}},
        "device": "cpu",
        "push_to_hub": False,
        "action_dim": spec.actions.size,
        "proprio_dim": spec.state.size or None,
        "action_horizon": spec.actions.chunk_size,
        "n_action_steps": spec.actions.chunk_size,
        "num_video_frames": (spec.video.num_frames - 1) * spec.video.frame_stride + 1,
        "action_video_freq_ratio": spec.video.frame_stride,
        "image_size": [height, width * len(views)],
        "context_len": text.max_length,
        "tokenizer_model_id": tokenizer,
        "text_encoder_model_id": model,
        "base_model_id": None,
        "tokenizer_max_len": text.max_length,
        "torch_dtype": spec.dtype,
        "prompt_template": text.prompt_template.replace("{instruction}", "{task}"),
        "num_inference_steps": spec.schedules.action.steps,
        "inference_seed": None,
        "video_scheduler": levels["video"],
        "action_scheduler": levels["action"],
        "loss": {
            "lambda_video": spec.schedules.video.loss_weight if co_training else 0.0,
            "lambda_action": spec.schedules.action.loss_weight,
        },
        "video_dit_config": {
            **FIXED,
            "out_dim": video["in_dim"],
            "hidden_dim": backbone.traits.width,
            "action_group_causal_mask_mode": "group_diagonal",
            **video,
            **shared,
        },
        "action_dit_config": {
            "hidden_dim": head.width,
            "ffn_dim": head.mlp_dim,
            **{key: video[key] for key in experts},
            **shared,
        },
        "normalization_mapping": {"VISUAL": "IDENTITY", **modes},
    }


def _text_encoder(spec: PolicySpec) -> tuple[str, str]:
    """Where LeRobot finds the text encoder, and its tokenizer."""
    named = spec.text_encoder.weights or WAN
    if named.startswith("hf:"):
        return named.removeprefix("hf:").partition("@")[0], "google/umt5-xxl"
    return named, f"{named.rstrip('/')}/tokenizer"


def _inputs(spec: PolicySpec) -> dict[str, Any]:
    found: dict[str, Any] = {
        f"{IMAGES}{view.name}": {"type": "VISUAL", "shape": [3, *view.size]}
        for view in spec.cameras.views
    }
    if spec.state.size:
        found[STATE] = {"type": "STATE", "shape": [spec.state.size]}
    return found


def _step(name: str, **config: Any) -> dict[str, Any]:
    return {"registry_name": name, "config": config}


def _normalization(
    name: str, config: Mapping[str, Any], features: Any, rule: Rule, file: str, has_rows: bool
) -> dict[str, Any]:
    mapping = config["normalization_mapping"]
    step = _step(name, eps=rule.epsilon, features=features, norm_map=mapping)
    return step | ({"state_file": file} if has_rows else {})


def _preprocessor(config: Mapping[str, Any], state: Rule, has_rows: bool) -> dict[str, Any]:
    features = {**config["input_features"], **config["output_features"]}
    return {
        "name": "policy_preprocessor",
        "steps": [
            _step("rename_observations_processor", rename_map={}),
            _step("to_batch_processor"),
            _step("device_processor", device=config["device"], float_dtype=None),
            _normalization(
                "normalizer_processor", config, features, state, NORMALIZER, has_rows
            ),
        ],
    }  # fmt: skip


def _postprocessor(config: Mapping[str, Any], action: Rule, has_rows: bool) -> dict[str, Any]:
    features = config["output_features"]
    return {
        "name": "policy_postprocessor",
        "steps": [
            _normalization(
                "unnormalizer_processor", config, features, action, UNNORMALIZER, has_rows
            ),
            _step("device_processor", device="cpu", float_dtype=None),
        ],
    }  # fmt: skip
