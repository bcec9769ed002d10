"""Read a checkpoint of Fast-WAM: `mot.mixtures.{video,action}.*` and `proprio_encoder.*`.

Written from `FastWAM.save_checkpoint`, the Hydra configurations and the normalizer of
github.com/yuantianyuan01/FastWAM, commit 45d8e14.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from wamkit.checkpoints.hydra_config import HydraConfig
from wamkit.checkpoints.robot_run import (
    CONVENTIONS,
    NO_STATISTICS,
    TITLES,
    expect_readable,
    layout_of,
    read_dataset_stats,
    released_robot,
    vector_tables,
    view_tables,
)
from wamkit.checkpoints.source import Source
from wamkit.config.extends import merge
from wamkit.config.importing import Imported, Selection
from wamkit.errors import WamkitError

from . import lerobot
from .specs import LIBERO, ROBOTWIN, T_SHAPE, VARIANTS, WAN

if TYPE_CHECKING:
    from . import FastWAM

VIDEO, ACTION = (rf"^(mot\.)?mixtures\.{kind}\." for kind in ("video", "action"))


def read(importer: FastWAM, source: Source) -> Imported:
    """What becomes of a checkpoint of Fast-WAM. Raises WamkitError if a fact is missing."""
    if lerobot.is_folder(source):
        return lerobot.read(source)
    settings = HydraConfig(source.settings("config.yaml", "*config.yaml"))
    expect_readable(settings)
    what = f"{source.path}, a Fast-WAM,"
    robot = released_robot(importer.release, _sizes(source), settings, what)
    variant = _variant(importer, source, settings)
    spec = merge(ROBOTWIN if robot == "robotwin" else LIBERO, VARIANTS[variant])
    spec = merge(spec, _from_settings(settings, spec))
    statistics = read_dataset_stats(source, importer.embodiment)
    title = {"uncond": "Fast-WAM", "joint": "Fast-WAM-Joint", "idm": "Fast-WAM-IDM"}[variant]
    return Imported(
        spec=spec,
        weights={
            "backbone": Selection(VIDEO, ((VIDEO, ""),)),
            "action_head": Selection(rf"{ACTION}|^proprio_encoder\."),
        },
        dropped={r"^optimizer\.": "state of the optimizer"},
        elsewhere={"vae": WAN, "text_encoder": WAN},
        statistics=statistics,
        system=f"{title}{TITLES.get(robot or '', '')}",
        license="MIT",
        notes=(*NOTES.get(robot or "", ()), *([] if statistics else [NO_STATISTICS])),
    )


NOTES: Mapping[str, tuple[str, ...]] = {
    "libero": (
        *CONVENTIONS["libero"],
        "Published evaluation: 10 of 32 actions are executed, after 30 steps of waiting.",
    ),
    "robotwin": (
        *CONVENTIONS["robotwin"],
        "Published evaluation: 24 of 32 actions are executed.",
    ),
}


def _sizes(source: Source) -> tuple[int, int]:
    """Sizes of an action and of a state, from the shapes of their encoders."""
    tensors = source.tensors
    action = next(e for n, e in tensors.items() if n.endswith("action.action_encoder.weight"))
    state = next((e for n, e in tensors.items() if n == "proprio_encoder.weight"), None)
    return action.shape[1], state.shape[1] if state is not None else 0


def _variant(importer: FastWAM, source: Source, settings: HydraConfig) -> str:
    if importer.variant != "auto":
        return importer.variant
    target = str(settings.get("model._target_", ""))
    name = target.rpartition(".")[2] if target else source.place.stem.lower()
    if "optional" in name:
        raise WamkitError(
            f"{source.place.name} was trained with the future shown in some samples and left out "
            "in others, and its code is not public",
            "--set importer.variant=uncond acts without imagining, idm imagines first; neither was "
            "compared with the authors' code",
        )
    for key in ("joint", "idm", "uncond"):
        if key in name:
            return key
    if target.endswith("create_fastwam"):
        return "uncond"
    raise WamkitError(
        f"nothing tells which Fast-WAM {source.place.name} is: uncond, joint or idm",
        "say it: --set importer.variant=uncond",
    )


def _from_settings(settings: HydraConfig, base: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the spec that a run's `config.yaml` decides; {} without one."""
    found: dict[str, Any] = {"backbone": {}, "action_head": {}, "schedules": {}}
    for theirs, ours in BACKBONE.items():
        if value := settings.get(f"model.video_dit_config.{theirs}"):
            found["backbone"][ours] = value
    for theirs, ours in {"hidden_dim": "width", "ffn_dim": "mlp_dim"}.items():
        if value := settings.get(f"model.action_dit_config.{theirs}"):
            found["action_head"][ours] = value
    if length := settings.get("data.train.context_len"):
        found["text_encoder"] = {"max_length": length}
    found |= vector_tables(settings, base)
    if frames := settings.get("data.train.num_frames"):
        stride = settings.get("data.train.action_video_freq_ratio", 1)
        found["actions"] = {**found.get("actions", {}), "chunk_size": frames - 1}
        found["video"] = {"num_frames": (frames - 1) // stride + 1, "frame_stride": stride}
    if views := view_tables(settings):
        found["cameras"] = _cameras(views, layout_of(settings))
    steps = settings.get("eval_num_inference_steps")
    for name in ("video", "action"):
        if shift := settings.get(f"model.{name}_scheduler.infer_shift"):
            found["schedules"][name] = {"shift": shift} | ({"steps": steps} if steps else {})
    return found


BACKBONE = {
    "num_layers": "layers",
    "num_heads": "num_heads",
    "attn_head_dim": "head_dim",
    "ffn_dim": "mlp_dim",
    "text_dim": "text_width",
}
"""Sizes in `video_dit_config` -> keys of the backbone."""


def _cameras(views: list[dict[str, Any]], layout: str) -> dict[str, Any]:
    """Both evaluations resize by Pillow; that of LIBERO keeps the ratio, the other does not."""
    fit = "stretch" if layout == "t_shape" else "cover"
    if layout == "t_shape":
        for view, size in zip(views, T_SHAPE, strict=True):
            view["size"] = list(size)
    return {"layout": layout, "views": [{**v, "fit": fit, "rounding": "uint8"} for v in views]}
