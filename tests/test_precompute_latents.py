"""Latents that were written once serve in place of the images, with the same loss."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import wamkit
from wamkit.config.spec import parse, read
from wamkit.data import LeRobotFolder, Samples, StoredLatents, collate, precompute
from wamkit.errors import WamkitError
from wamkit.policy.policy import Policy
from wamkit.testing.dataset import record
from wamkit.testing.parity import same_values

SMALL = Path(__file__).parent / "data" / "small.toml"
RAW: dict[str, Any] = read(SMALL) | {
    "vae": {"name": "wan2.1", "width": "tiny"},
    "cameras": {
        "views": [{"name": "front", "size": [16, 16]}, {"name": "wrist", "size": [16, 16]}]
    },
    "video": {"num_frames": 5, "frame_stride": 1},
}


@pytest.fixture(scope="module")
def policy() -> Policy:
    return wamkit.build(RAW)


@pytest.fixture(scope="module")
def folder(policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("data") / "set", policy.spec, frames=6)


def test_the_loss_from_stored_latents_is_the_same(
    policy: Policy, folder: Path, tmp_path: Path
) -> None:
    store = tmp_path / "latents"
    assert precompute(LeRobotFolder(folder), policy.spec, store, batch=1, shard=5) == 12
    seen, stored = Samples(folder, policy.spec), Samples(folder, policy.spec, latents=store)
    assert len(list(store.glob("*.safetensors"))) == 3 and len(stored) == len(seen)
    StoredLatents(store).expect_weights(policy.vae)
    for place in (0, 5, 11):
        batches = [collate([samples[place]]) for samples in (seen, stored)]
        assert batches[1].observation.images["front"].shape[1] == 1  # only what is observed
        assert torch.equal(*(policy.loss(batch, seed=1).total for batch in batches))


def test_views_that_are_frames_give_the_same_loss(tmp_path: Path) -> None:
    cameras = RAW["cameras"] | {"layout": "frame_per_view"}
    policy = wamkit.build(RAW | {"cameras": cameras})
    folder = record(tmp_path / "set", policy.spec, episodes=1, frames=3)
    precompute(LeRobotFolder(folder), policy.spec, tmp_path / "latents", batch=2)
    seen = Samples(folder, policy.spec)
    stored = Samples(folder, policy.spec, latents=tmp_path / "latents")
    batches = [collate([samples[0], samples[1]]) for samples in (seen, stored)]
    assert torch.equal(*(policy.loss(batch, seed=1).total for batch in batches))


def test_an_interrupted_run_goes_on_where_it_stopped(
    policy: Policy, folder: Path, tmp_path: Path
) -> None:
    counts: list[int] = []

    def stop(count: int) -> None:
        counts.append(count)
        if sum(counts) >= 6:
            raise KeyboardInterrupt

    options: dict[str, Any] = {"batch": 2, "shard": 4}
    with pytest.raises(KeyboardInterrupt):
        precompute(LeRobotFolder(folder), policy.spec, tmp_path / "a", advance=stop, **options)
    names = sorted(file.name for file in (tmp_path / "a").iterdir())
    assert names == ["latents-00000-of-00003.safetensors", "latents.json"]
    with pytest.raises(WamkitError, match=r"lacks 2 of 3 files"):
        Samples(folder, policy.spec, latents=tmp_path / "a")
    assert precompute(LeRobotFolder(folder), policy.spec, tmp_path / "a", **options) == 8
    precompute(LeRobotFolder(folder), policy.spec, tmp_path / "b", **options)
    for file in (tmp_path / "a").glob("*.safetensors"):
        mine, theirs = load_file(file), load_file(tmp_path / "b" / file.name)
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_stride_and_half_precision_store_less(
    policy: Policy, folder: Path, tmp_path: Path
) -> None:
    precompute(LeRobotFolder(folder), policy.spec, tmp_path / "a", stride=4, dtype="bfloat16")
    samples = Samples(folder, policy.spec, latents=tmp_path / "a")
    found = [(samples[i]["episode"], samples[i]["frame"]) for i in range(len(samples))]
    assert found == [(0, 0), (0, 4), (1, 0), (1, 4)]
    assert samples[1]["latents"].dtype == torch.bfloat16
    near = Samples(folder, policy.spec)[4]
    losses = [policy.loss(collate([s]), seed=1).total for s in (near, samples[1])]
    same_values(*losses, error=0.02)


def test_latents_of_something_else_are_refused(
    policy: Policy, folder: Path, tmp_path: Path
) -> None:
    store = tmp_path / "latents"
    precompute(LeRobotFolder(folder), policy.spec, store, stride=6)
    other = parse(RAW | {"video": {"num_frames": 5, "frame_stride": 2}, "seed": 7})
    with pytest.raises(WamkitError, match="was made with another video"):
        Samples(folder, other, latents=store)
    with pytest.raises(WamkitError, match="was made of other data, with other settings"):
        precompute(LeRobotFolder(folder), other, store, stride=6)
    with pytest.raises(WamkitError, match="by a VAE with other weights"):
        StoredLatents(store).expect_weights(wamkit.build(RAW | {"seed": 7}).vae)
    changed = record(tmp_path / "changed", policy.spec, frames=7)
    with pytest.raises(WamkitError, match="was made with another data"):
        Samples(changed, policy.spec, latents=store)
    with pytest.raises(WamkitError, match="holds no stored latents"):
        Samples(folder, policy.spec, latents=tmp_path)


def test_latents_do_not_serve_where_smaller_images_are_learned_from(
    policy: Policy, folder: Path, tmp_path: Path
) -> None:
    smaller = {**RAW["video"], "target_downscale": 2}
    cameras = {"views": [{"name": n, "size": [32, 32]} for n in ("front", "wrist")]}
    pooled = parse(RAW | {"cameras": cameras, "video": smaller | {"target_pooling": "latents"}})
    store = tmp_path / "latents"
    precompute(LeRobotFolder(folder), pooled, store, stride=6)
    spec = parse(RAW | {"cameras": cameras, "video": smaller})
    with pytest.raises(WamkitError, match="latents of two sizes are not stored"):
        Samples(folder, spec, latents=store)
    with pytest.raises(WamkitError, match="latents of two sizes are not stored"):
        precompute(LeRobotFolder(folder), spec, tmp_path / "other")
    stored = collate([Samples(folder, pooled, latents=store)[0]])
    with pytest.raises(WamkitError, match="learns from images that are made smaller"):
        wamkit.build(spec).loss(stored)


def test_the_command_stores_and_goes_on(
    wamkit: Callable[..., tuple[int, str, str]], folder: Path, tmp_path: Path
) -> None:
    spec, out = tmp_path / "spec.json", tmp_path / "latents"
    spec.write_text(json.dumps(RAW))
    args = ["precompute", "latents", spec, "--data", folder, "--out", out, "--stride", 3]
    code, text, _ = wamkit(*args)
    assert code == 0 and "4 of 4 clips were new" in text
    code, text, _ = wamkit(*args, "--json")
    report = json.loads(text)
    assert (report["encoded"], report["clips"]) == (0, 4) and len(StoredLatents(out)) == 4
    code, _, err = wamkit("precompute", "latents", spec, "--out", out)
    assert code == 2 and "error: latents are of the images of a data set" in err
    code, _, err = wamkit("precompute", "text", spec, "--out", out, "--stride", 3)
    assert code == 2 and "error: --stride has no meaning for `precompute text`" in err
    code, _, err = wamkit("precompute", "text", spec, "--out", out)
    assert code == 2 and "error: whose instructions?" in err
