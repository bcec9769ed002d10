"""What the settings of a run (`train_config.yaml`) decide of a spec."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wamkit.checkpoints.hydra_config import HydraConfig
from wamkit.checkpoints.robot_run import expect_readable, layout_of, vector_tables, view_tables
from wamkit.errors import WamkitError

ROBOTWIN_VIEWS = {
    **dict.fromkeys(("compact", "compact_288x256", "288x256"), ((192, 256), (96, 128), (96, 128))),
    **dict.fromkeys(("legacy", "legacy_384x320", "384x320"), ((256, 320), (128, 160), (128, 160))),
}
"""Their `robotwin_camera_layout` -> sizes of the views."""


def from_settings(settings: HydraConfig, base: Mapping[str, Any]) -> dict[str, Any]:
    """The tables that the settings decide, over those of `base`; {} without any.

    Raises WamkitError with all that cannot be composed.
    """
    if not settings:
        return {}
    expect_readable(settings, list(_unread(settings)))
    found = vector_tables(settings, base)
    if length := settings.get("model.qwen_context_len"):
        found["text_encoder"] = {"max_length": length}
    if views := view_tables(settings):
        found["cameras"] = _cameras(views, settings)
    if frames := settings.get("data.train.num_frames"):
        found["video"] = {"num_frames": 2, "frame_stride": frames - 1}
        found["actions"] = {**found.get("actions", {}), "chunk_size": frames - 1}
    return {**found, "schedules": _schedules(settings)}


def lora_scale(settings: HydraConfig) -> float | None:
    """alpha / rank of adapters that were not merged; None where the settings lack one of them."""
    alpha, rank = (settings.get(f"model.flux2_lora_config.{key}") for key in ("alpha", "rank"))
    return None if alpha is None or not rank else float(alpha) / float(rank)


def _schedules(settings: HydraConfig) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("video", "action"):
        own: dict[str, Any] = {}
        if shift := settings.get(f"model.{name}_scheduler.train_shift"):
            own["shift"] = float(shift)
        weight = settings.get(f"model.loss.lambda_{name}")
        if weight is not None:
            own["loss_weight"] = float(weight)
        if steps := settings.get("eval_num_inference_steps"):
            own["steps"] = steps
        if precision := settings.get("mixed_precision"):
            own["bf16_timesteps"] = precision == "bf16"
        found[name] = own
    return found


def _unread(settings: HydraConfig) -> Iterator[str]:
    if settings.get("model.pack_proprio_after_text") is False:
        yield "the state stands behind the padding of the prompt"
    for name in ("video", "action"):
        train, infer = (
            settings.get(f"model.{name}_scheduler.{kind}_shift") for kind in ("train", "infer")
        )
        if train != infer:
            yield f"{name}: another shift in training than in use"


def _cameras(views: Sequence[Mapping[str, Any]], settings: HydraConfig) -> dict[str, Any]:
    layout, fit = layout_of(settings), "cover"
    sizes = [view["size"] for view in views]
    if layout == "t_shape":
        name = str(settings.get("data.train.robotwin_camera_layout", "compact_288x256"))
        if name not in ROBOTWIN_VIEWS or len(views) != 3:
            raise WamkitError(
                f"{len(views)} cameras are arranged as {name!r}; known are three as "
                f"{', '.join(ROBOTWIN_VIEWS)}",
                "run this checkpoint by the authors' code",
            )
        fit, sizes = "stretch", [list(size) for size in ROBOTWIN_VIEWS[name]]
    return {
        "layout": layout,
        "views": [
            {**view, "size": size, "fit": fit, "rounding": "uint8"}
            for view, size in zip(views, sizes, strict=True)
        ],
    }
