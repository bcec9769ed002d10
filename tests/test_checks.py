"""The checks that plugins run on themselves find what they are there for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wamkit.config.alternatives import hidden_tokens
from wamkit.testing.backbone_contract import STACK, placed_by_hand
from wamkit.testing.fixtures import randomize_weights, spec_with, with_overrides
from wamkit.testing.parity import (
    gradients,
    randomize_parameters,
    same_gradients,
    same_shapes,
    unused_modules,
)

TOY: Any = spec_with(backbone="toy").backbone
feels, attends, cut, refuses = STACK


@pytest.mark.parametrize(
    "how",
    [
        lambda sigma, at: (sigma.mean(1, keepdim=True).expand_as(sigma), at),
        lambda sigma, at: (sigma, 0 * at),
        lambda sigma, at: (sigma, at + 0.1 * at.mean(0)),
        lambda sigma, at: (sigma.roll(1, 1), at.roll(1, 0)),
    ],
    ids=["one level for all", "no places", "places that know each other", "of their neighbors"],
)
def test_tokens_at_wrong_levels_and_places_are_found(how: Any) -> None:
    class Misplaced(type(TOY)):  # type: ignore[misc]
        def build(self) -> Any:
            model = super().build()
            sigmas, positions, on_grid = model.embed_sigma, model.embed_positions, model.embed_grid

            def frames(at: Tensor, grid: Any) -> Any:  # the frames themselves are placed right
                model.embed_positions = positions
                placed = on_grid(at, grid)
                model.embed_positions = misplaced
                return placed

            def misplaced(at: Tensor) -> Any:
                return positions(how(torch.zeros(2, len(at)), at)[1])

            def mistaken(levels: Tensor, pooled: Tensor | None = None) -> Any:
                rows = levels.view(2, -1) if len(levels) == 16 else levels[None]
                return sigmas(how(rows, torch.zeros(rows.shape[1], 3))[0].reshape(-1))

            model.embed_sigma, model.embed_positions, model.embed_grid = mistaken, misplaced, frames
            return model

    for check in (feels, placed_by_hand):
        with pytest.raises(AssertionError):
            check(Misplaced(**TOY.model_dump()))


class Deaf(type(TOY)):  # type: ignore[misc]
    """A toy whose experts have a weight that nothing depends on."""

    def expert(self, width: int, mlp_dim: int) -> Any:
        made = super().expert(width, mlp_dim)
        made.idle = nn.Parameter(torch.ones(1))
        return made


class Stiff(type(TOY)):  # type: ignore[misc]
    """A toy that stays as it is."""

    def resized(self, layers: Any, num_heads: int, mlp_dim: int) -> Any:
        return self


def test_weights_that_do_not_learn_and_sizes_that_stay_are_found() -> None:
    with pytest.raises(AssertionError, match="no gradient reaches idle"):
        attends(Deaf(**TOY.model_dump()))
    for check in (cut, refuses):
        with pytest.raises(AssertionError):
            check(Stiff(**TOY.model_dump()))


class Pair(nn.Module):
    """Two layers, the second of which is not called as a module."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.one, self.two = nn.LayerNorm(3), nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.one(self.norm(x)), self.two.weight)


def test_layers_that_adapters_would_miss_are_named() -> None:
    pair = Pair()
    assert unused_modules(pair, lambda: pair(torch.ones(1, 3))) == {"two"}


def test_gradients_of_every_weight_are_compared() -> None:
    one, two = randomize_parameters(Pair()), randomize_parameters(Pair())
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))
    assert ((one.norm.weight - 1).abs() < 1).all() and one.two.bias.any()
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))

    def found(model: Pair) -> dict[str, Tensor]:
        return gradients(model, lambda x: model(x).sin().sum(), x=x)

    same_gradients(found(one), found(two), silent=[r"two\.bias"])
    with pytest.raises(AssertionError):
        same_gradients(found(one), found(two))  # the bias has none
    with torch.no_grad():
        two.one.bias[0] += 1e-2
    with pytest.raises(AssertionError, match="of the scale"):
        same_gradients(found(one), found(two), silent=[r"two\.bias"])


def test_other_shapes_and_buffers_are_found() -> None:
    same_shapes(Pair(), Pair())
    wide = Pair()
    wide.two = nn.Linear(3, 4)
    with pytest.raises(AssertionError):
        same_shapes(Pair(), wide)
    wide.register_buffer("more", torch.zeros(1))
    with pytest.raises(AssertionError):
        same_shapes(wide, wide)


def test_a_spec_is_composed_by_name_and_changed_as_on_the_command_line() -> None:
    spec = spec_with(TOY, action_head="reader")
    assert (spec.backbone.name, spec.action_head.name) == ("toy", "reader")
    assert spec_with(backbone="toy") is spec_with(backbone="toy")
    assert with_overrides(spec, "actions.chunk_size=3").actions.chunk_size == 3
    model = spec.backbone.build()
    before = [p.clone() for p in model.parameters()]
    assert all(
        not torch.equal(p, q)
        for p, q in zip(before, randomize_weights(model).parameters(), strict=True)
    )


@pytest.mark.parametrize(("head", "times"), [("mot", 0), ("reader", 1)])
def test_the_rule_of_hidden_tokens_makes_a_table_only_for_heads_that_hide_them(
    head: str, times: int
) -> None:
    spec, asked = spec_with(backbone="toy", action_head=head), list[int]()

    class Counted(type(spec.paradigm)):  # type: ignore[misc]
        @property
        def sees(self) -> Any:
            asked.append(1)
            return super().sees

    assert not list(hidden_tokens(Counted(), spec)) and len(asked) == times
