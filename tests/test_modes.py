"""The ways a policy can run give the same chunk, and say so where one cannot be had."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import wamkit
from wamkit.acceleration.compile_modules import CompiledPass
from wamkit.config.compositions import Cell, matrix
from wamkit.engine.passes import PassRunner
from wamkit.errors import WamkitError
from wamkit.policy import run_mode as modes
from wamkit.policy.policy import Policy, generator
from wamkit.policy.preprocessing import inference_inputs
from wamkit.testing.fixtures import batch_of, observation
from wamkit.testing.parity import same_values

CELLS = [c for c in matrix() if c.runs]
HEADS = [c for c in CELLS if (c.backbone, c.paradigm) == ("toy", "single_pass")]
PARADIGMS = [c for c in CELLS if (c.backbone, c.action_head) == ("toy", "mot")]
BACKBONES = [c for c in CELLS if (c.action_head, c.paradigm) == ("mot", "single_pass")]


def _name(cell: Cell) -> str:
    return f"{cell.backbone}-{cell.action_head}-{cell.paradigm}"


def close(found: Tensor, expected: Tensor) -> None:
    same_values(found, expected)


def traced() -> PassRunner:
    """Compiles without generating code: what is tested is that passes are whole."""
    return PassRunner(partial(CompiledPass, backend="eager"))


def graphs() -> int:
    """How many passes were compiled so far."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


@pytest.mark.parametrize(
    "cell", {_name(c): c for c in [*BACKBONES, *HEADS, *PARADIGMS]}.values(), ids=_name
)
def test_compiled_passes_compute_the_same_and_are_compiled_once(cell: Cell) -> None:
    policy, seen = Policy.from_spec(cell.spec), observation(cell.spec)
    expected = policy.act(seen, seed=0).values
    policy.runner = traced()
    before = graphs()
    close(policy.act(seen, seed=0).values, expected)
    after = graphs()
    assert after > before
    close(policy.act(seen, seed=0).values, expected)
    assert graphs() == after
    policy.set_mode("eager")
    assert torch.equal(policy.act(seen, seed=0).values, expected)


@pytest.mark.skipif(modes.compiler() is None, reason="torch.compile needs a C++ compiler")
def test_generated_code_computes_the_same() -> None:
    cell = next(c for c in HEADS if c.action_head == "mot")
    policy, seen = Policy.from_spec(cell.spec), observation(cell.spec)
    expected = policy.act(seen, seed=0).values
    policy.set_mode("compile")
    close(policy.act(seen, seed=0).values, expected)
    policy.set_mode("eager")
    assert torch.equal(policy.act(seen, seed=0).values, expected)


def test_training_runs_as_written_in_every_mode() -> None:
    cell = next(c for c in HEADS if c.action_head == "mot")
    policy, batch = Policy.from_spec(cell.spec), batch_of(cell.spec)
    expected = policy.loss(batch, seed=0).total
    policy.runner = traced()
    before = graphs()
    assert torch.equal(policy.loss(batch, seed=0).total, expected) and graphs() == before


def test_what_is_compiled_is_not_saved(tmp_path: Any) -> None:
    cell = next(c for c in HEADS if c.action_head == "mot")
    policy, seen = Policy.from_spec(cell.spec), observation(cell.spec)
    expected = policy.act(seen, seed=0).values
    policy.runner = traced()
    policy.act(seen, seed=0)
    again = Policy.load(policy.save(tmp_path / "policy"))
    assert again.mode == "eager" and torch.equal(again.act(seen, seed=0).values, expected)


