"""OmniGen2 against what its own class computed: same weights, same velocities, same gradients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from wamkit_omnigen2 import SIZES, OmniGen2
from wamkit_omnigen2.backbone import OmniGen2Backbone

from wamkit import WamkitError
from wamkit.checkpoints.safetensors import cast, parameters
from wamkit.config.check import check
from wamkit.config.spec import parse_part
from wamkit.engine.passes import PassRunner
from wamkit.interfaces import denoise
from wamkit.interfaces.streams import embed_video
from wamkit.interfaces.types import Frames, Text, counted
from wamkit.testing.fixtures import compose
from wamkit.testing.parity import (
    float64,
    gradients,
    other_values,
    same_gradients,
    same_values,
    to_float64,
    unused_modules,
)

GOLDEN = Path(__file__).parent / "golden" / "omnigen2.safetensors"  # made by record.py next to it
CONFIG = OmniGen2(
    variant="tiny",
    axes=(2, 2, 2),
    mlp_dim=24,
    latent_channels=4,
    text_width=8,
    text_sigma="target",
)
ROLES = ("context", "context", "target")
CLOSED = {
    "text": {"text", "context"},
    "context": {"text", "context"},
    "target": {"text", "context", "target"},
}


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN)


@pytest.fixture(scope="module")
def folder(golden: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as published, with the recorded weights in `transformer/`."""
    place: Path = tmp_path_factory.mktemp("omnigen2")
    (place / "transformer").mkdir()
    state = {n.removeprefix("weights."): t for n, t in golden.items() if n.startswith("weights.")}
    save_file(state, place / "transformer" / "diffusion_pytorch_model.safetensors")
    return place


def built(folder: Path, **changes: Any) -> Any:
    return CONFIG.model_copy(update={"weights": str(folder), **changes}).build().eval()


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Any:
    return built(folder)


def scene(golden: dict[str, Tensor]) -> tuple[Frames, Text]:
    """The recorded inputs: all images of a sample on one noise level, as published."""
    sigma = golden["sigma"][:, None].repeat(1, 3)
    frames = Frames(golden["z"], ROLES, counted(3), sigma)
    return frames, Text(golden["text"], golden["valid"].bool())


def clean(golden: dict[str, Tensor]) -> tuple[Frames, Text]:
    """The same with clean references, as in a policy."""
    frames, text = scene(golden)
    return frames.at(0.0, "context"), text


def test_velocity_is_the_negative_of_the_recorded_prediction(
    golden: dict[str, Tensor], backbone: Any
) -> None:
    wide, frames, text = to_float64((backbone, *scene(golden)))
    with torch.no_grad(), float64():
        first = denoise(wide, frames, text)[:, :, 2]
        again = denoise(wide, frames, text)[:, :, 2]
    assert golden["prediction"].std() > 0.3
    same_values(first, -golden["prediction"])
    assert torch.equal(again, first)


def test_velocity_in_float32_is_near_that_in_float64(
    golden: dict[str, Tensor], backbone: Any
) -> None:
    with torch.no_grad():
        found = denoise(backbone, *scene(golden))[:, :, 2]
    same_values(found, -golden["prediction"].float(), 1e-3)


def test_gradients_are_the_recorded_ones(golden: dict[str, Tensor], backbone: Any) -> None:
    wide, frames, text = to_float64((backbone, *scene(golden)))

    def loss(z: Tensor, tokens: Tensor) -> Tensor:
        velocity = denoise(wide, replace(frames, z=z), replace(text, tokens=tokens))
        return -(golden["direction"] * velocity[:, :, 2]).sum()

    wanted = {k.removeprefix("gradients."): t for k, t in golden.items() if "gradients." in k}
    wanted |= {"z": golden["z_gradient"], "tokens": golden["text_gradient"]}
    with float64():
        found = gradients(wide, loss, z=frames.z, tokens=text.tokens)
    same_gradients(found, to_float64(wanted), error=1e-6)  # those of weights are stored in float32


