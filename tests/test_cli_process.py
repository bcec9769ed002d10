"""The command as a process of its own: what it imports, how it ends, what a shell completes."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from wamkit.cli import VERBS, summary_of, verb

HEAVY = ("torch", "numpy", "PIL", "transformers", "diffusers")
PROBE = """
import sys
from wamkit.cli import main
sys.argv = ["wamkit", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print(*[name for name in {heavy} if name in sys.modules], file=sys.stderr)
"""


def wamkit(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m wamkit` with these words."""
    return subprocess.run(
        [sys.executable, "-m", "wamkit", *args],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize(
    "args", [["--help"], ["list"], ["check", "examples/toy.toml"], ["schema"]], ids=" ".join
)
def test_what_is_on_paper_imports_nothing_heavy(args: list[str]) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = subprocess.run(
        [sys.executable, "-c", PROBE.format(heavy=HEAVY), *args],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run.stderr == "\n" and run.returncode == 0
    assert after.ru_utime - before.ru_utime < 2  # seconds; importing torch takes longer


def test_help_names_every_verb() -> None:
    run = wamkit("--help")
    assert run.returncode == 0 and run.stderr == ""
    for name in VERBS:
        assert f"\n  {name} " in run.stdout


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_a_summary_and_an_example(name: str) -> None:
    command = verb(name)
    assert command.help.splitlines()[0].endswith(".")
    assert " ".join(command.help.split()).startswith(summary_of(name))
    assert command.epilog.startswith(f"Example: wamkit {name}")


def test_a_pipe_gets_plain_text_and_its_exit_codes(tmp_path: Path) -> None:
    run = wamkit("list", "paradigm", NO_COLOR="1")
    assert run.returncode == 0 and "\x1b" not in run.stdout
    run = wamkit("check", str(tmp_path / "nowhere.toml"))
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("error: no spec at ") and "\nhint: " in run.stderr


def test_a_reader_who_leaves_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    run = subprocess.run(
        [sys.executable, "-m", "wamkit", "schema"], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert run.stderr == "" and run.returncode == 141


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("wamkit ex", ["explain", "explore", "export"]),
        ("wamkit show back", ["backbone"]),
        ("wamkit show paradigm single", ["single_pass"]),
    ],
)
def test_a_shell_completes_verbs_kinds_and_names(typed: str, offered: list[str]) -> None:
    args = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    run = wamkit(_WAMKIT_COMPLETE="complete_bash", **args)
    assert [line.split(",")[-1] for line in run.stdout.split()] == offered
