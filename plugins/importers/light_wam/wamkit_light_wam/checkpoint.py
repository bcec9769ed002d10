"""Read a checkpoint of Light-WAM: `mot`, `state_fusion_action_expert` and `proprio_encoder`.

Written from `LightWAM.save_checkpoint`, the Hydra configurations, the training scripts and the
normalizer of github.com/L1ziang/Light-WAM, commit b2785f6.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from wamkit.checkpoints.hydra_config import HydraConfig
from wamkit.checkpoints.source import Source
from wamkit.config.importing import Imported, Selection
from wamkit.errors import WamkitError

from .robots import cameras, normalization, robot
from .specs import LIBERO, ROBOTWIN

if TYPE_CHECKING:
    from . import LightWAM

ROWS = ("min", "max", "mean", "std", "q01", "q99")
BACKBONES = {"wan2_1_t2v": ("2.1-t2v-1.3b", "wan2.1"), "wan2_2_ti2v": ("2.2-ti2v-5b", "wan2.2")}
"""Their `video_backbone_type` -> variant of the backbone, VAE."""
PLACES = {
    "wan2.1": "hf:Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
    "wan2.2": "hf:Wan-AI/Wan2.2-TI2V-5B-Diffusers",
}
VIDEO = r"^(mot\.)?mixtures\.video\."
ADAPTERS = rf"{VIDEO}wam_adapters\."
HEAD = r"^state_fusion_action_expert\."
# Options of the head and of the network that other values of are not here.
FIXED: dict[str, Any] = {
    "model.state_fusion_action_expert_config.token_pooling_type": "learned_query",
    "model.state_fusion_action_expert_config.token_pooling_merge_dim": None,
    "model.state_fusion_action_expert_config.feature_sources": ["adapted"],
    "model.state_fusion_action_expert_config.layer_feature_sources": None,
    "model.state_fusion_action_expert_config.step_pos_dim": 256,
    "model.wam_adapter.adapter_scale": 1.0,
    "model.apply_video_latent_downsample_to_action_branch": False,
    "model.loss.use_first_frame_residual_video_target": False,
    "model.video_dit_config.video_attention_mask_mode": "first_frame_causal",
    "model.video_dit_config.action_conditioned": False,
}


def read(importer: LightWAM, source: Source) -> Imported:
    """What becomes of a checkpoint of Light-WAM. Raises WamkitError if a fact is missing."""
    settings = HydraConfig(source.settings("config.yaml", "*config.yaml"))
    sizes = _sizes(source)
    release: str = importer.release
    if release == "auto":
        release = {(7, 8): "libero", (14, 14): "robotwin"}.get(sizes, "auto")
    if release == "auto" and not settings:
        raise WamkitError(
            f"{source.path} is a Light-WAM for actions of {sizes[0]} and a state of {sizes[1]} "
            "values, which is no released robot (7 and 8: LIBERO; 14 and 14: RoboTwin)",
            "put the run's config.yaml next to it, or say whose cameras it has: "
            "--set importer.release=libero",
        )
    _expect_fixed(settings)
    spec = dict(ROBOTWIN if release == "robotwin" else LIBERO)
    spec["action_head"] = {**spec["action_head"], **_head(source, settings)}
    if settings:
        spec |= _from_settings(spec, settings)
    statistics, lines = _statistics(importer, source)
    where = {"libero": " (LIBERO)", "robotwin": " (RoboTwin)"}.get(release, "")
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
        system=f"Light-WAM{where}",
        license="MIT",
        notes=(*NOTES.get(release, ()), *lines),
    )


NOTES: Mapping[str, tuple[str, ...]] = {
    "libero": (
        "Cameras show what the training data show: the simulator's images turned by 180 degrees.",
        "The gripper's action is 0 closed, 1 open: for the simulator, 1 - 2 a, rounded to -1 or 1.",
        "Only the first 8 of 32 actions were trained; the evaluation executes 10.",
    ),
    "robotwin": (
        "Actions are absolute joint positions: left arm 6 and gripper, right arm 6 and gripper.",
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


def _expect_fixed(settings: HydraConfig) -> None:
    """Raise WamkitError listing the options whose value is none that is read."""
    wrong = [
        f"{name} = {found!r}, expected {value!r}"
        for name, value in FIXED.items()
        if (found := settings.get(name, value)) != value
    ]
    if wrong:
        raise WamkitError(
            f"{settings.where} sets options that are not read: {'; '.join(wrong)}",
            "only the published form of Light-WAM is read",
        )


def _from_settings(spec: Mapping[str, Any], settings: HydraConfig) -> dict[str, Any]:
    """The tables of the spec that a run's `config.yaml` changes."""
    found: dict[str, Any] = {"backbone": dict(spec["backbone"]), "vae": dict(spec["vae"])}
    kind = settings.get("model.video_backbone_type", "wan2_1_t2v")
    if kind not in BACKBONES:
        raise WamkitError(
            f"{settings.where} names the backbone {kind!r}; known are {', '.join(BACKBONES)}",
            "this backbone of Light-WAM is not read",
        )
    found["backbone"]["variant"], found["vae"]["name"] = BACKBONES[kind]
    if settings.get("model.wam_adapter.use_backbone_lora"):
        alpha, rank = (
            settings.get(f"model.wam_adapter.lora_{name}", 16) for name in ("alpha", "rank")
        )
        found["backbone"]["lora_scale"] = float(alpha) / rank
    head = dict(spec["action_head"])
    weighting = settings.get("model.loss.action_temporal_weighting", {})
    head["first_steps"] = _first_steps(weighting, settings.where)
    found["action_head"] = head
    video, pooling = (
        dict(spec["video"]),
        settings.get("model.video_latent_spatial_downsample_factor", 1),
    )
    video["target_downscale"] = pooling
    found["paradigm"] = dict(spec["paradigm"])
    if pooling == 1:
        found["paradigm"].pop("target_context")
    if frames := settings.get("data.train.num_frames"):
        stride = settings.get("data.train.action_video_freq_ratio", 1)
        video |= {"num_frames": (frames - 1) // stride + 1, "frame_stride": stride}
    found["video"] = video
    if length := settings.get("data.train.context_len"):
        found["text_encoder"] = {**spec["text_encoder"], "max_length": length}
    rule = normalization(settings)
    found["actions"], found["state"] = robot(spec, settings, rule)
    if views := settings.get("data.train.shape_meta.images"):
        found["cameras"] = cameras(views, settings)
    if shift := settings.get("model.video_scheduler.train_shift"):
        found["schedules"] = {"video": {**spec["schedules"]["video"], "shift": float(shift)}}
    return found


def _first_steps(weighting: Mapping[str, Any], where: str) -> int | None:
    """How many actions of a chunk the loss looks at."""
    if not weighting.get("enabled"):
        return None
    if weighting.get("tail_weight", 1.0) != 0 or weighting.get("prefix_weight", 1.0) != 1:
        raise WamkitError(
            f"{where} weights later actions by {weighting.get('tail_weight')}, expected 0 (and "
            "1 for the first)",
            "only actions that are learned or left out are read",
        )
    return int(weighting["num_prefix_steps"])


def _statistics(
    importer: LightWAM, source: Source
) -> tuple[dict[str, dict[str, list[float]]], list[str]]:
    """The rows `global_*` of the statistics next to the file, for "action" and "state"."""
    file = source.find("dataset_stats.json", "*dataset_stats.json")
    if file is None:
        return {}, ["There were no statistics next to the checkpoint: actions stay normalized."]
    raw = source.json(file.relative_to(source.folder).as_posix())
    found = {}
    for name in ("action", "state"):
        tables = raw.get(name) if isinstance(raw, dict) else None
        if not isinstance(tables, dict) or not tables:
            raise WamkitError(
                f"{file} holds no table {name!r}", "name the statistics of the run's own training"
            )
        if importer.embodiment is None and len(tables) > 1:
            raise WamkitError(
                f"{file} holds statistics of several data sets: {', '.join(tables)}",
                f"choose one: --set importer.embodiment={next(iter(tables))}",
            )
        key = importer.embodiment or next(iter(tables))
        table = tables[key] if isinstance(tables.get(key), dict) else {}
        lost = [row for row in ROWS if f"global_{row}" not in table]
        if lost:
            raise WamkitError(
                f"{file} lacks global_{', global_'.join(lost)} of {name}", "copy the file again"
            )
        found[name] = {row: table[f"global_{row}"] for row in ROWS}
    return found, []
