"""Read a checkpoint of Light-WAM: `mot`, `state_fusion_action_expert` and `proprio_encoder`.

Written from `LightWAM.save_checkpoint`, the Hydra configurations, the training scripts and the
normalizer of github.com/L1ziang/Light-WAM, commit b2785f6.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from wamkit.checkpoints.hydra_config import HydraConfig
from wamkit.checkpoints.robot_run import (
    CONVENTIONS,
    NO_STATISTICS,
    TITLES,
    chunk_tables,
    expect_readable,
    guesses,
    layout_of,
    precision_tables,
    read_dataset_stats,
    released_robot,
    vector_tables,
    view_tables,
)
from wamkit.checkpoints.setting_values import number, unknown_values, whole_number
from wamkit.checkpoints.source import Source
from wamkit.config.extends import merge
from wamkit.config.importing import Imported, Selection
from wamkit.errors import WamkitError

from .specs import LIBERO, ROBOTWIN, T_SHAPE

if TYPE_CHECKING:
    from . import LightWAM

BACKBONES = {"wan2_1_t2v": ("2.1-t2v-1.3b", "wan2.1"), "wan2_2_ti2v": ("2.2-ti2v-5b", "wan2.2")}
"""Their `video_backbone_type` -> variant of the backbone, VAE."""
PLACES = {
    "wan2.1": "hf:Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
    "wan2.2": "hf:Wan-AI/Wan2.2-TI2V-5B-Diffusers",
}
VIDEO = r"^(mot\.)?mixtures\.video\."
ADAPTERS = rf"{VIDEO}wam_adapters\."
HEAD = r"^state_fusion_action_expert\."
KNOWN: Mapping[str, tuple[Any, ...]] = {
    "model.state_fusion_action_expert_config.token_pooling_type": ("learned_query",),
    "model.state_fusion_action_expert_config.token_pooling_merge_dim": (None,),
    "model.state_fusion_action_expert_config.feature_sources": (["adapted"],),
    "model.state_fusion_action_expert_config.layer_feature_sources": (None,),
    "model.state_fusion_action_expert_config.step_pos_dim": (256,),
    "model.wam_adapter.adapter_scale": (1.0,),
    "model.apply_video_latent_downsample_to_action_branch": (False,),
    "model.loss.use_first_frame_residual_video_target": (False,),
    "model.video_dit_config.video_attention_mask_mode": ("first_frame_causal",),
    "model.video_dit_config.action_conditioned": (False,),
}
"""Options of the head and of the network that have no other values here."""


def read(importer: LightWAM, source: Source) -> Imported:
    """What becomes of a checkpoint of Light-WAM. Raises WamkitError if a fact is missing."""
    settings = HydraConfig(source.settings("config.yaml", "*config.yaml"))
    expect_readable(settings, _unread(settings))
    what = f"{source.path}, a Light-WAM,"
    robot = released_robot(importer.release, _sizes(source), settings, what)
    spec = dict(ROBOTWIN if robot == "robotwin" else LIBERO)
    spec = merge(spec, {"action_head": _head(source, settings)})
    if settings:
        spec = merge(spec, _from_settings(settings, spec))
        if spec["video"]["target_downscale"] == 1:  # then targets are on the grid of the others
            spec["paradigm"] = {k: v for k, v in spec["paradigm"].items() if k != "target_context"}
    statistics = read_dataset_stats(source, importer.embodiment)
    vae: str = spec["vae"]["name"]
    return Imported(
        spec=spec,
        weights={
            "backbone": Selection(
                rf"{VIDEO}(?!wam_adapters\.)", ((r"^(mot\.)?mixtures\.video\.", ""),)
            ),
            "action_head": Selection(rf"{ADAPTERS}|{HEAD}|^proprio_encoder\."),
        },
        dropped={r"^optimizer\.": "state of the optimizer"},
        elsewhere=dict.fromkeys(("vae", "text_encoder"), PLACES[vae]),
        statistics=statistics,
        system=f"Light-WAM{TITLES.get(robot or '', '')}",
        license="not stated; code MIT",
        notes=(
            *NOTES.get(robot or "", ()),
            *guesses(importer.release, robot, source, settings, spec),
            *([] if statistics else [NO_STATISTICS]),
        ),
    )


NOTES: Mapping[str, tuple[str, ...]] = {
    "libero": (
        *CONVENTIONS["libero"],
        "Only the first 8 of 32 actions were trained; the evaluation executes 10.",
    ),
    "robotwin": (
        *CONVENTIONS["robotwin"],
        "Only the first 24 of 32 actions were trained, which the evaluation executes.",
    ),
}


def _sizes(source: Source) -> tuple[int, int]:
    """Sizes of an action and of a state, from the shapes of the decoder and of the encoder."""
    tensors = source.tensors
    action = tensors["state_fusion_action_expert.output.2.weight"]
    state = tensors.get("proprio_encoder.weight")
    return action.shape[0], state.shape[1] if state is not None else 0


def _head(source: Source, settings: HydraConfig) -> dict[str, Any]:
    """Sizes of the action head: from the shapes of its tensors, except the number of heads."""
    tensors, start = source.tensors, "state_fusion_action_expert."
    layers = sorted({int(m[2]) for n in tensors if (m := re.match(rf"{ADAPTERS}(\d+)\.", n))})
    if not layers:
        raise WamkitError(
            f"{source.path} holds no residual adapters (wam_adapters)",
            "only Light-WAM with use_wam_adapter is read",
        )
    first = f"{start}layer_poolers.0.adapted.query_tokens"
    if first not in tensors:
        raise WamkitError(
            f"{source.path} pools layers without learned queries, or other states than the adapted",
            "only feature_sources=[adapted] with token_pooling_type=learned_query is read",
        )
    down = next(e for n, e in tensors.items() if re.search(rf"{ADAPTERS}\d+\.down_proj\.weight", n))
    blocks = {m[1] for n in tensors if (m := re.match(rf"{HEAD}trunk\.(\d+)\.", n))}
    heads = settings.get("model.state_fusion_action_expert_config.token_pooling_num_heads", 8)
    return {
        "layers": layers,
        "queries": tensors[first].shape[0],
        "num_heads": heads,
        "layer_width": tensors[f"{start}layer_compressors.0.fc1.weight"].shape[0],
        "width": tensors[f"{start}fused_proj.weight"].shape[0],
        "blocks": len(blocks),
        "adapter": down.shape[0],
    }


def _unread(settings: HydraConfig) -> list[str]:
    """The options of the network whose value is none that is read."""
    wrong = list(unknown_values(settings.get, KNOWN))
    kind = settings.get("model.video_backbone_type", "wan2_1_t2v")
    if not isinstance(kind, str) or kind not in BACKBONES:
        wrong.append(f"the backbone is {kind!r}; known are {', '.join(BACKBONES)}")
    return wrong


def _from_settings(settings: HydraConfig, base: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the spec that a run's `config.yaml` decides."""
    variant, vae = BACKBONES[settings.get("model.video_backbone_type", "wan2_1_t2v")]
    backbone: dict[str, Any] = {"variant": variant}
    if settings.get("model.wam_adapter.use_backbone_lora"):
        alpha, rank = (f"model.wam_adapter.lora_{name}" for name in ("alpha", "rank"))
        scale = number(settings.get(alpha, 16), alpha, settings.where)
        backbone["lora_scale"] = scale / whole_number(settings.get(rank, 16), rank, settings.where)
    weighting = settings.get("model.loss.action_temporal_weighting", {})
    pooling = settings.get("model.video_latent_spatial_downsample_factor", 1)
    found: dict[str, Any] = {
        "backbone": backbone,
        "vae": {"name": vae},
        "action_head": {"first_steps": _first_steps(weighting, settings.where)},
        "video": {"target_downscale": pooling},
        **vector_tables(settings, base),
    }
    found = merge(found, chunk_tables(settings))
    if length := settings.get("data.train.context_len"):
        found["text_encoder"] = {"max_length": length}
    if views := view_tables(settings):
        found["cameras"] = _cameras(views, layout_of(settings))
    shift = "model.video_scheduler.train_shift"
    if (value := settings.get(shift)) is not None:
        found["schedules"] = {"video": {"shift": number(value, shift, settings.where)}}
    return merge(found, precision_tables(settings, ("video",)))


def _cameras(views: list[dict[str, Any]], layout: str) -> dict[str, Any]:
    """Images are resized to the shapes of the settings, then to their places on the canvas."""
    if layout == "t_shape":
        for view, size in zip(views, T_SHAPE, strict=True):
            view |= {"size": list(size), "recorded_size": view["size"]}
    return {"layout": layout, "views": views}


def _first_steps(weighting: Mapping[str, Any], where: str) -> int | None:
    """How many actions of a chunk the loss looks at."""
    name = "model.loss.action_temporal_weighting"
    if not isinstance(weighting, Mapping):
        raise WamkitError(f"{where}: {name} is no table", "copy the file again")
    if not weighting.get("enabled"):
        return None
    if weighting.get("tail_weight", 1.0) != 0 or weighting.get("prefix_weight", 1.0) != 1:
        raise WamkitError(
            f"{where} weights later actions by {weighting.get('tail_weight')}, expected 0 (and "
            "1 for the first)",
            "only actions that are learned or left out are read",
        )
    return whole_number(weighting.get("num_prefix_steps"), f"{name}.num_prefix_steps", where)
