"""Layers of 8-bit integers on x86: how near they are, and what they leave as it was."""

from __future__ import annotations

import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import wamkit
from wamkit.acceleration import int8_linear as integers
from wamkit.acceleration.int8_linear import Int8Linear, fits, overflows, round_layers
from wamkit.acceleration.quantize import check_kind
from wamkit.policy.cost import Counter
from wamkit.testing.fixtures import observation
from wamkit.testing.parity import same_values

TOY = Path(__file__).parent.parent / "examples" / "toy.toml"
CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(not fits(CPU), reason="torch has no such kernel for this processor")


def layer(inputs: int = 64, outputs: int = 96) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs)


@torch.no_grad()
def test_every_token_has_a_scale_of_its_own() -> None:
    plain, x = layer(), torch.randn(2, 5, 64)
    x = x * torch.tensor([1e-3, 1.0, 1e3, 0.0, 30.0])[:, None]
    y, exact = Int8Linear(plain)(x), plain(x)
    bias, zeros = plain.bias, slice(3, 4)
    error = ((y - exact).norm(dim=2) / (exact - bias).norm(dim=2))[:, [0, 1, 2, 4]]
    assert y.shape == exact.shape and error.max() < (0.05 if overflows() else 0.025)
    same_values(y[:, zeros], exact[:, zeros])


@torch.no_grad()
def test_sums_of_the_largest_values_do_not_overflow() -> None:
    plain = layer()
    plain.weight.fill_(1.0)
    x = torch.ones(3, 64)
    same_values(Int8Linear(plain)(x), plain(x), 0.01)


@torch.no_grad()
def test_the_dtype_of_the_input_is_that_of_the_output() -> None:
    plain = layer().bfloat16()
    x = torch.randn(1, 7, 64).bfloat16()
    y = Int8Linear(plain)(x)
    assert y.dtype == torch.bfloat16
    assert (y - plain(x)).float().norm() < 0.05 * plain(x).float().norm()


@torch.no_grad()
def test_a_compiled_layer_finds_its_own_weight() -> None:
    one, two = Int8Linear(layer()), Int8Linear(_scaled(layer(), -2))
    x = torch.randn(4, 64)
    compiled = torch.compile(lambda x: (one(x), two(x)), backend="aot_eager", fullgraph=True)
    for found, expected in zip(compiled(x), (one(x), two(x)), strict=True):
        same_values(found, expected)


def _scaled(plain: nn.Linear, times: float) -> nn.Linear:
    with torch.no_grad():
        plain.weight.mul_(times)
    return plain


@torch.no_grad()
def test_a_copy_outlives_what_it_was_copied_from() -> None:
    made, x = Int8Linear(layer()), torch.randn(3, 64)
    expected, copy = made(x), deepcopy(made)
    del made
    assert torch.equal(copy(x), expected)
    assert not copy.state_dict()


@torch.no_grad()
def test_weights_are_let_go_with_their_layer() -> None:
    before = len(integers._packed)
    made = Int8Linear(layer())
    assert len(integers._packed) == before + 1
    del made
    assert len(integers._packed) == before


@torch.no_grad()
def test_work_is_counted_as_that_of_the_layer_in_one_byte() -> None:
    plain, x = layer(), torch.randn(5, 64)
    with Counter() as exact:
        plain(x)
    with Counter() as found:
        Int8Linear(plain)(x)
    assert found.operations == exact.operations == 2 * 5 * 64 * 96
    assert 64 * 96 < found.bytes < exact.bytes


def test_a_layer_of_two_owners_stays_one() -> None:
    shared = layer()
    roots = [nn.ModuleDict({"a": shared, "b": layer()}), nn.ModuleDict({"c": shared})]
    round_layers(roots, {shared})
    assert roots[0]["a"] is roots[1]["c"] and type(roots[0]["a"]) is Int8Linear
    assert type(roots[0]["b"]) is nn.Linear


def test_no_other_library_is_needed_and_nothing_is_warned_of(monkeypatch: Any) -> None:
    monkeypatch.setattr("wamkit.acceleration.quantize.find_spec", lambda name: None)
    assert check_kind("int8", CPU, "float32") == "int8"
    policy = wamkit.build(TOY, tiny=True)
    seen = observation(policy.spec, batch=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = policy.quantize("int8", min_elements=500)
        policy.act(seen, seed=0)
    rounded = [m for m in policy.modules() if isinstance(m, Int8Linear)]
    assert done is not None and len(rounded) == done.layers


def test_without_the_kernel_torchao_is_taken(monkeypatch: Any) -> None:
    pytest.importorskip("torchao")
    monkeypatch.setattr("wamkit.acceleration.quantize.fits", lambda device: False)
    policy = wamkit.build(TOY, tiny=True)
    assert policy.quantize("int8", min_elements=500) is not None
    assert not any(isinstance(module, Int8Linear) for module in policy.modules())
