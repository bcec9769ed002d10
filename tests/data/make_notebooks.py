"""Run every notebook of `examples/notebooks/` and write it, with its outputs, next to its script.

    python tests/data/make_notebooks.py [--text] [NAME ...]

The scripts (`.py`, jupytext's percent format) are the source. With `--text` nothing runs: text is
taken from the script, and outputs stay, if the code is still that of the notebook. Kernels are this
very interpreter, so no kernel has to be installed. Times and version numbers are left out, so that
a notebook changes only where its source or its results do.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import jupytext
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent.parent / "examples" / "notebooks"
SCRIPTS = sorted(FOLDER.glob("0*.py"))
INLINE = "module://matplotlib_inline.backend_inline"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
    "jupytext": {"formats": "ipynb,py:percent"},
}


class ThisInterpreter(AsyncKernelManager):
    """A kernel of the interpreter that runs this script."""

    @property
    def kernel_spec(self) -> Any:
        from jupyter_client.kernelspec import KernelSpec

        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name="Python 3", language="python")


def notebook_of(script: Path) -> Any:
    """The notebook of a percent script, without outputs."""
    notebook = jupytext.read(script)
    notebook.metadata = METADATA
    for i, cell in enumerate(notebook.cells):
        cell["id"], cell["metadata"] = f"cell-{i:02}", {}
    return notebook


def executed(script: Path, seconds: int = 1800) -> Any:
    """The notebook of a percent script after a run. Raises CellExecutionError if a cell fails."""
    notebook = notebook_of(script)
    client = NotebookClient(
        notebook,
        kernel_manager_class=ThisInterpreter,
        record_timing=False,
        timeout=seconds,
        resources={"metadata": {"path": str(FOLDER)}},
    )
    client.execute(env={**os.environ, "MPLBACKEND": INLINE})
    notebook.metadata = METADATA
    return notebook


def rewritten(script: Path) -> Any:
    """The notebook of a percent script with the outputs that its file holds.

    Raises SystemExit if code has changed since.
    """
    notebook, before = notebook_of(script), jupytext.read(script.with_suffix(".ipynb"))
    cells, old = (
        [cell for cell in each.cells if cell.cell_type == "code"] for each in (notebook, before)
    )
    if [cell.source for cell in cells] != [cell.source for cell in old]:
        raise SystemExit(f"{script.name}: code has changed; run it without --text")
    for cell, ran in zip(cells, old, strict=True):
        cell["outputs"], cell["execution_count"] = ran.outputs, ran.execution_count
    return notebook


def main(arguments: list[str]) -> None:
    """Write the notebooks that are named, or all."""
    names = [name for name in arguments if name != "--text"]
    make = rewritten if "--text" in arguments else executed
    for script in SCRIPTS:
        if not names or any(script.name.startswith(name) for name in names):
            file = script.with_suffix(".ipynb")
            jupytext.write(make(script), file)
            print(f"wrote {file.name}: {file.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
