"""`wamkit eval --suite`: what is played, kept over a kill, merged, shown and refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rails

from wamkit.cli._env_options import complete_suite
from wamkit.config.registry import forget
from wamkit.config.suites import choose_tasks, find_suite
from wamkit.policy.policy import Policy
from wamkit.runtime import SimulatedDelay
from wamkit.simulate import EnvPool
from wamkit.simulate.policy_runner import PolicyRunner, RunningEpisode
from wamkit.simulate.real_time import RealTimeRunner
from wamkit.simulate.suite.actor import PolicyActor

Wamkit = Callable[..., tuple[int, str, str]]
TESTS = Path(__file__).parent


@pytest.fixture(scope="module", autouse=True)
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The plugin is installed for this process and those it starts."""
    folder = tmp_path_factory.mktemp("plugin")
    rails.install(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        paths = [str(folder), str(TESTS), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        forget()
        yield folder
    forget()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rails.save_policy(tmp_path_factory.mktemp("saved") / "policy")


def outcomes(folder: Path) -> list[dict[str, Any]]:
    """The table of an evaluation and its episodes, without what depends on time."""
    found = json.loads((folder / "eval.json").read_text())
    timed = ("seconds", "decision_ms", "film")
    episodes = [{k: v for k, v in e.items() if k not in timed} for e in found["per_episode"]]
    return [*found["tasks"], *episodes]


def lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "episodes.jsonl").read_text() if (folder / "episodes.jsonl").exists() else ""
    return [json.loads(line) for line in text.splitlines(True) if line.endswith("\n")]


def test_a_killed_suite_goes_on_to_the_result_of_an_uninterrupted_one(
    wamkit: Wamkit, saved: Path, tmp_path: Path
) -> None:
    args = ("eval", saved, "--suite", "rails", "--episodes", 7, "--processes", 4, "--films", 0)
    code, _, _ = wamkit(*args, "--out", tmp_path / "whole")
    assert code == 0
    out = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "wamkit", *map(str, args), "--out", str(out)],
        env={**os.environ, rails.PAUSE: "0.05"},
    )
    end = time.monotonic() + 120
    while len(lines(out)) < 4 and time.monotonic() < end and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with (out / "episodes.jsonl").open("ab") as torn:
        torn.write(b'{"task": "near", "epi')  # what a write that was cut short leaves
    played = len(lines(out))
    assert 4 <= played < 21
    code, _, err = wamkit(*args, "--out", out)
    assert code == 0 and f"has {played} episodes already; {21 - played} are left" in err
    keys = [(line["task"], line["episode"]) for line in lines(out)]
    assert len(keys) == len(set(keys)) == 21
    assert outcomes(out) == outcomes(tmp_path / "whole")


def test_an_episode_does_not_depend_on_the_others_of_its_batch(saved: Path) -> None:
    texts = list(rails.Rails.subjects.values())
    runner = PolicyRunner(Policy.load(saved), {"side": "side"}, 4, {})
    actor = PolicyActor(runner, texts)

    def decide(active: list[int]) -> dict[int, Any]:
        running = {}
        for place in active:
            worker = EnvPool(rails.Rails(task=list(rails.Rails.subjects)[place % 3]), apart=False)
            worker.ask(0, "reset", place)
            running[place] = RunningEpisode(place, {0: worker.answer(0)})
        return actor.decide(running, range(6))

    together = decide([0, 1, 2, 3, 4, 5])
    for active in ([2], [0, 3], [5, 1]):
        for place, chunk in decide(active).items():
            assert np.array_equal(chunk, together[place])


def test_late_chunks_do_not_depend_on_the_others_of_their_batch(saved: Path) -> None:
    sizes: list[int] = []

    class Counted(RealTimeRunner):
        def _act(self, seen: Any, seeds: Any, rests: Any, delay: int) -> Any:
            sizes.append(len(seeds))
            return super()._act(seen, seeds, rests, delay)

    def delay(seed: int) -> SimulatedDelay:
        return SimulatedDelay((0.0, 0.2), seed=seed)

    policy = Policy.load(saved)

    def play(places: list[int]) -> dict[int, Any]:
        """Four rounds; the episode in place k is as many rounds shorter as k is odd."""
        actor = PolicyActor(
            Counted(policy, {"side": "side"}, 2, {}, delay, prefix="freeze"),
            list(rails.Rails.subjects.values()),
        )
        running = {}
        for place in places:
            worker = EnvPool(rails.Rails(task=list(rails.Rails.subjects)[place % 3]), apart=False)
            worker.ask(0, "reset", place)
            running[place] = RunningEpisode(place, {0: worker.answer(0)})
        for turn in range(4):
            active = {k: one for k, one in running.items() if turn < 3 or k % 2 == 0}
            if not active:
                break
            for place, chunk in actor.decide(active, range(6)).items():
                one = running[place]
                one.actions += list(chunk)
                one.step += len(chunk)
                one.seen[one.step] = one.seen[0]
        return {place: np.stack(one.actions) for place, one in running.items()}

    together = play([0, 1, 2, 3, 4, 5])
    assert len(sizes) > 4  # there were prefixes of several lengths
    for places in ([2], [0, 3], [5, 1]):
        for place, actions in play(places).items():
            assert np.array_equal(actions, together[place])
    assert set(sizes) == {6}


