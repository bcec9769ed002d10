"""Regions compute what is written, are looked at once for a kind of call, and are never stale."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from wamkit.acceleration.memo import Memo
from wamkit.acceleration.regions import Regions, region

import wamkit
from wamkit.errors import WamkitError
from wamkit.testing.fixtures import observation
from wamkit.testing.parity import same_values


@dataclass(frozen=True)
class Told:
    """An argument with everything in it that an argument may hold."""

    shift: Tensor
    steps: int
    kept: Memo


class Room(NamedTuple):
    whole: Tensor


@region
def passed(
    layers: list[nn.Module], x: Tensor, told: Told, room: Room, pick: Callable[[Tensor], Tensor]
) -> tuple[list[Tensor], Tensor]:
    found = []
    for layer in layers:
        x = pick(layer(x) + told.shift)
        for _ in range(told.steps):
            x = 2 * x
        found.append(x)
    room.whole.narrow(0, 1, 1).copy_(x[:1])
    return found, room.whole.sum(0)


class Counted(Regions):
    """Regions that count how often torch.compile was asked."""

    asked = 0

    def _through(self, function: Any, args: Any) -> Any:
        self.asked += 1
        return super()._through(function, args)


def layers(count: int = 2) -> list[nn.Module]:
    return [nn.Linear(4, 4) for _ in range(count)]


def told(steps: int = 1) -> Told:
    return Told(torch.randn(4), steps, Memo())


@pytest.fixture
def regions() -> Iterator[Counted]:
    found = Counted("eager")
    with found.entered(), torch.no_grad():
        yield found


def check(*args: Any) -> None:
    """What a region gives within is what its function gives as written."""
    mine, theirs = copy.deepcopy(args[3]), copy.deepcopy(args[3])
    (found, sums), (expected, total) = (
        passed(*args[:3], mine, *args[4:]),
        passed.__wrapped__(*args[:3], theirs, *args[4:]),  # type: ignore[attr-defined]
    )
    assert type(found) is list and len(found) == len(expected)
    for a, b in zip([*found, sums, mine.whole], [*expected, total, theirs.whole], strict=True):
        same_values(a, b)


def test_calls_of_a_kind_are_looked_at_once(regions: Counted) -> None:
    one, pick = layers(), torch.tanh
    for _ in range(3):  # other tensors, and another object that holds them
        check(one, torch.randn(3, 4), told(), Room(torch.randn(2, 4)), pick)
    assert regions.asked == 1
    check(layers(), torch.randn(3, 4), told(), Room(torch.randn(2, 4)), pick)
    assert regions.asked == 2  # other modules, though nothing is compiled for them


@pytest.mark.parametrize("what", ["shape", "layout", "dtype", "value", "function", "count"])
def test_what_steers_a_function_is_told_apart(regions: Counted, what: str) -> None:
    one, x, room = layers(), torch.randn(3, 4), Room(torch.randn(2, 4))
    check(one, x, told(), room, torch.tanh)
    other = {
        "shape": (one, torch.randn(5, 4), told(), room, torch.tanh),
        "layout": (one, torch.randn(4, 3).T, told(), room, torch.tanh),
        "value": (one, x, told(2), room, torch.tanh),
        "function": (one, x, told(), room, torch.sigmoid),
        "count": (layers(3), x, told(), room, torch.tanh),
        "dtype": (
            [layer.double() for layer in layers()],
            x.double(),
            told(),
            Room(room.whole.double()),
            torch.tanh,
        ),
    }
    check(*other[what])
    assert regions.asked == 2


def cast(module: nn.Linear) -> None:
    module.double()
    module.float()


def changed(module: nn.Linear) -> None:
    module.weight.mul_(2)


def replaced(module: nn.Linear) -> None:
    module.weight = nn.Parameter(torch.randn(4, 4))


@pytest.mark.parametrize("change", [cast, changed, replaced])
def test_weights_are_those_of_now(change: Callable[[nn.Linear], None]) -> None:
    found, held = Counted("eager"), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    args = [held], torch.randn(3, 4), told(), Room(torch.randn(2, 4)), torch.tanh
    with torch.no_grad():
        with found.entered():
            check(*args)
        change(held[0])  # type: ignore[arg-type]
        with found.entered():
            check(*args)
        held[1] = nn.Linear(4, 4)
        with found.entered():
            check(*args)


def test_weights_of_another_dtype_are_looked_at_again() -> None:
    found, held = Counted("eager"), nn.Linear(4, 4)
    x, room = torch.randn(3, 4), Room(torch.randn(2, 4))
    with torch.no_grad():
        with found.entered():
            check([held], x, told(), room, torch.tanh)
        held.bfloat16()
        with found.entered():
            x, room = x.bfloat16(), Room(room.whole.bfloat16())
            shift = replace(told(), shift=torch.randn(4).bfloat16())
            check([held], x, shift, room, torch.tanh)
    assert found.asked == 2


def test_weights_that_lie_otherwise_are_looked_at_again() -> None:
    found, held = Counted("eager"), nn.Linear(4, 4)
    args = [held], torch.randn(3, 4), told(), Room(torch.randn(2, 4)), torch.tanh
    with torch.no_grad():
        for _ in range(2):
            with found.entered():
                check(*args)
        assert found.asked == 1
        held.weight.data = held.weight.data.t().contiguous().t()
        with found.entered():
            check(*args)
    assert found.asked == 2


def test_outside_and_with_gradients_a_region_runs_as_written(regions: Counted) -> None:
    args = layers(), torch.randn(3, 4), told(), Room(torch.randn(2, 4)), torch.tanh
    with torch.enable_grad():
        check(*args)
    assert regions.asked == 0
    regions.forget()
    assert copy.deepcopy(regions).backend == "eager"


def test_under_autocast_torch_decides(regions: Counted) -> None:
    args = layers(), torch.randn(3, 4), told(), Room(torch.randn(2, 4)), torch.tanh
    check(*args)
    with torch.autocast("cpu", torch.bfloat16):
        check(*args)
        check(*args)
    assert regions.asked == 3


class Talking(nn.Module):
    """A layer that does more than compute."""

    def forward(self, x: Tensor) -> Tensor:
        print("forward")
        return x


def test_a_layer_that_cannot_be_compiled_is_named(regions: Counted) -> None:
    with pytest.raises(WamkitError, match="Linear with Talking cannot be compiled") as error:
        passed(
            [nn.Linear(4, 4), Talking()],
            torch.randn(3, 4),
            told(),
            Room(torch.randn(2, 4)),
            torch.tanh,
        )
    assert 'or choose mode "eager"' in str(error.value)


def test_a_chunk_goes_straight_to_what_was_compiled_for_the_first() -> None:
    policy = wamkit.build("examples/toy.toml", tiny=True)
    seen = observation(policy.spec)
    expected = policy.act(seen, seed=0).values
    policy.regions = found = Counted("eager")
    same_values(policy.act(seen, seed=0).values, expected)
    asked = found.asked
    assert asked > 0
    same_values(policy.act(seen, seed=0).values, expected)
    assert found.asked == asked
    policy.backbone.load_state_dict(
        {name: 1.5 * x for name, x in policy.backbone.state_dict().items()}, assign=True
    )
    again = policy.act(seen, seed=0).values
    policy.regions = None
    same_values(policy.act(seen, seed=0).values, again)
