"""Blocks that are compiled for training learn what blocks as written do."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import wamkit
from wamkit.attention import recomputed
from wamkit.compositions import compose, default
from wamkit.data import Columns
from wamkit.data.example import record
from wamkit.errors import WamkitError
from wamkit.modes import as_written, compile_blocks
from wamkit.policy import Policy
from wamkit.registry import registry
from wamkit.spec import parse
from wamkit.train import trainer
from wamkit.train.config import Lora, TrainConfig
from wamkit.train.learning import adapted, choose
from wamkit.train.logs import read
from wamkit.train.trainer import Data, train
from wamkit.trial import batch_of

RAW: dict[str, Any] = {
    "backbone": {"name": "toy", "depth": 1, "heads": 2, "head_size": 12, "text_width": 16},
    "vae": {"name": "pixel_shuffle", "strides": [2, 8, 8]},
    "text_encoder": {"name": "bytes"},
    "action_head": {"name": "mot", "width": 16, "feed_forward": 32},
    "paradigm": {"name": "single_pass"},
    "actions": {"chunk": 4, "groups": [{"name": "arm", "size": 3}]},
    "cameras": {"views": [{"name": "front", "size": [16, 16]}]},
    "video": {"frames": 3, "every": 2},
}


def gradients(policy: Policy, compute: torch.dtype = torch.float32) -> dict[str, Tensor]:
    policy.zero_grad()
    losses = policy.loss(batch_of(policy.spec), seed=0, compute=compute)
    losses.total.backward()
    found = {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}
    return found | {"loss": losses.total.detach()}


@pytest.mark.parametrize("name", list(registry().names("backbone")))
def test_every_backbone_learns_alike_when_its_blocks_are_traced(name: str) -> None:
    policy = Policy.from_spec(compose(default(registry().get("backbone", name))))
    config = TrainConfig(lora=Lora(rank=2)) if name == "toy" else TrainConfig()
    choose(policy, config.parts)
    adapted(policy, config)
    plain = gradients(policy)
    compile_blocks(policy, backend="eager", learns=True)
    torch.testing.assert_close(gradients(policy), plain, rtol=1e-4, atol=1e-6)
    with recomputed():
        torch.testing.assert_close(gradients(policy), plain, rtol=1e-4, atol=1e-6)


def test_only_what_has_gradients_runs_compiled() -> None:
    seen: list[bool] = []

    def backend(graph: Any, inputs: Any) -> Any:
        def run(*args: Any) -> Any:
            seen.append(torch.is_grad_enabled())
            return graph(*args)

        return run

    policy = wamkit.build(RAW)
    compile_blocks(policy, backend=backend, learns=True)  # type: ignore[arg-type]
    with torch.no_grad():
        policy.loss(batch_of(policy.spec), seed=0)
    assert not seen
    policy.loss(batch_of(policy.spec), seed=0)
    assert seen and all(seen)
    as_written(policy)
    assert not any("project" in vars(m) for m in policy.modules() if isinstance(m, nn.Module))


def test_a_compiled_run_has_the_losses_of_a_plain_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All but the compiler of C++, which takes a minute for these blocks.
    monkeypatch.setattr(trainer, "compile_blocks", partial(compile_blocks, backend="aot_eager"))
    data = record(
        tmp_path / "data", parse(RAW), episodes=2, frames=8, size=(16, 16), pictures="image"
    )
    losses = []
    for compiled in (False, True):
        policy, out = wamkit.build(RAW), tmp_path / str(compiled)
        config = TrainConfig(steps=2, batch=2, validation=0, log_every=1, compile=compiled)
        train(policy, Data(data, Columns()), out, config)
        losses.append([line["loss"] for line in read(out / "log.jsonl")])
        assert not any("project" in vars(m) for m in policy.modules())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_without_a_compiler_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "compiler", lambda: None)
    data = record(
        tmp_path / "data", parse(RAW), episodes=2, frames=8, size=(16, 16), pictures="image"
    )
    with pytest.raises(WamkitError, match="or leave compile=true out"):
        config = TrainConfig(steps=1, batch=2, validation=0, compile=True)
        train(wamkit.build(RAW), Data(data, Columns()), tmp_path / "run", config)
    assert not (tmp_path / "run").exists()
