"""How a policy runs: as written, with its blocks compiled, or as one recorded CUDA graph.

    eager     every operation as it is written
    compile   every layer through torch.compile, as one region for each kind of layer and shape
              (on a GPU the VAE's encoding of single images too: on a CPU it gains nothing)
    graph     a whole chunk, noise to actions, recorded once for each shape and replayed
    compile+graph    both: the graph captures the compiled regions

The same seed gives the same chunk in all of them, up to rounding. Modes change nothing in training:
where gradients are on, every layer runs as written, unless its blocks were compiled for them
(`wamkit.acceleration.compile_modules`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal
from weakref import WeakSet

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..acceleration.vae_graph import Capture
from ..engine.noise_schedule import NoiseTape
from ..engine.text import Text
from ..errors import WamkitError, did_you_mean
from ..interfaces.types import ModelInputs, ParadigmOutput

Mode = Literal["eager", "compile", "graph", "compile+graph"]
MODES: tuple[Mode, ...] = ("eager", "compile", "graph", "compile+graph")

MAX_GRAPHS = 32
"""How many a policy keeps, those that were used last: each length of an instruction has its
own, and so have batch sizes and choices."""


def check_mode(mode: str, device: torch.device) -> Mode:
    """Raise WamkitError unless a policy on `device` can run in `mode`."""
    if mode not in MODES:
        hint = did_you_mean(mode, list(MODES), f"the modes are {', '.join(MODES)}")
        raise WamkitError(f"no mode is called {mode!r}", hint)
    if captures(mode) and device.type != "cuda":
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


def captures(mode: str) -> bool:
    """Whether a policy in this mode records its chunks, and replays them."""
    return "graph" in mode


def compiler() -> str | None:
    """The C++ compiler that torch.compile would use, if there is one."""
    import os
    import shutil

    names = (os.environ.get("CXX"), "g++", "c++", "clang++")
    return next((found for name in names if name and (found := shutil.which(name))), None)


Act = Callable[[ModelInputs, torch.Generator], ParadigmOutput]
"""Inputs and a generator to an output: all that runs on the device for one chunk."""


class CapturedGraph:
    """`act` captured for inputs of one shape: inputs and noise are copied in, and it is replayed.

    The graph reads the prompt cache (`Text.prompt_cache`) at a fixed address; for
    another prompt it is computed again and copied there. Values that a paradigm reads on the host
    are captured as they were: a paradigm that branches on computed values cannot be captured, and
    CUDA raises an error.
    """

    def __init__(
        self,
        act: Act,
        inputs: ModelInputs,
        rng: torch.Generator,
        capture: Capture,
        kept: Callable[[], Any] = lambda: None,
    ) -> None:
        self._act = act  # and its tensors: replayed operations read memory that must stay
        self._buffers = [x.clone() for x in input_tensors(inputs)]  # static inputs
        self._noise = NoiseTape(rng)
        left = iter(self._buffers)
        self._inputs: ModelInputs = _map_tensors(inputs, lambda _: next(left))
        self._prompt = inputs.text.prompt_cache
        self._run(self._inputs.text)  # draws the noise, and warms up what wants to be warmed up
        self._kept = kept()  # tables and positions, which are read where they lie
        self._output: ParadigmOutput | None = None
        self._capture = capture
        self._capture_graph()

    def _run(self, text: Text) -> ParadigmOutput:
        """`act` on the static inputs with `text` and its prompt cache."""
        self._noise.rewind()
        # Computations once per chunk are captured too.
        text = text.with_fresh_chunk_cache()
        return self._act(self._inputs.with_(text=text), self._noise)

    def _capture_graph(self) -> None:
        def run() -> None:
            self._output = self._run(self._inputs.text)

        self._replay = self._capture(run, self._buffers[0].device)

    def __call__(self, inputs: ModelInputs, rng: torch.Generator) -> ParadigmOutput:
        """The output for inputs with the shapes and devices of the captured ones."""
        torch._foreach_copy_(self._buffers, input_tensors(inputs))
        self._noise.redraw(rng)
        if inputs.text.prompt_cache is not self._prompt:
            self._update_prompt()
            self._prompt = inputs.text.prompt_cache
        self._replay()
        return _map_tensors(self._output, Tensor.clone)  # type: ignore[no-any-return]

    def _update_prompt(self) -> None:
        """Compute the prompt cache of the new prompt, and copy it over the last one."""
        fresh = self._inputs.text.without_caches()
        self._run(fresh)
        old, new = self._inputs.text.prompt_cache, fresh.prompt_cache
        mine, theirs = tree_leaves([old[key] for key in new]), tree_leaves(list(new.values()))
        for there, here in zip(mine, theirs, strict=True):
            if isinstance(there, Tensor):
                there.copy_(here)


class GraphPool:
    """Captures the CUDA graphs of a policy on one stream, into one memory pool.

    Graphs may share it because the output of a replay is copied before the next replay.
    """

    def __init__(self) -> None:
        self._streams: dict[torch.device, torch.cuda.Stream] = {}
        self._graphs: dict[torch.device, WeakSet[torch.cuda.CUDAGraph]] = {}

    def __reduce__(self) -> tuple[type[GraphPool], tuple[()]]:
        """A copy begins with none."""
        return GraphPool, ()

    def __call__(self, run: Callable[[], None], device: torch.device) -> Callable[[], None]:
        """`run` captured as a graph. Raises WamkitError if it cannot be captured."""
        with torch.cuda.device(device):
            stream = self._streams.get(device) or torch.cuda.Stream()
            self._streams[device] = stream
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(2):
                    run()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # A pool is that of a graph that is still there: torch gives up one without any.
            graphs = self._graphs.setdefault(device, WeakSet())
            pool = next((other.pool() for other in graphs), None)
            errors = "thread_local"  # other threads may, for example, pin memory for a loader
            try:
                with torch.cuda.graph(graph, pool, stream, capture_error_mode=errors):
                    run()
            except RuntimeError as error:
                raise WamkitError(
                    f"this policy cannot be captured as a CUDA graph: {error.__context__ or error}",
                    "a paradigm with data-dependent control flow cannot; "
                    'choose mode "compile" or "eager"',
                ) from None
            graphs.add(graph)
        return graph.replay


def input_signature(inputs: ModelInputs, act_options: Mapping[str, Any]) -> tuple[Any, ...]:
    """The shapes, types and settings that inputs share if one captured graph can serve them."""
    named: list[Any] = []
    _map_tensors(inputs, lambda x: x, other=named.append)
    shapes = tuple((tuple(x.shape), x.dtype) for x in input_tensors(inputs))
    return (
        *shapes,
        repr(named),
        *sorted((name, repr(value)) for name, value in act_options.items()),
    )


def input_tensors(tree: Any) -> list[Tensor]:
    """Every tensor of the inputs, in the order of their fields."""
    found: list[Tensor] = []

    def collect_tensor(x: Tensor) -> Tensor:
        found.append(x)
        return x

    _map_tensors(tree, collect_tensor)
    return found


def _map_tensors(
    tree: Any,
    change: Callable[[Tensor], Tensor],
    other: Callable[[Any], Any] = lambda leaf: None,
) -> Any:
    """A copy of nested dataclasses and mappings, its tensors changed; `other` sees the rest."""
    if isinstance(tree, Tensor):
        return change(tree)
    if is_dataclass(tree) and not isinstance(tree, type):
        new = {
            f.name: _map_tensors(getattr(tree, f.name), change, other)
            for f in fields(tree)
            if f.init
        }
        return replace(tree, **new)
    if isinstance(tree, tuple) and any(isinstance(x, Tensor) for x in tree):
        return tuple(_map_tensors(x, change, other) for x in tree)
    if isinstance(tree, Mapping):
        return {key: _map_tensors(value, change, other) for key, value in tree.items()}
    other(tree)
    return tree
