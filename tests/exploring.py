"""The page of `wamkit explore` for tests: its data, itself, and what its scripts say in node."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from wamkit.cli.explore.data import page_data
from wamkit.cli.explore.page import MODEL, page, script

ASK = """
(input) => input.map((given) => {
  const choice = { ...Explore.fromPreset(given.preset) };
  choice.parts = given.parts;
  choice.raw = { ...choice.raw, ...given.raw };
  if (!Explore.modes(choice).includes(choice.mode)) choice.mode = Explore.modes(choice)[0] ?? "";
  if (given.mode !== undefined) choice.mode = given.mode;
  const conflicts = Explore.conflicts(choice);
  const fits = !conflicts.length;
  return {
    spec: Explore.spec(choice), toml: Explore.toml(choice), conflicts, mode: choice.mode,
    tokens: fits ? Explore.tokens(choice) : null,
    parameters: fits ? Explore.parameters(choice) : null,
    cost: fits && given.cost ? Explore.cost(choice)?.total ?? null : null,
    noise: fits && Explore.cost(choice)
      ? Explore.noise(choice, Explore.cost(choice).stages).flatMap((passes, i) => (
        Explore.cost(choice).stages[i].stage.prefill ? [] : passes)) : null,
    attention: fits ? Explore.layerRanges(choice).map((range) => ({
      ...range, title: Explore.rangeTitle(choice, range), ...Explore.attentionTable(choice, range),
    })) : null,
  };
})
"""


@cache
def _page_data() -> dict[str, Any]:
    return page_data()


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    """What the page knows, computed once for all modules."""
    return _page_data()


@pytest.fixture(scope="module")
def html(data: dict[str, Any]) -> str:
    """The page."""
    return page(data)


@pytest.fixture(scope="module")
def ask(data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], Any]:
    """What the page's scripts say of choices, from node."""
    return asking(data, tmp_path_factory.mktemp("explore"))


def asking(data: dict[str, Any], folder: Path) -> Callable[[Any], Any]:
    """The same with other data."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node to run the page's scripts")
    (folder / "data.json").write_text(json.dumps(data))
    lines = [
        script(*MODEL),
        "const fs = require('fs');",
        f"Explore.data = JSON.parse(fs.readFileSync({json.dumps(str(folder / 'data.json'))}));",
        "const input = JSON.parse(fs.readFileSync(0));",
        f"process.stdout.write(JSON.stringify(({ASK.strip()})(input)));",
    ]
    (folder / "ask.js").write_text("\n".join(lines))

    def asked(given: Any) -> Any:
        done = subprocess.run(
            [node, str(folder / "ask.js")], input=json.dumps(given), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout)

    return asked