def test_the_published_size_has_as_many_tensors_and_values_as_the_class() -> None:
    with torch.device("meta"):
        model = OmniGen2Backbone(OmniGen2())
    shapes = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    assert (len(shapes), parameters(model)) == (582, 3_967_161_400)
    assert shapes["layers.31.attn.to_k.weight"] == (840, 2520)
    assert shapes["layers.31.norm1.linear.weight"] == (10080, 1024)
    assert shapes["context_refiner.1.feed_forward.linear_3.weight"] == (10240, 2520)
    assert shapes["norm_out.linear_2.weight"] == (64, 2520)
    assert not list(model.buffers())


def test_noise_levels_are_never_rounded_to_bfloat16() -> None:
    # 0.951 is 0.9492 if it is rounded to bfloat16 before it is multiplied by 1000.
    torch.manual_seed(0)
    model: Any = cast(CONFIG.build(), torch.bfloat16)
    near, exact = torch.tensor([0.951]), torch.tensor([0.951], dtype=torch.bfloat16).float()
    whole = CONFIG.build()
    whole.load_state_dict({name: t.float() for name, t in model.state_dict().items()})
    with torch.no_grad():
        found, rounded = (model.embed_sigma(sigma).embedding for sigma in (near, exact))
        wanted = whole.embed_sigma(near).embedding
    assert found.dtype == torch.float32
    same_values(found, wanted)
    other_values(rounded, wanted)


def test_bfloat16_stays_near_float32(golden: dict[str, Tensor], folder: Path) -> None:
    backbone: Any = cast(built(folder), torch.bfloat16)
    kept = {n for n, p in backbone.named_parameters() if p.dtype == torch.float32}
    assert {"layers.0.attn.norm_q.weight", "layers.0.norm1.norm.weight"} <= kept
    assert {"context_refiner.0.norm1.weight", "layers.1.ffn_norm2.weight"} <= kept
    assert not any(".linear." in name or "norm_out" in name for name in kept)
    with torch.no_grad():
        found = denoise(backbone, *scene(golden))[:, :, 2]
    assert found.dtype == torch.bfloat16
    wanted = -golden["prediction"].float()
    assert (found.float() - wanted).norm() / wanted.norm() < 0.03


def test_clean_references_and_text_give_another_velocity_than_noisy_ones(
    golden: dict[str, Tensor], folder: Path
) -> None:
    published, steady = built(folder), built(folder, text_sigma="clean")
    frames, text = clean(golden)
    with torch.no_grad():
        one, two = denoise(published, frames, text), denoise(steady, frames, text)
        three = denoise(published, *scene(golden))
        other_values(one, two)
        other_values(one, three)
        frames = frames.only("context")
        assert torch.equal(denoise(published, frames, text), denoise(steady, frames, text))


def test_text_and_references_from_a_cache_give_the_same_velocity(
    golden: dict[str, Tensor], folder: Path
) -> None:
    backbone = built(folder, text_sigma="clean")
    frames, text = clean(golden)
    backbone, frames, text = to_float64((backbone, frames, text))
    with torch.no_grad(), float64():
        runner = PassRunner()
        first = embed_video(runner, backbone, frames.only("context"), text)
        keep = "text", "context"
        _, cache = runner.run(first.streams, CLOSED, keep=keep, prefill=True)
        for level in (0.9, 0.4):
            noisy = frames.at(level, "target")
            step = embed_video(runner, backbone, noisy.only("target"), text, with_text=False)
            (tokens,), _ = runner.run(step.streams, CLOSED, cache=cache)
            found = backbone.final_layer(tokens, step.modulation, step.clip)
            wanted = denoise(backbone, noisy, text, CLOSED)[:, :, 2:]
            same_values(found, wanted)


def test_frames_may_come_in_any_order(golden: dict[str, Tensor], backbone: Any) -> None:
    frames, text = clean(golden)
    order = [2, 0, 1]
    moved = Frames(
        frames.z[:, :, order],
        tuple(ROLES[i] for i in order),
        tuple(frames.times[i] for i in order),
        frames.sigma[:, order],
    )
    wide, frames, moved, text = to_float64((backbone, frames, moved, text))
    with torch.no_grad(), float64():
        wanted = denoise(wide, frames, text)
        found = denoise(wide, moved, text)
        later = denoise(wide, replace(frames, times=(0.0, 1.0, 9.0)), text)
    same_values(found, wanted[:, :, order])
    other_values(later, wanted)


