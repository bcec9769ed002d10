"""What `wamkit bench` tells: every stage, its work and its floor, of this machine alone."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import wamkit
from wamkit.bench import (
    Report,
    Roofline,
    compare_reports,
    differences,
    load_warning,
    machine,
    measure,
)
from wamkit.bench.hooks import StageRecorder, hook_method, record_calls
from wamkit.bench.measure import p95
from wamkit.errors import WamkitError
from wamkit.policy.cost import cost
from wamkit.policy.policy import Policy
from wamkit.testing.fixtures import observation

TOY = Path(__file__).parent.parent / "examples" / "toy.toml"
FASTWAM = TOY.with_name("fastwam.toml")


@cache
def policy() -> Policy:
    return wamkit.build(TOY, tiny=True)


@cache
def report() -> Report:
    return measure(policy(), iters=2, warmup=0, name="toy")


def test_every_stage_of_a_chunk_is_reported_with_its_calls() -> None:
    steps = policy().spec.schedules.action.steps
    assert {row.stage: row.calls for row in report().rows} == {
        "images": 0,
        "text, new": 0,
        "camera layout": 1,
        "VAE": 1,
        "text": 1,
        "prefill: context": 1,
        "step: action (cached: context)": steps,
        "decode of actions": 1,
        "between stages": 1,
    }
    assert all(row.median_ms <= row.p95_ms for row in [*report().rows, report().chunk])


def test_work_is_that_of_the_same_chunk_on_the_meta_device() -> None:
    counted = {row.stage: row.calls * row.operations for row in report().rows if row.calls}
    passes = sum(ops for stage, ops in counted.items() if stage.startswith(("prefill", "step")))
    assert passes == pytest.approx(cost(policy().spec).stages["act"], rel=1e-4)
    assert report().chunk.operations == pytest.approx(sum(counted.values()), rel=1e-4)


def test_floors_follow_from_the_roofline() -> None:
    top = Roofline(bytes_per_second=100.0, operations_per_second=1000.0, dtype="float32")
    assert top.floor(5000, 100) == 5.0 and top.floor(100, 5000) == 50.0


def test_of_two_roofs_the_better_halves_are_taken() -> None:
    one, two = Roofline(100.0, 2000.0, "float32"), Roofline(300.0, 1000.0, "float32")
    assert one.higher(two) == two.higher(one) == Roofline(300.0, 2000.0, "float32")


def test_of_twenty_calls_the_95th_percentile_is_not_the_longest() -> None:
    assert p95([1.0] * 18 + [2.0, 9.0]) == 2.0
    assert p95([1.0, 9.0, 2.0]) == 9.0


def test_how_much_the_framework_costs_comes_with_its_spread() -> None:
    found = report()
    assert found.framework is not None and found.framework_quartiles is not None
    low, high = found.framework_quartiles
    assert low <= found.framework <= high


@torch.no_grad()
def test_by_hand_the_same_operations_run() -> None:
    calls: list[Callable[[], Any]] = []

    def act() -> None:
        policy().act(observation(policy().spec, batch=1), seed=0)

    def by_hand() -> None:
        for call in calls:
            call()

    act()
    with record_calls(policy(), calls):
        act()
    by_hand()
    with Operations() as whole:
        act()
    with Operations() as hand:
        by_hand()
    missing = whole.found - hand.found
    assert not hand.found - whole.found
    assert missing.total() < 0.005 * whole.found.total()
    assert not set(missing) & {"addmm", "add", "mul", "cat", "copy_", "clone", "randn"}


class Operations(TorchDispatchMode):
    """How often each operation of torch runs inside."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found[func._overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def test_a_machine_is_identified_by_more_than_its_name() -> None:
    found = machine(torch.device("cpu"))
    assert found["capability"] == torch.backends.cpu.get_cpu_capability()
    assert 1 <= found["cores"] <= (os.cpu_count() or 1) and found["processors"] >= 1
    assert isinstance(found["instructions"], list) and found["threads"] == torch.get_num_threads()


def test_a_busy_machine_is_warned_of() -> None:
    found = load_warning({"load": 5.5, "processors": 2})
    assert found is not None and "a load of 5.5 on 2 processors" in found
    assert load_warning({"load": 1.5, "processors": 2}) is None


def test_measuring_leaves_no_tap_behind() -> None:
    def taps() -> dict[str, list[str]]:
        parts = {
            "policy": policy(),
            "cameras": policy().cameras,
            "prompts": policy().text_embeddings,
        }
        parts |= {name: m for name, m in policy().named_modules() if name}
        return {k: [n for n, v in vars(m).items() if callable(v) and not isinstance(v, type)]
                for k, m in parts.items()}  # fmt: skip

    before = taps()
    with StageRecorder(torch.device("cpu")).record(policy()):
        assert taps() != before
        policy().act(observation(policy().spec, batch=1), seed=0)
    assert taps() == before


def test_a_tap_passes_what_it_sees() -> None:
    layer, seen = nn.Linear(2, 2), []

    def around(method: Callable[..., Any], x: torch.Tensor) -> Any:
        seen.append(x)
        return method(x)

    x = torch.ones(1, 2)
    expected = layer(x)
    with hook_method(layer, "forward", around):
        assert torch.equal(layer(x), expected) and seen[0] is x
    assert "forward" not in vars(layer)


def test_random_weights_are_reported() -> None:
    assert set(report().random) == {"backbone", "text_encoder", "action_head"}


