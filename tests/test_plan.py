"""Plans of training: memory and operations are counted right, and advice heals what it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import wamkit
from wamkit.config.spec import PolicySpec, parse, read
from wamkit.policy.policy import Policy
from wamkit.train.config import Parts, TrainConfig
from wamkit.train.plan import kept, plan, work

TOY = Path(__file__).parent.parent / "examples" / "toy.toml"
Sampler = Callable[..., tuple[int, str, str]]


def spec_with(*overrides: str) -> PolicySpec:
    return parse(read(TOY, overrides))


def test_parameters_are_those_of_the_policy() -> None:
    policy = wamkit.build(TOY)
    parts = (policy.backbone, policy.action_head)
    count = sum(p.numel() for part in parts for p in part.parameters())  # type: ignore[attr-defined]
    one = work(policy.spec)
    assert one.learned == count
    made = plan(policy.spec, TrainConfig(ema=0.9, batch_size=1))
    assert made.memory["weights that learn"] == made.memory["gradients"] == 4 * count
    assert made.memory["moments of AdamW"] == 8 * count
    assert made.memory["average of weights"] == 4 * count
    assert made.total == sum(made.memory.values()) and made.fits is None


def test_going_back_costs_twice_as_much_as_going_there() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    from wamkit.testing.fixtures import batch_of

    policy = wamkit.build(TOY)
    batch = batch_of(policy.spec, size=1)
    with (
        FlopCounterMode(display=False) as counter,
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        policy.loss(batch, seed=0).total.backward()
    assert work(policy.spec).operations == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_what_is_kept_for_going_back_grows_with_depth_and_shrinks_when_layers_run_again() -> None:
    deep, shallow = (spec_with(f"backbone.depth={n}") for n in (12, 4))
    plain, less, again = work(deep), work(shallow), work(deep, recompute=True)
    assert 1.7 < plain.activations / less.activations < 3
    assert again.activations < plain.activations / 2
    assert 1.2 < again.operations / plain.operations < 1.4


def test_half_as_many_bytes_in_bfloat16() -> None:
    spec = spec_with("backbone.depth=8")
    half, whole = work(spec, precision="bfloat16"), work(spec)
    assert 0.4 < half.activations / whole.activations < 0.8
    assert half.operations == whole.operations


def test_parts_at_rest_need_no_gradient() -> None:
    spec = spec_with()
    parts = Parts.model_validate({"backbone": {"freeze": True}})
    frozen, whole = work(spec, parts), work(spec)
    assert frozen.learned < whole.learned and frozen.resting > 0
    assert frozen.operations < whole.operations
    assert frozen.activations < whole.activations


def test_keys_kept_while_acting_are_those_of_the_cache() -> None:
    from wamkit.interfaces.paradigm import CLEAN, prefill
    from wamkit.policy import preprocessing
    from wamkit.testing.fixtures import observation

    policy = Policy.from_spec(spec_with())
    inputs = preprocessing.inference_inputs(policy, observation(policy.spec, batch=1))
    with torch.no_grad():
        cache, _ = prefill(policy.model, inputs, policy.paradigm.sees, CLEAN)
    assert cache is not None
    found = sum(
        x.numel() * x.element_size()
        for layer in cache.layers
        for kv in layer.values()
        for x in kv[:2]
    )
    assert kept(policy.spec) == found


def test_shares_of_weights_are_divided_and_passes_make_batches_smaller() -> None:
    spec = spec_with()
    config = TrainConfig(batch_size=16, parallelism="fsdp")
    eight, one = plan(spec, config, devices=8), plan(spec, config)
    assert eight.memory["gradients"] == one.memory["gradients"] // 8
    assert eight.memory["activations"] == one.memory["activations"] // 8
    passes = plan(spec, TrainConfig(batch_size=16, gradient_accumulation_steps=4))
    assert passes.memory["activations"] == one.memory["activations"] // 4


def test_plan_reports_that_it_fits(wamkit: Sampler) -> None:
    args = ["--gpu", "h100", "--devices", "2", "--steps", "1000"]
    code, out, err = wamkit("estimate", TOY, *args)
    assert code == 0 and "it fits into 80 GB" in out
    assert " on 2 x h100 at 40% of the peak" in out and "moments of AdamW" in out
    assert not {"0.0", "0.00", "0"} & set(out.split())
    assert "room for 10% more" in out and "1,000 steps, float32, ddp" in out and not err
    code, out, _ = wamkit("estimate", TOY, *args, "--json")
    report = json.loads(out)
    assert code == 0 and report["fits"] and report["total"] == sum(report["memory"].values())


def test_advice_of_a_plan_works_when_followed(wamkit: Sampler) -> None:
    args = ["estimate", TOY, "--devices", "2", "--memory", "40MB", "--batch", "16"]
    code, out, _ = wamkit(*args)
    assert code == 1 and "it does not fit into" in out
    advice = out.rpartition("hint: it fits with ")[2].split()
    assert advice[0] == "--train"
    code, out, _ = wamkit(*args, *advice)
    assert (code, "it fits into" in out) == (0, True)
    code, out, _ = wamkit(*args[:5], "1MB", "--batch", "16")
    assert code == 1 and "hint: take more devices" in out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--gpu", "h10"], "did you mean 'h100'?"),
        (["--memory", "80"], "'80' is no size"),
        (["--steps", "3", "--samples", "4"], "both say how long"),
        (["--devices", "3"], "a batch of 8 cannot be cut into 3 devices x 1 passes"),
        (["--train", "bach=3"], "did you mean 'batch_size'?"),
    ],
)
def test_mistyped_plans(wamkit: Sampler, args: list[str], message: str) -> None:
    code, _, err = wamkit("estimate", TOY, *args)
    assert code == 2 and message in err


def test_published_sizes_are_planned_without_their_files() -> None:
    spec = parse(read(TOY.parent / "fastwam.toml"))
    one: Any = work(spec, precision="bfloat16", recompute=True)
    assert 5.9e9 < one.learned < 6.1e9
