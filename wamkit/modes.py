"""How a policy runs: as written, with its blocks compiled, or as one recorded CUDA graph.

    eager     every operation as it is written
    compile   the blocks' methods through torch.compile, one region for each kind of block and shape
              (on a GPU the VAE's encoding of single pictures too: on a CPU it gains nothing)
    graph     a whole chunk, noise to actions, recorded once for each shape and replayed
    compile+graph    both: what is recorded are the compiled regions

The same seed gives the same chunk in all of them, up to rounding. Modes change nothing in training:
where gradients are on, every block runs as written, unless it was compiled for them
(`compile_blocks(learns=True)`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields, is_dataclass, replace
from types import FunctionType, MethodType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .errors import WamkitError, did_you_mean
from .schedule import Drawn
from .types import Outcome, Scene

Mode = Literal["eager", "compile", "graph", "compile+graph"]
MODES: tuple[Mode, ...] = ("eager", "compile", "graph", "compile+graph")

REGIONS = ("project", "absorb")
"""Methods of a block that are compiled; a block whose `absorb` keeps something between calls names
the ones that do not: `regions = ("project", "_absorb")`."""


def check_mode(mode: str, device: torch.device) -> Mode:
    """Raise WamkitError unless a policy on `device` can run in `mode`."""
    if mode not in MODES:
        hint = did_you_mean(mode, list(MODES), f"the modes are {', '.join(MODES)}")
        raise WamkitError(f"no mode is called {mode!r}", hint)
    if records(mode) and device.type != "cuda":
        raise WamkitError(
            f"a CUDA graph needs a CUDA device, and the policy is on {device.type}",
            'choose mode "compile" or "eager", or build the policy with device="cuda"',
        )
    if compiles(mode) and device.type == "cpu" and compiler() is None:
        raise WamkitError(
            "torch.compile needs a C++ compiler on the CPU, and none was found",
            'install g++ (or name one in the variable CXX), or choose mode "eager"',
        )
    return mode  # type: ignore[return-value]


def compiles(mode: str) -> bool:
    """Whether a policy in this mode runs compiled regions."""
    return "compile" in mode


def records(mode: str) -> bool:
    """Whether a policy in this mode records its chunks, and replays them."""
    return "graph" in mode


def compiler() -> str | None:
    """The C++ compiler that torch.compile would use, if there is one."""
    import os
    import shutil

    names = (os.environ.get("CXX"), "g++", "c++", "clang++")
    return next((found for name in names if name and (found := shutil.which(name))), None)


def compile_blocks(root: nn.Module, *, backend: str = "inductor", learns: bool = False) -> None:
    """Compile the regions of every block below `root`; blocks of a kind share what is compiled.

    What is compiled runs where gradients are off, or where they are on if the policy `learns`.
    """
    # A policy meets more shapes than dynamo's default of 8: prefill and steps of several roles.
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, 64)
    made: dict[tuple[type, str], Callable[..., Any]] = {}
    for block in blocks(root):
        for name in regions(block):
            key = type(block), name
            if key not in made:
                cure = f"let {type(block).__name__}.regions name methods that only compute"
                made[key] = _compiled(getattr(type(block), name), backend, learns, cure)
            setattr(block, name, MethodType(made[key], block))


def as_written(root: nn.Module) -> None:
    """Undo `compile_blocks`, and `compile_encoder` for a VAE below `root`."""
    getattr(root, "vae", root).__dict__.pop("encode", None)
    for block in blocks(root):
        for name in regions(block):
            block.__dict__.pop(name, None)


def compile_encoder(vae: Any, *, backend: str = "inductor") -> None:
    """Compile a VAE's `encode` for single pictures; clips are encoded as written.

    A VAE that cannot be compiled says so by a class attribute, `compiles = False`.
    """
    kind = type(vae)
    if not getattr(kind, "compiles", True):
        return
    compiled = _compiled(
        kind.encode, backend, False, f"give {kind.__name__} the attribute `compiles = False`"
    )

    def encode(vae: Any, pixels: Tensor) -> Tensor:
        single = pixels.shape[2] == 1  # a clip would be one region for every number of pictures
        return (compiled if single else kind.encode)(vae, pixels)  # type: ignore[no-any-return]

    object.__setattr__(vae, "encode", MethodType(encode, vae))


def blocks(root: nn.Module) -> Iterator[nn.Module]:
    """Every module that is opened at its self-attention (`wamkit.attention.Block`)."""
    for module in root.modules():
        if all(hasattr(type(module), name) for name in REGIONS):
            yield module


def regions(block: nn.Module) -> tuple[str, ...]:
    """The names of the methods of a block that are compiled."""
    return getattr(block, "regions", REGIONS)


_fixed: ContextVar[bool] = ContextVar("fixed", default=False)


@contextmanager
def fixed_shapes() -> Iterator[None]:
    """Within, a region that meets a new shape is compiled for that shape alone.

    `dynamic=False` would say the same at every call of a region, and takes a tenth of a small one.
    """
    token = _fixed.set(True)
    try:
        with torch._dynamo.config.patch(automatic_dynamic_shapes=False):
            yield
    finally:
        _fixed.reset(token)


def _compiled(
    method: Callable[..., Any], backend: str, learns: bool, cure: str
) -> Callable[..., Any]:
    """A method that runs compiled where gradients are off, or on, and as written elsewhere."""
    assert isinstance(method, FunctionType)
    # A copy with a code object of its own: what one policy compiles does not count for another.
    own = FunctionType(
        method.__code__.replace(),
        method.__globals__,
        method.__name__,
        method.__defaults__,
        method.__closure__,
    )
    compiled = torch.compile(own, backend=backend, fullgraph=True)

    def run(block: nn.Module, *args: Any) -> Any:
        if torch.is_grad_enabled() is not learns:
            return method(block, *args)
        try:
            if _fixed.get():
                return compiled(block, *args)
            with fixed_shapes():
                return compiled(block, *args)
        except torch._dynamo.exc.Unsupported as error:
            raise WamkitError(
                f"{type(block).__name__}.{method.__name__} cannot be compiled: {error.msg}",
                f'{cure}, or choose mode "eager"',
            ) from None

    return run


Act = Callable[[Scene, torch.Generator], Outcome]
"""A scene and what draws the noise, to an outcome: all that runs on the device for one chunk."""
Capture = Callable[[Callable[[], None]], Callable[[], None]]
"""Records what a function does on the device; the result does it again on the same memory."""


class Recorded:
    """`act` recorded for one shape of scene: inputs and noise are copied in, and it is replayed.

    Whatever a paradigm reads on the host is recorded as it was: a paradigm that decides by what it
    computes cannot run this way, and CUDA says so when it is recorded.
    """

    def __init__(self, act: Act, scene: Scene, rng: torch.Generator, capture: Capture) -> None:
        self._act = act  # and what it holds: replayed operations read memory that must stay
        self._inputs = [x.clone() for x in tensors(scene)]
        self._noise = Drawn(rng)
        left = iter(self._inputs)
        self._outcome: Outcome | None = None

        def run() -> None:
            self._noise.rewind()
            # A copy starts without memos: what is computed once for a chunk is recorded too.
            self._outcome = act(_mapped(still, lambda x: x), self._noise)

        still = _mapped(scene, lambda _: next(left))
        run()  # draws the first noise, and warms up what kernels want to be warmed up
        self._replay = capture(run)

    def __call__(self, scene: Scene, rng: torch.Generator) -> Outcome:
        for mine, given in zip(self._inputs, tensors(scene), strict=True):
            mine.copy_(given)
        self._noise.redraw(rng)
        self._replay()
        return _mapped(self._outcome, Tensor.clone)  # type: ignore[no-any-return]


def captured(run: Callable[[], None]) -> Callable[[], None]:
    """`run` as a CUDA graph. Raises WamkitError if it cannot be recorded."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            run()
    except RuntimeError as error:
        raise WamkitError(
            f"this policy cannot be recorded as a CUDA graph: {error}",
            'a paradigm that decides by what it computes cannot; choose mode "compile" or "eager"',
        ) from None
    return graph.replay


