"""Rounded weights: which layers, how far from the policy itself, and what they forbid."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import wamkit
from wamkit.acceleration.compile_modules import CompiledPass, blocks
from wamkit.acceleration.quantize import KINDS, MIN_ELEMENTS, check_kind, quantizable_layers
from wamkit.bench.quantization import measure_quantized, relative_error
from wamkit.checkpoints.safetensors import cast
from wamkit.config.parts import BackboneConfig
from wamkit.config.registry import registry
from wamkit.engine.passes import PassRunner
from wamkit.errors import WamkitError
from wamkit.files.install import install_hint
from wamkit.policy.policy import Policy
from wamkit.testing.fixtures import batch_of, observation
from wamkit.testing.parity import same_values

TOY = Path(__file__).parent.parent / "examples" / "toy.toml"
BY_CPU = ("float8_weights", "int8", "int8_weights")
WIDE = ["backbone.num_heads=16", "backbone.head_dim=64", "backbone.depth=1"]
SMALL = 500  # numbers: every layer of the tiny policy that reads tokens

# Of the published sizes, what reads noise levels or is kept in float32 inside a block.
LEFT = {
    *("norm.linear", "norm1.linear", "norm1_context.linear", "img_mod.1", "txt_mod.1"),
    *(f"norm{i}.linear_2" for i in (1, 2, 3)),
}


def policy() -> Policy:
    return wamkit.build(TOY, tiny=True)


def acted(policy: Policy) -> torch.Tensor:
    return policy.act(observation(policy.spec, batch=2), seed=0).values


def test_at_published_sizes_all_large_layers_that_read_tokens_are_rounded_and_no_others() -> None:
    for name in registry().names("backbone"):
        config = registry().get("backbone", name)()  # type: ignore[call-arg]
        assert isinstance(config, BackboneConfig)
        with torch.device("meta"):
            backbone = cast(config.build(), torch.bfloat16)
        chosen = set(quantizable_layers([backbone], "int8_weights", torch.bfloat16))
        left = {
            part
            for block in blocks(backbone)
            for part, layer in block.named_modules()
            if isinstance(layer, nn.Linear)
            and layer not in chosen
            and layer.weight.numel() >= MIN_ELEMENTS
        }
        assert left <= LEFT, name
        assert len(chosen) >= config.traits.depth or config.traits.width < 1024, name


@pytest.mark.parametrize("kind", BY_CPU)
def test_a_rounded_policy_stays_near_itself(kind: str) -> None:
    pytest.importorskip("torchao")
    rounded = policy()
    before = acted(rounded)
    done = rounded.quantize(kind, min_elements=SMALL)
    assert done is not None and done.layers > 0 and done.elements > 30_000
    assert 0 < relative_error(acted(rounded), before) < 0.05
    assert torch.equal(acted(rounded), acted(rounded))


def test_rounded_before_or_after_the_first_chunk_is_the_same() -> None:
    pytest.importorskip("torchao")
    early, late = policy(), policy()
    acted(late)  # what fuses layers has fused them
    for one in (early, late):
        one.quantize("int8_weights", min_elements=SMALL)
    assert torch.equal(acted(early), acted(late))


@pytest.mark.parametrize(
    ("kind", "backend"),
    [("int8_weights", "aot_eager"), ("int8", "eager"), ("float8_weights", "eager")],
)
def test_rounded_blocks_are_compiled_whole(kind: str, backend: str) -> None:
    pytest.importorskip("torchao")
    rounded = policy()
    rounded.quantize(kind, min_elements=SMALL)
    expected = acted(rounded)
    rounded.runner = PassRunner(partial(CompiledPass, backend=backend))
    same_values(acted(rounded), expected, 0.002)


def test_a_rounded_policy_neither_learns_nor_is_saved(tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    rounded = policy()
    folder = rounded.save(tmp_path / "before")
    assert rounded.quantize("none") is None
    rounded.quantize("int8_weights", min_elements=SMALL)
    assert rounded.quantize("int8_weights") is None
    with pytest.raises(WamkitError, match="only unquantized") as refused:
        rounded.save(tmp_path / "after")
    assert "load it again and save that" in refused.value.hint
    assert not (tmp_path / "after").exists()
    with pytest.raises(WamkitError, match="cannot learn"):
        rounded.train()
    with pytest.raises(WamkitError, match="already") as refused:
        rounded.quantize("int8")
    assert "load it again" in refused.value.hint
    again = Policy.load(folder)
    again.train()
    assert again.loss(batch_of(again.spec), seed=0).total.requires_grad
    assert again.eval().quantize("int8", min_elements=SMALL) is not None


def test_what_cannot_be_rounded_is_refused_with_a_hint(monkeypatch: Any) -> None:
    pytest.importorskip("torchao")
    for kind, reason, hint in (
        ("int9", "no quantization", "int8"),
        ("float8", "8.9 or above, and the policy is on cpu", "float8_weights"),
        ("int8", f"none has {MIN_ELEMENTS:,} elements", "none"),
    ):
        with pytest.raises(WamkitError, match=reason) as refused:
            policy().quantize(kind)
        assert hint in refused.value.hint
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(WamkitError, match="torchao") as refused:
        check_kind("int8_weights", torch.device("cpu"), "float32")
    assert refused.value.hint == install_hint("quant")
    assert check_kind("none", torch.device("cpu"), "float32") == KINDS[0]


def test_a_report_states_how_far_and_how_fast() -> None:
    pytest.importorskip("torchao")
    report, found = measure_quantized(
        policy(), "int8_weights", "eager", 1, 2, "toy", min_elements=SMALL
    )
    assert found is not None and report.mode == "eager"
    assert 0 < found.chunk_error < 0.05 and 0 < found.velocity_error < 0.05
    assert found.times_as_fast > 0
    assert f"{found.times_as_fast:.2f}x as fast" in found.summary()


def test_commands_quantize_what_they_measure_and_act_with(wamkit: Any, tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    sets = [word for text in WIDE for word in ("--set", text)]
    code, out, _ = wamkit(
        "bench", TOY, *sets, "--iters", "2", "--steps", "1", "--quantize", "int8_weights", "--json"
    )
    found = json.loads(out)["quantized"]
    assert code == 0
    assert found["kind"] == "int8_weights" and found["layers"] > 0
    code, _, err = wamkit("bench", TOY, "--tiny", "--iters", "2", "--quantize", "int8")
    assert code != 0 and "gains nothing" in err
    code, _, err = wamkit("bench", TOY, "--tiny", "--quantize", "float8")
    assert code != 0 and "8.9" in err
