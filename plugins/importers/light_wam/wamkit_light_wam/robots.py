"""What a run's `config.yaml` says about the robot: actions, state and cameras."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from wamkit.checkpoints.hydra_config import HydraConfig
from wamkit.errors import WamkitError

NORMALIZATION = {"min/max": "min_max", "q01/q99": "quantile", "z-score": "mean_std"}
"""Their `norm_default_mode` -> ours."""
LAYOUTS = {"horizontal": "side_by_side", "robotwin": "t_shape"}
"""Their `concat_multi_camera` -> ours."""
T_SHAPE = ([256, 320], [128, 160], [128, 160])
"""Sizes of the views of `robotwin`, which are fixed in the code: head, left and right wrist."""


def normalization(settings: HydraConfig) -> str:
    """The rule for all dimensions. Raises WamkitError for one that is not known."""
    processor = "data.train.processor"
    rule = settings.get(f"{processor}.norm_default_mode", "min/max")
    faults = [f"normalizes by {rule!r}, expected {', '.join(NORMALIZATION)}"] * (
        rule not in NORMALIZATION
    )
    for option in ("norm_exception_mode", "action_state_transforms", "use_stepwise_action_norm"):
        if value := settings.get(f"{processor}.{option}"):
            faults.append(f"sets {option} = {value!r}")
    if faults:
        raise WamkitError(
            f"{settings.where} {'; '.join(faults)}", "this normalization of Light-WAM is not read"
        )
    return NORMALIZATION[rule]


def robot(
    spec: Mapping[str, Any], settings: HydraConfig, rule: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tables `actions` and `state`."""
    actions, state = dict(spec["actions"]), {**spec["state"], "normalization": rule}
    if frames := settings.get("data.train.num_frames"):
        actions["chunk_size"] = frames - 1
    if shapes := settings.get("data.train.shape_meta.state"):
        state["size"] = sum(entry["shape"] for entry in shapes)
    if shapes := settings.get("data.train.shape_meta.action"):
        size = sum(entry["shape"] for entry in shapes)
        masks = settings.get("data.train.processor.delta_action_dim_mask") or {}
        flags = [bool(flag) for mask in masks.values() for flag in mask] or [False] * size
        if len(flags) != size:
            raise WamkitError(
                f"{settings.where} marks {len(flags)} of {size} values of an action as differences",
                "copy the file again",
            )
        runs = [(is_delta, len(list(run))) for is_delta, run in groupby(flags)]
        actions["groups"] = [
            {"name": f"group{i}", "size": length, "kind": "delta" if is_delta else "absolute"}
            | {"normalization": rule}
            for i, (is_delta, length) in enumerate(runs)
        ]
    return actions, state


def cameras(images: Sequence[Mapping[str, Any]], settings: HydraConfig) -> dict[str, Any]:
    """The table `cameras`: images are resized to the shapes of the views, then laid out."""
    mode = settings.get("data.train.concat_multi_camera", "horizontal")
    if mode not in LAYOUTS:
        raise WamkitError(
            f"{settings.where} lays cameras out as {mode!r}; known are {', '.join(LAYOUTS)}",
            "this layout of Light-WAM is not read",
        )
    views = [{"name": entry["key"], "size": list(entry["shape"][1:])} for entry in images]
    if mode == "robotwin":
        for view, size in zip(views, T_SHAPE, strict=True):
            view |= {"size": size, "recorded_size": view["size"]}
    return {"layout": LAYOUTS[mode], "views": views}
