"""How often images go through the VAE: once for an observation, however many views it has."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import wamkit
from wamkit.acceleration.compile_modules import as_written, compile_encoder
from wamkit.acceleration.vae_graph import record_encoder
from wamkit.config.cameras import CameraConfig
from wamkit.config.registry import registry
from wamkit.errors import WamkitError
from wamkit.policy.policy import Policy
from wamkit.testing.fixtures import observation, spec_with
from wamkit.testing.parity import same_values

VIEWS = [{"name": name, "size": [32, 32]} for name in ("front", "wrist")]


class Counted:
    """A VAE's `encode` that remembers the shapes it was given."""

    def __init__(self, vae: Any) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self._encode = vae.encode
        vae.encode = self

    def __call__(self, pixels: Tensor) -> Tensor:
        self.shapes.append(tuple(pixels.shape))
        return self._encode(pixels)  # type: ignore[no-any-return]


def built(layout: str, vae: str) -> Policy:
    """A tiny policy with two views around a VAE."""
    spec = spec_with(vae=vae)
    side = 2 * spec.vae.stride[1] * spec.backbone.traits.patch_size[1]
    views = [view | {"size": [side, side]} for view in VIEWS]
    cameras = CameraConfig.model_validate({"layout": layout, "views": views})
    return wamkit.build(spec.model_copy(update={"cameras": cameras}).fitted())


@pytest.mark.parametrize("layout", ["side_by_side", "grid", "frame_per_view"])
@pytest.mark.parametrize("vae", ["pixel_shuffle", "taew2.2", "wan2.2"])
def test_all_views_of_an_observation_are_encoded_in_one_call(layout: str, vae: str) -> None:
    policy = built(layout, vae)
    counted = Counted(policy.vae)
    policy.act(observation(policy.spec, batch=3), seed=0)
    (shape,) = counted.shapes
    assert shape[0] == (6 if layout == "frame_per_view" else 3)
    assert shape[2] == policy.spec.video.num_observed == 1


@pytest.mark.parametrize("name", registry().names("vae"))
def test_single_images_are_encoded_by_compiled_code_and_clips_as_written(name: str) -> None:
    vae: Any = spec_with(vae=name).vae.build()
    _, height, width = vae.stride
    pixels = torch.rand(2, 3, 1 + vae.stride[0], 2 * height, 2 * width) * 2 - 1
    with torch.no_grad():
        expected = vae.encode(pixels[:, :, :1])
        before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        compile_encoder(vae, backend="eager")
        for _ in range(2):
            found = vae.encode(pixels[:, :, :1])
        once = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        vae.encode(pixels)
    same_values(found, expected)
    assert once == before + 1
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == once
    as_written(vae)
    assert "encode" not in vae.__dict__


@pytest.mark.parametrize("name", ["wan2.2", "ltx"])
def test_compiled_code_reads_flat_kernels_and_follows_a_weight(name: str) -> None:
    if name == "ltx":
        pytest.importorskip("diffusers", reason="the VAE is diffusers' class")
    vae: Any = spec_with(vae=name).vae.build().eval()
    _, height, width = vae.stride
    pixels = torch.rand(1, 3, 1, height, width) * 2 - 1
    with torch.no_grad():
        compile_encoder(vae, backend="eager")
        vae.encode(pixels)
        before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        vae.encoder.conv_in.get_parameter(next(iter(vae.encoder.conv_in.state_dict()))).mul_(2)
        found = vae.encode(pixels)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before
        as_written(vae)
        vae.forget()
        same_values(found, vae.encode(pixels))


class Tape:
    """Records nothing: what was recorded runs again, which is what a CUDA graph does on a GPU."""

    def __init__(self) -> None:
        self.made = 0
        self.played = 0

    def __call__(self, run: Callable[[], None], device: torch.device) -> Callable[[], None]:
        self.made += 1
        run()

        def play() -> None:
            self.played += 1
            run()

        return play


@pytest.mark.parametrize("name", registry().names("vae"))
def test_single_images_are_recorded_once_for_a_shape(name: str) -> None:
    vae: Any = spec_with(vae=name).vae.build().eval()
    _, height, width = vae.stride
    clip = torch.rand(2, 3, 1 + vae.stride[0], 2 * height, 2 * width) * 2 - 1
    tape = Tape()
    with torch.no_grad():
        expected = [vae.encode(x) for x in (clip[:, :, :1], clip[:, :, 1:2], clip[:1, :, :1], clip)]
        record_encoder(vae, tape)
        found = [vae.encode(x) for x in (clip[:, :, :1], clip[:, :, 1:2], clip[:1, :, :1], clip)]
    same_values(found, expected)  # of copies: other strides may take another kernel
    assert tape.made == 2 and tape.played == 3
    other = copy.deepcopy(vae)
    for p in other.parameters():
        p.data.zero_()
    with torch.no_grad():
        assert torch.equal(other.encode(clip[:, :, :1]), type(vae).encode(other, clip[:, :, :1]))
        same_values(vae.encode(clip[:, :, :1]), expected[0])
    as_written(vae)
    assert "encode" not in vae.__dict__


@pytest.mark.parametrize("name", ["wan2.2", "taew2.2"])
def test_it_is_recorded_anew_when_weights_are_others(name: str) -> None:
    vae: Any = spec_with(vae=name).vae.build().eval()
    _, height, width = vae.stride
    pixels, tape = torch.rand(1, 3, 1, height, width) * 2 - 1, Tape()
    with torch.no_grad():
        record_encoder(vae, tape)
        vae.encode(pixels)
        weight = next(p for p in vae.encoder.parameters() if p.ndim > 3)
        weight.mul_(2)  # in place: a kernel made of it lies elsewhere
        found = vae.encode(pixels)
        assert tape.made == (2 if name == "wan2.2" else 1)
        assert torch.equal(found, type(vae).encode(vae, pixels))
        weight.data = weight.data.clone()
        before = tape.made
        vae.encode(pixels)
        assert tape.made == before + 1


class Asking(torch.nn.Module):
    """A VAE that decides by what it sees, which no graph can hold."""

    channels, stride = 3, (1, 1, 1)

    def encode(self, pixels: Tensor) -> Tensor:
        return pixels if pixels.mean() > 0 else -pixels


class Apart(Asking):
    compiles = False


def test_a_vae_that_cannot_be_compiled_reports_it() -> None:
    pixels = torch.rand(1, 3, 1, 4, 4)
    asking, apart = Asking(), Apart()
    for vae in (asking, apart):
        compile_encoder(vae, backend="eager")
    with torch.no_grad(), pytest.raises(WamkitError, match="cannot be compiled") as refused:
        asking.encode(pixels)
    assert "`compiles = False`" in refused.value.hint
    assert torch.equal(apart.encode(pixels), pixels)
