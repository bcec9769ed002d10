"""Wheels: a third-party plugin works next to wamkit's own, and each plugin folder is a project."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

pytest.importorskip("hatchling", reason="wheels are built with hatchling")

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "my_backbone"
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/*/pyproject.toml"))


def project(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text())


def wheel(folder: Path, goal: Path) -> Path:
    """Build the wheel of a project, with what is installed here."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(goal)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = goal.glob(f"{project(folder)['project']['name'].replace('-', '_')}-*.whl")
    return built


class Elsewhere:
    """An environment with wamkit's wheel and the example's, far from this repository.

    Everything else (torch, ...) is taken from the environment that runs this test. An installed
    wamkit there is hidden by the wheel, which comes first.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        venv.create(home / "env", symlinks=os.name != "nt")
        places = {"base": str(home / "env"), "platbase": str(home / "env")}
        self.packages = Path(sysconfig.get_path("purelib", "venv", places))
        self.python = Path(sysconfig.get_path("scripts", "venv", places)) / "python"
        for folder in (ROOT, EXAMPLE):
            ZipFile(wheel(folder, home)).extractall(self.packages)
        (self.packages / "rest.pth").write_text(f"{sysconfig.get_path('purelib')}\n")

    def run(self, *args: str) -> str:
        """What the environment's Python prints."""
        env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        env = {k: v for k, v in env.items() if k not in {"PYTHONPATH", "WAMKIT_BLOCK_PLUGINS"}}
        command = [str(self.python), *args]
        done = subprocess.run(command, cwd=self.home, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Elsewhere:
    return Elsewhere(tmp_path_factory.mktemp("elsewhere"))


def test_a_third_party_backbone_is_listed_with_the_first_party(elsewhere: Elsewhere) -> None:
    listed = json.loads(elsewhere.run("-m", "wamkit", "list", "--json"))
    sources = {(part["kind"], part["name"]): part["from"] for part in listed["parts"]}
    assert sources.pop(("backbone", "my_backbone")) == "wamkit-my-backbone"
    assert sources["backbone", "toy"] == "wamkit"
    assert listed["clashes"] == []


def test_the_wheel_brings_every_plugin_and_hides_the_checkout(elsewhere: Elsewhere) -> None:
    script = (
        "import json, wamkit, wamkit_toy, wamkit_my_backbone\n"
        "from wamkit.config.registry import registry\n"
        "modules = (wamkit, wamkit_toy, wamkit_my_backbone)\n"
        "files = [module.__file__ for module in modules]\n"
        "plugins = [[p.name, p.distribution, p.status, p.reason] for p in registry().plugins]\n"
        "print(json.dumps([files, plugins]))\n"
    )
    files, plugins = json.loads(elsewhere.run("-c", script))
    assert all(Path(file).is_relative_to(elsewhere.packages) for file in files)
    ours = sorted(
        [name, "wamkit", "ok", ""] for name in project(ROOT)["project"]["entry-points"]["wamkit"]
    )
    assert sorted(plugin for plugin in plugins if plugin[1] == "wamkit") == ours


def test_a_third_party_backbone_keeps_the_contract(elsewhere: Elsewhere) -> None:
    elsewhere.run("-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLE))


def test_the_wheel_can_start_plugins(elsewhere: Elsewhere) -> None:
    script = (
        "from wamkit.cli.new.scaffold import SUFFIXES, render\n"
        "print(*(len(render(kind, 'mine')) for kind in SUFFIXES))\n"
    )
    assert elsewhere.run("-c", script) == "6 6 6\n"


@pytest.mark.parametrize("folder", PLUGINS, ids=lambda folder: folder.name)
def test_a_plugin_folder_builds_a_wheel_of_its_own(folder: Path, tmp_path: Path) -> None:
    package = f"wamkit_{folder.name}"
    built = wheel(folder, tmp_path)
    assert built.name.startswith(f"{package}-")
    names = ZipFile(built).namelist()
    assert {f"{package}/__init__.py", f"{package}/py.typed"} <= set(names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {package}
    info = next(name for name in names if name.endswith("entry_points.txt"))
    points = ZipFile(built).read(info).decode().split()
    assert points == ["[wamkit]", folder.name, "=", package]


def test_the_lists_of_the_root_project_are_the_plugin_folders() -> None:
    root = project(ROOT)
    build = root["tool"]["hatch"]["build"]
    points = root["project"]["entry-points"]["wamkit"]
    folders = [folder.relative_to(ROOT).as_posix() for folder in PLUGINS]
    packages = [f"{folder}/wamkit_{folder.rpartition('/')[2]}" for folder in folders]
    assert points == {folder.name: f"wamkit_{folder.name}" for folder in PLUGINS}
    assert sorted(build["targets"]["wheel"]["packages"]) == sorted(["wamkit", *packages])
    assert sorted(build["dev-mode-dirs"]) == sorted([".", *folders])


@pytest.mark.parametrize("folder", PLUGINS, ids=lambda folder: folder.name)
def test_a_plugin_folder_is_a_project(folder: Path) -> None:
    table = project(folder)["project"]
    assert table["name"] == f"wamkit-{folder.name.replace('_', '-')}"
    assert table["dependencies"][0].startswith("wamkit>=")
    assert (folder / table["readme"]).is_file()
    assert list((folder / "tests").glob("test_*.py")), "it has no tests"
