"""Every command and line of Python in the README and docs/usage.md, and every example, runs."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wamkit.config.spec import parse, read
from wamkit.testing.dataset import record

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "docs" / "usage.md"]
BLOCKS = [
    block for page in PAGES for block in re.findall(r"```(\w+)\n(.*?)```", page.read_text(), re.S)
]
LINES = [
    line for kind, text in BLOCKS if kind in {"bash", "sh"} for line in text.splitlines() if line
]
COMMANDS = [
    re.sub(r".*&& \.venv/bin/", "", line)
    for line in LINES
    if "wamkit" in re.sub(r".*&& ", "", line)
]
# The same on less: what takes minutes is shown to begin, to go on and to end.
SHORTENED = {"wamkit demo": "wamkit demo --quick"}
# What has conflicts on a machine without published files says so with exit code 1.
LACKS_FILES = {"wamkit check examples/fastwam.toml"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: Any) -> Path:
    """A folder like a fresh clone with a few recordings, in which commands may write."""
    folder: Path = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "examples", folder / "examples")
    record(folder / "recordings" / "cups", parse(read(ROOT / "examples" / "toy.toml")))
    return folder


def _run_main(args: list[str], capsys: Any) -> tuple[int, str, str]:
    from wamkit.cli import main

    code = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", args)
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return code, *capsys.readouterr()


def _serve_until_asked(args: list[str], home: Path) -> tuple[int, str, str]:
    """Serve on a free port, in a process of its own, until a client got a chunk."""
    from wamkit.serve.client import Client

    args[args.index("--port") + 1] = "0"
    command = [sys.executable, "-m", *args]
    with subprocess.Popen(command, cwd=home, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        output = ""
        for line in server.stdout:
            output += line
            if found := re.search(r"ready at ws://127.0.0.1:(\d+)", line):
                with Client(port=int(found[1]), timeout=60) as policy:
                    (view,) = policy.metadata["cameras"].values()
                    state = policy.metadata["state"]
                    seen = {view["key"]: np.zeros((64, 64, 3), np.uint8), "prompt": "press"}
                    seen |= {state["key"]: np.zeros(state["size"], np.float32)}
                    assert policy.infer(seen)["actions"].shape == (8, 4)
                server.send_signal(signal.SIGINT)
    assert server.returncode == 130 and "ready at" in output  # as shells count Ctrl-C
    return 0, output, ""


def _run(command: str, home: Path, monkeypatch: Any, capsys: Any) -> tuple[int, str, str]:
    """One command line in this process, as the shell would run it."""
    args = shlex.split(SHORTENED.get(command, command), comments=True)
    assert args[0] == "wamkit"
    args, into = (args[:-2], args[-1]) if args[-2:-1] == [">"] else (args, None)
    monkeypatch.chdir(home)
    if args[1] == "serve":
        return _serve_until_asked(args, home)
    code, out, err = _run_main(args, capsys)
    if into is not None:
        (home / into).write_text(out)
    return code, out, err


def test_the_pages_have_commands() -> None:
    verbs = {shlex.split(c, comments=True)[1] for c in COMMANDS}
    assert {"list", "show", "check", "explain", "build", "act", "imagine", "new"} <= verbs


def test_the_commands_of_the_pages_run_one_after_the_other(
    home: Path, monkeypatch: Any, capsys: Any
) -> None:
    for command in COMMANDS:  # in one test, since some work on what others wrote
        if command == "wamkit demo" and find_spec("metaworld") is None:
            continue
        code, out, err = _run(command, home, monkeypatch, capsys)
        expected = 1 if command.split("  ")[0].strip() in LACKS_FILES else 0
        assert code == expected, f"{command}\n{err}"
        assert (out + err).strip() and "Traceback" not in out + err, command


def test_the_commands_about_speed_run(home: Path, monkeypatch: Any, capsys: Any) -> None:
    page = (ROOT / "docs" / "speed.md").read_text()
    for command in "".join(re.findall(r"```bash\n(.*?)```", page, re.S)).splitlines():
        quick = command.replace("bench ", "bench --tiny --iters 2 ").partition("  #")[0]
        quick = quick.replace("--mode compile", "--mode eager")  # which takes a minute here
        code, out, err = _run(quick, home, monkeypatch, capsys)
        assert code == 0 and (out + err).strip(), f"{command}\n{err}"


def test_the_command_for_a_photograph_prints_a_chunk_of_32_by_7(
    home: Path, monkeypatch: Any, capsys: Any
) -> None:
    first = next(c for c in COMMANDS if c.startswith("wamkit act"))
    code, out, err = _run(first, home, monkeypatch, capsys)
    row = re.compile(r"\s*\d\.\d\d(\s+-?\d+\.\d+){7}\s*")
    rows = [line for line in out.splitlines() if row.fullmatch(line)]
    assert code == 0 and len(rows) == 32, err


def test_the_python_of_the_pages_runs(home: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(home)
    for kind, text in BLOCKS:
        if kind == "python":
            names: dict[str, Any] = {}
            exec(text, names)
            assert names["chunk"].values.shape == (1, 8, 4)
            if "future" in names:
                assert names["future"].canvas.shape == (1, 3, 9, 64, 96)


def test_the_readme_has_one_image_and_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert text.count("![") == 1 and text.count("```bash\n") == 2


MARKDOWN = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    for target in targets:
        if not target.startswith(("http", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


SCRIPTS = [ROOT / "examples" / "act.py"]  # the numbered ones: test_student_examples.py


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_an_example_script_runs(script: Path, capsys: Any) -> None:
    runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out


BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: run it by hand")
@pytest.mark.parametrize(
    "script", [p for p in BENCHMARKS if "CUDA" in p.read_text()], ids=lambda p: p.name
)
def test_a_benchmark_ends_cleanly_where_there_is_no_gpu(
    script: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setattr(sys, "argv", [str(script)])
    runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out == "no CUDA device: nothing to time\n"
