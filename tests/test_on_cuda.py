"""What a CUDA device would be asked for, seen without one.

Tensors on it are pretended: each says that it is on "cuda:0" and holds one on the CPU, where every
operation is computed. So real numbers flow, and what would be refused, waited for, or lost in a
recorded graph is noticed operation by operation.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from traceback import extract_stack
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from wamkit.config.check import check
from wamkit.config.compositions import Cell, matrix
from wamkit.config.spec import PolicySpec, parse, read
from wamkit.engine import device as device_constants
from wamkit.errors import WamkitError
from wamkit.policy import devices
from wamkit.policy import run_mode as modes
from wamkit.policy.policy import Policy, generator
from wamkit.policy.preprocessing import inference_inputs
from wamkit.testing.fixtures import batch_of, observation
from wamkit.testing.parity import same_values

CUDA = torch.device("cuda", 0)
EXAMPLES = Path(__file__).parent.parent / "examples"
WAITS = {"_local_scalar_dense", "nonzero", "equal", "masked_select", "bincount", "histc"}
WAITS |= {"_unique2", "unique_dim", "unique_consecutive", "aten.repeat_interleave.Tensor"}
CHOOSES = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}


class Far(Tensor):
    """A tensor that says it is on a CUDA device; what it holds is `here`, on the CPU."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> Far:
        made = Tensor._make_wrapper_subclass(
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=CUDA,
        )
        made.here = here
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} on a pretended device that is not there any more")


