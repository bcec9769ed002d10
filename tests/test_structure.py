"""The house: imports point down, the paper wing has no torch, the core knows no part by name."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from wamkit.config.registry import registry

ROOT = Path(__file__).parent.parent
CORE = ROOT / "wamkit"

# Rooms of the core, the lowest first: a module imports from its own room and from those before it.
ROOMS = (
    "errors",
    "files",
    "config",
    "acceleration",
    "engine",
    "interfaces",
    "checkpoints",
    "policy",
    "data",
    "runtime",
    "simulate",
    "evaluate",
    "serve",
    "bench",
    "train",
    "testing",
    "cli",
)
# Rooms and modules that load none of HEAVY: every command loads them, and no torch is wanted there.
PAPER = {"errors", "files", "config", "cli"}
LIGHT = {"", "acceleration", "acceleration.torchao_messages", "policy", "policy.build"}
HEAVY = {"torch", "numpy", "PIL", "safetensors", "matplotlib", "jinja2"}
IMAGES = {"files.images", "files.pixels"}  # these two load numpy and PIL
# What a plugin may import of the core, modules and all below them.
SURFACE = (
    "wamkit.checkpoints",
    "wamkit.config",
    "wamkit.engine.layers",
    "wamkit.errors",
    "wamkit.interfaces",
    "wamkit.testing",
)
# What plugins import beyond it, each until the surface holds what it needs; nothing is added here.
EXCEPTIONS: dict[str, tuple[str, ...]] = {
    "adaptive": (
        "wamkit.engine.noise_schedule",
        "wamkit.policy.observation",
        "wamkit.policy.policy",
        "wamkit.policy.preprocessing",
    ),
    "autoregressive": ("wamkit.engine.noise_schedule",),
    "conditional": ("wamkit.engine.noise_schedule",),
    "flux": ("wamkit.engine.clip_layers",),
    "gymnasium": (
        "wamkit.simulate.environment",
        "wamkit.simulate.rendering",
    ),
    "idm": ("wamkit.engine.noise_schedule",),
    "libero": (
        "wamkit.simulate.convert",
        "wamkit.simulate.environment",
        "wamkit.simulate.episodes",
        "wamkit.simulate.rendering",
    ),
    "ltx": (
        "wamkit.acceleration.single_frame_conv",
        "wamkit.files.hub",
        "wamkit.files.locate",
    ),
    "metaworld": (
        "wamkit.simulate.environment",
        "wamkit.simulate.rendering",
    ),
    "open_clip": (
        "wamkit.files.paths",
        "wamkit.files.strict_json",
    ),
    "planning": ("wamkit.engine.noise_schedule",),
    "pusht": (
        "wamkit.simulate.environment",
        "wamkit.simulate.rendering",
    ),
    "wan": (
        "wamkit.acceleration.single_frame_conv",
        "wamkit.engine.clip_layers",
        "wamkit.files.locate",
        "wamkit.files.safetensors_header",
    ),
}


def _dotted(file: Path) -> str:
    """The module of a core file below `wamkit`: `config.spec`, `config` for its `__init__`."""
    return (
        ".".join(file.relative_to(CORE).with_suffix("").parts).removesuffix("__init__").strip(".")
    )


def _package(file: Path) -> list[str]:
    return ["wamkit", *file.relative_to(CORE).parts[:-1]]


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


def _without_functions(tree: ast.Module) -> ast.Module:
    """All but the bodies of functions; what stands under TYPE_CHECKING is kept."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [ast.Pass()]
    return tree


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*.py") if "templates" not in p.parts)


MODULES = {_dotted(file): file for file in _files(CORE)}


def _modules(names: set[str]) -> set[str]:
    """Modules of the core among imported names; a package only where something else is asked of it.

    `from .data import layout` asks for a module, and adds `data` to the names as well.
    """
    below = {name.removeprefix("wamkit.") for name in names if name.startswith("wamkit.")}
    asked = {name.rpartition(".")[0] for name in below if name not in MODULES}
    packages = {name for name, file in MODULES.items() if file.name == "__init__.py"}
    return (below & MODULES.keys() - packages) | (asked & MODULES.keys())


def test_the_root_of_the_core_holds_three_files_and_the_rooms() -> None:
    assert {f.name for f in CORE.glob("*.py")} == {"__init__.py", "__main__.py", "errors.py"}
    folders = {f.name for f in CORE.iterdir() if f.is_dir() and list(f.rglob("*.py"))}
    assert folders | {"errors"} == set(ROOMS)


@pytest.mark.parametrize("file", _files(CORE), ids=lambda p: str(p.relative_to(CORE)))
def test_imports_of_the_core_point_down(file: Path) -> None:
    """Imports at the top, under TYPE_CHECKING and within functions all count.

    Configuration alone reaches up, from within functions: `build` of a part imports what needs
    torch when a part is built.
    """
    name, tree = _dotted(file), ast.parse(file.read_text())
    room = name.partition(".")[0]
    if room not in ROOMS:  # the package itself, and `python -m wamkit`
        return
    outside = _imports(_without_functions(tree), _package(file))
    for target in outside | _imports(ast.parse(file.read_text()), _package(file)):
        if not target.startswith("wamkit."):
            continue
        other = target.split(".")[1]
        if other not in ROOMS:  # of the package itself, which stands above every room
            assert other == "__version__", f"{name} imports {other} of wamkit; name its module"
        elif room != "config" or other != "checkpoints" or target in outside:
            assert ROOMS.index(other) <= ROOMS.index(room), f"{name} imports {target}, above it"
            assert other != "testing" or room == "testing", f"{name} imports {target}, for tests"


