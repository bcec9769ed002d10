"""Every command of docs/evaluation.md runs, on a small suite; a benchmark, as it is typed."""

from __future__ import annotations

import re
import runpy
import shlex
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import rails
from test_suite import plugin  # noqa: F401 (a fixture)

from wamkit.config.suites import suites
from wamkit.policy.policy import Policy

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "evaluation.md").read_text()
SHORTER = ("--suite", "rails", "--episodes", "2", "--processes", "1", "--video-format", "gif")

Run = Callable[..., tuple[int, str, str]]


def test_the_commands_run(wamkit: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("websockets")
    from wamkit.serve.server import Server, address_of, bind, run_in_thread

    monkeypatch.chdir(tmp_path)
    rails.save_policy(tmp_path / "runs" / "arm" / "policy")
    lines = re.findall(r"^wamkit .*", PAGE, re.M)
    assert len(lines) == 9
    with ExitStack() as stack:
        for line in lines:
            args = shlex.split(line)[1:]
            if args[0] == "serve":
                if "--protocol" in args:
                    continue  # tests/test_vla_eval.py serves it
                listener = bind("127.0.0.1", 0)
                stack.enter_context(run_in_thread(Server(Policy.load(args[1])), listener))
                continue
            if args[1].startswith("ws://"):
                args[1] = "ws://{}:{}".format(*address_of(listener))
            if "--suite" in args:
                for option in ("--suite", "--episodes", "--processes"):
                    if option in args:
                        place = args.index(option)
                        del args[place : place + 2]
                args += SHORTER
            code, _, err = wamkit(*args)
            assert code == 0, f"{line}\n{err}"
    for name in ("random", "object", "shards", "remote"):
        assert (tmp_path / "out" / name / "index.html").is_file()


def test_the_suites_are_those_of_the_page() -> None:
    rows = re.findall(r"^\| (`.*?) \| `(\w+)` \|", PAGE, re.M)
    named = {
        suite: env
        for text, env in rows
        for suite in re.findall(r"`(\w+)`", text)
        if suite[0] != "_"
    }
    ours = {"metaworld", "pusht", "libero"}
    found = {s.name: s.environment for s in suites().values() if s.environment in ours}
    ends = ("_lan", "_object", "_swap", "_task")
    more = {
        f"{suite}{end}": "libero" for suite in named for end in ends if f"{suite}{end}" in found
    }
    assert len(more) == 16 and named | more == found


def test_the_benchmark_compares_one_simulator_with_several(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main = runpy.run_path(str(ROOT / "benchmarks" / "batched_evaluation.py"))["main"]
    args = ["--env", "rails", "--task", "never", "--env-arg", "max_steps=9", "--episodes", "3"]
    ratio = main([*args, "--simulators", "2", "--rounds", "1"])
    assert ratio > 0 and "2 simulators are" in capsys.readouterr().out