class Device(TorchDispatchMode):
    """The pretended device: it computes, refuses what CUDA refuses, and notes what costs."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[str] | None = None  # None where nobody watches
        self.capturing = False
        self.refused: list[str] = []  # what was noted in the last capture
        self.made: dict[int, Any] = {}  # memory that was made in it
        self.read: dict[int, weakref.ref[Any]] = {}  # and memory from before that it needs

    def note(self, what: str) -> None:
        if self.noted is not None:
            frames = [
                f for f in extract_stack() if "wamkit" in "/".join(f.filename.split("/")[-3:])
            ]
            places = ["/".join(f.filename.split("/")[-2:]) + f":{f.lineno}" for f in frames[-3:]]
            self.noted.append(f"{what} at {', '.join(reversed(places))}")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        given = list(tensors((*args, *kwargs.values())))
        far = [x for x in given if isinstance(x, Far)]
        device = kwargs.pop("device", None)
        kwargs.pop("pin_memory", None)
        stays = bool(far) if device is None else torch.device(device).type == "cuda"
        if device is not None:
            kwargs["device"] = "cpu"
        if func.overloadpacket.__name__ == "copy_":
            stays = isinstance(args[0], Far)
        self._look(func, args, kwargs, given, far, stays)
        near = {name: mapped(value, _near) for name, value in kwargs.items()}
        with unset_fake_temporarily():
            out = func(*mapped(args, _near), **near)
        if not stays or out is None:
            return out
        own = {id(x.here): x for x in far}
        return mapped(out, lambda x: self._far(x, own, far))

    def _far(self, x: Tensor, own: Mapping[int, Far], far: list[Far]) -> Far:
        """A result on the device: an operand, if it is one that was written to."""
        if id(x) in own:
            return own[id(x)]
        if self.capturing:
            memory = x.untyped_storage()
            if all(memory._cdata != y.here.untyped_storage()._cdata for y in far):
                self.made[memory._cdata] = memory
        return Far(x)

    def _look(
        self, func: Any, args: Any, kwargs: Any, given: list[Tensor], far: list[Far], stays: bool
    ) -> None:
        """Raise RuntimeError for what CUDA refuses, and note what it waits for or cannot record."""
        name, draws, writes = facts(func)
        if name in ("_to_copy", "copy_"):
            source = given[-1]
            waits = self.capturing or not (kwargs.get("non_blocking") or True in args[2:])
            if stays and not isinstance(source, Far) and waits:
                self.note("brought from the host")
            if not stays and isinstance(source, Far):
                self.note("fetched from the device")
        elif far and len(far) < len(given):
            if any(x.ndim for x in given if not isinstance(x, Far)):
                places = ", ".join(f"{list(x.shape)} on {x.device}" for x in given)
                raise RuntimeError(f"{func} mixes devices: {places}")
            self.note(f"{func} takes a number from a tensor on the host")
        if far and (name in WAITS or str(func) in WAITS):
            self.note(f"{func} waits")
        if far and name in CHOOSES and any(x.dtype == torch.bool for x in tensors(args[1])):
            self.note(f"{func} waits for how many are chosen")
        if self.capturing:
            if draws:
                self.note(f"{func} draws")
            for x in far:
                memory = x.here.untyped_storage()
                if memory._cdata not in self.made:
                    self.read.setdefault(memory._cdata, weakref.ref(memory))
                    if any(x is y for place in writes for y in tensors([args[place]])):
                        self.note(f"{func} writes to memory from before")

    def attend(self, mask: Tensor, grouped: bool) -> None:
        """Note a mask that is copied before attention, or that keeps it from its fast kernels."""
        *strides, last = mask.stride()
        if mask.dtype == torch.bool or last != 1 or any(n % 8 for n in strides):
            self.note(f"a mask of strides {mask.stride()} is copied")
        if grouped:
            self.note("a mask next to grouped keys")

    @contextmanager
    def watched(self) -> Iterator[list[str]]:
        """What is noted within."""
        found: list[str] = []
        self.noted = found
        try:
            yield found
        finally:
            self.noted = None

    def capture(self, run: Callable[[], None], on: Any = None) -> Callable[[], None]:
        """As `wamkit.policy.run_mode.GraphPool`, but a replay leaves everything as it is."""
        self.capturing = True
        self.made, self.read = {}, {}
        try:
            with self.watched() as self.refused:
                run()
        finally:
            self.capturing = False
        return lambda: None

    def hold(self, policy: Policy) -> None:
        """Move a policy here, as `policy.to("cuda")` does."""
        before = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            with pytest.MonkeyPatch.context() as patch:  # that this machine has one is pretended
                patch.setattr(devices, "expect_device", lambda *_, **__: CUDA)
                policy.to(CUDA)
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(before)
        assert policy.device == CUDA


@cache
def facts(func: Any) -> tuple[str, bool, list[int]]:
    """The name of an operation, whether it draws, and the places of what it writes to."""
    arguments = enumerate(func._schema.arguments)
    writes = [place for place, x in arguments if x.alias_info and x.alias_info.is_write]
    draws = torch.Tag.nondeterministic_seeded in func.tags
    return func.overloadpacket.__name__, draws, writes


def tensors(values: Any) -> Iterator[Tensor]:
    """Those among the arguments of an operation, in lists too."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors(value)


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """An argument or result with its tensors changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, list | tuple):
        return type(value)([mapped(x, change) for x in value])
    return value


def _near(x: Tensor) -> Tensor:
    return x.here if isinstance(x, Far) else x


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """A pretended device; torch looks for no real one while its own pretending is on."""
    device_constants._constant.cache_clear()
    plain = F.scaled_dot_product_attention
    with FakeTensorMode(), sdpa_kernel(SDPBackend.MATH), Device() as pretended:

        def attention(q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            mask = args[0] if args else kwargs.get("attn_mask")
            if mask is not None and pretended.capturing:
                pretended.attend(mask, kwargs.get("enable_gqa", False))
            return plain(q, k, v, *args, **kwargs)

        monkeypatch.setattr(F, "scaled_dot_product_attention", attention)
        yield pretended
    device_constants._constant.cache_clear()


SEEN: dict[str, Callable[[Tensor], Any]] = {
    "a number": lambda x: float(x.sum()),
    "a decision": lambda x: bool((x > 0).any()),
    "a mask as an index": lambda x: x[x > 0],
    "places that are not known before": lambda x: x.nonzero(),
    "counts that are not known before": lambda x: x.repeat_interleave(x.long()),
    "a list as an index": lambda x: x[[0, 2]],
    "a tensor of numbers": lambda x: x + torch.tensor([1.0, 2.0, 3.0], device=x.device),
    "new_tensor": lambda x: x.new_tensor([1.0]),
    "a copy on the host": lambda x: x.cpu(),
    "a copy from the host": lambda x: torch.ones(3).to(x.device),
    "noise of the device's own": lambda x: torch.randn_like(x),
    "a number on the host": lambda x: x * torch.ones(()),
    "writing to what was there": lambda x: x.add_(1),
}
UNSEEN: dict[str, Callable[[Tensor], Any]] = {
    "a number for all": lambda x: torch.where(x > 0, 0.5, x),
    "a slice that is filled": lambda x: x.clone()[1:].fill_(0),
    "new tensors": lambda x: (torch.arange(3, device=x.device), torch.full((3,), 2, device=CUDA)),
    "equal repeats": lambda x: x.repeat_interleave(2),
    "places on the device": lambda x: x[torch.arange(2, device=x.device)],
    "a mask that is filled": lambda x: x.masked_fill(x > 0, 0.0),
    "constants that were there": lambda x: device_constants.constant((1.0, 2.0), x.dtype, x.device),
}


@pytest.mark.parametrize("what", SEEN)
def test_what_a_recording_cannot_hold_is_seen(what: str, device: Device) -> None:
    x = torch.tensor([1.0, 2.0, 3.0]).to(CUDA)
    device.capture(lambda: SEEN[what](x))
    assert len(device.refused) == 1


@pytest.mark.parametrize("what", UNSEEN)
def test_what_a_recording_holds_is_let_pass(what: str, device: Device) -> None:
    x = torch.tensor([1.0, 2.0, 3.0]).to(CUDA)
    UNSEEN[what](x)
    device.capture(lambda: UNSEEN[what](x))
    assert device.refused == []


def test_two_devices_in_one_operation_are_refused(device: Device) -> None:
    with pytest.raises(RuntimeError, match=r"mixes devices: \[3\] on cuda:0, \[3\] on cpu"):
        torch.ones(3, device=CUDA) + torch.ones(3)


def test_noise_and_images_are_sent_without_waiting(device: Device) -> None:
    like = torch.zeros(2, 3, device=CUDA)
    with device.watched() as noted:
        torch.ones(3).to(CUDA, non_blocking=True)
        assert noted == []
        torch.ones(3).to(CUDA)
        like.copy_(torch.ones(3))
    assert len(noted) == 2


def few_steps(spec: PolicySpec) -> PolicySpec:
    """The spec with two evaluations a run, if nothing stands against that."""
    few = {
        part: flow.model_copy(update={"steps": min(flow.steps, 2)})
        for part, flow in spec.schedules
        if flow is not None
    }
    changed = spec.model_copy(update={"schedules": spec.schedules.model_copy(update=few)})
    return spec if any(not conflict.missing for conflict in check(changed)) else changed


def chosen(cell: Cell) -> bool:
    """Whether it is among the cells that try every paradigm, head and backbone."""
    if cell.backbone == "toy":
        return cell.action_head == "mot" or cell.paradigm == "single_pass"
    imagines = cell.spec.backbone.traits.imagines
    return (cell.action_head, cell.paradigm) == ("mot", "joint" if imagines else "single_pass")


CELLS = {f"{c.backbone}-{c.action_head}-{c.paradigm}": c for c in matrix() if c.runs and chosen(c)}
FILES = {path.stem: path for path in sorted(EXAMPLES.glob("*.toml"))}


def spec_of(name: str) -> PolicySpec:
    """A cell, or an example at toy size."""
    if name in CELLS:
        return few_steps(CELLS[name].spec)
    return few_steps(parse(read(FILES[name]), name).tiny()[0])


def close(found: Tensor, expected: Tensor) -> None:
    same_values(found, expected)


@pytest.mark.parametrize("name", [*CELLS, *FILES])
@torch.no_grad()
def test_a_chunk_on_cuda_mixes_no_devices_and_waits_for_nothing(name: str, device: Device) -> None:
    spec = spec_of(name)
    policy, seen = Policy.from_spec(spec), observation(spec, frames=spec.video.num_observed)
    with unset_fake_temporarily():
        expected = policy.sample(inference_inputs(policy, seen), seed=0).action
    device.hold(policy)
    inference_inputs(policy, seen)
    with device.watched() as noted:
        inputs = inference_inputs(policy, seen)
    assert noted == []  # what is sent is sent without waiting
    try:
        graph = modes.CapturedGraph(
            policy._run_paradigm({}), inputs, generator(0), device.capture, policy.runner.kept
        )
    except WamkitError as error:
        assert "cannot be recorded" in str(error)
        close(policy.sample(inputs, seed=0).action, expected)
    else:
        assert device.refused == []
        close(graph(inputs, generator(0)).action, expected)


@pytest.mark.parametrize("name", [name for name in CELLS if name.startswith("toy-mot-")])
def test_imagining_learning_and_an_episode_on_cuda_mix_no_devices(
    name: str, device: Device
) -> None:
    spec = spec_of(name)
    policy = Policy.from_spec(spec)
    device.hold(policy)
    policy.imagine(observation(spec), seed=0)
    if policy.paradigm.stateful:
        session = policy.session()
        session.act(observation(spec), seed=0)
        session.act(None, seed=1)
        session.act(observation(spec, frames=session.num_images), seed=2)
    policy.train().loss(batch_of(spec), seed=0)


@pytest.mark.parametrize("name", ["cosmos-mot-joint", "flux2-mot-joint", "toy"])
@torch.no_grad()
def test_a_recording_holds_what_it_reads(name: str, device: Device) -> None:
    spec = spec_of(name)
    guided = spec.schedules.action.model_copy(update={"guidance_scale": 2.0})
    schedules = spec.schedules.model_copy(update={"action": guided})
    policy = Policy.from_spec(spec.model_copy(update={"schedules": schedules}))
    device.hold(policy)
    seen = observation(spec, frames=spec.video.num_observed)
    inputs = inference_inputs(policy, seen)
    graph = modes.CapturedGraph(
        policy._run_paradigm({}), inputs, generator(0), device.capture, policy.runner.kept
    )
    needed = list(device.read.values())
    policy.prompt_state.forget()  # as when a weight changes
    policy.text_embeddings._kept.clear()
    other = replace(seen, prompt=[f"job {sample}" for sample in range(seen.batch)])
    graph(inference_inputs(policy, other), generator(0))
    for steps in range(2, 100, 2):  # levels of other runs
        policy.schedules["action"].init_sampler(inputs.noisy("action").x, steps=steps)
    del inputs
    gc.collect()
    assert len(needed) > 50 and all(memory() is not None for memory in needed)
