"""docs/architecture.md draws, names and signs what is in the code."""

from __future__ import annotations

import ast
import inspect
import re
import runpy
from pathlib import Path

import pytest

from wamkit import interfaces
from wamkit.config.spec import parse, read

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text()
(SIGNATURES,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
CLASSES = [node for node in ast.parse(SIGNATURES).body if isinstance(node, ast.ClassDef)]
ROWS = re.findall(r"^\| [^|`]+ \| `(\w+\.toml)` \| ([^|]+) \| ([^|]+) \|$", PAGE, re.M)
FUNCTIONS = {f.name for c in CLASSES for f in c.body if isinstance(f, ast.FunctionDef)}


def _section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


PACKAGES = re.findall(r"^\| `(\w+)` \|", _section("Packages"), re.M)


def test_the_drawing_is_that_of_the_code() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "make_architecture.py"))
    drawn = (ROOT / "docs" / "architecture.svg").read_text()
    assert script["draw"]() == drawn, "run: python docs/make_architecture.py"


def test_every_package_is_described_above_what_it_imports() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "make_architecture.py"))
    edges = script["imported"]()
    assert sorted(PACKAGES) == sorted(edges)
    for name, others in edges.items():
        for other in others - {late for first, late in script["LATE"] if first == name}:
            assert PACKAGES.index(name) < PACKAGES.index(other), f"{name} imports {other}"


@pytest.mark.parametrize("written", CLASSES, ids=lambda node: node.name)
def test_signatures_are_those_of_the_contract(written: ast.ClassDef) -> None:
    kind = getattr(interfaces, written.name)
    for function in written.body:
        assert isinstance(function, ast.FunctionDef)
        found = list(inspect.signature(getattr(kind, function.name)).parameters)
        last = [function.args.kwarg] if function.args.kwarg else []
        message = [argument.arg for argument in [*function.args.args, *last]]
        assert message == found, f"{written.name}.{function.name}"


@pytest.mark.parametrize(("spec", "target", "action"), ROWS, ids=[row[0] for row in ROWS])
def test_visibility_is_that_of_the_specs(spec: str, target: str, action: str) -> None:
    sees = parse(read(ROOT / "examples" / spec)).paradigm.sees
    for role, names in (("target", target), ("action", action)):
        expected = set(names.strip().split(", "))
        if "observed" in expected:
            expected = expected - {"observed"} | {"text", "context", "state"}
        assert set(sees[role]) == expected


def test_functions_of_the_table_of_frequencies_are_of_the_contract() -> None:
    rows = re.findall(r"^\| \w+ \|.*\|([^|]*)\|$", _section("How often each function runs"), re.M)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert len(ROWS) == 8 and len(named) > 15 and named <= FUNCTIONS


CONCEPTS = (ROOT / "docs" / "concepts.md").read_text()
GLOSSARY = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in CONCEPTS.partition("\n## Glossary\n")[2].splitlines()
    if line.startswith("| ") and not line.startswith("| term")
]


@pytest.mark.parametrize("row", GLOSSARY, ids=[row[0] for row in GLOSSARY])
def test_terms_of_the_glossary_are_at_their_links(row: list[str]) -> None:
    _, meaning, where = row
    *names, file = re.findall(r"`([^`]+)`", where)
    text = (ROOT / file).read_text()
    assert meaning and all(
        re.search(rf"^(class|def) {name}\b|^{name}\b.* = ", text, re.M) for name in names
    )


def test_the_glossary_is_in_the_order_of_the_alphabet() -> None:
    terms = [row[0].lower() for row in GLOSSARY]
    assert terms == sorted(terms) and len(terms) > 30


def test_concepts_show_the_table_of_fastwam() -> None:
    (drawn,) = re.findall(r"```\n( +attends to.*?)```", CONCEPTS, re.S)
    header, *rows = drawn.splitlines()
    columns = {match[0]: match.start() for match in re.finditer(r"\w+", header)}
    sees = parse(read(ROOT / "examples" / "fastwam.toml")).paradigm.sees
    for row in rows:
        role = row.split()[0]
        seen = {
            name
            for name, start in columns.items()
            if name in sees and "x" in row[start : start + len(name)]
        }
        assert seen == set(sees[role]), role


def test_contributing_lists_the_packages_and_names_modules_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    listed = re.findall(r"^\| `wamkit/(\w+)` \|", text, re.M)
    assert listed == [name for name in PACKAGES if name != "errors"]
    topics = text.partition("\n| topic | module |\n")[2].partition("\n\n")[0]
    modules = re.findall(r"`(\w+/\w+\.py)`", topics)
    assert len(modules) > 40
    assert not [module for module in modules if not (ROOT / "wamkit" / module).is_file()]
