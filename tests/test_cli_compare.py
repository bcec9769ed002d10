"""`compare` and `plan` look at everything first, and say what they cannot count on this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from wamkit.cli import app, compare
from wamkit.cli.compare import unique_names
from wamkit.config.spec import read
from wamkit.files.toml_text import toml_text

EXAMPLES = Path(__file__).parent.parent / "examples"
TOY, LTX = EXAMPLES / "toy.toml", EXAMPLES / "fastwam_on_ltx.toml"


def run(*args: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    done = CliRunner().invoke(app, [str(word) for word in args])
    assert done.exception is None or isinstance(done.exception, SystemExit | typer.Exit)
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def without_diffusers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an installation without the extra."""
    for name in [name for name in sys.modules if name.split(".")[0] == "diffusers"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "diffusers", None)


def small(folder: Path, name: str) -> Path:
    """The LTX composition with a small backbone, whose VAE is diffusers' all the same."""
    file = folder / name
    file.write_text(toml_text(read(LTX, ["backbone.layers=2"])))
    return file


def test_every_fault_of_every_spec_is_reported_before_any_is_counted(tmp_path: Path) -> None:
    (tmp_path / "torn.toml").write_text("[backbone\nname = 'toy'")
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(TOY.read_text().replace("chunk_size = 8", "chunks = 8"))
    files = TOY, tmp_path / "nosuch.toml", tmp_path / "torn.toml", wrong
    code, out, err = run("compare", *files, "--no-measure")
    assert code == 2 and out == ""
    assert "3 of 4 specs" in err
    for message in ("no spec at", "torn.toml", "wrong.toml: actions.chunks: no such key"):
        assert message in err


def test_a_part_whose_module_is_missing_costs_no_other_row(
    tmp_path: Path, without_diffusers: None
) -> None:
    file = small(tmp_path, "ltx.toml")
    code, out, err = run("compare", TOY, file, "--no-measure", "--json")
    first, second = json.loads(out)["policies"]
    assert code == 1
    assert first["left_out"] == [] and first["passes"] > 1 and first["parameters"]["vae"] == 0
    assert second["parameters"]["vae"] is None and second["parameters"]["backbone"] > 0
    assert second["operations"] > 0 and "diffusers is not installed" in second["left_out"][0]
    assert "diffusers is not installed" in err
    code, out, err = run("compare", file, "--no-measure")
    assert code == 1 and "?" in out and "ltx: vae: not counted: diffusers" in err


def test_a_part_that_fails_while_it_is_counted_is_reported_in_its_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from wamkit.config.registry import registry

    def fail(*_: object) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(registry().get("paradigm", "joint"), "build", fail)
    code, out, err = run("compare", EXAMPLES / "fastwam_joint.toml", TOY, "--no-measure", "--json")
    first, second = json.loads(out)["policies"]
    assert code == 1 and "out of luck" in err
    assert first["operations"] is None and second["operations"] > 0


def test_plan_and_explain_count_the_rest_where_a_vae_is_missing(
    tmp_path: Path, without_diffusers: None
) -> None:
    file = small(tmp_path, "ltx.toml")
    code, out, err = run("estimate", file)
    assert code == 0 and "total" in out and "vae: not counted: diffusers is not installed" in err
    code, out, err = run("explain", file)
    assert code == 0 and "not counted: diffusers" in out + err
    code, out, err = run("bench", file)
    assert code == 2 and "diffusers" in err and "a bug" not in err


def test_rows_can_be_distinguished(tmp_path: Path) -> None:
    texts = {"a/toy.toml", "b/toy.toml", "b/toy.yaml", "other.toml", "run/best", "run/best.v2"}
    for text in texts:
        (tmp_path / text).parent.mkdir(exist_ok=True)
        (tmp_path / text).write_text("") if "run" not in text else (tmp_path / text).mkdir()
    typed = [*sorted(texts), "a/toy.toml"]
    names = unique_names([tmp_path / text for text in typed])
    assert len(names) == len({*names})
    assert {"a/toy.toml", "b/toy.toml", "toy.yaml", "other", "best", "best.v2"} <= {*names}
    assert names[-1] == "a/toy.toml (2)"


def test_an_interruption_keeps_the_rows_that_are_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, asked = compare.compare_specs, []

    def interrupted(*args: Any) -> Any:
        asked.append(args)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return plain(*args)

    monkeypatch.setattr(compare, "compare_specs", interrupted)
    code, out, err = run("compare", TOY, TOY, "--no-measure", "--json")
    assert code == 130 and [row["name"] for row in json.loads(out)["policies"]] == ["toy"]
    code, out, err = run("compare", TOY, TOY, "--no-measure")
    assert code == 0 and "toy (2)" in out
    asked.clear()
    code, out, err = run("compare", TOY, TOY, "--no-measure")
    assert code == 130 and "toy" in out and "interrupted: these rows were finished, of 2" in err