def test_an_earlier_report_of_this_machine_gives_ratios() -> None:
    now = report().json()
    slower = json.loads(json.dumps(now))
    slower["chunk"]["median_ms"] *= 2
    found = compare_reports(now, slower)
    assert found["chunk"] == pytest.approx(2) and found["VAE"] == pytest.approx(1)


def test_a_report_of_another_machine_is_refused() -> None:
    now = report().json()
    other = json.loads(json.dumps(now))
    other["machine"]["name"] = "another"
    with pytest.raises(WamkitError, match="is of another machine: name was another") as found:
        compare_reports(now, other)
    assert "times on two machines do not compare the code" in str(found.value)
    with pytest.raises(WamkitError, match="no report of `wamkit bench`"):
        compare_reports(now, {})


@pytest.mark.parametrize(
    ("place", "key", "value", "reason"),
    [
        (("machine",), "capability", "AVX1", "another machine: capability was AVX1, and is"),
        (("machine",), "instructions", ["amx_int8"], r"instructions was \[amx_int8\], and is"),
        (("machine",), "threads", 64, "other settings of this machine: threads was 64"),
        ((), "batch", 7, "other work: batch was 7, and is 1"),
        (("sizes", "backbone"), "depth", 99, "other work: backbone.depth was 99, and is"),
        (("sizes", "schedules", "action"), "steps", 99, "other work: schedules.action.steps was"),
    ],
)
def test_a_report_of_other_work_is_refused_with_what_differs(
    place: tuple[str, ...], key: str, value: Any, reason: str
) -> None:
    now = report().json()
    other = json.loads(json.dumps(now))
    table = other
    for name in place:
        table = table[name]
    table[key] = value
    with pytest.raises(WamkitError, match=reason) as found:
        compare_reports(now, other)
    assert "measure both" in found.value.hint


def test_a_report_of_another_policy_is_refused() -> None:
    other = measure(wamkit.build(FASTWAM, tiny=True), iters=2, warmup=0).json()
    with pytest.raises(WamkitError, match=r"of other work: .*; and \d+ more") as found:
        compare_reports(report().json(), other)
    assert "wamkit compare" in found.value.hint


def test_compared_settings_are_reported_and_not_refused() -> None:
    now = report().json()
    other = json.loads(json.dumps(now))
    assert differences(now, other) == ()
    other["mode"], other["quantized"], other["machine"]["torch"] = "compile", "int8", "1.0"
    other["sizes"]["dtype"] = other["dtype"] = "bfloat16"
    other["sizes"]["backbone"]["weights"] = "models/trained"
    assert compare_reports(now, other)["chunk"] == pytest.approx(1)
    assert differences(now, other) == (
        "mode was compile, and is eager",
        "quantized was int8, and is none",
        "dtype was bfloat16, and is float32",
        f"torch was 1.0, and is {now['machine']['torch']}",
    )


def test_a_report_without_its_settings_is_refused() -> None:
    now = report().json()
    with pytest.raises(WamkitError, match="lacks settings that its results depend on") as found:
        compare_reports(now, {key: now[key] for key in now if key != "sizes"})
    assert "measure the earlier version again" in found.value.hint


@pytest.mark.parametrize(("name", "calls"), [("fastwam_joint", 3), ("fastwam_idm", 6)])
def test_steps_are_those_of_every_loop(wamkit: Any, name: str, calls: int) -> None:
    args = [TOY.parent / f"{name}.toml", "--tiny", "--iters", "2", "--steps", "3", "--json"]
    code, out, _ = wamkit("bench", *args)
    rows = json.loads(out)["rows"]
    assert code == 0
    assert sum(row["calls"] for row in rows if row["stage"].startswith("step")) == calls


def test_steps_where_nothing_is_denoised_are_refused(wamkit: Any) -> None:
    args = ["bench", TOY.parent / "light_wam.toml", "--tiny", "--steps", "3"]
    code, _, err = wamkit(*args)
    assert code == 2 and "makes no denoising steps" in err and "leave out --steps" in err


def test_the_command_prints_the_values_of_its_json(wamkit: Any, tmp_path: Path) -> None:
    args = ["bench", TOY, "--tiny", "--iters", "2", "--steps", "2"]
    code, out, _ = wamkit(*args, "--json")
    found = json.loads(out)
    assert code == 0 and found["machine"]["torch"] == torch.__version__.partition("+")[0]
    assert found["machine"]["date"] and found["mode"] == "eager" and found["boundaries"]["chunk"]
    file = tmp_path / "before.json"
    file.write_text(out)
    code, out, _ = wamkit(*args, "--baseline", file)
    assert code == 0
    for phrase in (
        "random weights: backbone, text_encoder, action_head",
        "step: action (cached: context)",
        "roofline, measured in this run",
        "max control rate",
        "faster",  # than before, in the line below
        "policy.act: tensors of images in",
        "max",  # ms, in the line below
        "of fewer than 20 calls the longest",
        "control: actions of a chunk over its median time",
        "peak memory: CPU: the most this process ever held",
    ):
        assert phrase in out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--mode", "graph"], "a CUDA graph needs a CUDA device, and the policy is on cpu"),
        (["--mode", "eagr"], "no mode is called 'eagr'"),
        (["--device", "gpu"], "there is no device 'gpu'"),
        (["--baseline", TOY], "is not JSON"),
    ],
)
def test_what_cannot_be_measured_is_reported_at_once(
    wamkit: Any, args: list[Any], message: str
) -> None:
    code, _, err = wamkit("bench", TOY, "--tiny", *args)
    assert code == 2 and message in err