def signature(scene: Scene, choices: Mapping[str, Any]) -> tuple[Any, ...]:
    """What two scenes must agree on to be replayed by the same recording."""
    named: list[Any] = []
    _mapped(scene, lambda x: x, other=named.append)
    shapes = tuple((tuple(x.shape), x.dtype) for x in tensors(scene))
    return (*shapes, repr(named), *sorted((name, repr(value)) for name, value in choices.items()))


def tensors(tree: Any) -> list[Tensor]:
    """Every tensor of a scene, in the order of its fields."""
    found: list[Tensor] = []

    def seen(x: Tensor) -> Tensor:
        found.append(x)
        return x

    _mapped(tree, seen)
    return found


def _mapped(
    tree: Any,
    change: Callable[[Tensor], Tensor],
    other: Callable[[Any], Any] = lambda leaf: None,
) -> Any:
    """A copy of nested dataclasses and mappings, its tensors changed; `other` sees the rest."""
    if isinstance(tree, Tensor):
        return change(tree)
    if is_dataclass(tree) and not isinstance(tree, type):
        new = {
            f.name: _mapped(getattr(tree, f.name), change, other) for f in fields(tree) if f.init
        }
        return replace(tree, **new)
    if isinstance(tree, Mapping):
        return {key: _mapped(value, change, other) for key, value in tree.items()}
    other(tree)
    return tree
