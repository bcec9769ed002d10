"""Environments of their own, for packages that cannot be installed next to wamkit."""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path

import pytest


def python_with(home: Path, *packages: str) -> Path:
    """The Python of a new environment with packages from the registry.

    Skips the test where they cannot be installed.
    """
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    command = [python, "-m", "pip", "install", "-q", *packages]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{', '.join(packages)} cannot be installed here: {done.stderr[-200:]}")
    return python
