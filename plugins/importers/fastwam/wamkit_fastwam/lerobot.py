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
    step_settings,
    unknown_steps,
)
from wamkit.checkpoints.robot_run import ROWS
from wamkit.checkpoints.setting_values import Settings, unknown_values
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
    config = Settings(source.settings("config.json"), "config.json")
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


def _unknown(config: Settings) -> Iterator[str]:
    """Lines about settings that no spec expresses."""
    video, action = config.table("video_dit_config"), config.table("action_dit_config")
    for key, value in FIXED.items():
        if key in video and video.get(key) != value:
            yield f"video_dit_config.{key} = {video.get(key)!r}; known is {value!r}"
    for key in ("num_layers", "num_heads", "attn_head_dim", "text_dim"):
        if (own := action.value(key)) != (other := video.value(key)):
            yield f"action_dit_config.{key} = {own!r}; the video's is {other!r}"
    if config.value("torch_dtype") not in ("float32", "bfloat16"):
        yield f"torch_dtype = {config.get('torch_dtype')!r}; known are 'float32' and 'bfloat16'"
    for kind in ("video_scheduler", "action_scheduler"):
        if (steps := config.table(kind).value("num_train_timesteps")) != 1000:
            yield f"{kind}.num_train_timesteps = {steps!r}; known: 1000"
    for feature, mode in config.table("normalization_mapping").values.items():
        if mode not in (["IDENTITY"] if feature == "VISUAL" else [*NORMALIZATION]):
            yield f"normalization_mapping.{feature} = {mode!r}"
    yield from unknown_values(config.get, KNOWN)
    yield from _sizes_that_differ(config)


