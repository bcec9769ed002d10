"""The notebooks for students: each runs, is what its script says, and is small enough to show."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from wamkit.config.registry import forget, registry

pytest.importorskip("matplotlib")
jupytext = pytest.importorskip("jupytext")
pytest.importorskip("nbclient")

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "examples" / "notebooks"
SCRIPTS = sorted(FOLDER.glob("0*.py"))
EXPLAINED = {
    r"\bchunks?\b": "**chunk** of actions (",
    r"\bprompt\b": "**prompt** (",
    r"\bthe (\*\*)?state\b": "the **state** (",
    r"\bbackbones?\b": "**backbones** (",
    r"\bVAE\b": "made by an autoencoder, the **VAE**",
    r"\btokens?\b": "becomes a **token** (",
    r"\bexpert\b": "an **action expert**, a narrower stack",
    r"\bparadigms?\b": "Its **paradigm**, how video and actions relate",
    r"\bjoint\b": "is **`joint`**: both are denoised together",
    r"World-Action Model": "a **World-Action Model** (",
    r"\baction[ _]head\b": "is the **action head**",
    r"\battention table\b": "**attention table**",
    r"\bKV cache\b": "are the **KV cache**",
    r"\badaptive`": "**`adaptive`** does so with its proposals: it draws",
}
"""Terms, as patterns, and the words in which one of the lessons explains each."""
LARGEST = 500_000
"""Bytes of a notebook with its outputs: larger ones are not shown by every web page."""


def _maker() -> ModuleType:
    found = importlib.util.spec_from_file_location(
        "make_notebooks", Path(__file__).parent / "data" / "make_notebooks.py"
    )
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture
def quick(monkeypatch: Any) -> Iterator[None]:
    """Notebooks in their quick form, without a window, and nothing of them left behind."""
    import matplotlib

    monkeypatch.setenv("QUICK_NOTEBOOKS", "1")
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    backend = matplotlib.get_backend()
    matplotlib.use("Agg")
    yield
    from matplotlib import pyplot

    pyplot.close("all")
    matplotlib.use(backend)
    forget()  # one of them registers a paradigm
    for name in ("lesson", "toy_task"):
        sys.modules.pop(name, None)


def test_there_are_seven_scripts_and_a_notebook_of_each() -> None:
    assert [script.name[:2] for script in SCRIPTS] == [f"{i:02}" for i in range(1, 8)]
    assert sorted(FOLDER.glob("*.ipynb")) == [script.with_suffix(".ipynb") for script in SCRIPTS]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_runs_in_its_quick_form(script: Path, quick: None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        from matplotlib import pyplot

        patch.setattr(pyplot, "show", lambda: pyplot.close("all"))
        runpy.run_path(str(script), run_name="__main__")


def test_a_notebook_runs_in_a_kernel_and_shows_figures_and_animations(quick: None) -> None:
    notebook = _maker().executed(FOLDER / "04_four_paradigms.py", seconds=600)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    displayed = {kind for output in outputs for kind in output.get("data", ())}
    assert {"image/png", "image/gif"} <= displayed
    assert not any(output.output_type == "error" for output in outputs)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_notebook_is_what_its_script_says(script: Path) -> None:
    expected = _maker().notebook_of(script)
    found = jupytext.read(script.with_suffix(".ipynb"))
    hint = "run python tests/data/make_notebooks.py"
    for one, other in zip(expected.cells, found.cells, strict=True):
        assert (one.cell_type, one.source) == (other.cell_type, other.source), hint


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_notebook_holds_its_outputs_and_is_small(script: Path) -> None:
    file = script.with_suffix(".ipynb")
    assert file.stat().st_size < LARGEST
    cells = [cell for cell in json.loads(file.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in cells)
    assert any("image/png" in out.get("data", ()) for cell in cells for out in cell["outputs"])
    assert not any(out["output_type"] == "error" for cell in cells for out in cell["outputs"])
    assert "/home/" not in file.read_text() and "Traceback" not in file.read_text()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_lesson_has_a_title_sources_and_exercises_with_hidden_answers(script: Path) -> None:
    text = script.read_text()
    number = int(script.name[:2])
    assert re.search(rf"^# # {number} ", text, re.M)
    assert re.search(r"arXiv \d{4}\.\d{5}|wamkit new paradigm", text)
    answers = text.count("# <details><summary>Answer</summary>")
    assert answers >= 3 and text.count("# </details>") == answers
    assert len(re.findall(r"^# \d\. ", text.partition("# ## Exercises")[2], re.M)) == answers


def _prose(script: Path) -> str:
    """The text cells of a lesson, on one line."""
    cells = [cell for cell in jupytext.read(script).cells if cell.cell_type == "markdown"]
    return re.sub(r"\s+", " ", " ".join(cell.source for cell in cells))


@pytest.mark.parametrize(("term", "meaning"), EXPLAINED.items())
def test_a_term_is_explained_where_the_lessons_use_it_first(term: str, meaning: str) -> None:
    text = " ".join(map(_prose, SCRIPTS))
    assert meaning in text
    used, explained = re.search(term, text), text.index(meaning)
    assert used is not None
    before = text[max(0, used.start() - 60) : used.end() + 20]
    assert explained <= used.start() < explained + len(meaning), before


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_randomness_comes_from_generators_and_seeds(script: Path) -> None:
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in ("randn", "rand", "randint", "randperm"):
                assert any(word.arg == "generator" for word in node.keywords), ast.unparse(node)
            if node.func.attr in ("act", "imagine") and ast.unparse(node.func.value) == "policy":
                assert any(word.arg == "seed" for word in node.keywords), ast.unparse(node)


def test_the_paradigm_of_a_notebook_takes_twenty_lines() -> None:
    tree = ast.parse((FOLDER / "07_your_own_paradigm.py").read_text())
    lines: set[int] = set()
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            docstrings = [e for e in ast.walk(node) if isinstance(e, ast.Expr)]
            held = {n.lineno for n in ast.walk(node) if hasattr(n, "lineno")}
            lines |= held - {
                n for e in docstrings for n in range(e.lineno, (e.end_lineno or 0) + 1)
            }
    assert 0 < len(lines) <= 20


def test_the_index_names_every_notebook() -> None:
    index = (FOLDER / "README.md").read_text()
    for script in SCRIPTS:
        assert f"({script.with_suffix('.ipynb').name})" in index


def test_the_index_counts_lines_as_the_titles_do() -> None:
    title = re.compile(r"\b(\w+) lines$", re.M)
    counts = {
        script.stem: title.findall(script.read_text().partition("# # ")[2].partition("\n")[0])
        for script in SCRIPTS
    }
    for line in (FOLDER / "README.md").read_text().splitlines():
        for name, found in counts.items():
            if f"({name}.ipynb)" in line:
                assert re.findall(r"\b(\w+) lines\b", line) == found


def test_the_paradigm_of_a_notebook_is_not_left_behind() -> None:
    assert "vote" not in registry().names("paradigm")
