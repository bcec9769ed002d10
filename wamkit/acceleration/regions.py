"""Compiled regions: pieces of a network that a policy runs as one compiled function each.

A region is a function of modules, tensors and plain values, marked by `@region`: a layer of all
streams (`wamkit.engine.attention`), or a block of a head that has its own way through them. Outside
of `Regions.entered()` it is called as written.

The first call with arguments of a kind goes through torch.compile, which looks at everything the
function reads. What it compiled, and which of its inputs are arguments and which are weights, is
written down, and later calls with arguments of that kind go there directly: looking again would
take longer than a small region itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields, is_dataclass
from functools import wraps
from operator import attrgetter, is_
from types import FunctionType
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from ..errors import WamkitError
from .fused_linear import ROWS
from .memo import Memo

Function = TypeVar("Function", bound=Callable[..., Any])

PLAIN = (bool, int, float, str, torch.dtype, torch.device)
MOST = 4096
"""Ways that are kept: more than the layers of any network have, in all the passes of a chunk."""

_entered: ContextVar[Regions | None] = ContextVar("entered", default=None)


def region(function: Function) -> Function:
    """Compiled as one piece where a policy runs compiled and gradients are off.

    Arguments are modules, tensors and plain values, bare or in tuples, lists, dictionaries and
    dataclasses; any other object counts as itself. It must look into no memo
    (`wamkit.acceleration.memo`), change nothing but tensors, and return tensors in tuples and
    lists.
    """

    @wraps(function)
    def run(*args: Any) -> Any:
        regions = _entered.get()
        if regions is None or torch.is_grad_enabled():
            return function(*args)
        return regions(function, args)

    return run  # type: ignore[return-value]


def compiles() -> bool:
    """Whether regions run compiled here."""
    return _entered.get() is not None and not torch.is_grad_enabled()


_form = attrgetter("dtype", "device", "shape")


def _forms(weights: Sequence[Tensor]) -> list[Any]:
    """What compiled code takes for granted of weights: it checks none of this itself."""
    return [*map(_form, weights), *map(Tensor.stride, weights)]


class Way(NamedTuple):
    """How a call gets to what was compiled for it, and back."""

    compiled: Callable[..., Any]  # graph inputs to graph outputs
    inputs: list[Tensor | None]  # None where an argument goes
    arguments: tuple[tuple[int, int], ...]  # place among the inputs, and among the arguments
    result: Any  # places among the outputs, in the tuples and lists that the function returns
    links: tuple[list[Any], ...]  # dictionaries, names in them, and what these must hold
    forms: tuple[list[Tensor], list[Any]]  # weights, and what code was made for
    held: tuple[Any, ...]  # so that ids stay theirs
    found: list[object]  # one: the visit in which the links were seen to hold

    def __call__(self, leaves: Sequence[Tensor]) -> Any:
        """What the function returns for these tensors."""
        inputs = self.inputs.copy()
        for place, argument in self.arguments:
            inputs[place] = leaves[argument]
        return _built(self.result, self.compiled(*inputs))

    def leads(self, visit: object) -> bool:
        """Whether all modules and weights are still those that the inputs were taken from."""
        if self.found[0] is visit:
            return True
        *places, values = self.links
        if not all(map(is_, map(dict.get, *places), values)):
            return False
        weights, forms = self.forms
        if _forms(weights) != forms:
            return False
        self.found[0] = visit
        return True


class Regions:
    """The compiled regions of one policy."""

    def __init__(self, backend: str = "inductor") -> None:
        self.backend = backend
        self._functions: dict[Any, Callable[..., Any]] = {}
        self._ways: dict[Any, Way | None] = {}
        self._kinds: dict[Any, int] = {}  # of values that are looked at often, a number each
        self._known: dict[int, tuple[Any, list[Tensor], int]] = {}
        self._calls: list[tuple[Callable[..., Any], Sequence[Any], Any]] = []
        self._visit = object()

    def forget(self) -> None:
        """Look at everything again; what is compiled stays."""
        self._ways.clear()
        self._known.clear()

    def __reduce__(self) -> tuple[type[Regions], tuple[str]]:
        """A copy begins with nothing compiled."""
        return Regions, (self.backend,)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Within, regions run compiled, each for the shapes it meets and no others."""
        token, self._visit = _entered.set(self), object()
        try:
            with fixed_shapes():
                yield
        finally:
            _entered.reset(token)
            self._known.clear()

    def __call__(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """What `function` returns for `args`, by compiled code where that is possible."""
        if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
            return self._through(function, args)
        leaves: list[Tensor] = []
        kind: list[Any] = [function, torch.is_inference_mode_enabled()]
        for arg in args:
            self._look(arg, leaves, kind)
        key = tuple(kind)
        way = self._ways.get(key)
        if way is not None and way.leads(self._visit):
            return way(leaves)
        if way is None and key in self._ways:
            return self._through(function, args)
        self._calls.clear()
        result = self._through(function, args)
        if len(self._ways) >= MOST:
            self._ways.clear()
        self._ways[key] = way_of(self._calls, args, leaves, result, self._visit)
        self._calls.clear()
        return result

    def _through(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """The way through torch.compile."""
        try:
            return self._compiled(function)(*args)
        except torch._dynamo.exc.Unsupported as error:
            names = sorted({type(x).__name__ for x in _objects(args) if isinstance(x, nn.Module)})
            raise WamkitError(
                f"{' with '.join(names) or function.__name__} cannot be compiled: {error.msg}",
                "let its methods only compute (what is kept between calls belongs into `told`), "
                'or choose mode "eager"',
            ) from None

    def _compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        found = self._functions.get(function)
        if found is None:
            made = torch.compile(own(function), backend=self._watched, fullgraph=True)
            found = self._functions[function] = made
        return found

    def _watched(self, graph: Any, inputs: Any) -> Callable[..., Any]:
        """What the backend makes of a graph; its calls are written down."""
        from torch._inductor import config

        # Shapes of arguments are part of a way's key, those of weights of its forms.
        with config.patch(size_asserts=False):
            compiled = torch._dynamo.lookup_backend(self.backend)(graph, inputs)

        def call(*given: Any) -> Any:
            found = compiled(*given)
            self._calls.append((compiled, given, found))
            return found

        return call

    def _look(self, x: Any, leaves: list[Tensor], kind: list[Any]) -> None:
        """Append the tensors in an argument, and what kind of an argument it is."""
        form = type(x)
        if form is list or form is tuple:  # the most frequent first: this runs in every layer
            kind += (form, len(x))
            for y in x:
                self._look(y, leaves, kind)
            return
        seen = self._known.get(id(x))
        if seen is not None:  # most are: they come again with every layer
            leaves += seen[1]
            kind.append(seen[2])
        elif isinstance(x, Tensor):
            leaves.append(x)
            kind += (form, x.shape, x.stride(), x.dtype)
        elif x is None or isinstance(x, PLAIN):
            kind += (form, x)
        elif isinstance(x, nn.Module):
            self._known[id(x)] = x, [], id(x)
            kind.append(id(x))
        elif isinstance(x, Memo):
            kind.append(Memo)
        elif type(x) is dict:
            kind += (dict, *x)
            for y in x.values():
                self._look(y, leaves, kind)
        elif isinstance(x, tuple):
            self._look_once(x, x, leaves, kind)
        elif is_dataclass(x):
            self._look_once(x, [getattr(x, field.name) for field in fields(x)], leaves, kind)
        else:
            self._known[id(x)] = x, [], -id(x)
            kind.append(-id(x))

    def _look_once(self, x: Any, values: Any, leaves: list[Tensor], kind: list[Any]) -> None:
        """The same for what does not change while it is there."""
        inside: list[Tensor] = []
        own_kind: list[Any] = [type(x)]
        for y in values:
            self._look(y, inside, own_kind)
        number = self._kinds.setdefault(tuple(own_kind), len(self._kinds))
        if isinstance(x, tuple) or getattr(x, "__dataclass_params__").frozen:  # noqa: B009
            self._known[id(x)] = x, inside, number
        leaves += inside
        kind.append(number)


@contextmanager
def fixed_shapes() -> Iterator[None]:
    """Within, what meets a new shape is compiled for that shape alone.

    `dynamic=False` would say the same at every call of a region, and takes a tenth of a small one.
    """
    # A policy meets more shapes than dynamo's default of 8: prefill and steps, role by role.
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, 256)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, 1024)
    with config.patch(automatic_dynamic_shapes=False):
        yield