def test_shards_are_merged_to_the_whole(wamkit: Wamkit, tmp_path: Path) -> None:
    args = ("eval", "random", "--suite", "rails", "--episodes", 3, "--processes", 0)
    args = (*args, "--video-format", "gif")
    assert wamkit(*args, "--out", tmp_path / "whole")[0] == 0
    out = tmp_path / "shards"
    for shard in ("1/2", "2/2"):
        code, text, _ = wamkit(*args, "--out", out, "--shard", shard)
        assert code == 0 and f"shard-{shard[0]}-of-2" in text
    code, text, _ = wamkit("eval", "--merge", out, "--json")
    found = json.loads(text)
    assert code == 0 and found["complete"] and found["episodes"] == 9
    assert outcomes(out) == outcomes(tmp_path / "whole")
    films = {e["film"] for e in found["per_episode"] if e["film"]}
    assert films and films == {file.name for file in (out / "films").iterdir()}
    code, _, err = wamkit(*args, "--out", out)  # nothing is left for the same command
    assert code == 0 and "has 9 episodes already; 0 are left" in err


def test_late_chunks_of_a_suite_are_counted_over_a_kill_and_in_shards(
    wamkit: Wamkit, saved: Path, tmp_path: Path
) -> None:
    late = ("--real-time", "--delay-ms", "50-100,600/4", "--set", "schedules.action.steps=3")
    args = ("eval", saved, "--suite", "rails", "--episodes", 3, "--processes", 0, "--films", 0)
    code, out, err = wamkit(*args, *late, "--out", tmp_path / "whole", "--json")
    assert code == 0, err
    found = json.loads(out)["real_time"]
    assert found["prefix"] == "guided" and found["delay_ms"] == [50, 100]
    assert found["steps"] == sum(e["steps"] for e in json.loads(out)["per_episode"])
    assert found["chunks"] > found["seams"]["seams"] > 3 and found["idle_steps"] > 0
    assert found["largest_jump"] > 0 and found["seams"]["jump"] > 0 and found["seams"]["jerk"] > 0
    assert found["delay_steps"]["max"] == 6 and 1 < found["delay_steps"]["mean"] < 6
    settings = json.loads((tmp_path / "whole" / "settings.json").read_text())["settings"]
    assert settings["policy"]["real_time"]["prefix"] == "guided"

    killed = tmp_path / "killed"
    shutil.copytree(tmp_path / "whole", killed)
    file = killed / "episodes.jsonl"
    file.write_text("".join(file.read_text().splitlines(True)[:4]))
    code, out, _ = wamkit(*args, *late, "--out", killed, "--json")
    assert code == 0 and json.loads(out)["real_time"] == found

    shards = tmp_path / "shards"
    for shard in ("1/2", "2/2"):
        assert wamkit(*args, *late, "--out", shards, "--shard", shard)[0] == 0
    code, out, _ = wamkit("eval", "--merge", shards)
    assert code == 0 and "replace, prefix guided" in out and "seams of chunks" in out
    assert json.loads((shards / "eval.json").read_text())["real_time"] == found
    page = (shards / "index.html").read_text()
    assert "prefix guided" in page and f"{found['seams']['seams']} seams of chunks" in page

    line = json.loads(file.read_text().splitlines()[0])
    line["timing"]["seams"]["totals"] = [0]
    file.write_text(json.dumps(line) + "\n")
    code, _, err = wamkit(*args, *late, "--out", killed)
    assert code == 2 and "line 1, is damaged" in err


def test_a_missing_shard_is_missed(wamkit: Wamkit, tmp_path: Path) -> None:
    args = ("eval", "random", "--suite", "rails", "--episodes", 2, "--processes", 0)
    wamkit(*args, "--films", 0, "--out", tmp_path, "--shard", "2/3")
    code, _, err = wamkit("eval", "--merge", tmp_path)
    assert code == 0 and "4 of 6 episodes are missing" in err
    assert "Incomplete" in (tmp_path / "index.html").read_text()