def _sizes_that_differ(config: Settings) -> Iterator[str]:
    """Lines about images that are not of equal size, and clips that do not fit a chunk."""
    frames, actions, stride = (
        config.whole_number(key)
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
    height, width = config.whole_numbers("image_size", 2)
    for name in names:
        shape = config.table("input_features").table(f"{IMAGES}{name}").get("shape")
        if shape is not None and shape != [3, height, width // len(names)]:
            yield (
                f"{IMAGES}{name} has the shape {shape}; known: equal parts of image_size = "
                f"{[height, width]}"
            )


def _spec(source: Source, config: Settings) -> dict[str, Any]:
    video, action = config.table("video_dit_config"), config.table("action_dit_config")
    views = cameras(config)
    height, width = config.whole_numbers("image_size", 2)
    rounded = config.get("torch_dtype") == "bfloat16"
    step = {"bf16_sampling": True, "bf16_timesteps": True} if rounded else {}
    shifts = {kind: config.table(f"{kind}_scheduler") for kind in ("video", "action")}
    own_shift = config.get("sigma_shift") is not None
    shift = config.number("sigma_shift") if own_shift else shifts["action"].number("infer_shift")
    state = _rule(source, config, "STATE")
    proprio = _state_size(config)
    own = {"size": proprio, **state, "clip": UNCLIPPED}
    group = {"name": "action", "size": config.whole_number("action_dim")}
    rule = _rule(source, config, "ACTION")
    frames, stride = (
        config.whole_number(key) for key in ("num_video_frames", "action_video_freq_ratio")
    )
    return {
        "dtype": config.text("torch_dtype"),
        **({"conventions": "lerobot"} if set(views) == LIBERO_CAMERAS else {}),
        "backbone": {
            "name": "wan",
            "variant": "2.2-ti2v-5b",
            **{ours: video.whole_number(theirs) for theirs, ours in SIZES.items()},
        },
        "vae": {"name": "wan2.2"},
        "text_encoder": {
            "name": "umt5-xxl",
            "max_length": config.whole_number("tokenizer_max_len"),
            "padding": "zeros",
            "prompt_template": config.text("prompt_template").replace("{task}", "{instruction}"),
        },
        "action_head": {
            "name": "mot",
            "width": action.whole_number("hidden_dim"),
            "mlp_dim": action.whole_number("ffn_dim"),
            "state": "text" if proprio else "none",
            "init": "from_backbone",
        },
        "paradigm": {"name": "single_pass"},
        "actions": {
            "chunk_size": config.whole_number("action_horizon"),
            "control_hz": 20,
            "groups": [group | {"normalization": rule["normalization"]}],
            "scaling": rule["scaling"],
        },
        "state": own if proprio else {"size": 0},
        "cameras": {
            "layout": "side_by_side",
            "views": [{"name": name, "size": [height, width // len(views)]} for name in views],
        },
        "video": {
            "num_frames": (frames - 1) // stride + 1,
            "frame_stride": stride,
        },
        "schedules": {
            "video": {
                "shift": shifts["video"].number("train_shift"),
                "loss_weighting": "bell",
                "loss_weight": config.table("loss").number("lambda_video"),
            },
            "action": {
                "shift": shift,
                "loss_weighting": "bell",
                "loss_weight": config.table("loss").number("lambda_action"),
                "steps": config.whole_number("num_inference_steps"),
                **step,
            },
        },
    }


def cameras(config: Settings) -> list[str]:
    """Names of the cameras from left to right, which is their order in the alphabet."""
    features = config.table("input_features")
    keys = [key for key in features.values if features.table(key).text("type") == "VISUAL"]
    return [key.removeprefix(IMAGES) for key in sorted(keys)]


def _state_size(config: Settings) -> int:
    """Values of a state; 0 for none."""
    if config.value("proprio_dim") is None:
        return 0
    return config.whole_number("proprio_dim", least=0)


def _rule(source: Source, config: Settings, feature: str) -> dict[str, Any]:
    """Normalization and scaling of a feature: as the saved step says, else `config.json`."""
    file, step = _step(source, feature)
    own = step_settings(step or {}, file)
    mapping = own.table("norm_map") if "norm_map" in own else config.table("normalization_mapping")
    mode = mapping.get(feature, "IDENTITY")
    if mode not in [*NORMALIZATION]:
        raise WamkitError(
            f"{mapping.where}: {mapping.full_name(feature)} = {mode!r}, expected one of "
            f"{', '.join(NORMALIZATION)}",
            "only LeRobot's own class runs this policy",
        )
    mode = NORMALIZATION[mode]
    scaling: dict[str, Any] = {"constant_range": SMALLEST, "constants": "hold"}
    if mode == "mean_std":
        scaling = {"std_epsilon": own.number("eps") if "eps" in own else 1e-8}
    return {"normalization": mode, "scaling": {} if mode == "none" else scaling}


def _step(source: Source, feature: str) -> tuple[str, Mapping[str, Any] | None]:
    """The file and the step that normalizes a feature; None for a file without it."""
    if feature == "ACTION":
        return POSTPROCESSOR, step_of(source, POSTPROCESSOR, "unnormalizer_processor")
    return PREPROCESSOR, step_of(source, PREPROCESSOR, "normalizer_processor")


def _statistics(
    source: Source, config: Settings
) -> tuple[dict[str, dict[str, list[float]]], list[str]]:
    """Statistics of "action" and "state" from the processors' steps, and lines about them."""
    found, lines = {}, []
    wanted = {"action": ("ACTION", ACTION)}
    if _state_size(config):
        wanted["state"] = ("STATE", STATE)
    for name, (feature, key) in wanted.items():
        _, step = _step(source, feature)
        rows = step_rows(source, step, key, ROWS) if step else {}
        if not rows:
            lines.append(f"There are no statistics of the {name}: its values stay normalized.")
            continue
        found[name], invented = _complete(rows, f"{source.path}: the statistics of {name}")
        if invented:
            lines.append(f"The {name}'s statistics lack {', '.join(invented)}: estimated.")
    return found, lines


def _complete(rows: dict[str, list[float]], what: str) -> tuple[dict[str, list[float]], list[str]]:
    """All six rows, and the names of those that are estimated from the others."""
    low, high = (rows.get(a) or rows.get(b) for a, b in (("min", "q01"), ("max", "q99")))
    if low is None and high is None and {"mean", "std"} <= rows.keys():
        pairs = list(zip(rows["mean"], rows["std"], strict=True))
        low, high = [m - 3 * s for m, s in pairs], [m + 3 * s for m, s in pairs]
    if low is None or high is None:
        raise WamkitError(
            f"{what} hold {', '.join(rows)}, expected minimum and maximum, q01 and q99, or mean "
            "and std",
            "copy the policy's folder again",
        )
    middle = [(a + b) / 2 for a, b in zip(low, high, strict=True)]
    quarter = [(b - a) / 4 for a, b in zip(low, high, strict=True)]
    guess = {"min": low, "max": high, "mean": middle, "std": quarter, "q01": low, "q99": high}
    return {row: rows.get(row, guess[row]) for row in ROWS}, [r for r in ROWS if r not in rows]


def _notes(source: Source, config: Settings) -> Iterator[str]:
    yield (
        "LeRobot states no rate of control, and not whether actions are differences: "
        "actions.control_hz = 20 and kind = absolute are guesses."
    )
    steps, chunk = (config.whole_number(key) for key in ("n_action_steps", "action_horizon"))
    yield f"LeRobot executes {steps} of {chunk} actions before the next chunk."
    if config.get("freeze_video_expert"):
        yield "Training there leaves the video network as it is; here it learns, unless train says."
    if (seed := config.get("inference_seed")) is not None:
        yield f"LeRobot begins every chunk with the same noise (seed {seed}); here it is drawn."
    toggle = step_settings(step_of(source, POSTPROCESSOR, TOGGLE) or {}, POSTPROCESSOR)
    if dims := toggle.get("toggle_dimensions"):
        yield (
            f"LeRobot turns actions {dims} into signs, 1 - 2 a rounded to -1 or 1, after they are "
            "in physical units; here they come as they are."
        )
    shifts = config.table("action_scheduler")
    if (train := shifts.number("train_shift")) != shifts.number("infer_shift"):
        yield f"Training there shifts the action's levels by {train}."
    step = step_of(source, PREPROCESSOR, "rename_observations_processor")
    if names := step_settings(step or {}, PREPROCESSOR).get("rename_map"):
        yield f"Observations are renamed there first: {names}; cameras have the new names here."