def own(function: Callable[..., Any]) -> Callable[..., Any]:
    """A copy with a code object of its own: what one policy compiles does not count for another."""
    assert isinstance(function, FunctionType)
    return FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )


def way_of(
    calls: Sequence[tuple[Callable[..., Any], Sequence[Any], Any]],
    args: tuple[Any, ...],
    leaves: Sequence[Tensor],
    result: Any,
    visit: object,
) -> Way | None:
    """The way that a first call took; None if it cannot be told from what went in and came out."""
    if len(calls) != 1:
        return None
    compiled, given, outputs = calls[0]
    held = tuple(_objects(args))
    links = tuple(link for x in held if isinstance(x, nn.Module) for link in _links(x))
    weights = {id(value): value for _, _, value in links if isinstance(value, Tensor)}
    arguments = {id(leaf): i for i, leaf in enumerate(leaves)}
    inputs: list[Tensor | None] = []
    places = []
    for place, x in enumerate(given):
        if id(x) in arguments:
            places.append((place, arguments[id(x)]))
            inputs.append(None)
        elif id(x) in weights:
            inputs.append(x)
        else:
            return None
    shape = _shape(result, {id(x): i for i, x in enumerate(outputs)})
    if shape is None:
        return None
    forms = list(weights.values()), _forms(list(weights.values()))
    columns = [list(column) for column in zip(*links, strict=True)] or [[], [], []]
    return Way(compiled, inputs, tuple(places), shape, tuple(columns), forms, held, [visit])


