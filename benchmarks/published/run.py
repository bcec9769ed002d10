"""All systems in all modes, the most telling first, within a time: tables as they come."""

from __future__ import annotations

import gc
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from wamkit.bench import Report, machine, measure_roofline
from wamkit.policy.run_mode import compiles

from .goals import GOALS, Measured, Stage, best, missed, verdicts
from .subject import Subject
from .systems import largest

PASSES = (("eager", "graph"), ("compile+graph",), ("compile",))
"""Modes that are measured together: all systems in the first ones, then all in the next."""
COLUMNS = (
    *("system", "mode", "VAE", "prefill", "all steps", "network", "network over floor"),
    *("chunk", "p95", "chunk's floor", "chunk over floor", "TFLOP", "max control Hz", "peak GB"),
    *("first chunk s", "difference", "over wamkit's best"),
)


class OutOfTime(BaseException):
    """The time is over; no `Exception`, so that nobody on the way takes it for a failure."""


@contextmanager
def stopped_after(seconds: float) -> Iterator[None]:
    """Within, OutOfTime is raised after so many seconds, whatever runs then.

    And again every ten, should somebody on the way have lost it.
    """

    def stop(*_: Any) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3), 10)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Run:
    """One run over some systems: what was measured, and how much time is left."""

    def __init__(self, device: str, *, tiny: bool, seconds: float, profiles: bool) -> None:
        """Profiles are made of every row, or of those that miss a goal on a GPU alone."""
        self.device, self.tiny, self.profiles = device, tiny, profiles
        self.seconds, self.end = seconds, time.monotonic() + seconds
        self.found: list[Measured] = []
        self.waiting: list[str] = []  # profiles, to be printed below the table

    def all(self, names: Sequence[str], modes: Sequence[str]) -> None:
        """Measure and print everything that the time allows."""
        on = torch.device(self.device)
        self.top = measure_roofline(on, torch.bfloat16)
        print("\n".join(self._about(machine(on))), flush=True)
        wanted = [[mode for mode in together if mode in modes] for together in PASSES]
        for chosen in filter(None, wanted):
            if self.found and self._left() <= 0:
                print(f"\nNot begun: {', '.join(chosen)}. {self.seconds:g} s were over.")
            else:
                self._table(names, chosen)

    def _left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()

    def _about(self, about: dict[str, Any]) -> Iterator[str]:
        size = "toy size" if self.tiny else "published sizes"
        yield (
            f"{about['name']}, torch {about['torch']}, wamkit {about['wamkit']}, "
            f"{about['date']}, {size}, random weights, batch 1; milliseconds. It copies "
            f"{self.top.bytes_per_second / 1e12:.2f} TB/s and multiplies bfloat16 at "
            f"{self.top.operations_per_second / 1e12:.1f} TFLOP/s."
        )

    def _table(self, names: Sequence[str], modes: Sequence[str]) -> None:
        """All systems in some modes, then the profiles and the goals."""
        print(f"\n{row(*COLUMNS)}\n{'|---' * len(COLUMNS)}|", flush=True)
        for name in names:
            try:
                if self._left() <= 0:
                    raise OutOfTime
                with stopped_after(self._left()):
                    self._system(name, modes)
            except OutOfTime:
                done = {one.way for one in self.found if one.system == name}
                rest = [mode for mode in modes if mode not in done]
                self._say(name, ", ".join(rest) or "the rest", f"{self.seconds:g} s were over")
            self._free(modes)
        goals = self._goals() if self.device == "cuda" else ()
        took = f"{self.seconds - self._left():.0f} s so far."
        for text in (*self.waiting, *goals, "", took):
            print(text, flush=True)
        self.waiting.clear()

    def _system(self, name: str, modes: Sequence[str]) -> None:
        """One system's rows. Whatever goes wrong is a row."""
        try:
            subject = Subject(name, self.device, self.top, tiny=self.tiny)
        except Exception as problem:
            self._say(name, "-", first_line(problem))
            return
        for mode in modes:
            try:
                self._keep(subject.way(mode))
            except Exception as problem:
                self._say(name, mode, first_line(problem))
        if not any(one.system == name and one.report is None for one in self.found):
            self._plain(subject)
        for mode in modes:
            self._profile(subject, mode)

    def _plain(self, subject: Subject) -> None:
        try:
            for one in subject.plain():
                self._keep(one)
        except Exception as problem:
            self._say(subject.name, "plain", first_line(problem))

    def _profile(self, subject: Subject, mode: str) -> None:
        """The kernels of a mode that missed a goal, or of any if all are to be shown."""
        for one in self.found:
            if (one.system, one.way) != (subject.name, mode):
                continue
            lost = missed(one, self.found) if self.device == "cuda" else []
            if not lost and not self.profiles:
                continue
            goals = lost or [goal for goal in GOALS if goal.system == one.system]
            whole = not goals or any(goal.what == "chunk" for goal in goals)
            part = "a chunk" if whole else "prefill and steps"
            try:
                printed = subject.profile(mode, whole=whole)
                self.waiting += ["", *printed.lines(f"{one.system} in {mode}, {part}")]
            except Exception as problem:
                self.waiting += ["", f"{one.system} in {mode}, no profile: {first_line(problem)}"]

    def _keep(self, one: Measured) -> None:
        self.found.append(one)
        print(row(*self._cells(one)), flush=True)

    def _say(self, name: str, mode: str, text: str) -> None:
        print(row(name, mode, text), flush=True)

    def _cells(self, one: Measured) -> Iterator[str]:
        report = one.report
        yield one.system
        yield one.way
        yield f"{vae(report):.1f}" if report else "-"
        for stage in (one.prefill, one.steps):
            yield f"{stage.ms:.2f}" if stage else "-"
        yield f"{one.network.ms:.2f}"
        yield over(one.network)
        if report is None or one.chunk is None:
            yield from "-" * 8
        else:
            yield f"{one.chunk.ms:.2f}"
            yield f"{report.chunk.p95_ms:.2f}"
            yield f"{one.chunk.floor_ms:.2f}"
            yield over(one.chunk)
            yield f"{report.chunk.operations / 1e12:.2f}"
            yield f"{report.max_control_hz:.0f}"
            yield f"{report.peak_bytes / 1e9:.1f}"
            yield f"{report.first_ms / 1000:.1f}"
        yield f"{one.difference:.0e} from {one.of}"
        fastest = best(self.found, one.system) if report is None else None
        yield f"{one.network.ms / fastest.network.ms:.2f}x ({fastest.way})" if fastest else "-"

    def _goals(self) -> Iterator[str]:
        yield ""
        yield "Goals, as far as they were measured:"
        yield ""
        yield from verdicts(self.found)
        if self.found:
            worst = max(self.found, key=lambda one: largest(one.difference))
            yield ""
            yield (
                f"The largest difference of actions is {worst.difference:.1e}, of {worst.system}, "
                f"{worst.way}, from {worst.of}."
            )

    def _free(self, modes: Sequence[str]) -> None:
        """Give back what a system held in some modes."""
        if any(compiles(mode) for mode in modes):
            torch._dynamo.reset()
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()


def row(*cells: str) -> str:
    """A row of a table."""
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"


def over(stage: Stage) -> str:
    """How many times its floor a stage takes."""
    return f"{stage.times_floor:.2f}x" if stage.floor_ms else "-"


def vae(report: Report) -> float:
    """Milliseconds of the VAE in a chunk."""
    return sum(one.calls * one.median_ms for one in report.rows if one.stage == "VAE")


def first_line(problem: Exception) -> str:
    """What went wrong, in a line."""
    lines_of_error = str(problem).strip().splitlines()
    return (
        f"{type(problem).__name__}: {lines_of_error[0]}"
        if lines_of_error
        else type(problem).__name__
    )
