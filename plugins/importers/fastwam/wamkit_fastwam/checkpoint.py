"""Read a checkpoint of Fast-WAM: `mot.mixtures.{video,action}.*` and `proprio_encoder.*`.

Written from `FastWAM.save_checkpoint`, the Hydra configurations and the normalizer of
github.com/yuantianyuan01/FastWAM, commit 45d8e14, and the optional IDM of commit 7faa711.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    schedule_tables,
    unread_schedules,
    vector_tables,
    view_tables,
)
from wamkit.checkpoints.setting_values import number, unknown_values
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
    expect_readable(settings, list(_unread(settings)))
    what = f"{source.path}, a Fast-WAM,"
    robot = released_robot(importer.release, _sizes(source), settings, what)
    variant = _variant(importer, source, settings)
    spec = merge(ROBOTWIN if robot == "robotwin" else LIBERO, VARIANTS[variant])
    spec = merge(spec, merge(_from_settings(settings, spec), _shown_future(settings, variant)))
    statistics = read_dataset_stats(source, importer.embodiment)
    return Imported(
        spec=spec,
        weights={
            "backbone": Selection(VIDEO, ((VIDEO, ""),)),
            "action_head": Selection(rf"{ACTION}|^proprio_encoder\."),
        },
        dropped={r"^optimizer\.": "state of the optimizer"},
        elsewhere={"vae": WAN, "text_encoder": WAN},
        statistics=statistics,
        system=f"{NAMES[variant]}{TITLES.get(robot or '', '')}",
        license="not stated; code MIT",
        notes=(
            *NOTES.get(robot or "", ()),
            *(OPTIONAL if variant == "optional_idm" else ()),
            *guesses(importer.release, robot, source, settings, spec),
            *([] if statistics else [NO_STATISTICS]),
        ),
    )


NAMES: Mapping[str, str] = {
    "uncond": "Fast-WAM",
    "joint": "Fast-WAM-Joint",
    "idm": "Fast-WAM-IDM",
    "optional_idm": "Fast-WAM-Optional-IDM",
}
"""Variant -> the name of the system."""
OPTIONAL = (
    "Acts on the observation alone, too: --set paradigm.stop_sigma=first_frame.",
    "Published evaluation samples the video with shift 1, too, and not with the 5 of its training: "
    "--set schedules.video.shift=1, unless it is to learn on.",
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
    for key in ("optional_idm", "joint", "idm", "uncond"):
        if key in name:
            return key
    if target.endswith("create_fastwam"):
        return "uncond"
    raise WamkitError(
        f"nothing tells which Fast-WAM {source.place.name} is: uncond, joint, idm or optional_idm",
        "say it: --set importer.variant=uncond",
    )


KNOWN: Mapping[str, tuple[Any, ...]] = {
    "model.video_dit_config.patch_size": ([1, 2, 2],),
    "model.video_dit_config.freq_dim": (256,),
    "model.video_dit_config.eps": (1e-6,),
    "model.video_dit_config.seperated_timestep": (True,),
    "model.video_dit_config.has_image_input": (False,),
    "model.video_dit_config.require_clip_embedding": (False,),
    "model.video_dit_config.require_vae_embedding": (False,),
    "model.video_dit_config.fuse_vae_embedding_in_latents": (True,),
    "model.video_dit_config.video_attention_mask_mode": ("first_frame_causal",),
    "model.video_dit_config.action_conditioned": (False,),
    "model.action_dit_config.freq_dim": (256,),
    "model.action_dit_config.eps": (1e-6,),
}
"""Settings of the network that Fast-WAM has no other values of here."""
SHARED = ("num_layers", "num_heads", "attn_head_dim", "text_dim")
"""Sizes that the action expert has from the video network."""


def _unread(settings: HydraConfig) -> Iterator[str]:
    """What the settings ask for that is not here, a phrase each."""
    yield from unknown_values(settings.get, KNOWN)
    for key in SHARED:
        video, action = (
            settings.get(f"model.{kind}_dit_config.{key}") for kind in ("video", "action")
        )
        if action is not None and video is not None and action != video:
            yield f"model.action_dit_config.{key} = {action!r}, expected {video!r} as of the video"
    yield from unread_schedules(settings)


def _from_settings(settings: HydraConfig, base: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the spec that a run's `config.yaml` decides; {} without one."""
    found: dict[str, Any] = {"backbone": {}, "action_head": {}}
    found["schedules"] = schedule_tables(settings)
    for theirs, ours in BACKBONE.items():
        if value := settings.get(f"model.video_dit_config.{theirs}"):
            found["backbone"][ours] = value
    for theirs, ours in {"hidden_dim": "width", "ffn_dim": "mlp_dim"}.items():
        if value := settings.get(f"model.action_dit_config.{theirs}"):
            found["action_head"][ours] = value
    if length := settings.get("data.train.context_len"):
        found["text_encoder"] = {"max_length": length}
    found = merge(found, vector_tables(settings, base))
    found = merge(found, chunk_tables(settings))
    if views := view_tables(settings):
        found["cameras"] = _cameras(views, layout_of(settings))
    return merge(found, precision_tables(settings, ("video", "action")))


def _shown_future(settings: HydraConfig, variant: str) -> dict[str, Any]:
    """What the settings say of the future that an IDM sees in training; {} if nothing."""
    found: dict[str, Any] = {}
    if variant not in ("idm", "optional_idm"):
        return found
    if (noised := settings.get("model.video_cond_noise_prob")) is not None:
        found["context_noise_prob"] = _share(noised, "model.video_cond_noise_prob", settings)
    if variant == "optional_idm" and (share := settings.get("model.action_idm_prob")) is not None:
        found["drop_future_prob"] = 1 - _share(share, "model.action_idm_prob", settings)
        if found["drop_future_prob"] == 1:
            raise WamkitError(
                f"{settings.where}: model.action_idm_prob = 0: no action ever saw a future",
                "import it as a Fast-WAM that imagines none: --set importer.variant=uncond",
            )
    return {"paradigm": found} if found else {}


def _share(value: Any, name: str, settings: HydraConfig) -> float:
    """A share of training samples, from 0 to 1. Raises WamkitError if it is none."""
    share = number(value, name, settings.where)
    if not 0 <= share <= 1:
        raise WamkitError(
            f"{settings.where}: {name} = {value!r}, expected a number from 0 to 1",
            "copy the file again",
        )
    return share


BACKBONE = {
    "num_layers": "layers",
    "num_heads": "num_heads",
    "attn_head_dim": "head_dim",
    "ffn_dim": "mlp_dim",
    "text_dim": "text_width",
    "in_dim": "latent_channels",
}
"""Sizes in `video_dit_config` -> keys of the backbone."""


def _cameras(views: list[dict[str, Any]], layout: str) -> dict[str, Any]:
    """Both evaluations resize by Pillow; that of LIBERO keeps the ratio, the other does not."""
    fit = "stretch" if layout == "t_shape" else "cover"
    if layout == "t_shape":
        for view, size in zip(views, T_SHAPE, strict=True):
            view["size"] = list(size)
    return {"layout": layout, "views": [{**v, "fit": fit, "rounding": "uint8"} for v in views]}
