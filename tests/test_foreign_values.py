"""Statistics that no data can have, and files that are none, are refused with a message."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from wamkit.config.records import mark, read_manifest, read_record
from wamkit.errors import WamkitError
from wamkit.files.placeholders import refuse_placeholder
from wamkit.policy.actions import read_statistics
from wamkit.train import logs

ROW = {"min": [-1.0], "max": [1.0], "mean": [0.0], "std": [0.5], "q01": [-0.9], "q99": [0.9]}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"q01": [-5.0]}, "q01 -5, which is not in -1 to 1"),
        ({"q99": [5.0]}, "q99 5, which is not in -1 to 1"),
        ({"mean": [1.5]}, "mean 1.5, which is not in -1 to 1"),
    ],
)
def test_statistics_that_no_data_can_have(tmp_path: Path, change: Any, fault: str) -> None:
    file = tmp_path / "statistics.json"
    file.write_text(json.dumps({"action": {**ROW, **change}}))
    with pytest.raises(WamkitError, match=fault):
        read_statistics(file)


def test_a_mean_may_be_rounded_beyond_a_constant(tmp_path: Path) -> None:
    constant = {name: [0.1] for name in ROW} | {"std": [0.0], "mean": [0.1 + 1e-9]}
    file = tmp_path / "statistics.json"
    file.write_text(json.dumps({"action": constant}))
    assert read_statistics(file)["action"].min == (0.1,)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_nothing_is_read_from_pipes_and_devices(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for name in ("pipe", "link"):
        with pytest.raises(WamkitError, match="no regular file"):
            refuse_placeholder(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_no_file_of_a_run_is_read_from_a_pipe_or_a_device(tmp_path: Path) -> None:
    readers: dict[str, Any] = {"run.json": read_record, "files.json": read_manifest}
    readers |= {"log.jsonl": logs.read, "shard.safetensors": mark}
    for name, reader in readers.items():
        os.mkfifo(tmp_path / name)
        (tmp_path / f"zeros-{name}").symlink_to("/dev/zero")
        for place in (tmp_path / name, tmp_path / f"zeros-{name}"):
            with pytest.raises(WamkitError, match="no regular file"):
                reader(place)


@pytest.mark.parametrize("error", [ValueError("math domain error"), IndexError(""), KeyError(1)])
def test_a_text_encoder_that_fails_on_a_prompt_reports_it(error: Exception) -> None:
    transformers_files = pytest.importorskip("wamkit.checkpoints.hf_text_encoder")
    with pytest.raises(WamkitError, match="fails on a prompt"), transformers_files.encoding():
        raise error
    with pytest.raises(MemoryError), transformers_files.encoding():
        raise MemoryError
