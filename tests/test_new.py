"""`wamkit new` writes a plugin that works as it is, and says why when it cannot."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from wamkit.cli import app
from wamkit.cli.new.scaffold import LONGEST, SUFFIXES, render
from wamkit.config.registry import registry

KINDS = tuple(SUFFIXES)
COMPANIONS = {"toy", "mot", "single_pass", "conditional", "autoregressive"}


def new(*args: str | Path) -> Result:
    return CliRunner().invoke(app, ["new", *map(str, args)], prog_name="wamkit")


def python(*args: str | Path, path: list[Path]) -> subprocess.CompletedProcess[str]:
    """Run this interpreter with `path` in front, among the few plugins that are quick to import."""
    others = {plugin.name for plugin in registry().plugins} - COMPANIONS
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "WAMKIT_BLOCK_PLUGINS": ",".join(others),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, *map(str, args)]
    return subprocess.run(command, env=env, capture_output=True, text=True)


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A new project of each kind, found by importlib.metadata as if it were installed."""
    home = tmp_path_factory.mktemp("projects")
    for kind in KINDS:
        name = f"new_{kind}"
        assert new(kind, name, "--out", home / kind).exit_code == 0
        info = home / kind / f"wamkit_{name}-0.1.0.dist-info"
        info.mkdir()
        title = f"wamkit-{name.replace('_', '-')}"
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {title}\nVersion: 0.1.0\n")
        (info / "entry_points.txt").write_text(f"[wamkit]\n{name} = wamkit_{name}\n")
    return [home / kind for kind in KINDS]


def test_it_writes_a_project_and_states_what_to_type_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert new("paradigm", "bold_move").output == (
        "wrote bold_move\n"
        "  wamkit_bold_move/\n"
        "    __init__.py\n"
        "    paradigm.py\n"
        "    py.typed\n"
        "  tests/\n"
        "    test_contract.py\n"
        "  README.md\n"
        "  pyproject.toml\n"
        "\n"
        "next:\n"
        "  pip install -e bold_move\n"
        "  pytest bold_move\n"
        "  wamkit show paradigm bold_move\n"
    )
    written = [p.relative_to("bold_move") for p in Path("bold_move").rglob("*") if p.is_file()]
    assert {p.as_posix() for p in written} == set(render("paradigm", "bold_move"))
    assert [p.name for p in tmp_path.iterdir()] == ["bold_move"]  # nothing is left of the making


def test_it_fills_the_empty_folder_one_stands_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert new("backbone", "bold_move", "--out", ".").exit_code == 0
    assert (Path.cwd() / "wamkit_bold_move" / "backbone.py").is_file()


def test_it_registers_without_torch(projects: list[Path]) -> None:
    script = (
        "import importlib, json, sys\n"
        "from wamkit.config.registry import Registry\n"
        "found = Registry()\n"
        "for name in sys.argv[1:]:\n"
        "    found.plug(importlib.import_module(f'wamkit_{name}'), name, f'wamkit-{name}')\n"
        "print(json.dumps([[p.status, p.reason, p.parts] for p in found.plugins]))\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = python("-c", script, *(f"new_{kind}" for kind in KINDS), path=projects)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [["ok", "", [[kind, f"new_{kind}"]]] for kind in KINDS]


def test_it_keeps_the_contract(projects: list[Path]) -> None:
    tests = [project / "tests" for project in projects]
    options = ("-q", "-p", "no:cacheprovider", "--import-mode=importlib")
    done = python("-m", "pytest", *options, *tests, path=projects)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_its_readme_shows_a_table_that_a_spec_takes(kind: str, projects: list[Path]) -> None:
    readme = (projects[KINDS.index(kind)] / "README.md").read_text()
    (table,) = re.findall(r"```toml\n(.*?)```", readme, re.DOTALL)
    script = (
        "import sys, tomllib; from wamkit.config.spec import parse_part\n"
        "kind, table = sys.argv[1:]\n"
        "parse_part(kind, tomllib.loads(table)[kind])\n"
    )
    done = python("-c", script, kind, table, path=projects)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(find_spec("ruff") is None, reason="needs ruff")
def test_it_is_clean_however_long_the_name(tmp_path: Path) -> None:
    for kind in KINDS:
        for name in ("x", "a_b" * (LONGEST // 3)):
            for path, text in render(kind, name).items():
                file = tmp_path / kind / name / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
    for args in (["check"], ["format", "--check"]):
        done = python("-m", "ruff", *args, "--no-cache", tmp_path, path=[])
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_keeps_the_name_of_the_template(kind: str) -> None:
    title = "".join(word.capitalize() for word in kind.split("_"))
    for path, text in render(kind, "bold_move").items():
        for old in (f"my_{kind}", f"my-{kind.replace('_', '-')}", f"My{title}"):
            assert old not in path + text


RULE = (
    "cannot name a part: a name is lower-case words of letters and digits, joined by single "
    "underscores, 32 characters at most"
)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ("backbon", "mine"),
            "error: there is no template for 'backbon'; there is one for backbone, action_head, "
            "paradigm\nhint: did you mean 'backbone'?\n",
        ),
        (
            ("vae", "mine"),
            "error: there is no template for 'vae'; there is one for backbone, action_head, "
            "paradigm\nhint: choose one of the three\n",
        ),
        (("backbone", "my-robot"), f"error: 'my-robot' {RULE}\nhint: did you mean 'my_robot'?\n"),
        (("backbone", "MyRobot"), f"error: 'MyRobot' {RULE}\nhint: did you mean 'my_robot'?\n"),
        (("paradigm", "3d"), f"error: '3d' {RULE}\nhint: for example my_paradigm\n"),
        (("paradigm", "x" * 33), f"error: '{'x' * 33}' {RULE}\nhint: for example my_paradigm\n"),
        (
            ("backbone", "toy"),
            "error: there is a backbone called 'toy' already, from wamkit\n"
            "hint: choose another name, or look at that one: wamkit show backbone toy\n",
        ),
        (
            ("paradigm", "toy"),
            "error: there is a package called wamkit_toy already, for another part\n"
            "hint: choose another name, for example toy_paradigm\n",
        ),
    ],
)
def test_it_states_why_a_kind_or_a_name_will_not_do(args: tuple[str, str], message: str) -> None:
    done = new(*args)
    assert (done.exit_code, done.output) == (2, message)


def test_it_leaves_a_folder_alone_that_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    done = new("backbone", "mine", "--out", tmp_path)
    assert (done.exit_code, done.output) == (
        2,
        f"error: {tmp_path} exists and is not an empty folder\n"
        "hint: choose another one with --out FOLDER\n",
    )
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_it_reports_it_if_the_folder_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = new("backbone", "mine", "--out", tmp_path / "file" / "mine")
    assert (done.exit_code, done.output) == (
        2,
        f"error: {tmp_path / 'file' / 'mine'} cannot be written: File exists\n"
        "hint: choose another place; nothing was left behind\n",
    )
