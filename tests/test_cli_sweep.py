"""`wamkit sweep`: the grid, what is refused, what runs, and what is kept when it runs again."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from specs import TOY

from wamkit.cli.sweep import execution, records, runs
from wamkit.cli.sweep.cells import counts_line
from wamkit.cli.sweep.grid import Axis, axes_of, points_of, short_names, split_values
from wamkit.cli.sweep.records import Record
from wamkit.config.spec import parse, read
from wamkit.errors import WamkitError
from wamkit.testing.dataset import record

Run = Callable[..., tuple[int, str, str]]
STEPS = ("--vary", "schedules.action.steps=1,2")
needs_plots = pytest.mark.skipif(not find_spec("matplotlib"), reason="matplotlib is not installed")


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    file = tmp_path / "toy.toml"
    file.write_text(TOY)
    return file


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """The verbs that a sweep runs, none of which does anything; tests say what becomes of them."""
    made: list[tuple[str, list[str]]] = []

    def run(folder: Path, verb: str, args: list[str], same: str, *_: Any) -> Record:
        made.append((verb, [*args]))
        found = Record(identity=same, state="done", seconds=2.0, report=REPORTS[verb])
        records.write_record(folder, verb, found)
        return found

    monkeypatch.setattr(execution, "run", run)
    return made


REPORTS: dict[str, dict[str, Any]] = {
    "train": {"loss": 0.5, "samples_per_second": 3.0},
    "bench": {"chunk": {"median_ms": 4.0}, "max_control_hz": 9.0, "peak_bytes": 2e9},
    "eval": {"success_rate": 0.5, "return": 1.0, "interval_95": [0.2, 0.8]},
}


def cells(out: Path, verb: str) -> list[dict[str, Any]]:
    """The cells in the results of a sweep."""
    found = json.loads((out / f"{verb}.json").read_text())
    assert found["schema_version"] == 1
    return list(found["cells"])


def test_values_are_split_at_commas_outside_of_brackets_and_quotes() -> None:
    assert split_values("1,2.5, x ") == ("1", "2.5", "x")
    assert split_values('[1,2],{a = "x,y"},"p,q"') == ("[1,2]", '{a = "x,y"}', '"p,q"')


def test_the_grid_is_every_combination_or_with_zip_one_after_the_other() -> None:
    axes = axes_of(["schedules.action.steps=1,2", "paradigm=joint,idm"])
    labels = [point.label for point in points_of(axes, zipped=False)]
    assert labels == [
        "steps=1, paradigm=joint", "steps=1, paradigm=idm",
        "steps=2, paradigm=joint", "steps=2, paradigm=idm",
    ]  # fmt: skip
    zipped = points_of(axes, zipped=True)
    assert [p.label for p in zipped] == ["steps=1, paradigm=joint", "steps=2, paradigm=idm"]
    assert zipped[0].folder == "steps=1_paradigm=joint"
    assert zipped[0].overrides == ["schedules.action.steps=1", "paradigm=joint"]
    (point,) = points_of([Axis("train.lr", ("1e-3",))], zipped=False)
    assert point.overrides == [] and point.training == ["lr=1e-3"]


def test_folders_have_plain_names_that_differ() -> None:
    axes = axes_of(['text_encoder.prompt_template="a/b {instruction}","a b {instruction}"'])
    one, other = (point.folder for point in points_of(axes, zipped=False))
    assert one != other and "/" not in one + other and " " not in one + other


def test_keys_are_as_long_as_needed_to_differ() -> None:
    keys = ["schedules.action.steps", "schedules.video.steps", "seed"]
    assert short_names(keys) == dict(
        zip(keys, ["action.steps", "video.steps", "seed"], strict=True)
    )


@pytest.mark.parametrize(
    ("texts", "zipped", "what"),
    [
        (["seed"], False, "is not of the form KEY=VALUE"),
        (["=1"], False, "is not of the form KEY=VALUE"),
        (["seed=1,,2"], False, "has an empty value"),
        (["seed=1,1"], False, "has the value 1 twice"),
        (["seed=1", "seed=2"], False, "is given twice"),
        (["seed=1,2", "dtype=float32"], True, "seed has 2, dtype has 1"),
        (["seed=" + ",".join(map(str, range(1001)))], False, "1,001 cells, at most 1,000"),
        ([], False, "nothing varies"),
    ],
)
def test_axes_that_make_no_grid_are_refused(texts: list[str], zipped: bool, what: str) -> None:
    with pytest.raises(WamkitError, match=what):
        points_of(axes_of(texts), zipped=zipped)


def test_refused_cells_are_listed_with_reasons_and_the_others_go_on(
    wamkit: Run, toy: Path, tmp_path: Path, calls: list[Any]
) -> None:
    out = tmp_path / "sweep"
    vary = ("--vary", "paradigm=joint,image_edit,single_pass", "--vary", "state.size=2,3")
    code, text, _ = wamkit("sweep", toy, *vary, "--run", "bench", "--out", out)
    assert code == 0 and text.startswith("6 cells: 4 fit, 2 do not\n")
    assert "refused: paradigm=image_edit, size=2; paradigm=image_edit, size=3" in text
    assert "hint: " in text
    states = [cell["state"] for cell in cells(out, "bench")]
    assert states == ["done", "done", "refused", "refused", "done", "done"]
    assert len(calls) == 4 and {verb for verb, _ in calls} == {"bench"}
    folder = out / "paradigm=joint_size=3"
    assert [*calls[1][1]] == [str(folder / "spec.toml")]
    assert (
        parse(read(folder / "spec.toml")).dump()
        == parse(read(toy, ["paradigm=joint", "state.size=3"])).dump()
    )
    assert not (out / "paradigm=image_edit_size=2").exists()


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        ("paradigm=joint,nosuch", "no paradigm is called 'nosuch'"),
        ("paradigm.name=joint,jiont", "did you mean 'joint'?"),
        ('backbone=toy,{name="tyo"}', "did you mean 'toy'?"),
        ("vae.adapter=none,linera", "did you mean 'linear'?"),
    ],
)
def test_a_value_that_nothing_admits_is_an_error_and_no_refused_cell(
    wamkit: Run, toy: Path, tmp_path: Path, vary: str, message: str
) -> None:
    out = tmp_path / "out"
    code, text, err = wamkit("sweep", toy, "--vary", vary, "--out", out)
    assert code == 2 and message in err and not text and not out.exists()


def test_counts_of_cells_are_said_in_the_singular_too() -> None:
    assert counts_line(1, 1) == "1 cell: 1 fits"
    assert counts_line(1, 0) == "1 cell: 0 fit, 1 does not"
    assert counts_line(6, 4) == "6 cells: 4 fit, 2 do not"


def test_a_sweep_that_only_checks_runs_nothing(
    wamkit: Run, toy: Path, tmp_path: Path, calls: list[Any]
) -> None:
    code, text, _ = wamkit("sweep", toy, *STEPS, "--out", tmp_path / "out", "--json")
    found = json.loads(text)
    assert (
        code == 0
        and calls == []
        and found == json.loads((tmp_path / "out" / "check.json").read_text())
    )
    assert [cell["state"] for cell in found["cells"]] == ["fits", "fits"]
    assert found["cells"][0]["metrics"]["tokens"] > 0
    assert found["axes"] == {"schedules.action.steps": ["1", "2"]}


def test_finished_cells_are_kept_and_a_wider_grid_adds_to_them(
    wamkit: Run, toy: Path, tmp_path: Path, calls: list[Any]
) -> None:
    typed = ("sweep", toy, "--run", "bench", "--out", tmp_path / "out")
    assert wamkit(*typed, *STEPS)[0] == 0 and len(calls) == 2
    _, text, err = wamkit(*typed, *STEPS)
    assert len(calls) == 2 and "1/2 steps=1: done before, chunk, ms = 4" in err and "9" in text
    wider = ("--vary", "schedules.action.steps=1,2,3")
    assert wamkit(*typed, *wider)[0] == 0 and len(calls) == 3
    code, _, err = wamkit(*typed, *wider, "--set", "seed=4")
    assert code == 2 and len(calls) == 3
    assert "steps=3 hold results of bench with another spec or other options" in err
    code, _, err = wamkit(*typed, *wider, "--", "--iters", "5")
    assert code == 2 and "choose another --out" in err


def test_results_of_another_grid_are_not_replaced(
    wamkit: Run, toy: Path, tmp_path: Path, calls: list[Any]
) -> None:
    out = tmp_path / "out"
    typed = ("sweep", toy, "--run", "bench", "--out", out)
    assert wamkit(*typed, *STEPS)[0] == 0
    before = {file.name: file.read_bytes() for file in out.glob("bench.*")}
    for vary in ("schedules.action.steps=2,3", "state.size=2,3"):
        code, _, err = wamkit(*typed, "--vary", vary)
        assert code == 2 and "results of another grid" in err and "steps=1" in err
        assert "choose another --out" in err
    assert len(calls) == 2
    assert before == {file.name: file.read_bytes() for file in out.glob("bench.*")}
    assert wamkit("sweep", toy, "--vary", "state.size=2,3", "--out", out)[0] == 0  # it only checks


def test_a_cell_that_failed_is_reported_and_run_again(
    wamkit: Run, toy: Path, tmp_path: Path, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = ("sweep", toy, *STEPS, "--run", "bench", "--out", tmp_path / "out")
    plain = execution.run

    def fail(folder: Path, verb: str, args: list[str], same: str, *_: Any) -> Record:
        if "steps=1" in str(folder):
            found = Record(identity=same, state="failed", error="out of luck\nhint: wait")
            records.write_record(folder, verb, found)
            return found
        return plain(folder, verb, args, same, lambda: None)

    monkeypatch.setattr(execution, "run", fail)
    code, _, err = wamkit(*typed)
    assert code == 1 and "1/2 steps=1: failed in" in err and ": out of luck" in err
    assert [cell["state"] for cell in cells(tmp_path / "out", "bench")] == ["failed", "done"]
    monkeypatch.setattr(execution, "run", plain)
    assert wamkit(*typed)[0] == 0 and len(calls) == 2


def test_an_interrupted_sweep_goes_on_with_the_same_command(
    wamkit: Run, toy: Path, tmp_path: Path, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, plain = tmp_path / "out", execution.run
    typed = ("sweep", toy, *STEPS, "--run", "train", "--out", out, "--", "--data", "cups")

    def stop(folder: Path, verb: str, args: list[str], same: str, *_: Any) -> Record:
        (folder / "run" / "checkpoints").mkdir(parents=True)
        found = Record(identity=same, state="interrupted", seconds=1.0)
        records.write_record(folder, verb, found)
        return found

    monkeypatch.setattr(execution, "run", stop)
    code, _, err = wamkit(*typed)
    assert code == 130 and "interrupted: the same command goes on" in err
    assert [cell["state"] for cell in cells(out, "train")] == ["interrupted", "waiting"]
    monkeypatch.setattr(execution, "run", plain)
    assert wamkit(*typed)[0] == 0
    first, second = calls
    assert first[1][-1] == "--resume" and "--resume" not in second[1]
    assert first[1][1:5] == ["--out", str(out / "steps=1" / "run"), "--data", "cups"]


def test_training_settings_vary_with_the_spec(
    wamkit: Run, toy: Path, tmp_path: Path, calls: list[Any]
) -> None:
    typed = ("--vary", "train.lr=1e-4,1e-3", "--run", "train", "--out", tmp_path / "out")
    assert wamkit("sweep", toy, *typed, "--", "--data", "cups")[0] == 0
    assert [args[3:5] for _, args in calls] == [["--train", "lr=1e-4"], ["--train", "lr=1e-3"]]
    code, _, err = wamkit("sweep", toy, "--vary", "train.lr=1,2", "--run", "bench")
    assert code == 2 and "bench trains nothing" in err


def test_eval_plays_what_was_trained_in_the_same_folder(
    wamkit: Run, toy: Path, tmp_path: Path, calls: list[Any]
) -> None:
    typed = ("sweep", toy, *STEPS, "--out", tmp_path, "--run", "eval", "--", "--env", "pusht")
    code, text, _ = wamkit(*typed)
    assert code == 1 and "there is no policy to play" in text and calls == []
    policy = tmp_path / "steps=2" / "run" / "checkpoints" / "step-000001" / "policy"
    policy.mkdir(parents=True)
    (policy / "spec.yaml").write_text("")
    code, text, _ = wamkit(*typed)
    assert code == 0 and [args for _, args in calls] == [
        [str(tmp_path / "steps=2" / "run"), "--env", "pusht"]
    ]
    assert "50% [20%, 80%]" in text
    assert cells(tmp_path, "eval")[1]["success_interval_95"] == [0.2, 0.8]


def test_a_saved_policy_keeps_its_weights(wamkit: Run, tmp_path: Path, calls: list[Any]) -> None:
    from wamkit.files import strict_yaml
    from wamkit.files.documents import parse_toml

    policy = tmp_path / "policy"
    policy.mkdir()
    (policy / "spec.yaml").write_text(strict_yaml.dumps(parse_toml(TOY)))
    typed = ("--set", "seed=1", *STEPS, "--run", "bench", "--out", tmp_path / "out")
    assert wamkit("sweep", policy, *typed)[0] == 0
    assert calls[0][1] == [str(policy), "--set", "seed=1", "--set", "schedules.action.steps=1"]


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (("--run", "train"), "wamkit train does not take the options after `--`: Missing option"),
        (("--run", "bench", "--", "--inters", "3"), "No such option: --inters"),
        (("--run", "bench", "--", "--out", "x"), "--out after `--` is set by the sweep itself"),
        (("--", "--iters", "3"), "--run check takes no option but --tiny"),
        (("--set", "state.size=two"), ""),
    ],
)
def test_a_wrong_command_line_is_refused_before_anything_runs(
    wamkit: Run, toy: Path, tmp_path: Path, calls: list[Any], args: tuple[str, ...], what: str
) -> None:
    code, _, err = wamkit("sweep", toy, *STEPS, "--out", tmp_path / "out", *args)
    assert code == (2 if what else 1) and what in err and calls == []


def test_without_matplotlib_there_is_a_table_and_a_note(
    wamkit: Run, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wamkit.files import plots

    monkeypatch.setattr(plots, "missing_modules", lambda: ["matplotlib"])
    code, _, err = wamkit("sweep", toy, *STEPS, "--out", tmp_path / "out")
    assert code == 0 and "note: no figure: " in err and "pip install" in err
    assert (tmp_path / "out" / "check.md").read_text().startswith("| steps | state | tokens |\n")


@needs_plots
@pytest.mark.parametrize(
    ("vary", "label"),
    [
        (("schedules.action.steps=1,100", "paradigm=joint,idm"), "paradigm=joint"),
        (("paradigm=joint,idm",), "paradigm=idm"),
    ],
    ids=["lines", "bars"],
)
def test_the_figure_shows_every_cell(
    wamkit: Run, toy: Path, tmp_path: Path, vary: tuple[str, ...], label: str
) -> None:
    typed = [word for text in vary for word in ("--vary", text)]
    assert wamkit("sweep", toy, *typed, "--out", tmp_path / "out")[0] == 0
    drawn = (tmp_path / "out" / "check.svg").read_text()
    assert label in drawn and "tokens" in drawn


def test_a_child_is_asked_to_stop_once_and_may_save_its_work(tmp_path: Path) -> None:
    script = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('{}'), sys.exit(130)))\n"
        f"open({str(tmp_path / 'ready')!r}, 'w').close()\n"
        "time.sleep(60)\n"
    )

    def stop() -> None:
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    child = runs.start_child([sys.executable, "-c", script], sys.stderr.fileno())
    threading.Thread(target=stop).start()
    assert runs.wait_for(child) == (b"{}\n", True) and child.returncode == 130


def test_how_far_a_training_run_is_stands_in_its_log(tmp_path: Path) -> None:
    assert runs.last_update(tmp_path) == ""
    (tmp_path / "run").mkdir()
    lines = '{"step": 3, "loss": 0.5}', '{"step": 3, "validation": {"loss": 1}}', '{"step": 4, "lo'
    (tmp_path / "run" / "log.jsonl").write_text("\n".join(lines))
    assert runs.last_update(tmp_path) == "step 3, loss 0.5"


def test_a_verb_that_fails_leaves_its_error_in_the_record(tmp_path: Path) -> None:
    found = runs.run(tmp_path, "bench", ["nosuch.toml"], "x")
    assert found.state == "failed" and found.error == "no spec at nosuch.toml"
    assert records.read_record(tmp_path, "bench") == found


def test_cells_train_and_are_measured(wamkit: Run, toy: Path, tmp_path: Path) -> None:
    record(tmp_path / "cups", parse(read(toy)))
    out, vary = tmp_path / "out", ("--vary", "paradigm=joint,single_pass")
    options = ("--", "--data", tmp_path / "cups", "--steps", "2", "--batch", "2", "--tiny")
    code, text, err = wamkit("sweep", toy, *vary, "--run", "train", "--out", out, *options)
    assert code == 0, text + err
    assert "held-out loss" in text and "2/2 paradigm=single_pass: done in" in err
    for cell in cells(out, "train"):
        assert cell["state"] == "done" and cell["metrics"]["loss"] > 0
        assert (out / cell["folder"] / "run" / "checkpoints" / "last" / "policy").is_dir()
    only = ("--vary", "paradigm=joint", "--run", "bench", "--out", out)
    code, text, err = wamkit("sweep", toy, *only, "--", "--iters", "2", "--tiny")
    assert code == 0, text + err
    assert cells(out, "bench")[0]["metrics"]["chunk_ms"] > 0
