"""Adapters of low rank: they alone learn, they resume exactly, and what is saved needs no peft."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import wamkit
from wamkit.config.registry import registry
from wamkit.config.spec import parse, read
from wamkit.data import Columns
from wamkit.errors import WamkitError
from wamkit.policy.policy import Policy
from wamkit.testing.fixtures import batch_of, observation, spec_with
from wamkit.testing.parity import same_values
from wamkit.testing.training import read_log, read_saved_state, recordings, same, short_run, state
from wamkit.train import lora, read_config
from wamkit.train.config import Lora, Parts, TrainConfig
from wamkit.train.optim import add_adapters, set_trainable
from wamkit.train.plan import plan, work
from wamkit.train.trainer import Data, Summary, train

pytest.importorskip("peft")

TOY = Path(__file__).parent.parent / "examples" / "toy.toml"
SMALL = Path(__file__).parent / "data" / "small.toml"
LORA = {"rank": 2, "alpha": 6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recordings(tmp_path_factory.mktemp("data") / "set", parse(read(SMALL)))


def run(folder: Path, out: Path, policy: Policy | None = None, **settings: Any) -> Summary:
    return short_run(policy or wamkit.build(SMALL), folder, out, **{"lora": LORA, **settings})


def test_the_saved_policy_is_merged_and_acts_as_the_adapted_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = wamkit.build(SMALL)
    plain = {name: x.clone() for name, x in policy.state_dict().items()}
    seen = observation(policy.spec)
    chunks = []

    def act(step: int, metrics: Any) -> None:
        if step == 4:
            assert any("lora_A" in name for name in policy.state_dict())
            chunks.append(policy.act(seen, seed=0).values)

    run(folder, tmp_path / "run", policy, on_step=act)
    monkeypatch.setitem(sys.modules, "peft", None)  # importing it would raise
    loaded = Policy.load(tmp_path / "run/checkpoints/last/policy")
    same_values(loaded.act(seen, seed=0).values, chunks[0])
    same_values(policy.act(seen, seed=0).values, chunks[0])
    weights = loaded.state_dict()
    assert weights.keys() == policy.state_dict().keys() == plain.keys()
    assert not torch.equal(
        weights["backbone.blocks.0.to_q.weight"], plain["backbone.blocks.0.to_q.weight"]
    )
    for file in (tmp_path / "run").rglob("spec.yaml"):
        assert set(re.findall(r"lora\w*: (.*)", file.read_text())) == {"null"}


def test_adapters_alone_learn_and_at_a_rate_of_their_own(folder: Path, tmp_path: Path) -> None:
    policy = wamkit.build(SMALL)
    before = {name: x.clone() for name, x in policy.state_dict().items()}
    run(folder, tmp_path / "run", policy, lora={"rank": 2, "lr": 6e-3}, weight_decay=0)
    after = read_saved_state(tmp_path / "run")
    changed = {
        n for n in after if n.startswith("backbone") and not torch.equal(after[n], before[n])
    }
    assert changed and all(".blocks." in n and n.endswith("weight") for n in changed)
    kept = state(tmp_path / "run")
    assert not any("base_layer" in name for name in kept)
    assert {n for n in kept if n.startswith("weight/backbone")} == {
        f"weight/{n.removesuffix('.weight')}.lora_{x}.default.weight" for n in changed for x in "AB"
    }
    rates = read_log(tmp_path / "run")[0]["lr"]
    assert rates["backbone"] == pytest.approx(2 * rates["action_head"])


def test_a_resumed_run_is_the_run_with_everything_switched_on(folder: Path, tmp_path: Path) -> None:
    on: dict[str, Any] = {
        "lora": {"rank": 2, "dropout": 0.2, "parts": ["backbone", "action_head"]},
        "ema": 0.9,
        "gradient_accumulation_steps": 2,
        "gradient_checkpointing": True,
        "precision": "bfloat16",
    }
    run(folder, tmp_path / "whole", **on)

    def stop(step: int, metrics: Any) -> None:
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    assert run(folder, tmp_path / "cut", on_step=stop, **on).step == 3
    assert run(folder, tmp_path / "cut", resume=True, **on).step == 4
    assert same(state(tmp_path / "cut"), state(tmp_path / "whole"))
    assert same(read_saved_state(tmp_path / "cut"), read_saved_state(tmp_path / "whole"))
    kept, weights = state(tmp_path / "whole"), read_saved_state(tmp_path / "whole")
    layer = "backbone.blocks.1.ffn.net.2"
    a, b = (kept[f"ema/{layer}.lora_{x}.default.weight"] for x in "AB")
    base = wamkit.build(SMALL).state_dict()[f"{layer}.weight"]
    same_values(weights[f"{layer}.weight"], base + 16.0 / 2 * (b @ a))
    with pytest.raises(WamkitError, match="another lora"):
        run(folder, tmp_path / "cut", resume=True, **on | {"lora": {"rank": 3}})


def every_backbone() -> list[str]:
    return list(registry().names("backbone"))


@pytest.mark.parametrize("name", every_backbone())
def test_every_backbone_can_be_adapted_and_merged(name: str) -> None:
    policy = Policy.from_spec(spec_with(backbone=name))
    names = set(policy.state_dict())
    config = TrainConfig(lora=Lora(rank=2))
    set_trainable(policy, config.parts)
    adapters = add_adapters(policy, config)
    assert adapters is not None and len(adapters.layers) >= 4
    with torch.no_grad():
        for layer in adapters.layers.values():
            layer.lora_B["default"].weight.normal_(std=0.05)
    batch = batch_of(policy.spec)
    loss = policy.loss(batch, seed=0).total
    loss.backward()
    depth = max(int(n.split(".")[2]) for n in adapters.layers)
    for n, p in policy.named_parameters():
        if "lora_" in n and f".{depth}." not in n:  # what is not read may stop inside the last
            assert p.grad is not None and p.grad.any(), n
        elif "lora_" not in n and n.startswith("backbone"):
            assert p.grad is None, n
    merged = dict(adapters.merged(policy.state_dict()))
    with adapters.disabled():
        assert set(policy.state_dict()) == names == set(merged)
    adapters.merge()
    assert set(policy.state_dict()) == names
    for n, x in policy.state_dict().items():
        same_values(merged[n], x)
    same_values(policy.loss(batch, seed=0).total, loss)


def test_layers_are_chosen_by_expression() -> None:
    policy = wamkit.build(SMALL)
    every = lora.target_layers(policy.backbone, "backbone", None)  # type: ignore[arg-type]
    assert "backbone.blocks.0.ffn.net.0.proj" in every and "backbone.enter" not in every
    found = lora.target_layers(policy.backbone, "backbone", r"\.to_[qv]$")  # type: ignore[arg-type]
    assert found == [f"backbone.blocks.{i}.to_{x}" for i in (0, 1) for x in "qv"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["lora.targets='nothing'"], "the blocks of this backbone have no linear layer that"),
        (["lora.rank=2", "parts.backbone.freeze=true"], "parts.backbone.freeze is set, and lora"),
        (["lora.targets='('"], "'(' is no regular expression"),
        (["lora.parts=[]"], "lora.parts"),
        (["lora.rnk=3"], "did you mean 'rank'"),
    ],
)
def test_mistakes_are_reported(
    folder: Path, tmp_path: Path, settings: list[str], message: str
) -> None:
    with pytest.raises(WamkitError) as error:
        config = read_config(None, settings)
        train(wamkit.build(SMALL), Data(folder, Columns()), tmp_path / "run", config)
    assert message in str(error.value) and not (tmp_path / "run").exists()


def test_without_peft_the_command_that_installs_it_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lora, "find_spec", lambda name: None)
    with pytest.raises(WamkitError, match=r'hint: pip install -e "\.\[lora\]"'):
        add_adapters(wamkit.build(SMALL), TrainConfig(lora=Lora()))


def test_a_plan_counts_gradients_and_moments_of_adapters_alone() -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from wamkit.policy import preprocessing

    policy = wamkit.build(TOY)
    parts = Parts.model_validate({"text_encoder": {"freeze": True}})
    config = TrainConfig(lora=Lora(rank=2), batch_size=1, parts=parts)
    set_trainable(policy, config.parts)
    add_adapters(policy, config)
    learned = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    made = plan(policy.spec, config)
    assert made.memory["gradients"] == 4 * learned
    assert made.memory["moments of AdamW"] == 8 * learned
    resting = sum(p.numel() for p in policy.backbone.parameters() if not p.requires_grad)  # type: ignore[attr-defined]
    assert made.memory["weights at rest"] == 4 * resting

    def counted(run: Callable[[], Any]) -> int:
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            run()
        return counter.get_total_flops()

    batch = batch_of(policy.spec, size=1)
    total = counted(lambda: policy.loss(batch, seed=0).total.backward())
    text_operations = counted(
        lambda: preprocessing.training_inputs(policy, batch)
    )  # the text encoder, which is left out
    one = work(policy.spec, lora=config.lora)
    assert one.operations == pytest.approx(total - text_operations, rel=0.02)
    frozen = Parts.model_validate({"backbone": {"freeze": True}})
    assert work(policy.spec, frozen).operations < one.operations < work(policy.spec).operations
