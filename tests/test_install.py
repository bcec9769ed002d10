"""What to type where something is missing, and which variables are read: told as it is, once."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from wamkit.files.install import EXTRAS, install_hint
from wamkit.files.variables import OTHERS, VARIABLES

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FOLDERS = ("wamkit", "plugins", "examples", "benchmarks")
CODE = [p for d in FOLDERS for p in (ROOT / d).rglob("*.py")]
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)
PAGES = [p for p in ROOT.rglob("*") if p.suffix in (".md", ".toml") and ".venv" not in p.parts]
Run = Callable[..., tuple[int, str, str]]


def test_the_extras_are_those_of_the_project() -> None:
    def module(line: str) -> str:
        return re.split(r"[><=\[ ]", line)[0].replace("-", "_")

    found = {
        extra: tuple(map(module, lines))
        for extra, lines in PROJECT["optional-dependencies"].items()
        if extra != "dev"
    }
    assert found == EXTRAS


def test_a_hint_names_extras_for_what_they_bring_and_other_modules_by_name() -> None:
    assert install_hint("serve").startswith('pip install -e ".[serve]" (in the folder of')
    assert '".[hf]"' in install_hint(modules=["transformers", "diffusers"])
    assert '".[sim,data]"' in install_hint("sim", modules=["gym_pusht", "av"])
    assert install_hint(modules=["b", "a"]) == "pip install a b"
    both = install_hint(modules=["a", "peft"])
    assert both.startswith('pip install a, and pip install -e ".[lora]"')


def test_no_text_suggests_to_install_wamkit_from_an_index() -> None:
    for file in [*CODE, *PAGES]:
        text = file.read_text()
        for line in re.findall(r".*pip install.*", text):
            assert not re.search(r"pip install[^`(]*['\" ]wamkit\b", line), f"{file}: {line}"
            for extras in re.findall(r"pip install[^`]*\.\[([a-z,]+)\]", line):
                assert {*extras.split(",")} <= {*EXTRAS, "dev"}, f"{file}: {line}"


def test_hints_of_the_code_about_extras_come_from_one_function() -> None:
    for file in (ROOT / "wamkit").rglob("*.py"):
        if file.name == "install.py":
            continue
        tree = ast.parse(file.read_text())
        nodes = (n for n in ast.walk(tree) if isinstance(n, DOCUMENTED))
        docs = {ast.get_docstring(node, clean=False) for node in nodes}
        for node in ast.walk(tree):
            text = node.value if isinstance(node, ast.Constant) else None
            if isinstance(text, str) and text not in docs:
                assert 'pip install -e "' not in text and '".[' not in text, f"{file}: {text}"


def _read(file: Path) -> set[str]:
    """The names of wamkit's variables that a file writes out."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= set(re.findall(r"\bWAMKIT_[A-Z_]+\b", node.value))
    return found - {"WAMKIT_API"}  # of a module, not of the environment


def test_every_variable_that_the_code_reads_is_listed() -> None:
    files = [f for f in CODE if "tests" not in f.parts]
    assert set().union(*map(_read, files)) == set(VARIABLES)


def test_the_variables_are_documented_in_one_table() -> None:
    page = (ROOT / "docs" / "variables.md").read_text()
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| (.*) \|$", page, re.M))
    assert rows == {**VARIABLES, **OTHERS}
    assert "docs/variables.md" in (ROOT / "README.md").read_text()


def test_help_and_doctor_list_the_variables(wamkit: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAMKIT_DEBUG", "1")
    page, report = wamkit("--help")[1], wamkit("doctor")[1]
    for name in VARIABLES:
        assert name in page and name in report
    variables = json.loads(wamkit("doctor", "--json")[1])["variables"]
    assert variables["WAMKIT_DEBUG"] == "1" and set(variables) == {*VARIABLES, *OTHERS}