def _objects(x: Any) -> Iterator[Any]:
    """What is told apart by what it is, not by what it holds."""
    if x is None or isinstance(x, (Tensor, Memo, *PLAIN)):
        return
    if isinstance(x, tuple | list):
        for y in x:
            yield from _objects(y)
    elif isinstance(x, dict):
        yield from _objects(list(x.values()))
    elif is_dataclass(x) and not isinstance(x, nn.Module):
        yield from _objects([getattr(x, field.name) for field in fields(x)])
    else:
        yield x


def _links(module: nn.Module) -> Iterator[tuple[Any, Any, Any]]:
    """Everything below a module that leads to its weights."""
    for inner in module.modules():
        for held in (inner._modules, inner._parameters, inner._buffers):
            for name, value in held.items():
                yield held, name, value
        rows = vars(inner).get(ROWS)
        yield vars(inner), ROWS, rows
        for row in (rows or {}).values():
            yield vars(row), "weight", row.weight
            yield vars(row), "bias", row.bias


def _shape(result: Any, places: dict[int, int]) -> Any:
    """A result with places in place of tensors; None if a tensor has none."""
    if isinstance(result, Tensor):
        return places.get(id(result))
    if type(result) not in (tuple, list):
        return None
    inside = [_shape(x, places) for x in result]
    return None if any(x is None for x in inside) else (type(result), inside)


def _built(shape: Any, outputs: Sequence[Any]) -> Any:
    """The reverse."""
    if type(shape) is int:
        return outputs[shape]
    kind, inside = shape
    found = [outputs[x] if type(x) is int else _built(x, outputs) for x in inside]
    return found if kind is list else tuple(found)
