"""Layers computed as one: the same numbers, never stale, whatever becomes of their weights."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from wamkit.acceleration import fused_linear as fused
from wamkit.acceleration.compile_modules import CompiledPass
from wamkit.acceleration.fused_linear import fuse, fused_linear, unfuse
from wamkit.config.compositions import matrix
from wamkit.engine.passes import PassRunner
from wamkit.interfaces.paradigm import prefill
from wamkit.policy.policy import Policy
from wamkit.policy.preprocessing import inference_inputs
from wamkit.testing.fixtures import batch_of, observation
from wamkit.testing.parity import other_values, same_values
from wamkit.train.checkpoints import read_state, write_state
from wamkit.train.processes import Processes

QKV = ("to_q", "to_k", "to_v")


class Attention(nn.Module):
    fuse_groups = (QKV, ("to_k", "to_v"))

    def __init__(self, inputs: int = 8, *, bias: bool = True) -> None:
        super().__init__()
        self.to_q = nn.Linear(8, 16, bias=bias)
        self.to_k, self.to_v = (nn.Linear(inputs, 4, bias=bias) for _ in range(2))


def one(**settings: Any) -> Attention:
    torch.manual_seed(0)
    return Attention(**settings)


def apart(module: nn.Module, x: Tensor, *names: str) -> list[Tensor]:
    return [getattr(module, name)(x) for name in names]


class Products(TorchDispatchMode):
    """Counts matrix products."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.__name__.split(".")[0] in ("addmm", "mm", "bmm", "linear")
        return func(*args, **(kwargs or {}))


def products(run: Callable[[], Any]) -> int:
    with Products() as found:
        run()
    return found.count


def memory(module: nn.Module) -> int:
    """Bytes behind all weights."""
    tensors = [*module.parameters(), *module.buffers()]
    tensors += [t for j in rows(module) for t in (j.weight, j.bias) if t is not None]
    held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(held.values())


def rows(module: nn.Module) -> list[fused.FusedLinear]:
    return [j for m in module.modules() for j in m.__dict__.get(fused.FUSED, {}).values()]


@torch.no_grad()
def is_right(module: nn.Module, *names: str, products_: int | None = None) -> None:
    """What is projected is what the layers by themselves say."""
    layer = getattr(module, names[0])
    weight = next(layer.parameters())
    x = torch.randn(2, 5, 8).to(weight)
    found, expected = fused_linear(module, x, *names), apart(module, x, *names)
    assert len(found) == len(names)
    for a, b in zip(found, expected, strict=True):
        same_values(a, b)
    if products_ is not None:
        assert products(lambda: fused_linear(module, x, *names)) == products_


@pytest.mark.parametrize("bias", [True, False])
def test_layers_that_read_the_same_are_one_product(bias: bool) -> None:
    module = one(bias=bias)
    before, bytes_ = copy.deepcopy(module.state_dict()), memory(module)
    is_right(module, *QKV, products_=3)
    assert len(fuse(module)) == 2 and memory(module) == bytes_
    is_right(module, *QKV, products_=1)
    is_right(module, "to_k", "to_v", products_=1)  # the end of the same piece of memory
    after = module.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    unfuse(module)
    assert not rows(module) and memory(module) == bytes_
    for p in module.parameters():
        assert p.untyped_storage().nbytes() == p.nbytes
    is_right(module, *QKV, products_=3)


def test_a_row_that_cannot_be_leaves_room_for_a_shorter_one() -> None:
    module = one(inputs=6)
    (row,) = fuse(module)
    assert row.weight is not None and row.weight.shape == (8, 6) and row.sizes == [4, 4]


def test_large_layers_on_the_cpu_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    module = one()
    monkeypatch.setattr(fused, "MAX_FUSED_ON_CPU", 100)
    (row,) = fuse(module)  # of 192 numbers in the longer row, and 64 in the shorter
    assert row.sizes == [4, 4]
    is_right(module, *QKV, products_=3)


def test_fusing_again_copies_nothing() -> None:
    module = one()
    places = [fuse(module)[0].weight.data_ptr() for _ in range(2)]  # type: ignore[union-attr]
    assert places[0] == places[1]


class Wrapped(nn.Linear):
    pass


def _without_bias(m: Attention) -> None:
    m.to_k.register_parameter("bias", None)


def _in_half(m: Attention) -> None:
    m.to_k.to(torch.bfloat16)


def _another_class(m: Attention) -> None:
    m.to_k = Wrapped(8, 4)


def _absent(m: Attention) -> None:
    m.to_k = None  # type: ignore[assignment]


def _watched(m: Attention) -> None:
    m.to_k.register_forward_hook(lambda *_: None)


def _tied(m: Attention) -> None:
    m.to_v = m.to_k


def _meta(m: Attention) -> None:
    m.to("meta")


UNLIKE = (_without_bias, _in_half, _another_class, _absent, _watched, _tied, _meta)


