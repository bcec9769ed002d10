"""The house: imports point down, the paper wing has no torch, the core knows no part by name."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from wamkit.config.registry import registry

ROOT = Path(__file__).parent.parent
CORE = ROOT / "wamkit"

# Floors of the core; a module may import from its own floor and from those below.
FLOORS = {
    0: {
        "errors",
        "printable",
        "seeds",
        "install",
        "noise",
        "variables",
        "strict_json",
        "strict_yaml",
        "documents",
        "trust",
        "values",
        "describe",
        "chart",
        "hooks",
        "parts",
        "part_rules",
        "containment",
        "guards",
        "installation",
        "traits",
        "visibility",
        "spaces",
        "schedules",
        "reading",
        "placeholders",
        "locate",
        "shards",
        "safetensors_header",
        "pickle_scan",
        "mistakes",
        "overrides",
        "paths",
        "published",
        "config_values",
        "hub",
        "kinds",
        "resizing",
        "leftovers",
        "durable",
        "locking",
    },
    1: {
        "registry",
        "configs",
        "spec",
        "check",
        "programs",
        "trained",
        "pretrained",
        "conditioner",
        "nested",
        "records",
        "runs",
    },
    2: {
        "files",
        "pickled",
        "bounded",
        "finite",
        "formats",
        "images",
        "png",
        "placing",
        "prefixes",
        "recognize",
        "meta_ops",
        "types",
        "cache",
        "memo",
        "text",
        "schedule",
        "solvers",
        "attention",
        "regions",
        "compiling",
        "flat",
        "encoder",
        "layers",
        "fused",
        "clip",
        "weights",
        "precision",
        "tolerance",
        "random_weights",
    },
    3: {
        "interfaces",
        "adapters",
        "actions",
        "cameras",
        "observation",
        "prompts",
        "stored",
        "transformers_files",
    }
    | {
        "normalization",
        "pixels",
        "guidance",
        "losses",
    },
    4: {
        "build",
        "policy",
        "blame",
        "folder",
        "scenes",
        "session",
        "modes",
        "quantized",
        "integers",
        "",
    },
    5: {
        "simulate",
        "testing",
        "company",
        "policy_contract",
        "stacks",
        "parity",
        "trial",
        "replay",
        "scaffold",
        "data",
        "train",
        "cost",
        "repeats",
        "slicing",
        "compositions",
        "bench",
        "serve",
        "demo",
    },
    6: {"cli", "__main__"},
}
PAPER = FLOORS[0] | FLOORS[1] | {"build", "", "scaffold", "compositions"}
FLOOR_OF = {name: floor for floor, names in FLOORS.items() for name in names}
LATE = {("build", "policy"), ("policy", "folder"), ("", "interfaces"), ("", "observation")}


def _module(file: Path) -> str:
    """The floor's name of a core file: its first part below wamkit/."""
    part = file.relative_to(CORE).parts[0].removesuffix(".py")
    return "" if part == "__init__" else part


