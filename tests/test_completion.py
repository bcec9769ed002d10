"""What a shell offers while one types, through the environment variables that shells set."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wamkit.cli._completion import (
    complete_behind,
    complete_folder,
    complete_policy,
    complete_spec,
    join_words,
)
from wamkit.cli._env_options import complete_environment

ROOT = Path(__file__).parent.parent


def completed(typed: str) -> list[str]:
    """What zsh is offered behind `typed`, in this process."""
    from contextlib import redirect_stdout
    from io import StringIO

    from wamkit.cli import app

    args = {"_WAMKIT_COMPLETE": "complete_fish", "_TYPER_COMPLETE_ARGS": typed}
    args["_TYPER_COMPLETE_FISH_ACTION"] = "get-args"
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as printed:
        for key, value in args.items():
            patch.setenv(key, value)
        with pytest.raises(SystemExit):
            app(prog_name="wamkit")
    return [line.partition("\t")[0] for line in printed.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("typed", "some", "never"),
    [
        ("wamkit compose --backbone l", ["ltx", "ltx2"], "wan"),
        ("wamkit compose --backbone ltx:0", ["ltx:0.9-2b", "ltx:0.9.7-13b"], "ltx:tiny"),
        ("wamkit compose --text t5", ["t5-xxl", "t5-11b"], "bytes"),
        ("wamkit compose --swap para", ["paradigm="], "backbone="),
        ("wamkit compose --swap paradigm=j", ["paradigm=joint"], "paradigm=idm"),
        (
            "wamkit compose --backbone ltx --set backbone.ca",
            ["backbone.causal_times="],
            "vae.name=",
        ),
        ("wamkit check examples/toy.toml --set action_head.mlp", ["action_head.mlp_dim="], "seed="),
        ("wamkit explain --set vae.adapter=", ["vae.adapter=none", "vae.adapter=linear"], "x"),
        ("wamkit explain --set vae.name=wan", ["vae.name=wan2.1", "vae.name=wan2.2"], "x"),
        ("wamkit explain --set schedules.action.st", ["schedules.action.steps="], "x"),
        ("wamkit explain --set cameras.views.0.f", ["cameras.views.0.flip="], "x"),
        ("wamkit show backbone ltx --set var", ["variant="], "name="),
        ("wamkit show backbone ltx --set variant=0", ["variant=0.9-2b"], "variant=tiny"),
        ("wamkit matrix --action-head re", ["reader", "regression"], "mot"),
        ("wamkit train --train parts.backbone.f", ["parts.backbone.freeze="], "steps="),
        ("wamkit sweep --vary sch", ["schedules.action.steps="], "vae.name="),
        ("wamkit sweep --vary schedules.action.st", ["schedules.action.steps="], "seed="),
        ("wamkit sweep --vary paradigm=j", ["paradigm=joint"], "paradigm=idm"),
        ("wamkit sweep --vary paradigm=joint,i", ["paradigm=joint,idm"], "paradigm=joint,joint"),
        ("wamkit sweep --vary vae.adapter=none,", ["vae.adapter=none,linear"], "vae.adapter=none"),
        ("wamkit sweep --vary train.st", ["train.steps="], "train.seed="),
        ("wamkit sweep --vary train.precision=", ["train.precision=bfloat16"], "train.steps="),
        ("wamkit demo --task pu", ["pusht"], "metaworld"),
        ("wamkit demo --paradigm ", ["single_pass", "all"], "mot"),
        ("wamkit fit --gpu h", ["h100", "h200"], "here"),
        ("wamkit estimate --gpu h", ["h100", "here"], "a100"),
        ("wamkit compose --layout side", ["side_by_side"], "stacked"),
        ("wamkit weights convert --part backbone:w", ["backbone:wan"], "vae:wan2.1"),
        ("wamkit eval --env pu", ["pusht"], "metaworld"),
    ],
)
def test_names_variants_keys_and_values_are_completed(
    typed: str, some: list[str], never: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    found = completed(typed)
    assert set(some) <= set(found) and never not in found


def test_specs_folders_and_what_acts_without_one_are_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").mkdir()
    for name in ("a.toml", "b.yaml", "c.txt", "examples/toy.toml"):
        (tmp_path / name).touch()
    assert complete_spec("") == ["examples/", "a.toml", "b.yaml", "examples/toy.toml"]
    assert complete_spec("examples/t") == ["examples/toy.toml"]
    assert complete_folder("ex") == ["examples/"] and complete_folder("no/where") == []
    assert complete_policy("r") == ["random"]


def test_tasks_of_an_environment_are_completed_behind_its_name() -> None:
    tasks = complete_environment("metaworld:reach")
    assert tasks and all(task.startswith("metaworld:reach") for task in tasks)


@pytest.mark.parametrize(
    ("typed", "place", "lead", "joined"),
    [
        ("wamkit show backbone", 2, "", "wamkit show backbone"),
        ("wamkit compose --backbone ltx :", 4, "ltx:", "wamkit compose --backbone ltx:"),
        ("wamkit compose --backbone ltx : 0", 5, "ltx:", "wamkit compose --backbone ltx:0"),
        ("wamkit compose --swap vae = ltx : 0", 7, "vae=ltx:", "wamkit compose --swap vae=ltx:0"),
    ],
)
def test_words_that_bash_splits_are_put_together(
    typed: str, place: int, lead: str, joined: str
) -> None:
    environ = {"_WAMKIT_COMPLETE": "complete_bash", "COMP_CWORD": str(place)}
    environ["COMP_WORDS"] = "\n".join(typed.split())
    assert join_words(environ) == lead
    assert environ["COMP_WORDS"].split() == joined.split()
    assert int(environ["COMP_CWORD"]) == len(joined.split()) - 1
    assert join_words({"COMP_WORDS": typed}) == ""


def _end_after(line: str) -> None:
    print(line)
    sys.exit(0)


def test_bash_gets_what_stands_behind_the_colon(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        complete_behind("ltx:", lambda: _end_after("ltx:0.9-2b"))
    assert capfd.readouterr().out == "0.9-2b\n"


def test_completion_imports_no_torch_and_can_be_installed(tmp_path: Path) -> None:
    script = "import sys; from wamkit.cli import main\ntry: main()\nexcept SystemExit: pass\n"
    script += "print('torch' in sys.modules, file=sys.stderr)"
    typed = {"COMP_WORDS": "wamkit\ncompose\n--backbone\nltx\n:\n0", "COMP_CWORD": "5"}
    run = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **typed, "_WAMKIT_COMPLETE": "complete_bash"},
        capture_output=True,
        text=True,
    )
    assert run.stdout.split() == ["0.9-2b", "0.9.7-13b"] and run.stderr.strip() == "False"
    args = [sys.executable, "-m", "wamkit", "--install-completion", "bash"]
    # The shell that runs the tests is not looked for: in the background there may be none.
    named = {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    run = subprocess.run(args, env={**os.environ, **named}, capture_output=True)
    assert run.returncode == 0, run.stderr
    assert (
        "_WAMKIT_COMPLETE=complete_bash"
        in (tmp_path / ".bash_completions" / "wamkit.sh").read_text()
    )