@pytest.mark.parametrize("change", UNLIKE, ids=lambda f: f.__name__[1:])
def test_layers_that_are_not_alike_are_left_alone(change: Callable[[Attention], None]) -> None:
    module = one()
    change(module)
    places = [p.data_ptr() for p in module.parameters()]
    assert fuse(module) == [] and [p.data_ptr() for p in module.parameters()] == places


def test_a_weight_of_two_owners_stays_right() -> None:
    first, second = one(), one()
    second.to_k.weight = first.to_k.weight
    root = nn.ModuleList([first, second])
    fuse(root)
    for module in (first, second):
        is_right(module, *QKV)
    assert all(row.is_valid() for row in rows(root))


def _moved(m: Attention) -> None:
    m.to(torch.float64)


def _one_moved(m: Attention) -> None:
    m.to_k.to(torch.float64).to(torch.float32)


def _one_set(m: Attention) -> None:
    m.to_k.weight.data = m.to_k.weight.data + 1


def _new_bias(m: Attention) -> None:
    m.to_v.bias = nn.Parameter(torch.ones(4))


def _no_bias(m: Attention) -> None:
    m.to_v.register_parameter("bias", None)


def _loaded(m: Attention) -> None:
    m.load_state_dict({name: x + 1 for name, x in m.state_dict().items()})


def _assigned(m: Attention) -> None:
    m.load_state_dict({name: x + 1 for name, x in m.state_dict().items()}, assign=True)


def _replaced(m: Attention) -> None:
    m.to_k = nn.Linear(8, 4)


def _written(m: Attention) -> None:
    with torch.no_grad():
        m.to_k.weight.mul_(2)


def _hooked(m: Attention) -> None:
    m.to_k.register_forward_hook(lambda *found: found[2] + 1)


def _wrapped(m: Attention) -> None:
    m.to_k = nn.Sequential(m.to_k, nn.Tanh())  # type: ignore[assignment]


CHANGES = {  # what happens to a fused module -> matrix products for q, k and v afterwards
    _moved: 3,
    _one_moved: 3,
    _one_set: 3,
    _new_bias: 3,
    _no_bias: 3,
    _loaded: 1,
    _assigned: 3,
    _replaced: 3,
    _written: 1,
    _hooked: 3,
    _wrapped: 3,
}


@pytest.mark.parametrize(
    ("change", "count"), CHANGES.items(), ids=lambda x: getattr(x, "__name__", "")
)
def test_it_is_never_stale(change: Callable[[Attention], None], count: int) -> None:
    module = one()
    fuse(module)
    change(module)
    is_right(module, *QKV, products_=count)
    fuse(module)
    is_right(module, *QKV)
    is_right(module, "to_k", "to_v")


def test_adapters_of_low_rank_change_the_output() -> None:
    peft = pytest.importorskip("peft")
    module = nn.ModuleDict({"attn": one()})
    fuse(module)
    settings = peft.LoraConfig(r=2, target_modules=["to_k"], init_lora_weights=False)
    peft.inject_adapter_in_model(settings, module)
    is_right(module["attn"], *QKV)
    assert fuse(module) == []


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copy_has_weights_of_its_own(how: str) -> None:
    module = one()
    fuse(module)
    if how == "deepcopy":
        other = copy.deepcopy(module)
    else:
        file = io.BytesIO()
        torch.save(module, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    _written(other)
    is_right(other, *QKV)
    is_right(module, *QKV, products_=1)
    assert not torch.equal(other.to_k.weight, module.to_k.weight)
    fuse(other)
    is_right(other, *QKV, products_=1)


def test_gradients_reach_every_layer_and_updates_the_row() -> None:
    module, x = one(), torch.randn(3, 8)
    fuse(module)
    learns = torch.optim.AdamW(module.parameters(), lr=0.1)
    assert products(lambda: fused_linear(module, x, *QKV)) == 3  # gradients are on
    torch.cat(fused_linear(module, x, *QKV), -1).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in module.parameters())
    before = module.to_k.weight.clone()
    learns.step()
    assert not torch.equal(module.to_k.weight, before)
    is_right(module, *QKV, products_=1)


def test_it_can_be_fused_where_nothing_may_learn_and_learn_later() -> None:
    module = one()
    with torch.inference_mode():
        fuse(module)
        assert len(fused_linear(module, torch.randn(2, 8), *QKV)) == 3
    torch.cat(fused_linear(module, torch.randn(2, 8), *QKV), -1).sum().backward()
    assert module.to_q.weight.grad is not None


# Policies -------------------------------------------------------------------------------------


CELL = next(iter(matrix(("toy",), ("mot",), ("single_pass",))))


def policy() -> Policy:
    built = Policy.from_spec(CELL.spec)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in built.parameters():
            p.add_(torch.randn(p.shape, generator=rng) * 0.05)
    return built


