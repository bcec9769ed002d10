"""The benchmarks that learn from recordings, stage by stage in reduced form, as they are typed."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from wamkit.config.spec import parse, read
from wamkit.data import LeRobotFolder
from wamkit.errors import WamkitError

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
METAWORLD = pytest.mark.skipif(find_spec("metaworld") is None, reason="metaworld is missing")
SHORT = ("--tasks", "handle-press", "coffee-button")

Run = Callable[..., str]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two demonstrations of each of two tasks."""
    folder = tmp_path_factory.mktemp("recordings") / "tasks"
    main = runpy.run_path(str(BENCHMARKS / "metaworld_tasks.py"))["main"]
    main(["collect", str(folder), *SHORT, "--episodes", "2", "--processes", "1"])
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a benchmark with arguments, and give what it prints."""
    monkeypatch.syspath_prepend(BENCHMARKS)  # as Python does for the script that it runs

    def run(name: str, *arguments: Any) -> str:
        runpy.run_path(str(BENCHMARKS / f"{name}.py"))["main"]([str(a) for a in arguments])
        return str(capsys.readouterr().out)

    return run


def test_the_policy_of_several_tasks_fits_and_can_read_every_instruction() -> None:
    spec = parse(read(BENCHMARKS / "metaworld_tasks.toml"), "several tasks")
    if find_spec("metaworld"):
        script = runpy.run_path(str(BENCHMARKS / "metaworld_tasks.py"))
        instructions = [script["environment"](task).task_instruction for task in script["TASKS"]]
        assert len(set(instructions)) == len(instructions) == 8
        assert max(map(len, instructions)) < spec.text_encoder.max_tokens


@METAWORLD
def test_several_tasks_from_recordings_to_a_judged_policy(
    data: Path, run: Run, tmp_path: Path
) -> None:
    recording = LeRobotFolder(data)
    assert len(recording.episodes) == 4 and len(recording.tasks) == 2
    again = run("metaworld_tasks", "collect", data, *SHORT, "--episodes", 2, "--processes", 1)
    assert re.search(r"\| handle-press \| 2 \| \d+ \| 2 of 2 \| 0\.\d \|", again)
    assert LeRobotFolder(data).fingerprint() == recording.fingerprint()
    found = run("metaworld_tasks", "train", data, "--out", tmp_path / "run", "--tiny")
    assert "| updates x batch | 4 x 8," in found and "samples/s" in found
    policy = tmp_path / "run" / "policy"
    args = ("metaworld_tasks", "evaluate", policy, *SHORT, "--episodes", 1, "--max-steps", 8)
    found = run(*args, "--processes", 1)
    assert re.search(r"\| mean \| 0 of 2 \| 0% \| 0% to \d+% \| 0% \|", found)
    instructions = json.loads(policy.with_name("policy.json").read_text())
    assert list(instructions["tasks"]) == ["handle-press", "coffee-button"]
    assert instructions["tasks"]["handle-press"]["policy"]["seeds"] == [100_000]
    before = policy.with_name("policy.json").stat().st_mtime_ns
    assert run(*args).splitlines()[:5] == found.splitlines()[:5]  # what is known is not played
    assert policy.with_name("policy.json").stat().st_mtime_ns == before


@METAWORLD
def test_recordings_that_take_too_much_are_reported(data: Path, run: Run) -> None:
    args = ("collect", data, *SHORT, "--episodes", 2, "--processes", 1, "--most", 0.01)
    with pytest.raises(WamkitError, match=r"MiB, more than 0\.01"):
        run("metaworld_tasks", *args)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: run it by hand")
def test_without_a_gpu_several_tasks_are_not_trained(run: Run, tmp_path: Path) -> None:
    found = run("metaworld_tasks", "train", tmp_path / "none", "--out", tmp_path / "run")
    assert found.startswith("no GPU: nothing to train\n") and not (tmp_path / "run").exists()


@METAWORLD
def test_video_co_training_is_measured_in_pairs(data: Path, run: Run, tmp_path: Path) -> None:
    args = ("--seeds", 2, "--demonstrations", 2, "--steps", 2, "--batch", 4, "--moments", 8)
    played = ("--env", "metaworld:handle-press-v3", "--env-arg", "max_steps=8", "--episodes", 1)
    file, longer = tmp_path / "found.json", ("--set", "text_encoder.max_length=48")
    found = run("video_helps", data, *args, *played, *longer, "--processes", 1, "--out", file)
    assert len(re.findall(r"^\| [01] \|( \d+\.\d{4} \|){4}", found, re.M)) == 2
    assert re.search(r"^\| error \|.* \| [+-]\d\.\d{4} ±\d+\.\d{4} \|$", found, re.M)
    assert "success: the interval contains 0" in found
    errors = json.loads(file.read_text())["found"]["error"]
    assert errors["actions alone"] != errors["with video"]
    with pytest.raises(WamkitError, match="4 of 4 episodes to learn from leaves none"):
        run("video_helps", data, "--demonstrations", 4)


@METAWORLD
def test_paradigms_are_compared_at_the_same_updates_and_the_same_compute(
    run: Run, tmp_path: Path
) -> None:
    kinds = ("--paradigms", "single_pass", "idm")
    few = ("--seeds", 1, "--demonstrations", 1, "--updates", 4, "--batch", 2, "--episodes", 1)
    args = ("paradigms", "run", tmp_path, *kinds, *few, "--max-steps", 8)
    found = run(*args, "--tasks", "metaworld:handle-press-v3", "--shard", "1/2")
    assert re.findall(r"^(\w+-\w+)-0: updates \(4\): 0, ", found, re.M) == [
        "single_pass-video",
        "idm-video",
    ]
    run(*args, "--tasks", "metaworld:handle-press-v3")
    files = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*/eval-*.json")}
    assert len(files) == 7  # without video a single pass costs less, and gets more updates
    run(*args, "--tasks", "metaworld:handle-press-v3")
    assert {file: file.stat().st_mtime_ns for file in files} == files
    pytest.importorskip("matplotlib")
    plot = tmp_path / "plot.svg"
    table = run("paradigms", "report", tmp_path, *kinds, "--plot", plot)
    assert len(re.findall(r"^\| (single_pass|idm) \| (yes|no) \| 1 \|", table, re.M)) == 4
    assert plot.read_text().startswith("<?xml")
    with pytest.raises(WamkitError, match="choose another folder"):
        run(*args, "--tasks", "metaworld:coffee-button-v3")


@pytest.mark.parametrize(
    ("measure", "differences", "message"),
    [
        ("error", [-0.02, 0.03, -0.01], "contains 0"),
        ("error", [-0.10, -0.11, -0.10], "it is better"),
        ("error", [0.10, 0.11, 0.10], "it is worse"),
        ("success", [0.10, 0.11, 0.10], "it is better"),
        ("success", [0.0, 0.0, 0.0], "contains 0"),
    ],
)
def test_verdicts_follow_from_the_differences(
    measure: str, differences: list[float], message: str
) -> None:
    script = runpy.run_path(str(BENCHMARKS / "video_helps.py"))
    assert message in script["verdict"](measure, differences)


MAKE = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from made_once import made_once

def make(part):
    with open(Path(sys.argv[2], "log"), "a") as log:
        log.write("made\\n")
    part.mkdir()  # fails where a killed process left one
    (part / "values").write_text("whole")
    time.sleep(0.5)

print(made_once(Path(sys.argv[2], "data"), make, 0.05).joinpath("values").read_text())
"""


def test_shards_that_start_together_collect_once(tmp_path: Path) -> None:
    left = tmp_path / "data.part"
    left.mkdir()
    (left / "values").write_text("half")
    command = [sys.executable, "-c", MAKE, str(BENCHMARKS), str(tmp_path)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = [one.communicate()[0].splitlines()[-1] for one in started]
    assert printed == ["whole"] * 3 and not any(one.returncode for one in started)
    assert (tmp_path / "log").read_text() == "made\n"
    assert {file.name for file in tmp_path.iterdir()} == {"data", "log"}
