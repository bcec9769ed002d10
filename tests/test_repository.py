"""The files around the code (workflow, hooks, citation, changelog) agree with the project."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import wamkit

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GITHUB = sorted((ROOT / ".github").rglob("*.yml"))
HOOKS = ROOT / ".pre-commit-config.yaml"


def _load(file: Path) -> Any:
    return yaml.safe_load(file.read_text())


def _jobs() -> dict[str, Any]:
    return _load(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]


def _commands(job: dict[str, Any]) -> list[str]:
    return [line for step in job["steps"] for line in step.get("run", "").splitlines()]


def _checks() -> list[str]:
    """The commands of .ci/run that check something, without the path of its environment."""
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    found = [line.removeprefix(".venv/bin/") for line in lines if line.startswith(".venv/bin/")]
    return [line for line in found if "pip install" not in line]


@pytest.mark.parametrize("file", [*GITHUB, HOOKS], ids=lambda file: file.name)
def test_yaml_is_valid(file: Path) -> None:
    assert isinstance(_load(file), dict)


def test_the_workflow_runs_the_commands_of_the_local_check() -> None:
    jobs = _jobs()
    run = [line for name in ("lint", "types", "tests") for line in _commands(jobs[name])]
    setup = ("python -m pip install", "sudo apt-get", "python -c")
    assert [line for line in run if not line.startswith(setup)] == _checks()
    assert len(_checks()) == 5


def test_the_hooks_run_the_commands_of_the_local_check() -> None:
    local = [repo for repo in _load(HOOKS)["repos"] if repo["repo"] == "local"]
    programs = {shlex.split(hook["entry"])[0] for repo in local for hook in repo["hooks"]}
    assert programs == {shlex.split(line)[0] for line in _checks()} - {"python"}


def test_what_the_workflow_installs_is_what_the_development_extra_asks_for() -> None:
    lines = [line for job in _jobs().values() for line in _commands(job)]
    named = {word for line in lines if "pip install" in line for word in shlex.split(line)[4:]}
    named -= {"--editable", ".[dev]", "dist/*.whl", "torch${{ matrix.torch }}"}
    named -= {".[data]", "integrations/lerobot[sim]"}  # LeRobot's own environment
    assert {"ruff", "codespell", "build"} == {word.split(">")[0] for word in named}
    assert named <= set(PROJECT["optional-dependencies"]["dev"])


def test_the_versions_of_python_are_those_of_the_project() -> None:
    listed = re.findall(r"Python :: (\d\.\d+)", "\n".join(PROJECT["classifiers"]))
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert _jobs()["tests"]["strategy"]["matrix"]["python"] == listed
    assert listed[0] == oldest
    for job in _jobs().values():
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/setup-python"):
                assert step["with"]["python-version"] in (oldest, "${{ matrix.python }}")


def test_the_oldest_and_the_newest_torch_are_tested() -> None:
    (declared,) = [line for line in PROJECT["dependencies"] if re.match(r"torch\b", line)]
    minimum = declared.removeprefix("torch>=")
    matrix = _jobs()["tests"]["strategy"]["matrix"]
    assert matrix["torch"] == [f"=={minimum}.*", f">={minimum}"]


def test_actions_are_pinned_by_major_version_and_may_only_read() -> None:
    workflow = _load(ROOT / ".github" / "workflows" / "ci.yml")
    uses = [s["uses"] for job in workflow["jobs"].values() for s in job["steps"] if "uses" in s]
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", name) for name in uses)
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["cancel-in-progress"] is True


def test_the_citation_names_the_version_and_the_license() -> None:
    citation = _load(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["version"] == PROJECT["version"] == wamkit.__version__
    assert citation["license"] == PROJECT["license"]


def test_the_changelog_has_sections_of_known_kinds_and_begins_with_what_is_unreleased() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    releases = re.findall(r"^## \[([^\]]+)\]", text, re.MULTILINE)
    assert releases[0] == "Unreleased"
    assert len(releases) == len(re.findall(r"^## ", text, re.MULTILINE))
    kinds = re.findall(r"^### (.+)$", text, re.MULTILINE)
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_source_distribution_includes_these_files() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    pages = {page.name for page in ROOT.glob("*.md")}
    assert pages | {"CITATION.cff", ".github", ".ci", HOOKS.name} <= set(listed)
    assert all((ROOT / name).exists() for name in listed)
