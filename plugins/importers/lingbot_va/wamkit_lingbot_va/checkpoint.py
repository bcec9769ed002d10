"""Read a checkpoint of LingBot-VA: diffusers folders, or LeRobot's `transformer.*`.

Written from `wan_va/modules/model.py`, `wan_va_server.py` and `configs` in
github.com/robbyant/lingbot-va, commit 7c6ffa9, and from `lerobot/policies/lingbot_va`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from wamkit.checkpoints.lerobot_policy import (
    LIBERO_CAMERAS,
    POSTPROCESSOR,
    processor_steps,
    step_rows,
    unknown_steps,
)
from wamkit.checkpoints.safetensors import CheckpointLayout
from wamkit.checkpoints.setting_values import Settings, unknown_values
from wamkit.checkpoints.source import Source
from wamkit.config.importing import Imported, Selection
from wamkit.errors import WamkitError

from .robots import CHANNELS, ROBOTS, Robot
from .specs import spec_of

if TYPE_CHECKING:
    from . import LingBotVA

IMAGES = "observation.images."
BASE = "hf:robbyant/lingbot-va-base"
ACTION = r"^(transformer\.)?(action_embedder|action_proj_out|condition_embedder_action)\."
UNUSED = r"^(transformer\.)?condition_embedder_action\.text_embedder\."
PREFIX = (r"^transformer\.", "")
BACKBONE = CheckpointLayout(
    "LingBot-VA",
    r"^(transformer\.)?patch_embedding_mlp\.weight$",
    (PREFIX, (r"^patch_embedding_mlp\.", "patch_embedding.")),
    reshape=(r"^patch_embedding\.weight$",),
)
HEAD = CheckpointLayout(
    "LingBot-VA",
    r"^(transformer\.)?action_embedder\.weight$",
    (
        PREFIX,
        (r"^action_proj_out\.", "action_decoder.out."),
        (r"^condition_embedder_action\.", "level_embedder.condition_embedder."),
    ),
    reshape=(r"^action_",),
)

NETWORK: dict[str, tuple[Any, ...]] = {
    "patch_size": ([1, 2, 2],),
    "freq_dim": (256,),
    "cross_attn_norm": (True,),
    "eps": (1e-6,),
    "action_dim": (CHANNELS,),
}
"""Settings of the transformer that have no other values here."""
LEROBOT: dict[str, tuple[Any, ...]] = {
    "n_obs_steps": (1,),
    "video_exec_step": (-1,),
    "action_guidance_scale": (1.0,),
    "camera_layout": ("width_concat", "robotwin_tshape"),
    "dtype": ("bfloat16", "float32"),
    "image_hflip": (False, True),
    "normalization_mapping": (dict.fromkeys(("VISUAL", "STATE", "ACTION"), "IDENTITY"),),
}
"""Settings of LeRobot's policy that decide how it acts -> their values here."""


def folder_of(source: Source) -> str | None:
    """The subfolder that holds the network: "transformer" or ""; None if neither does."""
    if any(name.endswith("patch_embedding_mlp.weight") for name in source.tensor_names):
        return ""
    if any(name.startswith("transformer/") for name in source.files):
        names = source.tensors_in("transformer")
        if "patch_embedding_mlp.weight" in names:
            return "transformer"
    return None


def read(importer: LingBotVA, source: Source) -> Imported:
    """What becomes of a checkpoint of LingBot-VA. Raises WamkitError if a fact is missing."""
    folder = folder_of(source)
    assert folder is not None  # recognized
    settings = source.settings("config.json") if folder == "" else {}
    is_lerobot = settings.get("type") == "lingbot_va"
    if is_lerobot:
        spec, statistics, notes = _from_lerobot(source, settings)
    else:
        robot = _robot(importer, source)
        spec, notes = spec_of(robot), [*robot.notes]
        statistics = {"action": robot.statistics}
    sizes = settings if is_lerobot else source.settings(f"{folder}/config.json", "config.json")
    _expect_known(source, sizes, is_lerobot)
    spec["backbone"] |= _sizes(sizes)
    weights = {
        "backbone": Selection(rf"^(?!.*{ACTION[1:]})", layouts=(BACKBONE,), folder=folder),
        "action_head": Selection(ACTION, layouts=(HEAD,), folder=folder),
    }
    elsewhere = {"vae": BASE, "text_encoder": BASE}
    if any(name.startswith("vae/") for name in source.files):
        weights["vae"] = Selection(".", folder="vae")
        del elsewhere["vae"]
    if any(name.startswith("text_encoder/") for name in source.files):
        spec["text_encoder"] |= {"weights": source.path}
        del elsewhere["text_encoder"]
    return Imported(
        spec=spec,
        weights=weights,
        dropped={UNUSED: "a copy of the text embedder that nothing reads"},
        elsewhere=elsewhere,
        statistics=statistics,
        system="LingBot-VA" + (" (LeRobot)" if is_lerobot else f" ({importer.robot_of(source)})"),
        license="Apache-2.0",
        notes=notes,
    )