def test_padding_may_stand_anywhere_in_the_text(golden: dict[str, Tensor], backbone: Any) -> None:
    wide, frames, text = to_float64((backbone, *clean(golden)))
    short = text.tokens[:, [0, 2, 4]]
    valid = torch.tensor([[True, False, True, False, True]]).expand(2, -1)
    with torch.no_grad(), float64():
        wanted = denoise(wide, frames, Text(short))
        found = denoise(wide, frames, Text(text.tokens, valid))
    same_values(found, wanted)


def test_more_references_than_there_are_embeddings_are_refused(backbone: Any) -> None:
    frames = Frames(torch.zeros(1, 4, 6, 4, 6), ("context",) * 6, counted(6), torch.zeros(1, 6))
    with pytest.raises(WamkitError, match="found 6 reference images in a pass; omnigen2 tells at"):
        denoise(backbone, frames, Text(torch.zeros(1, 2, 8)))


def test_a_policy_that_observes_too_many_frames_is_a_conflict() -> None:
    spec = compose(OmniGen2())
    stride = spec.vae.stride[0]
    long = {"num_observed": 1 + 5 * stride, "num_frames": 1 + 6 * stride}
    wide = spec.model_copy(update={"video": spec.video.model_copy(update=long)})
    found = [c for c in check(wide) if "reference images apart" in c.why]
    assert not [c for c in check(spec) if "reference images apart" in c.why]
    assert [c.hint for c in found] == [f"set video.num_observed to {1 + 4 * stride} or less"]


@pytest.mark.parametrize(
    ("views", "hint"),
    [(2, "video.num_observed to {} or less"), (6, 'cameras.layout = "side_by_side"')],
)
def test_frames_of_several_views_count_together(views: int, hint: str) -> None:
    spec = compose(OmniGen2())
    stride, view = spec.vae.stride[0], spec.cameras.views[0]
    named = tuple(view.model_copy(update={"name": f"view_{i}"}) for i in range(views))
    cameras = spec.cameras.model_copy(update={"views": named, "layout": "frame_per_view"})
    video = spec.video.model_copy(
        update={"num_observed": 1 + 2 * stride, "num_frames": 1 + 2 * stride}
    )
    wide = spec.model_copy(update={"cameras": cameras, "video": video})
    found = [c for c in wide.backbone.conflicts(wide) if "reference images apart" in c.why]
    assert [c.hint for c in found] == ["set " + hint.format(1 + stride)]
    video = video.model_copy(update={"num_observed": 1 + stride})
    changed = wide.model_copy(update={"video": video})
    assert bool(list(changed.backbone.conflicts(changed))) == (views == 6)


def test_every_linear_layer_is_called_as_a_module(golden: dict[str, Tensor], backbone: Any) -> None:
    assert not unused_modules(backbone, lambda: denoise(backbone, *scene(golden)))


def test_a_variant_sets_every_size_that_is_not_written() -> None:
    large, tiny = OmniGen2(), OmniGen2().tiny()
    assert large.axes == SIZES["omnigen2"]["axes"]
    assert (large.traits.width, large.traits.head_dim) == (2520, 120)
    assert (large.traits.num_heads, large.traits.num_kv_heads) == (21, 7)
    assert tiny.traits.latent_channels == large.traits.latent_channels == 16
    assert parameters(tiny.build()) < 500_000
    assert parse_part("backbone", CONFIG.model_dump(mode="json")) == CONFIG
    with pytest.raises(WamkitError, match="4 heads cannot share 3 num_kv_heads evenly"):
        parse_part("backbone", {"name": "omnigen2", "variant": "tiny", "num_kv_heads": 3})


def test_a_file_that_lacks_a_tensor_or_belongs_to_another_model_is_refused(tmp_path: Path) -> None:
    state = dict(CONFIG.build().state_dict())
    del state["norm_out.linear_2.bias"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(WamkitError, match=r"1 missing: norm_out\.linear_2\.bias"):
        built(tmp_path)
    save_file({"img_in.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WamkitError, match="in no layout known here: found img_in"):
        built(tmp_path / "other.safetensors")
