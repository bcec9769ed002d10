"""Views that the VAE encodes by themselves, with their latents laid on the canvas."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from wamkit import check
from wamkit.config.cameras import CameraConfig, View
from wamkit.config.spec import parse
from wamkit.policy.clips import decode_latents, encode_canvas
from wamkit.policy.view_steps import fit_to_view
from wamkit.testing.parity import other_values, same_values

RAW: dict[str, Any] = {
    "backbone": "toy",
    "vae": {"name": "wan2.1", "width": "tiny"},
    "text_encoder": "bytes",
    "action_head": "mot",
    "paradigm": "joint",
    "actions": {"chunk_size": 4, "groups": [{"name": "arm", "size": 2}]},
    "cameras": {
        "layout": "inverted_t",
        "encode": "views",
        "views": [
            {"name": "head", "size": [32, 64]},
            {"name": "left", "size": [16, 32]},
            {"name": "right", "size": [16, 32]},
        ],
    },
    "video": {"num_frames": 5},
}


def test_an_inverted_t_has_its_first_view_below_the_others() -> None:
    boxes = CameraConfig.model_validate(RAW["cameras"]).boxes()
    assert boxes == {"left": (0, 0, 16, 32), "right": (0, 32, 16, 32), "head": (16, 0, 32, 64)}


@torch.no_grad()
def test_latents_of_a_view_do_not_depend_on_its_neighbors() -> None:
    spec = parse(RAW)
    vae = spec.vae.build()
    canvas = torch.rand(1, 3, 5, 48, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    z = encode_canvas(spec, vae, canvas)
    same_values(z[..., 2:, :], vae.encode(canvas[..., 16:, :]))
    same_values(z[..., :2, 4:], vae.encode(canvas[..., :16, 32:]))
    whole = spec.model_copy(
        update={"cameras": spec.cameras.model_copy(update={"encode": "canvas"})}
    )
    other_values(encode_canvas(whole, vae, canvas), z)
    assert decode_latents(spec, vae, z, canvas).shape == canvas.shape


def test_views_that_are_no_whole_latents_are_refused() -> None:
    views = [{"name": "a", "size": [16, 12]}, {"name": "b", "size": [16, 20]}]
    cameras = {"encode": "views", "views": views}
    found = check({**RAW, "cameras": cameras})
    assert any("no whole number of latents" in conflict.why for conflict in found)
    apart = {**cameras, "layout": "frame_per_view", "views": [views[0]]}
    assert any("on one canvas" in conflict.why for conflict in check({**RAW, "cameras": apart}))


def test_a_resize_without_antialias_takes_the_nearest_pixels() -> None:
    image = torch.zeros(1, 3, 8, 8)
    image[..., ::4, ::4] = 1
    near = fit_to_view(image, View(name="a", size=(2, 2), antialias=False))
    same_values(near, torch.zeros(1, 3, 2, 2))
    assert fit_to_view(image, View(name="a", size=(2, 2))).min() > 0


def test_observed_images_are_no_latents_of_their_own_where_views_are_clips() -> None:
    video = {"num_observed": 2, "num_frames": 7, "observed_latents": "images"}
    found = check({**RAW, "video": video})
    assert [conflict.between for conflict in found] == [
        ("cameras.encode", "video.observed_latents")
    ]


def test_filled_areas_have_no_latents_where_only_views_are_encoded() -> None:
    views = [{"name": "a", "size": [16, 48]}, {"name": "b", "size": [16, 32]}]
    cameras = {"layout": "grid", "columns": 1, "fill": True, "views": views}
    assert check({**RAW, "cameras": cameras}) == []
    found = check({**RAW, "cameras": {**cameras, "encode": "views"}})
    assert [conflict.between for conflict in found] == [("cameras.encode", "cameras.fill")]


def test_a_resize_before_a_jpeg_cannot_leave_averaging_out() -> None:
    with pytest.raises(ValueError, match="leave antialias, jpeg or recorded_size out"):
        View(name="a", antialias=False, jpeg=90, recorded_size=(8, 8))
    View(name="a", antialias=False, jpeg=90)
