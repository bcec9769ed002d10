"""The verbs that look at many compositions: matrix and compare; and what they count with."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from typer.testing import CliRunner

from wamkit.cli import app
from wamkit.config.spec import parse, read
from wamkit.policy.cost import Counter, cost, zero_inputs
from wamkit.policy.policy import Policy
from wamkit.testing.fixtures import observation

ROOT = Path(__file__).parent.parent
TOY = str(ROOT / "examples" / "toy.toml")
SMALL = ROOT / "tests" / "data" / "small.toml"
ONLY = ["--backbone", "toy", "--backbone", "timm_vit", "--action-head", "mot"]


def run(*args: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, list(args))
    return done.exit_code, done.stdout, done.stderr


def test_the_matrix_is_a_table_with_the_reasons_below(tmp_path: Path) -> None:
    out = tmp_path / "matrix.md"
    code, text, _ = run("matrix", *ONLY, "--out", str(out))
    assert code == 0 and "toy" in text and "fit; a number is the reason of a refusal" in text
    table = out.read_text()
    assert table.startswith("| backbone | action head | ")
    assert "| toy | mot | " in table and "refused (1)" in table and "Hint: " in table


def test_the_matrix_is_data_as_well(tmp_path: Path) -> None:
    out = tmp_path / "matrix.json"
    code, text, _ = run("matrix", *ONLY, "--out", str(out), "--json")
    data = json.loads(text)
    assert code == 0 and data == json.loads(out.read_text())
    assert data["runs"] + data["refused"] == len(data["cells"])
    refused = [cell for cell in data["cells"] if not cell["runs"]]
    assert refused and all(c["conflicts"][0]["hint"] for c in refused)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["matrix", "--backbone", "toi"], "toy"),  # codespell:ignore toi
        (["matrix", "--out", "x.csv"], "neither .md nor .json"),
        (["compare", TOY, "--plot", "x.jpg"], "neither .svg nor .png"),
        (["compare", "nothing.toml"], "no spec at nothing.toml"),
        (["compare", TOY, "--set", "action_head.width=x"], "action_head.width"),
    ],
)
def test_mistakes_end_with_a_message(args: list[str], message: str) -> None:
    code, _, err = run(*args)
    assert code == 2 and message in err and "Traceback" not in err


def test_specs_are_compared_in_a_table_and_an_image(tmp_path: Path) -> None:
    plot = tmp_path / "compare.svg"
    other = tmp_path / "wide.toml"
    other.write_text(SMALL.read_text().replace("\nwidth = 16", "\nwidth = 32"))
    code, text, err = run("compare", str(SMALL), str(other), "--plot", str(plot))
    assert code == 0 and "small" in text and "wide" in text and "median of 5" in err
    ElementTree.fromstring(plot.read_text())
    assert "GB moved a chunk" in plot.read_text()  # traffic, which is not memory
    code, text, _ = run("compare", str(SMALL), str(other), "--no-measure", "--json")
    one, two = json.loads(text)["policies"]
    assert one["milliseconds"] is None and one["passes"] == two["passes"] == 11
    assert one["total"] < two["total"] and one["operations"] < two["operations"]


@torch.no_grad()
def test_the_cost_counted_without_weights_is_that_of_the_real_policy() -> None:
    spec = parse(read(SMALL))
    policy, found = Policy.from_spec(spec), cost(spec)
    inputs, counts = zero_inputs(spec, policy.action_head, "cpu"), []
    for text in (inputs.text, inputs.text.with_fresh_chunk_cache()):
        with Counter() as counter:
            policy.paradigm.act(
                policy.model, inputs.with_(text=text), policy.schedules, torch.Generator()
            )
        counts.append(counter.operations)
    assert found.stages["act"] == counts[1] > 0
    assert counts[1] < counts[0]  # what follows from the words alone is not computed again
    assert found.passes == 1 + spec.schedules.action.steps
    assert policy.act(observation(spec, batch=1)).values.isfinite().all()


def test_operations_of_a_matrix_product_are_two_for_each_pair() -> None:
    with Counter() as counter:
        torch.zeros(3, 4) @ torch.zeros(4, 5)
    assert counter.operations == 2 * 3 * 4 * 5
    assert counter.bytes == 4 * (3 * 4 + 4 * 5 + 3 * 5)
