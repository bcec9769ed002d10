"""The benchmark of published sizes at toy size, and Fast-WAM as its published code is written."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from wamkit.bench import Roofline
from wamkit.checkpoints.safetensors import cast
from wamkit.errors import WamkitError
from wamkit.interfaces.types import Text
from wamkit.policy.preprocessing import inference_inputs
from wamkit.testing.fixtures import observation

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SCRIPT = BENCHMARKS / "published_sizes.py"
TOP = Roofline(1e10, 1e11, "bfloat16")


@pytest.fixture(autouse=True)
def _import_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_system_at_toy_size_gives_a_whole_table() -> None:
    args = [str(SCRIPT), "--tiny", "light_wam", "--modes", "eager,graph", "--profile"]
    done = subprocess.run([sys.executable, *args], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    about, _, header, rule, eager, graph, _, kernels, *table = done.stdout.splitlines()
    assert re.search(r"toy size, random weights.*TB/s.*TFLOP/s", about)
    names = cells(header)
    assert len(cells(rule)) == len(names) == len(cells(eager)) and len(set(names)) == len(names)
    found = dict(zip(names, cells(eager), strict=True))
    assert (found.pop("system"), found.pop("mode")) == ("light_wam", "eager")
    assert found.pop("over wamkit's best") == "-"
    difference, _, of = found.pop("difference").partition(" from ")
    assert float(difference) < 1e-2 and of == "the full pass"
    assert all(float(cell.removesuffix("x")) >= 0 for cell in found.values()), found
    # what cannot run is a row, and the run goes on
    assert graph.startswith("| light_wam | graph | WamkitError: a CUDA graph needs a CUDA device")
    assert re.match(r"light_wam in eager, a chunk: .* ms on the clock; \d+ kernels take", kernels)
    assert len(table) == 3 + 10 + 2 and re.fullmatch(r"\d+ s so far\.", table[-1])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: run it by hand")
def test_without_a_gpu_nothing_is_timed(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(SCRIPT))["main"]([])
    assert capsys.readouterr().out == "no CUDA device: nothing to time\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["fastwan"], "no system is called 'fastwan'; there are fastwam, "),
        (["--modes", "eager,fast"], "no mode is called 'fast'; there are eager, "),
    ],
)
def test_names_that_do_not_exist_are_refused(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        runpy.run_path(str(SCRIPT))["main"](args)
    assert message in capsys.readouterr().err


def test_nothing_is_begun_when_the_time_is_over(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(SCRIPT))["main"](["--tiny", "--seconds", "0", "--modes", "eager"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.endswith("were over |")]
    assert len(rows) == len(runpy.run_path(str(SCRIPT))["SYSTEMS"]) == 9
    assert rows[0] == "| fastwam | eager | 0 s were over |"


def test_what_runs_is_stopped_when_the_time_is_over() -> None:
    run = import_module("published.run")
    with pytest.raises(run.OutOfTime), run.stopped_after(0.05):
        while True:
            try:
                sum(range(1000))
            except Exception:  # as anybody's code on the way may do
                continue


def test_fast_wam_written_plainly_acts_as_wamkit_does_with_the_same_weights() -> None:
    subject = import_module("published.subject").Subject("fastwam", "cpu", TOP, tiny=True)
    ways = list(subject.plain())
    assert [one.way for one in ways] == ["plain, no cache", "plain, joined cache"]
    assert all(0 < one.difference < 2e-2 and one.report is None for one in ways)
    assert {one.network.floor_ms for one in ways} == {1000 * TOP.floor(*subject.network)}
    one, other = subject.expected
    assert not torch.equal(one, other)


def test_no_weight_hides_what_a_system_sees() -> None:
    # Efficient-WAM's way out is zero before training: its actions would be noise, and no more.
    policy = import_module("published.systems").build("efficient_wam", "cpu", tiny=True)
    seen = [observation(policy.spec, batch=1, seed=seed) for seed in (0, 1)]
    one, other = (policy.act(view, seed=0).values for view in seen)
    assert not torch.equal(one, other)


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_the_plain_ways_compute_in_the_dtype_of_the_weights(
    dtype: torch.dtype, most: float
) -> None:
    baseline, apart = import_module("baseline"), import_module("published.systems").apart
    policy = baseline.small(64, 2)
    inputs = inference_inputs(policy, observation(policy.spec, batch=1))
    width = policy.spec.backbone.traits.text_width
    text = Text(torch.randn(1, 3, width), repeats=torch.tensor([[1.0, 1.0, 5.0]]))
    inputs = policy.action_head.prepare(inputs.with_(text=text))
    assert baseline.expand_repeats(text).tokens.shape == (1, 7, width)
    expected = policy.sample(inputs, seed=0).action
    for part in (policy.backbone, policy.action_head):
        cast(part, dtype)
    plain = baseline.Plain(policy, inputs.with_(text=baseline.expand_repeats(text)))
    for cached in (False, True):
        found = plain.act(cached=cached)
        assert found.dtype == dtype and apart(found, expected) < most


def measured(goals: Any, system: str, way: str, ms: float, **more: Any) -> Any:
    return goals.Measured(system, way, goals.Stage(ms, 5.0), 0.01, "eager", **more)


def test_goals_are_judged_by_figures() -> None:
    goals = import_module("published.goals")
    stage = goals.Stage
    found = [
        measured(goals, "fastwam", "eager", 200.0, chunk=stage(210.0, 6.0)),
        measured(goals, "fastwam", "graph", 8.0, prefill=stage(4.0, 2.0), steps=stage(4.0, 3.0)),
        measured(goals, "fastwam", "plain, joined cache", 300.0),
        measured(goals, "efficient_wam", "compile+graph", 4.0, chunk=stage(9.5, 3.0)),
        measured(goals, "image_wam_4b", "eager", 90.0, chunk=stage(99.0, 3.0)),
    ]
    assert list(goals.verdicts(found))[2:] == [
        "| fastwam, prefill, within 1.5x of the floor | graph | "
        "2.00x: 4.00 ms, floor 2.00 ms | missed |",
        "| fastwam, all steps, within 1.5x of the floor | graph | "
        "1.33x: 4.00 ms, floor 3.00 ms | met |",
        "| fastwam, the baseline takes longer, at least 5x | graph | "
        "37.50x: 300.00 and 8.00 ms | met |",
        "| efficient_wam, a chunk, under 10 ms | compile+graph | "
        "3.17x: 9.50 ms, floor 3.00 ms | met |",
        "| image_wam_4b, a chunk, under 25 ms | - | - | not measured |",
    ]
    assert [str(goal) for goal in goals.missed(found[1], found)] == [
        "fastwam, prefill, within 1.5x of the floor"
    ]
    assert goals.missed(found[0], found) == []  # goals are of recorded chunks
    assert goals.best(found[:2], "fastwam") is None  # nothing of these has a report


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nvjet_tst_128x64_64x9_2x1_v_bz_TNT", "matrix products"),
        ("void cutlass::Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm>", "matrix products"),
        ("void cublasLt::splitKreduce_kernel<32, 16>", "matrix products"),
        ("void pytorch_flash::flash_fwd_splitkv_kernel<Flash_fwd_kernel_traits>", "attention"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop", "attention"),
        ("void implicit_convolve_sgemm<float, float, 128>", "convolutions"),
        ("triton_poi_fused__to_copy_addmm_native_layer_norm_3", "elementwise and others"),
        ("triton_red_fused_add_convert_element_type_mul_0", "norms and sums"),
        ("void at::native::vectorized_layer_norm_kernel<float>", "norms and sums"),
        ("void at::native::(anonymous namespace)::CatArrayBatchedCopy", "copies and casts"),
        ("Memcpy DtoD (Device -> Device)", "copies and casts"),
        ("void at::native::vectorized_elementwise_kernel<4, MulFunctor>", "elementwise and others"),
    ],
)
def test_kernels_have_kinds(name: str, kind: str) -> None:
    assert import_module("published.kernels").kind(name) == kind


def test_text_is_padded_as_the_published_encoder_pads() -> None:
    args = import_module("published.systems").RandomTextEncoder
    assert args(8, 64, "zeros").encode(["a"]).tokens.shape == (1, 17, 8)
    assert float(args(8, 64, "zeros").encode(["a"]).repeats.sum()) == 64
    assert args(8, 64, "mask").encode(["a", "b"]).tokens.shape == (2, 16, 8)
    assert args(8, 64, "attended").encode(["a"]).tokens.shape == (1, 64, 8)


def test_a_system_that_is_not_there_is_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    run = import_module("published.run")
    run.Run("cpu", tiny=True, seconds=60, profiles=False).all(["nothing"], ["eager"])
    row = capsys.readouterr().out.splitlines()[-3]
    assert row.startswith(f"| nothing | - | {WamkitError.__name__}: ")
