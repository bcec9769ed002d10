"""Read a policy folder of LeRobot's Fast-WAM: `config.json`, weights, processors with statistics.

Written from `lerobot/policies/fastwam` and `lerobot/processor` of github.com/huggingface/lerobot,
commit 7427f31.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from wamkit.checkpoints.lerobot_policy import (
    LIBERO_CAMERAS,
    POSTPROCESSOR,
    PREPROCESSOR,
    step_of,
    step_rows,
    unknown_steps,
)
from wamkit.checkpoints.robot_run import ROWS
from wamkit.checkpoints.setting_values import unknown_values, whole_number
from wamkit.checkpoints.source import Source
from wamkit.config.importing import Imported, Selection
from wamkit.errors import WamkitError

from .specs import WAN

TYPE = "fastwam"
IMAGES, STATE, ACTION = "observation.images.", "observation.state", "action"
TOGGLE = "fastwam_action_toggle_processor"
VIDEO, EXPERT = (
    rf"^(model\.)?mot\.(mixtures\.{kind}|layers\.\d+\.blocks\.{kind})\."
    for kind in ("video", "action")
)
PROPRIO = r"^(model\.)?proprio_encoder\."
NORMALIZATION = {
    "MEAN_STD": "mean_std",
    "MIN_MAX": "min_max",
    "QUANTILES": "quantile",
    "IDENTITY": "none",
}
"""Their mode -> ours."""
SMALLEST = 1e-30
"""A range below this is 0, and decodes to a constant."""
UNCLIPPED = 1e9
"""Bound of normalized states: LeRobot has none."""
SIZES = {
    "num_layers": "layers",
    "num_heads": "num_heads",
    "attn_head_dim": "head_dim",
    "ffn_dim": "mlp_dim",
    "text_dim": "text_width",
    "in_dim": "latent_channels",
}
"""Their size of the video network -> ours."""
FIXED: Mapping[str, Any] = {
    "patch_size": [1, 2, 2],
    "freq_dim": 256,
    "eps": 1e-6,
    "seperated_timestep": True,
    "video_attention_mask_mode": "first_frame_causal",
    "action_conditioned": False,
}
"""What the video network of Fast-WAM is here, by their names."""

KNOWN: Mapping[str, tuple[Any, ...]] = {
    "n_obs_steps": (1,),
    "text_cfg_scale": (1.0,),
    "tiled": (False,),
}
"""Settings of `config.json` that decide how a policy acts, and have no other values here."""


def is_folder(source: Source) -> bool:
    """Whether `source` is a policy folder of LeRobot's Fast-WAM."""
    return source.settings("config.json").get("type") == TYPE


def rules(kind: str) -> tuple[tuple[str, str], ...]:
    """Names of an expert there -> names in the published checkpoint."""
    return (
        (r"^model\.", ""),
        (rf"^mot\.layers\.(\d+)\.blocks\.{kind}\.", rf"mot.mixtures.{kind}.blocks.\1."),
    )


def read(source: Source) -> Imported:
    """What becomes of the folder. Raises WamkitError if it states what is not known here."""
    config = source.settings("config.json")
    try:
        return _read(source, config)
    except WamkitError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise WamkitError(
            f"config.json or a processor of {source.path} is none of LeRobot's Fast-WAM: "
            f"{type(error).__name__} {error}",
            "copy the policy's folder again",
        ) from None


def _read(source: Source, config: Mapping[str, Any]) -> Imported:
    if faults := [*_unknown(config), *unknown_steps(source, (TOGGLE,))]:
        raise WamkitError(
            f"config.json of {source.path} states what wamkit's Fast-WAM is not\n  "
            + "\n  ".join(faults),
            "only LeRobot's own class runs this policy",
        )
    statistics, lines = _statistics(source, config)
    return Imported(
        spec=_spec(source, config),
        weights={
            "backbone": Selection(VIDEO, rules("video")),
            "action_head": Selection(f"{EXPERT}|{PROPRIO}", rules("action")),
        },
        elsewhere={"vae": WAN, "text_encoder": WAN},
        statistics=statistics,
        system="Fast-WAM (LeRobot)",
        license=str(config.get("license") or "not stated"),
        notes=(*_notes(source, config), *lines),
    )


