"""If one of two processes stops or dies, the other ends with a message, and the run resumes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

SMALL = Path(__file__).parent / "data" / "small.toml"
SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
import wamkit
from wamkit.errors import WamkitError
from wamkit.testing.training import short_run

spec, data, out, how = sys.argv[1:]

def on_step(step, metrics):
    if step == 3 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), getattr(signal, how))

try:
    short_run(wamkit.build(spec), Path(data), Path(out), steps=6, timeout=20, on_step=on_step)
except WamkitError as error:
    print(error.what, error.hint, sep="|")
"""


def _port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.mark.parametrize(
    ("how", "message"),
    [("SIGSTOP", "another one did not answer for 20 s"), ("SIGKILL", "another one ended")],
)
def test_the_process_that_is_left_ends_with_a_message(
    tmp_path: Path, how: str, message: str
) -> None:
    from wamkit.config.spec import parse, read
    from wamkit.testing.training import recordings

    data, run = recordings(tmp_path / "data", parse(read(SMALL))), tmp_path / "run"
    here = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _port(), "WORLD_SIZE": "2"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(SMALL), str(data), str(run), how],
            env=here | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        out, err = started[0].communicate(timeout=300)
    finally:
        started[1].send_signal(signal.SIGKILL)
        started[1].communicate()
    what, hint = out.strip().split("|")
    assert started[0].returncode == 0, err
    assert what == f"process 0 of 2 goes no further: {message}" or what.endswith(message), err
    assert "continue with --resume" in hint and ("timeout=" in hint) is (how == "SIGSTOP")
    assert [p.name for p in (run / "checkpoints").glob("step-*")] == ["step-000002"]
    assert not (run / ".lock").exists()


def test_signals_to_all_processes_of_a_run_end_it_with_a_checkpoint(tmp_path: Path) -> None:
    from wamkit.config.spec import parse, read
    from wamkit.testing.training import recordings
    from wamkit.train.logs import read as lines

    data, run = recordings(tmp_path / "data", parse(read(SMALL))), tmp_path / "run"
    args = ["train", str(SMALL), "--data", str(data), "--out", str(run), "--batch", "2"]
    args += ["--steps", "100000", "--workers", "2", "--train", "log_every=1"]
    args += ["--train", "val_fraction=0"]
    started = subprocess.Popen(
        [sys.executable, "-m", "wamkit", *args],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while started.poll() is None and len(lines(run / "log.jsonl")) < 2:
        time.sleep(0.05)
    os.killpg(started.pid, signal.SIGTERM)
    out, err = started.communicate(timeout=300)
    assert started.returncode == 130, err
    assert "note: SIGTERM: saving step" in err and "go on with the same command and --resume" in out
    assert (run / "checkpoints/last/run.json").is_file()
