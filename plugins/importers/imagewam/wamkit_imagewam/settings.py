"""What the settings of a run (`train_config.yaml`) decide of a spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wamkit.errors import WamkitError

NORMALIZATION = {"min/max": "min_max", "q01/q99": "quantile", "z-score": "mean_std"}
"""Their `norm_default_mode` -> ours."""
LAYOUTS = {"horizontal": "side_by_side", "robotwin": "t_shape"}
"""Their `concat_multi_camera` -> ours."""
ROBOTWIN_VIEWS = {
    **dict.fromkeys(("compact", "compact_288x256", "288x256"), ((192, 256), (96, 128), (96, 128))),
    **dict.fromkeys(("legacy", "legacy_384x320", "384x320"), ((256, 320), (128, 160), (128, 160))),
}
"""Their `robotwin_camera_layout` -> sizes of the views."""


def from_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The tables that the settings decide; {} without any.

    Raises WamkitError if they ask for what cannot be composed.
    """
    if not settings:
        return {}
    model, data = settings.get("model") or {}, (settings.get("data") or {}).get("train") or {}
    processor = data.get("processor") or {}
    _expect_readable(model, data, processor)
    found: dict[str, Any] = {}
    if model.get("qwen_context_len"):
        found["text_encoder"] = {"max_length": model["qwen_context_len"]}
    rule = NORMALIZATION[processor.get("norm_default_mode", "min/max")]
    shapes = data.get("shape_meta") or {}
    if shapes.get("action"):
        size = sum(entry["shape"] for entry in shapes["action"])
        found["actions"] = {"groups": _groups(size, processor, rule)}
    if shapes.get("state"):
        size = sum(entry["shape"] for entry in shapes["state"])
        found["state"] = {"size": size, "normalization": rule}
    if shapes.get("images"):
        found["cameras"] = _cameras(shapes["images"], data)
    if data.get("num_frames"):
        steps = data["num_frames"] - 1
        found["video"] = {"num_frames": 2, "frame_stride": steps}
        found["actions"] = found.get("actions", {}) | {"chunk_size": steps}
    return found | {"schedules": _schedules(settings, model)}


def _schedules(settings: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("video", "action"):
        theirs, own = model.get(f"{name}_scheduler") or {}, {}
        if "train_shift" in theirs:
            own["shift"] = float(theirs["train_shift"])
        weight = (model.get("loss") or {}).get(f"lambda_{name}")
        if weight is not None:
            own["loss_weight"] = float(weight)
        if settings.get("eval_num_inference_steps"):
            own["steps"] = settings["eval_num_inference_steps"]
        if settings.get("mixed_precision"):
            own["bf16_timesteps"] = settings["mixed_precision"] == "bf16"
        found[name] = own
    return found


def _expect_readable(
    model: Mapping[str, Any], data: Mapping[str, Any], processor: Mapping[str, Any]
) -> None:
    """Raise WamkitError, with all faults, for settings that have no counterpart here."""
    faults = []
    mode = processor.get("norm_default_mode", "min/max")
    if mode not in NORMALIZATION:
        faults.append(f"numbers are normalized by {mode!r}; known: {', '.join(NORMALIZATION)}")
    for key in ("action_state_transforms", "norm_exception_mode"):
        if processor.get(key):
            faults.append(f"data.train.processor.{key} is set: actions are not those of the robot")
    if processor.get("use_stepwise_action_norm"):
        faults.append("each step of a chunk is normalized by statistics of its own")
    if data.get("concat_multi_camera", "horizontal") not in LAYOUTS:
        faults.append(
            f"cameras are laid out as {data['concat_multi_camera']!r}; known: {', '.join(LAYOUTS)}"
        )
    if model.get("pack_proprio_after_text") is False:
        faults.append("the state stands behind the padding of the prompt")
    for name in ("video", "action"):
        shifts = model.get(f"{name}_scheduler") or {}
        if shifts.get("train_shift") != shifts.get("infer_shift"):
            faults.append(f"{name}: another shift in training than in use")
    if faults:
        raise WamkitError(
            "the settings of this run cannot be composed: " + "; ".join(faults),
            "run this checkpoint by the authors' code, or name one that was trained without them",
        )


def _groups(size: int, processor: Mapping[str, Any], rule: str) -> list[dict[str, Any]]:
    """Groups of numbers that are differences, and of those that are targets."""
    masks = processor.get("delta_action_dim_mask") or {}
    mask = [bool(flag) for flags in masks.values() for flag in flags] or [False] * size
    groups: list[dict[str, Any]] = []
    for flag in mask:
        kind = "delta" if flag else "absolute"
        if groups and groups[-1]["kind"] == kind:
            groups[-1]["size"] += 1
        else:
            name = f"group{len(groups)}"
            groups.append({"name": name, "size": 1, "kind": kind, "normalization": rule})
    return groups


def _cameras(images: Sequence[Mapping[str, Any]], data: Mapping[str, Any]) -> dict[str, Any]:
    layout = LAYOUTS[data.get("concat_multi_camera", "horizontal")]
    views = [{"name": entry["key"], "size": list(entry["shape"][1:])} for entry in images]
    fit = "cover"
    if layout == "t_shape":
        name = str(data.get("robotwin_camera_layout", "compact_288x256"))
        if name not in ROBOTWIN_VIEWS or len(views) != 3:
            raise WamkitError(
                f"{len(views)} cameras are laid out as {name!r}; known are three as "
                f"{', '.join(ROBOTWIN_VIEWS)}",
                "run this checkpoint by the authors' code",
            )
        fit = "stretch"
        for view, size in zip(views, ROBOTWIN_VIEWS[name], strict=True):
            view["size"] = list(size)
    return {
        "layout": layout,
        "views": [{**view, "fit": fit, "rounding": "uint8"} for view in views],
    }


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, table by table."""
    made = dict(base)
    for key, value in over.items():
        old = made.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        made[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return made
