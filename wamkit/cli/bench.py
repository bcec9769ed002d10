"""`wamkit bench`: how long each stage of a chunk takes, and how near that is to the best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from json import JSONDecodeError, loads
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import WamkitError
from ..files.paths import read_text
from ..files.placeholders import refuse_placeholder
from ._folding import brief
from ._options import Device, Json, Overrides, Quantize, Source, Tiny
from ._output import emit, note, say, show_table, spinner, table
from ._sources import resolve_source

if TYPE_CHECKING:
    from ..bench import Report
    from ..bench.network import Network
    from ..bench.quantization import QuantizationEffect

EXAMPLE = "wamkit bench examples/fastwam.toml --tiny --mode compile"


def command(
    source: Source,
    tiny: Tiny = False,
    device: Device = "cpu",
    mode: Annotated[
        str, typer.Option(help="Run mode: eager, compile, graph or compile+graph.")
    ] = "eager",
    quantize: Quantize = "none",
    batch: Annotated[int, typer.Option(min=1, help="Batch size.")] = 1,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Denoising steps of video and actions.")
    ] = None,
    iters: Annotated[int, typer.Option("--iters", min=2, help="Measured chunks.")] = 20,
    versus: Annotated[
        Path | None,
        typer.Option("--baseline", metavar="FILE.json", help="An earlier report of this machine."),
    ] = None,
    server: Annotated[
        bool, typer.Option("--server", help="Measure a round trip through `wamkit serve` too.")
    ] = False,
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Measure a policy stage by stage: times, work, and the floor of this device in the same run.

    Where a spec names no weights they are random: times are the same, actions mean nothing.
    """
    if server and batch > 1:
        raise WamkitError(
            f"a request to a server is of one robot, and --batch is {batch}", "leave out --batch"
        )
    named, source = source.stem, resolve_source(source)
    chosen_sets = [*(overrides or [])]
    if steps is not None:
        chosen_sets += _steps(source, chosen_sets, steps)
    earlier = None if versus is None else _earlier(versus)
    report, net, quantization, notes = _measure(
        source, named, chosen_sets, tiny, device, mode, quantize, batch, iters, server
    )
    found = report.json()
    if net is not None:
        found["boundaries"] = {**found["boundaries"], **net.boundaries}
        found["network"] = {"bytes_up": net.bytes_up, "bytes_down": net.bytes_down}
    if quantization is not None:
        found["quantized"] = quantization.json()
    ratios: dict[str, float] = {}
    if earlier is not None:
        from ..bench import compare_reports as compared
        from ..bench import differences

        ratios = compared(found, earlier)
        found["versus"], found["differs"] = ratios, differences(found, earlier)
        notes += [f"not as before: {descriptions}" for descriptions in found["differs"]]
    from ..bench import load_warning

    if (warning := load_warning(report.machine)) is not None:
        found["warning"] = warning
        notes.append(warning)
    if json:
        emit(found)
        return
    for line in notes:
        note(line)
    _draw(report, found["boundaries"], ratios, quantization)


def _measure(
    source: Path,
    named: str,
    sets: list[str],
    tiny: bool,
    device: str,
    mode: str,
    quantize: str,
    batch: int,
    iters: int,
    server: bool,
) -> tuple[Report, Network | None, QuantizationEffect | None, list[str]]:
    import torch

    from ..bench import measure
    from ..policy.devices import expect_device
    from ..policy.run_mode import check_mode
    from ._inputs import chosen, load_policy

    place = expect_device(device)
    check_mode(mode, place)
    if server:
        from ..serve import require

        require()
    spec, notes = chosen(source, sets, tiny=tiny)
    if quantize != "none":
        from ..acceleration.quantize import check_kind

        check_kind(quantize, place, spec.dtype)
    with torch.device(place):  # random weights are drawn where they are needed
        policy, untrained = load_policy(source, spec, device, sets)
    with spinner("measuring"):
        quantization, net = None, None
        if quantize == "none":
            report = measure(policy, mode=mode, batch=batch, iters=iters, name=named)
        else:
            from ..bench.quantization import measure_quantized

            report, quantization = measure_quantized(policy, quantize, mode, batch, iters, named)
        if server:
            from ..bench.network import network

            net = network(policy, iters)
            report = replace(report, rows=[*report.rows, *net.rows])
    return report, net, quantization, notes + untrained


