"""Blocks that are compiled for training learn what blocks as written do."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import wamkit
from wamkit.acceleration.compile_modules import as_written, compile_blocks
from wamkit.config.registry import registry
from wamkit.errors import WamkitError
from wamkit.policy.policy import Policy
from wamkit.testing.fixtures import batch_of, spec_with
from wamkit.testing.parity import same_values
from wamkit.testing.training import read_log, recordings, short_run
from wamkit.train import distributed, trainer
from wamkit.train.config import Lora, TrainConfig
from wamkit.train.optim import add_adapters, set_trainable

SMALL = Path(__file__).parent / "data" / "small.toml"


def build() -> Policy:
    return wamkit.build(SMALL, ["backbone.depth=1"])


def gradients(policy: Policy, compute: torch.dtype = torch.float32) -> dict[str, Tensor]:
    policy.zero_grad()
    losses = policy.loss(batch_of(policy.spec), seed=0, compute=compute)
    losses.total.backward()
    found = {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}
    return found | {"loss": losses.total.detach()}


@pytest.mark.parametrize("name", list(registry().names("backbone")))
def test_every_backbone_learns_alike_when_its_blocks_are_traced(name: str) -> None:
    policy = Policy.from_spec(spec_with(backbone=name))
    config = TrainConfig(lora=Lora(rank=2)) if name == "toy" else TrainConfig()
    set_trainable(policy, config.parts)
    add_adapters(policy, config)
    plain = gradients(policy)
    compile_blocks(policy, backend="eager")
    same_values(gradients(policy), plain)
    policy.runner.recompute = True
    same_values(gradients(policy), plain)


def test_only_what_has_gradients_runs_compiled() -> None:
    seen: list[bool] = []

    def backend(graph: Any, inputs: Any) -> Any:
        def run(*args: Any) -> Any:
            seen.append(torch.is_grad_enabled())
            return graph(*args)

        return run

    policy = build()
    compile_blocks(policy, backend=backend)  # type: ignore[arg-type]
    with torch.no_grad():
        policy.loss(batch_of(policy.spec), seed=0)
    assert not seen
    policy.loss(batch_of(policy.spec), seed=0)
    assert seen and all(seen)
    as_written(policy)
    assert not any("pre_attention" in vars(m) for m in policy.modules() if isinstance(m, nn.Module))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recordings(tmp_path_factory.mktemp("data") / "set", build().spec)


def test_a_compiled_run_has_the_losses_of_a_plain_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All but the compiler of C++, which takes a minute for these blocks.
    monkeypatch.setattr(trainer, "compile_blocks", partial(compile_blocks, backend="aot_eager"))
    losses = []
    for compiled in (False, True):
        policy, out = build(), tmp_path / str(compiled)
        short_run(policy, folder, out, steps=2, batch_size=2, val_fraction=0, compile=compiled)
        losses.append([line["loss"] for line in read_log(out)])
        assert not any("pre_attention" in vars(m) for m in policy.modules())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_missing_compiler_is_reported(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "compiler", lambda: None)
    with pytest.raises(WamkitError, match="or leave compile=true out"):
        short_run(build(), folder, tmp_path / "run", compile=True)
    assert not (tmp_path / "run").exists()