def _imports(tree: ast.AST, package: list[str]) -> set[str]:
    """Absolute names of everything imported below `tree`."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            found.add(prefix)
            found |= {f"{prefix}.{alias.name}" for alias in node.names}
    return found


def _top_level(tree: ast.Module) -> ast.Module:
    """Only what runs on import: no function bodies, nothing under TYPE_CHECKING."""
    kept = [
        node
        for node in tree.body
        if not isinstance(node, ast.FunctionDef)
        and not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    ]
    for node in kept:
        if isinstance(node, ast.ClassDef):
            node.body = [n for n in node.body if not isinstance(n, ast.FunctionDef)] or [ast.Pass()]
    return ast.Module(kept, [])


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*.py") if "templates" not in p.parts)


@pytest.mark.parametrize("file", _files(CORE), ids=lambda p: str(p.relative_to(CORE)))
def test_imports_of_the_core_point_down(file: Path) -> None:
    name = _module(file)
    assert name in FLOOR_OF, f"{name} stands on no floor; add it to the table in this test"
    package = ["wamkit", *file.relative_to(CORE).parts[:-1]]
    tree = ast.parse(file.read_text())
    for target in _imports(_top_level(tree), package):
        if target == "wamkit" or not target.startswith("wamkit."):
            continue
        other = target.split(".")[1]
        if other in FLOOR_OF and (name, other) not in LATE:
            assert FLOOR_OF[other] <= FLOOR_OF[name], f"{name} imports {other}, which is above it"


@pytest.mark.parametrize("file", _files(CORE), ids=lambda p: str(p.relative_to(CORE)))
def test_the_paper_wing_imports_no_torch(file: Path) -> None:
    if _module(file) not in PAPER | {"cli"}:
        return
    names = _imports(_top_level(ast.parse(file.read_text())), ["wamkit"])
    heavy = {n for n in names if n.split(".")[0] in {"torch", "numpy", "PIL", "safetensors"}}
    assert not heavy


PLUGINS = sorted(p for p in (ROOT / "plugins").glob("*/*") if (p / "pyproject.toml").is_file())


@pytest.mark.parametrize("folder", PLUGINS, ids=lambda p: p.name)
def test_a_plugin_imports_wamkit_and_no_other_plugin(folder: Path) -> None:
    own = f"wamkit_{folder.name}"
    for file in _files(folder / own):
        package = [own, *file.relative_to(folder / own).parts[:-1]]
        tree = ast.parse(file.read_text())
        others = {n for n in _imports(tree, package) if n.startswith("wamkit_")}
        assert all(n.split(".")[0] == own for n in others), f"{file} imports {others}"
        if file.name == "__init__.py":
            assert not any(n.split(".")[0] == "torch" for n in _imports(_top_level(tree), package))


def test_the_core_names_no_backbone_head_or_paradigm() -> None:
    kinds = ("backbone", "action_head", "paradigm")
    names = {name for kind in kinds for name in registry().names(kind)}
    for file in _files(CORE):
        for node in ast.walk(ast.parse(file.read_text())):
            word = None
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                word = node.value
            elif isinstance(node, ast.Name):
                word = node.id
            elif isinstance(node, ast.Attribute):
                word = node.attr
            assert word not in names, f"{file.relative_to(ROOT)} names the part {word!r}"


def test_no_code_of_a_repository_is_run() -> None:
    for name in ("wamkit", "plugins", "examples", "benchmarks", "tests"):
        for file in _files(ROOT / name):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    if node.func.attr != "from_pretrained":
                        continue
                    said = {k.arg: ast.unparse(k.value) for k in node.keywords}
                    where = f"{file.relative_to(ROOT)}:{node.lineno}"
                    assert said.get("trust_remote_code") == "False", f"{where} does not refuse it"


def test_files_are_small() -> None:
    for file in [*_files(CORE), *_files(ROOT / "plugins")]:
        assert len(file.read_text().splitlines()) <= 450, f"{file.relative_to(ROOT)} is too long"


def test_every_file_opens_with_a_sentence() -> None:
    for file in [*_files(CORE), *_files(ROOT / "plugins"), *_files(ROOT / "examples")]:
        doc = ast.get_docstring(ast.parse(file.read_text()))
        assert doc, f"{file.relative_to(ROOT)} does not say what it is"


@pytest.mark.parametrize("words", [["--help"], ["list"]])
def test_help_and_list_are_quick_and_import_no_torch(words: list[str], capsys: Any) -> None:
    script = (
        "import sys; sys.argv = ['wamkit', *sys.argv[1:]]\n"
        "from wamkit.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    times = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", script, *words], capture_output=True, text=True
        )
        times.append(time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
        assert done.stderr.strip().endswith("False"), "torch was imported"
    with capsys.disabled():
        print(f" wamkit {' '.join(words)}: {min(times):.2f} s ", end="")


def test_no_file_holds_both_sides_of_a_merge() -> None:
    folders = ("wamkit", "plugins", "tests", "examples", "benchmarks", "docs")
    files = [*ROOT.glob("*.*"), *(f for name in folders for f in (ROOT / name).rglob("*.*"))]
    marks = ("<" * 7 + " ", ">" * 7 + " ")
    for file in files:
        if file.suffix in {".md", ".py", ".toml", ".yaml", ".css", ".txt"}:
            lines = file.read_text(encoding="utf-8").splitlines()
            assert not any(line.startswith(marks) for line in lines), file.relative_to(ROOT)
