"""What the settings of a run (`train_config.yaml`) decide of a spec."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wamkit.checkpoints.hydra_config import HydraConfig
from wamkit.checkpoints.robot_run import (
    expect_readable,
    layout_of,
    precision_tables,
    schedule_tables,
    unread_schedules,
    vector_tables,
    view_tables,
)
from wamkit.checkpoints.setting_values import number, unknown_values, whole_number
from wamkit.config.extends import merge
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
    found: dict[str, Any] = {**vector_tables(settings, base)}
    if length := settings.get("model.qwen_context_len"):
        found["text_encoder"] = {"max_length": length}
    if views := view_tables(settings):
        found["cameras"] = _cameras(views, settings)
    if (frames := settings.get("data.train.num_frames")) is not None:
        frames = whole_number(frames, "data.train.num_frames", settings.where, least=2)
        found["video"] = {"num_frames": 2, "frame_stride": frames - 1}
        found["actions"] = {**found.get("actions", {}), "chunk_size": frames - 1}
    found["schedules"] = schedule_tables(settings)
    return merge(found, precision_tables(settings, found["schedules"]))


def lora_scale(settings: HydraConfig) -> float | None:
    """alpha / rank of adapters that were not merged; None where the settings lack one of them."""
    name = "model.flux2_lora_config"
    alpha, rank = (settings.get(f"{name}.{key}") for key in ("alpha", "rank"))
    if alpha is None or rank is None:
        return None
    rank = whole_number(rank, f"{name}.rank", settings.where)
    return number(alpha, f"{name}.alpha", settings.where) / rank


KNOWN: Mapping[str, tuple[Any, ...]] = {
    "model._target_": ("imagewam.runtime.create_imagewam_flux2_klein",),
    "model.pack_proprio_after_text": (True,),
    "data.train.endpoint_frames_only": (True,),
}
"""Settings that ImageWAM on FLUX.2 has no other values of here."""


def _unread(settings: HydraConfig) -> Iterator[str]:
    yield from unknown_values(settings.get, KNOWN)
    yield from unread_schedules(settings)


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