class Tape(TorchDispatchMode):
    """What a CUDA graph does, on the CPU: operations are written down, and replayed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        # Numbers become what they are now, as a recorded graph would have them.
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, dict(kwargs or {}), out))
        return out

    def replay(self) -> None:
        for func, args, kwargs, out in self.calls:
            new = func(*args, **kwargs)
            for old, fresh in zip(tree_leaves(out), tree_leaves(new), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != fresh.data_ptr():
                    old.copy_(fresh)


def taped(run: Callable[[], None], device: Any = None) -> Callable[[], None]:
    with Tape() as tape:
        run()
    return tape.replay


DECIDES = ("adaptive",)  # by what it computes: nothing of that can be recorded


@pytest.mark.parametrize(
    "cell",
    {_name(c): c for c in [*PARADIGMS, *HEADS] if c.paradigm not in DECIDES}.values(),
    ids=_name,
)
@torch.no_grad()
def test_a_recording_acts_on_new_images_with_new_noise(cell: Cell) -> None:
    policy = Policy.from_spec(cell.spec)
    act = policy._run_paradigm({})
    first, other = (inference_inputs(policy, observation(cell.spec, seed=seed)) for seed in (0, 1))
    graph = modes.CapturedGraph(act, first, generator(0), taped)
    for inputs, seed in ((first, 0), (other, 5), (first, 5)):
        close(graph(inputs, generator(seed)).action, act(inputs, generator(seed)).action)


@torch.no_grad()
@pytest.mark.parametrize("cell", {_name(c): c for c in [*BACKBONES, *HEADS]}.values(), ids=_name)
def test_a_recording_holds_what_was_made_of_the_prompt_and_takes_in_another(cell: Cell) -> None:
    policy = Policy.from_spec(cell.spec)
    act, seen = policy._run_paradigm({}), observation(cell.spec)
    first, other = (
        inference_inputs(policy, replace(seen, prompt=[prompt] * len(seen.prompt)))
        for prompt in ("lift the cup", "drop the cup")
    )
    products: list[int] = []

    def capture(run: Callable[[], None], device: Any) -> Callable[[], None]:
        with Products() as counted:
            run()
        products.append(counted.found)
        return taped(run)

    graph = modes.CapturedGraph(act, first, generator(0), capture)
    for inputs in (first, other, first):
        close(graph(inputs, generator(3)).action, act(inputs, generator(3)).action)
    again = inference_inputs(policy, replace(seen, prompt=["lift the cup"] * len(seen.prompt)))
    with Products() as known:
        act(again, generator(0))
    assert products == [known.found]


class Products(TorchDispatchMode):
    """How many matrix products there were."""

    found = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.found += func.overloadpacket.__name__ in ("mm", "addmm", "bmm", "linear")
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def test_a_recording_holds_the_negative_prompt() -> None:
    policy = wamkit.build("examples/toy.toml", ["schedules.action.guidance_scale=2"], tiny=True)
    inputs = inference_inputs(policy, observation(policy.spec))
    kept: list[Any] = []

    def capture(run: Callable[[], None], device: Any) -> Callable[[], None]:
        run()
        negative = policy.spec.text_encoder.negative_prompt
        kept.extend(
            weakref.ref(text.tokens)
            for (prompts, *_), text in policy.prompt_state._texts.items()  # type: ignore[misc]
            if set(prompts) == {negative}
        )
        return lambda: None  # as a graph, which holds no tensor

    graph = modes.CapturedGraph(policy._run_paradigm({}), inputs, generator(0), capture)
    policy.prompt_state.forget()
    gc.collect()
    assert [ref() is not None for ref in kept] == [True]
    del graph


def test_scenes_of_one_shape_share_a_recording() -> None:
    policy = Policy.from_spec(HEADS[0].spec)
    small, same, large = (
        inference_inputs(policy, observation(policy.spec, batch=n, seed=s))
        for n, s in ((1, 0), (1, 1), (2, 0))
    )
    assert modes.input_signature(small, {}) == modes.input_signature(same, {})
    assert modes.input_signature(small, {}) != modes.input_signature(large, {})
    assert modes.input_signature(small, {}) != modes.input_signature(small, {"fast": True})


def test_recordings_that_were_used_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wamkit.policy.policy.MAX_GRAPHS", 2)
    policy = Policy.from_spec(HEADS[0].spec)
    monkeypatch.setattr(policy, "mode", "graph")
    made: list[int] = []

    def capture(run: Callable[[], None], device: Any) -> Callable[[], None]:
        made.append(1)
        return taped(run)

    monkeypatch.setattr(policy, "_capture", capture)
    seen = {n: observation(policy.spec, batch=n) for n in (1, 2, 3)}
    chunks = {n: policy.act(seen[n], seed=0).values for n in (1, 2)}
    for batch, recordings in ((1, 2), (3, 3), (1, 3), (2, 4), (1, 4)):
        values = policy.act(seen[batch], seed=0).values
        assert len(made) == recordings and len(policy._graphs) == 2
        if batch in chunks:
            close(values, chunks[batch])


def test_a_graph_is_refused_where_there_is_no_cuda_device() -> None:
    with pytest.raises(WamkitError) as found:
        wamkit.build("examples/toy.toml", tiny=True, mode="graph")
    assert str(found.value) == (
        "a CUDA graph needs a CUDA device, and the policy is on cpu\n"
        '  hint: choose mode "compile" or "eager", or build the policy with device="cuda"'
    )


def test_an_unknown_mode_is_refused_with_the_nearest() -> None:
    with pytest.raises(WamkitError, match="no mode is called 'compiled'") as found:
        modes.check_mode("compiled", torch.device("cpu"))
    assert "did you mean 'compile'" in str(found.value)


def test_without_a_compiler_the_error_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(WamkitError, match="and none was found"):
        modes.check_mode("compile", torch.device("cpu"))


class Pretended:
    """A stream that does nothing."""

    def wait_stream(self, other: Any) -> None:
        pass


def test_graphs_lie_in_the_pool_of_one_that_is_still_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch counts who uses a pool: one that nobody uses any more must not be used again."""
    uses: dict[int, int] = {}

    class Graph:
        place = 0

        def pool(self) -> int:
            return self.place

        def replay(self) -> None:
            pass

        def __del__(self) -> None:
            uses[self.place] -= 1

    @contextmanager
    def graph(made: Graph, pool: int | None, *_: Any, **__: Any) -> Iterator[None]:
        assert pool is None or uses[pool] > 0
        made.place = len(uses) + 1 if pool is None else pool
        uses[made.place] = uses.get(made.place, 0) + 1
        yield

    replaced: dict[str, Any] = {"CUDAGraph": Graph, "graph": graph, "Stream": Pretended}
    replaced |= {"current_stream": Pretended, "device": nullcontext, "stream": nullcontext}
    for name, what in replaced.items():
        monkeypatch.setattr(torch.cuda, name, what)
    device, graphs = torch.device("cuda", 0), modes.GraphPool()
    held = [graphs(lambda: None, device) for _ in range(2)]
    assert uses == {1: 2}
    del held[0]
    held.append(graphs(lambda: None, device))
    assert uses == {1: 2}
    held.clear()
    assert uses == {1: 0}
    held.append(graphs(lambda: None, device))
    assert uses == {1: 0, 2: 1}