def acts_as_apart(built: Policy) -> None:
    """It acts as the same policy does layer by layer."""
    plain = copy.deepcopy(built).train()  # in training nothing is fused
    seen = observation(built.spec)
    found = built.act(seen, seed=0).values
    same_values(found, plain.act(seen, seed=0).values)


def test_a_policy_is_fused_by_its_first_chunk_and_apart_while_it_learns() -> None:
    built = policy()
    assert not rows(built)
    acts_as_apart(built)
    assert rows(built) and all(row.is_valid() for row in rows(built))
    built.train()
    assert not rows(built)
    assert all(p.untyped_storage().nbytes() == p.nbytes for p in built.parameters())
    built.eval()
    acts_as_apart(built)
    assert rows(built)


def test_a_step_of_training_is_acted_on() -> None:
    built = policy()
    seen = observation(built.spec)
    before = built.act(seen, seed=0).values
    for learning in (True, False):  # and with gradients in a policy that stays fused
        built.train(learning)
        step = torch.optim.AdamW(built.parameters(), lr=0.01)
        built.loss(batch_of(built.spec), seed=0).total.backward()
        step.step()
        built.eval()
        acts_as_apart(built)
        after = built.act(seen, seed=0).values
        other_values(after, before, 0.0001)
        before = after


@pytest.mark.parametrize("part", ["policy", "backbone"])
@pytest.mark.parametrize("mode", ["eager", "compile"])
def test_a_policy_that_was_moved_is_fused_again(part: str, mode: str) -> None:
    built = policy()
    if mode == "compile":
        built.runner = PassRunner(partial(CompiledPass, backend="eager"))
    built.act(observation(built.spec), seed=0)
    module: Any = built if part == "policy" else built.backbone
    state = {name: 1.5 * x for name, x in module.state_dict().items()}
    module.load_state_dict(state, assign=True)
    acts_as_apart(built)
    assert all(row.is_valid() for row in rows(built))


def test_compiled_blocks_are_whole_and_have_one_product() -> None:
    module, graphs = one(), []
    fuse(module)

    def backend(graph: Any, _: Any) -> Any:
        graphs.append([n for n in graph.graph.nodes if "linear" in str(n.target)])
        return graph.forward

    compiled = torch.compile(fused_linear, backend=backend, fullgraph=True)
    x = torch.randn(2, 8)
    with torch.no_grad():
        for a, b in zip(compiled(module, x, *QKV), apart(module, x, *QKV), strict=True):
            same_values(a, b)
    assert [len(products) for products in graphs] == [1]


@torch.no_grad()
def test_compiled_blocks_are_never_stale_whoever_enters_them() -> None:
    built = policy()
    batch = batch_of(built.spec)
    built.runner = PassRunner(partial(CompiledPass, backend="eager"))
    built.act(observation(built.spec), seed=0)
    built.load_state_dict({k: 1.5 * v for k, v in built.state_dict().items()}, assign=True)
    found = built.loss(batch, seed=0).total
    built.runner = PassRunner()
    same_values(found, built.loss(batch, seed=0).total)


def test_what_is_saved_are_ordinary_weights(tmp_path: Path) -> None:
    built = policy()
    built.save(tmp_path / "before")
    built.act(observation(built.spec), seed=0)
    assert rows(built)
    built.save(tmp_path / "after")
    for file in sorted((tmp_path / "before").glob("*.safetensors")):
        assert file.read_bytes() == (tmp_path / "after" / file.name).read_bytes()
    state = {name: x.detach() for name, x in built.state_dict().items()}
    save_file(state, tmp_path / "by_others.safetensors")
    loaded = load_file(tmp_path / "by_others.safetensors")
    write_state(state, tmp_path / "state", Processes(torch.device("cpu")))
    again = {name: torch.zeros_like(x) for name, x in state.items()}
    read_state(again, tmp_path / "state", Processes(torch.device("cpu")))
    assert all(torch.equal(loaded[n], x) and torch.equal(again[n], x) for n, x in state.items())
    seen = observation(built.spec)
    other = Policy.load(tmp_path / "after")
    assert torch.equal(other.act(seen, seed=0).values, built.act(seen, seed=0).values)


def test_unfusing_parts_what_is_left_of_a_row() -> None:
    module = one()
    fuse(module)
    _replaced(module)
    unfuse(module)
    assert all(p.untyped_storage().nbytes() == p.nbytes for p in module.parameters())


@torch.no_grad()
def test_remembered_keys_and_values_keep_no_queries_alive() -> None:
    built = policy()
    fuse(built)
    inputs = inference_inputs(built, observation(built.spec))
    cache, _ = prefill(built.model, inputs, built.paradigm.sees)
    assert cache is not None
    found = [x for layer in cache.layers for kv in layer.values() for x in (kv.k, kv.v)]
    assert found and all(x.untyped_storage().nbytes() == x.nbytes for x in found)