def test_the_result_records_what_it_was_computed_with(
    wamkit: Wamkit, saved: Path, tmp_path: Path
) -> None:
    args = ("eval", saved, "--suite", "rails", "--episodes", 2, "--processes", 0, "--tasks", "0,2")
    code, text, _ = wamkit(
        *args, "--films", 1, "--video-format", "gif", "--out", tmp_path, "--json"
    )
    found = json.loads(text)
    assert code == 0 and [row["task"] for row in found["tasks"]] == ["near", "never"]
    environment = found["settings"]["environment"]
    assert {"name": "rails", "max_steps": 10, "size": 16}.items() <= environment.items()
    assert "task" not in environment
    policy = found["settings"]["policy"]
    assert len(policy["fingerprint"]) == 32 and policy["execute_steps"] == 2
    assert {"wamkit", "torch", "numpy"} <= found["versions"].keys()
    assert [e["seed"] for e in found["per_episode"]] == [1000, 1001, 1000, 1001]
    page = (tmp_path / "index.html").read_text()
    assert "near" in page and policy["fingerprint"] in page and "http" not in page
    for film in (e["film"] for e in found["per_episode"] if e["film"]):
        assert f'src="films/{film}"' in page and (tmp_path / "films" / film).is_file()


def test_other_settings_are_refused_by_name(wamkit: Wamkit, saved: Path, tmp_path: Path) -> None:
    args = ("eval", saved, "--suite", "one_rail", "--processes", 0, "--films", 0)
    assert wamkit(*args, "--episodes", 1, "--out", tmp_path)[0] == 0
    changed = ("--seed", 5, "--env-arg", "size=8", "--set", "schedules.action.steps=3")
    code, _, err = wamkit(*args, "--episodes", 2, "--out", tmp_path, *changed)
    assert code == 2 and "episodes_per_task was 1 and is 2" in err
    assert "seed was 1000 and is 5" in err and "environment.size was 16 and is 8" in err
    assert "policy.fingerprint was" in err and "choose another --out" in err


@pytest.mark.parametrize(
    ("args", "messages"),
    [
        (("--suite", "rial"), ("there is no suite 'rial'", "did you mean 'rails'")),
        (("--suite", "rails", "--tasks", "1-3"), ("has 3 tasks", "numbers from 0 to 2")),
        (("--suite", "rails", "--tasks", "nera"), ("no task 'nera'", "did you mean 'near'")),
        (("--suite", "rails", "--shard", "3/2"), ("--shard '3/2' is no share",)),
        (("--suite", "rails", "--env", "pusht"), ("several of --env, --suite and --data",)),
        ((), ("none of --env, --suite and --data",)),
        (
            ("--suite", "rails", "--record", "x"),
            ("--record has no meaning for --suite",),
        ),
        (("--env", "pusht", "--shard", "1/2"), ("--shard has no meaning for --env",)),
        (("--suite", "rails", "--execute-steps", 2), ("has no meaning for random",)),
        (("--suite", "rails", "--env-arg", "size=x"), ("size",)),
    ],
)
def test_bad_input_is_answered(
    wamkit: Wamkit, tmp_path: Path, args: tuple[Any, ...], messages: tuple[str, ...]
) -> None:
    place = () if "--env" in args else ("--out", tmp_path / "out")
    code, _, err = wamkit("eval", "random", *args, *(place if args else ()))
    assert code == 2 and all(message in err for message in messages), err
    assert not (tmp_path / "out" / "settings.json").exists()


def test_a_policy_that_does_not_fit_is_refused_with_every_reason(
    wamkit: Wamkit, tmp_path: Path
) -> None:
    other = rails.save_policy(
        tmp_path / "other",
        cameras={"views": [{"name": "a", "size": [16, 16]}, {"name": "b", "size": [16, 16]}]},
        actions={"chunk_size": 4, "control_hz": 10, "groups": [{"name": "dx", "size": 2}]},
    )
    args = ("--suite", "rails", "--processes", 0, "--films", 0, "--out", tmp_path / "out")
    code, _, err = wamkit("eval", other, *args)
    assert code == 2 and "view 'a' looks for camera 'a'" in err
    assert "an action of the policy has 2 values, the environment takes 1: dx" in err


def test_an_instruction_that_is_too_long_is_refused_before_any_episode(
    wamkit: Wamkit, tmp_path: Path
) -> None:
    encoder = {"name": "bytes", "max_length": 8}
    policy = rails.save_policy(tmp_path / "policy", text_encoder=encoder)
    code, _, err = wamkit("eval", policy, "--suite", "rails", "--out", tmp_path / "out")
    assert code == 2 and "the byte encoder takes at most 8" in " ".join(err.split())
    assert not list((tmp_path / "out").glob("episodes.jsonl"))


def test_suites_are_listed_and_completed(wamkit: Wamkit) -> None:
    assert complete_suite("rail") == ["rails"] and "mt10" in complete_suite("")
    assert "suites rails, one_rail" in " ".join(wamkit("list", "environment")[1].split())
    found = json.loads(wamkit("show", "environment", "rails", "--json")[1])
    assert found["suites"]["rails"] == {
        "tasks": ["near", "far", "never"],
        "settings": {"max_steps": 10},
    }
    suite = find_suite("rails")
    assert choose_tasks(suite, []) == [0, 1, 2]
    assert choose_tasks(suite, ["far,0", "1-2"]) == [0, 1, 2]
