"""What LeRobot's Fast-WAM class cannot express of a spec."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from wamkit.config.cameras import CameraConfig, View
from wamkit.config.parts import Conflict
from wamkit.config.robot import VideoConfig
from wamkit.config.spec import PolicySpec

from .lerobot import UNCLIPPED

PARTS = {
    "backbone": "wan",
    "vae": "wan2.2",
    "text_encoder": "umt5-xxl",
    "action_head": "mot",
    "paradigm": "single_pass",
}
FIXED: dict[str, dict[str, Any]] = {
    "backbone": {"latent_channels": 48, "cond_channels": 0, "cond_embeds_width": 0},
    "vae": {"width": "published"},
    "text_encoder": {"padding": "zeros"},
    "action_head": {
        "block": "own",
        "layer_stride": 1,
        "layers": None,
        "registers": 0,
        "text": "cross",
        "positions": "rotary",
        "bias": True,
        "encoder_layers": 1,
        "decoder": "linear",
    },
    "paradigm": {"target_context": "observed"},
}
"""Kind of part -> settings that the class has no other value for."""
CHOSEN = {"shift", "steps", "loss_weight", "bf16_sampling", "bf16_timesteps", "shared_sigma"}
"""Settings of a schedule that the class has, or that are of training alone."""


def conflicts(spec: PolicySpec) -> Iterator[Conflict]:
    """Yield everything in `spec` that the class cannot express."""
    for kind, name in PARTS.items():
        part = getattr(spec, kind)
        if part.name != name:
            yield _conflict(kind, part.name, name, "only policies of these five parts are Fast-WAM")
            continue
        for key, value in FIXED[kind].items():
            if (found := getattr(part, key)) != value:
                yield _conflict(f"{kind}.{key}", found, value)
    if spec.action_head.name == "mot" and spec.state.size:
        state = getattr(spec.action_head, "state", "text")
        if state != "text":
            yield _conflict("action_head.state", state, "text")
    fields = set(re.findall(r"{(.*?)}", spec.text_encoder.prompt_template)) - {"instruction"}
    if fields:
        yield _conflict("text_encoder.prompt_template", sorted(fields), ["instruction"])
    yield from _of_values(spec)
    yield from _of_cameras(spec)
    yield from _of_video(spec)
    yield from _of_schedules(spec)


def _of_values(spec: PolicySpec) -> Iterator[Conflict]:
    if spec.actions.clip is not None and spec.actions.clip < UNCLIPPED:
        yield _conflict(
            "actions.clip", spec.actions.clip, "no bound", "--set actions.clip=none cuts nothing"
        )
    if spec.state.size and (spec.state.clip or 0) < UNCLIPPED:
        found = spec.state.clip or "left open, which cuts beyond the data"
        yield _conflict("state.clip", found, "no bound", "--set state.clip=1e9 cuts nothing")
    for group in spec.actions.groups:
        if group.kind not in ("absolute", "delta"):
            yield _conflict(
                f"the kind of the group {group.name}", group.kind, "absolute and delta actions"
            )


def _of_cameras(spec: PolicySpec) -> Iterator[Conflict]:
    views = spec.cameras.views
    plain = CameraConfig(layout="side_by_side", views=views, columns=spec.cameras.columns)
    for key, value in plain.model_dump(exclude={"views"}).items():
        if (found := getattr(spec.cameras, key)) != value:
            yield _conflict(f"cameras.{key}", found, value)
    for i, view in enumerate(views):
        for key, value in View(name=view.name, size=view.size).model_dump().items():
            if (found := getattr(view, key)) != value:
                hint = f"--set cameras.views.{i}.{key}={value} accepts other images"
                yield _conflict(f"cameras.views.{i}.{key}", found, value, hint)
    if len({view.size for view in views}) > 1:
        sizes = [list(view.size) for view in views]
        yield _conflict("cameras.views", sizes, "one size for all")
    names = [view.name for view in views]
    if names != sorted(names):
        yield _conflict("cameras.views", names, sorted(names), "it orders cameras by their names")


def _of_video(spec: PolicySpec) -> Iterator[Conflict]:
    video = spec.video
    plain = VideoConfig(num_frames=video.num_frames, frame_stride=video.frame_stride)
    for key, value in plain.model_dump().items():
        if (found := getattr(video, key)) != value:
            yield _conflict(f"video.{key}", found, value)
    future = video.num_frames - 1
    if not future or future % 4 or spec.actions.chunk_size % future:
        yield Conflict(
            between=("video.num_frames", "actions.chunk_size", "lerobot"),
            why=f"a clip of {video.num_frames} images and a chunk of {spec.actions.chunk_size}: it "
            "needs 1 + 4 n images, and as many actions or a multiple of them for the 4 n",
            hint="export a policy that was trained so, such as 9 images and 32 actions",
        )


def _of_schedules(spec: PolicySpec) -> Iterator[Conflict]:
    for kind in ("video", "action"):
        own = getattr(spec.schedules, kind)
        for key, value in type(own)().model_dump().items():
            if key not in CHOSEN and (found := own.model_dump()[key]) != value:
                yield _conflict(f"schedules.{kind}.{key}", found, value)
        if not isinstance(own.shift, float | int):
            yield _conflict(f"schedules.{kind}.shift", own.shift, "a number")


def _conflict(key: str, found: Any, known: Any, hint: str = "") -> Conflict:
    return Conflict(
        between=(key, "lerobot"),
        why=f"{key} is {found}, and LeRobot's Fast-WAM class knows only {known}",
        hint=hint or "this policy runs in wamkit alone",
    )