def _unknown(config: Mapping[str, Any]) -> Iterator[str]:
    """Lines about settings that no spec expresses."""
    video, action = config["video_dit_config"], config["action_dit_config"]
    for key, value in FIXED.items():
        if key in video and video[key] != value:
            yield f"video_dit_config.{key} = {video[key]!r}; known is {value!r}"
    for key in ("num_layers", "num_heads", "attn_head_dim", "text_dim"):
        if action[key] != video[key]:
            yield f"action_dit_config.{key} = {action[key]!r}; the video's is {video[key]!r}"
    if config["torch_dtype"] not in ("float32", "bfloat16"):
        yield f"torch_dtype = {config['torch_dtype']!r}; known are 'float32' and 'bfloat16'"
    for kind in ("video_scheduler", "action_scheduler"):
        if config[kind]["num_train_timesteps"] != 1000:
            yield f"{kind}.num_train_timesteps = {config[kind]['num_train_timesteps']}; known: 1000"
    for feature, mode in config["normalization_mapping"].items():
        if mode not in (("IDENTITY",) if feature == "VISUAL" else NORMALIZATION):
            yield f"normalization_mapping.{feature} = {mode!r}"
    yield from unknown_values(config.get, KNOWN)
    yield from _sizes_that_differ(config)


def _sizes_that_differ(config: Mapping[str, Any]) -> Iterator[str]:
    """Lines about images that are not of equal size, and clips that do not fit a chunk."""
    frames, actions, stride = (
        whole_number(config[key], key, "config.json")
        for key in ("num_video_frames", "action_horizon", "action_video_freq_ratio")
    )
    if (frames - 1) % stride or frames - 1 != actions:
        yield (
            f"num_video_frames = {frames} with action_horizon = {actions} and "
            f"action_video_freq_ratio = {stride}; known: an image more than actions, a multiple "
            "of the ratio"
        )
    names = cameras(config)
    if not names:
        yield "input_features has no image"
    height, width = config["image_size"]
    for name in names:
        shape = config["input_features"][f"{IMAGES}{name}"].get("shape")
        if shape is not None and list(shape) != [3, height, width // len(names)]:
            yield (
                f"{IMAGES}{name} has the shape {shape}; known: equal parts of image_size = "
                f"{[height, width]}"
            )


def _spec(source: Source, config: Mapping[str, Any]) -> dict[str, Any]:
    video, action = config["video_dit_config"], config["action_dit_config"]
    views = cameras(config)
    height, width = config["image_size"]
    step = {"bf16_sampling": True} if config["torch_dtype"] == "bfloat16" else {}
    shifts = {kind: config[f"{kind}_scheduler"] for kind in ("video", "action")}
    sigma_shift = config.get("sigma_shift") or shifts["action"]["infer_shift"]
    state = _rule(source, config, "STATE", "normalization_mapping")
    own = {"size": config["proprio_dim"], **state, "clip": UNCLIPPED}
    group = {"name": "action", "size": config["action_dim"]}
    rule = _rule(source, config, "ACTION", "normalization_mapping")
    return {
        "dtype": config["torch_dtype"],
        **({"conventions": "lerobot"} if set(views) == LIBERO_CAMERAS else {}),
        "backbone": {
            "name": "wan",
            "variant": "2.2-ti2v-5b",
            **{ours: video[theirs] for theirs, ours in SIZES.items()},
        },
        "vae": {"name": "wan2.2"},
        "text_encoder": {
            "name": "umt5-xxl",
            "max_length": config["tokenizer_max_len"],
            "padding": "zeros",
            "prompt_template": config["prompt_template"].replace("{task}", "{instruction}"),
        },
        "action_head": {
            "name": "mot",
            "width": action["hidden_dim"],
            "mlp_dim": action["ffn_dim"],
            "state": "text" if config["proprio_dim"] else "none",
            "init": "from_backbone",
        },
        "paradigm": {"name": "single_pass"},
        "actions": {
            "chunk_size": config["action_horizon"],
            "control_hz": 20,
            "groups": [group | {"normalization": rule["normalization"]}],
            "scaling": rule["scaling"],
        },
        "state": own if config["proprio_dim"] else {"size": 0},
        "cameras": {
            "layout": "side_by_side",
            "views": [{"name": name, "size": [height, width // len(views)]} for name in views],
        },
        "video": {
            "num_frames": (config["num_video_frames"] - 1) // config["action_video_freq_ratio"] + 1,
            "frame_stride": config["action_video_freq_ratio"],
        },
        "schedules": {
            "video": {
                "shift": shifts["video"]["train_shift"],
                "loss_weighting": "bell",
                "loss_weight": config["loss"]["lambda_video"],
            },
            "action": {
                "shift": sigma_shift,
                "loss_weighting": "bell",
                "loss_weight": config["loss"]["lambda_action"],
                "steps": config["num_inference_steps"],
                **step,
            },
        },
    }


def cameras(config: Mapping[str, Any]) -> list[str]:
    """Names of the cameras from left to right, which is their order in the alphabet."""
    keys = [key for key, of in config["input_features"].items() if of["type"] == "VISUAL"]
    return [key.removeprefix(IMAGES) for key in sorted(keys)]


def _rule(source: Source, config: Mapping[str, Any], feature: str, key: str) -> dict[str, Any]:
    """Normalization and scaling of a feature: as the saved step says, else `config.json`."""
    step = _step(source, feature)
    own = (step or {}).get("config", {})
    mode = NORMALIZATION[own.get("norm_map", config[key]).get(feature, "IDENTITY")]
    scaling: dict[str, Any] = {"constant_range": SMALLEST, "constants": "hold"}
    if mode == "mean_std":
        scaling = {"std_epsilon": own.get("eps", 1e-8)}
    return {"normalization": mode, "scaling": {} if mode == "none" else scaling}


def _step(source: Source, feature: str) -> Mapping[str, Any] | None:
    if feature == "ACTION":
        return step_of(source, POSTPROCESSOR, "unnormalizer_processor")
    return step_of(source, PREPROCESSOR, "normalizer_processor")


def _statistics(
    source: Source, config: Mapping[str, Any]
) -> tuple[dict[str, dict[str, list[float]]], list[str]]:
    """Statistics of "action" and "state" from the processors' steps, and lines about them."""
    found, lines = {}, []
    wanted = {"action": ("ACTION", ACTION)}
    if config["proprio_dim"]:
        wanted["state"] = ("STATE", STATE)
    for name, (feature, key) in wanted.items():
        step = _step(source, feature)
        rows = step_rows(source, step, key) if step else {}
        rows = {row: rows[row] for row in ROWS if row in rows}
        if not rows:
            lines.append(f"There are no statistics of the {name}: its values stay normalized.")
            continue
        found[name], invented = _complete(rows)
        if invented:
            lines.append(f"The {name}'s statistics lack {', '.join(invented)}: estimated.")
    return found, lines


def _complete(rows: dict[str, list[float]]) -> tuple[dict[str, list[float]], list[str]]:
    """All six rows, and the names of those that are estimated from the others."""
    if "min" in rows or "q01" in rows:
        low, high = (rows.get(a, rows.get(b, [])) for a, b in (("min", "q01"), ("max", "q99")))
    else:
        pairs = list(zip(rows["mean"], rows["std"], strict=True))
        low, high = [m - 3 * s for m, s in pairs], [m + 3 * s for m, s in pairs]
    middle = [(a + b) / 2 for a, b in zip(low, high, strict=True)]
    quarter = [(b - a) / 4 for a, b in zip(low, high, strict=True)]
    guess = {"min": low, "max": high, "mean": middle, "std": quarter, "q01": low, "q99": high}
    return {row: rows.get(row, guess[row]) for row in ROWS}, [r for r in ROWS if r not in rows]


def _notes(source: Source, config: Mapping[str, Any]) -> Iterator[str]:
    yield (
        "LeRobot states no rate of control, and not whether actions are differences: "
        "actions.control_hz = 20 and kind = absolute are guesses."
    )
    steps = whole_number(config["n_action_steps"], "n_action_steps", "config.json")
    yield f"LeRobot executes {steps} of {config['action_horizon']} actions before the next chunk."
    if config.get("freeze_video_expert"):
        yield "Training there leaves the video network as it is; here it learns, unless train says."
    if (seed := config.get("inference_seed")) is not None:
        yield f"LeRobot begins every chunk with the same noise (seed {seed}); here it is drawn."
    toggle = (step_of(source, POSTPROCESSOR, TOGGLE) or {}).get("config", {})
    if dims := toggle.get("toggle_dimensions"):
        yield (
            f"LeRobot turns actions {dims} into signs, 1 - 2 a rounded to -1 or 1, after they are "
            "in physical units; here they come as they are."
        )
    shifts = config["action_scheduler"]
    if shifts["train_shift"] != shifts["infer_shift"]:
        yield f"Training there shifts the action's levels by {shifts['train_shift']}."
    renamed = step_of(source, PREPROCESSOR, "rename_observations_processor") or {}
    if names := renamed.get("config", {}).get("rename_map"):
        yield f"Observations are renamed there first: {names}; cameras have the new names here."