def test_no_modules_of_the_core_import_each_other_in_a_circle() -> None:
    """By imports that run when a module is loaded."""
    loads = {
        name: _modules(_imports(_top_level(ast.parse(file.read_text())), _package(file))) - {name}
        for name, file in MODULES.items()
        if name.partition(".")[0] in ROOMS
    }
    while loads:
        free = {name for name, needs in loads.items() if not needs & loads.keys()}
        assert free, f"each of these imports another of them: {', '.join(sorted(loads))}"
        loads = {name: needs for name, needs in loads.items() if name not in free}


@pytest.mark.parametrize("file", _files(CORE), ids=lambda p: str(p.relative_to(CORE)))
def test_the_paper_wing_imports_no_torch(file: Path) -> None:
    name = _dotted(file)
    if name.partition(".")[0] not in PAPER and name not in LIGHT:
        return
    heavy = HEAVY - {"numpy", "PIL"} if name in IMAGES else HEAVY
    names = _imports(_top_level(ast.parse(file.read_text())), _package(file))
    assert not {n for n in names if n.split(".")[0] in heavy}


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


def _beyond_the_surface(folder: Path) -> set[str]:
    """Modules of the core that a plugin imports and that are no part of SURFACE."""
    names: set[str] = set()
    for file in _files(folder / f"wamkit_{folder.name}"):
        names |= _imports(ast.parse(file.read_text()), [])
    modules = {f"wamkit.{name}" for name in _modules(names)}
    return {m for m in modules if not any(f"{m}.".startswith(f"{s}.") for s in SURFACE)}


@pytest.mark.parametrize("folder", PLUGINS, ids=lambda p: p.name)
def test_a_plugin_imports_the_surface_and_nothing_else(folder: Path) -> None:
    found, excepted = _beyond_the_surface(folder), set(EXCEPTIONS.get(folder.name, ()))
    assert found <= excepted, f"{folder.name} imports what is no part of the surface"
    assert excepted <= found, f"an exception of {folder.name} is not needed anymore; remove it"


def test_exceptions_are_of_plugins_that_there_are() -> None:
    assert EXCEPTIONS.keys() <= {folder.name for folder in PLUGINS}
    assert list(EXCEPTIONS) == sorted(EXCEPTIONS)
    for modules in EXCEPTIONS.values():
        assert list(modules) == sorted(modules)


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
                    message = {k.arg: ast.unparse(k.value) for k in node.keywords}
                    where = f"{file.relative_to(ROOT)}:{node.lineno}"
                    assert message.get("trust_remote_code") == "False", (
                        f"{where} does not refuse it"
                    )


def test_files_are_small() -> None:
    page = [file for ending in ("js", "css", "j2") for file in CORE.rglob(f"*.{ending}")]
    for file in [*_files(CORE), *_files(ROOT / "plugins"), *_files(ROOT / "integrations"), *page]:
        assert len(file.read_text().splitlines()) <= 450, f"{file.relative_to(ROOT)} is too long"


def test_a_zip_that_may_cut_says_why_cutting_is_right() -> None:
    """An argument shorter than the others hides what is missing: it is an error by default."""
    folders = [CORE, *(ROOT / name for name in ("plugins", "integrations", "examples"))]
    for file in [file for folder in folders for file in _files(folder)]:
        lines = ["", *file.read_text().splitlines()]
        for before, line in pairwise(lines):
            if "strict=False" in line and "tests" not in file.parts:
                where = f"{file.relative_to(ROOT)}: {line.strip()}"
                assert "#" in line or before.strip().startswith("#"), where


def test_every_file_begins_with_a_docstring() -> None:
    folders = [CORE, *(ROOT / name for name in ("plugins", "integrations", "examples"))]
    for file in [file for folder in folders for file in _files(folder)]:
        doc = ast.get_docstring(ast.parse(file.read_text()))
        assert doc, f"{file.relative_to(ROOT)} does not say what it is"


@pytest.mark.parametrize("args", [["--help"], ["list"]])
def test_help_and_list_are_quick_and_import_no_torch(args: list[str], capsys: Any) -> None:
    script = (
        "import sys; sys.argv = ['wamkit', *sys.argv[1:]]\n"
        "from wamkit.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    times = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", script, *args], capture_output=True, text=True)
        times.append(time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
        assert done.stderr.strip().endswith("False"), "torch was imported"
    with capsys.disabled():
        print(f" wamkit {' '.join(args)}: {min(times):.2f} s ", end="")


def test_no_file_holds_both_sides_of_a_merge() -> None:
    folders = ("wamkit", "plugins", "integrations", "tests", "examples", "benchmarks", "docs")
    files = [*ROOT.glob("*.*"), *(f for name in folders for f in (ROOT / name).rglob("*.*"))]
    marks = ("<" * 7 + " ", ">" * 7 + " ")
    for file in files:
        if file.suffix in {".md", ".py", ".toml", ".yaml", ".css", ".txt"}:
            lines = file.read_text(encoding="utf-8").splitlines()
            assert not any(line.startswith(marks) for line in lines), file.relative_to(ROOT)
