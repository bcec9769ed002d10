"""A VAE computes in the dtype its table names, whatever its file holds and whoever builds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import wamkit
from wamkit.checkpoints import safetensors as weights
from wamkit.config.registry import registry
from wamkit.config.spec import parse, read
from wamkit.data import LeRobotFolder, Samples, precompute
from wamkit.errors import SpecError, WamkitError
from wamkit.policy.cost import cost
from wamkit.policy.policy import Policy
from wamkit.testing.dataset import record
from wamkit.testing.fixtures import observation, spec_with
from wamkit.testing.parity import same_values
from wamkit.train.plan import work

SMALL = Path(__file__).parent / "data" / "small.toml"
RAW: dict[str, Any] = read(SMALL) | {
    "vae": {"name": "wan2.1", "width": "tiny"},
    "cameras": {"views": [{"name": "front", "size": [16, 16]}]},
    "video": {"num_frames": 5, "frame_stride": 1},
}
LOW: dict[str, Any] = RAW | {"vae": RAW["vae"] | {"dtype": "bfloat16"}}


@pytest.mark.parametrize("name", registry().names("vae"))
@torch.no_grad()
def test_bfloat16_gives_nearly_the_same_latents(name: str) -> None:
    full = spec_with(vae=name).vae
    torch.manual_seed(0)
    exact: Any = full.build().eval()
    torch.manual_seed(0)
    rough: Any = full.model_copy(update={"dtype": "bfloat16"}).build().eval()
    parameters = list(rough.parameters())
    assert all(p.dtype == torch.float32 for p in exact.parameters())
    assert all(p.dtype == torch.bfloat16 for p in parameters)
    _, height, width = exact.stride
    rng = torch.Generator().manual_seed(1)
    pixels = torch.rand(2, 3, 1, 2 * height, 2 * width, generator=rng) * 2 - 1
    wanted = exact.encode(pixels)
    found = rough.encode(pixels.bfloat16() if parameters else pixels)
    assert found.dtype == (torch.bfloat16 if parameters else torch.float32)
    error = (found.float() - wanted).norm() / wanted.norm()
    assert error < 0.05, f"relative error {error:.3f}"
    decoded = rough.decode(found)
    assert decoded.dtype == found.dtype and decoded.isfinite().all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_table_decides_and_not_the_file(dtype: str, tmp_path: Path) -> None:
    table = RAW["vae"] | {"dtype": dtype}
    other = "bfloat16" if dtype == "float32" else "float32"
    made = wamkit.load_part("vae", RAW["vae"] | {"dtype": other})
    weights.save(made, tmp_path / "vae.safetensors")
    vae = wamkit.load_part("vae", table | {"weights": str(tmp_path / "vae.safetensors")})
    assert {p.dtype for p in vae.parameters()} == {getattr(torch, dtype)}
    wanted = weights.cast(made, getattr(torch, dtype)).state_dict()
    assert all(torch.equal(x, wanted[name]) for name, x in vae.state_dict().items())


def test_a_policy_reads_images_in_it_and_goes_on_in_its_own(tmp_path: Path) -> None:
    policy, low = wamkit.build(RAW), wamkit.build(LOW)
    assert {p.dtype for p in low.vae.parameters()} == {torch.bfloat16}  # type: ignore[attr-defined]
    given: list[torch.dtype] = []
    encode = low.vae.encode

    def seen(pixels: torch.Tensor) -> torch.Tensor:
        given.append(pixels.dtype)
        return encode(pixels)

    low.vae.encode = seen  # type: ignore[method-assign]
    predicted = observation(policy.spec)
    chunks = [p.act(predicted, seed=0).values for p in (policy, low)]
    assert given == [torch.bfloat16] and all(x.dtype == torch.float32 for x in chunks)
    assert not torch.equal(*chunks)
    same_values(*chunks, error=0.1)
    del low.vae.__dict__["encode"]
    again = Policy.load(low.save(tmp_path / "policy"))
    assert torch.equal(again.act(predicted, seed=0).values, chunks[1])
    assert again.imagine(predicted, seed=0).canvas.isfinite().all()


def test_what_is_counted_counts_it() -> None:
    specs = [parse(raw, "here") for raw in (RAW, LOW)]
    exact, low = (cost(spec) for spec in specs)
    assert low.operations == exact.operations and low.bytes < exact.bytes
    resting = [work(spec).resting for spec in specs]
    vae = sum(p.numel() for p in specs[0].vae.build().parameters())
    assert resting[0] - resting[1] == 2 * vae


def test_stored_latents_of_another_dtype_are_refused(tmp_path: Path) -> None:
    spec, low = (parse(raw, "here") for raw in (RAW, LOW))
    folder = record(tmp_path / "set", spec, episodes=1, frames=3)
    precompute(LeRobotFolder(folder), low, tmp_path / "latents", batch=2)
    Samples(folder, low, latents=tmp_path / "latents")
    with pytest.raises(WamkitError, match="was made with another vae"):
        Samples(folder, spec, latents=tmp_path / "latents")


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(SpecError, match="dtype"):
        wamkit.build(RAW | {"vae": RAW["vae"] | {"dtype": "float8"}})
