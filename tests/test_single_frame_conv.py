"""Single images convolved in two dimensions, by kernels kept while their weights stay."""

from __future__ import annotations

import copy
import pickle
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import wamkit
from wamkit.acceleration import single_frame_conv as flat
from wamkit.acceleration.single_frame_conv import (
    FOLDED,
    SingleFrameVAE,
    TimePadding,
    single_frame_conv,
)
from wamkit.checkpoints.safetensors import cast
from wamkit.config.registry import registry
from wamkit.testing.parity import same_values

pasts = pytest.mark.parametrize("past", get_args(TimePadding))


class Encoder(SingleFrameVAE):
    """One causal convolution."""

    def __init__(self, past: TimePadding) -> None:
        super().__init__()
        self.past = past
        self.conv = nn.Conv3d(3, 4, 3, stride=(2, 2, 1), padding=(0, 1, 1))
        self.fold_convs([self.conv], past)

    def forward(self, x: Tensor) -> Tensor:
        self.fold_kernels()
        return single_frame_conv(self.conv, x, self.past)

    def plain(self, x: Tensor) -> Tensor:
        """The same by the three-dimensional kernel, over two images before this one."""
        clip = x[:, :, None]
        before = clip * (self.past == "repeats")
        return self.conv(torch.cat([before, before, clip], 2))[:, :, 0]  # type: ignore[no-any-return]


def image() -> Tensor:
    return torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(0))


def kept(encoder: Encoder) -> Any:
    return encoder.conv.__dict__.get(FOLDED)


@pasts
@torch.no_grad()
def test_an_image_alone_is_convolved_as_at_the_beginning_of_a_clip(past: TimePadding) -> None:
    encoder = Encoder(past).eval()
    found = encoder(image())
    same_values(found, encoder.plain(image()))
    assert found.is_contiguous(memory_format=torch.channels_last)


@pasts
@torch.no_grad()
def test_kernels_are_made_once_and_again_when_a_weight_changes(past: TimePadding) -> None:
    encoder = Encoder(past).eval()
    encoder(image())
    first = kept(encoder)
    encoder(image())
    assert kept(encoder) is first
    assert first.kernel.nbytes * 3 == encoder.conv.weight.nbytes

    def follows() -> None:
        x = image().to(encoder.conv.weight.dtype)
        wanted = encoder.plain(x).float()
        assert (encoder(x) - wanted).norm() < 0.01 * wanted.norm()

    encoder.conv.weight.mul_(-2)  # in place
    follows()
    encoder.conv.weight = nn.Parameter(torch.randn_like(encoder.conv.weight))  # replaced
    follows()
    state = {name: 3 * x for name, x in encoder.state_dict().items()}
    encoder.load_state_dict(state)
    follows()
    encoder.load_state_dict({name: -x for name, x in state.items()}, assign=True)
    follows()
    cast(encoder, torch.bfloat16)
    follows()
    assert kept(encoder).kernel.dtype == torch.bfloat16


@torch.no_grad()
def test_kernels_are_in_no_state_and_no_copy() -> None:
    encoder = Encoder("repeats").eval()
    names = set(encoder.state_dict())
    encoder(image())
    assert set(encoder.state_dict()) == names
    for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert kept(other).kernel is None
        other.conv.weight.zero_()
        assert torch.equal(other(image()), other.plain(image()))
        assert kept(other).kernel.count_nonzero() == 0 and kept(encoder).kernel.any()


@torch.no_grad()
def test_kernels_are_gone_when_weights_learn_or_move() -> None:
    encoder = Encoder("repeats").eval()
    for change in (encoder.train, encoder.double, lambda: nn.Sequential(encoder).to("cpu")):
        encoder.eval().float()
        encoder(image())
        assert kept(encoder) is not None
        change()
        assert kept(encoder) is None
    encoder.float().train()
    encoder(image())
    assert kept(encoder) is None


@pasts
def test_with_gradients_every_slice_of_the_kernel_learns_what_it_should(past: TimePadding) -> None:
    encoder = Encoder(past).eval()
    with torch.no_grad():
        encoder(image())  # something is kept, and not used
    encoder(image()).square().sum().backward()
    found = encoder.conv.weight.grad
    encoder.conv.weight.grad = None
    encoder.plain(image()).square().sum().backward()
    assert found is not None and encoder.conv.weight.grad is not None
    same_values(found, encoder.conv.weight.grad)


def test_a_weight_made_in_inference_mode_has_no_version_and_works() -> None:
    with torch.inference_mode():
        encoder = Encoder("zeros").eval()
        same_values(encoder(image()), encoder.plain(image()))
        assert kept(encoder).is_valid(encoder.conv.weight)


SINGLE = [
    (name, variant)
    for name, variant in [("wan2.1", None), ("wan2.2", None)]
    + [("ltx", v) for v in ("0.9.0", "0.9.1", "0.9.5")]
    + [("ltx2", v) for v in ("2.0", "2.3")]
    if name in registry().names("vae")
]


@pytest.mark.parametrize(("name", "variant"), SINGLE)
@torch.no_grad()
def test_an_image_takes_no_convolution_over_time(
    name: str, variant: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name.startswith("ltx"):
        pytest.importorskip("diffusers", reason="the VAE is diffusers' class")
    table = {"name": name, "width": "tiny"} | ({"variant": variant} if variant else {})
    vae = wamkit.load_part("vae", table).eval()
    _, height, width = vae.stride
    pixels = torch.rand(2, 3, 1, height, 2 * width) * 2 - 1
    expected = vae.encode(pixels)
    reach: list[int] = []
    forward = nn.Conv3d.forward

    def seen(layer: nn.Conv3d, x: Tensor) -> Tensor:
        reach.append(layer.kernel_size[0])
        return forward(layer, x)

    made: list[Tensor] = []
    flattened = flat.fold_time_axis

    def counted(weight: Tensor, past: TimePadding) -> Tensor:
        made.append(weight)
        return flattened(weight, past)

    monkeypatch.setattr(nn.Conv3d, "forward", seen)
    monkeypatch.setattr(flat, "fold_time_axis", counted)
    assert torch.equal(vae.encode(pixels), expected)
    assert all(images == 1 for images in reach) and not made
    frames = F.pad(pixels, (0, 0, 0, 0, 0, vae.stride[0]), mode="replicate")
    same_values(vae.encode(frames)[:, :, :1], expected)