def _robot(importer: LingBotVA, source: Source) -> Robot:
    name = importer.robot_of(source)
    if name is None:
        raise WamkitError(
            f"nothing tells which robot {source.path} is for; its files hold no statistics, which "
            "are in the configurations of the published code",
            f"say it: --set importer.robot=libero ({', '.join(ROBOTS)})",
        )
    return ROBOTS[name]


def _expect_known(source: Source, config: dict[str, Any], is_lerobot: bool) -> None:
    """Raise WamkitError with every setting of the network, or of LeRobot, that is not here."""
    faults = list(unknown_values(config.get, NETWORK))
    if config.get("out_channels", config.get("in_channels")) != config.get("in_channels"):
        faults.append(f"out_channels = {config['out_channels']!r}, expected in_channels")
    if is_lerobot:
        faults += [*unknown_values(config.get, LEROBOT), *unknown_steps(source)]
    if faults:
        raise WamkitError(
            f"config.json of {source.path} states what wamkit's LingBot-VA is not: "
            f"{'; '.join(faults)}",
            "run this checkpoint by the authors' code, or by LeRobot",
        )


def _sizes(config: dict[str, Any]) -> dict[str, int]:
    """Sizes of the backbone that the config.json of a transformer states."""
    names = {
        "num_layers": "layers",
        "num_attention_heads": "num_heads",
        "attention_head_dim": "head_dim",
        "ffn_dim": "mlp_dim",
        "text_dim": "text_width",
        "in_channels": "latent_channels",
    }
    return {ours: config[theirs] for theirs, ours in names.items() if theirs in config}


def _from_lerobot(
    source: Source, table: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, dict[str, list[float]]], list[str]]:
    """Spec, statistics and notes of a policy folder of LeRobot."""
    _expect_known(source, table, is_lerobot=True)
    config = Settings(table, "config.json")
    used = config.whole_numbers("used_action_channel_ids", least=0)
    views = tuple(key.removeprefix(IMAGES) for key in config.texts("obs_cam_keys"))
    robot = replace(
        ROBOTS["libero"],
        views=views,
        size=(config.whole_number("height"), config.whole_number("width")),
        frames=config.whole_number("frame_chunk_size"),
        actions_per_frame=config.whole_number("action_per_frame"),
        memory=config.whole_number("attn_window", least=2) // 2,
        video_steps=config.whole_number("num_inference_steps"),
        action_steps=config.whole_number("action_num_inference_steps"),
        action_shift=config.number("action_snr_shift"),
        groups=(("action", len(used), "absolute"),),
        channel_map=tuple(used),
        inverted_t=config.text("camera_layout") == "robotwin_tshape",
        conventions="lerobot" if set(views) == LIBERO_CAMERAS else "",
    )
    spec = spec_of(robot)
    spec["schedules"]["video"] |= {
        "shift": config.number("snr_shift"),
        "guidance_scale": config.number("guidance_scale"),
    }
    if "dtype" in config:
        spec["dtype"] = config.text("dtype")
    if "max_sequence_length" in config:
        spec["text_encoder"]["max_length"] = config.whole_number("max_sequence_length")
    if config.get("image_hflip"):
        for view in spec["cameras"]["views"]:
            view["flip"] = "horizontal"
    notes = [
        "LeRobot states no rate of control, and not whether actions are differences: "
        f"actions.control_hz = {robot.control_hz} and kind = absolute are guesses."
    ]
    statistics = _lerobot_statistics(source)
    if not statistics:
        notes.append("There were no statistics next to the checkpoint: actions stay normalized.")
    return spec, statistics, notes


def _lerobot_statistics(source: Source) -> dict[str, dict[str, list[float]]]:
    """q01 and q99 of the action in the state of the step that unnormalizes actions."""
    for step in processor_steps(source, POSTPROCESSOR):
        rows = step_rows(source, step, "action", ("q01", "q99"))
        if len(rows) == 2:
            robot = replace(ROBOTS["libero"], q01=tuple(rows["q01"]), q99=tuple(rows["q99"]))
            exact = robot.statistics
            return {"action": {k: v if k not in ("max", "q99") else rows["q99"] for k, v in
                               exact.items()}}  # fmt: skip
    return {}
