"""Values of the robot's side that nobody gave: actions, state, cameras and clip, with reasons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ..cameras import CameraConfig
from ..parts import BackboneConfig, ParadigmConfig, VAEConfig
from ..robot import ActionConfig
from ..tiling import nearest_multiple
from .draft import Draft

SECONDS = 1.6
"""Length of a chunk whose size is left open."""
PIXELS = 224
"""Height and width of a view whose size is left open, as most vision networks have it."""
FUTURE = 8
"""Images of the future that a clip has at least where the VAE allows it."""
LAYOUTS = ("side_by_side", "t_shape", "grid")
"""Tried in this order for several views."""
GROUPS = [{"name": "pose", "size": 6, "kind": "delta"}, {"name": "gripper", "size": 1}]
"""An arm whose hand is moved: the commonest action of published policies."""


def fill_robot(draft: Draft) -> None:
    """Fill in what is missing of actions, cameras and video, and the dtype."""
    _fill_actions(draft)
    backbone, vae = draft.part("backbone"), draft.part("vae")
    if not isinstance(backbone, BackboneConfig) or not isinstance(vae, VAEConfig):
        return  # sizes follow from both
    _fill_cameras(draft, backbone, vae)
    _fill_video(draft, backbone, vae)
    if "dtype" not in draft.raw and any(vars(backbone.traits.trained_with).values()):
        reason = "half the memory of float32; noise levels and losses stay in float32"
        draft.choose("dtype", "bfloat16", reason)


def _fill_actions(draft: Draft) -> None:
    actions = draft.raw.setdefault("actions", {})
    if "groups" not in actions:
        why = "no actions were given: a hand that is moved, and a gripper; write your robot's"
        draft.choose("actions.groups", [dict(group) for group in GROUPS], why)
    if "control_hz" not in actions:
        usual = ActionConfig.model_fields["control_hz"].default
        draft.choose("actions.control_hz", usual, "no rate was given; write your robot's")
    if "chunk_size" not in actions:
        rate = actions["control_hz"]
        if isinstance(rate, int | float) and rate > 0:
            chunk = min(64, max(8, round(SECONDS * rate / 8) * 8))
            reason = f"{chunk / rate:g} s at {rate:g} actions a second"
            draft.choose("actions.chunk_size", chunk, reason)


def _fill_cameras(draft: Draft, backbone: BackboneConfig, vae: VAEConfig) -> None:
    token = [s * p for s, p in zip(vae.stride[1:], backbone.traits.patch_size[1:], strict=True)]
    size = [nearest_multiple(PIXELS, token[0]), nearest_multiple(PIXELS, token[1])]
    whole = f"whole tokens of {token[0]}x{token[1]} pixels"
    cameras = draft.raw.setdefault("cameras", {})
    if "views" not in cameras:
        reason = f"no views were given: one camera, {whole}"
        draft.choose("cameras.views", [{"name": "front", "size": size}], reason)
    views = _tables(cameras["views"])
    known = [v["size"] for v in views if isinstance(v.get("size"), list) and len(v["size"]) == 2]
    for place, view in enumerate(views):
        if "size" not in view:
            view["size"], reason = list(size), f"the usual size, in {whole}"
            if images := draft.images.get(str(view.get("name"))):
                near_images = [
                    nearest_multiple(min(PIXELS, n), t) for n, t in zip(images, token, strict=True)
                ]
                view["size"] = near_images
                reason = f"from images of {images[0]}x{images[1]}, in {whole}"
            if known:
                view["size"][0] = known[0][0]
                reason = "as high as the others"
            draft.note(f"cameras.views.{place}.size", view["size"], reason)
    if "layout" not in cameras and len(views) > 1:
        for layout in LAYOUTS:
            try:
                attempt = CameraConfig.model_validate({**cameras, "layout": layout})
            except ValidationError:  # the check reports it
                return
            if not list(attempt.conflicts()):
                if layout == LAYOUTS[0] and draft.is_open("cameras.views"):
                    return  # as it was
                high, wide = attempt.canvas
                reason = f"the views tile a canvas of {high}x{wide} pixels"
                draft.choose("cameras.layout", layout, reason)
                return


def _fill_video(draft: Draft, backbone: BackboneConfig, vae: VAEConfig) -> None:
    video, actions = draft.raw.setdefault("video", {}), draft.raw["actions"]
    observed, chunk = video.get("num_observed", 1), actions.get("chunk_size")
    if not all(isinstance(n, int) and n > 0 for n in (observed, chunk)):
        return
    stride = vae.stride[0]
    if "num_frames" not in video:
        future, reason = _future(draft, backbone, stride, chunk)
        draft.choose("video.num_frames", observed + future, reason)
    future = video["num_frames"] - observed if isinstance(video["num_frames"], int) else 0
    if "frame_stride" not in video and future > 0:
        every = max(1, round(chunk / future))
        spans = "which spans the chunk" if every * future == chunk else "nearest to the chunk"
        images = "1 future image reaches" if future == 1 else f"{future} future images reach"
        reason = f"{images} {every * future} actions ahead, {spans} of {chunk}"
        draft.choose("video.frame_stride", every, reason)


def keep_span(draft: Draft, before: Mapping[str, Any]) -> None:
    """Let the future of a clip reach as far as before, where its images are others than before."""
    video = draft.raw.get("video", {})
    old = {key: before.get(key, video.get(key)) for key in ("num_frames", "frame_stride")}
    counts = [old["num_frames"], old["frame_stride"], video.get("num_frames")]
    if video.get("num_frames") == old["num_frames"] or not draft.is_open("video.frame_stride"):
        return
    observed = video.get("num_observed", 1)
    if all(isinstance(n, int) for n in (*counts, observed)) and counts[2] > observed:
        ahead = (counts[0] - observed) * counts[1]
        every = max(1, round(ahead / (counts[2] - observed)))
        if every != video.get("frame_stride"):
            draft.choose("video.frame_stride", every, f"reaches {ahead} actions ahead, as before")


def _future(draft: Draft, backbone: BackboneConfig, stride: int, chunk: int) -> tuple[int, str]:
    """Images of the future in a clip, and why so many."""
    traits, paradigm = backbone.traits, draft.part("paradigm")
    most = paradigm.max_target_frames if isinstance(paradigm, ParadigmConfig) else None
    if not traits.imagines:
        return 0, f"{backbone.name} imagines no future"
    if traits.frames == "one":
        return stride, f"{backbone.name} denoises one frame a pass"
    if most == 1 and paradigm is not None:
        return stride, f"{paradigm.name} imagines one latent frame"
    fitting = [n for n in range(stride, chunk + 1, stride) if chunk % n == 0]
    future = min(fitting, key=lambda n: abs(n - FUTURE), default=0)
    future = future or max(1, round(FUTURE / stride)) * stride
    latents = future // stride
    plural = "s" if latents > 1 else ""
    return future, (
        f"1 observed, {future} of the future: {latents} latent frame{plural} of {stride} images"
    )


def _tables(given: Any) -> list[dict[str, Any]]:
    """The views that are tables; what else stands there the check reports."""
    return [each for each in given if isinstance(each, dict)] if isinstance(given, list) else []