def _steps(source: Path, sets: list[str], steps: int) -> list[str]:
    """Overrides that set the steps of every schedule. WamkitError if no loop uses them.

    Which schedule drives a loop is the paradigm's affair: of several, the longest.
    """
    from ..config.programs import program_of
    from ..config.spec import parse, read

    raw = read(source, sets)
    spec = parse(raw, str(source))

    def passes(count: int) -> int:
        flows = {
            part: None if flow is None else flow.model_copy(update={"steps": count})
            for part, flow in spec.schedules
        }
        changed = spec.model_copy(update={"schedules": spec.schedules.model_copy(update=flows)})
        return sum(stage.passes for stage in program_of(changed, spec.paradigm))

    if passes(2) == passes(8):
        raise WamkitError(
            f"{spec.paradigm.name} with {spec.action_head.name} makes no denoising steps: all is "
            "predicted at once",
            "leave out --steps",
        )
    named = [part for part, flow in spec.schedules if flow is not None]
    return [f"schedules.{part}.steps={steps}" for part in named]


def _earlier(file: Path) -> Mapping[str, Any]:
    refuse_placeholder(file)
    try:
        found = loads(read_text(file))
    except JSONDecodeError as error:
        raise WamkitError(
            f"{file} is not JSON: {error}", "write one with wamkit bench --json > FILE.json"
        ) from None
    if not isinstance(found, dict):
        raise WamkitError(f"{file} holds no report", "write one with wamkit bench --json")
    from ..bench.compare import expect_report

    expect_report(found)  # before anything is measured
    return found


def _draw(
    report: Report,
    descriptions: Mapping[str, str],
    ratios: Mapping[str, float],
    quantization: QuantizationEffect | None,
) -> None:
    from ..bench.definitions import FIGURES

    machine, roofline = report.machine, report.roofline
    say(
        f"{report.spec}, mode {report.mode}, batch {report.batch}, {report.dtype}, on "
        f"{machine['name']} ({machine['capability']}, {machine['cores']} cores, "
        f"{machine['threads']} threads, load {machine['load']}), "
        f"torch {machine['torch']}, wamkit {machine['wamkit']}, {machine['date']}"
    )
    if report.random:
        say(f"random weights: {', '.join(report.random)}; times are real, actions mean nothing")
    slowest = "p95 ms" if report.iters >= 20 else "max ms"  # see boundaries.FIGURES
    columns = ["calls", "median ms", slowest, "share", "GFLOP", "MB", "floor ms", "x floor"]
    if ratios:
        columns.append("faster than before")
    made = table("stage", *columns, right=columns, keep=("stage",))
    for row in [*report.rows, report.chunk]:
        last = [f"{ratios[row.stage]:.2f}x" if row.stage in ratios else ""] if ratios else []
        made.add_row(
            row.stage,
            str(row.calls or "-"),
            brief(row.median_ms),
            brief(row.p95_ms),
            f"{100 * row.share:.1f} %" if row.calls else "",
            brief(row.operations / 1e9) if row.operations else "",
            brief(row.bytes / 1e6) if row.operations else "",
            brief(row.floor_ms) if row.floor_ms else "",
            f"{row.times_floor:.2f}" if row.times_floor else "",
            *last,
            style="bold" if row.stage == "chunk" else None,
        )
    show_table(made)
    say(
        f"roofline, measured in this run: copies {brief(roofline.bytes_per_second / 1e9)} GB/s, "
        f"{roofline.dtype} products {brief(roofline.operations_per_second / 1e12)} TFLOP/s"
    )
    say(
        f"{brief(report.chunks_per_second)} chunks/s, {brief(report.actions_per_second)} "
        f"actions/s; max control rate {brief(report.max_control_hz)} Hz, the spec requires "
        f"{report.required_hz:g} Hz"
    )
    say(
        f"first chunk {brief(report.first_ms)} ms; peak memory {brief(report.peak_bytes / 1e9)} GB "
        f"({'tensors' if machine['device'] == 'cuda' else 'the whole process'})"
    )
    if report.framework is not None and report.framework_quartiles is not None:
        low, high = report.framework_quartiles
        say(
            f"framework: {100 * report.framework:.1f} % [{100 * low:.1f}, {100 * high:.1f}] of a "
            "chunk is spent between the parts"
        )
    if quantization is not None:
        say(quantization.summary())
    say("\nWhat each number is of", "bold")
    stages_printed = {row.stage.partition(":")[0] for row in report.rows} | {"chunk"} | set(FIGURES)
    for stage in descriptions:
        if stage in stages_printed:
            say(f"  {stage}: {descriptions[stage]}")
